package daemon

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"

	"cllm/daemon/prompt"
	"cllm/llm"
	"cllm/llm/llmtest"
	"cllm/modelstore"
	"cllm/scheduler"
)

// decoded are options as they come from JSON.
func decoded(t testing.TB, options string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(options), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestOptionsOfTheWrongTypeGetOllamasText(t *testing.T) {
	d := &Daemon{}
	for _, c := range []struct{ options, want string }{
		{`{"num_ctx": "4096"}`, `option "num_ctx" must be of type integer`},
		{`{"num_keep": true}`, `option "num_keep" must be of type integer`},
		{`{"seed": [1]}`, `option "seed" must be of type integer`},
		{`{"temperature": "hot"}`, `option "temperature" must be of type float32`},
		{`{"top_p": {}}`, `option "top_p" must be of type float32`},
		{`{"use_mmap": 1}`, `option "use_mmap" must be of type boolean`},
		{`{"stop": 1}`, `option "stop" must be of type array`},
		{`{"stop": ["a", 1]}`, `option "stop" must be of an array of strings`},
	} {
		_, err := d.options(&modelstore.Model{}, decoded(t, c.options))
		status, text := answer(err)
		if status != 500 || text != c.want {
			t.Errorf("%s: %d %q, want 500 %q", c.options, status, text, c.want)
		}
	}
}

func TestRequestsOverrideTheModelAndTheModelTheDefaults(t *testing.T) {
	d := &Daemon{opts: Options{ContextLength: 2048}}
	m := &modelstore.Model{Parameters: decoded(t, `{"temperature": 0.5, "top_k": 7, "stop": ["a"], "num_ctx": 512}`)}
	got, err := d.options(m, decoded(t, `{"top_k": 9.9, "stop": "b", "seed": null, "mirostat": 1}`))
	if err != nil {
		t.Fatal(err)
	}
	want := api.DefaultOptions()
	want.Temperature, want.TopK, want.Stop, want.NumCtx, want.RepeatPenalty = 0.5, 9, []string{"b"}, 512, 1
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	got, err = d.options(&modelstore.Model{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.NumCtx != 2048 || got.RepeatPenalty != 1 {
		t.Errorf("num_ctx %d, repeat_penalty %v by default, want 2048 and 1", got.NumCtx, got.RepeatPenalty)
	}
}

func TestOptionsThatAreCheckedAreNotChanged(t *testing.T) {
	d := &Daemon{}
	m := &modelstore.Model{Parameters: decoded(t, `{"stop": "a"}`)}
	request := decoded(t, `{"stop": "b", "num_ctx": 1}`)
	if _, err := d.options(m, request); err != nil {
		t.Fatal(err)
	}
	if m.Parameters["stop"] != "a" || request["stop"] != "b" {
		t.Errorf("changed to %v and %v", m.Parameters, request)
	}
}

func TestNumCtxIsALimitOfTheRequest(t *testing.T) {
	for _, c := range []struct{ numCtx, most, want int }{
		{4096, 40960, 4096},
		{100000, 40960, 40960},
		{0, 40960, 4},
		{-1, 40960, 4},
		{math.MinInt, 40960, 4},
		{4096, 2, 2},
	} {
		if got := contextLimit(api.Options{Runner: api.Runner{NumCtx: c.numCtx}}, c.most); got != c.want {
			t.Errorf("num_ctx %d of %d: %d, want %d", c.numCtx, c.most, got, c.want)
		}
	}
}

// begun is the fake vocabulary with a begin token.
type begun struct{ llmtest.Vocab }

func (begun) BOS() int { return 1 }
func (v begun) Tokenize(text string, special bool) []llm.Token {
	tokens := v.Vocab.Tokenize(text, special)
	if special {
		tokens = append([]llm.Token{llmtest.EndOfText}, tokens...)
	}
	return tokens
}

func TestRequestsGetTheirLimits(t *testing.T) {
	for _, c := range []struct {
		name                string
		numPredict, numKeep int
		vocab               llm.Vocab
		prompt              string
		context             int
		wantPrompt          string
		wantTokens, keep    int
	}{
		{"no limit becomes ten contexts", -1, 4, llmtest.Vocab{}, "abcdef", 10, "abcdef", 100, 4},
		{"a larger one too", 101, 4, llmtest.Vocab{}, "abcdef", 10, "abcdef", 100, 4},
		{"a smaller one stays", 7, 4, llmtest.Vocab{}, "abcdef", 10, "abcdef", 7, 4},
		{"zero is no limit", 0, 4, llmtest.Vocab{}, "abcdef", 10, "abcdef", 0, 4},
		{"the least", math.MinInt, math.MinInt, llmtest.Vocab{}, "abcdef", 10, "abcdef", 100, 6},
		{"the most", math.MaxInt, math.MaxInt, begun{}, "abcdef", 10, "\x00abcdef", 100, 9},
		{"keep all", -1, -1, llmtest.Vocab{}, "abcdef", 10, "abcdef", 100, 6},
		{"keep counts the begin token", -1, 2, begun{}, "abcdef", 10, "\x00abcdef", 100, 3},
		{"one token can always go", -1, -1, llmtest.Vocab{}, "abcdefghij", 10, "abcdefghij", 100, 9},
		{"the middle goes", -1, 2, llmtest.Vocab{}, "abcdefghij", 5, "abhij", 50, 2},
		{"the middle goes behind the begin token", -1, 2, begun{}, "abcdefghij", 5, "\x00abij", 50, 3},
		{"all but one kept", -1, -1, llmtest.Vocab{}, "abcdefghij", 5, "abcdj", 50, 4},
		{"nothing kept", -1, 0, llmtest.Vocab{}, "abcdefghij", 5, "fghij", 50, 0},
	} {
		opts := api.DefaultOptions()
		opts.NumPredict, opts.NumKeep = c.numPredict, c.numKeep
		got, err := newRequest(opts, c.vocab, c.vocab.Tokenize(c.prompt, true), c.context, true, true)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, tok := range got.Prompt {
			if tok == llmtest.EndOfText {
				text += "\x00"
				continue
			}
			text += c.vocab.Piece(tok)
		}
		if text != c.wantPrompt || got.MaxTokens != c.wantTokens || got.Keep != c.keep || got.Context != c.context {
			t.Errorf("%s: prompt %q, %d tokens, keep %d, context %d; want %q, %d, %d, %d", c.name,
				text, got.MaxTokens, got.Keep, got.Context, c.wantPrompt, c.wantTokens, c.keep, c.context)
		}
	}
}

func TestCuttingTheMiddleLeavesThePromptAsItIs(t *testing.T) {
	tokens := []llm.Token{1, 2, 3, 4, 5, 6}
	got := cutMiddle(tokens, 2, 4)
	got[0] = 9
	if diff := cmp.Diff([]llm.Token{1, 2, 3, 4, 5, 6}, tokens); diff != "" {
		t.Error(diff)
	}
}

func TestPromptsThatCantBeServedAreRefused(t *testing.T) {
	for _, c := range []struct {
		prompt string
		status int
		text   string
	}{
		{"", 400, "the prompt is empty: the template left nothing of it"},
		{"abcdef", 400, "the input length exceeds the context length"},
	} {
		_, err := newRequest(api.DefaultOptions(), llmtest.Vocab{}, llmtest.Vocab{}.Tokenize(c.prompt, true), 5, false, true)
		if status, text := answer(err); status != c.status || text != c.text {
			t.Errorf("%q: %d %q", c.prompt, status, text)
		}
	}
}

func TestEverySamplingOptionReachesTheSampler(t *testing.T) {
	d := &Daemon{}
	opts, err := d.options(&modelstore.Model{}, decoded(t, `{"temperature": 0.1, "top_k": 2, "top_p": 0.3, "min_p": 0.4, "typical_p": 0.5,
		"repeat_last_n": 6, "repeat_penalty": 0.7, "presence_penalty": 0.8, "frequency_penalty": 0.9, "seed": 10, "stop": ["x"]}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := newRequest(opts, llmtest.Vocab{}, []llm.Token{1}, 5, true, false)
	if err != nil {
		t.Fatal(err)
	}
	want := scheduler.Request{
		Prompt: []llm.Token{1}, Context: 5, Keep: 4, MaxTokens: 50, Stop: []string{"x"},
		Sampling: llm.SamplingParams{
			Temperature: 0.1, TopK: 2, TopP: 0.3, MinP: 0.4, TypicalP: 0.5,
			RepeatLastN: 6, RepeatPenalty: 0.7, PresencePenalty: 0.8, FrequencyPenalty: 0.9, Seed: 10,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestOnlySeedMinusOneIsRandom(t *testing.T) {
	for _, c := range []struct {
		seed int
		want int64
	}{{-1, -1}, {0, 0}, {42, 42}, {-2, 1<<32 - 2}, {1<<32 + 5, 5}} {
		if got := sampling(api.Options{Seed: c.seed}).Seed; got != c.want {
			t.Errorf("seed %d becomes %d, want %d", c.seed, got, c.want)
		}
	}
}

func TestARepeatPenaltyThatCantBeDividedByIsOff(t *testing.T) {
	for _, p := range []float32{0, -1} {
		if got := sampling(api.Options{RepeatPenalty: p}).RepeatPenalty; got != 1 {
			t.Errorf("repeat_penalty %v becomes %v", p, got)
		}
	}
}

func TestMissingAbilitiesGetOllamasTexts(t *testing.T) {
	m := &modelstore.Model{Name: model.ParseName("tiny")}
	all := ability{model.CapabilityCompletion, model.CapabilityTools, model.CapabilityInsert, model.CapabilityThinking}
	for _, c := range []struct {
		name string
		can  ability
		need []model.Capability
		want string
	}{
		{"all there", all, []model.Capability{model.CapabilityTools, model.CapabilityInsert}, ""},
		{"no completion", ability{model.CapabilityEmbedding}, []model.Capability{model.CapabilityTools}, `"Tiny" does not support chat`},
		{"no tools", all[:1], []model.Capability{model.CapabilityTools}, "registry.ollama.ai/library/tiny:latest does not support tools"},
		{"two missing", all[:1], []model.Capability{model.CapabilityTools, model.CapabilityInsert},
			"registry.ollama.ai/library/tiny:latest does not support tools\ninsert"},
	} {
		err := c.can.check(m, "Tiny", "chat", c.need...)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if status, text := answer(err); status != 400 || text != c.want {
			t.Errorf("%s: %d %q, want 400 %q", c.name, status, text, c.want)
		}
	}
}

func TestThinkingIsOnWhereTheModelCan(t *testing.T) {
	on, off, high := &api.ThinkValue{Value: true}, &api.ThinkValue{Value: false}, &api.ThinkValue{Value: "high"}
	able, unable := ability{model.CapabilityThinking}, ability{}
	for _, c := range []struct {
		can  ability
		in   *api.ThinkValue
		want *api.ThinkValue
		err  string
	}{
		{able, nil, on, ""},
		{able, off, off, ""},
		{able, high, high, ""},
		{unable, nil, nil, ""},
		{unable, off, off, ""},
		{unable, on, nil, `"m" does not support thinking`},
		{unable, high, nil, `"m" does not support thinking`},
	} {
		got, err := c.can.think("m", c.in)
		if c.err != "" {
			if status, text := answer(err); status != 400 || text != c.err {
				t.Errorf("%v of %v: %d %q", c.in, c.can, status, text)
			}
			continue
		}
		if err != nil || !cmp.Equal(c.want, got) {
			t.Errorf("%v of %v: %v, %v", c.in, c.can, got, err)
		}
	}
}

func TestContextIsTheTextOfPromptAndAnswer(t *testing.T) {
	for _, vocab := range []llm.Vocab{llmtest.Vocab{}, begun{}, joined{}} {
		text := "<|im_start|>user\nhé<|im_end|>"
		p := prompt.Fitted[llm.Token]{Rendered: prompt.Rendered{Text: text}, Tokens: vocab.Tokenize(text, true)}
		before := len(p.Tokens)
		got := contextTokens(vocab, p, "b")
		back, err := detokenize(vocab, got)
		if err != nil || back != text+"b" {
			t.Errorf("%T: %q, %v", vocab, back, err)
		}
		if len(p.Tokens) != before || cap(got) == 0 {
			t.Errorf("%T: the prompt's tokens were changed", vocab)
		}
	}
}

// joined is a vocabulary in which a text alone is cut in another way than after
// other text: its first byte gets a space before it.
type joined struct{ llmtest.Vocab }

func (v joined) Tokenize(text string, special bool) []llm.Token {
	if !strings.HasPrefix(text, "<") {
		text = " " + text
	}
	return v.Vocab.Tokenize(text, special)
}

func TestAContextWithForeignTokensIsRefused(t *testing.T) {
	for _, token := range []int{-1, llmtest.VocabSize, math.MaxInt, 1 << 32} {
		_, err := detokenize(llmtest.Vocab{}, []int{'a', token})
		if status, _ := answer(err); err == nil || status != 400 {
			t.Errorf("token %d: %v", token, err)
		}
	}
}
