package daemon

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"

	"cllm/llm/llmtest"
	"cllm/modelstore"
)

// tokensOf are the numbers of a text's tokens, as JSON has them.
func tokensOf(text string) string {
	var all []int
	for _, t := range (llmtest.Vocab{}).Tokenize(text, false) {
		all = append(all, int(t))
	}
	b, _ := json.Marshal(all)
	return string(b)
}

func TestGenerateAnswersWithOneObject(t *testing.T) {
	a := serveFake(t, always("Hi & bye."))
	text := "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
	a.post("/api/generate", `{"model":"plain","stream":false,"prompt":"Why?"}`).want(t, 200, typeJSON,
		`{"model":"plain","created_at":T,"response":"Hi \u0026 bye.","done":true,"done_reason":"stop","context":`+tokensOf(text+"Hi & bye.")+
			`,"total_duration":D,"load_duration":D,"prompt_eval_count":23,"prompt_eval_duration":D,"eval_count":10,"eval_duration":D}`)
}

func TestGenerateStreamsALinePerPiece(t *testing.T) {
	g := newGate()
	defer g.open()
	a := serveFake(t, always("ab"), gated(g))
	go g.step()
	_, lines := a.stream(t.Context(), "/api/generate", `{"model":"plain","prompt":"assistant\n","raw":true,"options":{"num_predict":2}}`)
	for i, want := range []string{
		`{"model":"plain","created_at":T,"response":"a","done":false}`,
		`{"model":"plain","created_at":T,"response":"b","done":false}`,
		`{"model":"plain","created_at":T,"response":"","done":true,"done_reason":"length",` +
			`"total_duration":D,"load_duration":D,"prompt_eval_count":10,"prompt_eval_duration":D,"eval_count":2,"eval_duration":D}`,
	} {
		if i == 1 {
			g.step()
		}
		line, err := lines.ReadString('\n')
		if diff := cmp.Diff(want+"\n", steady(line)); err != nil || diff != "" {
			t.Fatalf("line %d: %v\n%s", i, err, diff)
		}
	}
}

func TestGenerateWithoutPromptLoadsOrUnloads(t *testing.T) {
	a := serveFake(t, always(""))
	unloaded := `{"model":"plain","created_at":T,"response":"","done":true,"done_reason":"unload"}`
	a.post("/api/generate", `{"model":"plain","keep_alive":"0s","raw":true,"system":"not looked at"}`).want(t, 200, typeJSON, unloaded)
	if n := len(a.loader.loads()); n != 0 {
		t.Errorf("%d loads to unload", n)
	}
	a.post("/api/generate", `{"model":"plain","keep_alive":-1}`).want(t, 200, typeJSON,
		`{"model":"plain","created_at":T,"response":"","done":true,"done_reason":"load"}`)
	if got := a.resident.list(); len(got) != 1 || got[0].context != 4096 {
		t.Errorf("resident: %+v", got)
	}
	a.post("/api/generate", `{"model":"plain","keep_alive":0,"prompt":""}`).want(t, 200, typeJSON, unloaded)
	waitFor(t, "the model to go", func() bool { return residentNames(a.resident) == "" })
}

func TestKeepAliveOfZeroUnloadsAfterTheAnswer(t *testing.T) {
	a := serveFake(t, always("x"))
	if r := a.post("/api/generate", `{"model":"plain","keep_alive":0,"prompt":"?"}`); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	waitFor(t, "the model to go", func() bool { return residentNames(a.resident) == "" })
}

func TestGenerateRendersWhatWasAsked(t *testing.T) {
	a := serveFake(t, always("ok"))
	a.create("full", modelstore.CreateRequest{Template: chatML, System: "S", Messages: messages("user", "M1", "assistant", "M2")})
	context := tokensOf("before ")
	for _, c := range []struct{ body, want string }{
		{`{"model":"full","prompt":"U"`, "system S user M1 assistant M2 user U assistant"},
		{`{"model":"full","prompt":"U","system":"X"`, "system X user M1 assistant M2 user U assistant"},
		{`{"model":"full","prompt":"U","context":` + context, "before system S user U assistant"},
		{`{"model":"full","prompt":"U","context":[]`, "system S user U assistant"},
		{`{"model":"full","prompt":" U ","raw":true`, "U"},
		{`{"model":"full","prompt":"U","template":"{{ .System }}/{{ .Prompt }}"`, "S/M1M2/U"},
		{`{"model":"full","prompt":"U","template":"{{ .System }}/{{ .Prompt }}","context":` + context, "before S/U"},
		{`{"model":"filler","prompt":"U","suffix":"V"`, "<pre>U<suf>V<mid>assistant"},
		{`{"model":"filler","prompt":"U","suffix":"V","template":"{{ .Prompt }}-{{ .Suffix }}"`, "U-V"},
		{`{"model":"thinker","prompt":"U","think":false`, "user U assistant <think></think>"},
		{`{"model":"plain","prompt":"U","images":["aW1n"]`, "user [img-0]U assistant"},
	} {
		for range 2 {
			if got := a.rendered("/api/generate", c.body); got != c.want {
				t.Errorf("%s: %q, want %q", c.body, got, c.want)
			}
		}
	}
}

func TestAContextContinuesTheConversation(t *testing.T) {
	a := serveFake(t, func(prompt string) string {
		if strings.Contains(prompt, "first<|im_end|>") {
			return "second"
		}
		return "first<|im_end|>"[:5]
	})
	var first api.GenerateResponse
	ask := func(context []int) api.GenerateResponse {
		t.Helper()
		b, _ := json.Marshal(context)
		r := a.post("/api/generate", `{"model":"plain","stream":false,"prompt":"U","context":`+string(b)+`}`)
		var v api.GenerateResponse
		if err := json.Unmarshal([]byte(r.body), &v); err != nil || r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		return v
	}
	first = ask(nil)
	if first.Response != "first" {
		t.Fatalf("%q", first.Response)
	}
	context := append(first.Context, int(llmtest.IMEnd))
	second := ask(context)
	if second.Response != "second" || len(second.Context) <= len(context) {
		t.Errorf("%q with a context of %d tokens after %d", second.Response, len(second.Context), len(context))
	}
	if diff := cmp.Diff(context, second.Context[:len(context)]); diff != "" {
		t.Error(diff)
	}
}

func TestGenerateSeparatesThinking(t *testing.T) {
	a := serveFake(t, always("<think>hm</think>That."))
	for extra, want := range map[string]total{
		"":                         {Content: "That.", Thinking: "hm"},
		`,"think":false`:           {Content: "<think>hm</think>That."},
		`,"think":true,"raw":true`: {Content: "That.", Thinking: "hm"},
		`,"stream":false`:          {Content: "That.", Thinking: "hm"},
	} {
		got := gather(t, strings.TrimSuffix(a.post("/api/generate", `{"model":"thinker","prompt":"assistant\n"`+extra+`}`).body, "\n")+"\n")
		got.Last = ""
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", extra, diff)
		}
	}
}

func TestNumPredictIsExact(t *testing.T) {
	a := serveFake(t, always(strings.Repeat("x", 100)))
	for _, c := range []struct{ options, end string }{
		{`"num_predict":1`, `"eval_count":1,`},
		{`"num_predict":10`, `"eval_count":10,`},
		{`"num_predict":-1`, `"eval_count":101,`},
		{`"num_predict":0`, `"eval_count":101,`},
		{`"num_predict":1000`, `"eval_count":101,`},
	} {
		r := a.post("/api/generate", `{"model":"plain","stream":false,"prompt":"?","options":{`+c.options+`}}`)
		reason := `"done_reason":"length"`
		if strings.Contains(c.end, "101") {
			reason = `"done_reason":"stop"`
		}
		if !strings.Contains(r.body, c.end) || !strings.Contains(r.body, reason) {
			t.Errorf("%s: %s", c.options, r.body)
		}
	}
}

func TestStopEndsTheAnswerBeforeIt(t *testing.T) {
	a := serveFake(t, always("one two three"))
	a.create("stops", modelstore.CreateRequest{Template: chatML, Parameters: map[string]any{"stop": []any{"three"}}})
	for body, want := range map[string]string{
		`"model":"plain","options":{"stop":["two"]}`:        "one ",
		`"model":"plain","options":{"stop":"three"}`:        "one two ",
		`"model":"plain","options":{"stop":["zero","o t"]}`: "one tw",
		`"model":"stops"`:                       "one two ",
		`"model":"stops","options":{"stop":[]}`: "one two three",
	} {
		got := gather(t, a.post("/api/generate", `{`+body+`,"prompt":"?"}`).body)
		if got.Content != want || !strings.Contains(got.Last, `"done_reason":"stop"`) {
			t.Errorf("%s: %+v", body, got)
		}
	}
}

func TestAFullContextShiftsOrEnds(t *testing.T) {
	a := serveFake(t, always(strings.Repeat("x", 500)))
	for extra, want := range map[string]string{
		`,"shift":false`: `"done_reason":"length"`,
		`,"shift":true`:  `"eval_count":100,`,
		``:               `"eval_count":100,`,
	} {
		r := a.post("/api/generate", `{"model":"plain","stream":false,"prompt":"?","options":{"num_ctx":40,"num_predict":100}`+extra+`}`)
		if r.status != 200 || !strings.Contains(r.body, want) {
			t.Errorf("%s: %d %s", extra, r.status, r.body)
		}
	}
}

func TestGenerateErrors(t *testing.T) {
	a := serveFake(t, always("x"))
	for _, c := range []struct {
		body   string
		status int
		text   string
	}{
		{``, 400, "missing request body"},
		{`{"model":1}`, 400, "json: cannot unmarshal number into Go struct field GenerateRequest.model of type string"},
		{`{}`, 404, "model '' not found"},
		{`{"model":"a b"}`, 404, "model 'a b' not found"},
		{`{"model":"Nobody:1b"}`, 404, "model 'Nobody:1b' not found"},
		{`{"model":"plain","prompt":"?","raw":true,"system":"s"}`, 400, "raw mode does not support template, system, or context"},
		{`{"model":"plain","raw":true,"template":"s"}`, 400, "raw mode does not support template, system, or context"},
		{`{"model":"plain","prompt":"?","raw":true,"context":[1]}`, 400, "raw mode does not support template, system, or context"},
		{`{"model":"plain","prompt":"?","suffix":"s"}`, 400, "registry.ollama.ai/library/plain:latest does not support insert"},
		{`{"model":"embedder","prompt":"?"}`, 400, `"embedder" does not support generate`},
		{`{"model":"plain","prompt":"?","think":true}`, 400, `"plain" does not support thinking`},
		{`{"model":"plain","prompt":"?","think":"low"}`, 400, `think value "low" is not supported for this model`},
		{`{"model":"plain","prompt":"?","template":"{{ .Prompt"}`, 500, "template: :1: unclosed action"},
		{`{"model":"plain","prompt":"?","template":" {{ if .Prompt }}{{ .Response }}{{ else }}x{{ end }}"}`, 500,
			"the model's template, renderer or parser failed: interface conversion: parse.Node is nil, not *parse.ListNode"},
		{`{"model":"plain","prompt":"?","template":"{{ if false }}x{{ end }}"}`, 400, "the prompt is empty: the template left nothing of it"},
		{`{"model":"plain","prompt":"?","context":[999999]}`, 400, "context holds 999999, which is no token of the model: send back what the model's last answer gave"},
		{`{"model":"plain","prompt":"?","options":{"stop":7}}`, 500, `option "stop" must be of type array`},
		{`{"model":"plain","prompt":"?","options":{"temperature":"a"}}`, 500, `option "temperature" must be of type float32`},
		{`{"model":"plain","options":{"seed":"a"}}`, 500, `option "seed" must be of type integer`},
		{`{"model":"plain","top_logprobs":-1}`, 400, "top_logprobs must be between 0 and 20"},
		{`{"model":"plain","prompt":"?","format":"yaml"}`, 500, `invalid format: "\"yaml\""; expected "json" or a valid JSON Schema object`},
		{`{"model":"plain","prompt":"?","format":[]}`, 500, `invalid format: "[]"; expected "json" or a valid JSON Schema object`},
		{`{"model":"plain","prompt":"?","format":{"type":"nothing"}}`, 500, `invalid JSON schema in format`},
		{`{"model":"plain","prompt":"too long for that","truncate":false,"options":{"num_ctx":8}}`, 400, "the input length exceeds the context length"},
	} {
		r := a.post("/api/generate", c.body)
		if r.status != c.status || errorText(t, r) != c.text {
			t.Errorf("%s:\n%d %s, want %d %q", c.body, r.status, r.body, c.status, c.text)
		}
	}
}
