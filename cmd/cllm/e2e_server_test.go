package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ollama/ollama/api"

	"cllm/llm/llmtest/tinymodel"
)

// The tests in e2e_test.go and demo_*_test.go run the binary that users run, with the
// real engine and a small model, in folders and on a port of their own.

// command is this test binary run as cllm, without the demo model. It reaches this
// machine alone: at the proxy for all others nobody listens.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1", "OLLAMA_MODELS=", "CLLM_NODEMO=1", "HTTPS_PROXY=http://127.0.0.1:1")
	return cmd
}

// server is a running `cllm serve`.
type server struct {
	cmd    *exec.Cmd
	home   string
	url    string
	client *api.Client
	log    *bytes.Buffer
	exited chan error
}

// serveE2E starts the daemon in home, which is kept if it is given.
func serveE2E(t *testing.T, home string, env ...string) *server {
	t.Helper()
	return startE2E(t, command("serve"), home, env...)
}

// startE2E starts the daemon that cmd is, as serveE2E does.
func startE2E(t *testing.T, cmd *exec.Cmd, home string, env ...string) *server {
	t.Helper()
	if home == "" {
		home = t.TempDir()
	}
	s := &server{cmd: cmd, home: home, url: "http://" + freeAddr(t), log: new(bytes.Buffer), exited: make(chan error, 1)}
	s.cmd.Env = append(append(s.cmd.Env, "HOME="+home, "OLLAMA_HOST="+s.url), env...)
	logs, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		var once sync.Once
		lines := bufio.NewScanner(logs)
		for lines.Scan() {
			fmt.Fprintln(s.log, lines.Text())
			if strings.Contains(lines.Text(), "Listening on") {
				once.Do(func() { close(ready) })
			}
		}
		s.exited <- s.cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		for range s.exited {
		}
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", s.log)
		}
	})
	select {
	case <-ready:
	case err := <-s.exited:
		t.Fatalf("the daemon ended: %v\n%s", err, s.log)
	case <-time.After(30 * time.Second):
		t.Fatal("the daemon is not ready after 30 s")
	}
	base, _ := url.Parse(s.url)
	s.client = api.NewClient(base, http.DefaultClient)
	return s
}

// stop ends the daemon as Ctrl-C does. Its log is whole then.
func (s *server) stop() {
	s.cmd.Process.Signal(os.Interrupt)
	<-s.exited
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// cllm runs one command against the server and returns what it printed.
func (s *server) cllm(stdin string, args ...string) (stdout, stderr string, err error) {
	cmd := command(args...)
	cmd.Env = append(cmd.Env, "HOME="+s.home, "OLLAMA_HOST="+s.url)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func (s *server) must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, errs, err := s.cllm(stdin, args...)
	if err != nil {
		t.Fatalf("cllm %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	}
	return out
}

// createTiny puts the random model into the store with the create command.
func (s *server) createTiny(t *testing.T, name string) {
	t.Helper()
	gguf := filepath.Join(s.home, "tiny.gguf")
	if err := tinymodel.WriteRandom(gguf, tinymodel.Tiny, 1); err != nil {
		t.Fatal(err)
	}
	modelfile := filepath.Join(s.home, "Modelfile")
	text := "FROM ./tiny.gguf\nPARAMETER temperature 0\nPARAMETER num_predict 24\nSYSTEM You are small.\n"
	if err := os.WriteFile(modelfile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s.must(t, "", "create", name, "-f", modelfile)
}

func (s *server) ask(ctx context.Context, model, text string, n int) (string, api.ChatResponse, error) {
	var answer strings.Builder
	var last api.ChatResponse
	req := &api.ChatRequest{
		Model:    model,
		Messages: []api.Message{{Role: "user", Content: text}},
		Options:  map[string]any{"num_predict": n, "temperature": 0},
	}
	err := s.client.Chat(ctx, req, func(r api.ChatResponse) error {
		answer.WriteString(r.Message.Content)
		last = r
		return nil
	})
	return answer.String(), last, err
}
