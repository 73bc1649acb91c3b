package scheduler

// mostMoved is the tokens that are moved in one step to close holes. Into new memory that
// takes about as long as a decode step of many slots of a small model; what a hole costs is
// a further pass over the weights in every step. Longer caches stay where they are.
const mostMoved = 2048

// closeHoles makes the slots that decode stand in a row, where the moves are short
// enough to pay: with one cache per sequence every gap costs a pass over the weights in
// each step. Requests from the ends of the row move into the places of those that have
// ended; a prompt in prefill between them moves out of the row.
func (s *Scheduler) closeHoles() {
	if s.limits.Unified {
		return
	}
	for before := s.copied; ; {
		first, last := s.row((*slot).decodes)
		dst := s.hole(first, last)
		if dst == nil {
			return
		}
		src := &s.slots[last]
		if len(s.slots[first].cached) < len(src.cached) {
			src = &s.slots[first]
		}
		if dst.active() {
			dst, src = s.outside(first, last), dst
		}
		if dst == nil {
			return
		}
		if s.copied-before+len(src.cached) > mostMoved || !s.move(dst, src) {
			return
		}
	}
}

// hole is a slot between the two that does not decode: an idle one, the one with the
// least in its cache, or else one in prefill.
func (s *Scheduler) hole(first, last int) *slot {
	var best *slot
	for i := first + 1; i < last; i++ {
		sl := &s.slots[i]
		switch {
		case sl.active() && sl.decodes():
		case best == nil, best.active() && !sl.active(),
			best.active() == sl.active() && len(sl.cached) < len(best.cached):
			best = sl
		}
	}
	return best
}

// outside is the idle slot next to the row from first to last.
func (s *Scheduler) outside(first, last int) *slot {
	for d := 1; first-d >= 0 || last+d < len(s.slots); d++ {
		if i := last + d; i < len(s.slots) && !s.slots[i].active() {
			return &s.slots[i]
		}
		if i := first - d; i >= 0 && !s.slots[i].active() {
			return &s.slots[i]
		}
	}
	return nil
}

// move moves a request to an idle slot, with its cache.
func (s *Scheduler) move(dst, src *slot) bool {
	s.spare(dst, 0)
	if s.copyCache(dst, src, len(src.cached)) != nil {
		return false
	}
	dst.seq, dst.used = src.seq, src.used
	src.seq = nil
	s.truncate(src, 0)
	s.count.moved.Add(1)
	return true
}
