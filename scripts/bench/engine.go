package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"cllm/llm"
	"cllm/llm/llama"
)

// engineRates is what the engine reaches without scheduler, sampling and HTTP, beside the
// servers with so many clients: the machine has another speed at another moment.
type engineRates struct {
	Repeat  int             `json:"repeat"`
	Clients int             `json:"clients"`
	Prefill float64         `json:"prefill"`  // prompt tokens/s
	Decode  map[int]float64 `json:"decode"`   // tokens/s by sequences decoded together
	Ready   time.Duration   `json:"ready_ns"` // from loaded weights to a context of all slots
}

// ceiling is the rate of generated tokens for the whole load: all prompts at the prefill
// rate, and all answers at the decode rates of its waves.
func (e engineRates) ceiling(l load, tokens int, promptTokens float64) float64 {
	seconds := float64(l.requests) * promptTokens / e.Prefill
	for _, w := range l.waves() {
		seconds += float64(w*tokens) / e.Decode[w]
	}
	return float64(l.requests*tokens) / seconds
}

// waves is how many answers are decoded together, from wave to wave: as many as there
// are clients and slots, and at the end those that are left.
func (l load) waves() []int {
	var all []int
	for left := l.requests; left > 0; {
		w := min(left, l.clients, slots)
		all = append(all, w)
		left -= w
	}
	return all
}

// ceilings is the ceiling of a load in each repeat in which it is known: of a repeat's turns
// of the engine the mean of the times.
func ceilings(rates []engineRates, l load, tokens int, promptTokens float64) map[int]float64 {
	turns, times := make(map[int]float64), make(map[int]float64)
	for _, e := range rates {
		if e.Clients == l.clients {
			turns[e.Repeat]++
			times[e.Repeat] += 1 / e.ceiling(l, tokens, promptTokens)
		}
	}
	all := make(map[int]float64)
	for repeat, n := range turns {
		all[repeat] = n / times[repeat]
	}
	return all
}

// together is how many sequences the servers decode together with so many clients, each number once.
func together(servers []*server, clients int) []int {
	var all []int
	for _, s := range servers {
		for _, l := range s.loads {
			if l.clients == clients {
				all = append(all, l.waves()...)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// measureEngine computes as many prompts and decodes as many sequences together as there
// are in the waves.
func measureEngine(ctx context.Context, o options, clients int, waves []int) (engineRates, error) {
	e := engineRates{Clients: clients, Decode: make(map[int]float64)}
	m, err := llama.LoadModel(ctx, o.model, llama.ModelOptions{})
	if err != nil {
		return e, err
	}
	defer m.Close()
	start := time.Now()
	c, err := m.NewContext(llama.ContextOptions{Sequences: slots, ContextPerSequence: 4096})
	if err != nil {
		return e, err
	}
	defer c.Close()
	e.Ready = time.Since(start)

	sequences := max(slices.Max(waves), 16) // one prompt alone is a short time to measure
	for range 2 {                           // the first time the memory is new, and takes longer
		if e.Prefill, err = prefillRate(ctx, c, sequences, min(clients, max(prefillBatch/o.promptTokens, 1)), o.promptTokens); err != nil {
			return e, err
		}
	}
	at := o.promptTokens
	for _, n := range waves {
		if ctx.Err() != nil {
			return e, ctx.Err()
		}
		var rows []llm.Row
		start := time.Now()
		for step := range o.tokens {
			rows = rows[:0]
			for seq := range n {
				rows = append(rows, rowsFor(llm.SeqID(seq), at+step, 1, true)...)
			}
			if err := c.Decode(rows); err != nil {
				return e, fmt.Errorf("decoding %d sequences: %w", n, err)
			}
		}
		e.Decode[n] = float64(n*o.tokens) / time.Since(start).Seconds()
		for seq := range n {
			if err := c.Truncate(llm.SeqID(seq), llm.Pos(at)); err != nil {
				return e, err
			}
		}
	}
	return e, nil
}

// prefillBatch is the prompt tokens of a pass where that many wait; more gain nothing.
const prefillBatch = 512

// prefillRate computes a prompt in each sequence, so many at a time, in tokens/s.
func prefillRate(ctx context.Context, c *llama.Context, sequences, together, tokens int) (float64, error) {
	for seq := range sequences {
		if err := c.Truncate(llm.SeqID(seq), 0); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	for first := 0; first < sequences; first += together {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		var rows []llm.Row
		for seq := first; seq < min(first+together, sequences); seq++ {
			rows = append(rows, rowsFor(llm.SeqID(seq), 0, tokens, false)...)
		}
		if err := c.Decode(rows); err != nil {
			return 0, fmt.Errorf("computing %d prompts: %w", together, err)
		}
	}
	return float64(sequences*tokens) / time.Since(start).Seconds(), nil
}

// rowsFor is n rows of a sequence from a position on. The tokens do not matter.
func rowsFor(seq llm.SeqID, from, n int, logits bool) []llm.Row {
	rows := make([]llm.Row, n)
	for i := range rows {
		rows[i] = llm.Row{
			Token:  llm.Token(100 + (int(seq)*131+(from+i)*17)%1000),
			Pos:    llm.Pos(from + i),
			Seq:    seq,
			Logits: logits,
		}
	}
	return rows
}
