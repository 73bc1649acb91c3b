//go:build cgo

package llama

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"cllm/llm"
	"cllm/llm/llmtest"
	"cllm/llm/llmtest/tinymodel"
)

func bert(t *testing.T) *Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bert.gguf")
	if err := tinymodel.WriteRandomBERT(path, 1); err != nil {
		t.Fatal(err)
	}
	return load(t, path, ModelOptions{})
}

func openEmbedder(t testing.TB, m *Model, o EmbedderOptions) *Embedder {
	t.Helper()
	e, err := m.NewEmbedder(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// embedding returns the vector of one text.
func embedding(t testing.TB, e *Embedder, text []llm.Token) []float32 {
	t.Helper()
	parts := []llm.EmbedPart{{Tokens: text, Last: true}}
	if err := e.Embed(parts); err != nil {
		t.Fatal(err)
	}
	return parts[0].Vector
}

func TestEmbedderConforms(t *testing.T) {
	mamba := filepath.Join(t.TempDir(), "mamba.gguf")
	if err := tinymodel.WriteRandomMamba(mamba, 1); err != nil {
		t.Fatal(err)
	}
	qwen := load(t, tinyPath, ModelOptions{})
	for _, tt := range []struct {
		name  string
		model *Model
		o     EmbedderOptions
	}{
		{"bert", bert(t), EmbedderOptions{Sequences: 48}},
		{"bert with short calls", bert(t), EmbedderOptions{Sequences: 8, Batch: 64}},
		{"bert, last", bert(t), EmbedderOptions{Sequences: 8, Pooling: PoolingLast}},
		{"bert, none", bert(t), EmbedderOptions{Sequences: 8, Pooling: PoolingNone}},
		{"qwen3", qwen, EmbedderOptions{Sequences: 48}},
		{"qwen3, mean", qwen, EmbedderOptions{Sequences: 8, Batch: 300, Context: 700, Pooling: PoolingMean}},
		{"qwen3, last", qwen, EmbedderOptions{Sequences: 8, Batch: 64, Pooling: PoolingLast}},
		{"qwen3, q8_0", qwen, EmbedderOptions{Sequences: 8, Context: 300, KVType: KVQ8_0}},
		{"mamba", load(t, mamba, ModelOptions{}), EmbedderOptions{Sequences: 8, Batch: 100, Context: 256}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Threads = 1
			llmtest.TestEmbedder(t, func(t *testing.T) (llm.Embedder, llm.Vocab) {
				return openEmbedder(t, tt.model, tt.o), tt.model.Vocab()
			})
		})
	}
}

// What is pooled here must be what llama.cpp would pool.
func TestVectorsMadeHereAreLlamasOwn(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	text := m.Vocab().Tokenize("the quick brown fox jumps over the lazy dog", true)
	for pooling, p := range map[string]Pooling{"mean": PoolingMean, "last": PoolingLast} {
		ours := openEmbedder(t, m, EmbedderOptions{Sequences: 2, Context: 256, Threads: 1, Pooling: p})
		o := EmbedderOptions{Sequences: 2, Context: 256, Batch: 256, Threads: 1, Pooling: p}
		theirs, err := m.newEmbedder(o, ContextOptions{embeds: asWhole, pooling: p})
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		if ours.Limits().Whole || !theirs.Limits().Whole {
			t.Fatalf("%s: whole %v and %v", pooling, ours.Limits().Whole, theirs.Limits().Whole)
		}
		got, want := embedding(t, ours, text), embedding(t, theirs, text)
		if s := llmtest.Similarity(got, want); !(s > 0.9999) {
			t.Errorf("%s: similarity %v", pooling, s)
		}
		for i := range got {
			if d := got[i] - want[i]; d > 1e-2 || d < -1e-2 {
				t.Errorf("%s: number %d is %g, want %g", pooling, i, got[i], want[i])
			}
		}
	}
}

func TestAnEmbeddingModelSaysHowItPools(t *testing.T) {
	if p := bert(t).pooling(); p != PoolingMean {
		t.Errorf("bert: pooling %d", p)
	}
	if p := load(t, tinyPath, ModelOptions{}).pooling(); p != PoolingNone {
		t.Errorf("qwen3: pooling %d", p)
	}
}

func TestAModelWithoutMemoryGivesEmbeddingsOnly(t *testing.T) {
	m := bert(t)
	if m.Vocab().BOS() != 1 {
		t.Errorf("BOS %d", m.Vocab().BOS())
	}
	if _, err := m.NewContext(ContextOptions{Threads: 1}); !errors.Is(err, llm.ErrUnsupported) {
		t.Errorf("a context for sampling: %v", err)
	}
	e := openEmbedder(t, m, EmbedderOptions{Threads: 1})
	if l := e.Limits(); l.Context != 128 || l.Width != 64 || !l.Whole || l.Batch != 2048 || l.Sequences != 128 || l.CellBytes != 0 {
		t.Errorf("limits %+v", l)
	}
	same := embedding(t, e, m.Vocab().Tokenize("a b c d", true))
	other := embedding(t, e, m.Vocab().Tokenize("zyx", true))
	if s := llmtest.Similarity(same, other); !(s < 0.99) {
		t.Errorf("two texts have similarity %v", s)
	}
}

func TestAModelThatAnswersSharesItsWeightsWithAnEmbedder(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	c := open(t, m, ContextOptions{Sequences: 2, ContextPerSequence: 256, Threads: 1})
	e := openEmbedder(t, m, EmbedderOptions{Threads: 1})
	tokens := m.Vocab().Tokenize("the rain in spain", true)
	want := embedding(t, e, tokens)
	if l := e.Limits(); l.CellBytes != c.Limits().CellBytes || l.Context != tinymodel.Tiny.Context {
		t.Errorf("limits %+v beside %+v", l, c.Limits())
	}
	done := make(chan error)
	go func() { done <- c.Decode(rowsOf(c, 0, tokens)) }() // each has an owner of its own
	if s := llmtest.Similarity(embedding(t, e, tokens), want); !(s > 0.9999) {
		t.Errorf("similarity %v while the other decodes", s)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	m.Close()
	if s := llmtest.Similarity(embedding(t, e, tokens), want); !(s > 0.9999) {
		t.Errorf("similarity %v after the model was closed", s)
	}
}

func TestALargeVocabularyMakesCallsSmaller(t *testing.T) {
	limits := func(m *Model, o EmbedderOptions) llm.EmbedLimits {
		v := *m.vocab
		v.pieces = make([]string, 250_000)
		small := m.vocab
		m.vocab = &v
		defer func() { m.vocab = small }()
		o.Threads = 1
		return openEmbedder(t, m, o).Limits()
	}
	if l := limits(bert(t), EmbedderOptions{}); l.Batch != 268 || l.BufferBytes != 268*64*4 {
		t.Errorf("without logits: limits %+v", l)
	}
	qwen := load(t, tinyPath, ModelOptions{})
	if l := limits(qwen, EmbedderOptions{Pooling: PoolingMean}); l.Batch != 268 || l.BufferBytes > 269<<20 || l.BufferBytes < 250<<20 {
		t.Errorf("with logits: limits %+v", l)
	}
}

func TestSizesOfAnEmbedderAreChecked(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	for i, o := range []EmbedderOptions{{Sequences: -1}, {Sequences: 257}, {Batch: -1}, {Context: -1}, {Context: 1 << 40}, {Threads: -1}} {
		if e, err := m.NewEmbedder(o); err == nil {
			e.Close()
			t.Errorf("options %d were accepted: %+v", i, o)
		}
	}
}

func BenchmarkEmbed(b *testing.B) {
	m := load(b, tinyPath, ModelOptions{})
	text := m.Vocab().Tokenize(strings.Repeat("word ", 8), true)
	for _, n := range []int{1, 16, 48} {
		b.Run(fmt.Sprintf("texts=%d", n), func(b *testing.B) {
			e := openEmbedder(b, m, EmbedderOptions{})
			parts := make([]llm.EmbedPart, n)
			for b.Loop() {
				for i := range parts {
					parts[i] = llm.EmbedPart{Seq: llm.SeqID(i), Tokens: text, Last: true}
				}
				if err := e.Embed(parts); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*n*len(text))/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}
