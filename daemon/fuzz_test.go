package daemon

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// serverSide are the beginnings of the texts that Ollama sends with a 500 although
// the client is to blame.
var serverSide = []string{
	`option "`,
	"invalid format: ",
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
		case w.Code == 501 && strings.Contains(last.Error, "not implemented yet"):
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
