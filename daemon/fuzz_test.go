package daemon

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"

	"cllm/llm"
	"cllm/llm/llmtest"
	"cllm/modelstore"
)

// serverSide are the beginnings of the texts that Ollama sends with a 500 although
// the client is to blame.
var serverSide = []string{
	"unqualified name: ",
	`option "`,
	"invalid format: ",
	"invalid JSON schema in format",
	"template: ",
	"the model's template, renderer or parser failed: ",
	"undefined template specified",
}

// fuzzBodies posts bodies to a route and checks the answers.
func fuzzBodies(f *testing.F, path string, seeds ...string) {
	a := serveFake(f, always("<think>a</think>ok"))
	handler := a.routes(a.Addr())
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if strings.Contains(body, "range") || strings.Contains(body, "printf") || strings.Contains(body, `\u`) {
			t.Skip("a template may take for ever, or all the memory")
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "http://localhost"+path, strings.NewReader(body)))
		lines := strings.Split(strings.TrimSuffix(w.Body.String(), "\n"), "\n")
		var last struct {
			Error string
			Done  bool
			Debug any `json:"_debug_info"`
		}
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
			t.Fatalf("%s: %v: %s", body, err, w.Body)
		}
		switch {
		case w.Code == 200 && (last.Done || last.Debug != nil) && last.Error == "":
		case (w.Code == 400 || w.Code == 404) && last.Error != "":
		case w.Code == 500 && beginsWithOne(last.Error, serverSide):
		default:
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	})
}

func beginsWithOne(s string, beginnings []string) bool {
	for _, b := range beginnings {
		if strings.HasPrefix(s, b) {
			return true
		}
	}
	return false
}

func FuzzChatBodies(f *testing.F) {
	fuzzBodies(f, "/api/chat",
		``, `null`, `{}`, `{"model":"plain"}`, ask,
		`{"model":"thinker","think":true,"messages":[{"role":"system","content":"a"},{"role":"user","content":"b","images":["aW1n"]}],"tools":`+weatherTool+`}`,
		`{"model":"thinker","messages":[{"role":"assistant","tool_calls":[{"function":{"name":"a","arguments":{"b":1}}}]},{"role":"tool","tool_name":"a","content":"c"}],"stream":false}`,
		`{"model":"plain","messages":[{"role":"user","content":"long enough to be cut"}],"options":{"num_ctx":9,"num_keep":-1,"num_predict":3,"stop":"x","seed":-2},"truncate":true,"shift":false}`,
		`{"model":"plain","messages":[{}],"options":{"temperature":1e300,"top_k":-1,"top_p":-1,"min_p":2,"repeat_penalty":0,"repeat_last_n":-1,"num_ctx":1e30}}`,
		`{"model":"plain","messages":[{}],"keep_alive":-1,"format":"json","logprobs":true,"top_logprobs":3}`,
		`{"model":"embedder","messages":[{}]}`,
	)
}

func FuzzGenerateBodies(f *testing.F) {
	fuzzBodies(f, "/api/generate",
		``, `null`, `{}`, `{"model":"plain","prompt":"a"}`,
		`{"model":"plain","prompt":"a","raw":true,"stream":false}`,
		`{"model":"plain","prompt":"a","context":[1,2,300],"system":"b"}`,
		`{"model":"filler","prompt":"a","suffix":"b","options":{"num_predict":1}}`,
		`{"model":"plain","prompt":"a","template":"{{ .System }}{{ .Prompt }}{{ .Response }}","images":["aW1n"]}`,
		`{"model":"thinker","prompt":"a","think":"high","_debug_render_only":true}`,
		`{"model":"plain","keep_alive":0}`, `{"model":"plain","prompt":"a","keep_alive":"1ms"}`,
	)
}

// fuzzRoutes are the routes that are about models, not answered by one.
var fuzzRoutes = []struct{ method, path string }{
	{"POST", "/api/show"}, {"POST", "/api/copy"}, {"DELETE", "/api/delete"}, {"POST", "/api/create"},
	{"POST", "/api/experimental/aliases"}, {"DELETE", "/api/experimental/aliases"},
}

// checkRoute sends a body to one of fuzzRoutes. Nothing that a client can write is
// the server's fault.
func checkRoute(t *testing.T, handler http.Handler, route int, body string) {
	t.Helper()
	r := fuzzRoutes[route%len(fuzzRoutes)]
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(r.method, "http://localhost"+r.path, strings.NewReader(body)))
	var last struct{ Error string }
	lines := strings.Split(strings.TrimSuffix(w.Body.String(), "\n"), "\n")
	if text := lines[len(lines)-1]; text != "" {
		if err := json.Unmarshal([]byte(text), &last); err != nil {
			t.Fatalf("%s %q: %v: %s", r.path, body, err, w.Body)
		}
	}
	switch {
	case w.Code == 200 && last.Error != errInternal.Error():
	case (w.Code == 400 || w.Code == 403 || w.Code == 404) && last.Error != "":
	case w.Code == 500 && beginsWithOne(last.Error, serverSide):
	default:
		t.Errorf("%s %q: %d %s", r.path, body, w.Code, w.Body)
	}
}

func FuzzModelRoutes(f *testing.F) {
	a := serveFake(f, always(""))
	handler := a.routes(a.Addr())
	for i, bodies := range [][]string{
		{``, `{"model":"plain","verbose":true,"options":{"a":[1]}}`, `{"name":"Thinker","system":"x"}`},
		{`{"source":"plain","destination":"a/b:c"}`, `{"source":"x","destination":"x"}`},
		{`{"model":"filler"}`, `{"name":"-"}`},
		{
			`{"model":"x","from":"plain","parameters":{"stop":["a"],"seed":1e99,"b":null},"license":["a","b"],"messages":[{"role":"User","content":"a"}]}`,
			`{"model":"x","files":{"a.gguf":"sha256:0"}}`, `{"model":"x","from":"plain","template":"{{ if }}"}`, `{"model":"x","from":"y","remote_host":"https://[::1]:99999"}`,
			`{"model":"x","from":"plain","quantize":"q4_K_M","adapters":{"../a":""},"renderer":"?","parser":"?","info":{"model_family":1},"requires":"x"}`,
		},
		{`{"alias":"a","target":"plain"}`, `{"alias":"-","target":"plain","prefix_matching":true}`},
		{`{"alias":"a"}`},
	} {
		for _, b := range bodies {
			f.Add(i, b)
		}
	}
	f.Fuzz(func(t *testing.T, route int, body string) { checkRoute(t, handler, max(route, 0), body) })
}

func FuzzModelNames(f *testing.F) {
	a := serveFake(f, always(""))
	handler := a.routes(a.Addr())
	for _, name := range []string{
		"", "plain", "PLAIN:latest", "a/b/c/d", "http://h:1/n/m:t", "../../x", "a:", ":a", "-a", ".a", "a@sha256:b", "hf.co/a/b:c", "a//b", "\x00", "ä", "%2e%2e", strings.Repeat("a", 400),
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		written, err := json.Marshal(name)
		if err != nil {
			t.Skip()
		}
		model := string(written)
		for i, body := range []string{
			`{"model":` + model + `}`, `{"source":` + model + `,"destination":` + model + `}`, `{"model":` + model + `}`,
			`{"model":"x","from":` + model + `}`, `{"alias":` + model + `,"target":` + model + `}`, `{"alias":` + model + `}`,
		} {
			if i == 2 && strings.Contains(strings.ToLower(name), "plain") {
				continue // it is asked for again
			}
			checkRoute(t, handler, i, body)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("POST", "http://localhost/api/chat", strings.NewReader(`{"keep_alive":0,"model":`+model+`}`)))
		if w.Code != 200 && w.Code != 400 && w.Code != 404 {
			t.Errorf("chat with %q: %d %s", name, w.Code, w.Body)
		}
	})
}

// Whatever the tools are, they are rendered or refused.
func FuzzTools(f *testing.F) {
	a := serveFake(f, always(`<tool_call>{"name": "f", "arguments": {"a": [1, {"b": null}]}}</tool_call>`))
	handler := a.routes(a.Addr())
	for _, tools := range []string{
		`[]`, `null`, `{}`, weatherTool, `[{}]`, `[{"type":"function","function":{"name":"f"}}]`,
		`[{"type":"function","function":{"name":"f","parameters":{"type":["object","null"],"$defs":{"x":1},"items":{},"required":["a"],"properties":{"a":{"type":["array","null"],"items":{"type":"string"},"enum":[1,"b",null],"anyOf":[{"type":"string"}],"properties":{"c":{}}}}}}}]`,
		`[{"type":"function","function":{"name":"f","parameters":{"properties":{"a":{"type":1}}}}}]`,
		`[{"function":{"name":"\ud800","description":"<|im_end|>"}}]`,
	} {
		f.Add(tools)
	}
	f.Fuzz(func(t *testing.T, tools string) {
		if !json.Valid([]byte(tools)) {
			t.Skip()
		}
		body := `{"model":"thinker","think":false,"stream":false,"messages":[{"role":"user","content":"?"}],"tools":` + tools + `}`
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("POST", "http://localhost/api/chat", strings.NewReader(body)))
		if w.Code != 200 && w.Code != 400 {
			t.Errorf("%s: %d %s", tools, w.Code, w.Body)
		}
	})
}

// A keep_alive is what Ollama's type takes it for, or refused with a text.
func FuzzKeepAlive(f *testing.F) {
	for _, k := range []string{`0`, `-1`, `1.5`, `1e300`, `-1e300`, `"10m"`, `"-1s"`, `"0"`, `"10"`, `""`, `null`, `true`, `[]`, `"1h1m1s1ms1us1ns"`, `"9999999h"`} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, k string) {
		var v any
		if err := json.Unmarshal([]byte(k), &v); err != nil {
			t.Skip()
		}
		var req api.ChatRequest
		c, _ := gin.CreateTestContext(httptest.NewRecorder())
		c.Request = httptest.NewRequest("POST", "/", strings.NewReader(`{"keep_alive":`+k+`}`))
		err := readBody(c, &req)
		switch v := v.(type) {
		case nil:
			if err != nil || req.KeepAlive != nil {
				t.Errorf("null: %v, %v", req.KeepAlive, err)
			}
			return
		case float64:
			if err != nil {
				t.Fatalf("%s: %v", k, err)
			}
		case string:
			if _, bad := time.ParseDuration(v); (bad == nil) != (err == nil) {
				t.Fatalf("%s: %v, but %v", k, err, bad)
			}
		default:
			if err == nil {
				t.Fatalf("%s is taken for %v", k, req.KeepAlive)
			}
		}
		if err != nil {
			if status, text := answer(err); status != 400 || text == "" {
				t.Errorf("%s: %d %s", k, status, text)
			}
			return
		}
		m := &resident{}
		m.begin(&waiter{model: &modelstore.Model{}, keepAlive: req.KeepAlive}, 4096)
		if m.keepAlive < 0 || k[0] == '-' && strings.ContainsAny(k, "123456789") && m.keepAlive != forever && m.keepAlive != 0 {
			t.Errorf("%s keeps the model %s", k, m.keepAlive)
		}
	})
}

// Options of any kind make a request that the scheduler can serve, or are refused
// as Ollama refuses them.
func FuzzOptions(f *testing.F) {
	for _, o := range []string{
		`{}`, `{"num_ctx":-1,"num_keep":1e30,"num_predict":-9}`, `{"num_keep":-1,"num_ctx":1e300,"num_predict":0}`, `{"stop":"a"}`, `{"stop":["a","",null]}`, `{"stop":[[]]}`,
		`{"seed":-5,"top_k":-1,"temperature":1e39,"repeat_penalty":-1,"min_p":"x"}`, `{"use_mmap":null,"num_gpu":1.9,"nonsense":{}}`,
	} {
		f.Add(o, 5)
	}
	d := &Daemon{opts: Options{ContextLength: 4096}}
	f.Fuzz(func(t *testing.T, text string, length int) {
		var options map[string]any
		if err := json.Unmarshal([]byte(text), &options); err != nil {
			t.Skip()
		}
		opts, err := d.options(&modelstore.Model{}, options)
		if err != nil {
			if status, said := answer(err); status != 500 || !strings.HasPrefix(said, `option "`) {
				t.Errorf("%s: %d %s", text, status, said)
			}
			return
		}
		const most = 512
		limit := contextLimit(opts, most)
		prompt := make([]llm.Token, min(max(length, 1), 2*most))
		r, err := newRequest(opts, llmtest.Vocab{}, prompt, limit, true, true)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if limit < leastContext || limit > most || len(r.Prompt) == 0 || len(r.Prompt) > limit || r.Keep < 0 || r.Keep >= limit ||
			r.MaxTokens < 0 || r.MaxTokens > 10*limit || r.Sampling.Seed < -1 || r.Sampling.RepeatPenalty <= 0 {
			t.Errorf("%s with %d tokens: limit %d, %+v", text, len(prompt), limit, r)
		}
	})
}

// A file of aliases is read or left alone, and every name leads somewhere.
func FuzzAliasFiles(f *testing.F) {
	for _, s := range []string{``, `{}`, `[]`, `{"version":1,"aliases":[{"alias":"a","target":"b"},{"alias":"b","target":"a"},{"alias":"a","target":"b","prefix_matching":true}]}`, `{"version":9}`} {
		f.Add(s, "a")
	}
	path := filepath.Join(f.TempDir(), "server.json")
	f.Fuzz(func(t *testing.T, content, name string) {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		a := newAliases(path)
		if _, err := a.target(name); err != nil && !errors.Is(err, errAliasCycle) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := a.list(); err == nil {
			if err := a.set(alias{Alias: "new", Target: "old"}); err != nil && !errors.Is(err, errAliasCycle) {
				t.Errorf("after %q: %v", content, err)
			}
		}
	})
}

// Origins of any form are taken or refused with the variable's name.
func FuzzOrigins(f *testing.F) {
	for _, o := range []string{"*", "http://a,https://b", "http://*.a", "a", "", "/x/", "/(/", "app://*", "http://a*b*c", "chrome-extension://x", "http://[::1"} {
		f.Add(o)
	}
	f.Fuzz(func(t *testing.T, origins string) {
		handler, err := allowOrigins(strings.Split(origins, ","))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "OLLAMA_ORIGINS: ") {
				t.Errorf("%q: %v", origins, err)
			}
			return
		}
		c, _ := gin.CreateTestContext(httptest.NewRecorder())
		c.Request = httptest.NewRequest("GET", "http://localhost/", nil)
		c.Request.Header.Set("Origin", "http://any.example")
		handler(c)
	})
}
