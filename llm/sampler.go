package llm

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
)

// SamplingParams are Ollama's sampling options, already defaulted.
type SamplingParams struct {
	Temperature      float32 // 0 or less: always the likeliest token
	TopK             int     // candidates kept; 0 or less: all
	TopP             float32 // smallest set of that probability mass; 1: off
	MinP             float32 // least probability, relative to the likeliest; 0: off
	TypicalP         float32 // locally typical mass (arXiv 2202.00666); 1: off
	RepeatLastN      int     // tokens looked back on for the penalties; 0: off, negative: all
	RepeatPenalty    float32 // divides a repeated token's positive logit (arXiv 1909.05858); 1: off
	PresencePenalty  float32 // taken from the logit of a token that occurred; 0: off
	FrequencyPenalty float32 // taken once per occurrence; 0: off
	Seed             int64   // negative: random
}

// Candidate is a token and its logit.
type Candidate struct {
	Token Token
	Logit float32
}

// Why nothing can be sampled.
var (
	// ErrNoCandidates: the logits are not numbers.
	ErrNoCandidates = errors.New("no token can be sampled from these logits")
	// ErrRefused: the grammar refuses every token of the vocabulary.
	ErrRefused = errors.New("the format allows none of the model's tokens here")
	// ErrComplete: so it does, but nothing more has to come: the answer is whole.
	ErrComplete = errors.New("the answer is complete and the model has no token to end it with")
)

// All is the number of candidates that means the whole vocabulary.
const All = 0

// tried is how many candidates a row with a grammar gets at least: when the likeliest
// is refused, the next ones are at hand.
const tried = 64

// Sampler picks the tokens of one request. What it picks depends on the
// parameters, the seed, the tokens seen and the row's logits alone: the company
// that a row has in its batch does not matter.
//
// An engine drives it in three calls: Prepare on the raw row, then a selection
// of the likeliest candidates, then Choose; and Choose once more, with the whole
// vocabulary, when it asks for that. The order of the steps is that of
// llama.cpp's chain: penalties, grammar, top-k, typical, top-p, min-p, temperature,
// draw. A token is drawn without the grammar first: if it fits, the others need
// not be looked at.
type Sampler struct {
	params  SamplingParams
	grammar Grammar // nil: anything goes
	rng     *rand.Rand
	history []Token // the tokens looked back on, oldest first
	counts  map[Token]int
	raw     []Candidate // the logits of the row that Prepare changed
	fitting []Candidate // scratch: what the grammar has left
	kept    []Candidate // scratch
	probs   []float64   // scratch, parallel to kept
}

// NewSampler returns a sampler that has seen the prompt. The grammar may be nil.
func NewSampler(p SamplingParams, g Grammar, prompt []Token) *Sampler {
	seed := uint64(p.Seed)
	if p.Seed < 0 {
		seed = rand.Uint64()
	}
	s := &Sampler{params: p, grammar: g, rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))}
	if !s.penalizes() {
		return s
	}
	s.counts = make(map[Token]int)
	if n := p.RepeatLastN; n > 0 && len(prompt) > n {
		prompt = prompt[len(prompt)-n:]
	}
	for _, t := range prompt {
		s.remember(t)
	}
	return s
}

func (s *Sampler) penalizes() bool {
	p := &s.params
	return p.RepeatLastN != 0 && (p.RepeatPenalty != 1 || p.PresencePenalty != 0 || p.FrequencyPenalty != 0)
}

// Prepare applies the penalties to the row, in place, and returns how many
// candidates Choose wants, likeliest first; All is the whole vocabulary.
func (s *Sampler) Prepare(row []float32) int {
	s.raw = s.raw[:0]
	for t, n := range s.counts {
		if int(t) >= len(row) || t < 0 {
			continue
		}
		l := row[t]
		s.raw = append(s.raw, Candidate{Token: t, Logit: l})
		if l > 0 {
			l /= s.params.RepeatPenalty
		} else {
			l *= s.params.RepeatPenalty
		}
		row[t] = l - float32(n)*s.params.FrequencyPenalty - s.params.PresencePenalty
	}
	k := s.wanted()
	if k != All && s.grammar != nil {
		k = max(k, tried)
	}
	if k >= len(row) {
		return All
	}
	return k
}

// wanted is how many of the likeliest candidates a draw can come from.
func (s *Sampler) wanted() int {
	if s.params.Temperature <= 0 {
		return 1
	}
	return max(s.params.TopK, All)
}

// Logit is a token's logit before Prepare changed the row.
func (s *Sampler) Logit(row []float32, t Token) float32 {
	for _, c := range s.raw {
		if c.Token == t {
			return c.Logit
		}
	}
	return row[t]
}

// Choose picks from candidates that are sorted by falling logit, ties by rising
// token. With all, they are the whole vocabulary. It returns more when the
// grammar refuses the pick and others have to be tried: the engine then calls
// again with all. The slice is not changed.
func (s *Sampler) Choose(c []Candidate, all bool) (t Token, more bool, err error) {
	if len(c) == 0 || math.IsNaN(float64(c[0].Logit)) || math.IsInf(float64(c[0].Logit), 0) {
		return 0, false, ErrNoCandidates
	}
	t = s.draw(c)
	if s.grammar == nil {
		return t, false, nil
	}
	if took, err := s.grammar.Take(t); took || err != nil {
		return t, false, err
	}
	fitting, err := s.fit(c)
	switch {
	case err != nil:
		return 0, false, err
	case !all && (s.wanted() == All || len(fitting) < s.wanted()):
		return 0, true, nil
	case len(fitting) == 0 && s.grammar.Complete():
		return 0, false, ErrComplete
	case len(fitting) == 0:
		return 0, false, ErrRefused
	}
	t = s.draw(fitting)
	if took, err := s.grammar.Take(t); !took {
		return 0, false, errors.Join(ErrRefused, err)
	}
	return t, false, nil
}

// fit returns those of the candidates that the grammar allows, as many of the
// likeliest as a draw can come from.
func (s *Sampler) fit(c []Candidate) ([]Candidate, error) {
	enough := s.wanted()
	if enough == All {
		enough = len(c)
	}
	s.fitting = s.fitting[:0]
	for n := tried; len(c) > 0 && len(s.fitting) < enough; n *= 4 {
		n = min(n, len(c))
		before := len(s.fitting)
		for _, one := range c[:n] {
			if !math.IsInf(float64(one.Logit), 0) {
				s.fitting = append(s.fitting, one)
			}
		}
		left, err := s.grammar.Filter(s.fitting[before:])
		if err != nil {
			return nil, err
		}
		s.fitting = s.fitting[:before+len(left)]
		c = c[n:]
	}
	return s.fitting, nil
}

// Accept takes note of a token that was picked.
func (s *Sampler) Accept(t Token) {
	if s.counts != nil {
		s.remember(t)
	}
}

func (s *Sampler) remember(t Token) {
	if n := s.params.RepeatLastN; n > 0 {
		if len(s.history) == n {
			old := s.history[0]
			s.history = append(s.history[:0], s.history[1:]...)
			if s.counts[old]--; s.counts[old] == 0 {
				delete(s.counts, old)
			}
		}
		s.history = append(s.history, t)
	}
	s.counts[t]++
}

// draw applies top-k and all that follows it.
func (s *Sampler) draw(c []Candidate) Token {
	p := &s.params
	if p.Temperature <= 0 {
		return c[0].Token
	}
	if p.TopK > 0 && p.TopK < len(c) {
		c = c[:p.TopK]
	}
	if p.TypicalP < 1 {
		c = s.typical(c)
	}
	if p.TopP < 1 {
		c = s.topP(c)
	}
	if p.MinP > 0 {
		c = s.minP(c)
	}
	probs := s.softmax(c, p.Temperature)
	u := s.rng.Float64()
	for i, q := range probs {
		if u -= q; u < 0 {
			return c[i].Token
		}
	}
	return c[len(c)-1].Token
}

// softmax returns the probabilities of c at a temperature, valid until the next
// call. c[0] has the greatest logit.
func (s *Sampler) softmax(c []Candidate, temperature float32) []float64 {
	s.probs = slices.Grow(s.probs[:0], len(c))[:len(c)]
	var sum float64
	for i := range c {
		q := math.Exp(float64(c[i].Logit-c[0].Logit) / float64(temperature))
		s.probs[i] = q
		sum += q
	}
	for i := range s.probs {
		s.probs[i] /= sum
	}
	return s.probs
}

// typical keeps the candidates whose surprise is closest to the expected one,
// up to the mass TypicalP, in order of logit.
func (s *Sampler) typical(c []Candidate) []Candidate {
	probs := s.softmax(c, 1)
	var entropy float64
	for _, q := range probs {
		if q > 0 {
			entropy -= q * math.Log(q)
		}
	}
	order := make([]int, len(c))
	for i := range order {
		order[i] = i
	}
	distance := func(i int) float64 { return math.Abs(-math.Log(probs[i]) - entropy) }
	slices.SortStableFunc(order, func(a, b int) int {
		switch da, db := distance(a), distance(b); {
		case da < db:
			return -1
		case da > db:
			return 1
		default:
			return 0
		}
	})
	n, mass := 0, 0.0
	for n < len(order) && mass <= float64(s.params.TypicalP) {
		mass += probs[order[n]]
		n++
	}
	order = order[:max(n, 1)]
	slices.Sort(order)
	s.kept = s.kept[:0]
	for _, i := range order {
		s.kept = append(s.kept, c[i])
	}
	return s.kept
}

// topP keeps the likeliest candidates up to the mass TopP.
func (s *Sampler) topP(c []Candidate) []Candidate {
	mass := 0.0
	for i, q := range s.softmax(c, 1) {
		if mass += q; mass >= float64(s.params.TopP) {
			return c[:i+1]
		}
	}
	return c
}

// minP drops the candidates that are less likely than MinP times the likeliest.
func (s *Sampler) minP(c []Candidate) []Candidate {
	least := float64(c[0].Logit) + math.Log(float64(s.params.MinP))
	n := 1
	for n < len(c) && float64(c[n].Logit) >= least {
		n++
	}
	return c[:n]
}
