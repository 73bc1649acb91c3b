package scheduler

import "cllm/llm"

// mostMoved is the tokens that are moved in one step to close holes. At memory
// speed that is some milliseconds for a small model, less than the pass over the
// weights that a hole costs in every step.
const mostMoved = 4096

// closeHoles moves sequences from the ends of the active row into the holes that
// ended requests left, where the move is short enough to pay.
func (s *Scheduler) closeHoles() {
	if s.limits.Unified {
		return
	}
	for room := mostMoved; ; {
		first, last := s.activeRow()
		hole := s.hole(first, last)
		if hole == nil {
			return
		}
		src := &s.slots[last]
		if len(s.slots[first].cached) < len(src.cached) {
			src = &s.slots[first]
		}
		if room -= len(src.cached); room < 0 {
			return
		}
		s.spare(hole, 0)
		if s.engine.Copy(hole.id, src.id, llm.Pos(len(src.cached))) != nil {
			s.truncate(hole, 0)
			return
		}
		s.holds(hole, append(hole.cached[:0:0], src.cached...))
		hole.seq, hole.exact, hole.used = src.seq, src.exact, src.used
		src.seq = nil
		s.truncate(src, 0)
		s.count.moved.Add(1)
	}
}

// hole is an idle slot between active ones: the one with the least in its cache.
func (s *Scheduler) hole(first, last int) *slot {
	var best *slot
	for i := first + 1; i < last; i++ {
		if sl := &s.slots[i]; !sl.active() && (best == nil || len(sl.cached) < len(best.cached)) {
			best = sl
		}
	}
	return best
}
