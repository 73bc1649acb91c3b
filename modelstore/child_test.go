package modelstore

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"cllm/modelstore/modelstoretest"
)

// A child is a process that has a folder open, does what it is told in lines on its
// stdin, many things at once, and may kill itself at one of its steps.

// order is a line to the child.
type order struct {
	ID           int
	Do           string // "upload", "create", ...; "leave" cancels the order of that ID
	Name, System string
	Digest       string
	Content      []byte
	modelstoretest.Source
}

// report is a line from the child.
type report struct {
	ID      int
	Done    bool // else it is a line of progress
	Error   string
	Missing bool // the error is that there is no such model
}

// TestChild is the process.
func TestChild(t *testing.T) {
	dir := os.Getenv("MODELSTORE_CHILD_DIR")
	if dir == "" {
		t.Skip("runs only as a child of another test")
	}
	s := openChild(t, dir)
	if at, err := strconv.ParseInt(os.Getenv("MODELSTORE_CHILD_DIES_AT"), 10, 64); err == nil {
		var steps atomic.Int64
		hook := func(string) error {
			if steps.Add(1) == at {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // the signal may take a moment
			}
			return nil
		}
		s.blobs.fault, s.manifests.fault = hook, hook
	}
	out := &reporter{out: json.NewEncoder(os.Stdout)}
	var group sync.WaitGroup
	leave := map[int]context.CancelFunc{}
	for in := json.NewDecoder(os.Stdin); ; {
		var o order
		if err := in.Decode(&o); err != nil {
			break
		}
		if o.Do == "leave" {
			leave[o.ID]()
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		leave[o.ID] = cancel
		group.Go(func() {
			defer cancel()
			err := obey(ctx, s, o, func(Progress) { out.say(report{ID: o.ID}) })
			r := report{ID: o.ID, Done: true, Missing: errors.Is(err, ErrNotFound)}
			if err != nil {
				r.Error = err.Error()
			}
			out.say(r)
		})
	}
	group.Wait()
}

type reporter struct {
	mu  sync.Mutex
	out *json.Encoder
}

func (r *reporter) say(line report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.out.Encode(line) // nobody may listen any more
}

// obey does what an order says.
func obey(ctx context.Context, s *Store, o order, progress func(Progress)) error {
	if o.Do == "prune" {
		_, err := s.Prune(ctx)
		return err
	}
	if o.Do == "upload" {
		d, err := ParseDigest(o.Digest)
		if err != nil {
			return err
		}
		return s.WriteBlob(ctx, d, bytes.NewReader(o.Content))
	}
	n, err := ParseName(o.Name)
	if err != nil {
		return err
	}
	switch o.Do {
	case "create":
		return s.Create(ctx, CreateRequest{
			Name: n, From: o.From, Files: o.Files, Adapters: o.Adapters, System: o.System,
			Quantization: o.Quantize, Quantize: fakeQuantizer(s),
		}, progress)
	case "copy":
		from, err := ParseName(o.From)
		if err != nil {
			return err
		}
		return s.Copy(from, n)
	case "delete":
		return s.Delete(n)
	default:
		return obeyPull(ctx, s, n, progress)
	}
}

// child is the parent's end of the process, a modelstoretest.Client.
type child struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	in     io.WriteCloser
	ended  chan struct{} // closed when it is

	mu    sync.Mutex // guards what follows, and writing
	next  int
	calls map[int]*childCall
	gone  bool
}

type childCall struct {
	line func()
	done chan report // gets one, or is closed
}

// startChild starts a child, which kills itself at a step unless that is 0.
func startChild(t *testing.T, dir string, diesAt int64) *child {
	t.Helper()
	c := &child{ended: make(chan struct{}), calls: map[int]*childCall{}}
	c.cmd = exec.Command(os.Args[0], "-test.run=^TestChild$")
	c.cmd.Env = append(os.Environ(), "MODELSTORE_CHILD_DIR="+dir, "MODELSTORE_CRASH_DIR=", "GORACE=atexit_sleep_ms=0")
	if diesAt > 0 {
		c.cmd.Env = append(c.cmd.Env, fmt.Sprint("MODELSTORE_CHILD_DIES_AT=", diesAt))
	}
	c.cmd.Stderr = &c.stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		c.listen(out)
		_ = c.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.ended
	})
	return c
}

// listen hands out what the child says until it is gone.
func (c *child) listen(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var r report
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // of package testing
		}
		c.mu.Lock()
		call := c.calls[r.ID]
		c.mu.Unlock()
		if r.Done {
			call.done <- r
		} else {
			call.line()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	for _, call := range c.calls {
		close(call.done)
	}
}

// end lets the child finish, and returns how it ended.
func (c *child) end() *os.ProcessState {
	c.in.Close()
	<-c.ended
	return c.cmd.ProcessState
}

// call gives an order and waits until it is done or the child is gone.
func (c *child) call(ctx context.Context, o order, line func()) error {
	if line == nil {
		line = func() {}
	}
	call := &childCall{line: line, done: make(chan report, 1)}
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		return modelstoretest.ErrGone
	}
	c.next++
	o.ID = c.next
	c.calls[o.ID] = call
	_ = json.NewEncoder(c.in).Encode(o) // whether it is gone is seen when listening
	c.mu.Unlock()
	defer context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		_ = json.NewEncoder(c.in).Encode(order{ID: o.ID, Do: "leave"})
	})()
	r, ok := <-call.done
	c.mu.Lock()
	delete(c.calls, o.ID)
	c.mu.Unlock()
	switch {
	case !ok:
		return modelstoretest.ErrGone
	case r.Missing:
		return fmt.Errorf("%w: %s", modelstoretest.ErrMissing, r.Error)
	case r.Error != "":
		return errors.New(r.Error)
	}
	return nil
}

func (c *child) Upload(ctx context.Context, digest string, content io.Reader) error {
	b, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	return c.call(ctx, order{Do: "upload", Digest: digest, Content: b}, nil)
}

func (c *child) Create(ctx context.Context, name string, of modelstoretest.Source, system string, line func()) error {
	return c.call(ctx, order{Do: "create", Name: name, Source: of, System: system}, line)
}

func (c *child) Copy(ctx context.Context, from, to string) error {
	return c.call(ctx, order{Do: "copy", Name: to, Source: modelstoretest.Source{From: from}}, nil)
}

func (c *child) Delete(ctx context.Context, name string) error {
	return c.call(ctx, order{Do: "delete", Name: name}, nil)
}

func (c *child) Pull(ctx context.Context, name string, line func()) error {
	return c.call(ctx, order{Do: "pull", Name: name}, line)
}

func (c *child) Prune(ctx context.Context) error { return c.call(ctx, order{Do: "prune"}, nil) }

// stormDir returns a folder, in memory where that can be: a killed process loses
// nothing that it has written, synced or not, and thousands of syncs take minutes.
func stormDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "cllm-store-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// storm returns a storm on the folder's names, and the files that it makes models of.
func storm(t *testing.T, workers int) *modelstoretest.Storm {
	s := &modelstoretest.Storm{
		Names: []string{"a:latest", "b:latest", "me/c:tag"}, Workers: workers, History: modelstoretest.NewHistory(),
	}
	for _, width := range []int{1000, 5000, 20_000, 60_000} {
		s.Weights = append(s.Weights, ggufFile(t, width, untalkative))
	}
	s.Recipes = recipes(t)
	// One pull brings new weights, one brings those that others upload.
	reg := modelstoretest.NewLoopback(t)
	s.Pulls = map[string]modelstoretest.Found{}
	for name, weights := range map[string][]byte{"p:latest": ggufFile(t, 100_000, untalkative), "q:latest": s.Weights[2]} {
		name, found := reg.AddWithSystem(name, weights, "pulled "+name)
		s.Pulls[name] = found
		s.Names = append(s.Names, name)
	}
	slices.Sort(s.Names)
	return s
}

// checkFolder reads the folder, and fails unless it holds whole models that fit the
// history and that the store lists.
func checkFolder(t *testing.T, dir string, h *modelstoretest.History) modelstoretest.Folder {
	t.Helper()
	f, err := modelstoretest.ReadFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range append(f.Broken, h.Check(f.Models)...) {
		t.Error(text)
	}
	list, err := openStore(t, dir).List()
	if err != nil || len(list) != len(f.Models) {
		t.Errorf("%d models are listed, %d are there: %v", len(list), len(f.Models), err)
	}
	for _, e := range list {
		if _, there := f.Models[e.Name.DisplayShortest()]; !there {
			t.Errorf("%s is listed and is not there", e.Name)
		}
	}
	return f
}

// checkPruned ages the folder, prunes it, and fails unless only models are left.
func checkPruned(t *testing.T, dir string) {
	t.Helper()
	ageAll(t, filepath.Join(dir, "blobs"), 2*youngDownload)
	ageAll(t, filepath.Join(dir, "manifests"), 2*youngDownload)
	if _, err := openStore(t, dir).Prune(t.Context()); err != nil {
		t.Error(err)
	}
	f, err := modelstoretest.ReadFolder(dir)
	if err != nil || len(f.Spare)+len(f.Broken) > 0 {
		t.Errorf("after pruning: %v, needless are %q, broken %q", err, f.Spare, f.Broken)
	}
}
