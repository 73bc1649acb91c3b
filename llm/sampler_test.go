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
				s.Accept(tok)
			}
			fromPrompt := NewSampler(tt.params, nil, tt.prompt)
			for _, s := range []*Sampler{s, fromPrompt} {
				row := slices.Clone(tt.row)
				if s.Prepare(row); !slices.Equal(row, tt.want) {
					t.Errorf("%v, want %v", row, tt.want)
				}
				for tok, logit := range tt.row {
					if got := s.Logit(row, Token(tok)); got != logit {
						t.Errorf("token %d had the logit %v, it says %v", tok, logit, got)
					}
				}
			}
		})
	}
}

// only allows the tokens it lists.
type only struct {
	tokens   []Token
	taken    []Token
	filtered int // candidates it was asked about beside the picks
	whole    bool
	err      error
}

func (g *only) Take(t Token) (bool, error) {
	ok := slices.Contains(g.tokens, t) && g.err == nil
	if ok {
		g.taken = append(g.taken, t)
	}
	return ok, g.err
}

func (g *only) Filter(c []Candidate) ([]Candidate, error) {
	g.filtered += len(c)
	return slices.DeleteFunc(c, func(c Candidate) bool { return !slices.Contains(g.tokens, c.Token) }), g.err
}

func (g *only) Complete() bool { return g.whole }

// pick drives a sampler as an engine does.
func pick(s *Sampler, logits []float32) (t Token, more bool, err error) {
	row := slices.Clone(logits)
	k := s.Prepare(row)
	if t, more, err = s.Choose(candidates(row, k), k == All); !more {
		return t, false, err
	}
	t, again, err := s.Choose(candidates(row, All), true)
	if again {
		err = errors.New("the whole vocabulary was not enough")
	}
	return t, true, err
}

func TestAGrammarIsAskedAboutThePickFirst(t *testing.T) {
	g := &only{tokens: []Token{0, 2}}
	p := off
	p.Temperature = 0
	s := NewSampler(p, g, nil)
	if tok, more, err := pick(s, []float32{3, 2, 1}); tok != 0 || more || err != nil || g.filtered != 0 {
		t.Errorf("token %d, %v, %v, and the grammar was asked about %d others", tok, more, err, g.filtered)
	}
	if !slices.Equal(g.taken, []Token{0}) {
		t.Errorf("the grammar took %v", g.taken)
	}
}

func TestAmongTheAllowedTokensTheDrawIsAsIfThereWereNoOthers(t *testing.T) {
	const n, tokens = 8000, 300
	logits := make([]float32, tokens)
	var allowed []Token
	for i := range logits {
		logits[i] = float32((i*7919)%tokens) / 100
		if i%9 == 0 {
			allowed = append(allowed, Token(i))
		}
	}
	masked := make([]float32, tokens)
	for i := range masked {
		masked[i] = float32(math.Inf(-1))
		if slices.Contains(allowed, Token(i)) {
			masked[i] = logits[i]
		}
	}
	for _, change := range []func(*SamplingParams){
		func(p *SamplingParams) { p.Temperature = 0 },
		func(p *SamplingParams) { p.TopK = 5 },
		func(p *SamplingParams) { p.TopK = 40; p.TopP = .7 },
		func(p *SamplingParams) { p.TopP = .5 },
		func(p *SamplingParams) { p.MinP = .3 },
	} {
		p := off
		change(&p)
		want := draw(t, p, masked, n)
		g := &only{tokens: allowed}
		s := NewSampler(p, g, nil)
		got := make([]int, tokens)
		for range n / 10 {
			// Only the draws that came after a refusal count.
			before := g.filtered
			tok, _, err := pick(s, logits)
			if err != nil || !slices.Contains(allowed, tok) {
				t.Fatalf("%+v: token %d, %v", p, tok, err)
			}
			if g.filtered > before {
				got[tok]++
			}
		}
		all := 0
		for _, c := range got {
			all += c
		}
		if all == 0 {
			t.Fatalf("%+v: the first draw was never refused", p)
		}
		for tok := range got {
			g, w := float64(got[tok])/float64(all), float64(want[tok])/n
			if (w == 0) != (g == 0) && max(g, w) > .02 || math.Abs(g-w) > .08 {
				t.Errorf("%+v: token %d comes %.3f of the time, want %.3f", p, tok, g, w)
			}
		}
	}
}

func TestOfALargeVocabularyOnlyWhatIsNeededIsFiltered(t *testing.T) {
	logits := make([]float32, 100000)
	var allowed []Token
	for i := range logits {
		logits[i] = -float32(i) / 1000
		if i > 0 {
			allowed = append(allowed, Token(i))
		}
	}
	p := off
	p.Temperature = 0
	g := &only{tokens: allowed}
	if tok, more, err := pick(NewSampler(p, g, nil), logits); tok != 1 || more || err != nil || g.filtered > 64 {
		t.Errorf("greedy: token %d, %v, %v after %d candidates", tok, more, err, g.filtered)
	}
}

func TestWhenAGrammarAllowsNothingTheErrorSaysWhetherTheAnswerIsWhole(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		promise string
		grammar only
		want    error
	}{
		{"whole", only{whole: true}, ErrComplete},
		{"not whole", only{}, ErrRefused},
		{"broken", only{tokens: []Token{0, 1, 2}, err: broken}, broken},
		{"only a token of probability 0", only{tokens: []Token{2}}, ErrRefused},
	} {
		for _, temperature := range []float32{0, 1} {
			p := off
			p.Temperature = temperature
			if _, _, err := pick(NewSampler(p, &tt.grammar, nil), []float32{1, 2, float32(math.Inf(-1))}); !errors.Is(err, tt.want) {
				t.Errorf("%s: %v", tt.promise, err)
			}
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
}
