package main

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ollama/ollama/api"

	"cllm/modelstore/demo/demotest"
)

// The tests of the files demo_*_test.go ask the demo model through the daemon. What
// it shall say is read from the corpus that it has learnt, so that they hold for the
// model that is trained next, too.

// serveDemo starts a daemon that has the demo model.
func serveDemo(t *testing.T, env ...string) *server {
	t.Helper()
	s := serveE2E(t, "", append([]string{"CLLM_NODEMO="}, env...)...)
	// So many connections are used at a time, again and again.
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	base, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	s.client = api.NewClient(base, &http.Client{Transport: transport})
	return s
}

func user(text string) api.Message      { return api.Message{Role: "user", Content: text} }
func assistant(text string) api.Message { return api.Message{Role: "assistant", Content: text} }

// longest is more tokens than any answer of the corpus has: what goes on babbles, and
// a test shall fail of it soon.
const longest = 200

// chat asks the demo model. Change changes the request before it is sent.
func (s *server) chat(ctx context.Context, messages []api.Message, change ...func(*api.ChatRequest)) (api.ChatResponse, error) {
	stream := false
	req := &api.ChatRequest{Model: "demo", Messages: messages, Stream: &stream, Options: map[string]any{"num_predict": longest}}
	for _, c := range change {
		c(req)
	}
	var whole api.ChatResponse
	err := s.client.Chat(ctx, req, func(r api.ChatResponse) error {
		whole = r
		return nil
	})
	return whole, err
}

// mustChat fails the test where chat fails.
func (s *server) mustChat(t *testing.T, messages []api.Message, change ...func(*api.ChatRequest)) api.ChatResponse {
	t.Helper()
	r, err := s.chat(t.Context(), messages, change...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// option sets an option of a request.
func option(name string, value any) func(*api.ChatRequest) {
	return func(r *api.ChatRequest) { r.Options[name] = value }
}

// together calls f for 0 to n-1, 64 at a time.
func together(n int, f func(i int)) {
	next := make(chan int)
	var group sync.WaitGroup
	for range min(n, 64) {
		group.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
}

func TestTheFirstRunNeedsNoDownload(t *testing.T) {
	s := serveDemo(t)
	about := demotest.Find(t, demotest.Corpus(t), "about.what")
	if out := s.must(t, "", "run", "demo", about.Questions[0]); strings.TrimSpace(out) != about.Answer {
		t.Errorf("%q is answered with %q, want %q", about.Questions[0], out, about.Answer)
	}
	if out := s.must(t, "", "show", "demo", "--license"); !strings.HasPrefix(out, "MIT License") {
		t.Errorf("the license:\n%s", out)
	}
}

func TestTheDemoModelComesBackUnlessItIsTurnedOff(t *testing.T) {
	s := serveDemo(t)
	s.must(t, "", "rm", "demo")
	if out := s.must(t, "", "list"); strings.Contains(out, "demo") {
		t.Errorf("after rm:\n%s", out)
	}
	s.stop()
	s = serveE2E(t, s.home, "CLLM_NODEMO=1")
	if out := s.must(t, "", "list"); strings.Contains(out, "demo") {
		t.Errorf("with CLLM_NODEMO=1:\n%s", out)
	}
	s.stop()
	s = serveE2E(t, s.home, "CLLM_NODEMO=")
	if out := s.must(t, "", "list"); !strings.Contains(out, "demo:latest") {
		t.Errorf("after the next start:\n%s", out)
	}
}

func TestAUsersModelCalledDemoStays(t *testing.T) {
	s := serveE2E(t, "", "CLLM_NODEMO=1")
	s.createTiny(t, "demo")
	s.stop()
	s = serveE2E(t, s.home, "CLLM_NODEMO=")
	if out := s.must(t, "", "show", "demo", "--system"); strings.TrimSpace(out) != "You are small." {
		t.Errorf("its system text is %q now", out)
	}
}

// damaged is `cllm serve` with one bit of the demo model in the program changed.
func damaged(t *testing.T) *exec.Cmd {
	t.Helper()
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	weights, err := os.ReadFile("../../modelstore/demo/demo.gguf")
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(binary, weights)
	if at < 0 {
		t.Fatal("the demo model is not in the program")
	}
	binary[at+len(weights)-1] ^= 1
	path := filepath.Join(t.TempDir(), "cllm")
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := command("serve")
	cmd.Path = path
	return cmd
}

func TestADamagedDemoModelIsReportedAndTheDaemonServesOthers(t *testing.T) {
	s := startE2E(t, damaged(t), "", "CLLM_NODEMO=")
	if _, errs, err := s.cllm("", "show", "demo"); err == nil || !strings.Contains(errs, "not found") {
		t.Errorf("show demo: %v, %q", err, errs)
	}
	s.createTiny(t, "tiny")
	if answer, last, err := s.ask(t.Context(), "tiny", "hello", 5); err != nil || answer == "" || !last.Done {
		t.Errorf("another model: %q, %v", answer, err)
	}
	s.stop()
	log := s.log.String()
	if !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "the demo model inside of this program is damaged") || !strings.Contains(log, "CLLM_NODEMO=1") {
		t.Errorf("the log does not tell of the damage and the remedy:\n%s", log)
	}
}
