package scheduler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// script makes the fake engine answer with these bytes, then end.
func script(answer string) llmtest.Options {
	return llmtest.Options{Next: func(history []llm.Token) llm.Token {
		// The prompt is everything up to the last '>'.
		n := 0
		for i := len(history) - 1; i >= 0 && history[i] != '>'; i-- {
			n++
		}
		if n < len(answer) {
			return llm.Token(answer[n])
		}
		return llmtest.IMEnd
	}}
}

func TestTheAnswersText(t *testing.T) {
	tests := []struct {
		promise string
		answer  string
		stop    []string
		max     int
		want    string
		reason  Reason
		tokens  int
	}{
		{"an end token ends it and is counted", "hello", nil, 0, "hello", ReasonStop, 6},
		{"an empty answer", "", nil, 0, "", ReasonStop, 1},
		{"a stop string over several tokens", "one two three", []string{"two"}, 0, "one ", ReasonStop, 7},
		{"the earliest stop string counts", "one two three", []string{"three", "two"}, 0, "one ", ReasonStop, 7},
		{"a begun stop string is not lost", "one tw", []string{"two"}, 0, "one tw", ReasonStop, 7},
		{"num_predict", "hello", nil, 3, "hel", ReasonLength, 3},
		{"num_predict inside a stop string", "hello", []string{"lx"}, 3, "hel", ReasonLength, 3},
		{"a character of several tokens", "a€b", nil, 0, "a€b", ReasonStop, 6},
		{"a character cut by num_predict is dropped", "a€b", nil, 3, "a", ReasonLength, 3},
		{"a lone bad byte takes nothing with it", "a\xffb", nil, 0, "a\ufffdb", ReasonStop, 4},
		{"a broken character takes nothing with it", "a\xe2\x82b", nil, 0, "a\ufffd\ufffdb", ReasonStop, 5},
	}
	for _, tt := range tests {
		t.Run(tt.promise, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, script(tt.answer), Options{})
				req := greedy("say>", tt.max)
				req.Stop = tt.stop
				st := r.submit(t, t.Context(), req)
				text := ""
				var done *Done
				for done == nil {
					e, _ := st.Next()
					if !utf8.ValidString(e.Text) {
						t.Errorf("event text %q is not valid UTF-8", e.Text)
					}
					text, done = text+e.Text, e.Done
				}
				if text != tt.want || done.Reason != tt.reason || done.Tokens != tt.tokens {
					t.Errorf("%q, %+v; want %q, %s after %d tokens", text, done, tt.want, tt.reason, tt.tokens)
				}
			})
		})
	}
}

func TestAFullContextStopsOrShifts(t *testing.T) {
	tests := []struct {
		promise string
		shift   bool
		no      bool
		tokens  int
		reason  Reason
	}{
		{"without shift it stops when the context is full", false, false, 32 - 10 + 1, ReasonLength},
		{"with shift it goes on", true, false, 100, ReasonLength},
		{"a memory that can't shift stops", true, true, 32 - 10 + 1, ReasonLength},
	}
	for _, tt := range tests {
		t.Run(tt.promise, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, llmtest.Options{NoShift: tt.no}, Options{})
				req := greedy("0123456789", 100)
				req.Context, req.Keep, req.Shift = 32, 4, tt.shift
				text, done := read(r.submit(t, t.Context(), req))
				if done.Tokens != tt.tokens || done.Reason != tt.reason || len(text) != tt.tokens {
					t.Errorf("%d bytes, %+v; want %d tokens", len(text), done, tt.tokens)
				}
			})
		})
	}
}

func TestAShiftedCacheIsNotGivenToAnotherPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{Limits: llm.Limits{Sequences: 1, Batch: 64}}, Options{})
		req := greedy("0123456789", 60)
		req.Context, req.Keep, req.Shift = 32, 4, true
		read(r.submit(t, t.Context(), req))
		_, done := read(r.submit(t, t.Context(), greedy("0123456789", 5)))
		if done.CachedTokens != 4 {
			t.Errorf("%d tokens from the cache, want the 4 that no shift touched", done.CachedTokens)
		}
	})
}

func TestAClientThatLeavesFreesItsSlotBeforeTheNextStep(t *testing.T) {
	for _, when := range []string{"queued", "mid-prefill", "mid-decode"} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				var step atomic.Int64
				gone := int64(-1)
				r := start(t, llmtest.Options{
					Limits: llm.Limits{Sequences: 1, Batch: 64},
					BeforeDecode: func(rows []llm.Row) error {
						switch n := step.Add(1); {
						case when == "mid-prefill" && n == 3, when != "mid-prefill" && n == 20:
							cancel()
							gone = n
						case gone > 0 && when != "queued" && rows[0].Token == 'x':
							t.Errorf("step %d: the slot still works for the client", n)
						}
						return nil
					},
				}, Options{})
				n := 10
				if when == "mid-prefill" {
					n = 1000
				}
				first := ctx
				if when == "queued" {
					first = t.Context()
				}
				a := r.submit(t, first, greedy(strings.Repeat("x", n), 100))
				var b *Stream
				if when == "queued" {
					b = r.submit(t, ctx, greedy("queued", 10))
				} else {
					b = r.submit(t, t.Context(), greedy("next", 10))
				}
				_, doneA := read(a)
				textB, doneB := read(b)
				if when == "queued" {
					if doneA.Err != nil || !errors.Is(doneB.Err, context.Canceled) {
						t.Errorf("%+v, %+v", doneA, doneB)
					}
					return
				}
				if !errors.Is(doneA.Err, context.Canceled) || textB != llmtest.GreedyText("next", 10) {
					t.Errorf("%+v, %q", doneA, textB)
				}
			})
		})
	}
}

func TestAReaderThatStopsReadingHurtsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{}, Options{})
		slow := r.submit(t, t.Context(), greedy("slow", 500))
		for i := range 100 {
			if text, _ := read(r.submit(t, t.Context(), greedy(prompt(i), 20))); text != llmtest.GreedyText(prompt(i), 20) {
				t.Errorf("answer %d is %q", i, text)
			}
		}
		if text, _ := read(slow); text != llmtest.GreedyText("slow", 500) {
			t.Error("the slow reader's answer is not whole")
		}
	})
}

func TestAPromptThatWasSeenIsNotComputedAgain(t *testing.T) {
	system := strings.Repeat("you are a helpful assistant. ", 10)
	for _, unified := range []bool{false, true} {
		t.Run(fmt.Sprintf("unified=%v", unified), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, llmtest.Options{Limits: llm.Limits{Unified: unified}}, Options{})
				// The next turn of a chat.
				first := system + "hello"
				answer, _ := read(r.submit(t, t.Context(), greedy(first, 30)))
				second := first + answer + "and then?"
				text, done := read(r.submit(t, t.Context(), greedy(second, 30)))
				// The last token of an answer was sampled, never decoded.
				if want := len(first) + len(answer) - 1; done.CachedTokens != want {
					t.Errorf("%d tokens from the cache, want %d", done.CachedTokens, want)
				}
				if text != llmtest.GreedyText(second, 30) {
					t.Error("the answer on a cached prompt differs")
				}
				// Others with the same system prompt, while its slot is busy.
				busy := r.submit(t, t.Context(), greedy(second+text, 200))
				busy.Next()
				other := system + "who are you?"
				text, done = read(r.submit(t, t.Context(), greedy(other, 30)))
				if done.CachedTokens < len(system) || text != llmtest.GreedyText(other, 30) {
					t.Errorf("%d tokens from another slot's cache, want %d; %q", done.CachedTokens, len(system), text)
				}
				read(busy)
			})
		})
	}
}

func TestTheSamePromptTwiceComputesOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{}, Options{})
		for i := range 2 {
			text, done := read(r.submit(t, t.Context(), greedy("the same prompt", 10)))
			if text != llmtest.GreedyText("the same prompt", 10) || done.CachedTokens != i*14 {
				t.Errorf("%q, %d cached", text, done.CachedTokens)
			}
		}
	})
}

func TestAMemoryThatForgetsOnlyTheWholeStillAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{NoTruncate: true, NoShift: true}, Options{})
		for i := range 5 {
			p := "a shared beginning" + fmt.Sprint(i)
			if text, _ := read(r.submit(t, t.Context(), greedy(p, 10))); text != llmtest.GreedyText(p, 10) {
				t.Errorf("answer %d is %q", i, text)
			}
		}
	})
}

func TestRequestsThatDoNotFitTheMemoryWaitAndAllFinish(t *testing.T) {
	tests := []struct {
		name   string
		engine llmtest.Options
		budget int64
	}{
		{"budget", llmtest.Options{}, 256},
		{"cells", llmtest.Options{Cells: 256}, 0},
		{"cells, unified", llmtest.Options{Cells: 256, Limits: llm.Limits{Unified: true}}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, tt.engine, Options{MemoryBudget: tt.budget})
				var streams []*Stream
				for i := range 12 {
					streams = append(streams, r.submit(t, t.Context(), greedy(prompt(i), 100)))
				}
				for i, st := range streams {
					if text, done := read(st); text != llmtest.GreedyText(prompt(i), 100) {
						t.Errorf("answer %d: %d tokens, %+v", i, len(text), done)
					}
				}
				if held := r.Stats().HeldTokens; held > 256 {
					t.Errorf("%d tokens are held, 256 allowed", held)
				}
				if r.Stats().Preempted == 0 {
					t.Error("nobody was preempted: the test shows nothing")
				}
			})
		})
	}
}

func TestARequestTooBigForTheMemoryFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{Cells: 100}, Options{})
		big := r.submit(t, t.Context(), greedy(strings.Repeat("b", 150), 10))
		small := r.submit(t, t.Context(), greedy("small", 10))
		if _, done := read(big); !errors.Is(done.Err, llm.ErrNoRoom) {
			t.Errorf("%+v, want ErrNoRoom", done)
		}
		if text, _ := read(small); text != llmtest.GreedyText("small", 10) {
			t.Errorf("answer %q", text)
		}
	})
}

func TestWhoPaysForAFailedDecode(t *testing.T) {
	tests := []struct {
		err  error
		ok   bool // the requests are answered all the same
		lost bool // the engine is lost
	}{
		{llm.ErrAborted, true, false},
		{llm.ErrNoRoom, true, false},
		{llm.ErrInvalidBatch, false, false},
		{llm.ErrFatal, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, both := 0, make(chan struct{})
				r := start(t, llmtest.Options{BeforeDecode: func(rows []llm.Row) error {
					<-both
					if n++; n == 10 {
						return fmt.Errorf("decode: %w", tt.err)
					}
					return nil
				}}, Options{})
				a := r.submit(t, t.Context(), greedy("first", 30))
				b := r.submit(t, t.Context(), greedy("second", 30))
				close(both)
				for name, st := range map[string]*Stream{"first": a, "second": b} {
					text, done := read(st)
					if tt.ok && text != llmtest.GreedyText(name, 30) {
						t.Errorf("%s: %q, %+v", name, text, done)
					}
					if !tt.ok && !errors.Is(done.Err, tt.err) {
						t.Errorf("%s: %+v, want %v", name, done, tt.err)
					}
				}
				if tt.lost {
					<-r.Done()
					if _, err := r.Submit(t.Context(), greedy("late", 1)); !errors.Is(err, ErrClosed) || !errors.Is(r.Failed(), tt.err) {
						t.Errorf("Submit: %v; Failed: %v", err, r.Failed())
					}
					return
				}
				if text, _ := read(r.submit(t, t.Context(), greedy("later", 10))); text != llmtest.GreedyText("later", 10) {
					t.Errorf("later answer %q", text)
				}
			})
		})
	}
}

func TestASeedGivesTheSameTextAloneAndInCompany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{}, Options{})
		req := greedy("dice", 60)
		req.Sampling = llm.SamplingParams{Temperature: 5, TopK: 40, TopP: 1, TypicalP: 1, RepeatPenalty: 1.1, RepeatLastN: 64, Seed: 42}
		alone, _ := read(r.submit(t, t.Context(), req))
		var others []*Stream
		for i := range 63 {
			others = append(others, r.submit(t, t.Context(), greedy(prompt(i), 50)))
		}
		company, _ := read(r.submit(t, t.Context(), req))
		if alone != company {
			t.Errorf("alone %q, in company %q", alone, company)
		}
		req.Sampling.Seed = 43
		if other, _ := read(r.submit(t, t.Context(), req)); other == alone {
			t.Error("another seed gives the same text: the seed has no effect")
		}
		for _, st := range others {
			read(st)
		}
	})
}

// refusing is a grammar that allows nothing.
type refusing struct{ whole bool }

func (refusing) Take(llm.Token) (bool, error)                    { return false, nil }
func (refusing) Filter([]llm.Candidate) ([]llm.Candidate, error) { return nil, nil }
func (g refusing) Complete() bool                                { return g.whole }

func TestARequestThatCannotBeSampledFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{}, Options{})
		req := greedy("nothing goes", 10)
		req.Grammar = refusing{}
		bad := r.submit(t, t.Context(), req)
		good := r.submit(t, t.Context(), greedy("good", 10))
		if _, done := read(bad); !errors.Is(done.Err, llm.ErrRefused) {
			t.Errorf("%+v", done)
		}
		if text, _ := read(good); text != llmtest.GreedyText("good", 10) {
			t.Errorf("answer %q", text)
		}
	})
}

func TestAnAnswerThatIsCompleteEndsWithoutAnEndToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{}, Options{})
		req := greedy("nothing more goes", 10)
		req.Grammar = refusing{whole: true}
		if text, done := read(r.submit(t, t.Context(), req)); text != "" || done.Reason != ReasonStop || done.Err != nil || done.Tokens != 0 {
			t.Errorf("%q, %+v", text, done)
		}
	})
}

func TestAPanicCostsTheModelsRequestsAndNotTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		r := start(t, llmtest.Options{BeforeDecode: func([]llm.Row) error {
			if n++; n == 5 {
				panic("planted")
			}
			return nil
		}}, Options{})
		_, done := read(r.submit(t, t.Context(), greedy("boom", 30)))
		if done.Err == nil || !strings.Contains(done.Err.Error(), "planted") {
			t.Errorf("%+v", done)
		}
		if <-r.Done(); r.Failed() == nil {
			t.Error("Failed() is nil")
		}
	})
}

func TestTheLastConversationsCacheIsKeptHoweverFewTheSlots(t *testing.T) {
	for _, slots := range []int{1, 2, 4} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, llmtest.Options{Limits: llm.Limits{Sequences: slots, Context: 1024, Batch: 64}}, Options{})
			p := strings.Repeat("a long chat ", 50)
			read(r.submit(t, t.Context(), greedy(p, 5)))
			if _, done := read(r.submit(t, t.Context(), greedy(p, 5))); done.CachedTokens != len(p)-1 {
				t.Errorf("%d slots: %d tokens from the cache, want %d", slots, done.CachedTokens, len(p)-1)
			}
		})
	}
}

func TestRoomThatWasMissingOnceCostsNoMoreThanThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := false
		most := 0
		r := start(t, llmtest.Options{BeforeDecode: func(rows []llm.Row) error {
			if !failed {
				failed = true
				return llm.ErrNoRoom
			}
			most = max(most, len(rows))
			return nil
		}}, Options{})
		_, done := read(r.submit(t, t.Context(), greedy("alone and refused", 5)))
		if !errors.Is(done.Err, llm.ErrNoRoom) {
			t.Errorf("%+v", done)
		}
		var streams []*Stream
		for i := range 8 {
			streams = append(streams, r.submit(t, t.Context(), greedy(prompt(i), 30)))
		}
		for i, st := range streams {
			if text, _ := read(st); text != llmtest.GreedyText(prompt(i), 30) {
				t.Errorf("answer %d is %q", i, text)
			}
		}
		if got, want := r.Stats().TokenBudget, int64(64*4096); got != want {
			t.Errorf("the budget is %d now, want %d", got, want)
		}
	})
}

// A long prompt beside a neighbour that keeps shifting is sent back at most a few
// times: what it had computed is lost each time.
func TestAPromptIsNotSentBackOverAndOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{
			Limits: llm.Limits{Context: 2048},
			BeforeDecode: func(rows []llm.Row) error {
				time.Sleep(time.Duration(len(rows)) * 7500 * time.Microsecond) // the bubble's clock
				return nil
			},
		}, Options{MemoryBudget: 2600})
		shifting := greedy("go on for ever", 7000)
		shifting.Shift = true
		a := r.submit(t, t.Context(), shifting)
		a.Next()
		b := r.submit(t, t.Context(), greedy(strings.Repeat("b", 1500), 5))
		if _, done := read(b); done.Err != nil {
			t.Error(done.Err)
		}
		read(a)
		if n := r.Stats().Preempted; n > 4 {
			t.Errorf("it was sent back %d times", n)
		}
	})
}

// What a burst has left in memory goes when nobody asks for more.
func TestAnIdleSchedulerGivesMemoryBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{}, Options{})
		for i := range 3 {
			synctest.Wait()
			before := r.engine.Trims()
			read(r.submit(t, t.Context(), greedy("a burst", 20)))
			synctest.Wait()
			if n := r.engine.Trims(); n != before+1 {
				t.Errorf("burst %d: memory was given back %d times, want once", i, n-before)
			}
		}
	})
}
