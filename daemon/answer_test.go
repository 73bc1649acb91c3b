package daemon

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/fs/ggml"

	"cllm/llm"
	"cllm/llm/llmtest"
	"cllm/modelstore"
)

// said returns the text of tokens.
func said(tokens []llm.Token) string {
	var b strings.Builder
	for _, t := range tokens {
		b.WriteString(llmtest.Vocab{}.Piece(t))
	}
	return b.String()
}

// saying makes an engine answer a prompt with what script returns for it, and then
// end. A prompt ends with "assistant\n", perhaps with thinking left out.
func saying(script func(prompt string) string) func([]llm.Token) llm.Token {
	return func(history []llm.Token) llm.Token {
		all := said(history)
		answer := all
		if i := strings.LastIndex(all, "assistant\n"); i >= 0 {
			answer = strings.TrimPrefix(all[i+len("assistant\n"):], "<think></think>\n")
		}
		prompt := strings.TrimSuffix(all, answer)
		if script := script(prompt); len(answer) < len(script) {
			return llm.Token(script[len(answer)])
		}
		return llmtest.IMEnd
	}
}

func always(answer string) func(string) string { return func(string) string { return answer } }

// thinkerTemplate is ChatML with thinking and tools.
func thinkerTemplate(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("prompt/testdata/thinker/template.gotmpl")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const (
	chatML    = `{{ range .Messages }}<|im_start|>{{ .Role }}` + "\n" + `{{ .Content }}<|im_end|>` + "\n" + `{{ end }}<|im_start|>assistant` + "\n"
	fillingIn = `{{ if .Suffix }}<pre>{{ .Prompt }}<suf>{{ .Suffix }}<mid>assistant` + "\n" + `{{ else }}{{ .Prompt }}{{ end }}`
)

// testAPI is a daemon that answers with a fake engine.
type testAPI struct {
	*Daemon
	t      testing.TB
	loader *fakeLoader
	url    string
}

// serveFake starts a daemon whose engine says what script says. It has the models
// "plain" (ChatML), "thinker" (ChatML with thinking and tools), "filler" (with
// suffixes) and "embedder" (which can't answer).
func serveFake(t testing.TB, script func(prompt string) string, change ...func(*Options, *llmtest.Options)) *testAPI {
	t.Helper()
	f := &fakeLoader{engine: llmtest.Options{Next: saying(script)}}
	o := Options{
		Listen:    "127.0.0.1:0",
		Models:    t.TempDir(),
		Loader:    f,
		Log:       slog.New(slog.DiscardHandler),
		KeepAlive: 5 * time.Minute,
		Origins:   []string{"http://localhost"},
	}
	for _, c := range change {
		c(&o, &f.engine)
	}
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
		if t, ok := t.(*testing.T); ok {
			f.check(t)
		}
	})
	a := &testAPI{Daemon: d, t: t, loader: f, url: "http://" + d.Addr().String()}
	a.create("plain", modelstore.CreateRequest{Template: chatML})
	a.create("thinker", modelstore.CreateRequest{Template: thinkerTemplate(t), Info: map[string]any{"model_family": "qwen3"}})
	a.create("filler", modelstore.CreateRequest{Template: fillingIn})
	a.createFrom(ggml.KV{"general.architecture": "bert", "bert.pooling_type": uint32(1)}, "embedder", modelstore.CreateRequest{})
	return a
}

func (a *testAPI) create(name string, req modelstore.CreateRequest) {
	a.t.Helper()
	a.createFrom(ggml.KV{"general.architecture": "qwen3"}, name, req)
}

// createFrom makes a model whose weights are a GGUF file without a tensor of use.
func (a *testAPI) createFrom(about ggml.KV, name string, req modelstore.CreateRequest) {
	a.t.Helper()
	path := filepath.Join(a.t.TempDir(), "model.gguf")
	f, err := os.Create(path)
	if err != nil {
		a.t.Fatal(err)
	}
	if err := ggml.WriteGGUF(f, about, []*ggml.Tensor{
		{Name: "output.weight", Shape: []uint64{1}, WriterTo: bytes.NewReader(make([]byte, 4))},
	}); err != nil {
		a.t.Fatal(err)
	}
	f.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		a.t.Fatal(err)
	}
	digest, err := modelstore.ParseDigest(fmt.Sprintf("sha256:%x", sha256.Sum256(data)))
	if err != nil {
		a.t.Fatal(err)
	}
	if err := a.store.WriteBlob(context.Background(), digest, bytes.NewReader(data)); err != nil {
		a.t.Fatal(err)
	}
	if req.Name, err = modelstore.ParseName(name); err != nil {
		a.t.Fatal(err)
	}
	req.Files = map[string]string{"model.gguf": digest.String()}
	if err := a.store.Create(context.Background(), req, func(modelstore.Progress) {}); err != nil {
		a.t.Fatal(err)
	}
}

// response is what came back.
type response struct {
	status int
	header http.Header
	body   string
}

func (a *testAPI) post(path, body string) response {
	a.t.Helper()
	res, err := http.Post(a.url+path, "application/json", strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return response{res.StatusCode, res.Header, string(data)}
}

var (
	variableTimes     = regexp.MustCompile(`"created_at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"`)
	variableDurations = regexp.MustCompile(`"(total|load|prompt_eval|eval)_duration":[1-9]\d*`)
	variableIDs       = regexp.MustCompile(`"call_[a-z0-9]{8}"`)
)

// steady returns a body with what differs from run to run replaced by marks.
func steady(body string) string {
	body = variableTimes.ReplaceAllString(body, `"created_at":T`)
	body = variableDurations.ReplaceAllString(body, `"${1}_duration":D`)
	return variableIDs.ReplaceAllString(body, `ID`)
}

func (r response) want(t testing.TB, status int, contentType, body string) {
	t.Helper()
	if r.status != status {
		t.Errorf("status %d, want %d", r.status, status)
	}
	if got := r.header.Get("Content-Type"); got != contentType {
		t.Errorf("content type %q, want %q", got, contentType)
	}
	if diff := cmp.Diff(body, steady(r.body)); diff != "" {
		t.Error(diff)
	}
}

const (
	typeJSON  = "application/json; charset=utf-8"
	typePlain = "application/json"
)

// total is a stream put together: all text, and the last line without it.
type total struct {
	Content, Thinking, Last string
	Calls                   int
}

// gather reads the lines of a stream of generate or chat.
func gather(t testing.TB, body string) total {
	t.Helper()
	var all total
	lines := strings.SplitAfter(body, "\n")
	if lines[len(lines)-1] != "" {
		t.Errorf("the last line does not end: %q", lines[len(lines)-1])
	}
	for i, line := range lines[:len(lines)-1] {
		var l struct {
			Response, Thinking, Error string
			Message                   struct {
				Content, Thinking string
				ToolCalls         []any `json:"tool_calls"`
			}
			Done bool
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("line %d: %v: %q", i, err, line)
		}
		if last := i == len(lines)-2; l.Done != last && l.Error == "" {
			t.Errorf("line %d of %d has done %v", i+1, len(lines)-1, l.Done)
		}
		all.Content += l.Response + l.Message.Content
		all.Thinking += l.Thinking + l.Message.Thinking
		all.Calls += len(l.Message.ToolCalls)
		all.Last = steady(line)
	}
	return all
}

// gate lets the engine make one token at each step, and go on alone once it is open.
type gate struct {
	steps chan struct{}
	open  func()
}

func newGate() gate {
	g := gate{steps: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.steps) })
	return g
}

func (g gate) step() { g.steps <- struct{}{} }

// gated puts the gate before the engine. A test that uses it defers open.
func gated(g gate) func(*Options, *llmtest.Options) {
	return func(_ *Options, e *llmtest.Options) {
		e.BeforeDecode = func(rows []llm.Row) error {
			if slices.ContainsFunc(rows, func(r llm.Row) bool { return r.Logits }) {
				<-g.steps
			}
			return nil
		}
	}
}

// stream posts a request and returns a reader of its lines.
func (a *testAPI) stream(ctx context.Context, path, body string) (*http.Response, *bufio.Reader) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { res.Body.Close() })
	return res, bufio.NewReader(res.Body)
}

// rendered returns the prompt of a request, whose object is left open, with
// ChatML's marks as spaces.
func (a *testAPI) rendered(path, body string) string {
	a.t.Helper()
	r := a.post(path, body+`,"_debug_render_only":true}`)
	var v struct {
		Info struct {
			Text string `json:"rendered_template"`
		} `json:"_debug_info"`
	}
	if err := json.Unmarshal([]byte(r.body), &v); err != nil || r.status != 200 {
		a.t.Fatalf("%s: %d %s", body, r.status, r.body)
	}
	text := strings.NewReplacer("<|im_start|>", " ", "<|im_end|>", " ").Replace(v.Info.Text)
	return strings.Join(strings.Fields(text), " ")
}

// errorText is the text of a response that is an error and nothing else.
func errorText(t testing.TB, r response) string {
	t.Helper()
	var v map[string]string
	if err := json.Unmarshal([]byte(r.body), &v); err != nil || len(v) != 1 {
		t.Errorf("not an error: %s", r.body)
	}
	return v["error"]
}

// waitFor waits for what happens after an answer has ended.
func waitFor(t testing.TB, what string, happened func() bool) {
	t.Helper()
	tick, deadline := time.NewTicker(time.Millisecond), time.After(10*time.Second)
	defer tick.Stop()
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// messages makes messages of roles and contents in turn.
func messages(rolesAndContents ...string) (all []api.Message) {
	for i := 0; i < len(rolesAndContents); i += 2 {
		all = append(all, api.Message{Role: rolesAndContents[i], Content: rolesAndContents[i+1]})
	}
	return all
}
