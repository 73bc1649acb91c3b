package scheduler

import (
	"errors"
	"time"

	"cllm/llm"
)

// step runs one iteration: take requests in, plan, decode, sample, deliver. It
// reports whether there was work. An error means that the engine is lost. Only
// step and what it calls use the engine.
func (s *Scheduler) step() (worked bool, err error) {
	began := time.Now()
	s.receive()
	s.reap()
	s.admit()
	s.relieve()
	s.closeHoles()
	s.share()
	s.spans = plan(s.slots, s.policy(), s.spans)
	s.rows = rowsOf(s.slots, s.spans, s.rows)
	if len(s.rows) == 0 {
		s.publish()
		return false, nil
	}

	start := time.Now()
	err = s.engine.Decode(s.rows)
	decoded := time.Now()
	if err != nil {
		return true, s.fail(err)
	}
	s.commit(decoded.Sub(start))
	s.sample()
	sampled := time.Now()
	s.deliver()

	s.count.engine.Add(int64(decoded.Sub(start)))
	s.count.sample.Add(int64(sampled.Sub(decoded)))
	s.count.scheduler.Add(int64(start.Sub(began) + time.Since(sampled)))
	s.publish()
	return true, nil
}

func (s *Scheduler) policy() policy {
	return policy{
		batch:   s.limits.Batch,
		unified: s.limits.Unified,
		prefill: s.pace.tokens(),
		alone:   s.pace.alone(),
	}
}

// receive takes what was submitted since the last step.
func (s *Scheduler) receive() {
	for {
		select {
		case q := <-s.inbox:
			s.waiting = append(s.waiting, q)
		default:
			return
		}
	}
}

// reap ends the requests whose clients have gone, waiting ones too.
func (s *Scheduler) reap() {
	for i := range s.slots {
		if sl := &s.slots[i]; sl.active() && sl.seq.ctx.Err() != nil {
			s.finish(sl, "", sl.seq.ctx.Err())
		}
	}
	kept := s.waiting[:0]
	for _, q := range s.waiting {
		if err := q.ctx.Err(); err != nil {
			s.end(q, "", err)
			continue
		}
		kept = append(kept, q)
	}
	clear(s.waiting[len(kept):])
	s.waiting = kept
}

// commit notes that the rows of the spans are in the KV cache now.
func (s *Scheduler) commit(took time.Duration) {
	prefill, decode := 0, 0
	for _, sp := range s.spans {
		sl := &s.slots[sp.slot]
		from := len(sl.cached)
		if sl.exact == from {
			sl.exact += sp.n
		}
		s.holds(sl, append(sl.cached, sl.seq.tokens[from:from+sp.n]...))
		if sp.logits {
			decode++
		} else {
			prefill += sp.n
		}
	}
	if prefill > 0 {
		s.pace.prefilled(prefill, decode, took)
	} else {
		s.pace.decoded(took)
	}
	s.count.steps.Add(1)
	s.count.passes.Add(int64(passes(s.spans, s.limits.Unified)))
	s.count.prefill.Add(int64(prefill))
	s.count.decode.Add(int64(decode))
}

// sample picks a token for each row with logits.
func (s *Scheduler) sample() {
	s.picks, s.picked = s.picks[:0], s.picked[:0]
	row := -1
	for _, sp := range s.spans {
		row += sp.n
		if sp.logits {
			sl := &s.slots[sp.slot]
			s.picks = append(s.picks, llm.Pick{Row: row, Sampler: sl.seq.sampler, Logprobs: sl.seq.logprobs()})
			s.picked = append(s.picked, sl)
		}
	}
	if len(s.picks) > 0 {
		s.engine.Sample(s.picks)
	}
}

// deliver takes the picked tokens into the answers. It never waits for a reader.
func (s *Scheduler) deliver() {
	for i, sl := range s.picked {
		why, err := Reason(""), s.picks[i].Err
		switch {
		case err == nil:
			why = s.accept(sl, s.picks[i])
		case errors.Is(err, llm.ErrComplete):
			why, err = ReasonStop, nil
		}
		if err != nil || why != "" {
			s.finish(sl, why, err)
		}
	}
	clear(s.picked)
	clear(s.picks)
}

// publish makes the state visible to Stats.
func (s *Scheduler) publish() {
	active := 0
	for i := range s.slots {
		if s.slots[i].active() {
			active++
		}
	}
	s.count.active.Store(int64(active))
	s.count.waiting.Store(int64(len(s.waiting)))
	s.count.held.Store(s.held)
	s.count.budget.Store(s.budget)
}
