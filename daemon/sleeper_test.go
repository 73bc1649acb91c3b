package daemon

import (
	"strings"
	"testing"

	"github.com/ollama/ollama/api"

	"cllm/daemon/prompt"
	"cllm/llm"
	"cllm/llm/llmtest"
)

func TestThinkingRunsFreeAndTheContentIsHeldToTheFormat(t *testing.T) {
	const think = "<think>{not} JSON: [1, 2</think>\n\n"
	for _, c := range []struct {
		promise, script, options string
		thinking                 string
		content                  string // "": any object
	}{
		{"content that fits", think + `{"a": 1}`, ``, "{not} JSON: [1, 2", `{"a": 1}`},
		{"content that does not", think + `Sure: {"a": 1}`, ``, "{not} JSON: [1, 2", ""},
		{"thinking that is skipped", `{"a": 1}`, ``, "", `{"a": 1}`},
		{"thinking that is skipped, and content that does not fit", `Sure`, ``, "", ""},
		{"white space before the tag", "\n <think>a</think>{}", ``, "a", `{}`},
		{"a tag that was begun is completed", "<thin", ``, "", "none"},
		{"think is false: at once", `<think>a</think>{}`, `,"think":false`, "", ""},
		{"an answer that ends in its thinking", "<think>a", ``, "a", "none"},
	} {
		t.Run(c.promise, func(t *testing.T) {
			a := serveFake(t, always(c.script))
			body := `{"model":"thinker","messages":[{"role":"user","content":"?"}],"format":"json","options":{"temperature":0}` + c.options + `}`
			got := gather(t, a.post("/api/chat", body).body)
			if got.Thinking != c.thinking {
				t.Errorf("thinking %q, want %q", got.Thinking, c.thinking)
			}
			switch c.content {
			case "none":
				if got.Content != "" {
					t.Errorf("content %q", got.Content)
				}
			case "":
				object(t, got.Content)
			default:
				if got.Content != c.content {
					t.Errorf("content %q, want %q", got.Content, c.content)
				}
			}
		})
	}
}

func TestGenerateHoldsTheThinkingToTheFormatToo(t *testing.T) {
	a := serveFake(t, always(`<think>a</think>{"b": 1}`))
	got := gather(t, a.post("/api/generate", `{"model":"thinker","prompt":"?","format":"json","options":{"temperature":0}}`).body)
	if got.Thinking != "" {
		t.Errorf("thinking %q", got.Thinking)
	}
	object(t, got.Content)
}

func TestToolCallsAreContentToAFormat(t *testing.T) {
	const call = `<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>`
	a := serveFake(t, always("<think>a</think>"+call))
	got := gather(t, a.post("/api/chat", `{"model":"thinker","messages":[{"role":"user","content":"?"}],"format":"json","options":{"temperature":0},"tools":`+weatherTool+`}`).body)
	if got.Calls != 0 || got.Thinking != "a" {
		t.Errorf("%+v", got)
	}
	object(t, got.Content)
}

// asleep is a sleeper over the fake vocabulary or another one.
func asleep(t *testing.T, style prompt.Style, c prompt.Conversation, v llm.Vocab) *sleeper {
	t.Helper()
	g, err := jsonGrammar()
	if err != nil {
		t.Fatal(err)
	}
	m, err := g.Match(v)
	if err != nil {
		t.Fatal(err)
	}
	s := &sleeper{grammar: m, vocab: v, watch: func() (*prompt.Output, error) { return style.NewWatch(c) }}
	if s.output, err = s.watch(); err != nil {
		t.Fatal(err)
	}
	if !s.output.Thinks() {
		t.Fatal("there is no thinking to sleep through")
	}
	return s
}

func TestTheFormatBeginsWhereEachParserSaysThatContentBegins(t *testing.T) {
	think := &api.ThinkValue{Value: true}
	for parser, before := range map[string]string{
		"qwen3-thinking":    "so [1</think>\n\n",
		"qwen3-vl-thinking": "so [1</think>\n\n",
		"deepseek3":         "so [1</think>",
		"cogito":            "so [1\n</think>\n",
		"glm-4.7":           "so [1</think>",
		"nemotron-3-nano":   "so [1</think>\n\n",
		"olmo3-think":       "so [1</think>",
		"lfm2-thinking":     "so [1</think>",
		prompt.Harmony:      "<|channel|>analysis<|message|>so [1<|end|><|start|>assistant<|channel|>final<|message|>",
		"":                  "<think>so [1</think>\n",
	} {
		t.Run(parser, func(t *testing.T) {
			style := thinkerStyle(t)
			style.Parser = parser
			take := func(s *sleeper, text string) (taken string) {
				t.Helper()
				for _, token := range (llmtest.Vocab{}).Tokenize(text, false) {
					ok, err := s.Take(token)
					if err != nil {
						t.Fatal(err)
					}
					if !ok {
						return taken
					}
					taken += llmtest.Vocab{}.Piece(token)
				}
				return taken
			}
			c := prompt.Conversation{Messages: []api.Message{{Role: "user", Content: "?"}}, Think: think}
			s := asleep(t, style, c, llmtest.Vocab{})
			if got := take(s, before); got != before || s.awake || s.Complete() {
				t.Fatalf("of the thinking %q was taken, awake: %v", got, s.awake)
			}
			if got := take(s, `{"a": 1}`); got != `{"a": 1}` || !s.awake || !s.Complete() {
				t.Errorf("of the content %q was taken, awake: %v", got, s.awake)
			}
			s = asleep(t, style, c, llmtest.Vocab{})
			take(s, before)
			if got := take(s, "Sure"); got != "" || !s.awake {
				t.Errorf("of what does not fit %q was taken, awake: %v", got, s.awake)
			}
			left, err := s.Filter([]llm.Candidate{{Token: 'S'}, {Token: '['}, {Token: '{'}, {Token: llmtest.IMEnd}})
			if err != nil || len(left) != 1 || left[0].Token != '{' {
				t.Errorf("%v is left, %v", left, err)
			}
		})
	}
}

func thinkerStyle(t *testing.T) prompt.Style {
	t.Helper()
	tmpl, err := prompt.Parse(thinkerTemplate(t))
	if err != nil {
		t.Fatal(err)
	}
	return prompt.Style{Template: tmpl}
}

// pieces is a vocabulary of whole pieces; the last token ends an answer.
type pieces []string

func (p pieces) Tokenize(string, bool) []llm.Token { return nil }
func (p pieces) Piece(t llm.Token) string          { return p[t] }
func (p pieces) IsEnd(t llm.Token) bool            { return int(t) == len(p)-1 }
func (p pieces) BOS() int                          { return 0 }
func (p pieces) Size() int                         { return len(p) }

// A token may complete the tag and begin the content at once.
func TestAFormatThatBeginsInsideAToken(t *testing.T) {
	v := pieces{"<think>", "a", "</think", ">Sure", ">[", ">{", ">{\"é", ">", " {", ">{\xc3", "\xa9", "<end>"}
	c := prompt.Conversation{Think: &api.ThinkValue{Value: true}}
	begin := func() *sleeper {
		s := asleep(t, thinkerStyle(t), c, v)
		for token := range llm.Token(3) {
			if ok, err := s.Take(token); !ok || err != nil {
				t.Fatal(v[token], ok, err)
			}
		}
		return s
	}
	for token, want := range map[llm.Token]bool{3: false, 4: false, 5: true, 6: true, 7: true, 9: false, 11: true} {
		s := begin()
		ok, err := s.Take(token)
		if ok != want || err != nil {
			t.Errorf("%q: %v, %v", v[token], ok, err)
		}
		if want || s.awake {
			continue
		}
		// The answer goes on as if the token had not been tried.
		var all []llm.Candidate
		for i := range v {
			all = append(all, llm.Candidate{Token: llm.Token(i)})
		}
		left, err := s.Filter(all[3:])
		if err != nil || len(left) != 1 || v[left[0].Token] != ">{" {
			t.Errorf("instead of %q: %v, %v", v[token], left, err)
		}
		if ok, _ := s.Take(7); !ok || s.awake {
			t.Errorf("after %q the tag is refused", v[token])
		}
		if ok, _ := s.Take(8); !ok || !s.awake {
			t.Errorf("after %q the content is refused", v[token])
		}
	}
	s := begin()
	if ok, _ := s.Take(6); !ok {
		t.Fatal("refused")
	}
	if ok, _ := s.grammar.TakeText(`": 1}`); !ok || !s.Complete() {
		t.Error("the grammar does not stand behind the token")
	}
}

func TestReadingTheAnswerAnewIsBounded(t *testing.T) {
	v := make(pieces, 10000)
	for i := range v {
		v[i] = ">" + strings.Repeat("x", i%100+1)
	}
	s := asleep(t, thinkerStyle(t), prompt.Conversation{Think: &api.ThinkValue{Value: true}}, v)
	reads := 0
	watch := s.watch
	s.watch = func() (*prompt.Output, error) { reads++; return watch() }
	s.read("<think>a</think")
	var all []llm.Candidate
	for i := range len(v) - 1 {
		all = append(all, llm.Candidate{Token: llm.Token(i)})
	}
	for range 10 {
		if left, err := s.Filter(all); len(left) != 0 || err != nil {
			t.Fatalf("%d are left, %v", len(left), err)
		}
	}
	if reads < 50 || reads > mostAgain/startAgain+1 {
		t.Errorf("the answer was read %d times", reads)
	}
}
