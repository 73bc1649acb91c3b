package scheduler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// greedy is a request for n tokens at temperature 0.
func greedy(prompt string, n int) Request {
	return Request{
		Prompt:    llmtest.Vocab{}.Tokenize(prompt, true),
		MaxTokens: n,
		Sampling:  llm.SamplingParams{TopK: 40, TopP: 1, TypicalP: 1, RepeatPenalty: 1},
	}
}

// rig is a running scheduler over a fake engine, checked after each step.
type rig struct {
	*Scheduler
	engine *llmtest.Engine
}

func start(t *testing.T, eo llmtest.Options, o Options) *rig {
	t.Helper()
	engine := llmtest.NewEngine(eo)
	after := o.AfterStep
	o.AfterStep = func(s *Scheduler) {
		if err := s.Check(); err != nil {
			t.Error(err)
		}
		if after != nil {
			after(s)
		}
	}
	s, err := New(engine, llmtest.Vocab{}, o)
	if err != nil {
		t.Fatal(err)
	}
	go s.Run()
	t.Cleanup(func() {
		s.Close()
		for _, v := range engine.Violations() {
			t.Error(v)
		}
		if !engine.Closed() {
			t.Error("the engine was not freed")
		}
		if n := s.queue.Waiting(); n != 0 {
			t.Errorf("%d places of the queue are still taken", n)
		}
	})
	return &rig{s, engine}
}

func (r *rig) submit(t *testing.T, ctx context.Context, req Request) *Stream {
	t.Helper()
	st, err := r.Submit(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// read reads a stream to its end.
func read(st *Stream) (string, *Done) {
	var text strings.Builder
	for {
		e, ok := st.Next()
		if !ok {
			return text.String(), nil
		}
		text.WriteString(e.Text)
		if e.Done != nil {
			return text.String(), e.Done
		}
	}
}

func TestAnAnswerIsTheModels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{}, Options{})
		text, done := read(r.submit(t, t.Context(), greedy("tell me", 50)))
		if want := llmtest.GreedyText("tell me", 50); text != want {
			t.Errorf("answer %q, want %q", text, want)
		}
		if done.Reason != ReasonLength || done.Err != nil || done.Tokens != 50 || done.PromptTokens != 7 {
			t.Errorf("done %+v", done)
		}
	})
}

func TestSixtyFourAnswersAtOnceAreEachTheirOwn(t *testing.T) {
	for _, unified := range []bool{false, true} {
		t.Run(fmt.Sprintf("unified=%v", unified), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, llmtest.Options{Limits: llm.Limits{Unified: unified}}, Options{})
				var streams []*Stream
				for i := range 64 {
					streams = append(streams, r.submit(t, t.Context(), greedy(prompt(i), 40)))
				}
				for i, st := range streams {
					if text, done := read(st); text != llmtest.GreedyText(prompt(i), 40) || done.Err != nil {
						t.Errorf("answer %d is %q, want %q; %+v", i, text, llmtest.GreedyText(prompt(i), 40), done)
					}
				}
			})
		})
	}
}

func prompt(i int) string {
	return fmt.Sprintf("question %d:%s what is it?", i, strings.Repeat(" word", i%13))
}

func TestAPureDecodeStepIsOnePass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		prefill := 0
		bad := 0
		r := start(t, llmtest.Options{BeforeDecode: func(rows []llm.Row) error {
			pure := true
			for _, row := range rows {
				pure = pure && row.Logits
			}
			if !pure {
				prefill++
			} else if llmtest.Passes(rows, 512, false) != 1 {
				bad++
			}
			return nil
		}}, Options{})
		var streams []*Stream
		for i := range 200 { // answers of many lengths: holes come up all the time
			streams = append(streams, r.submit(t, t.Context(), greedy(prompt(i), 1+i*7%50)))
		}
		for _, st := range streams {
			read(st)
		}
		if bad > 0 {
			t.Errorf("%d decode steps took more than one pass", bad)
		}
		st := r.Stats()
		passes, decodes := r.engine.Passes()
		if st.Steps != int64(decodes) || st.Passes != int64(passes) {
			t.Errorf("stats say %d passes in %d steps, the engine counted %d in %d", st.Passes, st.Steps, passes, decodes)
		}
		if st.Moved == 0 {
			t.Error("no sequence was moved, so no hole was closed: the test shows nothing")
		}
	})
}

func TestRunningAnswersAreNotStalledByALongPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var longest, run time.Duration
		decoding := false
		r := start(t, llmtest.Options{BeforeDecode: func(rows []llm.Row) error {
			took := time.Duration(len(rows)) * 2 * time.Millisecond
			time.Sleep(took) // the bubble's clock
			if rows[0].Logits {
				decoding, run = true, 0
			} else if run += took; decoding {
				longest = max(longest, run)
			}
			return nil
		}}, Options{})
		short := r.submit(t, t.Context(), greedy("short", 200))
		e, _ := short.Next()
		long := r.submit(t, t.Context(), greedy(strings.Repeat("long ", 700), 5))
		text, _ := read(short)
		if e.Text+text != llmtest.GreedyText("short", 200) {
			t.Error("the short answer is wrong")
		}
		if _, done := read(long); done.Tokens != 5 {
			t.Errorf("done %+v", done)
		}
		if most := leastGap + 2*leastChunk*2*time.Millisecond; longest > most {
			t.Errorf("%v of prompts between two decode steps, want at most %v", longest, most)
		}
	})
}

// Whatever the reason: a request that nobody works on ends with an error, not never.
func TestARequestThatIsForgottenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(llmtest.NewEngine(llmtest.Options{}), llmtest.Vocab{}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		s.slots = nil // no step finds work
		st, err := s.Submit(t.Context(), greedy("forgotten", 1))
		if err != nil {
			t.Fatal(err)
		}
		go s.Run()
		defer s.Close()
		if _, done := read(st); done.Err == nil || !strings.Contains(done.Err.Error(), "has 1 requests and found nothing to do for them, which is a bug") {
			t.Errorf("it ends with %v", done.Err)
		}
	})
}

func TestAFullQueueRefusesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := start(t, llmtest.Options{
			Limits:       llm.Limits{Sequences: 2, Batch: 64},
			BeforeDecode: func([]llm.Row) error { <-gate; return nil },
		}, Options{Queue: NewQueue(3)})
		var streams []*Stream
		for i := range 5 { // two slots and three places
			streams = append(streams, r.submit(t, t.Context(), greedy(prompt(i), 3)))
		}
		if _, err := r.Submit(t.Context(), greedy("one too many", 3)); !errors.Is(err, ErrBusy) {
			t.Errorf("error %v, want ErrBusy", err)
		}
		close(gate)
		for i, st := range streams {
			if text, _ := read(st); text != llmtest.GreedyText(prompt(i), 3) {
				t.Errorf("answer %d is %q", i, text)
			}
		}
		if text, _ := read(r.submit(t, t.Context(), greedy("room again", 3))); text != llmtest.GreedyText("room again", 3) {
			t.Errorf("answer %q", text)
		}
	})
}

func TestWaitingRequestsAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{Limits: llm.Limits{Sequences: 1, Batch: 64}}, Options{})
		var order []int
		done := make(chan int)
		for i := range 10 {
			st := r.submit(t, t.Context(), greedy(prompt(i), 4))
			go func() {
				read(st)
				done <- i
			}()
			synctest.Wait()
		}
		for range 10 {
			order = append(order, <-done)
		}
		if fmt.Sprint(order) != "[0 1 2 3 4 5 6 7 8 9]" {
			t.Errorf("order %v", order)
		}
	})
}

func TestARequestThatCannotBeServedIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, llmtest.Options{}, Options{})
		tests := []struct {
			name string
			req  Request
			want error
		}{
			{"no tokens", Request{}, ErrEmptyPrompt},
			{"longer than its context", Request{Prompt: make([]llm.Token, 9), Context: 8}, ErrPromptTooLong},
			{"longer than the engine's", Request{Prompt: make([]llm.Token, 4097)}, ErrPromptTooLong},
			{"not a token", Request{Prompt: []llm.Token{llmtest.VocabSize}}, nil},
		}
		for _, tt := range tests {
			if _, err := r.Submit(t.Context(), tt.req); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%s: error %v, want %v", tt.name, err, tt.want)
			}
		}
	})
}

func TestNewRefusesAnEngineWhoseBatchIsSmallerThanItsSlots(t *testing.T) {
	_, err := New(llmtest.NewEngine(llmtest.Options{Limits: llm.Limits{Sequences: 64, Batch: 32}}), llmtest.Vocab{}, Options{})
	if err == nil {
		t.Fatal("no error")
	}
}

func TestCloseAnswersEveryRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		r := start(t, llmtest.Options{
			Limits:       llm.Limits{Sequences: 2, Batch: 64},
			BeforeDecode: func([]llm.Row) error { <-gate; return nil },
		}, Options{})
		var streams []*Stream
		for i := range 5 {
			streams = append(streams, r.submit(t, t.Context(), greedy(prompt(i), 1000)))
		}
		synctest.Wait()
		closed := make(chan struct{})
		go func() { r.Close(); close(closed) }()
		synctest.Wait()
		close(gate)
		<-closed
		for i, st := range streams {
			if _, done := read(st); !errors.Is(done.Err, ErrClosed) {
				t.Errorf("request %d ended with %+v, want ErrClosed", i, done)
			}
		}
		if _, err := r.Submit(t.Context(), greedy("late", 1)); !errors.Is(err, ErrClosed) {
			t.Errorf("Submit after Close: %v, want ErrClosed", err)
		}
		if r.Failed() != nil {
			t.Errorf("Failed() = %v after Close", r.Failed())
		}
	})
}
