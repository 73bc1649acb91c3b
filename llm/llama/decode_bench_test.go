//go:build cgo

package llama

import (
	"fmt"
	"os"
	"testing"

	"cllm/llm"
)

// benchModel is the model named by CLLM_BENCH_MODEL, or the tiny one.
func benchModel(b *testing.B) *Model {
	path := os.Getenv("CLLM_BENCH_MODEL")
	if path == "" {
		path = tinyPath
	}
	return load(b, path, ModelOptions{})
}

// needs skips a benchmark of sequences longer than the model was trained for, such as
// the tiny one.
func needs(b *testing.B, m *Model, context int) {
	if trained := m.Info().TrainContext; trained < context {
		b.Skipf("the model's context of %d tokens is shorter than %d; CLLM_BENCH_MODEL names another model", trained, context)
	}
}

// BenchmarkDecode is what the engine alone does: decode one token of each
// sequence, sample it with Ollama's default options, again. No HTTP, no scheduler.
func BenchmarkDecode(b *testing.B) {
	m := benchModel(b)
	for _, poll := range []int{0, 50} {
		for _, n := range []int{1, 8, 16, 23, 24, 32, 64} {
			b.Run(fmt.Sprintf("poll=%d,sequences=%d", poll, n), func(b *testing.B) {
				c := open(b, m, ContextOptions{Sequences: n, ContextPerSequence: 512, Poll: poll})
				defer c.Close()
				prompt := m.Vocab().Tokenize("The quick brown fox jumps over the lazy dog and", false)
				picks := make([]llm.Pick, n)
				next := make([]llm.Row, n)
				for seq := range n {
					rows := rowsOf(c, llm.SeqID(seq), prompt)
					if err := c.Decode(rows); err != nil {
						b.Fatal(err)
					}
					next[seq] = llm.Row{Token: prompt[seq%len(prompt)], Seq: llm.SeqID(seq), Logits: true}
					picks[seq] = llm.Pick{Row: seq, Sampler: llm.NewSampler(llm.SamplingParams{
						Temperature: 0.8, TopK: 40, TopP: 0.9, TypicalP: 1, RepeatPenalty: 1, Seed: int64(seq)}, nil, nil)}
				}
				for b.Loop() {
					for seq := range next {
						if c.Held(llm.SeqID(seq)) > 200 {
							if err := c.Truncate(llm.SeqID(seq), llm.Pos(len(prompt))); err != nil {
								b.Fatal(err)
							}
						}
						next[seq].Pos = c.Held(llm.SeqID(seq))
					}
					if err := c.Decode(next); err != nil {
						b.Fatal(err)
					}
					c.Sample(picks)
					for seq := range picks {
						if picks[seq].Err != nil {
							b.Fatal(picks[seq].Err)
						}
						next[seq].Token = picks[seq].Token
					}
				}
				b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "tokens/s")
			})
		}
	}
}

// BenchmarkPrefill decodes prompts of some lengths, in batches as the scheduler makes
// them when nothing else is to do.
func BenchmarkPrefill(b *testing.B) {
	m := benchModel(b)
	for _, n := range []int{512, 1024, 4096} {
		b.Run(fmt.Sprintf("tokens=%d", n), func(b *testing.B) {
			needs(b, m, n)
			c := open(b, m, ContextOptions{ContextPerSequence: n})
			defer c.Close()
			for b.Loop() {
				prefill(b, c, 0, n)
				if err := c.Truncate(0, 0); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

// prefill computes n tokens of a sequence, 128 at a time.
func prefill(b *testing.B, c *Context, seq llm.SeqID, n int) {
	var rows []llm.Row
	for at := 0; at < n; at += 128 {
		rows = rows[:0]
		for i := at; i < min(at+128, n); i++ {
			rows = append(rows, llm.Row{Token: llm.Token(i % 256), Pos: llm.Pos(i), Seq: seq})
		}
		if err := c.Decode(rows); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecodeLong decodes a token of each sequence that holds some already: what
// attention costs.
func BenchmarkDecodeLong(b *testing.B) {
	m := benchModel(b)
	for _, sequences := range []int{1, 8, 32} {
		for _, n := range []int{64, 1024, 3072} {
			b.Run(fmt.Sprintf("sequences=%d,tokens=%d", sequences, n), func(b *testing.B) {
				needs(b, m, n+1)
				c := open(b, m, ContextOptions{Sequences: sequences, ContextPerSequence: 4096})
				defer c.Close()
				prefill(b, c, 0, n)
				rows := []llm.Row{{Pos: llm.Pos(n), Token: 7, Logits: true}}
				for seq := 1; seq < sequences; seq++ {
					if err := c.Copy(llm.SeqID(seq), 0, llm.Pos(n)); err != nil {
						b.Fatal(err)
					}
					rows = append(rows, llm.Row{Pos: llm.Pos(n), Token: llm.Token(7 + seq), Seq: llm.SeqID(seq), Logits: true})
				}
				if err := c.settle(0); err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					if err := c.Decode(rows); err != nil {
						b.Fatal(err)
					}
					for seq := range sequences {
						if err := c.Truncate(llm.SeqID(seq), llm.Pos(n)); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}

// BenchmarkRows is a pass with some rows of one sequence: what a draft of so many
// tokens costs to check. Against one row, the rest of a pass is nearly free as long
// as it is bound by reading the weights.
func BenchmarkRows(b *testing.B) {
	m := benchModel(b)
	for _, sequences := range []int{1, 4} {
		for _, n := range []int{1, 2, 3, 4, 6, 8, 12, 16} {
			b.Run(fmt.Sprintf("sequences=%d,rows=%d", sequences, n), func(b *testing.B) {
				c := open(b, m, ContextOptions{Sequences: sequences, ContextPerSequence: 512, Outputs: 64})
				defer c.Close()
				rows := make([]llm.Row, 0, sequences*n)
				for seq := range sequences {
					for i := range n {
						rows = append(rows, llm.Row{Token: llm.Token(100 + 7*i + seq), Pos: llm.Pos(i), Seq: llm.SeqID(seq), Logits: true})
					}
				}
				for b.Loop() {
					for seq := range sequences {
						if err := c.Truncate(llm.SeqID(seq), 0); err != nil {
							b.Fatal(err)
						}
					}
					if err := c.Decode(rows); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkCopy is a copy of 1000 tokens from one sequence to another, into memory that
// was never used and into memory that was.
func BenchmarkCopy(b *testing.B) {
	m := benchModel(b)
	for _, used := range []bool{false, true} {
		b.Run(fmt.Sprintf("used=%v", used), func(b *testing.B) {
			c := open(b, m, ContextOptions{Sequences: 64, ContextPerSequence: 4096})
			defer c.Close()
			rows := make([]llm.Row, 1000)
			for i := range rows {
				rows[i] = llm.Row{Token: llm.Token(i % 256), Pos: llm.Pos(i)}
			}
			if err := c.Decode(rows); err != nil {
				b.Fatal(err)
			}
			to := llm.SeqID(0)
			for b.Loop() {
				if to++; used || to == 64 {
					to = 1
				}
				if err := c.Copy(to, 0, 1000); err != nil {
					b.Fatal(err)
				}
				if err := c.settle(to); err != nil {
					b.Fatal(err)
				}
				if to == 63 && !used {
					b.StopTimer()
					for seq := range llm.SeqID(63) {
						if err := c.Truncate(seq+1, 0); err != nil {
							b.Fatal(err)
						}
					}
					b.StartTimer()
				}
			}
		})
	}
}
