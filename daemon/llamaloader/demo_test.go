package llamaloader

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cllm/daemon"
	"cllm/llm"
	"cllm/modelstore/demo/demotest"
	"cllm/scheduler"
)

// ask is a question to the demo model.
type ask struct {
	before   string // the prompt up to the question
	question string
	most     int // tokens of the answer; 0: until it ends
}

// corpusAsks returns n questions of different lengths, with answers of different
// lengths.
func corpusAsks(t *testing.T, n int) (asks []ask) {
	t.Helper()
	entries := demotest.Corpus(t)
	for i := range n {
		e := entries[i*11%len(entries)]
		asks = append(asks, ask{question: e.Questions[i%len(e.Questions)]})
	}
	return asks
}

// talk is a scheduler with the demo model.
type talk struct {
	*testing.T
	vocab llm.Vocab
	sched *scheduler.Scheduler
}

// withDemo calls f with the demo model loaded for so many sequences. What f submits
// before it calls run is admitted together, in that order.
func withDemo(t *testing.T, slots int, unified bool, o scheduler.Options, f func(s *talk, run func())) {
	t.Helper()
	path := filepath.Join(demotest.Folder(t), "..", "..", "modelstore", "demo", "demo.gguf")
	m, err := newLoader(t, Options{Unified: unified}).Load(t.Context(), daemon.LoadSpec{ModelPath: path, Slots: slots, Threads: 1}, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	sched, err := scheduler.New(m.Engine, m.Vocab, o)
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	run := func() { once.Do(func() { go sched.Run() }) }
	defer sched.Close() // which needs Run, also where f fails
	defer run()
	f(&talk{t, m.Vocab, sched}, run)
}

func (s *talk) submit(a ask) *scheduler.Stream {
	s.Helper()
	prompt := s.vocab.Tokenize(a.before+"<|im_start|>user\n"+a.question+"<|im_end|>\n<|im_start|>assistant\n", true)
	stream, err := s.sched.Submit(context.Background(), scheduler.Request{
		Prompt: prompt, MaxTokens: a.most, Sampling: llm.SamplingParams{RepeatPenalty: 1, TopP: 1, TypicalP: 1},
	})
	if err != nil {
		s.Fatal(err)
	}
	return stream
}

// answer reads an answer to its end.
func (s *talk) answer(stream *scheduler.Stream) string {
	s.Helper()
	var text strings.Builder
	for {
		e, ok := stream.Next()
		if !ok {
			return text.String()
		}
		text.WriteString(e.Text)
		if e.Done != nil && e.Done.Err != nil {
			s.Error(e.Done.Err)
		}
	}
}

// together answers all questions at once.
func together(t *testing.T, asks []ask, unified bool) (answers []string, stats scheduler.Stats) {
	t.Helper()
	withDemo(t, len(asks), unified, scheduler.Options{}, func(s *talk, run func()) {
		var streams []*scheduler.Stream
		for _, a := range asks {
			streams = append(streams, s.submit(a))
		}
		run()
		for _, stream := range streams {
			answers = append(answers, s.answer(stream))
		}
		stats = s.sched.Stats()
	})
	return answers, stats
}

// alone answers one question after the other.
func alone(t *testing.T, asks []ask) (answers []string) {
	t.Helper()
	withDemo(t, 1, false, scheduler.Options{}, func(s *talk, run func()) {
		run()
		for _, a := range asks {
			answers = append(answers, s.answer(s.submit(a)))
		}
	})
	return answers
}

func TestOnePoolOfCellsOrOneForEachSequenceIsTheSameToAnAnswer(t *testing.T) {
	asks := corpusAsks(t, 24)
	want := alone(t, asks)
	for _, unified := range []bool{false, true} {
		got, _ := together(t, asks, unified)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("unified %v (-alone +together):\n%s", unified, diff)
		}
	}
}

func TestASequenceThatIsMovedGoesOnAsIfItHadStayed(t *testing.T) {
	asks := corpusAsks(t, 24)
	for i := range asks {
		if i%3 == 1 { // ends early and leaves a hole between its neighbours
			asks[i].most = 1 + i%7
		}
	}
	want := alone(t, asks)
	got, stats := together(t, asks, false)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-alone +moved):\n%s", diff)
	}
	if stats.Moved < 4 {
		t.Errorf("%d sequences were moved, want at least 4", stats.Moved)
	}
}

// Who asks again what was answered before is answered in the same words: these are
// drafted. The answer does not show it.
func TestAnAnswerIsTheSameWithDraftsAndWithout(t *testing.T) {
	asks := corpusAsks(t, 8)
	for i, answer := range alone(t, asks) {
		asks[i].before = "<|im_start|>user\n" + asks[i].question + "<|im_end|>\n<|im_start|>assistant\n" + answer + "<|im_end|>\n"
	}
	for _, unified := range []bool{false, true} {
		for clients := 1; clients <= 4; clients++ {
			var answers [2][]string
			for i, without := range []bool{true, false} {
				withDemo(t, clients, unified, scheduler.Options{NoDrafts: without}, func(s *talk, run func()) {
					run()
					for some := range slices.Chunk(asks, clients) {
						var streams []*scheduler.Stream
						for _, a := range some {
							streams = append(streams, s.submit(a))
						}
						for _, stream := range streams {
							answers[i] = append(answers[i], s.answer(stream))
						}
					}
					if n := s.sched.Stats().DraftsStood; without != (n == 0) {
						t.Errorf("without drafts %v: %d drafted tokens stood", without, n)
					}
				})
			}
			if diff := cmp.Diff(answers[0], answers[1]); diff != "" {
				t.Errorf("unified %v, %d clients (-without drafts +with):\n%s", unified, clients, diff)
			}
		}
	}
}

// Prompts with one beginning have it computed once when they come together, and anew
// each time when each has the model to itself.
func TestAnAnswerIsTheSameWhereItsBeginningWasShared(t *testing.T) {
	asks := corpusAsks(t, 12)
	for i := range asks {
		asks[i].before = "<|im_start|>system\n" + strings.Repeat("You answer questions about cllm. ", 8) + "<|im_end|>\n"
	}
	var want []string
	for i := range asks {
		want = append(want, alone(t, asks[i:i+1])...)
	}
	for _, unified := range []bool{false, true} {
		got, stats := together(t, asks, unified)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("unified %v (-each alone +shared):\n%s", unified, diff)
		}
		if stats.CachedTokens < 11*50 {
			t.Errorf("unified %v: %d tokens were shared", unified, stats.CachedTokens)
		}
	}
}
