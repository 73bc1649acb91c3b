package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// repeating says again what it said 25 tokens before, but for every nineteenth token,
// which is something else.
func repeating(history []llm.Token) llm.Token {
	if n := len(history); n >= 25 && n%19 != 0 {
		return history[n-25]
	}
	return llmtest.Next(history)
}

func TestLookup(t *testing.T) {
	for _, test := range []struct {
		tokens string
		most   int
		want   string
	}{
		{"abc", 5, ""},
		{"abcd", 5, ""},
		{"abcxabc", 5, "xabc"},
		{"abcxabc", 2, "xa"},
		{"abcxabc", 0, ""},
		{"abcxyabczzabc", 2, "zz"}, // the latest
		{"aaaa", 5, "a"},
		{"aaaaaa", 2, "a"},
		{"abxbc abc", 5, ""},
		{"", 5, ""},
	} {
		tokens := llmtest.Vocab{}.Tokenize(test.tokens, false)
		var got strings.Builder
		for _, tok := range lookup(tokens, test.most) {
			got.WriteString(llmtest.Vocab{}.Piece(tok))
		}
		if got.String() != test.want {
			t.Errorf("%q, at most %d: %q, want %q", test.tokens, test.most, got.String(), test.want)
		}
	}
}

// timed is an engine whose steps take 10 ms and one more for each row but the first.
func timed(next func([]llm.Token) llm.Token, unified bool) llmtest.Options {
	return llmtest.Options{
		Limits: llm.Limits{Unified: unified},
		Next:   next,
		BeforeDecode: func(rows []llm.Row) error {
			time.Sleep(time.Duration(9+len(rows)) * time.Millisecond)
			return nil
		},
	}
}

// Few clients whose answers repeat what was said get them faster, and the same.
func TestDraftsMakeForeseeableAnswersFasterAndNoOther(t *testing.T) {
	phrase := strings.Repeat("the quick brown fox runs ", 2)
	for _, unified := range []bool{false, true} {
		for clients := 1; clients <= 6; clients++ {
			for name, next := range map[string]func([]llm.Token) llm.Token{"repeating": repeating, "random": llmtest.Next} {
				took := map[bool]time.Duration{}
				for _, without := range []bool{true, false} {
					synctest.Test(t, func(t *testing.T) {
						r := start(t, timed(next, unified), Options{NoDrafts: without})
						begin := time.Now()
						var streams []*Stream
						for i := range clients {
							streams = append(streams, r.submit(t, t.Context(), greedy(fmt.Sprint(i, phrase), 200)))
						}
						for i, st := range streams {
							text, done := read(st)
							if want := llmtest.TextBy(next, fmt.Sprint(i, phrase), 200); text != want || done.Tokens != 200 {
								t.Errorf("%s, client %d of %d: %d tokens: %q, want %q", name, i, clients, done.Tokens, text, want)
							}
						}
						took[without] = time.Since(begin)
						if n := r.Stats().DraftTokens; without && n > 0 {
							t.Errorf("%d tokens were drafted, but drafts are off", n)
						}
					})
				}
				gain := float64(took[true]) / float64(took[false])
				t.Logf("unified %v, %s, %d clients: %.2f times as fast", unified, name, clients, gain)
				switch {
				case name == "repeating" && clients <= 2 && gain < 1.5:
					t.Errorf("%d clients of repeating answers are %.2f times as fast with drafts", clients, gain)
				case gain < 0.97:
					t.Errorf("%d clients of %s answers are %.2f times as fast with drafts", clients, name, gain)
				}
			}
		}
	}
}

// Where every row costs as much as a step of its own, drafts gain nothing and lose nothing.
func TestDraftsThatDoNotPayCostNothing(t *testing.T) {
	for _, next := range []func([]llm.Token) llm.Token{repeating, llmtest.Next} {
		took := map[bool]time.Duration{}
		for _, without := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				eo := timed(next, false)
				eo.BeforeDecode = func(rows []llm.Row) error {
					time.Sleep(time.Duration(len(rows)) * 10 * time.Millisecond)
					return nil
				}
				r := start(t, eo, Options{NoDrafts: without})
				begin := time.Now()
				read(r.submit(t, t.Context(), greedy(strings.Repeat("over and over ", 10), 1000)))
				took[without] = time.Since(begin)
			})
		}
		if gain := float64(took[true]) / float64(took[false]); gain < 0.97 {
			t.Errorf("with drafts it is %.3f times as fast", gain)
		}
	}
}

func TestADraftedAnswerEndsWhereItShould(t *testing.T) {
	phrase := strings.Repeat("one two three four five. ", 3)
	whole := llmtest.TextBy(repeating, phrase, 200)
	stop := 50 // where something is said for the first time
	for strings.Index(whole, whole[stop:stop+6]) < stop {
		stop++
	}
	for name, c := range map[string]struct {
		change func(*Request)
		want   string
		reason Reason
	}{
		"at its length":  {func(r *Request) { r.MaxTokens = 37 }, whole[:37], ReasonLength},
		"at a stop":      {func(r *Request) { r.Stop = []string{whole[stop : stop+6]} }, whole[:stop], ReasonStop},
		"at its context": {func(r *Request) { r.Context = len(phrase) + 50 }, whole[:51], ReasonLength},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, timed(repeating, false), Options{})
				for range 2 { // the second time from the cache that the first has left
					req := greedy(phrase, 200)
					c.change(&req)
					text, done := read(r.submit(t, t.Context(), req))
					if text != c.want || done.Reason != c.reason {
						t.Errorf("%q, %s; want %q, %s", text, done.Reason, c.want, c.reason)
					}
				}
				if r.Stats().DraftsStood == 0 {
					t.Error("no draft stood")
				}
			})
		})
	}
}

// A seed's dice fall once for each token, drafted or not.
func TestDraftsDoNotChangeWhatASeedDraws(t *testing.T) {
	var texts []string
	for _, without := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, timed(repeating, false), Options{NoDrafts: without})
			req := greedy(strings.Repeat("again and again ", 8), 300)
			req.Sampling.Temperature, req.Sampling.Seed = 5, 42
			req.Sampling.RepeatLastN, req.Sampling.RepeatPenalty = 8, 1.05
			text, _ := read(r.submit(t, t.Context(), req))
			texts = append(texts, text)
			if !without && r.Stats().DraftTokens == 0 {
				t.Error("nothing was drafted")
			}
		})
	}
	if len(slices.Compact(texts)) != 1 {
		t.Errorf("with drafts:\n%s\nwithout:\n%s", texts[1], texts[0])
	}
}

// A memory that forgets only the whole would lose more by a wrong draft than any gains.
func TestAMemoryThatForgetsOnlyTheWholeGetsNoDraftsForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eo := timed(repeating, false)
		eo.NoTruncate = true
		r := start(t, eo, Options{})
		phrase := strings.Repeat("one two three four five. ", 3)
		text, _ := read(r.submit(t, t.Context(), greedy(phrase, 200)))
		if want := llmtest.TextBy(repeating, phrase, 200); text != want {
			t.Errorf("%q, want %q", text, want)
		}
		if n := r.Stats().DraftTokens; n > 3*mostDraft {
			t.Errorf("%d tokens were drafted", n)
		}
	})
}

func TestRowCostsBetweenAndBeyondWhatWasMeasured(t *testing.T) {
	var c rowCosts
	if c.of(3) != 0 {
		t.Error("a cost before anything was measured")
	}
	c[4] = 10
	if got := c.of(8); got != 15 {
		t.Errorf("twice the rows of the only step there was: %v, want 15", got)
	}
	c[1], c[4], c[9] = 10, 0, 50
	for rows, want := range map[int]float64{1: 10, 5: 30, 9: 50, 13: 70} {
		if got := c.of(rows); got != want {
			t.Errorf("%d rows: %v, want %v", rows, got, want)
		}
	}
	for range 10_000 {
		c.note(1, 10)
	}
	if c[9] > 10 {
		t.Errorf("a cost that was measured long ago is still %v", c[9])
	}
}
