package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ollama/ollama/api"
)

func TestAPersonsFirstSession(t *testing.T) {
	s := serveE2E(t, "")
	s.createTiny(t, "tiny")

	if out := s.must(t, "", "list"); !regexp.MustCompile(`(?m)^NAME\s+ID\s+SIZE\s+MODIFIED\s*\ntiny:latest\s+[0-9a-f]{12}\s+\d+ KB\s+`).MatchString(out) {
		t.Errorf("list:\n%s", out)
	}
	if out := s.must(t, "", "show", "tiny"); !strings.Contains(out, "qwen3") || !strings.Contains(out, "You are small.") {
		t.Errorf("show:\n%s", out)
	}
	once := s.must(t, "", "run", "tiny", "hello there")
	if strings.TrimSpace(once) == "" {
		t.Error("run answers nothing")
	}
	if again := s.must(t, "", "run", "tiny", "hello there"); again != once {
		t.Errorf("at temperature 0 the same question has two answers:\n%q\n%q", once, again)
	}
	if piped := s.must(t, "hello there", "run", "tiny"); strings.TrimSpace(piped) == "" {
		t.Error("run answers nothing to a piped prompt")
	}
	if out := s.must(t, "", "ps"); !strings.Contains(out, "tiny:latest") || !strings.Contains(out, "100% CPU") {
		t.Errorf("ps:\n%s", out)
	}
	if out := s.must(t, "", "cp", "tiny", "small"); out != "copied 'tiny' to 'small'\n" {
		t.Errorf("cp printed %q", out)
	}
	s.must(t, "", "stop", "tiny")
	if out := s.must(t, "", "ps"); strings.Contains(out, "tiny") {
		t.Errorf("ps after stop:\n%s", out)
	}
	if out := s.must(t, "", "rm", "tiny"); out != "deleted 'tiny'\n" {
		t.Errorf("rm printed %q", out)
	}
	if answer := s.must(t, "", "run", "small", "hello there"); answer != once {
		t.Errorf("the copy answers %q, the original %q", answer, once)
	}
	if _, errs, err := s.cllm("", "show", "tiny"); err == nil || !strings.Contains(errs, "not found") {
		t.Errorf("show of a deleted model: %v, %q", err, errs)
	}
}

func TestSixtyFourChatsAtOnceAllAnswerAsAlone(t *testing.T) {
	s := serveE2E(t, "")
	s.createTiny(t, "tiny")
	const clients, tokens = 64, 30
	question := func(i int) string { return fmt.Sprintf("question number %d%s", i, strings.Repeat("?", i%5)) }
	alone := make([]string, clients)
	for i := range alone {
		answer, last, err := s.ask(t.Context(), "tiny", question(i), tokens)
		if err != nil || !last.Done || last.EvalCount == 0 {
			t.Fatalf("question %d: %v, %+v", i, err, last)
		}
		alone[i] = answer
	}
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			answer, last, err := s.ask(t.Context(), "tiny", question(i), tokens)
			if err != nil || answer != alone[i] {
				t.Errorf("question %d among others: %v, %q, alone %q", i, err, answer, alone[i])
			}
			if m := last.Metrics; m.TotalDuration <= 0 || m.PromptEvalDuration <= 0 || m.EvalDuration <= 0 || m.PromptEvalCount == 0 {
				t.Errorf("question %d: metrics %+v", i, m)
			}
		})
	}
	group.Wait()
}

func TestAClientThatLeavesFreesTheModel(t *testing.T) {
	s := serveE2E(t, "", "OLLAMA_NUM_PARALLEL=1")
	s.createTiny(t, "tiny")
	ctx, cancel := context.WithCancel(t.Context())
	req := &api.ChatRequest{
		Model:    "tiny",
		Messages: []api.Message{{Role: "user", Content: "never stop"}},
		Options:  map[string]any{"num_predict": -1, "temperature": 0},
	}
	whole := false
	err := s.client.Chat(ctx, req, func(r api.ChatResponse) error {
		cancel()
		whole = r.Done
		return nil
	})
	// Cut inside a line of the answer, Ollama's client gives that half of it as the error.
	halfLine := err != nil && strings.HasPrefix(err.Error(), "{")
	if whole || ctx.Err() == nil || err != nil && !errors.Is(err, context.Canceled) && !halfLine {
		t.Fatalf("the chat was to be cut off: %v, whole %v", err, whole)
	}
	// The only slot is free again, or this would wait for ever.
	if _, last, err := s.ask(t.Context(), "tiny", "next", 5); err != nil || !last.Done {
		t.Errorf("%v, %+v", err, last)
	}
}

func TestTerminationEndsStreamsCleanly(t *testing.T) {
	s := serveE2E(t, "")
	s.createTiny(t, "tiny")
	body := `{"model":"tiny","messages":[{"role":"user","content":"go on"}],"options":{"num_predict":-1}}`
	resp, err := http.Post(s.url+"/api/chat", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() {
		t.Fatal("no first line")
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var last string
	for lines.Scan() {
		last = lines.Text()
	}
	if lines.Err() != nil {
		t.Errorf("the stream was cut: %v", lines.Err())
	}
	var end struct {
		Done  bool
		Error string
	}
	if err := json.Unmarshal([]byte(last), &end); err != nil || !end.Done && end.Error == "" {
		t.Errorf("the stream's last line is %q", last)
	}
	select {
	case err := <-s.exited:
		if err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the daemon still runs 20 s after SIGTERM")
	}
}

func TestAKilledDaemonLosesNothing(t *testing.T) {
	s := serveE2E(t, "")
	s.createTiny(t, "tiny")
	before, _, err := s.ask(t.Context(), "tiny", "hello", 10)
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Process.Kill()
	<-s.exited
	s = serveE2E(t, s.home)
	if after, _, err := s.ask(t.Context(), "tiny", "hello", 10); err != nil || after != before {
		t.Errorf("after the kill %q, %v; before %q", after, err, before)
	}
}

func TestBadModelsAreRefusedAndTheDaemonGoesOn(t *testing.T) {
	s := serveE2E(t, "")
	s.createTiny(t, "tiny")
	good, err := os.ReadFile(filepath.Join(s.home, "tiny.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	garbled := bytes.Clone(good)
	copy(garbled[8:], bytes.Repeat([]byte{0xff}, 64))
	for name, content := range map[string][]byte{
		"empty":     {},
		"text":      []byte("this is no model at all, only a text"),
		"truncated": good[:len(good)/2],
		"garbled":   garbled,
		"unknown":   bytes.ReplaceAll(good, []byte("qwen3"), []byte("nosuc")),
	} {
		gguf := filepath.Join(s.home, name+".gguf")
		modelfile := filepath.Join(s.home, "Modelfile."+name)
		if err := errors.Join(os.WriteFile(gguf, content, 0o644), os.WriteFile(modelfile, []byte("FROM ./"+name+".gguf\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		_, errs, err := s.cllm("", "create", name, "-f", modelfile)
		if err == nil { // Ollama too finds out about the architecture when it loads the model
			_, errs, err = s.cllm("", "run", name, "hello")
		}
		lines := strings.Split(strings.TrimSpace(errs), "\n")
		last := lines[len(lines)-1]
		if err == nil || !strings.HasPrefix(last, "Error: ") {
			t.Errorf("%s: %v, %q", name, err, errs)
		}
		t.Logf("%s: %s", name, last)
		if _, _, err := s.ask(t.Context(), "tiny", "still there?", 3); err != nil {
			t.Fatalf("%s: the daemon no longer answers: %v", name, err)
		}
	}
}

func TestAPortInUseIsSaidInOneSentence(t *testing.T) {
	s := serveE2E(t, "")
	out, err := func() (string, error) {
		cmd := command("serve")
		cmd.Env = append(cmd.Env, "HOME="+t.TempDir(), "OLLAMA_HOST="+s.url)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}()
	last := out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]
	if err == nil || !strings.HasPrefix(last, "Error: ") || !strings.Contains(last, "in use") {
		t.Errorf("%v, %q", err, out)
	}
}

func TestBadRequestsGetOllamasTexts(t *testing.T) {
	s := serveE2E(t, "")
	s.createTiny(t, "tiny")
	long := strings.Repeat("word ", 3000)
	tests := []struct {
		path, body string
		status     int
		want       string
	}{
		{"/api/chat", ``, 400, `{"error":"missing request body"}`},
		{"/api/chat", `{"model":`, 400, `{"error":"unexpected EOF"}`},
		{"/api/chat", `{"model":"nosuch","messages":[{"role":"user","content":"x"}]}`, 404, `{"error":"model 'nosuch' not found"}`},
		{"/api/generate", `{"model":"nosuch","prompt":"x"}`, 404, `{"error":"model 'nosuch' not found"}`},
		{"/api/chat", `{"messages":[]}`, 400, `{"error":"model is required"}`},
		{"/api/generate", `{"model":"tiny","prompt":"x","options":{"num_ctx":"big"}}`, 500, `{"error":"option \"num_ctx\" must be of type integer"}`},
		{"/api/generate", `{"model":"tiny","prompt":"` + long + `","truncate":false,"stream":false,"options":{"num_ctx":64}}`, 400, `{"error":"the input length exceeds the context length"}`},
		{"/api/show", `{"model":"nosuch"}`, 404, `{"error":"model 'nosuch' not found"}`},
		{"/api/nosuch", `{}`, 404, `404 page not found`},
	}
	for _, tt := range tests {
		resp, err := http.Post(s.url+tt.path, "", strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || strings.TrimSpace(string(got)) != tt.want {
			t.Errorf("%s %.60s: %d %s, want %d %s", tt.path, tt.body, resp.StatusCode, got, tt.status, tt.want)
		}
	}
	_, last, err := s.ask(t.Context(), "tiny", long, 3)
	if err != nil || last.PromptEvalCount == 0 {
		t.Errorf("a prompt longer than the context is cut, not refused: %v, %+v", err, last)
	}
	var load api.GenerateResponse
	err = s.client.Generate(t.Context(), &api.GenerateRequest{Model: "tiny"}, func(r api.GenerateResponse) error { load = r; return nil })
	if err != nil || load.DoneReason != "load" || !load.Done {
		t.Errorf("an empty prompt loads the model: %v, %+v", err, load)
	}
}
