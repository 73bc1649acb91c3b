package daemon

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"cllm/llm"
	"cllm/llm/llmtest"
	"cllm/modelstore"
)

// fakeLoader gives out fake engines and remembers what became of them.
type fakeLoader struct {
	engine llmtest.Options
	embed  llmtest.EmbedOptions
	size   int64 // of each model
	shared int64 // bytes of size that others with the same weights share
	// before, when set, is called by Load and may wait or fail.
	before func(ctx context.Context, spec LoadSpec, progress func(float32)) error

	mu        sync.Mutex
	specs     []LoadSpec
	engines   []*llmtest.Engine
	embedders []*llmtest.Embedder
	loaded    int
	closed    int
	converted int // schemas
}

func (f *fakeLoader) Load(ctx context.Context, spec LoadSpec, progress func(float32)) (*Loaded, error) {
	f.mu.Lock()
	f.specs = append(f.specs, spec)
	f.mu.Unlock()
	if f.before != nil {
		if err := f.before(ctx, spec, progress); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loaded++
	l := &Loaded{
		Vocab:        llmtest.Vocab{},
		Context:      4096,
		Size:         f.size,
		Weights:      f.shared,
		OpenEmbedder: f.openEmbedder,
		Close: func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.closed++
		},
	}
	if !spec.Embeddings {
		e := llmtest.NewEngine(f.engine)
		f.engines = append(f.engines, e)
		l.Engine = e
	}
	return l, nil
}

func (f *fakeLoader) openEmbedder() (llm.Embedder, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := llmtest.NewEmbedder(f.embed)
	f.embedders = append(f.embedders, e)
	return e, nil
}

func (f *fakeLoader) Quantize(_ context.Context, src, dst, _ string, progress func(done, total int64)) error {
	data, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	progress(1, 2)
	return os.WriteFile(dst, data, 0o644)
}

func (f *fakeLoader) loads() []LoadSpec {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]LoadSpec(nil), f.specs...)
}

func (f *fakeLoader) freed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// check reports what no test may leave behind: engines that live on, weights that
// were not freed once, broken rules.
func (f *fakeLoader) check(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed != f.loaded {
		t.Errorf("%d models were loaded, %d were freed", f.loaded, f.closed)
	}
	for i, e := range f.embedders {
		if !e.Closed() {
			t.Errorf("embedder %d was not closed", i)
		}
		for _, v := range e.Violations() {
			t.Errorf("embedder %d: %s", i, v)
		}
	}
	for i, e := range f.engines {
		if !e.Closed() {
			t.Errorf("engine %d was not closed", i)
		}
		for _, v := range e.Violations() {
			t.Errorf("engine %d: %s", i, v)
		}
	}
}

// testOptions are options for a daemon or residency with plenty of memory.
func testOptions(t *testing.T, l Loader) Options {
	t.Helper()
	o, err := Options{
		Listen: "127.0.0.1:0",
		Models: t.TempDir(),
		Loader: l,
		Log:    slog.New(slog.NewTextHandler(io.Discard, nil)),
		memory: func() memory { return memory{total: 1 << 40, available: 1 << 40} },
	}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// testModel returns a model whose weights are a file of the given size.
func testModel(t *testing.T, name string, size int64) *modelstore.Model {
	t.Helper()
	n, err := modelstore.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "weights")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return &modelstore.Model{Name: n, ModelPath: path}
}

// pipes is a network without sockets, for tests with a clock of their own.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 11434} }

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// dial returns the client's end of a new connection.
func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, syscall.ECONNREFUSED
	}
}

// client returns an HTTP client that dials through the pipes.
func (p *pipes) client(t *testing.T) *http.Client {
	transport := &http.Transport{DialContext: p.dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
