package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// asCommand makes the test binary be cllm, for tests that need a whole process.
const asCommand = "CLLM_TEST_AS_COMMAND"

func init() {
	if os.Getenv(asCommand) != "" {
		main() // exits
	}
}

// request is one request that a daemon got.
type request struct {
	Route string // "POST /api/show"
	Body  string
}

// fakeDaemon plays an Ollama: it answers each route with what the test says and
// writes down what it was asked. A route the test does not name fails the test.
type fakeDaemon struct {
	t   *testing.T
	url string

	mu     sync.Mutex
	routes map[string]http.HandlerFunc
	seen   []request
}

func newDaemon(t *testing.T, routes map[string]http.HandlerFunc) *fakeDaemon {
	t.Helper()
	d := &fakeDaemon{t: t, routes: routes}
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	d.url = server.URL
	t.Setenv("OLLAMA_HOST", d.url)
	t.Setenv("HOME", t.TempDir())
	return d
}

func (d *fakeDaemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		d.t.Errorf("reading the body of %s: %v", r.URL.Path, err)
	}
	route := r.Method + " " + r.URL.Path
	if route == "HEAD /" {
		return
	}
	d.mu.Lock()
	d.seen = append(d.seen, request{route, string(body)})
	answer := d.routes[route]
	d.mu.Unlock()
	if answer == nil {
		d.t.Errorf("unexpected request %s %s", route, body)
		http.NotFound(w, r)
		return
	}
	answer(w, r)
}

// asked returns the bodies that a route got.
func (d *fakeDaemon) asked(route string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var bodies []string
	for _, r := range d.seen {
		if r.Route == route {
			bodies = append(bodies, r.Body)
		}
	}
	return bodies
}

// routesAsked returns the routes in the order they were asked.
func (d *fakeDaemon) routesAsked() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var routes []string
	for _, r := range d.seen {
		routes = append(routes, r.Route)
	}
	return routes
}

// says answers with a body.
func says(body string) http.HandlerFunc { return fails(http.StatusOK, body) }

// fails answers with a status and a body.
func fails(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// streams answers with lines, each flushed.
func streams(lines ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		for _, line := range lines {
			fmt.Fprintln(w, line)
			w.(http.Flusher).Flush()
		}
	}
}

// inTurn answers the first request with the first answer, and so on; the last one
// stays.
func inTurn(answers ...http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		answer := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		mu.Unlock()
		answer(w, r)
	}
}

// result is what a command left behind.
type result struct {
	Out, Err string
	Code     int
}

// cllm runs a command line in this process; none of its ends is a terminal.
func cllm(stdin string, args ...string) result {
	var out, errs bytes.Buffer
	code := run(args, strings.NewReader(stdin), &out, &errs)
	return result{out.String(), errs.String(), code}
}

// cllmProcess runs a command line in a process of its own.
func cllmProcess(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", asCommand+"=1")
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func wantResult(t *testing.T, got, want result) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the command's output (-want +got):\n%s", diff)
	}
}

// wantJSON compares the one body that a route got with JSON text.
func (d *fakeDaemon) wantJSON(route, want string) {
	d.t.Helper()
	bodies := d.asked(route)
	if len(bodies) != 1 {
		d.t.Fatalf("%s was asked %d times, want once", route, len(bodies))
	}
	var got, wanted any
	if err := json.Unmarshal([]byte(bodies[0]), &got); err != nil {
		d.t.Fatalf("%s got %q: %v", route, bodies[0], err)
	}
	if err := json.Unmarshal([]byte(want), &wanted); err != nil {
		d.t.Fatal(err)
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		d.t.Errorf("body of %s (-want +got):\n%s", route, diff)
	}
}

func TestWithoutDaemonEveryClientCommandNamesTheRemedy(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("OLLAMA_HOST", closed.Addr().String())
	closed.Close()
	want := result{Err: "Error: could not connect to ollama server, run 'cllm serve' to start it\n", Code: 1}
	for _, args := range [][]string{
		{"run", "m", "hi"}, {"list"}, {"ls"}, {"ps"}, {"show", "m"}, {"stop", "m"}, {"rm", "m"},
		{"cp", "a", "b"}, {"pull", "m"}, {"push", "m"}, {"create", "m"}, {"signin"}, {"signout"},
	} {
		t.Run(args[0], func(t *testing.T) { wantResult(t, cllm("", args...), want) })
	}
}

func TestVersionComparesClientAndServer(t *testing.T) {
	tests := map[string]struct{ served, want string }{
		"the same":  {`{"version":"0.17.4"}`, "cllm version is 0.17.4\n"},
		"different": {`{"version":"0.33.0"}`, "cllm version is 0.33.0\nWarning: client version is 0.17.4\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			newDaemon(t, map[string]http.HandlerFunc{"GET /api/version": says(test.served)})
			wantResult(t, cllm("", "--version"), result{Out: test.want})
			wantResult(t, cllm("", "-v"), result{Out: test.want})
		})
	}
	t.Run("no daemon", func(t *testing.T) {
		t.Setenv("OLLAMA_HOST", "127.0.0.1:1")
		wantResult(t, cllm("", "-v"), result{
			Out: "Warning: could not connect to a running cllm instance\nWarning: client version is 0.17.4\n",
		})
	})
}

func TestWrongCommandLinesFailWithOneSentence(t *testing.T) {
	newDaemon(t, nil)
	tests := map[string]struct {
		args []string
		want string
	}{
		"unknown command": {[]string{"nope"}, `unknown command "nope" for "cllm"`},
		"unknown flag":    {[]string{"list", "--nope"}, "unknown flag: --nope"},
		"too few":         {[]string{"cp", "a"}, "accepts 2 arg(s), received 1"},
		"too many":        {[]string{"show", "a", "b"}, "accepts 1 arg(s), received 2"},
		"none for rm":     {[]string{"rm"}, "requires at least 1 arg(s), only received 0"},
		"none for run":    {[]string{"run"}, "requires at least 1 arg(s), only received 0"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			wantResult(t, cllm("", test.args...), result{Err: "Error: " + test.want + "\n", Code: 1})
		})
	}
}

func TestHelpListsTheCommandsInOllamasOrderThenBench(t *testing.T) {
	help := cllm("", "help")
	if bare := cllm(""); bare != help {
		t.Errorf("cllm alone differs from cllm help:\n%s", cmp.Diff(help, bare))
	}
	var names []string
	_, list, _ := strings.Cut(help.Out, "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	for line := range strings.Lines(list) {
		names = append(names, strings.Fields(line)[0])
	}
	want := []string{"serve", "create", "show", "run", "stop", "pull", "push", "signin", "signout", "list", "ps", "cp", "rm", "bench", "help"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	if run := cllm("", "help", "run"); !strings.HasSuffix(run.Out, `
Environment Variables:
      OLLAMA_EDITOR              Path to editor for interactive prompt editing (Ctrl+G)
      OLLAMA_HOST                IP Address for the ollama server (default 127.0.0.1:11434)
      OLLAMA_NOHISTORY           Do not preserve readline history
`) {
		t.Errorf("help of run does not end with its environment:\n%s", run.Out)
	}
}

func TestClientNamesItsVersion(t *testing.T) {
	agents := make(chan string, 1)
	newDaemon(t, map[string]http.HandlerFunc{"GET /api/tags": func(w http.ResponseWriter, r *http.Request) {
		agents <- r.UserAgent()
		says(`{"models":[]}`)(w, r)
	}})
	if got := cllm("", "list"); got.Code != 0 {
		t.Fatal(got)
	}
	if agent := <-agents; !strings.HasPrefix(agent, "ollama/0.17.4 ") {
		t.Errorf("User-Agent %q", agent)
	}
}

// testConsole is a console on buffers.
func testConsole() (c *console, out, errs *bytes.Buffer) {
	out, errs = new(bytes.Buffer), new(bytes.Buffer)
	return &console{in: strings.NewReader(""), out: out, err: errs, session: context.Background()}, out, errs
}
