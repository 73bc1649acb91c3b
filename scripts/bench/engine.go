package main

import (
	"context"
	"fmt"
	"time"

	"cllm/llm"
	"cllm/llm/llama"
)

// engineRates is what the engine reaches without scheduler, sampling and HTTP.
type engineRates struct {
	prefill float64         // prompt tokens/s
	decode  map[int]float64 // tokens/s by sequences decoded together
	ready   time.Duration   // from loaded weights to a context of 64 sequences
}

// ceiling is the rate of generated tokens for the whole work: all prompts at the
// prefill rate and all answers at the decode rate.
func (e engineRates) ceiling(o options, clients int, promptTokens float64) float64 {
	perRequest := promptTokens/e.prefill + float64(o.tokens)/e.decode[clients]
	return float64(o.tokens) / perRequest
}

func measureEngine(ctx context.Context, o options) (engineRates, error) {
	e := engineRates{decode: make(map[int]float64)}
	m, err := llama.LoadModel(ctx, o.model, llama.ModelOptions{})
	if err != nil {
		return e, err
	}
	defer m.Close()
	start := time.Now()
	c, err := m.NewContext(llama.ContextOptions{Sequences: 64, ContextPerSequence: 4096})
	if err != nil {
		return e, err
	}
	defer c.Close()
	e.ready = time.Since(start)

	const prompt = 45
	start = time.Now()
	for seq := range 64 {
		if err := c.Decode(rowsFor(llm.SeqID(seq), 0, prompt, false)); err != nil {
			return e, err
		}
	}
	e.prefill = 64 * prompt / time.Since(start).Seconds()

	at := prompt
	for _, n := range o.concurrency {
		if ctx.Err() != nil {
			return e, ctx.Err()
		}
		n = min(n, 64)
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
		e.decode[n] = float64(n*o.tokens) / time.Since(start).Seconds()
		for seq := range n {
			if err := c.Truncate(llm.SeqID(seq), llm.Pos(at)); err != nil {
				return e, err
			}
		}
	}
	return e, nil
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
