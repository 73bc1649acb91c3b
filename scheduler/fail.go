package scheduler

import (
	"errors"
	"fmt"

	"cllm/llm"
)

// fail decides who pays for a failed Decode. It returns an error when the engine
// is lost: then every request pays.
func (s *Scheduler) fail(err error) error {
	switch {
	case errors.Is(err, llm.ErrNoRoom):
		// The cache is as before the call. Make room and try again; more than what
		// the others need has turned out not to fit.
		if s.evictIdle() {
			return nil
		}
		if s.preempt() {
			s.budget = min(s.budget, s.needed())
			return nil
		}
		s.endBatch(fmt.Errorf("the request does not fit into the KV cache, although it is alone; ask for a smaller num_ctx: %w", err))
		return nil
	case errors.Is(err, llm.ErrAborted):
		// Some of the rows may be held. Those requests go on from what is held.
		s.reread()
		return nil
	case errors.Is(err, llm.ErrInvalidBatch):
		s.endBatch(fmt.Errorf("the scheduler built a batch that the engine refuses, which is a bug: %w", err))
		return nil
	default:
		return fmt.Errorf("the model stopped working and is loaded anew for the next request: %w", err)
	}
}

// endBatch ends the requests whose rows were in the batch and forgets their
// caches, which can't be trusted.
func (s *Scheduler) endBatch(err error) {
	for _, sp := range s.spans {
		sl := &s.slots[sp.slot]
		s.finish(sl, "", err)
		s.truncate(sl, 0)
	}
}

// reread asks the engine what it holds for the rows of the batch.
func (s *Scheduler) reread() {
	for _, sp := range s.spans {
		sl := &s.slots[sp.slot]
		from := len(sl.cached)
		// The logits of the last token are lost, so it is computed again.
		n := min(int(s.engine.Held(sl.id)), len(sl.seq.tokens)-1)
		if n < from {
			s.truncate(sl, 0)
			continue
		}
		if sl.exact == from {
			sl.exact = n
		}
		s.holds(sl, append(sl.cached, sl.seq.tokens[from:n]...))
		if s.engine.Truncate(sl.id, llm.Pos(n)) != nil {
			s.truncate(sl, 0)
		}
	}
}
