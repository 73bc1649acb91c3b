package scheduler

import "cllm/llm"

// Drafts are tokens that an answer is likely to go on with: those that followed the
// last time when its latest tokens stood in the prompt or in the answer (prompt lookup
// decoding). They are checked in the pass that computes the next token. Each is sampled
// like any other token, and stands if that is what was drafted: so the answer is the
// same, where the engine computes a row alike among any others, and what is wrong costs
// only the rows.
const (
	// mostDraft is the tokens of a draft.
	mostDraft = 15
	// draftSlots is for how many decoding slots drafts are tried. With more of them a
	// pass has no room that is cheap.
	draftSlots = 4
	// ngram is how many tokens have to stand before in the same order.
	ngram = 3
	// leastGain is by how much a draft must promise to be faster.
	leastGain = 1.05
	// firstTrust is how often the first token of a draft is right before anything is
	// known of a request, and trustShare the part, one in so many, that an outcome
	// counts.
	firstTrust = 0.6
	trustShare = 8
	// fade is the part of a step's cost that is forgotten with each step of other rows.
	fade = 0.0002
)

// lookup returns what followed the latest occurrence of the last ngram tokens, most
// tokens of it.
func lookup(tokens []llm.Token, most int) []llm.Token {
	n := len(tokens) - ngram
	if n < 1 || most < 1 {
		return nil
	}
	a, b, c := tokens[n], tokens[n+1], tokens[n+2]
	for i := n - 1; i >= 0; i-- {
		if tokens[i+2] == c && tokens[i+1] == b && tokens[i] == a {
			return tokens[i+ngram : min(i+ngram+most, len(tokens))]
		}
	}
	return nil
}

// propose drafts tokens for a step that only decodes a few slots, and gives their rows
// to the spans. With one cache per sequence all spans get equally many rows, so that
// the step stays one pass.
func (s *Scheduler) propose() {
	if s.draftless || len(s.spans) == 0 || len(s.spans) > draftSlots {
		return
	}
	room := min(mostDraft, s.limits.Outputs/len(s.spans)-1, s.limits.Batch/len(s.spans)-1)
	for _, sp := range s.spans {
		if !sp.logits {
			return
		}
		q := s.slots[sp.slot].seq
		q.draft = q.draft[:0]
		// Of a context that is full the scheduler moves or ends the request: not with
		// tokens in the cache that are not settled.
		room = min(room, q.limit-len(q.tokens)-1)
	}
	if room < 1 {
		return
	}
	for _, sp := range s.spans {
		q := s.slots[sp.slot].seq
		most := room
		if q.req.MaxTokens > 0 {
			most = min(most, q.req.MaxTokens-q.generated-1)
		}
		q.draft = append(q.draft, lookup(q.tokens, most)...)
	}
	n := s.draftCost.best(s.spans, s.slots, room)
	for i := range s.spans {
		sp := &s.spans[i]
		q := s.slots[sp.slot].seq
		sp.drafts = min(n, len(q.draft))
		sp.n = 1 + n
		if s.limits.Unified {
			sp.n = 1 + sp.drafts
		}
	}
}

// draftToken is the token of a draft's row. Rows that only make spans equal repeat the
// last token.
func (q *sequence) draftToken(i int) llm.Token {
	if i < len(q.draft) {
		return q.draft[i]
	}
	return q.tokens[len(q.tokens)-1]
}

// judge notes whether the first token of a draft was right, checked or not.
func (q *sequence) judge(t llm.Token) {
	if len(q.draft) == 0 {
		return
	}
	right := float32(0)
	if q.draft[0] == t {
		right = 1
	}
	q.trust += (right - q.trust) / trustShare
}

// settle forgets the rows of the drafts that did not stand.
func (s *Scheduler) settle() {
	for i, sp := range s.spans {
		if !sp.logits {
			continue
		}
		sl := &s.slots[sp.slot]
		if sl.active() {
			sl.seq.draft = sl.seq.draft[:0]
		}
		if sp.n == 1 {
			continue
		}
		s.truncate(sl, s.stands[i])
		if len(sl.cached) != s.stands[i] {
			s.draftless = true // the memory forgets only the whole
		}
		s.count.drafted.Add(int64(sp.drafts))
	}
}

// rowCosts is what steps of so many rows took, those that only decode: their smoothed
// seconds, by rows; 0 where there was none.
type rowCosts [draftSlots*(mostDraft+1) + 1]float64

// note takes in what a step of so many rows took.
func (c *rowCosts) note(rows int, seconds float64) {
	if rows >= len(c) {
		return
	}
	if c[rows] == 0 {
		c[rows] = seconds
		return
	}
	c[rows] += (seconds - c[rows]) / 4
	for i := range c {
		if i != rows {
			c[i] *= 1 - fade // what was slow once is tried again some time
		}
	}
}

// of is what a step of so many rows is expected to take: measured, or by a straight line
// between the nearest measured ones, or, above all of them, by the line through the
// lowest and the highest. Where only one was measured, a row more costs half as much.
func (c *rowCosts) of(rows int) float64 {
	below, above, lowest := rows, rows, 1
	for below > 0 && c[below] == 0 {
		below--
	}
	for above < len(c) && c[above] == 0 {
		above++
	}
	for lowest < below && c[lowest] == 0 {
		lowest++
	}
	more := float64(rows - below)
	switch {
	case below == 0:
		return 0
	case below == above:
		return c[rows]
	case above < len(c):
		return c[below] + (c[above]-c[below])*more/float64(above-below)
	case lowest < below:
		return c[below] + max(0, c[below]-c[lowest])*more/float64(below-lowest)
	default:
		return c[below] * (1 + more/float64(below)/2)
	}
}

// best is the number of draft tokens per slot that promises the most tokens in a
// second; 0 when none promises more than a step without them.
func (c *rowCosts) best(spans []span, slots []slot, room int) (n int) {
	alone := c.of(len(spans))
	if alone == 0 {
		return 0
	}
	rate := leastGain * float64(len(spans)) / alone
	for d := 1; d <= room; d++ {
		tokens := 0.0
		for _, sp := range spans {
			q := slots[sp.slot].seq
			right := 1.0
			for i := 0; i <= min(d, len(q.draft)); i++ {
				tokens += right
				right *= float64(q.trust)
			}
		}
		if r := tokens / c.of(len(spans)*(1+d)); r > rate {
			n, rate = d, r
		}
	}
	return n
}
