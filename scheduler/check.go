package scheduler

import (
	"fmt"
	"slices"
)

// Check verifies what holds between two steps. It may be called only by Run's
// goroutine: from Options.AfterStep.
func (s *Scheduler) Check() error {
	var held int64
	seen := make(map[*sequence]bool)
	for i := range s.slots {
		sl := &s.slots[i]
		held += int64(len(sl.cached))
		if n := int(s.engine.Held(sl.id)); n != len(sl.cached) {
			return fmt.Errorf("slot %d: the engine holds %d tokens, the slot says %d", i, n, len(sl.cached))
		}
		if sl.exact > len(sl.cached) {
			return fmt.Errorf("slot %d: %d tokens can be reused of %d", i, sl.exact, len(sl.cached))
		}
		if !sl.active() {
			continue
		}
		q := sl.seq
		if seen[q] {
			return fmt.Errorf("slot %d: its request has two slots", i)
		}
		seen[q] = true
		switch {
		case q.queued:
			return fmt.Errorf("slot %d: its request still has a place in the queue", i)
		case len(sl.cached) >= len(q.tokens):
			return fmt.Errorf("slot %d: %d tokens cached of %d, none left to decode", i, len(sl.cached), len(q.tokens))
		case !slices.Equal(sl.cached, q.tokens[:len(sl.cached)]):
			return fmt.Errorf("slot %d: the cached tokens are not the request's", i)
		case len(q.tokens) > q.limit:
			return fmt.Errorf("slot %d: %d tokens in a context of %d", i, len(q.tokens), q.limit)
		case q.stream.ended():
			return fmt.Errorf("slot %d: its request has ended", i)
		}
	}
	for i, q := range s.waiting {
		if seen[q] {
			return fmt.Errorf("waiting request %d is there twice, or has a slot", i)
		}
		seen[q] = true
		if q.stream.ended() {
			return fmt.Errorf("waiting request %d has ended", i)
		}
	}
	if held != s.held {
		return fmt.Errorf("%d tokens are held, %d counted", held, s.held)
	}
	if n := s.inflight.Load(); n < int64(len(seen)) {
		return fmt.Errorf("%d requests are served, %d counted", len(seen), n)
	}
	return nil
}
