package scheduler

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// pieces is the text of tokens, as the model wrote it.
func pieces(tokens []Logprob) string {
	var b strings.Builder
	for _, l := range tokens {
		b.WriteString(llmtest.Vocab{}.Piece(l.Token))
	}
	return b.String()
}

func TestLogprobsComeWithTheTextTheyBelongTo(t *testing.T) {
	for _, tt := range []struct {
		promise string
		answer  string
		stop    []string
		max     int
		want    string // the text of the tokens that are told
	}{
		{"one for each token and none for the end", "hello", nil, 0, "hello"},
		{"none for an empty answer", "", nil, 0, ""},
		{"as many as num_predict", "hello", nil, 3, "hel"},
		{"none for what a stop string cuts off", "one two three", []string{"two"}, 0, "one "},
		{"held text that is no stop string has its own", "one tw", []string{"two"}, 0, "one tw"},
		{"held text that turns out to be none has its own", "one twist", []string{"two"}, 0, "one twist"},
		{"all bytes of a character", "a€b", nil, 0, "a€b"},
		{"a character that num_predict cuts", "a€b", nil, 3, "a\xe2\x82"},
		{"a lone bad byte", "a\xffb", nil, 0, "a\xffb"},
		{"a stop string of one token", "ab.cd", []string{"."}, 0, "ab"},
	} {
		t.Run(tt.promise, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, script(tt.answer), Options{})
				req := greedy("say>", tt.max)
				req.Stop, req.Logprobs, req.TopLogprobs = tt.stop, true, 2
				st := r.submit(t, t.Context(), req)
				var all []Logprob
				text := ""
				for {
					e, ok := st.Next()
					if !ok {
						break
					}
					text += e.Text
					all = append(all, e.Logprobs...)
					// Bytes that are no text became U+FFFD, so only plain answers are compared.
					if e.Done == nil && strings.ToValidUTF8(tt.answer, "") == tt.answer {
						if told := pieces(all); !strings.HasPrefix(told, text) || len(pieces(all[:len(all)-1])) >= len(text) {
							t.Errorf("the tokens told are %q, the text is %q", told, text)
						}
					}
				}
				if told := pieces(all); told != tt.want {
					t.Errorf("the tokens told are %q, want %q", told, tt.want)
				}
				for _, l := range all {
					if len(l.Top) != 2 || l.Top[0].Token != l.Token || l.Top[0].Logprob != l.Logprob.Logprob || l.Top[1].Logprob > l.Logprob.Logprob || l.Logprob.Logprob > 0 {
						t.Errorf("%+v", l)
					}
				}
			})
		})
	}
}

// A stop string may cut off a part of a token of several characters.
func TestATokenIsToldWithTheFirstOfItsCharacters(t *testing.T) {
	q := &sequence{text: llm.NewText([]string{"stop", "x"})}
	add := func(token llm.Token, piece string) (text string, told []llm.Token) {
		q.note(llm.Pick{Token: token, Logprobs: &llm.Logprobs{}}, len(piece))
		text, _ = q.text.Add(piece)
		for _, l := range q.told(q.text.Settled()) {
			told = append(told, l.Token)
		}
		return text, told
	}
	for i, step := range []struct {
		piece, text string
		told        int
	}{
		{"one s", "", 0}, // "s" may be a stop string's
		{"t", "", 0},
		{"", "", 0},
		{"ay ", "one stay ", 4},
		{"string st", "", 0},
		{"op", "string ", 1}, // cut off with the "st" before it
	} {
		text, told := add(llm.Token(i), step.piece)
		if text != step.text || len(told) != step.told {
			t.Errorf("after %q: text %q and tokens %v, want %q and %d", step.piece, text, told, step.text, step.told)
		}
	}
	if len(q.unsent) != 1 || q.unsent[0].Token != 5 {
		t.Errorf("held back: %+v", q.unsent)
	}
}

func TestNobodyPaysForLogprobsThatNobodyWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{}, Options{})
		with := greedy("with", 20)
		with.Logprobs = true
		a, b := r.submit(t, t.Context(), with), r.submit(t, t.Context(), greedy("without", 20))
		told := 0
		for {
			e, ok := a.Next()
			if !ok {
				break
			}
			for _, l := range e.Logprobs {
				if told++; l.Top != nil || math.IsNaN(float64(l.Logprob.Logprob)) {
					t.Errorf("%+v", l)
				}
			}
		}
		if told != 20 {
			t.Errorf("%d tokens were told", told)
		}
		for {
			e, ok := b.Next()
			if !ok {
				break
			}
			if e.Logprobs != nil {
				t.Errorf("%+v", e.Logprobs)
			}
		}
	})
}
