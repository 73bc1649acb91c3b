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
	s.copied = 0
	s.receive()
	s.reap()
	s.admit()
	s.relieve()
	s.share()
	s.closeHoles()
	s.spans = plan(s.slots, s.policy(), s.spans)
	s.propose()
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
	sampling := s.answer()

	s.count.engine.Add(int64(decoded.Sub(start)))
	s.count.sample.Add(int64(sampling))
	s.count.scheduler.Add(int64(start.Sub(began) + time.Since(decoded) - sampling))
	s.publish()
	return true, nil
}

func (s *Scheduler) policy() policy {
	return policy{
		batch:   s.limits.Batch,
		unified: s.limits.Unified,
		prefill: s.pace.tokens(),
		alone:   s.pace.alone(),
		slice:   s.pace.perSlice(),
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
	s.stands = s.stands[:0]
	for _, sp := range s.spans {
		sl := &s.slots[sp.slot]
		from := len(sl.cached)
		if sl.exact == from {
			sl.exact += sp.n
		}
		cached := append(sl.cached, sl.seq.tokens[from:min(from+sp.n, len(sl.seq.tokens))]...)
		for len(cached) < from+sp.n {
			cached = append(cached, sl.seq.draftToken(len(cached)-len(sl.seq.tokens)))
		}
		s.holds(sl, cached)
		s.stands = append(s.stands, from+1)
		if sp.logits {
			decode++
		} else {
			prefill += sp.n
		}
	}
	whole := s.copied == 0 // else a part of the time went into copies
	if prefill > 0 {
		s.pace.prefilled(prefill, decode, took, whole)
	} else {
		s.pace.decoded(took, whole)
		if whole {
			s.draftCost.note(len(s.rows), took.Seconds())
		}
	}
	s.count.steps.Add(1)
	s.count.passes.Add(int64(passes(s.spans, s.limits.Unified)))
	s.count.prefill.Add(int64(prefill))
}

// answer samples the tokens of the step and takes them into the answers, first those of
// all requests, then, where the token is the one that was drafted, those after it. It
// returns the time that the engine sampled.
func (s *Scheduler) answer() (sampling time.Duration) {
	s.picked = s.picked[:0]
	for i, sp := range s.spans {
		if sp.logits {
			s.picked = append(s.picked, i)
		}
	}
	for k := 0; len(s.picked) > 0; k++ {
		began := time.Now()
		s.sample(k)
		sampling += time.Since(began)
		s.deliver(k)
	}
	s.settle()
	return sampling
}

// sample picks a token for each picked span, from its row k.
func (s *Scheduler) sample(k int) {
	s.picks = s.picks[:0]
	row, next := 0, 0
	for i, sp := range s.spans {
		if next < len(s.picked) && s.picked[next] == i {
			q := s.slots[sp.slot].seq
			s.picks = append(s.picks, llm.Pick{Row: row + k, Sampler: q.sampler, Logprobs: q.logprobs()})
			next++
		}
		row += sp.n
	}
	s.engine.Sample(s.picks)
	s.count.decode.Add(int64(len(s.picks)))
}

// deliver takes the picked tokens into the answers, and leaves in s.picked the spans of
// which row k+1 counts. It never waits for a reader.
func (s *Scheduler) deliver(k int) {
	on := s.picked[:0]
	for j, i := range s.picked {
		sp := s.spans[i]
		sl := &s.slots[sp.slot]
		q, why, err := sl.seq, Reason(""), s.picks[j].Err
		switch {
		case err == nil:
			if k == 0 {
				q.judge(s.picks[j].Token)
			}
			why = s.accept(sl, s.picks[j])
		case errors.Is(err, llm.ErrComplete):
			why, err = ReasonStop, nil
		}
		if err != nil || why != "" {
			s.finish(sl, why, err)
		} else if k < sp.drafts && q.draft[k] == s.picks[j].Token {
			s.stands[i]++
			s.count.draftsStood.Add(1)
			on = append(on, i)
		}
	}
	s.picked = on
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
