//go:build cgo

package llama

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cllm/llm"
	"cllm/llm/llmtest/tinymodel"
)

// rowsOf makes rows that go on after what the sequence holds; the last asks for logits.
func rowsOf(c *Context, seq llm.SeqID, tokens []llm.Token) []llm.Row {
	var rows []llm.Row
	for i, t := range tokens {
		rows = append(rows, llm.Row{Token: t, Pos: c.Held(seq) + llm.Pos(i), Seq: seq, Logits: i == len(tokens)-1})
	}
	return rows
}

// greedy decodes tokens and the n that follow.
func greedy(t *testing.T, c *Context, seq llm.SeqID, tokens []llm.Token, n int) []llm.Token {
	t.Helper()
	var out []llm.Token
	for range n {
		rows := rowsOf(c, seq, tokens)
		if err := c.Decode(rows); err != nil {
			t.Fatal(err)
		}
		picks := []llm.Pick{{Row: len(rows) - 1, Sampler: llm.NewSampler(llm.SamplingParams{}, nil, nil)}}
		c.Sample(picks)
		if picks[0].Err != nil {
			t.Fatal(picks[0].Err)
		}
		tokens = []llm.Token{picks[0].Token}
		out = append(out, picks[0].Token)
	}
	return out
}

func TestLimitsAreWhatTheContextHas(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	for _, c := range []struct {
		name  string
		o     ContextOptions
		want  llm.Limits
		cells int
	}{
		{"defaults", ContextOptions{}, llm.Limits{Sequences: 1, Context: 1024, Batch: 1024, CellBytes: 512}, 1024},
		{"rounded up", ContextOptions{Sequences: 3, ContextPerSequence: 300, Batch: 64},
			llm.Limits{Sequences: 3, Context: 512, Batch: 64, CellBytes: 512}, 3 * 512},
		{"no more than was trained for", ContextOptions{Sequences: 2, ContextPerSequence: 5000, Batch: 64},
			llm.Limits{Sequences: 2, Context: 1024, Batch: 64, CellBytes: 512}, 2 * 5120},
		{"unified", ContextOptions{Sequences: 4, ContextPerSequence: 512, Cells: 1000, Unified: true, Batch: 64},
			llm.Limits{Sequences: 4, Context: 512, Batch: 64, Unified: true, CellBytes: 512}, 1024},
		{"a small pool", ContextOptions{Sequences: 4, Cells: 256, Unified: true, Batch: 64},
			llm.Limits{Sequences: 4, Context: 256, Batch: 64, Unified: true, CellBytes: 512}, 256},
		{"8 bits", ContextOptions{ContextPerSequence: 256, KVType: KVQ8_0, Batch: 64},
			llm.Limits{Sequences: 1, Context: 256, Batch: 64, CellBytes: 256 * 34 / 32}, 256},
		{"4 bits", ContextOptions{ContextPerSequence: 256, KVType: KVQ4_0, Batch: 64},
			llm.Limits{Sequences: 1, Context: 256, Batch: 64, CellBytes: 256 * 18 / 32}, 256},
		{"more sequences than the batch", ContextOptions{Sequences: 100, ContextPerSequence: 256, Batch: 1},
			llm.Limits{Sequences: 100, Context: 256, Batch: 100, CellBytes: 512}, 25600},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Threads = 1
			ctx := open(t, m, c.o)
			want := c.want
			want.Outputs = min(max(want.Sequences, leastOutputs), want.Batch)
			if got := ctx.Limits(); got != want {
				t.Errorf("limits %+v, want %+v", got, want)
			}
			if got := ctx.Cells(); got != c.cells {
				t.Errorf("%d cells, want %d", got, c.cells)
			}
		})
	}
}

func TestAContextThatCantBeIsAnError(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	for name, o := range map[string]ContextOptions{
		"sequences below 0":        {Sequences: -1},
		"too many sequences":       {Sequences: 257},
		"a negative context":       {ContextPerSequence: -1},
		"a negative batch":         {Batch: -1},
		"8 bits without flash":     {KVType: KVQ8_0, FlashAttention: FlashOff},
		"more than can be counted": {Sequences: 256, ContextPerSequence: 1 << 40},
	} {
		if c, err := m.NewContext(o); err == nil {
			c.Close()
			t.Errorf("%s: made", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func TestAVocabularyAloneComputesNothing(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{VocabOnly: true})
	if c, err := m.NewContext(ContextOptions{}); err == nil {
		c.Close()
		t.Error("a context without weights")
	}
	if e, err := m.NewEmbedder(EmbedderOptions{}); err == nil {
		e.Close()
		t.Error("an embedder without weights")
	}
}

func TestAFullPoolIsNoRoomAndChangesNothing(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	c := open(t, m, ContextOptions{Sequences: 4, ContextPerSequence: 256, Cells: 256, Unified: true, Threads: 1})
	tokens := m.Vocab().Tokenize(strings.Repeat("a", 200), false)
	if err := c.Decode(rowsOf(c, 0, tokens)); err != nil {
		t.Fatal(err)
	}
	err := c.Decode(rowsOf(c, 1, tokens[:100]))
	var e *Error
	if !errors.Is(err, llm.ErrNoRoom) || !errors.As(err, &e) || e.Op != "decode" || e.Code != 1 {
		t.Errorf("error %v", err)
	}
	if c.Held(0) != 200 || c.Held(1) != 0 {
		t.Errorf("%d and %d positions are held", c.Held(0), c.Held(1))
	}
	if err := c.Truncate(0, 150); err != nil {
		t.Fatal(err)
	}
	if err := c.Decode(rowsOf(c, 1, tokens[:100])); err != nil {
		t.Errorf("after room was made: %v", err)
	}
}

func TestAnAbortedDecodeSaysSo(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	c := open(t, m, ContextOptions{Sequences: 2, ContextPerSequence: 256, Threads: 1})
	greedy(t, c, 0, m.Vocab().Tokenize("abc", false), 1)
	c.Abort()
	err := c.Decode(rowsOf(c, 0, m.Vocab().Tokenize("def", false)))
	if !errors.Is(err, llm.ErrAborted) {
		t.Errorf("error %v", err)
	}
	if c.Held(0) != 3 {
		t.Errorf("%d positions are held", c.Held(0))
	}
	picks := []llm.Pick{{Row: 0, Sampler: llm.NewSampler(llm.SamplingParams{}, nil, nil)}}
	if c.Sample(picks); picks[0].Err == nil {
		t.Error("a token from an aborted decode")
	}
}

func TestAbortComesFromAnyGoroutine(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	c := open(t, m, ContextOptions{ContextPerSequence: 1024, Threads: 1})
	tokens := m.Vocab().Tokenize(strings.Repeat("a", 1000), false)
	go c.Abort()
	for {
		err := c.Decode(rowsOf(c, 0, tokens))
		if err != nil && !errors.Is(err, llm.ErrAborted) {
			t.Fatal(err)
		}
		if err != nil {
			break
		}
		if err := c.Truncate(0, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRowsOverTheOutputsAreRefused(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	for outputs, ok := range map[int]bool{2: false, 4: true, 0: true} { // 0: room for a draft
		c := open(t, m, ContextOptions{Sequences: 2, ContextPerSequence: 256, Outputs: outputs, Threads: 1})
		rows := rowsOf(c, 0, []llm.Token{1, 2, 3, 4})
		for i := range rows {
			rows[i].Logits = true
		}
		if err := c.Decode(rows); ok && err != nil || !ok && !errors.Is(err, llm.ErrInvalidBatch) {
			t.Errorf("outputs %d: %v", outputs, err)
		}
	}
}

func TestAStateSurvivesSavingAndLoading(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	for _, unified := range []bool{false, true} {
		o := ContextOptions{Sequences: 3, ContextPerSequence: 256, Unified: unified, Threads: 1}
		c, other := open(t, m, o), open(t, m, o)
		prompt := m.Vocab().Tokenize("the rain in spain stays", false)
		if err := c.Decode(rowsOf(c, 1, prompt)); err != nil {
			t.Fatal(err)
		}
		if err := c.Shift(1, 2, 3); err != nil { // must be in the state, too
			t.Fatal(err)
		}
		state, err := c.SaveState(1, []byte("head"))
		if err != nil {
			t.Fatal(err)
		}
		size, err := c.StateSize(1)
		if err != nil || len(state) != size+4 || string(state[:4]) != "head" {
			t.Fatalf("%d bytes are saved, size %d, error %v", len(state), size, err)
		}
		greedy(t, other, 2, prompt, 3) // what was there is forgotten
		if err := other.LoadState(2, state[4:]); err != nil {
			t.Fatal(err)
		}
		if other.Held(2) != llm.Pos(len(prompt)-3) {
			t.Errorf("%d positions are held", other.Held(2))
		}
		next := prompt[:1]
		if got, want := greedy(t, other, 2, next, 8), greedy(t, c, 1, next, 8); !slices.Equal(got, want) {
			t.Errorf("unified %v: tokens %v, want %v", unified, got, want)
		}
		for name, bad := range map[string][]byte{
			"empty":    nil,
			"cut":      state[4 : len(state)/2],
			"noise":    []byte(strings.Repeat("noise", 100)),
			"one byte": {1},
		} {
			if err := other.LoadState(0, bad); err == nil {
				t.Errorf("a state that is %s was loaded", name)
			}
			if other.Held(0) != 0 {
				t.Errorf("%d positions are held of a state that is %s", other.Held(0), name)
			}
		}
	}
}

func TestAQuantizedCacheWithoutRotationRefusesToShift(t *testing.T) {
	s := tinymodel.Tiny
	s.HeadWidth = 32
	path := filepath.Join(t.TempDir(), "narrow.gguf")
	if err := tinymodel.WriteRandom(path, s, 1); err != nil {
		t.Fatal(err)
	}
	m := load(t, path, ModelOptions{})
	for kv, want := range map[KVType]error{KVF16: nil, KVQ8_0: llm.ErrUnsupported} {
		c := open(t, m, ContextOptions{ContextPerSequence: 256, KVType: kv, Threads: 1})
		greedy(t, c, 0, []llm.Token{1, 2, 3, 4}, 2)
		if err := c.Shift(0, 1, 2); !errors.Is(err, want) {
			t.Errorf("type %d: %v, want %v", kv, err, want)
		}
		greedy(t, c, 0, []llm.Token{1}, 2)
	}
}

func TestThreadsGiveTheSameTokens(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	prompt := m.Vocab().Tokenize("the rain in spain stays mainly in the plain", false)
	want := greedy(t, open(t, m, ContextOptions{ContextPerSequence: 256, Threads: 1}), 0, prompt, 10)
	for _, o := range []ContextOptions{{Threads: 2}, {Threads: 1, ThreadsBatch: 2}, {Threads: 2, Poll: -1}} {
		o.ContextPerSequence = 256
		if got := greedy(t, open(t, m, o), 0, prompt, 10); !slices.Equal(got, want) {
			t.Errorf("%+v: tokens %v, want %v", o, got, want)
		}
	}
}

func TestTheTinyModelLooksAtAllOfItsPrompt(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	c := open(t, m, ContextOptions{ContextPerSequence: 256, Threads: 1})
	seen := make(map[llm.Token]bool)
	for i := range 20 { // only the first token differs
		prompt := append([]llm.Token{llm.Token('a' + i)}, m.Vocab().Tokenize(" quick brown fox", false)...)
		if err := c.Truncate(0, 0); err != nil {
			t.Fatal(err)
		}
		for _, token := range greedy(t, c, 0, prompt, 8) {
			if m.Vocab().IsEnd(token) {
				t.Errorf("prompt %d ends", i)
			}
			seen[token] = true
		}
	}
	if len(seen) < 40 {
		t.Errorf("only %d different tokens in 160", len(seen))
	}
}
