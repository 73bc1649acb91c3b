package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

func TestServersTakeTurns(t *testing.T) {
	var got []string
	for _, s := range plan(3, []load{{Concurrency: 8}, {Concurrency: 16}}, 3) {
		got = append(got, fmt.Sprintf("%d:%c%s/%d", s.repeat, 'A'+rune(s.server), s.load, s.stream-drawRuns))
	}
	want := strings.Fields(`1:A8/0 1:B8/0 1:C8/0 1:A16/1 1:B16/1 1:C16/1
		2:C8/2 2:B8/2 2:A8/2 2:C16/3 2:B16/3 2:A16/3
		3:A8/4 3:B8/4 3:C8/4 3:A16/5 3:B16/5 3:C16/5`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the order (-want +got):\n%s", diff)
	}
}

func TestAServersAPIIsFoundOut(t *testing.T) {
	plain := func(routes map[string]string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, ok := routes[r.URL.Path]
			if !ok {
				http.NotFound(w, r)
				return
			}
			w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	ollama, llama := listen(t, &fake{api: apiOllama}), listen(t, &fake{api: apiOpenAI})
	models := map[string]string{"/v1/models": `{"data":[{"id":"m"}]}`, "/api/tags": `{"models":[{"name":"m"}]}`}
	tests := map[string]struct {
		server Server
		model  string
		want   string // API, version, model
		fails  string
	}{
		"Ollama":                {Server{URL: ollama}, "", "ollama 0.17.4 first:latest", ""},
		"llama-server":          {Server{URL: llama}, "", "openai b6000-abc file.gguf", ""},
		"another of OpenAI's":   {Server{URL: plain(models)}, "", "openai  m", ""},
		"forced to Ollama":      {Server{URL: plain(models), API: apiOllama}, "", "ollama  m", ""},
		"forced to OpenAI":      {Server{URL: llama, API: apiOpenAI}, "", "openai b6000-abc file.gguf", ""},
		"a page for every path": {Server{URL: plain(map[string]string{"/api/version": "<html>", "/props": "<html>", "/v1/models": `{"data":[{"id":"m"}]}`})}, "", "openai  m", ""},
		"a named model":         {Server{URL: ollama}, "second", "ollama 0.17.4 second", ""},
		"no models":             {Server{URL: plain(map[string]string{"/api/version": `{"version":"1"}`, "/api/tags": `{"models":[]}`})}, "", "", "it has none; give it one, or name one with --model"},
		"something else":        {Server{URL: plain(nil)}, "", "", "name its API with ollama+ or openai+"},
		"nothing there":         {Server{URL: "http://127.0.0.1:1"}, "", "", "nothing listens at http://127.0.0.1:1, where the server s should be: start it, or correct the address"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.server.Name = "s"
			found, err := find(t.Context(), http.DefaultClient, test.server, Options{Model: test.model})
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("the error is %v, want %q", err, test.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%s %s %s", found.API, found.Version, found.Model); got != test.want {
				t.Errorf("found %q, want %q", got, test.want)
			}
		})
	}
}

func TestAServerThatCannotAnswerStopsTheRunBeforeItBegins(t *testing.T) {
	f := &fake{api: apiOllama, answer: func(s *speaker) { http.Error(s.w, `{"error":"model runner crashed"}`, 500) }}
	o := small(listen(t, f))
	o.Warmup = 1
	r, err := Run(t.Context(), o)
	if want := "a fails at warm-up request 1 of 1: 500 Internal Server Error: model runner crashed"; r != nil || err == nil || err.Error() != want {
		t.Errorf("the run ends with %v and %v, want %q", r, err, want)
	}
}

func TestOptionsAreReadAndChecked(t *testing.T) {
	servers := map[string]string{
		"cllm=http://h:1":          "cllm http://h:1 ",
		"a=ollama+https://h/base/": "a https://h/base ollama",
		"a=openai+http://h":        "a http://h openai",
		"http://h":                 `"http://h" is not NAME=URL, for example cllm=http://127.0.0.1:11434`,
		"=http://h":                `"=http://h" is not NAME=URL, for example cllm=http://127.0.0.1:11434`,
		"a=h:1":                    `the server a has the address "h:1"; it must begin with http://, https://, ollama+http:// or openai+http://`,
	}
	for text, want := range servers {
		s, err := ParseServer(text)
		got := s.Name + " " + s.URL + " " + s.API
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if l, err := ParseLimits("ttft:1000,e2el:2.5"); err != nil || l != (Limits{TTFT: 1000, E2EL: 2.5}) {
		t.Errorf("limits: %+v, %v", l, err)
	}
	for _, text := range []string{"ttft", "ttft:", "ttft:-1", "itl:3", "ttft:1,", "ttft:inf"} {
		if l, err := ParseLimits(text); err == nil {
			t.Errorf("the limits %q are read as %+v", text, l)
		}
	}
	wrong := map[string]func(*Options){
		"there is no server":            func(o *Options) { o.Servers = nil },
		"two servers are named a":       func(o *Options) { o.Servers = append(o.Servers, o.Servers[0]) },
		"give either --concurrency":     func(o *Options) { o.Rate = []float64{1} },
		"or --rate for an open":         func(o *Options) { o.Concurrency = nil },
		"the concurrency 0":             func(o *Options) { o.Concurrency = []int{0} },
		"the rate -1":                   func(o *Options) { o.Concurrency, o.Rate = nil, []float64{-1} },
		"--requests 0":                  func(o *Options) { o.Requests = 0 },
		"--max-tokens 0":                func(o *Options) { o.MaxTokens = 0 },
		"--prompt-tokens 0":             func(o *Options) { o.PromptTokens = 0 },
		"--shared-prefix 31":            func(o *Options) { o.SharedPrefix = 31 },
		"--repeat 0":                    func(o *Options) { o.Repeat = 0 },
		"--warmup -1":                   func(o *Options) { o.Warmup = -1 },
		"--timeout":                     func(o *Options) { o.Timeout = 0 },
		"--temperature":                 func(o *Options) { o.Temperature = -1 },
		"there is no TTFT and no TPOT":  func(o *Options) { o.Stream, o.Goodput.TTFT = false, 1 },
		"the load 8 is given more than": func(o *Options) { o.Concurrency = []int{8, 8} },
	}
	for want, change := range wrong {
		o := small("http://h")
		change(&o)
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
	}
}

func TestProgressIsOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := small("http://a")
		o.Progress = new(Progress)
		if got := o.Progress.String(); got != "" {
			t.Errorf("before the run: %q", got)
		}
		var lines []string
		f := &fake{api: apiOllama, answer: func(s *speaker) {
			lines = append(lines, o.Progress.String())
			if s.n == 1 {
				http.Error(s.w, "no", http.StatusServiceUnavailable)
				return
			}
			ticks(s)
		}}
		net, stop := newNetwork(map[string]*fake{"a": f})
		defer stop()
		o.Concurrency, o.dial = []int{1}, net.dial
		one(t, o)
		want := []string{
			"1/1: a, 1 clients: 0 of 6 requests", "1/1: a, 1 clients: 1 of 6 requests, 24.2 tokens/s",
			"1/1: a, 1 clients: 2 of 6 requests, 1 failed, 24.2 tokens/s",
		}
		if diff := cmp.Diff(want, lines[:3]); diff != "" {
			t.Errorf("the progress (-want +got):\n%s", diff)
		}
	})
}
