package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cllm/llm"
	"cllm/llm/gbnf"
	"cllm/llm/llmtest"
)

// TestSimulation lets random clients come, leave, read slowly and share prompts,
// while the engine fails now and then. Every request must end once, every whole
// answer be the model's, and the invariants hold after each step: those of Check, one
// pass for each step that only decodes, and no neighbour of a prompt that waits longer
// than its slice of time.
//
// CLLM_SIM_SEEDS is how many simulations there are; each is of some thousand steps.
func TestSimulation(t *testing.T) {
	seeds := 12
	if testing.Short() {
		seeds = 3
	}
	if n, err := strconv.Atoi(os.Getenv("CLLM_SIM_SEEDS")); err == nil {
		seeds = n
	}
	var steps, stood, moved int64
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := simulate(t, uint64(seed))
				steps, stood, moved = steps+st.Steps, stood+st.DraftsStood, moved+st.Moved
			})
		})
	}
	t.Logf("%d simulations, %d steps, %d drafted tokens stood, %d requests were moved", seeds, steps, stood, moved)
	if stood == 0 || moved == 0 {
		t.Error("nothing was drafted, or nobody moved")
	}
}

// watch checks what a step did.
type watch struct {
	before  Stats
	got     map[*sequence]time.Time // when a decoding request got its last token
	seen    map[*sequence]int       // how many it had then
	longest time.Duration           // that one waited for the next
}

func (w *watch) step(t *testing.T, s *Scheduler) {
	now, st := time.Now(), s.Stats()
	got, seen := make(map[*sequence]time.Time), make(map[*sequence]int)
	for i := range s.slots {
		sl := &s.slots[i]
		if !sl.active() || sl.pending() != 1 || sl.seq.generated == 0 {
			continue
		}
		last, ok := w.got[sl.seq]
		if !ok || sl.seq.generated != w.seen[sl.seq] {
			last = now
		}
		seen[sl.seq] = sl.seq.generated
		got[sl.seq] = last
		w.longest = max(w.longest, now.Sub(last))
	}
	w.got, w.seen = got, seen
	decodes := st.Steps > w.before.Steps && st.PrefillTokens == w.before.PrefillTokens
	busy := len(s.spans) // with the prompts that waited for their turn
	for i := range s.slots {
		if sl := &s.slots[i]; sl.active() && sl.pending() > 1 {
			busy++
		}
	}
	// Where every slot is taken, a prompt can't be moved away from between the others.
	if n := st.Passes - w.before.Passes; decodes && busy < len(s.slots) && n != st.Steps-w.before.Steps {
		t.Errorf("a step that only decodes made %d passes: %v", n, s.spans)
	}
	w.before = st
}

func simulate(t *testing.T, seed uint64) Stats {
	rng := rand.New(rand.NewPCG(seed, 1))
	steps := 0
	eo := llmtest.Options{
		Limits: llm.Limits{
			Sequences: 1 + rng.IntN(16),
			Context:   256,
			Batch:     64,
			Unified:   seed%3 == 2,
		},
		Cells:      []int{0, 300, 1000}[rng.IntN(3)],
		NoTruncate: seed%5 == 4,
		BeforeDecode: func(rows []llm.Row) error {
			time.Sleep(time.Duration(5+len(rows)) * time.Millisecond) // the bubble's clock
			if steps++; steps%61 == 0 {
				return llm.ErrAborted
			}
			return nil
		},
		Next: llmtest.Next,
	}
	if seed%2 == 1 {
		eo.Next = repeating
	}
	w := &watch{}
	r := start(t, eo, Options{
		Queue: NewQueue(40), MemoryBudget: int64(200 + rng.IntN(2000)),
		AfterStep: func(s *Scheduler) { w.step(t, s) },
	})
	var clients sync.WaitGroup
	for i := range 150 {
		// Each client's dice are its own, so the order of goroutines does not matter.
		dice := rand.New(rand.NewPCG(seed, uint64(i+2)))
		clients.Go(func() { client(t, r, eo.Next, dice, i) })
		time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
	}
	clients.Wait()
	st := r.Stats()
	if st.FinishedFailed > 0 {
		t.Errorf("%d requests failed", st.FinishedFailed)
	}
	if !r.Idle() {
		t.Error("all requests have ended, but the scheduler is not idle")
	}
	// A slice, the step that exceeds it, two that were aborted, and a decode step. Room
	// that has to be made takes further steps.
	if most := leastGap*(100+excess)/100 + 4*(5+64)*time.Millisecond; eo.Cells == 0 && w.longest > most {
		t.Errorf("an answer stood still for %v, want at most %v", w.longest, most)
	}
	return st
}

// formatted is a grammar, and the text that the fake engine writes to it after p.
func formatted(t *testing.T, next func([]llm.Token) llm.Token, p string, n int) (llm.Grammar, string) {
	g, err := gbnf.Parse(`root ::= "{" [a-z]{1,8} (":" [0-9]{2} | ";")* "}"`)
	if err != nil {
		t.Error(err)
		return nil, ""
	}
	m, err := g.Match(llmtest.Vocab{})
	if err != nil {
		t.Error(err)
		return nil, ""
	}
	alone, err := g.Match(llmtest.Vocab{})
	if err != nil {
		t.Error(err)
		return nil, ""
	}
	return m, llmtest.ConstrainedText(next, p, n, alone)
}

func client(t *testing.T, r *rig, next func([]llm.Token) llm.Token, dice *rand.Rand, i int) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	shared := strings.Repeat("system prompt ", dice.IntN(4)*3)
	p := fmt.Sprintf("%s client %d %s", shared, i, strings.Repeat("?", dice.IntN(60)))
	if dice.IntN(4) == 0 { // some ask the very same
		p = fmt.Sprint(strings.Repeat("the question of many ", 8), dice.IntN(3))
	}
	n := 1 + dice.IntN(40)
	leaves := dice.IntN(4) == 0
	if leaves {
		timer := time.AfterFunc(time.Duration(dice.IntN(2000))*time.Millisecond, cancel)
		defer timer.Stop()
	}
	req := greedy(p, n)
	want := llmtest.TextBy(next, p, n)
	switch dice.IntN(4) {
	case 0:
		req.Logprobs, req.TopLogprobs = true, 3
	case 1:
		req.Grammar, want = formatted(t, next, p, n)
		req.Logprobs = dice.IntN(2) == 0
	}
	st, err := r.Submit(ctx, req)
	if err == ErrBusy {
		return
	}
	if err != nil {
		t.Errorf("client %d: %v", i, err)
		return
	}
	text, finals, told := "", 0, 0
	var done *Done
	for {
		e, ok := st.Next()
		if !ok {
			break
		}
		text += e.Text
		told += len(e.Logprobs)
		if e.Done != nil {
			done = e.Done
			finals++
		}
		if dice.IntN(5) == 0 {
			time.Sleep(time.Duration(dice.IntN(500)) * time.Millisecond)
		}
	}
	switch {
	case finals != 1:
		t.Errorf("client %d: %d final events", i, finals)
	case done.Err != nil && !leaves:
		t.Errorf("client %d: %v", i, done.Err)
	case done.Err == nil && text != want:
		t.Errorf("client %d: %q, want %q", i, text, want)
	case done.Err == nil && req.Logprobs && told != len(text) || !req.Logprobs && told > 0:
		t.Errorf("client %d: %d tokens were told, the text has %d", i, told, len(text))
	case done.Err != nil && !strings.HasPrefix(want, text):
		t.Errorf("client %d left with %q, which does not begin %q", i, text, want)
	}
}
