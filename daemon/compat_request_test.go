package daemon

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/openai"

	"cllm/llm/llmtest"
	"cllm/modelstore"
)

// converters make Ollama's requests of the bodies of each route.
var converters = map[string]func(t testing.TB, body string) (any, map[string]any){
	"chat": func(t testing.TB, body string) (any, map[string]any) {
		var asked chatCompletionRequest
		parse(t, body, &asked)
		req, err := asked.convert()
		if err != nil {
			t.Fatal(err)
		}
		return req, req.Options
	},
	"completion": func(t testing.TB, body string) (any, map[string]any) {
		var asked openai.CompletionRequest
		parse(t, body, &asked)
		req, err := fromCompletion(asked)
		if err != nil {
			t.Fatal(err)
		}
		return req, req.Options
	},
	"response": func(t testing.TB, body string) (any, map[string]any) {
		var asked openai.ResponsesRequest
		parse(t, body, &asked)
		req, err := fromResponses(asked)
		if err != nil {
			t.Fatal(err)
		}
		return req, req.Options
	},
	"message": func(t testing.TB, body string) (any, map[string]any) {
		var asked messagesRequest
		parse(t, body, &asked)
		req, err := asked.convert()
		if err != nil {
			t.Fatal(err)
		}
		return req, req.Options
	},
}

func parse(t testing.TB, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// optionsOf are the options of a request to a model that has a stop of its own.
func optionsOf(t testing.TB, set map[string]any) api.Options {
	t.Helper()
	o := api.DefaultOptions()
	o.Stop = []string{"model"}
	if err := o.FromMap(set); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestCompatOptionsMeanWhatTheySay(t *testing.T) {
	const chat, message = `"messages":[{"role":"user","content":"?"}]`, `"model":"m","max_tokens":7,"messages":[{"role":"user","content":"?"}]`
	for _, c := range []struct{ route, body, want string }{
		{"chat", `{` + chat + `}`, `{"temperature":1,"top_p":1}`},
		{"chat", `{` + chat + `,"max_tokens":5}`, `{"temperature":1,"top_p":1,"num_predict":5}`},
		{"chat", `{` + chat + `,"max_completion_tokens":6}`, `{"temperature":1,"top_p":1,"num_predict":6}`},
		{"chat", `{` + chat + `,"max_tokens":5,"max_completion_tokens":6}`, `{"temperature":1,"top_p":1,"num_predict":6}`},
		{
			"chat", `{` + chat + `,"temperature":0.5,"top_p":0.25,"seed":123456789,"frequency_penalty":0.5,"presence_penalty":-0.5,"stop":["a","b"],"n":3,"user":"u"}`,
			`{"temperature":0.5,"top_p":0.25,"seed":123456789,"frequency_penalty":0.5,"presence_penalty":-0.5,"stop":["a","b"]}`,
		},
		{"chat", `{` + chat + `,"stop":"a"}`, `{"temperature":1,"top_p":1,"stop":["a"]}`},
		{"chat", `{` + chat + `,"stop":[]}`, `{"temperature":1,"top_p":1}`}, // the model's own stay
		{"completion", `{"prompt":"?"}`, `{"temperature":1,"top_p":1,"frequency_penalty":0,"presence_penalty":0}`},
		{
			"completion", `{"prompt":"?","max_tokens":5,"temperature":0,"top_p":0.25,"seed":3,"frequency_penalty":0.5,"presence_penalty":1.5,"stop":"a"}`,
			`{"num_predict":5,"temperature":0,"top_p":0.25,"seed":3,"frequency_penalty":0.5,"presence_penalty":1.5,"stop":["a"]}`,
		},
		{"response", `{"input":"?"}`, `{"temperature":1}`},
		{"response", `{"input":"?","temperature":0.5,"top_p":0.25,"max_output_tokens":5}`, `{"temperature":0.5,"top_p":0.25,"num_predict":5}`},
		{"message", `{` + message + `}`, `{"num_predict":7}`},
		{
			"message", `{` + message + `,"temperature":0.5,"top_p":0.25,"top_k":3,"stop_sequences":["a","b"]}`,
			`{"num_predict":7,"temperature":0.5,"top_p":0.25,"top_k":3,"stop":["a","b"]}`,
		},
	} {
		_, set := converters[c.route](t, c.body)
		var want map[string]any
		parse(t, c.want, &want)
		if diff := cmp.Diff(optionsOf(t, want), optionsOf(t, set)); diff != "" {
			t.Errorf("%s %s:\n%s", c.route, c.body, diff)
		}
	}
}

// Ollama writes a converted request as JSON and reads it again. Here that step is
// left out, and must not be missed.
func TestConvertedRequestsAreAsIfReadFromJSON(t *testing.T) {
	const tools = `[{"type":"function","name":"f","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"type":"string"}}}},"parameters":{"type":"object","properties":{"a":{"type":"string"}}},"input_schema":{"type":"object","properties":{"a":{"type":"string"}}}}]`
	for _, c := range []struct{ route, body string }{
		{"chat", `{"model":"m","messages":[{"role":"User","content":"?"}],"stop":["a"],"seed":7,"max_tokens":5,"temperature":0.1,"tools":` + tools + `,"response_format":{"type":"json_object"},"reasoning_effort":"low"}`},
		{"chat", `{"model":"m","messages":[{"role":"ASSISTANT","content":"","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"b\":1,\"a\":[2,null]}"}}]},{"role":"tool","tool_call_id":"c","content":"r"}]}`},
		{"chat", `{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}],"stream":true,"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"object"}}}}`},
		{"completion", `{"model":"m","prompt":"?","suffix":"s","stop":["a"],"seed":7,"max_tokens":5,"temperature":0.1,"top_p":0.1,"frequency_penalty":0.1,"logprobs":3}`},
		{"response", `{"model":"m","input":[{"role":"Developer","content":"?"},{"type":"function_call","call_id":"c","name":"f","arguments":"{\"b\":1,\"a\":2}"},{"type":"function_call_output","call_id":"c","output":"r"}],"max_output_tokens":5,"tools":` + tools + `,"text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"}}}}`},
		{"message", `{"model":"m","max_tokens":5,"top_k":3,"stop_sequences":["a"],"system":"s","messages":[{"role":"User","content":"?"},{"role":"assistant","content":[{"type":"tool_use","id":"c","name":"f","input":{"b":1,"a":{"d":2}}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"c","content":"r"}]}],"tools":` + tools + `,"thinking":{"type":"enabled"}}`},
	} {
		for range 5 { // the order of a map's keys must not show
			req, set := converters[c.route](t, c.body)
			written, err := json.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			var again any = &api.ChatRequest{}
			if c.route == "completion" {
				again = &api.GenerateRequest{}
			}
			parse(t, string(written), again)
			rewritten, err := json.Marshal(again)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(rewritten), string(written)); diff != "" {
				t.Errorf("%s %s (-read +direct):\n%s", c.route, c.body, diff)
			}
			var read struct{ Options map[string]any }
			parse(t, string(written), &read)
			if diff := cmp.Diff(optionsOf(t, read.Options), optionsOf(t, set)); diff != "" {
				t.Errorf("%s %s (-read +direct):\n%s", c.route, c.body, diff)
			}
			if first, _ := converters[c.route](t, c.body); cmp.Diff(asText(t, first), string(written)) != "" {
				t.Errorf("%s: the same request twice is\n%s\n%s", c.route, asText(t, first), written)
			}
		}
	}
}

func asText(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestToolsThatOpenAIRunsAreLeftOut(t *testing.T) {
	req, _ := converters["response"](t, `{"model":"m","input":"?","tools":[{"type":"web_search"},{"type":"function","name":"f"},{"type":"file_search"}]}`)
	tools := req.(*api.ChatRequest).Tools
	if len(tools) != 1 || tools[0].Function.Name != "f" {
		t.Errorf("%+v", tools)
	}
}

func TestAnEffortIsForModelsWithLevels(t *testing.T) {
	a := serveFake(t, always("x"))
	a.create("gpt", modelstore.CreateRequest{
		Template: "<|start|>{{ .Prompt }}<|end|>", Info: map[string]any{"model_family": "gptoss"},
	})
	for _, c := range []struct{ model, effort, want string }{
		{"gpt", "high", `"high"`},
		{"gpt", "none", `false`},
		{"gpt", "xhigh", ``},
		{"gpt", "", ``},
		{"thinker", "high", ``},
		{"thinker", "none", `false`},
		{"plain", "low", ``},
		{"nope", "low", `"low"`}, // refused later
	} {
		converted, _ := converters["response"](t, `{"model":"`+c.model+`","input":"?","reasoning":{"effort":"`+c.effort+`"}}`)
		req := converted.(*api.ChatRequest)
		a.settleEffort(req)
		got := ""
		if req.Think != nil {
			got = asText(t, req.Think)
		}
		if got != c.want {
			t.Errorf("%s, %q: think is %s, want %s", c.model, c.effort, got, c.want)
		}
	}
}

// packed compresses a body.
func packed(t testing.TB, body string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// postPacked posts a body that is said to be compressed.
func (a *testAPI) postPacked(path string, body []byte) response {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), http.MethodPost, a.url+path, bytes.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Content-Encoding", "zstd")
	res, err := http.DefaultClient.Do(req)
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

func TestResponsesTakeCompressedBodies(t *testing.T) {
	a := serveFake(t, always("hello"), func(o *Options, _ *llmtest.Options) { o.MaxBody = 1 << 20 })
	r := a.postPacked("/v1/responses", packed(t, `{"model":"plain","input":"?"}`))
	if r.status != 200 || !strings.Contains(r.body, `"text":"hello"`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	bomb := packed(t, `{"model":"plain","input":"`+strings.Repeat("?", 2<<20)+`"}`)
	r = a.postPacked("/v1/responses", bomb)
	if _, text := compatError(t, r); r.status != 413 || text != "the request body is larger than the limit of 1048576 bytes" {
		t.Errorf("%d bytes that are 2 MiB: %d %s", len(bomb), r.status, r.body)
	}
	for _, broken := range [][]byte{nil, []byte("{}"), bomb[:len(bomb)/2], append(packed(t, `{"model"`), 1, 2, 3)} {
		r := a.postPacked("/v1/responses", broken)
		if kind, _ := compatError(t, r); r.status != 400 || kind != "invalid_request_error" {
			t.Errorf("%q: %d %s", broken, r.status, r.body)
		}
	}
	if r := a.postPacked("/v1/chat/completions", packed(t, `{}`)); r.status != 400 {
		t.Errorf("another route: %d %s", r.status, r.body)
	}
}

func TestBase64EmbeddingsAreTheSameNumbers(t *testing.T) {
	a := serveFake(t, always(""))
	ask := func(format string, v any) {
		t.Helper()
		parse(t, a.post("/v1/embeddings", `{"model":"embedder","input":["a","bc"],"encoding_format":"`+format+`"}`).body, v)
	}
	var plain struct {
		Data []struct{ Embedding []float32 }
	}
	ask("float", &plain)
	var coded struct{ Data []struct{ Embedding []byte } }
	ask("base64", &coded)
	if len(plain.Data) != 2 || len(coded.Data) != 2 {
		t.Fatalf("%d and %d embeddings of two texts", len(plain.Data), len(coded.Data))
	}
	for i, want := range plain.Data {
		got := make([]float32, len(coded.Data[i].Embedding)/4)
		if _, err := binary.Decode(coded.Data[i].Embedding, binary.LittleEndian, got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Embedding, got); diff != "" || len(got) == 0 {
			t.Errorf("%d:\n%s", i, diff)
		}
	}
}
