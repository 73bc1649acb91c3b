package daemon

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// fuzzCompat posts bodies to a route and checks that the answer is whole, or an
// error that blames whom it should.
func fuzzCompat(f *testing.F, path string, seeds ...string) {
	a := serveFake(f, always(`<think>a</think>b<tool_call>{"name": "weather", "arguments": {"city": "c"}}</tool_call>`))
	handler := a.routes(a.Addr())
	for _, s := range seeds {
		f.Add(s)
		f.Add(strings.TrimSuffix(s, "}") + asStream)
	}
	f.Fuzz(func(t *testing.T, body string) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "http://localhost"+path, strings.NewReader(body)))
		if strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream") {
			last := readEvents(t, w.Body.String())
			if end := last[len(last)-1].name; w.Code != 200 || !slices.Contains([]string{"[DONE]", "message_stop", "response.completed"}, end) {
				t.Errorf("%q: %d %s", body, w.Code, w.Body)
			}
			return
		}
		var v struct {
			Error *struct{ Type, Message string }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
			t.Fatalf("%q: %v: %s", body, err, w.Body)
		}
		switch {
		case w.Code == 200 && v.Error == nil:
		case v.Error == nil || v.Error.Message == "":
			t.Errorf("%q: %d without a text: %s", body, w.Code, w.Body)
		case w.Code == 400 && v.Error.Type == "invalid_request_error":
		case w.Code == 404 && v.Error.Type == "not_found_error":
		case w.Code == 500 && beginsWithOne(v.Error.Message, serverSide):
		default:
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	})
}

func FuzzChatCompletionBodies(f *testing.F) {
	fuzzCompat(f, "/v1/chat/completions",
		``, `null`, `[]`, `{}`, `{"model":"plain","messages":[{"role":"user","content":"?"}]}`,
		`{"model":"thinker","messages":[{"role":"developer","content":[{"type":"text","text":"a"}]},{"role":"user","content":"b"}],"tools":`+weatherTool+`,"tool_choice":"required","stream_options":{"include_usage":true}}`,
		`{"model":"thinker","messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"weather","arguments":"{\"city\":1}"}}]},{"role":"tool","tool_call_id":"c","content":"d"}],"reasoning_effort":"none"}`,
		`{"model":"plain","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,aW1n"}}]}],"max_completion_tokens":3,"seed":-2,"stop":["a",1]}`,
		`{"model":"plain","messages":[{"content":[]}],"temperature":1e300,"top_p":-1,"frequency_penalty":-1e30,"max_tokens":-1}`,
		`{"model":"plain","messages":[{"content":""}],"top_logprobs":21,"response_format":{"type":"text"},"_debug_render_only":true}`,
		`{"model":"thinker","messages":[{"role":"user","content":"?"}],"tools":[{"type":"function","function":{"parameters":{"type":"object","properties":{"a":{"type":["string",null],"enum":[1,{}]}}}}},{}]}`,
		`{"model":"embedder","messages":[{"content":"?"}]}`,
		`{"model":"plain","messages":[{"role":"user","content":"?"}],"logprobs":true,"top_logprobs":3,"max_tokens":4}`,
		`{"model":"plain","messages":[{"role":"user","content":"?"}],"response_format":{"type":"json_object"},"max_tokens":9}`,
		`{"model":"thinker","messages":[{"role":"user","content":"?"}],"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"boolean"}}},"max_tokens":9}`,
		`{"model":"plain","messages":[{"role":"user","content":"?"}],"response_format":{"type":"json_schema","json_schema":{"schema":[]}}}`,
	)
}

func FuzzCompletionBodies(f *testing.F) {
	fuzzCompat(f, "/v1/completions",
		``, `null`, `[]`, `{}`, `{"model":"plain"}`, `{"model":"plain","prompt":"a"}`, `{"model":"plain","prompt":["a"]}`,
		`{"model":"filler","prompt":"assistant\n","suffix":"b","max_tokens":3,"stop":"a","stream_options":{"include_usage":true}}`,
		`{"model":"thinker","prompt":"a","temperature":-1,"top_p":1e30,"presence_penalty":3e38,"seed":4294967296,"stop":[]}`,
		`{"model":"plain","prompt":"a","logprobs":-1,"echo":true,"best_of":9}`, `{"model":"plain","prompt":"a","logprobs":99}`,
		`{"model":"filler","prompt":"assistant\n","logprobs":2,"max_tokens":3}`,
	)
}

func FuzzResponsesBodies(f *testing.F) {
	fuzzCompat(f, "/v1/responses",
		``, `null`, `[]`, `{}`, `{"model":"plain","input":"?"}`, `{"model":"plain","input":null}`,
		`{"model":"thinker","instructions":"i","input":[{"role":"user","content":"?"},{"type":"reasoning","encrypted_content":"a"},{"type":"function_call","call_id":"c","name":"weather","arguments":"{}"},{"type":"function_call_output","call_id":"c","output":"d"}],"tools":[{"type":"function","name":"weather","parameters":{"type":"object"}},{"type":"web_search"}]}`,
		`{"model":"plain","input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image","image_url":"data:image/png;base64,aW1n"},{"type":"output_text","text":"b"}]}],"reasoning":{"effort":"low","summary":"auto"}}`,
		`{"model":"plain","input":"?","conversation":{"id":1},"text":{"format":{"type":"text"}},"truncation":"auto","max_output_tokens":2,"top_p":0.1,"temperature":null}`,
		`{"model":"thinker","input":"?","tools":[{"type":"function","name":"f","parameters":{"properties":{"a":{"type":1}}}}]}`,
		`{"model":"plain","input":"?","text":{"format":{"type":"json_schema","schema":{"type":"boolean"}}}}`,
	)
}

func FuzzMessagesBodies(f *testing.F) {
	fuzzCompat(f, "/v1/messages",
		``, `null`, `[]`, `{}`, `{"model":"plain","max_tokens":9,"messages":[{"role":"user","content":"?"}]}`,
		`{"model":"thinker","max_tokens":900,"system":[{"type":"text","text":"s"}],"messages":[{"role":"user","content":[{"type":"text","text":"?"}]}],"tools":[{"name":"weather","input_schema":{"type":"object"}}],"thinking":{"type":"enabled","budget_tokens":1024}}`,
		`{"model":"thinker","max_tokens":900,"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"t"},{"type":"tool_use","id":"c","name":"weather","input":{"city":{"b":[1]}}},{"type":"server_tool_use","id":"d"}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"c","content":[{"type":"text","text":"r"}]},{"type":"web_search_tool_result","content":{"type":"web_search_tool_result_error"}}]}],"tools":[{"type":"web_search_20250305","name":"web_search"}]}`,
		`{"model":"plain","max_tokens":3,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"aW1n"}}]}],"top_k":-1,"stop_sequences":[""],"thinking":{"type":"disabled"}}`,
		`{"model":"plain","max_tokens":9,"messages":[{"role":"user","content":[]}],"tool_choice":{"type":"any"},"metadata":{}}`,
		`{"model":"plain","max_tokens":1e30,"messages":[{"content":""}]}`,
	)
}

func FuzzEmbeddingListBodies(f *testing.F) {
	fuzzCompat(f, "/v1/embeddings",
		``, `null`, `[]`, `{}`, `{"model":"embedder","input":"a"}`, `{"model":"embedder","input":["a",""],"encoding_format":"base64"}`,
		`{"model":"embedder","input":[[1,2],3],"encoding_format":"int8"}`, `{"model":"plain","input":{"a":1},"dimensions":-3}`,
		`{"model":"embedder","input":"a","dimensions":4,"encoding_format":"FLOAT"}`, `{"model":"embedder","input":[null]}`,
	)
}
