package llamaloader

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"cllm/daemon"
	"cllm/llm"
	"cllm/scheduler"
)

// bench is a scheduler over the model that CLLM_BENCH_MODEL names, with 64 slots.
type bench struct {
	*testing.B
	sched *scheduler.Scheduler
	vocab llm.Vocab
}

func withBenchModel(b *testing.B, f func(s *bench)) {
	path := os.Getenv("CLLM_BENCH_MODEL")
	if path == "" {
		b.Skip("CLLM_BENCH_MODEL names no model")
	}
	m, err := newLoader(b, Options{}).Load(b.Context(), daemon.LoadSpec{ModelPath: path, Slots: 64}, noProgress)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	s, err := scheduler.New(m.Engine, m.Vocab, scheduler.Options{})
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = s.Run() }()
	defer s.Close()
	f(&bench{b, s, m.Vocab})
}

// prompt is n tokens that begin with those of the seed 0 as far as shared goes.
func (s *bench) prompt(seed, shared, n int) []llm.Token {
	p := make([]llm.Token, n)
	for i := range p {
		own := seed
		if i < shared {
			own = 0
		}
		p[i] = llm.Token(1000 + (own*7919+i*31)%100_000)
	}
	return p
}

func (s *bench) submit(prompt []llm.Token, tokens int) *scheduler.Stream {
	st, err := s.sched.Submit(s.Context(), scheduler.Request{
		Prompt: prompt, MaxTokens: tokens, Sampling: llm.SamplingParams{TopP: 1, TypicalP: 1, RepeatPenalty: 1},
	})
	if err != nil {
		s.Fatal(err)
	}
	return st
}

// reading is when the events of a stream with new tokens came.
type reading struct {
	times []time.Time
	done  *scheduler.Done
}

func (s *bench) read(st *scheduler.Stream) (r reading) {
	tokens := 0
	for {
		e, ok := st.Next()
		if !ok {
			s.Fatal("a stream without an end")
		}
		if e.Tokens > tokens {
			tokens = e.Tokens
			r.times = append(r.times, time.Now())
		}
		if r.done = e.Done; r.done != nil {
			if r.done.Err != nil {
				s.Fatal(r.done.Err)
			}
			return r
		}
	}
}

func (s *bench) readLater(st *scheduler.Stream) chan reading {
	c := make(chan reading, 1)
	go func() { c <- s.read(st) }()
	return c
}

// BenchmarkLongPromptAmongDecodingClients: a prompt of 3500 tokens comes while 31
// clients get their answers. It tells the longest gap between two tokens of the others,
// in median gaps, and the prompt's time to the first token, in times what it takes alone.
func BenchmarkLongPromptAmongDecodingClients(b *testing.B) {
	withBenchModel(b, func(s *bench) {
		for range b.N {
			alone := s.read(s.submit(s.prompt(100, 0, 3500), 1)).done
			var others []chan reading
			for i := range 31 {
				others = append(others, s.readLater(s.submit(s.prompt(i, 0, 40), 200)))
			}
			for s.sched.Stats().Active < 31 {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(4 * time.Second) // the prompts of the others
			came := time.Now()
			long := s.read(s.submit(s.prompt(101, 0, 3500), 1)).done
			first := time.Now()
			var gaps, during []time.Duration
			for _, c := range others {
				times := (<-c).times
				for i := 1; i < len(times); i++ {
					switch gap := times[i].Sub(times[i-1]); {
					case times[i].Before(came):
						gaps = append(gaps, gap)
					case times[i-1].After(came) && times[i].Before(first):
						during = append(during, gap)
					}
				}
			}
			if len(gaps) == 0 || len(during) == 0 {
				b.Fatal("the answers ended before the prompt came, or began after it")
			}
			slices.Sort(gaps)
			slices.Sort(during)
			median, longest := during[len(during)/2], during[len(during)-1]
			b.ReportMetric(float64(gaps[len(gaps)/2].Milliseconds()), "ms-median-gap-before")
			b.ReportMetric(float64(median.Milliseconds()), "ms-median-gap")
			b.ReportMetric(float64(longest.Milliseconds()), "ms-longest-gap")
			b.ReportMetric(longest.Seconds()/median.Seconds(), "longest/median")
			b.ReportMetric(long.Prefill.Seconds()/alone.Prefill.Seconds(), "times-alone")
		}
	})
}

// BenchmarkSharedSystemPrompt: 64 clients come at once, with a system prompt of 1000
// tokens that is the same for all, or each with one of its own.
func BenchmarkSharedSystemPrompt(b *testing.B) {
	for _, shared := range []int{1000, 0} {
		b.Run(fmt.Sprintf("shared=%d", shared), func(b *testing.B) {
			withBenchModel(b, func(s *bench) {
				for range b.N {
					began := time.Now()
					var clients []chan reading
					for i := range 64 {
						clients = append(clients, s.readLater(s.submit(s.prompt(i+1, shared, 1030), 50)))
					}
					var first []time.Duration
					tokens := 0
					for _, c := range clients {
						r := <-c
						first = append(first, r.times[0].Sub(began))
						tokens += r.done.Tokens
					}
					took := time.Since(began)
					slices.Sort(first)
					b.ReportMetric(first[len(first)/2].Seconds(), "s-TTFT-median")
					b.ReportMetric(float64(tokens)/took.Seconds(), "tokens/s")
				}
			})
		})
	}
}

// BenchmarkReturningChats: 32 users come at once with a chat of 300 tokens, 32 others are
// served, and the users come back with 40 tokens more. It tells how much of their
// histories did not have to be computed again, and the time to the first token then and at first.
func BenchmarkReturningChats(b *testing.B) {
	const users, history, question = 32, 300, 40
	withBenchModel(b, func(s *bench) {
		turn := func(from, tokens int) (first time.Duration, cached int) {
			began := time.Now()
			var clients []chan reading
			for i := range users {
				clients = append(clients, s.readLater(s.submit(s.prompt(from+i, 0, tokens), 20)))
			}
			var waited []time.Duration
			for _, c := range clients {
				r := <-c
				waited = append(waited, r.times[0].Sub(began))
				cached += r.done.CachedTokens
			}
			slices.Sort(waited)
			return waited[users/2], cached
		}
		for i := range b.N {
			begin := 1 + 2*users*i
			came, _ := turn(begin, history)
			turn(begin+users, history)
			back, cached := turn(begin, history+question)
			b.ReportMetric(came.Seconds(), "s-TTFT-at-first")
			b.ReportMetric(back.Seconds(), "s-TTFT-when-back")
			b.ReportMetric(100*float64(cached)/(users*history), "%reused")
		}
	})
}
