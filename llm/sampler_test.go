package llm

import (
	"errors"
	"math"
	"slices"
	"testing"
)

// off is every option at the value that does nothing.
var off = SamplingParams{Temperature: 1, TopP: 1, TypicalP: 1, RepeatPenalty: 1, Seed: 1}

// candidates sorts a row as an engine does.
func candidates(row []float32, k int) []Candidate {
	c := make([]Candidate, len(row))
	for i, l := range row {
		c[i] = Candidate{Token(i), l}
	}
	slices.SortStableFunc(c, func(a, b Candidate) int {
		switch {
		case a.Logit > b.Logit:
			return -1
		case a.Logit < b.Logit:
			return 1
		}
		return 0
	})
	if k > 0 && k < len(c) {
		c = c[:k]
	}
	return c
}

// draw draws n times from a row and counts the tokens.
func draw(t *testing.T, p SamplingParams, logits []float32, n int) []int {
	t.Helper()
	s := NewSampler(p, nil, nil)
	seen := make([]int, len(logits))
	for range n {
		row := slices.Clone(logits)
		k := s.Prepare(row)
		tok, more, err := s.Choose(candidates(row, k), k == All)
		if err != nil || more {
			t.Fatal(more, err)
		}
		seen[tok]++
	}
	return seen
}

func logs(p ...float64) []float32 {
	l := make([]float32, len(p))
	for i, q := range p {
		l[i] = float32(math.Log(q))
	}
	return l
}

func TestSamplingFollowsTheProbabilities(t *testing.T) {
	const n = 20000
	with := func(f func(*SamplingParams)) SamplingParams {
		p := off
		f(&p)
		return p
	}
	tests := []struct {
		promise string
		params  SamplingParams
		probs   []float64
		want    []float64
	}{
		{"everything off", off, []float64{.5, .3, .2}, []float64{.5, .3, .2}},
		{"top_k", with(func(p *SamplingParams) { p.TopK = 2 }), []float64{.5, .3, .2}, []float64{.625, .375, 0}},
		{"top_p keeps the token that reaches the mass", with(func(p *SamplingParams) { p.TopP = .6 }), []float64{.5, .3, .2}, []float64{.625, .375, 0}},
		{"top_p always keeps one", with(func(p *SamplingParams) { p.TopP = 0 }), []float64{.5, .3, .2}, []float64{1, 0, 0}},
		{"min_p is relative to the likeliest", with(func(p *SamplingParams) { p.MinP = .5 }), []float64{.5, .3, .2}, []float64{.625, .375, 0}},
		{"temperature sharpens", with(func(p *SamplingParams) { p.Temperature = .5 }), []float64{.5, .3, .2}, []float64{.25 / .38, .09 / .38, .04 / .38}},
		{"temperature 0 is greedy", with(func(p *SamplingParams) { p.Temperature = 0 }), []float64{.3, .5, .2}, []float64{0, 1, 0}},
		// Surprise of .25 is nearest to the entropy of 1.28 nats.
		{"typical_p drops the likeliest too", with(func(p *SamplingParams) { p.TypicalP = .2 }), []float64{.4, .25, .2, .15}, []float64{0, 1, 0, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.promise, func(t *testing.T) {
			for tok, c := range draw(t, tt.params, logs(tt.probs...), n) {
				if got := float64(c) / n; math.Abs(got-tt.want[tok]) > .015 {
					t.Errorf("token %d: %.3f, want %.3f", tok, got, tt.want[tok])
				}
			}
		})
	}
}

func TestASeedRepeatsAndNoSeedDoesNot(t *testing.T) {
	row := make([]float32, 100)
	sequence := func(seed int64) []int {
		p := off
		p.Seed = seed
		s := NewSampler(p, nil, nil)
		var out []int
		for range 20 {
			tok, _, _ := s.Choose(candidates(row, 0), true)
			out = append(out, int(tok))
		}
		return out
	}
	if !slices.Equal(sequence(7), sequence(7)) {
		t.Error("the same seed gives two sequences")
	}
	if slices.Equal(sequence(7), sequence(8)) {
		t.Error("two seeds give one sequence")
	}
	if slices.Equal(sequence(-1), sequence(-1)) {
		t.Error("without a seed the sequence repeats")
	}
}

func TestPenalties(t *testing.T) {
	tests := []struct {
		promise string
		params  SamplingParams
		prompt  []Token
		row     []float32
		want    []float32
	}{
		{"repeat divides a positive logit and multiplies a negative one",
			SamplingParams{RepeatLastN: 64, RepeatPenalty: 2}, []Token{0, 1}, []float32{4, -4, 4}, []float32{2, -8, 4}},
		{"repeat_last_n looks back so far and no further",
			SamplingParams{RepeatLastN: 2, RepeatPenalty: 2}, []Token{0, 1, 2}, []float32{4, 4, 4}, []float32{4, 2, 2}},
		{"repeat_last_n -1 looks back on all",
			SamplingParams{RepeatLastN: -1, RepeatPenalty: 2}, []Token{0, 1, 2}, []float32{4, 4, 4}, []float32{2, 2, 2}},
		{"repeat_last_n 0 looks back on nothing",
			SamplingParams{RepeatLastN: 0, RepeatPenalty: 2}, []Token{0, 1, 2}, []float32{4, 4, 4}, []float32{4, 4, 4}},
		{"presence counts once, frequency each time",
			SamplingParams{RepeatLastN: 64, RepeatPenalty: 1, PresencePenalty: 1, FrequencyPenalty: .5}, []Token{0, 0, 1}, []float32{4, 4, 4}, []float32{2, 2.5, 4}},
		{"a token outside the row is ignored",
			SamplingParams{RepeatLastN: 64, RepeatPenalty: 2}, []Token{99}, []float32{4}, []float32{4}},
	}
	for _, tt := range tests {
		t.Run(tt.promise, func(t *testing.T) {
			s := NewSampler(tt.params, nil, nil)
			for _, tok := range tt.prompt {
				if err := s.Accept(tok); err != nil {
					t.Fatal(err)
				}
			}
			fromPrompt := NewSampler(tt.params, nil, tt.prompt)
			for _, s := range []*Sampler{s, fromPrompt} {
				row := slices.Clone(tt.row)
				if s.Prepare(row); !slices.Equal(row, tt.want) {
					t.Errorf("%v, want %v", row, tt.want)
				}
			}
		})
	}
}

// only allows the tokens it lists.
type only struct {
	tokens   []Token
	accepted []Token
	closed   bool
}

func (g *only) Filter(c []Candidate) []Candidate {
	return slices.DeleteFunc(c, func(c Candidate) bool { return !slices.Contains(g.tokens, c.Token) })
}
func (g *only) Accept(t Token) error { g.accepted = append(g.accepted, t); return nil }
func (g *only) Close()               { g.closed = true }

func TestAGrammarIsAskedAboutThePickFirst(t *testing.T) {
	p := off
	p.Temperature = 0
	row := []float32{3, 2, 1}
	for _, tt := range []struct {
		allowed []Token
		more    bool
		want    Token
	}{
		{[]Token{0, 2}, false, 0},
		{[]Token{2}, true, 2},
	} {
		g := &only{tokens: tt.allowed}
		s := NewSampler(p, g, nil)
		k := s.Prepare(row)
		tok, more, err := s.Choose(candidates(row, k), false)
		if err != nil || more != tt.more {
			t.Fatalf("allowed %v: more %v, %v", tt.allowed, more, err)
		}
		if more {
			tok, more, err = s.Choose(candidates(row, All), true)
		}
		if tok != tt.want || more || err != nil {
			t.Errorf("allowed %v: token %d, %v, %v; want %d", tt.allowed, tok, more, err, tt.want)
		}
		if s.Accept(tok); !slices.Equal(g.accepted, []Token{tt.want}) {
			t.Errorf("the grammar accepted %v", g.accepted)
		}
		if s.Close(); !g.closed {
			t.Error("the grammar was not closed")
		}
	}
}

func TestNothingToSampleIsAnError(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for name, c := range map[string][]Candidate{
		"no candidates": nil,
		"not a number":  {{0, nan}, {1, nan}},
		"all refused":   {{0, inf}, {1, inf}},
		"infinite":      {{0, -inf}, {1, 0}},
	} {
		if _, _, err := NewSampler(off, nil, nil).Choose(c, true); !errors.Is(err, ErrNoCandidates) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := NewSampler(off, &only{}, nil)
	if _, _, err := s.Choose([]Candidate{{0, 1}}, true); !errors.Is(err, ErrNoCandidates) {
		t.Errorf("a grammar that allows nothing: %v", err)
	}
}
