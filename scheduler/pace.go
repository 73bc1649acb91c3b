package scheduler

import "time"

// pace says how many prompt tokens may be computed between two decode steps, so
// that a long prompt does not stall the answers of its neighbours. It measures
// what the engine needs and holds the time between two decode steps, not a
// number of tokens.
type pace struct {
	perToken time.Duration // smoothed cost of one prompt token
	decode   time.Duration // smoothed cost of a decode step
	since    time.Duration // spent on prompts since the last decode step
}

const (
	// leastGap is how long a slice of prompts and the decode step after it may take
	// together however short that step is, excess aside: the sooner prompts are done, the
	// more rows share the steps that follow.
	leastGap = 250 * time.Millisecond
	// sliceOfDecode is what prompts get of the time of a longer decode step.
	sliceOfDecode = 1.25
	// sliceAlone is what prompts get in one step when nothing decodes. It bounds how
	// long a cancelled prompt goes on and how long a new request waits.
	sliceAlone = 400 * time.Millisecond
	// firstChunk is the prompt tokens of a slice before anything was measured.
	firstChunk = 64
)

// slice is the time that prompts get between two decode steps.
func (p *pace) slice() time.Duration {
	return max(leastGap-p.decode, time.Duration(sliceOfDecode*float64(p.decode)))
}

// tokens is how many prompt tokens may be computed now, 0 when decode rows are due.
func (p *pace) tokens() int {
	if p.perToken == 0 {
		return firstChunk
	}
	left := p.slice() - p.since
	n := int(left / p.perToken)
	switch {
	case p.since == 0:
		return max(n, leastChunk) // however slow the engine, prompts get on
	case n < leastChunk:
		return 0
	default:
		return n
	}
}

// perSlice is how many prompt tokens may be computed between two decode steps.
func (p *pace) perSlice() int {
	if p.perToken == 0 {
		return firstChunk
	}
	return max(int(p.slice()/p.perToken), leastChunk)
}

// alone is how many prompt tokens one step may compute when nothing decodes.
func (p *pace) alone() int {
	if p.perToken == 0 {
		return firstChunk
	}
	return max(int(sliceAlone/p.perToken), leastChunk)
}

// decoded notes a step of decode rows only; whole says whether they took all of the time.
func (p *pace) decoded(took time.Duration, whole bool) {
	p.since = 0
	if whole || p.decode == 0 {
		p.decode = smooth(p.decode, took)
	}
}

// prefilled notes a step that computed n prompt tokens beside rows decode rows; whole says
// whether these took all of the time.
func (p *pace) prefilled(n, rows int, took time.Duration, whole bool) {
	took = max(took, time.Duration(n)*time.Microsecond) // no clock is so fine that a prompt is free
	if rows > 0 {
		p.since = 0 // the decode rows had their turn in this step
		took = max(took-p.decode, took/4)
	} else {
		p.since += took
	}
	if whole || p.perToken == 0 {
		p.perToken = smooth(p.perToken, took/time.Duration(n))
	}
}

// smooth follows a measured cost; a quarter of each new value counts.
func smooth(old, took time.Duration) time.Duration {
	if old == 0 {
		return took
	}
	return old + (took-old)/4
}
