package llmtest

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"cllm/llm"
)

// TestEmbedder holds an embedder to the promises of llm.Embedder. open returns a
// new embedder with at least 4 sequences, texts of at least 64 tokens and at least
// 64 tokens in a call, and the model's vocabulary; the suite closes it.
func TestEmbedder(t *testing.T, open func(t *testing.T) (llm.Embedder, llm.Vocab)) {
	for _, c := range []struct {
		name string
		test func(d *embedDriver)
	}{
		{"company does not change a vector", testEmbedCompany},
		{"texts have vectors of their own", testEmbedDiffer},
		{"a text in parts has the vector of the whole", testEmbedParts},
		{"a text may be as long as the limits say and no longer", testEmbedLong},
		{"parts that break a rule are refused and change nothing", testEmbedInvalid},
		{"what follows a forgotten text is as if it had never been", testEmbedForget},
		{"an aborted embedder computes nothing any more", testEmbedAbort},
		{"vectors are the caller's", testEmbedKeep},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, v := open(t)
			defer e.Close()
			c.test(&embedDriver{T: t, e: e, v: v, l: e.Limits()})
		})
	}
}

// embedDriver speaks to the embedder and fails the test when it answers wrongly.
type embedDriver struct {
	*testing.T
	e llm.Embedder
	v llm.Vocab
	l llm.EmbedLimits
}

// text returns n tokens, the same for the same number.
func (d *embedDriver) text(number uint64, n int) []llm.Token {
	rng := rand.New(rand.NewPCG(number, 2))
	var out []llm.Token
	for len(out) < n {
		if t := llm.Token(rng.IntN(d.v.Size())); !d.v.IsEnd(t) && d.v.Piece(t) != "" {
			out = append(out, t)
		}
	}
	return out
}

func (d *embedDriver) embed(parts ...llm.EmbedPart) []llm.EmbedPart {
	d.Helper()
	if err := d.e.Embed(parts); err != nil {
		d.Fatalf("embed %d parts: %v", len(parts), err)
	}
	for i, p := range parts {
		if p.Last && len(p.Vector) != d.l.Width {
			d.Fatalf("part %d has a vector of %d numbers, want %d", i, len(p.Vector), d.l.Width)
		}
		if !p.Last && p.Vector != nil {
			d.Fatalf("part %d has a vector before the text ends", i)
		}
	}
	return parts
}

// alone returns the vector of one text.
func (d *embedDriver) alone(text []llm.Token) []float32 {
	d.Helper()
	return d.embed(llm.EmbedPart{Tokens: text, Last: true})[0].Vector
}

// same reports whether two vectors differ in the last bits only.
func (d *embedDriver) same(what string, got, want []float32) {
	d.Helper()
	if s := Similarity(got, want); !(s > 0.9999) {
		d.Errorf("%s: similarity %v", what, s)
	}
}

// Similarity is the cosine of the angle between two vectors of one width.
func Similarity(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab += float64(a[i]) * float64(b[i])
		aa += float64(a[i]) * float64(a[i])
		bb += float64(b[i]) * float64(b[i])
	}
	return ab / math.Sqrt(aa*bb)
}

func testEmbedCompany(d *embedDriver) {
	var want [][]float32
	var texts [][]llm.Token
	for i := range min(d.l.Sequences, d.l.Batch/8, 40) {
		texts = append(texts, d.text(uint64(i), 1+(i*5)%8))
		want = append(want, d.alone(texts[i]))
	}
	var parts []llm.EmbedPart
	for i := range texts {
		parts = append(parts, llm.EmbedPart{Seq: llm.SeqID(i), Tokens: texts[i], Last: true})
	}
	for range 2 { // the sequences are free again after the first call
		for i, p := range d.embed(parts...) {
			d.same("a text among others", p.Vector, want[i])
		}
		slices.Reverse(parts)
		slices.Reverse(want)
	}
}

func testEmbedDiffer(d *embedDriver) {
	a := d.text(1, 12)
	b := slices.Clone(a)
	slices.Reverse(b)
	v := d.alone(a)
	for name, other := range map[string][]llm.Token{"another": d.text(2, 12), "a shorter": a[:11], "one in another order": b} {
		if s := Similarity(v, d.alone(other)); !(s < 0.9999) {
			d.Errorf("%s text has the same vector: similarity %v", name, s)
		}
	}
}

func testEmbedParts(d *embedDriver) {
	if d.l.Whole {
		d.Skip("texts must come whole")
	}
	text, short := d.text(1, 40), d.text(2, 3)
	want, wantShort := d.alone(text), d.alone(short)
	other := llm.EmbedPart{Seq: 1, Tokens: short, Last: true}
	d.embed(llm.EmbedPart{Seq: 3, Tokens: text[:20]}, other)
	d.embed(other)
	d.embed(llm.EmbedPart{Seq: 3, Tokens: text[20:21]})
	got := d.embed(other, llm.EmbedPart{Seq: 3, Tokens: text[21:], Last: true})
	d.same("in three parts", got[1].Vector, want)
	d.same("beside it", got[0].Vector, wantShort)

	d.embed(llm.EmbedPart{Seq: 3, Tokens: text[:39]})
	got = d.embed(llm.EmbedPart{Seq: 3, Tokens: text[39:], Last: true})
	d.same("with one token in the last part", got[0].Vector, want)
}

func testEmbedLong(d *embedDriver) {
	text := d.text(1, d.l.Context)
	if d.l.Whole {
		d.alone(text)
	} else {
		for rest := text; len(rest) > 0; {
			n := min(d.l.Batch, len(rest))
			d.embed(llm.EmbedPart{Tokens: rest[:n], Last: n == len(rest)})
			rest = rest[n:]
		}
	}
	long := llm.EmbedPart{Tokens: d.text(1, d.l.Context+1), Last: true}
	if err := d.e.Embed([]llm.EmbedPart{long}); !errors.Is(err, llm.ErrInvalidBatch) {
		d.Errorf("one token more: %v, want ErrInvalidBatch", err)
	}
	if n := d.l.Batch; n <= d.l.Context && d.l.Sequences > 1 { // a full call
		d.embed(llm.EmbedPart{Tokens: text[:n-1], Last: true}, llm.EmbedPart{Seq: 1, Tokens: text[:1], Last: true})
		over := []llm.EmbedPart{{Tokens: text[:n], Last: true}, {Seq: 1, Tokens: text[:1], Last: true}}
		if err := d.e.Embed(over); !errors.Is(err, llm.ErrInvalidBatch) {
			d.Errorf("more tokens than a call may have: %v, want ErrInvalidBatch", err)
		}
	}
	d.alone(text[:1])
}

func testEmbedInvalid(d *embedDriver) {
	text := d.text(1, 6)
	want := d.alone(text)
	good := llm.EmbedPart{Seq: 2, Tokens: text, Last: true}
	bad := map[string][]llm.EmbedPart{
		"no parts":              {},
		"an empty part":         {good, {Seq: 1, Last: true}},
		"a sequence too high":   {good, {Seq: llm.SeqID(d.l.Sequences), Tokens: text, Last: true}},
		"a negative sequence":   {good, {Seq: -1, Tokens: text, Last: true}},
		"a sequence twice":      {good, good},
		"a token too high":      {good, {Seq: 1, Tokens: []llm.Token{llm.Token(d.v.Size())}, Last: true}},
		"a negative token":      {good, {Seq: 1, Tokens: []llm.Token{-1}, Last: true}},
		"a bad part after good": {{Seq: 0, Tokens: text, Last: true}, {Seq: 1, Tokens: text, Last: true}, {Seq: 3}},
	}
	if d.l.Whole {
		bad["a part of a text"] = []llm.EmbedPart{good, {Seq: 1, Tokens: text}}
	} else {
		d.embed(llm.EmbedPart{Seq: 2, Tokens: text[:3]})
		good.Tokens = text[3:]
	}
	for name, parts := range bad {
		if err := d.e.Embed(slices.Clone(parts)); !errors.Is(err, llm.ErrInvalidBatch) {
			d.Errorf("%s: %v, want ErrInvalidBatch", name, err)
		}
	}
	d.same("after the refusals", d.embed(good)[0].Vector, want)
}

func testEmbedForget(d *embedDriver) {
	if d.l.Whole {
		d.Skip("no text is unfinished")
	}
	text := d.text(1, 9)
	want := d.alone(text)
	d.embed(llm.EmbedPart{Seq: 1, Tokens: d.text(2, 20)}, llm.EmbedPart{Seq: 0, Tokens: text[:4]})
	d.e.Forget(1)
	got := d.embed(llm.EmbedPart{Seq: 1, Tokens: text, Last: true}, llm.EmbedPart{Seq: 0, Tokens: text[4:], Last: true})
	d.same("in the freed sequence", got[0].Vector, want)
	d.same("the neighbour", got[1].Vector, want)
}

func testEmbedAbort(d *embedDriver) {
	d.e.Abort()
	for range 2 {
		err := d.e.Embed([]llm.EmbedPart{{Tokens: d.text(1, 4), Last: true}})
		if !errors.Is(err, llm.ErrAborted) {
			d.Errorf("after Abort: %v, want ErrAborted", err)
		}
	}
}

func testEmbedKeep(d *embedDriver) {
	v := d.alone(d.text(1, 5))
	kept := slices.Clone(v)
	d.alone(d.text(2, 5))
	if !slices.Equal(v, kept) {
		d.Error("the next call changed a vector that was given away")
	}
}
