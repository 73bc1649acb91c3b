package scheduler

import (
	"time"

	"cllm/llm"
)

// headroom is the tokens that admission leaves free for each active request to
// grow by, so that one is not admitted only to be sent back at once.
const headroom = 32

// idleShare is the part of the budget, one in so many, that the caches of idle
// slots may fill.
const idleShare = 8

// admit gives waiting requests slots, first come first served, while there are
// slots and memory. What is saved from these slots is copied in this step, so others may
// have to wait for the next one.
func (s *Scheduler) admit() {
	n := 0
	for n < len(s.waiting) && s.fits(s.waiting[n]) && (n == 0 || s.copied <= mostCopied) {
		sl := s.choose(s.waiting[n].tokens)
		if sl == nil {
			break
		}
		s.place(s.waiting[n], sl)
		n++
	}
	if n > 0 {
		rest := copy(s.waiting, s.waiting[n:])
		clear(s.waiting[rest:])
		s.waiting = s.waiting[:rest]
	}
}

// fits reports whether the request's tokens fit beside those of the active
// requests. What idle slots hold does not count: relieve frees it. A request
// that is alone always fits.
func (s *Scheduler) fits(q *sequence) bool {
	// Each time a request was sent back it needs more room to come again: what it
	// had computed was lost.
	need := int64(len(q.tokens) + headroom<<min(q.preempted, 6))
	active := s.needed()
	return active == 0 || active+need <= s.budget
}

// needed is the tokens of the active requests with room for each to grow, 0 when
// there are none.
func (s *Scheduler) needed() (n int64) {
	for i := range s.slots {
		if sl := &s.slots[i]; sl.active() {
			n += int64(len(sl.seq.tokens) + headroom)
		}
	}
	return n
}

// choose returns the idle slot that a prompt shall have, nil if there is none.
//
// Active slots shall stand in a row, see closeHoles. So only slots that fill a gap or
// extend the row come into question. A prompt of which little is to be computed fills a
// gap: it decodes before the others do again. Another one extends the row: in a gap it would
// part those that decode for as long as it is in prefill. Then the longest prefix in the cache wins, then the
// cache that was used the longest time ago.
func (s *Scheduler) choose(prompt []llm.Token) *slot {
	first, last := s.row(func(*slot) bool { return true })
	slice := s.pace.perSlice()
	var best *slot
	bestPrefix, bestPlace := -1, -1
	for i := range s.slots {
		sl := &s.slots[i]
		gap := first < i && i < last
		if sl.active() || !s.limits.Unified && first >= 0 && !gap && i != first-1 && i != last+1 {
			continue
		}
		n, place := sl.prefix(prompt), 1
		switch long := len(prompt)-n > slice; {
		case !gap || s.limits.Unified:
		case long:
			place = 0
		default:
			place = 2
		}
		if place > bestPlace || place == bestPlace && (n > bestPrefix || n == bestPrefix && sl.used < best.used) {
			best, bestPrefix, bestPlace = sl, n, place
		}
	}
	return best
}

// row returns the first and the last active slot of a kind, -1 if there is none.
func (s *Scheduler) row(is func(*slot) bool) (first, last int) {
	first, last = -1, -1
	for i := range s.slots {
		if sl := &s.slots[i]; sl.active() && is(sl) {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	return first, last
}

// place puts a request into a slot, with as much of its prompt as the slot holds. What
// other slots hold of it comes with share.
func (s *Scheduler) place(q *sequence, sl *slot) {
	if q.queued {
		q.queued = false
		s.queue.Leave()
	}
	n := sl.prefix(q.tokens)
	s.spare(sl, n)
	s.truncate(sl, n)
	n = len(sl.cached)
	s.tick++
	q.order, sl.used = s.tick, s.tick
	if q.admitted.IsZero() {
		q.admitted = time.Now()
		q.cached = n
		s.count.cached.Add(int64(n))
	}
	sl.seq = q
}

// relieve keeps what is held within the budget: first the caches of idle slots
// go, the longest unused first, then the youngest requests, back to wait. The
// cache that was used last may be larger than the idle share: its client is the
// likeliest to come back.
func (s *Scheduler) relieve() {
	for {
		active, idle, caches := s.tokens()
		switch {
		case active+idle <= s.budget && (idle <= s.budget/idleShare || caches == 1):
			return
		case s.evictIdle():
		case active <= s.budget || !s.preempt():
			return
		}
	}
}

// tokens is what the active requests hold or will hold when their prompts are
// computed, what idle slots hold, and how many of these hold anything.
func (s *Scheduler) tokens() (active, idle int64, caches int) {
	for i := range s.slots {
		switch sl := &s.slots[i]; {
		case sl.active():
			active += int64(len(sl.seq.tokens))
		case len(sl.cached) > 0:
			idle += int64(len(sl.cached))
			caches++
		}
	}
	return active, idle, caches
}

// evictIdle forgets the cache of the idle slot that was unused the longest time.
func (s *Scheduler) evictIdle() bool {
	var oldest *slot
	for i := range s.slots {
		sl := &s.slots[i]
		if !sl.active() && len(sl.cached) > 0 && (oldest == nil || sl.used < oldest.used) {
			oldest = sl
		}
	}
	if oldest == nil {
		return false
	}
	s.truncate(oldest, 0)
	return true
}

// preempt sends the youngest request back to the head of the queue. It keeps
// what it has generated and computes its cache anew when it gets a slot again.
// The last request is never sent back.
func (s *Scheduler) preempt() bool {
	var youngest *slot
	active := 0
	for i := range s.slots {
		if sl := &s.slots[i]; sl.active() {
			active++
			if youngest == nil || sl.seq.order > youngest.seq.order {
				youngest = sl
			}
		}
	}
	if active < 2 {
		return false
	}
	s.waiting = append([]*sequence{youngest.seq}, s.waiting...)
	youngest.seq.preempted++
	youngest.seq = nil
	s.truncate(youngest, 0)
	s.count.preempted.Add(1)
	return true
}
