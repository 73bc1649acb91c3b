package scheduler

import (
	"errors"

	"cllm/llm"
)

// leastCopy is the shortest prefix that is taken from another slot, or waited for:
// below it, computing anew costs about as much.
const leastCopy = 32

// mostCopied is the tokens that prompts may take from other slots in one step, or that may
// be saved from the slots they get, while answers wait for it. Into memory that was not
// used before that takes as long as a decode step of many slots of a small model. Where
// nobody waits it may be more.
const (
	mostCopied      = 1024
	mostCopiedAlone = 8 * mostCopied
)

// share lets prompts that begin alike be computed once. A prompt takes what another
// slot holds of it. One that will have more in common with an older prompt, which is
// in prefill yet, waits for that. The oldest prompt waits for none, so that there is
// always one that gets on.
func (s *Scheduler) share() {
	for i := range s.slots {
		if sl := &s.slots[i]; sl.active() {
			sl.seq.waits = false // also one that was sent back while it waited, and decodes now
		}
	}
	copied, most := 0, mostCopiedAlone
	if first, _ := s.row((*slot).decodes); first >= 0 {
		most = mostCopied
	}
	for i := nextPrompt(s.slots, -1); i >= 0; i = nextPrompt(s.slots, s.slots[i].seq.order) {
		sl := &s.slots[i]
		q := sl.seq
		have := len(sl.cached)
		src, n := s.longestPrefix(q.tokens)
		q.waits = !s.copiesWhole && s.comingPrefix(q) >= max(n, have)+leastCopy
		switch {
		case q.waits, src == nil, src == sl, n < have+leastCopy, !s.copyPays(src, n):
		case copied > 0 && copied+len(src.cached) > most:
			q.waits = true
		default:
			copied += len(src.cached)
			s.take(sl, src, n)
		}
	}
}

// longestPrefix returns the slot that can spare the longest prefix of tokens.
func (s *Scheduler) longestPrefix(tokens []llm.Token) (src *slot, n int) {
	for i := range s.slots {
		if m := s.slots[i].prefix(tokens); m > n {
			src, n = &s.slots[i], m
		}
	}
	return src, n
}

// comingPrefix is how long a prefix of the request's tokens the older prompts in
// prefill will hold when they are computed.
func (s *Scheduler) comingPrefix(q *sequence) (longest int) {
	for i := range s.slots {
		sl := &s.slots[i]
		if sl.active() && !sl.decodes() && sl.seq.order < q.order && sl.exact == len(sl.cached) {
			longest = max(longest, common(sl.seq.tokens[:len(sl.seq.tokens)-1], q.tokens))
		}
	}
	return longest
}

// common is the length of the longest prefix of both that leaves a token of the prompt
// to compute: its logits are needed.
func common(a, prompt []llm.Token) int {
	n := 0
	for n < len(a) && n < len(prompt)-1 && a[n] == prompt[n] {
		n++
	}
	return n
}

// take makes the slot hold the first n tokens that src holds. A cache of an idle slot
// that says nothing more than that goes.
func (s *Scheduler) take(sl, src *slot, n int) {
	had := len(sl.cached)
	if err := s.copyCache(sl, src, n); err != nil {
		s.copiesWhole = s.copiesWhole || errors.Is(err, llm.ErrUnsupported)
		return
	}
	if q := sl.seq; q.generated == 0 && q.preempted == 0 {
		q.cached += n - had
		s.count.cached.Add(int64(n - had))
	}
	if !src.active() && len(src.cached) == n {
		s.truncate(src, 0)
	}
}

// copyPays reports whether copying is cheaper than computing n tokens. With one
// cache per sequence all that the source holds is copied, at memory speed:
// hundreds of tokens in the time of one computed.
func (s *Scheduler) copyPays(src *slot, n int) bool {
	if s.copiesWhole && n < len(src.cached) {
		return false
	}
	return s.limits.Unified || len(src.cached) <= 100*n
}

// spare saves what an idle slot will lose when only its first n tokens are kept: it
// moves to the idle slot whose cache was unused the longest time, if that is longer
// than its own. So which conversations are remembered is a matter of their age, not of
// the place where active slots have to stand.
func (s *Scheduler) spare(sl *slot, n int) {
	if sl.exact < n+leastCopy {
		return
	}
	var to *slot
	for i := range s.slots {
		switch o := &s.slots[i]; {
		case o == sl || o.active():
		case o.prefix(sl.cached) >= len(sl.cached)-1:
			return // it is there already
		case to == nil || o.age() < to.age():
			to = o
		}
	}
	if to == nil || to.age() >= sl.age() {
		return
	}
	if s.copyCache(to, sl, len(sl.cached)) == nil {
		to.used = sl.used
	}
}

// age orders idle slots by what their caches are worth: empty ones come first.
func (sl *slot) age() int64 {
	if len(sl.cached) == 0 {
		return -1
	}
	return sl.used
}
