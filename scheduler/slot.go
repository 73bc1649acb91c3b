package scheduler

import (
	"context"
	"math"
	"time"

	"cllm/llm"
)

// sequence is one accepted request and what became of it so far. It is waiting
// or it has a slot.
type sequence struct {
	ctx     context.Context
	req     Request
	limit   int         // positions it may use
	tokens  []llm.Token // prompt and answer; after a shift without what was discarded
	sampler *llm.Sampler
	draft   []llm.Token // what may follow tokens; for one step
	trust   float32     // how often the first token of a draft was right
	text    *llm.Text
	unsent  []unsent // tokens whose text is held back, with Logprobs only
	bytes   int      // of the pieces of all tokens so far
	stream  *Stream

	queued    bool  // holds a place in the queue
	waits     bool  // for an older prompt that begins alike; set by share for one step
	order     int64 // when it got its slot; smaller is older
	preempted int   // how often it was sent back to wait
	generated int
	cached    int // prompt tokens that did not have to be computed

	arrived, admitted, first time.Time // first: when the first token was there
}

// slot is one sequence of the engine.
type slot struct {
	id     llm.SeqID
	seq    *sequence   // nil: idle
	cached []llm.Token // what the engine holds, by position
	exact  int         // cached[:exact] was computed without a shift: it may serve another prompt
	used   int64       // tick of the last use
}

func (sl *slot) active() bool { return sl.seq != nil }

// pending is how many of the request's tokens the cache lacks.
func (sl *slot) pending() int { return len(sl.seq.tokens) - len(sl.cached) }

// decodes reports whether an active slot's next row is a decode row.
func (sl *slot) decodes() bool { return sl.pending() == 1 }

// prefix returns how many tokens of prompt the slot can spare a new request.
func (sl *slot) prefix(prompt []llm.Token) int {
	return common(sl.cached[:sl.exact], prompt)
}

// truncate forgets the slot's tokens from n on. A memory that can only forget
// the whole forgets the whole.
func (s *Scheduler) truncate(sl *slot, n int) {
	if n == len(sl.cached) {
		return
	}
	if n > 0 && s.engine.Truncate(sl.id, llm.Pos(n)) != nil {
		n = 0
	}
	if n == 0 {
		// Forgetting a whole sequence never fails.
		_ = s.engine.Truncate(sl.id, 0)
	}
	s.holds(sl, sl.cached[:n])
	sl.exact = min(sl.exact, n)
}

// copyCache makes dst hold the first n tokens that src holds. If the engine can't do
// that, dst holds nothing: the engine may have forgotten what it held before.
func (s *Scheduler) copyCache(dst, src *slot, n int) error {
	if err := s.engine.Copy(dst.id, src.id, llm.Pos(n)); err != nil {
		s.truncate(dst, 0)
		return err
	}
	s.copied += len(src.cached)
	s.holds(dst, append(dst.cached[:0:0], src.cached[:n]...))
	dst.exact = min(src.exact, n)
	return nil
}

// holds records what the engine holds for a slot now.
func (s *Scheduler) holds(sl *slot, tokens []llm.Token) {
	s.held += int64(len(tokens) - len(sl.cached))
	sl.cached = tokens
}

// accept takes a sampled token into the answer. It returns why the answer ends
// with it, if it does.
func (s *Scheduler) accept(sl *slot, p llm.Pick) Reason {
	q, t := sl.seq, p.Token
	if q.generated == 0 {
		q.first = time.Now()
	}
	q.generated++
	if s.vocab.IsEnd(t) {
		return ReasonStop
	}
	q.sampler.Accept(t)
	piece := s.vocab.Piece(t)
	q.note(p, len(piece))
	text, stopped := q.text.Add(piece)
	q.stream.add(text, q.told(q.text.Settled()), q.generated)
	if stopped {
		q.unsent = nil // what is left was cut off
		return ReasonStop
	}
	q.tokens = append(q.tokens, t)
	if q.req.MaxTokens > 0 && q.generated >= q.req.MaxTokens {
		return ReasonLength
	}
	if len(q.tokens) > q.limit && !s.shift(sl) {
		return ReasonLength
	}
	return ""
}

// shift makes room in a full context: it discards half of what may be discarded.
func (s *Scheduler) shift(sl *slot) bool {
	q := sl.seq
	if !q.req.Shift {
		return false
	}
	keep := min(max(q.req.Keep, 0), q.limit-1)
	discard := max((q.limit-keep)/2, 1)
	if keep+discard > len(sl.cached) {
		return false
	}
	if s.engine.Shift(sl.id, llm.Pos(keep), llm.Pos(discard)) != nil {
		return false
	}
	q.tokens = append(q.tokens[:keep], q.tokens[keep+discard:]...)
	s.holds(sl, append(sl.cached[:keep], sl.cached[keep+discard:]...))
	sl.exact = min(sl.exact, keep)
	return true
}

// finish ends a request that has a slot. The slot keeps its cache: the next
// prompt may begin like this one.
func (s *Scheduler) finish(sl *slot, why Reason, err error) {
	q := sl.seq
	sl.seq = nil
	s.tick++
	sl.used = s.tick
	s.end(q, why, err)
}

// end gives a request its final event.
func (s *Scheduler) end(q *sequence, why Reason, err error) {
	if q.stream.ended() { // only after a panic that left it in two places
		return
	}
	if q.queued {
		q.queued = false
		s.queue.Leave()
	}
	if err == nil && why != "" {
		q.stream.add(q.text.Flush(), q.told(math.MaxInt), q.generated)
	}
	now := time.Now()
	d := &Done{
		Reason:       why,
		Err:          err,
		PromptTokens: len(q.req.Prompt),
		CachedTokens: q.cached,
		Tokens:       q.generated,
	}
	switch {
	case q.admitted.IsZero():
		d.Queued = now.Sub(q.arrived)
	case q.first.IsZero():
		d.Queued, d.Prefill = q.admitted.Sub(q.arrived), now.Sub(q.admitted)
	default:
		d.Queued, d.Prefill, d.Decode = q.admitted.Sub(q.arrived), q.first.Sub(q.admitted), now.Sub(q.first)
	}
	switch {
	case err == nil:
		s.count.finishedOK.Add(1)
	case q.ctx.Err() != nil:
		s.count.cancelledByUser.Add(1)
	default:
		s.count.finishedFailed.Add(1)
	}
	s.inflight.Add(-1)
	q.stream.end(d)
}

// endAll answers every request that is still there.
func (s *Scheduler) endAll(err error) {
	if err == nil {
		err = ErrClosed
	}
	for i := range s.slots {
		if s.slots[i].active() {
			s.finish(&s.slots[i], "", err)
		}
	}
	for _, q := range s.waiting {
		s.end(q, "", err)
	}
	s.waiting = nil
	s.publish()
}
