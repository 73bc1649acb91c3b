package main

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ollama/ollama/api"

	"cllm/modelstore/demo/demotest"
)

// told is the question whose answer the tests of limits cut, and its tokens.
type told struct {
	question, answer string
	prompt           int // tokens of the prompt
	tokens           []string
}

// tell asks after what was said before. The model has to know the answer to one of ten
// phrasings: behind a long conversation even a good one may miss the first.
func (s *server) tell(t *testing.T, before ...api.Message) told {
	t.Helper()
	e := demotest.Find(t, demotest.Corpus(t), "about.what")
	for _, question := range e.Questions[:10] {
		messages := append(slices.Clip(before), user(question))
		r := s.mustChat(t, messages, func(r *api.ChatRequest) { r.Logprobs = true })
		if r.Message.Content == e.Answer && r.DoneReason == "stop" {
			return newTold(t, question, r)
		}
		t.Logf("%q is answered with %q (%s), want %q", question, r.Message.Content, r.DoneReason, e.Answer)
	}
	t.Fatal("the model does not know the answer")
	return told{}
}

func newTold(t *testing.T, question string, r api.ChatResponse) told {
	t.Helper()
	a := told{question: question, answer: r.Message.Content, prompt: r.PromptEvalCount}
	for _, l := range r.Logprobs {
		a.tokens = append(a.tokens, l.Token)
	}
	if strings.Join(a.tokens, "") != a.answer || r.EvalCount != len(a.tokens)+1 {
		t.Fatalf("the tokens of %q are %q, and %d are counted", a.answer, a.tokens, r.EvalCount)
	}
	return a
}

func TestAnAnswerEndsBeforeItsStopString(t *testing.T) {
	s := serveDemo(t)
	a := s.tell(t)
	words := strings.Fields(a.answer)
	middle := len(words) / 2
	for what, stop := range map[string][]string{
		"a word":                  {words[middle]},
		"words":                   {strings.Join(words[middle:middle+2], " ")},
		"a part of a word":        {words[middle][1:]},
		"the first of several":    {"nowhere", words[len(words)-1], words[middle]},
		"the first character":     {a.answer[:1]},
		"the last one":            {a.answer[len(a.answer)-1:]},
		"one that is never there": {words[0] + words[0]},
	} {
		want := a.answer
		for _, text := range stop {
			want, _, _ = strings.Cut(want, text)
		}
		got := s.mustChat(t, []api.Message{user(a.question)}, option("stop", stop))
		if got.Message.Content != want || got.DoneReason != "stop" {
			t.Errorf("%s, %q: the answer is %q (%s), want %q", what, stop, got.Message.Content, got.DoneReason, want)
		}
	}
}

func TestNumPredictEndsAnAnswerAtThatToken(t *testing.T) {
	s := serveDemo(t)
	a := s.tell(t)
	for _, n := range []int{1, 2, len(a.tokens) / 2, len(a.tokens)} {
		got := s.mustChat(t, []api.Message{user(a.question)}, option("num_predict", n))
		want := strings.Join(a.tokens[:n], "")
		if got.Message.Content != want || got.DoneReason != "length" || got.EvalCount != n {
			t.Errorf("after %d tokens: %q (%s, %d tokens), want %q", n, got.Message.Content, got.DoneReason, got.EvalCount, want)
		}
	}
	got := s.mustChat(t, []api.Message{user(a.question)}, option("num_predict", len(a.tokens)+1))
	if got.Message.Content != a.answer || got.DoneReason != "stop" {
		t.Errorf("with room for the end token: %q (%s)", got.Message.Content, got.DoneReason)
	}
}

// smallTalk is so many questions and their answers, of at least 30 tokens each.
func smallTalk(t *testing.T, turns int) (messages []api.Message) {
	t.Helper()
	for _, e := range demotest.Corpus(t) {
		if len(e.Answer) > 150 {
			messages = append(messages, user(e.Questions[0]), assistant(e.Answer))
		}
		if len(messages) == 2*turns {
			return messages
		}
	}
	t.Fatal("too few answers of the corpus are long")
	return nil
}

func TestWhatDoesNotFitTheContextIsForgottenOldestFirst(t *testing.T) {
	s := serveDemo(t)
	name := demotest.FactOf(t, "fact.name")
	with := func(text string) string { return strings.ReplaceAll(text, "{name}", demotest.Values(t, "names")[0]) }
	asked := []api.Message{user(name.Ask)}
	whole := append([]api.Message{user(with(name.Tell)), assistant(with(name.Noted))}, append(smallTalk(t, 1), asked...)...)

	if got := s.mustChat(t, whole); got.Message.Content != with(name.Answer) {
		t.Errorf("the whole conversation: %q, want %q", got.Message.Content, with(name.Answer))
	}
	alone := s.mustChat(t, asked)
	if alone.Message.Content != name.NotToldAnswer {
		t.Errorf("the question alone: %q, want %q", alone.Message.Content, name.NotToldAnswer)
	}
	// Room for the question and its answer, but not for the message before.
	context := option("num_ctx", alone.PromptEvalCount+alone.EvalCount+2)
	cut := s.mustChat(t, whole, context)
	if cut.Message.Content != alone.Message.Content || cut.DoneReason != "stop" || cut.PromptEvalCount != alone.PromptEvalCount {
		t.Errorf("cut off: %q (%s) to %d tokens; alone %q to %d", cut.Message.Content, cut.DoneReason, cut.PromptEvalCount, alone.Message.Content, alone.PromptEvalCount)
	}
	no := false
	_, err := s.chat(t.Context(), whole, context, func(r *api.ChatRequest) { r.Truncate = &no })
	var status api.StatusError
	if !errors.As(err, &status) || status.StatusCode != http.StatusBadRequest || status.ErrorMessage != "the input length exceeds the context length" {
		t.Errorf("without truncation: %v", err)
	}
}

func TestAFullContextShiftsInTheMiddleOfAnAnswer(t *testing.T) {
	s := serveDemo(t)
	before := smallTalk(t, 3)
	a := s.tell(t, before...)
	messages := append(before, user(a.question))
	half := len(a.tokens) / 2
	context := option("num_ctx", a.prompt+half-1) // full with this many tokens of the answer
	got := s.mustChat(t, messages, context)
	if got.Message.Content != a.answer || got.DoneReason != "stop" || got.PromptEvalCount != a.prompt {
		t.Errorf("shifted: %q (%s) to %d tokens, want %q to %d", got.Message.Content, got.DoneReason, got.PromptEvalCount, a.answer, a.prompt)
	}
	no := false
	got = s.mustChat(t, messages, context, func(r *api.ChatRequest) { r.Shift = &no })
	if want := strings.Join(a.tokens[:half], ""); got.Message.Content != want || got.DoneReason != "length" {
		t.Errorf("without a shift: %q (%s), want %q", got.Message.Content, got.DoneReason, want)
	}
}
