package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ollama/ollama/api"
)

const (
	startTimeout = 5 * time.Minute // to load the model, on a machine that does other things too
	stopTimeout  = 30 * time.Second
)

// serverNames are the servers that can be measured, in the table's order.
var serverNames = []string{"cllm", "llama-server", "ollama", "ollama-parallel"}

// load is so many clients that send so many requests in all.
type load struct{ clients, requests int }

// server is one that is measured.
type server struct {
	name  string
	loads []load
	dir   string // its home, with its model store
	// command is what starts it at a port for so many clients.
	command func(port, clients int) []string
	env     func(clients int) []string
	ready   string // the path that answers 200 when it can be asked
	store   bool   // it takes the model into its store
	logs    string // what its log must say once the model is loaded
	// What the first turn found: the last line of the log that says it, and resident
	// bytes with the model loaded and nothing to do.
	said string
	idle int64
}

// choose returns the servers of the options, in the table's order.
func choose(o options, dir string) []*server {
	own, ollama, parallel := loads(o.concurrency, o.requests), loads(o.ollamaConcurrency, min(o.requests, o.ollamaRequests)),
		loads(o.ollamaConcurrency, min(o.requests, o.parallelRequests))
	serve := func(file string) func(port, clients int) []string {
		return func(port, clients int) []string { return []string{file, "serve"} }
	}
	// Ollama can run without its CPU library, many times slower.
	const library = "loaded CPU backend from"
	all := []*server{
		{name: "cllm", loads: slices.Concat(own, loads(o.queued, o.requests)), command: serve(o.cllm), ready: "/api/version", store: true},
		{name: "llama-server", loads: own, ready: "/health", command: func(port, _ int) []string {
			return []string{
				o.llamaServer, "--host", "127.0.0.1", "--port", strconv.Itoa(port), "--model", o.model, "--no-ui",
				"--parallel", strconv.Itoa(slots), "--ctx-size", strconv.Itoa(slots * 1024), "--threads", strconv.Itoa(runtime.NumCPU()),
			}
		}},
		{name: "ollama", loads: ollama, command: serve(o.ollama), ready: "/api/version", store: true, logs: library},
		{
			name: "ollama-parallel", loads: parallel, command: serve(o.ollama), ready: "/api/version", store: true, logs: library,
			env: func(clients int) []string { return []string{"OLLAMA_NUM_PARALLEL=" + strconv.Itoa(clients)} },
		},
	}
	for _, s := range all {
		s.dir = filepath.Join(dir, s.name)
	}
	return slices.DeleteFunc(all, func(s *server) bool { return !slices.Contains(o.names, s.name) })
}

func loads(concurrency []int, requests int) []load {
	var all []load
	for _, clients := range concurrency {
		all = append(all, loadOf(clients, requests))
	}
	return all
}

// loadOf has 16 requests at most for one client, as they take as long as many more do for
// several; and one for each client that has to wait for a slot.
func loadOf(clients, requests int) load {
	switch {
	case clients == 1:
		requests = min(requests, 16)
	case clients > slots:
		requests = max(requests, clients)
	}
	return load{clients, requests}
}

// model is the file that all servers are measured with.
type model struct{ file, digest string }

func readModel(file string) (model, error) {
	f, err := os.Open(file)
	if err != nil {
		return model{}, err
	}
	defer f.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, f)
	return model{file, fmt.Sprintf("sha256:%x", hash.Sum(nil))}, err
}

// process is a server that runs.
type process struct {
	cmd    *exec.Cmd
	url    string
	log    string
	cancel context.CancelFunc
	exited chan struct{}
	said   string // as in server
	idle   int64
}

// start starts a server and returns when the model is loaded.
func (s *server) start(ctx context.Context, clients int, m model) (*process, error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &process{url: "http://127.0.0.1:" + strconv.Itoa(port), log: filepath.Join(s.dir, "log"), exited: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, p.cancel = context.WithCancel(ctx)
	command := s.command(port, clients)
	p.cmd = exec.CommandContext(ctx, command[0], command[1:]...)
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopTimeout
	p.cmd.Env = append(environment(), "HOME="+s.dir, "OLLAMA_HOST="+p.url, "OLLAMA_MODELS="+filepath.Join(s.dir, "models"))
	if s.env != nil {
		p.cmd.Env = append(p.cmd.Env, s.env(clients)...)
	}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.cancel()
		return nil, fmt.Errorf("%s does not start: %w; make bench builds it", command[0], err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // how it ended is in its log
	}()
	if err := p.prepare(ctx, s, m); err != nil {
		p.stop()
		return nil, p.explain(err)
	}
	return p, nil
}

// environment is ours without the settings of servers: all have their defaults.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "OLLAMA_") || strings.HasPrefix(v, "CLLM_") || strings.HasPrefix(v, "LLAMA_") || strings.HasPrefix(v, "HOME=")
	})
}

// prepare waits for the server, gives it the model if it has a store that lacks it,
// and has it loaded.
func (p *process) prepare(ctx context.Context, s *server, m model) error {
	if err := p.await(ctx, s.ready); err != nil {
		return err
	}
	if s.store {
		base, err := url.Parse(p.url)
		if err != nil {
			return err
		}
		if err := loadModel(ctx, api.NewClient(base, http.DefaultClient), m); err != nil {
			return err
		}
	}
	if err := p.check(s.logs); err != nil {
		return err
	}
	var err error
	p.idle, err = resident(p.cmd.Process.Pid)
	return err
}

// check reads in the log what it must say.
func (p *process) check(must string) error {
	if must == "" {
		return nil
	}
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, must) {
			p.said = strings.TrimSpace(line)
		}
	}
	if p.said == "" {
		return fmt.Errorf("it has loaded the model, but its log does not say %q: its library for this CPU is missing or not found", must)
	}
	return nil
}

// await returns when a path answers 200.
func (p *process) await(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.exited:
			return errors.New("the server has ended before it could be asked")
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", ctx.Err())
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
}

// loadModel puts the model into the store, if it is not there, and loads it.
func loadModel(ctx context.Context, client *api.Client, m model) error {
	const name = "bench"
	if _, err := client.Show(ctx, &api.ShowRequest{Model: name}); err != nil {
		f, err := os.Open(m.file)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := client.CreateBlob(ctx, m.digest, f); err != nil {
			return err
		}
		create := &api.CreateRequest{Model: name, Files: map[string]string{"model.gguf": m.digest}}
		if err := client.Create(ctx, create, func(api.ProgressResponse) error { return nil }); err != nil {
			return err
		}
	}
	return client.Generate(ctx, &api.GenerateRequest{Model: name}, func(api.GenerateResponse) error { return nil })
}

// stop ends the server and waits for its end.
func (p *process) stop() {
	p.cancel()
	<-p.exited
}

// explain adds the end of the server's log to an error.
func (p *process) explain(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	text, _ := os.ReadFile(p.log) // without it the error says less
	const most = 2000
	text = bytes.TrimSpace(text[max(len(text)-most, 0):])
	return fmt.Errorf("%w\nthe end of the server's log:\n%s", err, text)
}

// resident is the memory of a process that is in RAM, in bytes.
func resident(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the kernel does not say how much memory the server uses")
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
