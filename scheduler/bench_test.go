package scheduler

import (
	"testing"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// BenchmarkPlan64 is the cost of one plan over 64 decoding slots.
func BenchmarkPlan64(b *testing.B) {
	slots := make([]slot, 64)
	for i := range slots {
		slots[i].id = llm.SeqID(i)
		slots[i].seq = &sequence{tokens: make([]llm.Token, 100), order: int64(i)}
		slots[i].cached = slots[i].seq.tokens[:99]
	}
	var spans []span
	var rows []llm.Row
	for b.Loop() {
		spans = plan(slots, policy{batch: 2048, prefill: 64, alone: 200}, spans)
		rows = rowsOf(slots, spans, rows)
	}
	if len(rows) != 64 {
		b.Fatal(len(rows))
	}
}

// idleEngine is the fake without its arithmetic: what is left is the scheduler.
type idleEngine struct {
	*llmtest.Engine
	held [64]llm.Pos
}

func (e *idleEngine) Decode(rows []llm.Row) error {
	for _, r := range rows {
		e.held[r.Seq]++
	}
	return nil
}

func (e *idleEngine) Sample(picks []llm.Pick) {
	for i := range picks {
		picks[i].Token = 'a'
	}
}

func (e *idleEngine) Held(seq llm.SeqID) llm.Pos { return e.held[seq] }

func (e *idleEngine) Truncate(seq llm.SeqID, n llm.Pos) error {
	e.held[seq] = n
	return nil
}

// decoding is a scheduler with 64 requests that decode, without end.
func decoding(t testing.TB) *Scheduler {
	t.Helper()
	engine := &idleEngine{Engine: llmtest.NewEngine(llmtest.Options{Limits: llm.Limits{Context: 1 << 30}})}
	s, err := New(engine, llmtest.Vocab{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 64 {
		req := greedy(prompt(i), 0)
		req.Stop = []string{"<|im_end|>"}
		if _, err := s.Submit(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	for s.Stats().DecodeTokens < 64 {
		if _, err := s.step(); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// A step of 64 requests makes nothing but, once in a while, room for more tokens.
func TestAStepAllocatesNothing(t *testing.T) {
	s := decoding(t)
	for range 100 { // the first tokens make the most room
		if _, err := s.step(); err != nil {
			t.Fatal(err)
		}
	}
	n := testing.AllocsPerRun(2000, func() {
		if _, err := s.step(); err != nil {
			t.Fatal(err)
		}
	})
	if n > 1 {
		t.Errorf("a step makes %v allocations", n)
	}
}

// BenchmarkStepFakeEngine is the scheduler's own time for a decode step of 64
// slots, all of it but Decode and Sample.
func BenchmarkStepFakeEngine(b *testing.B) {
	s := decoding(b)
	before := s.Stats()
	for b.Loop() {
		if _, err := s.step(); err != nil {
			b.Fatal(err)
		}
	}
	after := s.Stats()
	b.ReportMetric(float64((after.SchedulerTime-before.SchedulerTime).Nanoseconds())/float64(after.Steps-before.Steps)/1e3, "µs/step")
}
