package prompt

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"
)

// answer is an answer put together; calls are "name {arguments}".
type answer struct {
	Content, Thinking string
	Calls             []string
}

func (a *answer) add(t testing.TB, p Part) {
	t.Helper()
	a.Content += p.Content
	a.Thinking += p.Thinking
	for _, c := range p.Calls {
		if !regexp.MustCompile(`^call_[a-z0-9]{8}$`).MatchString(c.ID) {
			t.Errorf("the call's id is %q", c.ID)
		}
		arguments, err := json.Marshal(c.Function.Arguments.ToMap()) // sorted by name
		if err != nil {
			t.Fatal(err)
		}
		a.Calls = append(a.Calls, c.Function.Name+" "+string(arguments))
	}
}

// read gives an Output the pieces and returns the answer.
func read(t testing.TB, s Style, c Conversation, prompt string, pieces ...string) answer {
	t.Helper()
	o, _, err := s.NewOutput(c)
	if err != nil {
		t.Fatal(err)
	}
	o.Begin(prompt)
	var a answer
	for _, piece := range pieces {
		p, err := o.Add(piece)
		if err != nil {
			t.Fatal(err)
		}
		a.add(t, p)
	}
	p, err := o.End()
	if err != nil {
		t.Fatal(err)
	}
	a.add(t, p)
	return a
}

func offer(t testing.TB, names ...string) []api.Tool {
	t.Helper()
	var all []api.Tool
	for _, name := range names {
		var tool api.Tool
		raw := `{"type":"function","function":{"name":"` + name + `","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}`
		if err := json.Unmarshal([]byte(raw), &tool); err != nil {
			t.Fatal(err)
		}
		all = append(all, tool)
	}
	return all
}

var outputs = []struct {
	name   string
	style  string // folder in testdata
	think  any    // nil: unset
	tools  []string
	prompt string
	text   string
	want   answer
}{
	{name: "text alone", style: "thinker", text: "Hello.", want: answer{Content: "Hello."}},
	{name: "tags without think", style: "thinker", text: "<think>a</think>b", want: answer{Content: "<think>a</think>b"}},
	{name: "thinking", style: "thinker", think: true, text: "<think>\nwhy?\n</think>\n\nThat.",
		want: answer{Thinking: "why?\n", Content: "That."}},
	{name: "thinking begun by the prompt", style: "thinker", think: true, prompt: "<|im_start|>assistant\n<think>\n",
		text: "why?</think>That.", want: answer{Thinking: "why?", Content: "That."}},
	{name: "no thinking at all", style: "thinker", think: true, text: "  That.", want: answer{Content: "  That."}},
	{name: "cut in the thinking", style: "thinker", think: true, text: "<think>why", want: answer{Thinking: "why"}},
	{name: "cut in the opening tag", style: "thinker", think: true, text: "<thi", want: answer{Content: "<thi"}},
	{name: "cut in the closing tag", style: "thinker", think: true, text: "<think>a < b </th", want: answer{Thinking: "a < b </th"}},
	{name: "other languages", style: "thinker", think: true, text: "<think>für 世界</think>😀 ça", want: answer{Thinking: "für 世界", Content: "😀 ça"}},

	{name: "a call", style: "thinker", tools: []string{"weather"},
		text: `<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>`,
		want: answer{Calls: []string{`weather {"city":"Rome"}`}}},
	{name: "text before a call", style: "thinker", tools: []string{"weather"},
		text: `Let me see. <tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>`,
		want: answer{Content: "Let me see. ", Calls: []string{`weather {"city":"Rome"}`}}},
	{name: "two calls", style: "thinker", tools: []string{"weather", "weather_week"},
		text: `<tool_call>{"name": "weather_week", "arguments": {}}</tool_call><tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>`,
		want: answer{Calls: []string{"weather_week {}", `weather {"city":"Oslo"}`}}},
	{name: "thinking, text and a call", style: "thinker", think: true, tools: []string{"weather"},
		text: `<think>where?</think>Rome. <tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>`,
		want: answer{Thinking: "where?", Content: "Rome. ", Calls: []string{`weather {"city":"Rome"}`}}},
	{name: "tools that are not used", style: "thinker", tools: []string{"weather"}, text: "a < b", want: answer{Content: "a < b"}},
	{name: "what only began like a call", style: "thinker", tools: []string{"weather"}, text: "so: <tool", want: answer{Content: "so: <tool"}},
	{name: "bare JSON is a call without a tag", style: "chatml", tools: []string{"weather"},
		text: `{"name": "weather", "parameters": {"city": "Rome"}}`, want: answer{Calls: []string{`weather {"city":"Rome"}`}}},
	{name: "JSON that is no call", style: "chatml", tools: []string{"weather"}, text: `{"rain": true}`, want: answer{Content: `{"rain": true}`}},
	{name: "JSON that was cut", style: "chatml", tools: []string{"weather"}, text: `{"name": "wea`, want: answer{Content: `{"name": "wea`}},

	{name: "a built-in parser's call", style: "qwen3-coder", tools: []string{"weather"},
		text: "Looking.\n<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>",
		want: answer{Content: "Looking.", Calls: []string{`weather {"city":"Rome"}`}}},
	{name: "a built-in parser's thinking", style: "qwen3-vl", think: true,
		text: "hm</think>\n\nThat.", want: answer{Thinking: "hm", Content: "That."}},
}

func TestAnswersAreSplitAlikeWhereverThePiecesEnd(t *testing.T) {
	for _, c := range outputs {
		t.Run(c.name, func(t *testing.T) {
			s := style(t, "testdata/"+c.style)
			talk := Conversation{Messages: []api.Message{{Role: "user", Content: "?"}}, Tools: offer(t, c.tools...)}
			if c.think != nil {
				talk.Think = &api.ThinkValue{Value: c.think}
			}
			check := func(pieces ...string) {
				t.Helper()
				if diff := cmp.Diff(c.want, read(t, s, talk, c.prompt, pieces...)); diff != "" {
					t.Errorf("%q:\n%s", pieces, diff)
				}
			}
			check(c.text)
			for i := 1; i < len(c.text); i++ {
				check(c.text[:i], c.text[i:])
			}
			check(strings.Split(c.text, "")...)
			var bytes []string
			for i := range len(c.text) {
				bytes = append(bytes, c.text[i:i+1])
			}
			check(bytes...)
		})
	}
}

func TestTextComesOutAsSoonAsItIsNoTag(t *testing.T) {
	s := style(t, "testdata/thinker")
	o, _, err := s.NewOutput(Conversation{Think: &api.ThinkValue{Value: true}, Tools: offer(t, "weather")})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		add  string
		want answer
	}{
		{"<thi", answer{}},
		{"nk>a", answer{Thinking: "a"}},
		{"b</", answer{Thinking: "b"}},
		{"c", answer{Thinking: "</c"}},
		{"</think>", answer{}},
		{"d", answer{Content: "d"}},
		{" <tool_", answer{Content: " "}},
		{"box>", answer{Content: "<tool_box>"}},
	} {
		p, err := o.Add(step.add)
		if err != nil {
			t.Fatal(err)
		}
		var got answer
		got.add(t, p)
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("after %q:\n%s", step.add, diff)
		}
	}
}

func TestHarmonyTellsThinkingCallsAndContentApart(t *testing.T) {
	s := Style{Template: plain, Parser: Harmony}
	talk := Conversation{Messages: []api.Message{{Role: "user", Content: "?"}}, Tools: offer(t, "get-weather")}
	_, renamed, err := s.NewOutput(talk)
	if err != nil {
		t.Fatal(err)
	}
	if got := renamed[0].Function.Name; got != "get_weather" {
		t.Errorf("the tool is shown to the model as %q", got)
	}
	if got := talk.Tools[0].Function.Name; got != "get-weather" {
		t.Errorf("the request's tool became %q", got)
	}
	got := read(t, s, talk, "", "<|channel|>analysis<|message|>Rome.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\":\"Rome\"}")
	want := answer{Thinking: "Rome.", Calls: []string{`get-weather {"city":"Rome"}`}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestACallThatCantBeReadIsAnError(t *testing.T) {
	s := style(t, "testdata/qwen3-vl")
	o, _, err := s.NewOutput(Conversation{Messages: []api.Message{{Role: "user"}}, Tools: offer(t, "weather"), Think: &api.ThinkValue{Value: false}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Add("<tool_call>no JSON</tool_call>"); err == nil {
		t.Error("no error")
	}
}

func FuzzOutputsNeverPanicAndLoseNothing(f *testing.F) {
	for _, c := range outputs {
		f.Add(c.text, 3, true)
	}
	styles := []Style{style(f, "testdata/thinker"), style(f, "testdata/chatml"), style(f, "testdata/qwen3-coder"), {Template: plain, Parser: Harmony}}
	f.Fuzz(func(t *testing.T, text string, cut int, withTools bool) {
		cut = min(max(cut, 0), len(text))
		for _, s := range styles {
			talk := Conversation{Messages: []api.Message{{Role: "user"}}, Think: &api.ThinkValue{Value: true}}
			if withTools {
				talk.Tools = offer(t, "weather")
			}
			o, _, err := s.NewOutput(talk)
			if err != nil {
				t.Fatal(err)
			}
			var a answer
			for _, piece := range []string{text[:cut], text[cut:]} {
				p, err := o.Add(piece)
				if err != nil {
					return // a call that can't be read
				}
				a.add(t, p)
			}
			p, err := o.End()
			if err != nil {
				return
			}
			a.add(t, p)
			if s.Parser == "" && !strings.ContainsAny(text, "<{\x00") && a.Content != text {
				t.Errorf("%q became %+v", text, a)
			}
		}
	})
}
