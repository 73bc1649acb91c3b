package llmtest

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"cllm/llm"
)

// driver speaks to the engine and fails the test when it answers wrongly.
type driver struct {
	*testing.T
	e llm.Engine
	v llm.Vocab
}

// prompt returns n tokens that end nothing, the same for the same number.
func (d *driver) prompt(number uint64, n int) []llm.Token {
	rng := rand.New(rand.NewPCG(number, 1))
	var out []llm.Token
	for len(out) < n {
		if t := llm.Token(rng.IntN(d.v.Size())); !d.v.IsEnd(t) && d.v.Piece(t) != "" {
			out = append(out, t)
		}
	}
	return out
}

// rows makes rows that go on after what the sequence holds; the last asks for logits.
func (d *driver) rows(seq llm.SeqID, tokens []llm.Token) []llm.Row {
	var out []llm.Row
	for i, t := range tokens {
		out = append(out, llm.Row{Token: t, Pos: d.e.Held(seq) + llm.Pos(i), Seq: seq, Logits: i == len(tokens)-1})
	}
	return out
}

func (d *driver) decode(rows []llm.Row) {
	d.Helper()
	if err := d.e.Decode(rows); err != nil {
		d.Fatalf("decode of %d rows: %v", len(rows), err)
	}
}

// likeliest returns the likeliest token of each row of the last decode that has logits.
func (d *driver) likeliest(rows []llm.Row) []llm.Token {
	d.Helper()
	var picks []llm.Pick
	for i, r := range rows {
		if r.Logits {
			picks = append(picks, llm.Pick{Row: i, Sampler: llm.NewSampler(llm.SamplingParams{}, nil, nil)})
		}
	}
	d.e.Sample(picks)
	var out []llm.Token
	for _, p := range picks {
		if p.Err != nil {
			d.Fatalf("sample row %d: %v", p.Row, p.Err)
		}
		out = append(out, p.Token)
	}
	return out
}

// feed decodes tokens and n tokens that follow them. It returns those.
func (d *driver) feed(seq llm.SeqID, tokens []llm.Token, n int) []llm.Token {
	d.Helper()
	var out []llm.Token
	for range n {
		rows := d.rows(seq, tokens)
		d.decode(rows)
		tokens = d.likeliest(rows)
		out = append(out, tokens...)
	}
	return out
}

func (d *driver) holds(seq llm.SeqID, want llm.Pos) {
	d.Helper()
	if got := d.e.Held(seq); got != want {
		d.Errorf("sequence %d holds %d positions, want %d", seq, got, want)
	}
}

// truncate forgets; a memory that only forgets all is emptied and fed anew.
func (d *driver) truncate(seq llm.SeqID, tokens []llm.Token, n llm.Pos) {
	d.Helper()
	err := d.e.Truncate(seq, n)
	if errors.Is(err, llm.ErrUnsupported) && n > 0 {
		d.clear(seq)
		d.decode(d.rows(seq, tokens[:n]))
	} else if err != nil {
		d.Fatalf("truncate to %d: %v", n, err)
	}
	d.holds(seq, n)
}

func (d *driver) clear(seq llm.SeqID) {
	d.Helper()
	if err := d.e.Truncate(seq, 0); err != nil {
		d.Fatalf("truncate to 0: %v", err)
	}
	d.holds(seq, 0)
}

// copied reports whether the copy was made; a memory that keeps one state may
// refuse to copy a part of it.
func (d *driver) copied(dst, src llm.SeqID, n llm.Pos) bool {
	d.Helper()
	err := d.e.Copy(dst, src, n)
	if errors.Is(err, llm.ErrUnsupported) && n < d.e.Held(src) {
		return false
	}
	if err != nil {
		d.Fatalf("copy: %v", err)
	}
	d.holds(dst, n)
	return true
}

func (d *driver) equal(what string, got, want []llm.Token) {
	d.Helper()
	if !slices.Equal(got, want) {
		d.Errorf("%s: tokens %v, want %v", what, got, want)
	}
}
