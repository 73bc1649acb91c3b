package llmtest

import (
	"cmp"
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

// Greedy returns the n tokens that follow a prompt at temperature 0, without stop,
// shift or end token.
func Greedy(prompt []llm.Token, n int) []llm.Token {
	history := slices.Clone(prompt)
	for range n {
		history = append(history, Next(history))
	}
	return history[len(prompt):]
}

// GreedyText is Greedy as text.
func GreedyText(prompt string, n int) string {
	text := ""
	for _, t := range Greedy(Vocab{}.Tokenize(prompt, true), n) {
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
