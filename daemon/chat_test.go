package daemon

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/fs/ggml"

	"cllm/modelstore"
)

const weatherTool = `[{"type":"function","function":{"name":"weather","description":"d","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}]`

func TestChatAnswersWithOneObject(t *testing.T) {
	a := serveFake(t, always("Because <of> that."))
	a.post("/api/chat", `{"model":"plain","stream":false,"messages":[{"role":"user","content":"Why?"}]}`).want(t, 200, typeJSON,
		`{"model":"plain","created_at":T,"message":{"role":"assistant","content":"Because \u003cof\u003e that."},"done":true,"done_reason":"stop",`+
			`"total_duration":D,"load_duration":D,"prompt_eval_count":23,"prompt_eval_duration":D,"eval_count":19,"eval_duration":D}`)
}

func TestChatStreamsALinePerPiece(t *testing.T) {
	g := newGate()
	defer g.open()
	a := serveFake(t, always("ab"), gated(g))
	go g.step()
	res, lines := a.stream(t.Context(), "/api/chat", `{"model":"plain","messages":[{"role":"user","content":"Why?"}]}`)
	if got := res.Header.Get("Content-Type"); got != "application/x-ndjson" || res.StatusCode != 200 {
		t.Errorf("%d %q", res.StatusCode, got)
	}
	for i, want := range []string{
		`{"model":"plain","created_at":T,"message":{"role":"assistant","content":"a"},"done":false}`,
		`{"model":"plain","created_at":T,"message":{"role":"assistant","content":"b"},"done":false}`,
		`{"model":"plain","created_at":T,"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",` +
			`"total_duration":D,"load_duration":D,"prompt_eval_count":23,"prompt_eval_duration":D,"eval_count":3,"eval_duration":D}`,
	} {
		if i > 0 {
			g.step() // the line before was read, so it had been flushed
		}
		line, err := lines.ReadString('\n')
		if diff := cmp.Diff(want+"\n", steady(line)); err != nil || diff != "" {
			t.Fatalf("line %d: %v\n%s", i, err, diff)
		}
	}
	if rest, err := lines.ReadString('\n'); rest != "" || err == nil {
		t.Errorf("more after the end: %q, %v", rest, err)
	}
}

func TestChatWithoutMessagesLoads(t *testing.T) {
	a := serveFake(t, always(""))
	for _, body := range []string{`{"model":"plain"}`, `{"model":"plain","messages":[],"stream":true,"format":"json"}`} {
		a.post("/api/chat", body).want(t, 200, typeJSON,
			`{"model":"plain","created_at":T,"message":{"role":"assistant","content":""},"done":true,"done_reason":"load"}`)
	}
	if n := len(a.loader.loads()); n != 1 {
		t.Errorf("%d loads", n)
	}
}

func TestChatWithoutMessagesAndKeepAliveUnloads(t *testing.T) {
	a := serveFake(t, always("x"))
	unload := `{"model":"plain","keep_alive":0}`
	want := `{"model":"plain","created_at":T,"message":{"role":"assistant","content":""},"done":true,"done_reason":"unload"}`
	a.post("/api/chat", unload).want(t, 200, typeJSON, want) // not loaded
	a.post("/api/chat", `{"model":"plain"}`)
	if got := residentNames(a.resident); got != "plain" {
		t.Fatalf("resident: %q", got)
	}
	a.post("/api/chat", unload).want(t, 200, typeJSON, want)
	if l := a.loader.loads(); len(l) != 1 {
		t.Errorf("%d loads", len(l))
	}
	waitFor(t, "the model to go", func() bool { return residentNames(a.resident) == "" })
}

func TestChatSeparatesThinking(t *testing.T) {
	a := serveFake(t, always("<think>\nhm <\n</think>\n\nThat."))
	ask := func(extra string) total {
		t.Helper()
		r := a.post("/api/chat", `{"model":"thinker","messages":[{"role":"user","content":"?"}]`+extra+`}`)
		if r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		got := gather(t, strings.TrimSuffix(r.body, "\n")+"\n")
		got.Last = ""
		return got
	}
	apart, mixed := total{Content: "That.", Thinking: "hm <\n"}, total{Content: "<think>\nhm <\n</think>\n\nThat."}
	for extra, want := range map[string]total{
		"":                                     apart, // on by default
		`,"think":true`:                        apart,
		`,"think":true,"stream":false`:         apart,
		`,"think":false`:                       mixed,
		`,"think":false,"stream":false`:        mixed,
		`,"think":true,"tools":` + weatherTool: apart,
	} {
		if diff := cmp.Diff(want, ask(extra)); diff != "" {
			t.Errorf("%s:\n%s", extra, diff)
		}
	}
}

func TestChatReturnsToolCalls(t *testing.T) {
	a := serveFake(t, always(`Look. <tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>`))
	body := `{"model":"thinker","messages":[{"role":"user","content":"?"}],"tools":` + weatherTool
	r := a.post("/api/chat", body+`,"stream":false}`)
	r.body = regexp.MustCompile(`_count":\d+`).ReplaceAllString(r.body, `_count":N`)
	r.want(t, 200, typeJSON,
		`{"model":"thinker","created_at":T,"message":{"role":"assistant","content":"Look. ","tool_calls":[{"id":ID,"function":{"index":0,"name":"weather","arguments":{"city":"Rome"}}}]},`+
			`"done":true,"done_reason":"stop","total_duration":D,"load_duration":D,"prompt_eval_count":N,"prompt_eval_duration":D,"eval_count":N,"eval_duration":D}`)
	got := gather(t, a.post("/api/chat", body+`}`).body)
	if got.Content != "Look. " || got.Calls != 1 {
		t.Errorf("%+v", got)
	}
}

func TestModelsSystemTextAndMessagesComeFirst(t *testing.T) {
	a := serveFake(t, always("ok"))
	a.create("full", modelstore.CreateRequest{Template: chatML, System: "S", Messages: messages("user", "M1", "assistant", "M2")})
	for body, want := range map[string]string{
		`[{"role":"user","content":"U"}]`:                                    "system S user M1 assistant M2 user U assistant",
		`[{"role":"system","content":"X"},{"role":"user","content":"U"}]`:    "user M1 assistant M2 system X user U assistant",
		`[{"role":"USER","content":"U"},{"role":"user","content":"V"}]`:      "system S user M1 assistant M2 user U V assistant",
		`[{"role":"user","content":"U"},{"role":"system","content":"late"}]`: "system S user M1 assistant M2 user U system late assistant",
	} {
		for range 2 { // the model's own messages must not have changed
			if got := a.rendered("/api/chat", `{"model":"full","messages":`+body); got != want {
				t.Errorf("%s: %q, want %q", body, got, want)
			}
		}
	}
}

func TestChatLeavesOutTheOldestMessages(t *testing.T) {
	a := serveFake(t, always("ok"))
	long := strings.Repeat("x", 60)
	talk := `{"model":"plain","messages":[{"role":"system","content":"S"},{"role":"user","content":"` + long + `"},{"role":"assistant","content":"` + long + `"},{"role":"user","content":"U"}]`
	if got, want := a.rendered("/api/chat", talk+`,"options":{"num_ctx":60}`), "system S user U assistant"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	all := "system S user " + long + " assistant " + long + " user U assistant"
	for _, extra := range []string{`,"options":{"num_ctx":60},"truncate":false`, ``} {
		if got := a.rendered("/api/chat", talk+extra); got != all {
			t.Errorf("%s: %q", extra, got)
		}
	}
	// What still is too long loses its middle, or is refused.
	r := a.post("/api/chat", `{"model":"plain","stream":false,"options":{"num_ctx":40,"num_predict":2},"messages":[{"role":"user","content":"`+long+`"}]}`)
	if r.status != 200 || !strings.Contains(r.body, `"prompt_eval_count":40,`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	for stream, contentType := range map[string]string{"true": typeJSON, "false": typeJSON} {
		a.post("/api/chat", `{"model":"plain","truncate":false,"stream":`+stream+`,"options":{"num_ctx":40},"messages":[{"role":"user","content":"`+long+`"}]}`).
			want(t, 400, contentType, `{"error":"the input length exceeds the context length"}`)
	}
}

func TestChatErrors(t *testing.T) {
	a := serveFake(t, always("x"))
	hello := `"messages":[{"role":"user","content":"?"}]`
	for _, c := range []struct {
		body   string
		status int
		text   string
	}{
		{``, 400, "missing request body"},
		{`{`, 400, "unexpected EOF"},
		{`[]`, 400, "json: cannot unmarshal array into Go value of type api.ChatRequest"},
		{`{"model":1}`, 400, "json: cannot unmarshal number into Go struct field ChatRequest.model of type string"},
		{`{}`, 400, "model is required"},
		{`{"model":""}`, 400, "model is required"},
		{`{"model":"a b"}`, 400, "model is required"},
		{`{"model":"nobody"}`, 404, "model 'nobody' not found"},
		{`{"model":"plain","think":"max",` + hello + `}`, 400, `invalid think value: "max" (must be "high", "medium", "low", true, or false)`},
		{`{"model":"plain","think":true,` + hello + `}`, 400, `"plain" does not support thinking`},
		{`{"model":"thinker","think":"high",` + hello + `}`, 400, `think value "high" is not supported for this model`},
		{`{"model":"plain","tools":` + weatherTool + `,` + hello + `}`, 400, "registry.ollama.ai/library/plain:latest does not support tools"},
		{`{"model":"plain","options":{"num_ctx":"a"},` + hello + `}`, 500, `option "num_ctx" must be of type integer`},
		{`{"model":"plain","top_logprobs":21,` + hello + `}`, 400, "top_logprobs must be between 0 and 20"},
		{`{"model":"plain","format":"yaml",` + hello + `}`, 500, `invalid format: "\"yaml\""; expected "json" or a valid JSON Schema object`},
		{`{"model":"plain","format":{"type":"nothing"},` + hello + `}`, 500, `invalid JSON schema in format`},
		{`{"model":"plain","keep_alive":"10",` + hello + `}`, 400, `time: missing unit in duration "10"`},
		{`{"model":"plain","messages":[{"role":"user","images":["?"]}]}`, 400, "illegal base64 data at input byte 0"},
	} {
		r := a.post("/api/chat", c.body)
		if r.status != c.status || errorText(t, r) != c.text {
			t.Errorf("%s:\n%d %s, want %d %q", c.body, r.status, r.body, c.status, c.text)
		}
	}
}

func TestImagesSentToATextModelLeaveTheirTag(t *testing.T) {
	a := serveFake(t, always("ok"))
	r := a.post("/api/chat", `{"model":"plain","_debug_render_only":true,"messages":[{"role":"user","content":"what?","images":["aW1n"]}]}`)
	r.want(t, 200, typeJSON, `{"model":"plain","created_at":T,"message":{"role":"","content":""},"done":false,`+
		`"_debug_info":{"rendered_template":"\u003c|im_start|\u003euser\n[img-0]what?\u003c|im_end|\u003e\n\u003c|im_start|\u003eassistant\n","image_count":1}}`)
}

func TestBuiltInParsersSplitTheAnswer(t *testing.T) {
	a := serveFake(t, always("<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"))
	a.create("coder", modelstore.CreateRequest{Template: chatML, Renderer: "qwen3-coder", Parser: "qwen3-coder"})
	got := gather(t, a.post("/api/chat", `{"model":"coder","messages":[{"role":"user","content":"?"}],"tools":`+weatherTool+`}`).body)
	if got.Calls != 1 || got.Content != "" {
		t.Errorf("%+v", got)
	}
}

func TestAModelWithAProjectorIsRefusedWithAReason(t *testing.T) {
	a := serveEmpty(t)
	weights := a.upload(gguf(t, nil))
	projector := a.upload(gguf(t, ggml.KV{"general.architecture": "clip", "general.type": "projector"}))
	if r := a.post("/api/create", `{"model":"seer","files":{"m.gguf":"`+weights+`","p.gguf":"`+projector+`"},"template":"{{ .Prompt }}"}`); r.status != 200 || !strings.HasSuffix(r.body, "{\"status\":\"success\"}\n") {
		t.Fatal(r.status, r.body)
	}
	const want = "model 'seer:latest' has a projector for images, which this server can't run yet; use a model without one"
	for path, rest := range map[string]string{
		"/api/chat":     `"messages":[{"role":"user","content":"?","images":["aW1n"]}]`,
		"/api/generate": `"prompt":"?"`,
	} {
		if r := a.post(path, `{"model":"seer",`+rest+`}`); r.status != 400 || errorText(t, r) != want {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}
