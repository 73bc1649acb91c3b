package main

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"

	"cllm/modelstore/demo/demotest"
)

// conversation is what one user says, turn by turn, each in one phrasing or several of
// which the first counts, and the secrets that he tells.
type conversation struct {
	says    [][]string
	secrets []string
}

// hold has a conversation and returns the answers.
func (s *server) hold(ctx context.Context, c conversation) (answers []string, err error) {
	var messages []api.Message
	for _, phrasings := range c.says {
		messages = append(messages, user(phrasings[0]))
		r, err := s.chat(ctx, messages)
		if err != nil {
			return answers, err
		}
		answers = append(answers, r.Message.Content)
		messages = append(messages, r.Message)
	}
	return answers, nil
}

// certain is how many nats likelier each token of an answer is than the second best
// one. Between nearer ones the last bits decide, and these depend on which rows are
// computed together and which positions are reused.
const certain = 0.5

// holdCertain is hold for a conversation that is alone. It leaves the phrasings out whose
// answers are not certain.
func (s *server) holdCertain(t *testing.T, c *conversation) (answers []string) {
	t.Helper()
	var messages []api.Message
	for turn := 0; turn < len(c.says); {
		asked := append(slices.Clip(messages), user(c.says[turn][0]))
		r := s.mustChat(t, asked, func(r *api.ChatRequest) { r.Logprobs, r.TopLogprobs = true, 2 })
		if lead(r) < certain && len(c.says[turn]) > 1 {
			c.says[turn] = c.says[turn][1:]
			continue
		}
		answers = append(answers, r.Message.Content)
		messages = append(asked, r.Message)
		turn++
	}
	return answers
}

// lead is how many nats likelier than the second best token an answer's least certain one is.
func lead(r api.ChatResponse) float64 {
	least := math.Inf(1)
	for _, l := range r.Logprobs {
		if top := l.TopLogprobs; len(top) == 2 {
			least = min(least, top[0].Logprob-top[1].Logprob)
		}
	}
	return least
}

// conversations returns n different ones of six turns: each tells a name and a word of
// its own, asks about other things, and asks for both.
func conversations(t *testing.T, n int) (all []conversation) {
	t.Helper()
	name, word := demotest.FactOf(t, "fact.name"), demotest.FactOf(t, "fact.word")
	entries := demotest.Corpus(t)
	var texts strings.Builder // in which no secret stands by itself
	for _, e := range entries {
		texts.WriteString(e.Answer + "\n")
	}
	secret := func(values []string) []string {
		return slices.DeleteFunc(values, func(v string) bool { return mentions(texts.String(), v) })
	}
	names, words := secret(demotest.Values(t, "names")), secret(demotest.Values(t, "words"))
	if len(names) < n || len(words) < n {
		t.Fatalf("there are only %d names and %d words", len(names), len(words))
	}
	for i := range n {
		about := func(turn int) []string {
			e := entries[(i*7+turn*101)%len(entries)]
			return e.Questions[i%len(e.Questions):]
		}
		all = append(all, conversation{
			says: [][]string{
				{strings.ReplaceAll(name.Tell, "{name}", names[i])}, about(1),
				{strings.ReplaceAll(word.Tell, "{word}", words[i])}, about(3),
				{word.Ask}, {name.Ask},
			},
			secrets: []string{names[i], words[i]},
		})
	}
	return all
}

// mentions reports whether a word stands in a text, in whatever case.
func mentions(text, word string) bool {
	words := strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) })
	return slices.ContainsFunc(words, func(w string) bool { return strings.EqualFold(w, word) })
}

func TestSixtyFourConversationsAtOnceGoAsEachGoesAlone(t *testing.T) {
	if testing.Short() {
		t.Skip("768 answers take a while")
	}
	s := serveDemo(t)
	all := conversations(t, 64)
	alone, among := make([][]string, len(all)), make([][]string, len(all))
	for i := range all {
		alone[i] = s.holdCertain(t, &all[i])
	}
	together(len(all), func(i int) {
		var err error
		if among[i], err = s.hold(t.Context(), all[i]); err != nil {
			t.Errorf("conversation %d: %v", i, err)
		}
	})

	remembered := 0
	for i, answers := range among {
		if diff := cmp.Diff(alone[i], answers); diff != "" {
			t.Errorf("conversation %d (-alone +among others):\n%s", i, diff)
		}
		for j, other := range all {
			for turn, answer := range answers {
				for _, secret := range other.secrets {
					if i != j && mentions(answer, secret) {
						t.Errorf("conversation %d, turn %d shows %q, which was told in conversation %d: %q", i, turn+1, secret, j, answer)
					}
				}
			}
		}
		last := answers[max(len(answers)-2, 0):]
		for k, secret := range []string{all[i].secrets[1], all[i].secrets[0]} {
			if len(last) == 2 && mentions(last[k], secret) {
				remembered++
			}
		}
	}
	t.Logf("%d of %d secrets are remembered", remembered, 2*len(all))
	if remembered < 2*len(all)*9/10 {
		t.Errorf("too few to tell whether conversations are kept apart")
	}
}
