package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
)

func TestBenchMeasuresARealDaemon(t *testing.T) {
	s := serveDemo(t)
	dir := t.TempDir()
	out, errs, err := s.cllm("", "bench", "--requests", "12", "--max-tokens", "8", "--concurrency", "1,4",
		"--server", "cllm="+s.url, "--server", "v1=openai+"+s.url,
		"--json", filepath.Join(dir, "r.json"), "--plot", filepath.Join(dir, "r"))
	if err != nil || errs != "" {
		t.Fatalf("bench: %v\n%s%s", err, out, errs)
	}
	for _, server := range []string{"cllm", "v1"} {
		for _, clients := range []string{"1", "4"} {
			if !regexp.MustCompile(`(?m)^ +` + server + ` +` + clients + ` +12 +0 +\d+ +\d+ +[1-9]`).MatchString(out) {
				t.Errorf("no row has %s with %s clients, 12 requests that succeeded and none that failed:\n%s", server, clients, out)
			}
		}
	}
	var report struct {
		Measurements []struct {
			Server      string
			Completed   int
			EndedEarly  int `json:"ended_early"`
			InputTokens int `json:"total_input_tokens"`
			Tokens      int `json:"total_output_tokens"`
			TTFT, E2EL  struct{ Max float64 }
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "r.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Measurements) != 4 {
		t.Fatalf("%d measurements, want 4", len(report.Measurements))
	}
	for _, m := range report.Measurements {
		// 64 prompt tokens were asked for, of which each word of the demo model has some.
		if m.Completed != 12 || m.EndedEarly == 0 && m.Tokens != 96 || m.Tokens > 96 || m.InputTokens < 12*48 || m.InputTokens > 12*80 {
			t.Errorf("a measurement is %+v", m)
		}
	}
	for _, name := range []string{"r.png", "r.svg"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

// generates plays an Ollama whose replies have one token. Request n after the
// bench's two questions is answered by special, if that is set and n is in it.
func generates(t *testing.T, special map[int64]http.HandlerFunc) {
	t.Helper()
	var n atomic.Int64
	newDaemon(t, map[string]http.HandlerFunc{
		"GET /api/version": says(`{"version":"0.17.4"}`),
		"GET /api/tags":    says(`{"models":[{"name":"m:latest"}]}`),
		"POST /api/generate": func(w http.ResponseWriter, r *http.Request) {
			i := n.Add(1) - 3
			if answer := special[i]; answer != nil {
				answer(w, r)
				return
			}
			words := `70`
			if i == -1 {
				words = `140`
			}
			streams(`{"response":"a","done":false}`, `{"response":"","done":true,"done_reason":"stop","prompt_eval_count":`+words+`,"eval_count":1}`)(w, r)
		},
	})
}

func TestBenchAsksTheDaemonOfTheEnvironmentAndFailsWithARequest(t *testing.T) {
	generates(t, map[int64]http.HandlerFunc{4: fails(503, `{"error":"server busy"}`)})
	got := cllm("", "bench", "--requests", "6", "--concurrency", "2", "--warmup", "0")
	if got.Code != 1 || got.Err != "Error: 1 of 6 requests failed; the reasons are below the tables\n" {
		t.Errorf("exit code %d, %q", got.Code, got.Err)
	}
	for _, want := range []string{"cllm: http://127.0.0.1:", "cllm at 2 clients: 1 failed, HTTP 503: 503 Service Unavailable: server busy\n"} {
		if !strings.Contains(got.Out, want) {
			t.Errorf("the output lacks %q:\n%s", want, got.Out)
		}
	}
}

func TestInterruptedBenchPrintsWhatItHas(t *testing.T) {
	reached := make(chan struct{})
	generates(t, map[int64]http.HandlerFunc{5: func(_ http.ResponseWriter, r *http.Request) {
		close(reached)
		<-r.Context().Done()
	}})
	file := filepath.Join(t.TempDir(), "r.json")
	cmd := command("bench", "--requests", "10", "--concurrency", "1,2", "--warmup", "0", "--json", file)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-reached:
	case err := <-ended:
		t.Fatalf("bench ended before its request 5: %v\n%s", err, errs.String())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := <-ended; !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted || errs.Len() > 0 {
		t.Errorf("bench ended with %v and printed %q, want exit code %d and nothing", err, errs.String(), exitInterrupted)
	}
	if !regexp.MustCompile(`(?m)^ +cllm +1 +5 +0 `).MatchString(out.String()) || !strings.HasSuffix(out.String(), "interrupted: not everything was measured, and what was measured once may not be complete\n") {
		t.Errorf("the output has no row of 5 requests, or does not say that it was interrupted:\n%s", out.String())
	}
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), `"interrupted": true`) {
		t.Errorf("the JSON: %v\n%s", err, text)
	}
}

func TestBenchRefusesWrongFlagsBeforeItAsks(t *testing.T) {
	newDaemon(t, nil)
	for want, args := range map[string][]string{
		"give either --concurrency for a closed loop or --rate for an open one":         {"--rate", "1", "--concurrency", "2"},
		`"x" is not NAME=URL, for example cllm=http://127.0.0.1:11434`:                  {"--server", "x"},
		`the limit "x" is not ttft:MS, tpot:MS or e2el:MS`:                              {"--goodput", "x"},
		`unknown command "x" for "cllm bench"`:                                          {"x"},
		"/ is a folder; give the name of a file":                                        {"--plot", "/"},
		"/no/such/x.json could not be written after the run: no such file or directory": {"--json", "/no/such/x.json"},
	} {
		wantResult(t, cllm("", append([]string{"bench"}, args...)...), result{Err: "Error: " + want + "\n", Code: 1})
	}
}
