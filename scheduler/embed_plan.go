package scheduler

import (
	"time"

	"cllm/llm"
)

// longText is a text that does not fit into one call. There is one at a time: so
// an unfinished text never waits for memory that another one holds.
type longText struct {
	of   *embedding
	text int // index
	seq  llm.SeqID
	done int // tokens computed
}

func (l *longText) left() int { return len(l.of.texts[l.text]) - l.done }

// textSpan is the tokens from up to to of one text, in one call.
type textSpan struct {
	of       *embedding
	text     int
	seq      llm.SeqID
	from, to int
}

func (s textSpan) tokens() []llm.Token { return s.of.texts[s.text][s.from:s.to] }

func (s textSpan) last() bool { return s.to == len(s.of.texts[s.text]) }

// deal says what the next call computes: at most tokens tokens, text by text of
// each request in turn. The requests stand in the order in which they are due.
//
// A long text gets half of the call, and what the others leave of theirs. Nobody is
// passed over for ever: a text of the first request that does not fit becomes the
// long one, as soon as that place is free. Where texts must be whole it is taken
// however long it is.
func deal(requests []*embedding, long *longText, limits llm.EmbedLimits, tokens int, spans []textSpan) []textSpan {
	d := dealer{limits: limits, left: tokens, reserved: -1, spans: spans[:0], next: make([]int, len(requests))}
	for i, r := range requests {
		d.next[i] = r.next
	}
	if i, n := d.due(requests); i >= 0 && limits.Whole {
		d.left = max(d.left, n)
	} else if i >= 0 && long == nil && n > tokens {
		long = &longText{of: requests[i], text: d.next[i]}
		d.next[i]++
	}
	if long != nil {
		// Its share is kept back; its span comes when those of the others are known.
		d.reserve(long.seq)
		d.left -= min(long.left(), max(tokens/2, 1))
	}
	d.whole(requests)
	if long != nil {
		n := min(long.left(), tokens-d.dealt)
		d.add(textSpan{of: long.of, text: long.text, seq: long.seq, from: long.done, to: long.done + n})
		if n < long.left() {
			return d.spans
		}
	}
	if i, _ := d.due(requests); i >= 0 && !limits.Whole && d.dealt < tokens && len(d.spans) < limits.Sequences {
		// The rest is for the beginning of a text that did not fit.
		d.add(textSpan{of: requests[i], text: d.next[i], seq: d.free(), to: tokens - d.dealt})
	}
	return d.spans
}

// dealer is deal's state.
type dealer struct {
	limits   llm.EmbedLimits
	next     []int // the next text of each request
	left     int   // tokens for whole texts
	dealt    int
	seq      llm.SeqID // the lowest that may be free
	reserved llm.SeqID // the long text's
	seqs     int       // that are taken
	spans    []textSpan
}

// due is the first request that has a text left, and that text's tokens; -1 if there
// is none.
func (d *dealer) due(requests []*embedding) (i, tokens int) {
	for i, r := range requests {
		if d.next[i] < len(r.texts) {
			return i, len(r.texts[d.next[i]])
		}
	}
	return -1, 0
}

// whole takes texts of all requests in turn that fit as they are.
func (d *dealer) whole(requests []*embedding) {
	for again := true; again; {
		again = false
		for i, r := range requests {
			n := d.next[i]
			if n == len(r.texts) || len(r.texts[n]) > d.left || d.seqs == d.limits.Sequences {
				continue
			}
			d.left -= len(r.texts[n])
			d.next[i]++
			d.add(textSpan{of: r, text: n, seq: d.free(), to: len(r.texts[n])})
			again = true
		}
	}
}

func (d *dealer) add(s textSpan) {
	d.dealt += s.to - s.from
	d.spans = append(d.spans, s)
}

// reserve takes a sequence.
func (d *dealer) reserve(seq llm.SeqID) {
	d.reserved = seq
	d.seqs++
}

// free returns the lowest sequence that nothing uses, and takes it.
func (d *dealer) free() llm.SeqID {
	if d.seq == d.reserved {
		d.seq++
	}
	d.seqs++
	d.seq++
	return d.seq - 1
}

// embedPace holds the time of a call, not a number of tokens: it bounds how long a
// new request waits for its first turn, and how long a cancelled one goes on.
type embedPace struct {
	perToken time.Duration // smoothed
}

const (
	// embedSlice is what a call should take.
	embedSlice = 250 * time.Millisecond
	// embedFirst is the tokens of a call before anything was measured.
	embedFirst = 128
	// embedLeast is the fewest tokens that a call is planned for, and that tell what
	// a token costs.
	embedLeast = 32
)

// tokens is how many tokens the next call may compute, of most possible ones.
func (p *embedPace) tokens(most int) int {
	n := embedFirst
	if p.perToken > 0 {
		n = max(int(embedSlice/p.perToken), embedLeast)
	}
	return min(n, most)
}

// computed notes a call of n tokens. A small one tells what a call costs, not what
// a token does.
func (p *embedPace) computed(n int, took time.Duration) {
	if n >= embedLeast {
		p.perToken = max(smooth(p.perToken, took/time.Duration(n)), 1)
	}
}
