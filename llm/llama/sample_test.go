//go:build cgo

package llama

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// numbers drops the candidates whose logits are NaN: they can't be sampled.
func numbers(c []llm.Candidate) []llm.Candidate {
	return slices.DeleteFunc(c, func(c llm.Candidate) bool { return math.IsNaN(float64(c.Logit)) })
}

func TestSelectionIsWhatPlainSortingGives(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	inf, nan, zero := float32(math.Inf(1)), float32(math.NaN()), float32(0)
	fill := map[string]func(i int) float32{
		"gaussian":          func(int) float32 { return float32(rng.NormFloat64()) },
		"few values":        func(int) float32 { return float32(rng.IntN(4)) },
		"all equal":         func(int) float32 { return 7 },
		"both zeros":        func(i int) float32 { return []float32{zero, -zero, float32(math.Copysign(0, -1))}[i%3] },
		"rising":            func(i int) float32 { return float32(i) },
		"falling":           func(i int) float32 { return -float32(i) },
		"some NaN":          func(i int) float32 { return []float32{nan, float32(rng.NormFloat64())}[rng.IntN(2)] },
		"nearly all NaN":    func(i int) float32 { return []float32{nan, 1}[btoi(i%500 == 499)] },
		"all NaN":           func(int) float32 { return nan },
		"infinities":        func(int) float32 { return []float32{inf, -inf, 0, 1}[rng.IntN(4)] },
		"all minus inf":     func(int) float32 { return -inf },
		"one is not -inf":   func(i int) float32 { return []float32{-inf, 3}[btoi(i == 777)] },
		"negative":          func(int) float32 { return -100 - float32(rng.ExpFloat64()) },
		"huge and tiny":     func(int) float32 { return math.Float32frombits(rng.Uint32()) },
		"all large at end":  func(i int) float32 { return float32(btoi(i > 900)) * 10 },
		"denormals of zero": func(i int) float32 { return math.Float32frombits(uint32(i)) },
	}
	for name, f := range fill {
		for _, n := range []int{1, 2, 127, 128, 129, 1000, 5003} {
			row := make([]float32, n)
			for i := range row {
				row[i] = f(i)
			}
			for _, k := range []int{1, 2, 3, 39, 40, 41, 500, n - 1, n, n + 1, llm.All} {
				if k < 0 {
					continue
				}
				got := Top(row, k)
				want := numbers(llmtest.Top(row, llm.All))
				if k > 0 && k < len(want) {
					want = want[:k]
				}
				if !slices.EqualFunc(got, want, func(a, b llm.Candidate) bool { return a.Token == b.Token && a.Logit == b.Logit }) {
					t.Fatalf("%s: %d of %d: %v, want %v", name, k, n, short(got), short(want))
				}
			}
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func short(c []llm.Candidate) string {
	return fmt.Sprintf("%d: %v...", len(c), c[:min(len(c), 8)])
}

// The whole path of a pick must come to what the reference comes to, draws included.
func TestPicksAreWhatTheReferenceSamplerPicks(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	const sequences = 16
	c := open(t, m, ContextOptions{Sequences: sequences, ContextPerSequence: 256, Threads: 1})
	base := llm.SamplingParams{Temperature: 0.8, TopK: 40, TopP: 0.9, TypicalP: 1, RepeatPenalty: 1.1, RepeatLastN: 64, Seed: 1}
	var params []llm.SamplingParams
	for i := range sequences {
		p := base
		p.Seed = int64(i)
		switch i % 8 {
		case 1:
			p.TopK = 0
		case 2:
			p.Temperature = 0
		case 3:
			p.TopK, p.MinP = 100000, 0.05
		case 4:
			p.TypicalP, p.PresencePenalty = 0.7, 0.5
		case 5:
			p.TopK = 1
		case 6:
			p.FrequencyPenalty, p.RepeatLastN = 0.3, -1
		}
		params = append(params, p)
	}
	prompt := m.Vocab().Tokenize("The rain in Spain", false)
	rows := make([]llm.Row, 0, sequences*len(prompt))
	for seq := range sequences {
		for i, token := range prompt[seq%3:] {
			rows = append(rows, llm.Row{Token: token, Pos: llm.Pos(i), Seq: llm.SeqID(seq), Logits: i == len(prompt[seq%3:])-1})
		}
	}
	var ours, reference []*llm.Sampler
	for i := range sequences {
		ours = append(ours, llm.NewSampler(params[i], nil, prompt))
		reference = append(reference, llm.NewSampler(params[i], nil, prompt))
	}
	for step := range 20 {
		if err := c.Decode(rows); err != nil {
			t.Fatal(err)
		}
		var picks []llm.Pick
		var want []llm.Pick
		for i, r := range rows {
			if !r.Logits {
				continue
			}
			row, err := c.Logits(i)
			if err != nil {
				t.Fatal(err)
			}
			pick, plain := llm.Pick{Row: i, Sampler: ours[r.Seq]}, llm.Pick{Sampler: reference[r.Seq]}
			if r.Seq%2 == 1 {
				pick.Logprobs, plain.Logprobs = &llm.Logprobs{Most: step}, &llm.Logprobs{Most: step}
			}
			if llmtest.SamplePick(slices.Clone(row), &plain); plain.Err != nil {
				t.Fatal(plain.Err)
			}
			want = append(want, plain)
			picks = append(picks, pick)
		}
		c.Sample(picks)
		next := rows[:0:0]
		for i, p := range picks {
			seq := rows[p.Row].Seq
			if p.Err != nil || p.Token != want[i].Token {
				t.Fatalf("step %d, sequence %d: token %d, error %v; want %d", step, seq, p.Token, p.Err, want[i].Token)
			}
			equalLogprobs(t, p.Logprobs, want[i].Logprobs)
			for _, s := range []*llm.Sampler{ours[seq], reference[seq]} {
				s.Accept(p.Token)
			}
			next = append(next, llm.Row{Token: p.Token, Pos: c.Held(seq), Seq: seq, Logits: true})
		}
		rows = next
	}
}

func equalLogprobs(t *testing.T, got, want *llm.Logprobs) {
	t.Helper()
	if got == nil || want == nil {
		if got != want {
			t.Errorf("%v, want %v", got, want)
		}
		return
	}
	near := func(a, b float32) bool { return math.Abs(float64(a-b)) < 1e-4 }
	if !near(got.Picked, want.Picked) || !slices.EqualFunc(got.Top, want.Top, func(a, b llm.Logprob) bool {
		return a.Token == b.Token && near(a.Logprob, b.Logprob)
	}) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestLogprobsAreWhatPlainArithmeticGives(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for name, f := range map[string]func(i int) float32{
		"gaussian":       func(int) float32 { return float32(3 * rng.NormFloat64()) },
		"all equal":      func(int) float32 { return -7 },
		"one far ahead":  func(i int) float32 { return float32(btoi(i == 77)) * 60 },
		"a wide range":   func(int) float32 { return float32(200 * rng.NormFloat64()) },
		"very large":     func(int) float32 { return 1e6 + float32(rng.Float64()) },
		"some are -inf":  func(i int) float32 { return []float32{-inf, float32(rng.NormFloat64())}[i%2] },
		"some are NaN":   func(i int) float32 { return []float32{float32(rng.NormFloat64()), nan}[i%2] },
		"NaN in front":   func(i int) float32 { return []float32{1, nan}[btoi(i < 300)] },
		"one of many":    func(i int) float32 { return []float32{-inf, 3}[btoi(i == 5)] },
		"steps of a bit": func(i int) float32 { return float32(i) * 1e-4 },
	} {
		for _, n := range []int{1, 15, 16, 17, 128, 129, 1000, 5003} {
			row := make([]float32, n)
			for i := range row {
				row[i] = f(i)
			}
			want := llmtest.LogSoftmax(row)
			want = slices.DeleteFunc(want, func(l llm.Logprob) bool { return math.IsInf(float64(l.Logprob), -1) })
			if len(want) == 0 {
				continue // there is nothing to sample
			}
			got := llm.Logprobs{Most: n}
			sum := new(picker).tell(row, &got)
			if len(got.Top) != len(want) {
				t.Fatalf("%s: %d of %d tokens, want %d", name, len(got.Top), n, len(want))
			}
			for i, l := range got.Top {
				if l.Token != want[i].Token || math.Abs(float64(l.Logprob-want[i].Logprob)) > 2e-6*max(1, math.Abs(float64(want[i].Logprob))) {
					t.Fatalf("%s: place %d of %d: %v, want %v", name, i, n, l, want[i])
				}
			}
			if d := float64(row[want[0].Token]) - sum - float64(want[0].Logprob); math.Abs(d) > 1e-5*max(1, math.Abs(sum)) {
				t.Errorf("%s: the sum of %d is %v", name, n, sum)
			}
		}
	}
}

// qwenVocab is the size of Qwen's vocabulary.
const qwenVocab = 151936

func logitsRow() []float32 {
	rng := rand.New(rand.NewPCG(3, 4))
	row := make([]float32, qwenVocab)
	for i := range row {
		row[i] = float32(3 * rng.NormFloat64())
	}
	return row
}

func BenchmarkSelect(b *testing.B) {
	row := logitsRow()
	var p picker
	for _, k := range []int{1, 40, 1000, llm.All} {
		b.Run(fmt.Sprintf("k=%d", k), func(b *testing.B) {
			for b.Loop() {
				p.found = p.top(row, k)
			}
		})
	}
}

func BenchmarkLogprobs(b *testing.B) {
	row := logitsRow()
	var p picker
	for _, most := range []int{0, 20} {
		b.Run(fmt.Sprintf("top=%d", most), func(b *testing.B) {
			for b.Loop() {
				p.tell(row, &llm.Logprobs{Most: most})
			}
		})
	}
}

// The path of a pick with Ollama's default options, as BenchmarkLlamaCppChain takes it.
func BenchmarkSampleOne(b *testing.B) {
	row := logitsRow()
	s := llm.NewSampler(llm.SamplingParams{Temperature: 0.8, TopK: 40, TopP: 0.9, TypicalP: 1, RepeatPenalty: 1, Seed: 1}, nil, nil)
	var p picker
	for b.Loop() {
		if _, _, err := s.Choose(p.top(row, s.Prepare(row)), false); err != nil {
			b.Fatal(err)
		}
	}
}
