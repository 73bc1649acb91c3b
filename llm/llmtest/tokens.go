package llmtest

import (
	"cmp"
	"math"
	"slices"

	"cllm/llm"
)

func hash(tokens []llm.Token) uint64 {
	h := uint64(14695981039346656037)
	for _, t := range tokens {
		h = (h ^ uint64(t+1)) * 1099511628211
	}
	return h ^ h>>29
}

// Next is the fake engine's likeliest token after a history: a small letter or a
// space. It never ends an answer.
func Next(history []llm.Token) llm.Token {
	if n := hash(history) % 27; n < 26 {
		return llm.Token('a' + n)
	}
	return ' '
}

// GreedyText is the text of the n tokens that follow a prompt at temperature 0, without
// stop, shift or end token.
func GreedyText(prompt string, n int) string { return TextBy(Next, prompt, n) }

// TextBy is the text of n tokens that follow a prompt, each the one that next names.
func TextBy(next func(history []llm.Token) llm.Token, prompt string, n int) string {
	history, text := Vocab{}.Tokenize(prompt, true), ""
	for range n {
		t := next(history)
		history = append(history, t)
		text += Vocab{}.Piece(t)
	}
	return text
}

// ConstrainedText is the text of n tokens at temperature 0 that a grammar allows,
// fewer if the likeliest of them ends the answer. next is that of the Options.
func ConstrainedText(next func(history []llm.Token) llm.Token, prompt string, n int, g llm.Grammar) string {
	e := NewEngine(Options{Next: next})
	history, text := Vocab{}.Tokenize(prompt, true), ""
	s := llm.NewSampler(llm.SamplingParams{}, g, nil)
	for range n {
		e.fill(history)
		t, err := Sample(e.logits, s)
		if err != nil || (Vocab{}).IsEnd(t) {
			break
		}
		history = append(history, t)
		text += Vocab{}.Piece(t)
	}
	return text
}

// Top returns the k likeliest candidates of a row, likeliest first, equal ones by
// rising token; all of them for llm.All. It is slow and plain: the reference
// for engines that select faster. Logits that are no numbers come last.
func Top(row []float32, k int) []llm.Candidate {
	c := make([]llm.Candidate, len(row))
	for t, l := range row {
		c[t] = llm.Candidate{Token: llm.Token(t), Logit: l}
	}
	slices.SortStableFunc(c, func(a, b llm.Candidate) int {
		return cmp.Compare(b.Logit, a.Logit)
	})
	if k > 0 && k < len(c) {
		c = c[:k]
	}
	return c
}

// Sample drives a sampler over a row as engines do. The row is changed.
func Sample(row []float32, s *llm.Sampler) (llm.Token, error) {
	k := s.Prepare(row)
	t, more, err := s.Choose(Top(row, k), k == llm.All)
	if more {
		t, _, err = s.Choose(Top(row, llm.All), true)
	}
	return t, err
}

// SamplePick serves a pick from its row, which is changed.
func SamplePick(row []float32, p *llm.Pick) {
	var all []llm.Logprob
	if p.Logprobs != nil {
		all = LogSoftmax(row)
	}
	p.Token, p.Err = Sample(row, p.Sampler)
	if p.Err != nil || p.Logprobs == nil {
		return
	}
	p.Logprobs.Top = nil
	for i, l := range all {
		if i < p.Logprobs.Most && !math.IsInf(float64(l.Logprob), -1) {
			p.Logprobs.Top = append(p.Logprobs.Top, l)
		}
		if l.Token == p.Token {
			p.Logprobs.Picked = l.Logprob
		}
	}
}

// LogSoftmax returns the log-probabilities of a row's tokens, likeliest first, equal
// ones by rising token. Like Top it is the plain reference.
func LogSoftmax(row []float32) []llm.Logprob {
	var all []llm.Logprob
	sum := 0.0
	c := Top(row, llm.All)
	for _, one := range c {
		if d := float64(one.Logit) - float64(c[0].Logit); !math.IsNaN(d) {
			sum += math.Exp(d)
			all = append(all, llm.Logprob{Token: one.Token, Logprob: float32(d)})
		}
	}
	for i := range all {
		all[i].Logprob -= float32(math.Log(sum))
	}
	return all
}

// Passes is how many passes over the weights llama.cpp makes for a batch. With a
// unified cache it cuts at ubatch rows. Otherwise each pass takes sequences whose
// ids rise by one, and from each the same number of rows; what is left over
// needs further passes (llama-batch.cpp, split_equal).
func Passes(rows []llm.Row, ubatch int, unified bool) int {
	if unified {
		return (len(rows) + ubatch - 1) / ubatch
	}
	var order []llm.SeqID // in order of first appearance
	left := make(map[llm.SeqID]int)
	for _, r := range rows {
		if left[r.Seq] == 0 {
			order = append(order, r.Seq)
		}
		left[r.Seq]++
	}
	passes := 0
	for len(order) > 0 {
		var group, rest []llm.SeqID
		for _, seq := range order {
			if len(group) < ubatch && (len(group) == 0 || seq == group[len(group)-1]+1) {
				group = append(group, seq)
			}
		}
		n := max(ubatch/len(group), 1)
		for _, seq := range group {
			n = min(n, left[seq])
		}
		for _, seq := range group {
			left[seq] -= n
		}
		for _, seq := range order {
			if left[seq] > 0 {
				rest = append(rest, seq)
			}
		}
		order = rest
		passes++
	}
	return passes
}
