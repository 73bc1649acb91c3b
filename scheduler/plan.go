package scheduler

import "cllm/llm"

// policy is what plan has to keep to in one step.
type policy struct {
	batch   int  // rows at most
	unified bool // decode rows and prompt chunks share a pass
	prefill int  // prompt tokens that may be computed before decode rows are due; 0: none
	alone   int  // prompt tokens of a step when nothing decodes
	slice   int  // prompt tokens of a whole slice between two decode steps
}

// span is the rows of one slot in a batch: its next n pending tokens.
type span struct {
	slot   int
	n      int
	logits bool // the first row's logits are wanted, and those of the drafts
	drafts int  // rows after the first that a draft fills; see propose
}

// leastChunk is the smallest piece worth cutting off a prompt: fewer rows cost
// nearly a whole pass over the weights.
const leastChunk = 16

// excess is the part of a slice, in percent, by which prompts may exceed it that are not cut.
const excess = 40

// plan decides which rows the next step decodes. It is a pure function.
//
// A slot with one pending token decodes. A prompt is prefilled up to its last
// token, which then is a decode row like any other: so only decode rows ask for
// logits, and a decode step is one pass of one row for each sequence, or of as many as
// propose makes of it.
//
// With a unified cache decode rows come first and prompt chunks fill up. With
// one cache per sequence a batch of unequal counts would cost a pass for each
// count, so a step either decodes or prefills: it prefills while p.prefill
// allows it. The oldest prompt goes first and keeps its turn until it is done;
// prompts in the neighbouring slots join where equal chunks can be cut.
func plan(slots []slot, p policy, out []span) []span {
	out = out[:0]
	oldest, decoding := -1, 0
	for i := range slots {
		switch sl := &slots[i]; {
		case !sl.active(), sl.seq.waits:
		case sl.decodes():
			decoding++
		case oldest < 0 || sl.seq.order < slots[oldest].seq.order:
			oldest = i
		}
	}
	room := min(p.batch, p.alone)
	if decoding > 0 {
		room = min(p.batch, p.prefill)
	}
	prefills := oldest >= 0 && room > 0
	if prefills && decoding > 0 && !p.unified {
		// Two short chunks take longer than one, so what fits into a slice is not cut: it
		// exceeds this one by a part, or waits for the next. So do its neighbours with it, as
		// they would in a pass of their own.
		if rest := slots[oldest].pending() - 1; rest <= min(p.slice, p.batch) {
			room = min(room+p.slice*excess/100, p.batch)
			prefills = rest <= room
		}
	}
	if decoding > 0 && (p.unified || !prefills) {
		for i := range slots {
			if slots[i].active() && slots[i].decodes() {
				out = append(out, span{slot: i, n: 1, logits: true})
			}
		}
	}
	if !prefills {
		return out
	}
	if p.unified {
		return planMixed(slots, min(room, p.batch-len(out)), p.batch-len(out), out)
	}
	return planChunks(slots, oldest, room, p.batch, out)
}

// chunk is how many of n prompt tokens to compute when room rows are wanted and
// batch rows possible. A rest too small for a pass of its own is taken along, or
// left bigger.
func chunk(n, room, batch int) int {
	switch {
	case n <= room, n <= min(room+leastChunk, batch):
		return n
	case n-room < leastChunk:
		return max(n-leastChunk, min(room, leastChunk))
	default:
		return room
	}
}

// planChunks takes the oldest prompt's next chunk, and equal ones of its neighbours.
func planChunks(slots []slot, oldest, room, batch int, out []span) []span {
	n := chunk(slots[oldest].pending()-1, room, batch)
	first, last := oldest, oldest
	joins := func(i int) bool {
		if i < 0 || i >= len(slots) || (last-first+2)*n > room {
			return false
		}
		if !slots[i].active() || slots[i].seq.waits {
			return false
		}
		left := slots[i].pending() - 1 - n
		return left == 0 || left >= leastChunk
	}
	for joins(last + 1) {
		last++
	}
	for joins(first - 1) {
		first--
	}
	for i := first; i <= last; i++ {
		out = append(out, span{slot: i, n: n})
	}
	return out
}

// planMixed fills the room that decode rows left with prompts, oldest first.
func planMixed(slots []slot, room, batch int, out []span) []span {
	for i := nextPrompt(slots, -1); i >= 0 && room > 0; i = nextPrompt(slots, slots[i].seq.order) {
		if slots[i].seq.waits {
			continue
		}
		n := chunk(slots[i].pending()-1, room, batch)
		out = append(out, span{slot: i, n: n})
		room -= n
		batch -= n
	}
	return out
}

// nextPrompt is the slot of the oldest prompt in prefill that came after another one, -1
// when there is none.
func nextPrompt(slots []slot, after int64) int {
	next := -1
	for i := range slots {
		sl := &slots[i]
		if sl.active() && !sl.decodes() && sl.seq.order > after && (next < 0 || sl.seq.order < slots[next].seq.order) {
			next = i
		}
	}
	return next
}

// rowsOf writes the rows of spans.
func rowsOf(slots []slot, spans []span, rows []llm.Row) []llm.Row {
	rows = rows[:0]
	for _, sp := range spans {
		sl := &slots[sp.slot]
		q, from := sl.seq, len(sl.cached)
		for i := range sp.n {
			row := llm.Row{Pos: llm.Pos(from + i), Seq: sl.id, Logits: sp.logits && i <= sp.drafts}
			if from+i < len(q.tokens) {
				row.Token = q.tokens[from+i]
			} else {
				row.Token = q.draftToken(from + i - len(q.tokens))
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// passes is how many passes over the weights llama.cpp makes for spans: with one
// cache per sequence it cuts a batch at each gap in the sequence ids and at each
// change in the number of rows. That it cuts long chunks of prompts, too, is not counted.
func passes(spans []span, unified bool) int {
	if len(spans) == 0 {
		return 0
	}
	if unified {
		return 1
	}
	n := 1
	for i := 1; i < len(spans); i++ {
		if spans[i].slot != spans[i-1].slot+1 || spans[i].n != spans[i-1].n {
			n++
		}
	}
	return n
}
