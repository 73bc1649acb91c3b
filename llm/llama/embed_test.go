//go:build cgo

package llama

import (
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"cllm/llm"
	"cllm/llm/llmtest/tinymodel"
)

func similarity(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab += float64(a[i]) * float64(b[i])
		aa += float64(a[i]) * float64(a[i])
		bb += float64(b[i]) * float64(b[i])
	}
	return ab / math.Sqrt(aa*bb)
}

func TestAnEmbeddingIsTheSameAloneAndAmongOthers(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	texts := []string{"the rain in spain", "a", "another one that is quite a bit longer than the first", "the rain in spain", "x y z"}
	var lists [][]llm.Token
	for _, s := range texts {
		lists = append(lists, m.Vocab().Tokenize(s, true))
	}
	for _, pooling := range []Pooling{PoolingModel, PoolingNone, PoolingMean, PoolingCLS, PoolingLast} {
		c := open(t, m, ContextOptions{Sequences: 3, ContextPerSequence: 256, Batch: 64, Embeddings: true, Pooling: pooling, Threads: 1})
		together, err := c.Embed(lists)
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range lists {
			alone, err := c.Embed([][]llm.Token{l})
			if err != nil {
				t.Fatal(err)
			}
			if len(alone[0]) != 64 || similarity(alone[0], together[i]) < 0.9999 {
				t.Errorf("pooling %d: %q has another embedding among others: similarity %v", pooling, texts[i], similarity(alone[0], together[i]))
			}
		}
		if s := similarity(together[0], together[3]); s < 0.9999 {
			t.Errorf("pooling %d: the same text twice has similarity %v", pooling, s)
		}
		if s := similarity(together[0], together[2]); s > 0.99 {
			t.Errorf("pooling %d: two texts have similarity %v", pooling, s)
		}
		if c.Held(0) != 0 {
			t.Errorf("%d positions are left behind", c.Held(0))
		}
	}
}

func TestAModelWithoutMemoryGivesEmbeddingsOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bert.gguf")
	if err := tinymodel.WriteRandomBERT(path, 1); err != nil {
		t.Fatal(err)
	}
	m := load(t, path, ModelOptions{})
	if m.Vocab().BOS() != 1 {
		t.Errorf("BOS %d", m.Vocab().BOS())
	}
	if _, err := m.NewContext(ContextOptions{Threads: 1}); !errors.Is(err, llm.ErrUnsupported) {
		t.Errorf("a context for sampling: %v", err)
	}
	c := open(t, m, ContextOptions{Sequences: 4, Batch: 128, Embeddings: true, Threads: 1})
	var lists [][]llm.Token
	for _, s := range []string{"a b c d", "zyx", "a b c d", "hello, world! 1 2 3", "q", strings.Repeat("a", 126)} {
		lists = append(lists, m.Vocab().Tokenize(s, true))
	}
	together, err := c.Embed(lists)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range lists {
		alone, err := c.Embed([][]llm.Token{l})
		if err != nil {
			t.Fatal(err)
		}
		if s := similarity(alone[0], together[i]); len(alone[0]) != 64 || !(s > 0.9999) {
			t.Errorf("text %d: similarity %v among others", i, s)
		}
	}
	if same, other := similarity(together[0], together[2]), similarity(together[0], together[1]); !(same > 0.9999) || !(other < 0.99) {
		t.Errorf("similarity of equal texts %v, of others %v", same, other)
	}
	long := m.Vocab().Tokenize(strings.Repeat("a", 127), true) // one more than it was trained for
	if _, err := c.Embed([][]llm.Token{long}); !errors.Is(err, ErrTooLong) {
		t.Errorf("%d tokens: %v", len(long), err)
	}
}

func TestWhatCantBeEmbeddedIsAnError(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	c := open(t, m, ContextOptions{ContextPerSequence: 256, Batch: 64, Embeddings: true, Threads: 1})
	long := m.Vocab().Tokenize(strings.Repeat("x", 65), false)
	if _, err := c.Embed([][]llm.Token{{1}, long}); !errors.Is(err, ErrTooLong) {
		t.Errorf("a long text: %v", err)
	}
	if _, err := c.Embed([][]llm.Token{{1}, nil}); err == nil {
		t.Error("an empty text has an embedding")
	}
	if _, err := c.Embed([][]llm.Token{{1}, {1 << 30}}); !errors.Is(err, llm.ErrInvalidBatch) {
		t.Errorf("a token that is none: %v", err)
	}
	if v, err := c.Embed(nil); err != nil || len(v) != 0 {
		t.Errorf("nothing: %v, %v", v, err)
	}
	if _, err := c.Embed([][]llm.Token{long[:64]}); err != nil {
		t.Errorf("a text that just fits: %v", err)
	}
	plain := open(t, m, ContextOptions{ContextPerSequence: 256, Threads: 1})
	if _, err := plain.Embed([][]llm.Token{{1}}); err == nil {
		t.Error("a context for sampling gives embeddings")
	}
}
