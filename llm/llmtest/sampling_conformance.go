package llmtest

import (
	"errors"
	"math"
	"slices"

	"cllm/llm"
)

// samplers are some that pick in all ways: the likeliest, of a few, of all, with
// penalties on what the prompt holds.
func samplers(g func() llm.Grammar, prompt []llm.Token) []*llm.Sampler {
	if g == nil {
		g = func() llm.Grammar { return nil }
	}
	base := llm.SamplingParams{TopP: 1, TypicalP: 1, RepeatPenalty: 1, Seed: 5}
	var all []*llm.Sampler
	for _, change := range []func(p *llm.SamplingParams){
		func(*llm.SamplingParams) {},
		func(p *llm.SamplingParams) { p.Temperature, p.TopK = 2, 40 },
		func(p *llm.SamplingParams) { p.Temperature = 1.5 },
		func(p *llm.SamplingParams) { p.Temperature, p.TopK, p.RepeatLastN, p.RepeatPenalty = 1, 10, -1, 1.5 },
		func(p *llm.SamplingParams) { p.RepeatLastN, p.PresencePenalty, p.FrequencyPenalty = 64, 3, 2 },
	} {
		p := base
		change(&p)
		all = append(all, llm.NewSampler(p, g(), prompt))
	}
	return all
}

// picked decodes the prompt in a sequence of its own for each sampler and samples
// all of them at once.
func (d *driver) picked(prompt []llm.Token, all []*llm.Sampler, most func(i int) *llm.Logprobs) []llm.Pick {
	d.Helper()
	var picks []llm.Pick
	for i, s := range all {
		seq := llm.SeqID(i % d.e.Limits().Sequences)
		d.clear(seq)
		d.decode(d.rows(seq, prompt))
		picks = append(picks, llm.Pick{Row: len(prompt) - 1, Sampler: s, Logprobs: most(i)})
		d.e.Sample(picks[i:])
		if err := picks[i].Err; err != nil {
			d.Fatalf("sampler %d: %v", i, err)
		}
	}
	return picks
}

func testLogprobs(d *driver) {
	prompt := d.prompt(1, 9)
	size := d.v.Size()
	picks := d.picked(prompt, samplers(nil, prompt), func(int) *llm.Logprobs { return &llm.Logprobs{Most: size + 5} })
	first := picks[0].Logprobs.Top
	sum := 0.0
	for i, l := range first {
		sum += math.Exp(float64(l.Logprob))
		if i > 0 && (first[i-1].Logprob < l.Logprob || first[i-1].Logprob == l.Logprob && first[i-1].Token > l.Token) {
			d.Errorf("token %d with %v stands before token %d with %v", first[i-1].Token, first[i-1].Logprob, l.Token, l.Logprob)
		}
	}
	if math.Abs(sum-1) > 1e-4 || len(first) > size {
		d.Errorf("the probabilities of %d of %d tokens sum to %v", len(first), size, sum)
	}
	for i, p := range picks {
		top := p.Logprobs.Top
		if len(top) != len(first) {
			d.Fatalf("sampler %d: %d tokens, want %d", i, len(top), len(first))
		}
		for j, l := range top {
			if l.Token != first[j].Token || math.Abs(float64(l.Logprob-first[j].Logprob)) > 1e-4 {
				d.Fatalf("sampler %d: place %d has %v, want %v", i, j, l, first[j])
			}
		}
		at := slices.IndexFunc(top, func(l llm.Logprob) bool { return l.Token == p.Token })
		if at < 0 || math.Abs(float64(top[at].Logprob-p.Logprobs.Picked)) > 1e-5 {
			d.Errorf("sampler %d: the pick %d has %v, and among all it is at %d", i, p.Token, p.Logprobs.Picked, at)
		}
	}
}

func testLogprobsApart(d *driver) {
	prompt := d.prompt(2, 7)
	plain := d.picked(prompt, samplers(nil, prompt), func(int) *llm.Logprobs { return nil })
	told := d.picked(prompt, samplers(nil, prompt), func(i int) *llm.Logprobs { return &llm.Logprobs{Most: 4 * i} })
	for i := range plain {
		if plain[i].Token != told[i].Token || plain[i].Logprobs != nil {
			d.Errorf("sampler %d picks %d, and %d when it is asked for more", i, plain[i].Token, told[i].Token)
		}
		if n := len(told[i].Logprobs.Top); n != 4*i {
			d.Errorf("%d tokens were asked for, %d came", 4*i, n)
		}
	}

	// All rows of one batch in one call, every other with log-probabilities.
	var rows []llm.Row
	sequences := min(d.e.Limits().Sequences, 8)
	for seq := range sequences {
		d.clear(llm.SeqID(seq))
		rows = append(rows, d.rows(llm.SeqID(seq), d.prompt(uint64(seq), 3))...)
	}
	d.decode(rows)
	var picks []llm.Pick
	for seq := range sequences {
		p := llm.Pick{Row: 3*seq + 2, Sampler: llm.NewSampler(llm.SamplingParams{}, nil, nil)}
		if seq%2 == 0 {
			p.Logprobs = &llm.Logprobs{Most: 1}
		}
		picks = append(picks, p)
	}
	d.e.Sample(picks)
	for i, p := range picks {
		if l := p.Logprobs; p.Err != nil || l != nil && (len(l.Top) != 1 || l.Top[0].Token != p.Token || l.Top[0].Logprob != l.Picked || l.Picked > 0) {
			d.Errorf("row %d: %+v, %+v", i, p, l)
		}
	}
}

// every is a grammar that allows one token in n; none for 0.
type every struct{ n, taken int }

func (g *every) allows(t llm.Token) bool { return g.n > 0 && int(t)%g.n == 3 }
func (g *every) Complete() bool          { return false }
func (g *every) Take(t llm.Token) (bool, error) {
	ok := g.allows(t)
	if ok {
		g.taken++
	}
	return ok, nil
}
func (g *every) Filter(c []llm.Candidate) ([]llm.Candidate, error) {
	return slices.DeleteFunc(c, func(c llm.Candidate) bool { return !g.allows(c.Token) }), nil
}

func testGrammar(d *driver) {
	prompt := d.prompt(3, 6)
	var grammars []*every
	all := samplers(func() llm.Grammar {
		g := &every{n: 50}
		grammars = append(grammars, g)
		return g
	}, prompt)
	for i, p := range d.picked(prompt, all, func(int) *llm.Logprobs { return &llm.Logprobs{} }) {
		if !grammars[i].allows(p.Token) || grammars[i].taken != 1 || p.Logprobs.Picked > 0 {
			d.Errorf("sampler %d picks %d with %v, and the grammar took %d tokens", i, p.Token, p.Logprobs.Picked, grammars[i].taken)
		}
	}
	// One that allows nothing fails alone.
	d.clear(0)
	d.clear(1)
	rows := append(d.rows(0, prompt), d.rows(1, prompt)...)
	d.decode(rows)
	picks := []llm.Pick{
		{Row: len(prompt) - 1, Sampler: llm.NewSampler(llm.SamplingParams{Temperature: 1, TopP: 1, TypicalP: 1}, &every{}, nil)},
		{Row: len(rows) - 1, Sampler: llm.NewSampler(llm.SamplingParams{}, nil, nil)},
	}
	d.e.Sample(picks)
	if !errors.Is(picks[0].Err, llm.ErrRefused) || picks[1].Err != nil {
		d.Errorf("nothing is allowed: %v; its neighbour: %v", picks[0].Err, picks[1].Err)
	}
}
