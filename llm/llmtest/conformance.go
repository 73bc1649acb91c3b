package llmtest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"cllm/llm"
)

// TestEngine holds an engine to the promises of llm.Engine. open returns a new
// engine with at least 4 sequences of at least 64 positions, and its vocabulary;
// the suite closes it.
func TestEngine(t *testing.T, open func(t *testing.T) (llm.Engine, llm.Vocab)) {
	for _, c := range []struct {
		name string
		test func(d *driver)
	}{
		{"a sequence holds what was decoded", testHeld},
		{"chunks of a prompt give what the whole gives", testChunks},
		{"a batch that breaks a rule is refused and changes nothing", testInvalid},
		{"a sequence takes as many positions as the limits say and no more", testFull},
		{"what follows a truncation is as if the rest had never been", testTruncate},
		{"a copy goes on as the original does and apart from it", testCopy},
		{"a copy of a beginning forgets what the target held", testCopyPart},
		{"a shift drops the middle or says that it can't", testShift},
		{"a shifted sequence can be copied", testShiftCopy},
		{"copies in a chain, with nothing decoded between, arrive whole", testCopyChain},
		{"company does not change a sequence's tokens", testIsolation},
		{"rows of sequences may be mixed in a batch", testMixed},
		{"every row that asks for logits has its own", testRows},
		{"a pick without logits fails alone", testPickFails},
		{"log-probabilities are those of the row, whatever the sampler does to it", testLogprobs},
		{"log-probabilities change no pick, and nobody gets those of another", testLogprobsApart},
		{"a grammar has the last word on every pick", testGrammar},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, v := open(t)
			defer e.Close()
			c.test(&driver{T: t, e: e, v: v})
		})
	}
}

func testHeld(d *driver) {
	d.holds(0, 0)
	d.decode(d.rows(0, d.prompt(1, 5)))
	d.holds(0, 5)
	d.holds(1, 0)
	d.decode(d.rows(1, d.prompt(2, 3)))
	d.decode(d.rows(0, d.prompt(3, 1)))
	d.holds(0, 6)
	d.holds(1, 3)
	d.clear(0)
	d.holds(1, 3)
}

func testChunks(d *driver) {
	prompt := d.prompt(1, 30)
	want := d.feed(0, prompt, 8)
	d.decode(d.rows(1, prompt[:7]))
	d.decode(d.rows(1, prompt[7:8]))
	got := d.feed(1, prompt[8:], 8)
	d.equal("prompt in three chunks", got, want)
}

func testInvalid(d *driver) {
	l := d.e.Limits()
	prompt := d.prompt(1, 6)
	d.decode(d.rows(0, prompt))
	row := func(pos llm.Pos, seq llm.SeqID) llm.Row {
		return llm.Row{Token: prompt[0], Pos: pos, Seq: seq, Logits: true}
	}
	var many []llm.Row
	for i := range l.Batch + 1 {
		many = append(many, llm.Row{Token: prompt[0], Pos: llm.Pos(i / l.Sequences), Seq: llm.SeqID(i % l.Sequences)})
	}
	for name, rows := range map[string][]llm.Row{
		"no rows":                    {},
		"a gap":                      {row(7, 0)},
		"a gap within":               {row(6, 0), row(8, 0)},
		"a position that is held":    {row(5, 0)},
		"a position twice":           {row(6, 0), row(6, 0)},
		"positions backwards":        {row(7, 0), row(6, 0)},
		"a start past the beginning": {row(1, 1)},
		"a negative position":        {row(-1, 1)},
		"a sequence too high":        {row(0, llm.SeqID(l.Sequences))},
		"a negative sequence":        {row(0, -1)},
		"a token too high":           {{Token: llm.Token(d.v.Size()), Pos: 6}},
		"a negative token":           {{Token: -1, Pos: 6}},
		"too many rows":              many,
		"a bad row after good ones":  {row(0, 1), row(6, 0), row(9, 2)},
	} {
		if err := d.e.Decode(rows); !errors.Is(err, llm.ErrInvalidBatch) {
			d.Errorf("%s: %v, want ErrInvalidBatch", name, err)
		}
		d.holds(0, 6)
		for seq := 1; seq < l.Sequences; seq++ {
			d.holds(llm.SeqID(seq), 0)
		}
	}
	next := d.prompt(2, 1)
	got := d.feed(0, next, 6)
	want := d.feed(1, slices.Concat(prompt, next), 6)
	d.equal("after the refusals", got, want)
}

func testFull(d *driver) {
	l := d.e.Limits()
	tokens := d.prompt(1, l.Context)
	for len(tokens) > 0 {
		n := min(len(tokens), l.Batch)
		d.decode(d.rows(0, tokens[:n]))
		tokens = tokens[n:]
	}
	d.holds(0, llm.Pos(l.Context))
	if err := d.e.Decode(d.rows(0, d.prompt(2, 1))); !errors.Is(err, llm.ErrInvalidBatch) {
		d.Errorf("a row after the last position: %v, want ErrInvalidBatch", err)
	}
	d.holds(0, llm.Pos(l.Context))
	d.clear(0)
	d.feed(0, d.prompt(3, 4), 2)
}

func testTruncate(d *driver) {
	prompt := d.prompt(1, 20)
	want := d.feed(0, prompt, 8)
	d.truncate(0, prompt, 20)
	d.clear(0)
	d.equal("after truncation to 0", d.feed(0, prompt, 8), want)
	for _, keep := range []llm.Pos{19, 12, 1} {
		d.clear(0)
		d.decode(d.rows(0, prompt[:keep]))
		d.feed(0, d.prompt(9, 3), 4)
		d.truncate(0, prompt, keep)
		d.equal(fmt.Sprintf("after truncation to %d", keep), d.feed(0, prompt[keep:], 8), want)
	}
}

func testCopy(d *driver) {
	prompt := d.prompt(1, 17)
	d.decode(d.rows(0, prompt))
	if !d.copied(2, 0, 17) {
		d.Fatal("a copy of all was refused")
	}
	d.holds(0, 17)
	next := d.prompt(2, 1)
	other := d.prompt(3, 2)
	d.feed(2, other, 5) // the copy goes another way
	got := d.feed(0, next, 8)
	d.clear(2)
	d.equal("original", d.feed(2, slices.Concat(prompt, next), 8), got)
	d.holds(0, 17+8)

	d.clear(0)
	d.decode(d.rows(0, prompt))
	d.copied(1, 0, 17)
	d.clear(0) // the copy outlives the original
	d.equal("copy", d.feed(1, next, 8), got)
}

func testCopyPart(d *driver) {
	prompt := d.prompt(1, 24)
	want := d.feed(3, prompt, 8)
	d.decode(d.rows(0, prompt[:16]))
	d.feed(0, d.prompt(2, 3), 3)
	d.feed(1, d.prompt(3, 20), 3)
	if d.copied(1, 0, 16) {
		d.equal("copy of a beginning", d.feed(1, prompt[16:], 8), want)
	}
	d.feed(2, d.prompt(4, 5), 1)
	if err := d.e.Copy(2, 0, 0); err != nil {
		d.Fatalf("copy of nothing: %v", err)
	}
	d.holds(2, 0)
	d.equal("after a copy of nothing", d.feed(2, prompt, 8), want)
}

func testShift(d *driver) {
	prompt := d.prompt(1, 20)
	d.decode(d.rows(1, prompt))
	next := d.prompt(2, 1)
	d.decode(d.rows(0, prompt))
	err := d.e.Shift(0, 4, 6)
	if errors.Is(err, llm.ErrUnsupported) {
		d.holds(0, 20)
	} else if err != nil {
		d.Fatalf("shift: %v", err)
	} else {
		d.holds(0, 14)
		first := d.feed(0, next, 6)
		d.clear(0)
		d.decode(d.rows(0, prompt))
		if err := d.e.Shift(0, 4, 6); err != nil {
			d.Fatalf("second shift: %v", err)
		}
		d.equal("the same shift again", d.feed(0, next, 6), first)
	}
	got := d.feed(1, next, 8)
	d.clear(1)
	d.equal("the neighbour", d.feed(1, slices.Concat(prompt, next), 8), got)
}

func testShiftCopy(d *driver) {
	d.decode(d.rows(0, d.prompt(1, 20)))
	switch err := d.e.Shift(0, 4, 6); {
	case errors.Is(err, llm.ErrUnsupported):
		d.Skip("the engine can't shift")
	case err != nil:
		d.Fatalf("shift: %v", err)
	}
	d.copied(2, 0, 14)
	next := d.prompt(2, 1)
	got := d.feed(2, next, 8)
	d.equal("original against copy", d.feed(0, next, 8), got)
}

// testCopyChain closes two holes in one go, as a scheduler does: what moves on was
// itself moved a moment ago, and its old place is taken at once.
func testCopyChain(d *driver) {
	first, second := d.prompt(1, 19), d.prompt(2, 23)
	wantFirst, wantSecond := d.feed(0, first, 6), d.feed(1, second, 6)
	d.clear(0)
	d.clear(1)
	d.decode(d.rows(1, first))
	d.decode(d.rows(3, second))
	d.copied(0, 1, 19)
	d.clear(1)
	d.copied(1, 3, 23)
	d.clear(3)
	d.copied(2, 0, 19)
	d.clear(0)
	next := func(tokens []llm.Token, seq llm.SeqID, got []llm.Token) {
		d.clear(seq)
		d.equal("at its last place", d.feed(seq, append(slices.Clone(tokens), got[0]), 5), got[1:])
	}
	got := d.feed(2, wantFirst[:1], 5)
	d.equal("moved twice", got, wantFirst[1:])
	got = d.feed(1, wantSecond[:1], 5)
	d.equal("moved into a place just left", got, wantSecond[1:])
	next(first, 2, wantFirst)
	next(second, 1, wantSecond)
}

func testIsolation(d *driver) {
	const n = 10
	sequences := min(d.e.Limits().Sequences, 8)
	var prompts, want [][]llm.Token
	for seq := range sequences {
		prompts = append(prompts, d.prompt(uint64(seq), 5+3*seq))
		want = append(want, d.feed(0, prompts[seq], n))
		d.clear(0)
	}
	got := make([][]llm.Token, sequences)
	for seq := range sequences { // a prompt joins while those before it are decoded
		rows := d.rows(llm.SeqID(seq), prompts[seq])
		for s := range seq {
			rows = append(rows, d.rows(llm.SeqID(s), got[s][len(got[s])-1:])...)
		}
		d.decode(rows)
		for i, t := range d.likeliest(rows) {
			s := (seq + i) % (seq + 1) // the newcomer's row is first
			got[s] = append(got[s], t)
		}
	}
	for len(got[sequences-1]) < n {
		var rows []llm.Row
		for s := range sequences {
			rows = append(rows, d.rows(llm.SeqID(s), got[s][len(got[s])-1:])...)
		}
		d.decode(rows)
		for s, t := range d.likeliest(rows) {
			got[s] = append(got[s], t)
		}
	}
	for s := range sequences {
		d.equal(fmt.Sprintf("sequence %d among others", s), got[s][:n], want[s])
	}
}

func testMixed(d *driver) {
	a, b := d.prompt(1, 12), d.prompt(2, 12)
	wantA, wantB := d.feed(0, a, 1), d.feed(1, b, 1)
	ra, rb := d.rows(2, a), d.rows(3, b)
	var rows []llm.Row
	for i := range ra {
		rows = append(rows, rb[i], ra[i])
	}
	d.decode(rows)
	got := d.likeliest(rows)
	d.equal("rows in turn", got, slices.Concat(wantB, wantA))
}

func testRows(d *driver) {
	prompt := d.prompt(1, 4)
	var want []llm.Token
	for i := range prompt {
		want = append(want, d.feed(0, prompt[i:i+1], 1)...)
	}
	rows := d.rows(1, prompt)
	for i := range rows {
		rows[i].Logits = true
	}
	d.decode(rows)
	d.equal("logits at every row", d.likeliest(rows), want)
}

func testPickFails(d *driver) {
	rows := d.rows(0, d.prompt(1, 3))
	greedy := func() *llm.Sampler { return llm.NewSampler(llm.SamplingParams{}, nil, nil) }
	d.decode(rows)
	want := d.likeliest(rows)
	d.clear(0)
	d.decode(rows)
	picks := []llm.Pick{{Row: 0, Sampler: greedy()}, {Row: 2, Sampler: greedy()}, {Row: 3, Sampler: greedy()}}
	d.e.Sample(picks)
	if picks[0].Err == nil || picks[2].Err == nil {
		d.Errorf("a row without logits: error %v; a row that is not there: error %v; want both", picks[0].Err, picks[2].Err)
	}
	if picks[1].Err != nil || picks[1].Token != want[0] {
		d.Errorf("the good pick: token %d, error %v; want %d", picks[1].Token, picks[1].Err, want[0])
	}
}
