package llamaloader

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cllm/daemon"
	"cllm/llm"
	"cllm/llm/llama"
	"cllm/llm/llmtest/tinymodel"
)

// tiny writes a random model.
func tiny(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := tinymodel.WriteRandom(path, tinymodel.Tiny, 1); err != nil {
		t.Fatal(err)
	}
	return path
}

func newLoader(t testing.TB, o Options) *Loader {
	t.Helper()
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n := llama.OpenHandles(); n != 0 {
			t.Errorf("%d handles of llama.cpp are open", n)
		}
	})
	return l
}

func noProgress(float32) {}

func TestLoadedModelAnswers(t *testing.T) {
	l := newLoader(t, Options{})
	var last float32
	m, err := l.Load(t.Context(), daemon.LoadSpec{ModelPath: tiny(t), Slots: 5, GPU: -1}, func(f float32) { last = f })
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	defer m.Engine.Close()
	if last != 1 {
		t.Errorf("progress ended at %g", last)
	}
	limits := m.Engine.Limits()
	if limits.Sequences != 5 || limits.Context != tinymodel.Tiny.Context || limits.CellBytes <= 0 {
		t.Errorf("limits: %+v", limits)
	}
	if m.Size < 100_000 || m.VRAM < 0 || m.VRAM > m.Size {
		t.Errorf("size %d, on GPUs %d", m.Size, m.VRAM)
	}
	tokens := m.Vocab.Tokenize("hello", true)
	rows := make([]llm.Row, len(tokens))
	for i, token := range tokens {
		rows[i] = llm.Row{Token: token, Pos: llm.Pos(i), Seq: 4, Logits: i == len(tokens)-1}
	}
	if err := m.Engine.Decode(rows); err != nil {
		t.Fatal(err)
	}
	sampler := llm.NewSampler(llm.SamplingParams{RepeatPenalty: 1, TopP: 1, TypicalP: 1}, nil, tokens)
	picks := []llm.Pick{{Row: len(rows) - 1, Sampler: sampler}}
	m.Engine.Sample(picks)
	if picks[0].Err != nil {
		t.Fatal(picks[0].Err)
	}
	if p := m.Vocab.Piece(picks[0].Token); p == "" {
		t.Errorf("token %d has no text", picks[0].Token)
	}
}

func TestASchemaBecomesAGrammar(t *testing.T) {
	l := newLoader(t, Options{})
	if g, err := l.SchemaToGrammar([]byte(`{"type":"object"}`)); err != nil || !strings.Contains(g, "root ::= ") {
		t.Errorf("%q, %v", g, err)
	}
	if _, err := l.SchemaToGrammar([]byte(`{"type":"nothing"}`)); err == nil {
		t.Error("a schema of no known type was accepted")
	}
}

func TestContextIsTheModelsWhereItsNotesAreSmall(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name         string
		trained      int
		size         int64
		slots, least int
		want         int
	}{
		{"a small model", 40960, 380 * mib, 64, 4096, 40960},
		{"a small model with a long context", 131072, 800 * mib, 64, 4096, 80659},
		{"a large one", 131072, 5000 * mib, 64, 4096, 131072},
		{"a very long context", 1048576, 800 * mib, 64, 4096, 80659},
		{"fewer slots", 1048576, 800 * mib, 4, 4096, 1048576},
		{"what is asked for counts", 1048576, 800 * mib, 64, 200000, 200000},
		{"but no more than trained", 1000, 800 * mib, 64, 200000, 1000},
		{"not known", 0, 800 * mib, 64, 4096, 4096},
	} {
		if got := contextLength(tt.trained, tt.size, tt.slots, tt.least); got != tt.want {
			t.Errorf("%s: %d positions, want %d", tt.name, got, tt.want)
		}
	}
}

func TestFilesThatAreNoModelsAreRefused(t *testing.T) {
	l := newLoader(t, Options{})
	whole, err := os.ReadFile(tiny(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"zero bytes":           nil,
		"no GGUF":              []byte("this is a text file, not a model"),
		"cut off":              whole[:len(whole)/2],
		"cut off in its head":  whole[:100],
		"unknown architecture": []byte(strings.Replace(string(whole), "qwen3", "zwen3", -1)),
	} {
		path := filepath.Join(t.TempDir(), "model.gguf")
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := l.Load(t.Context(), daemon.LoadSpec{ModelPath: path, Slots: 1}, noProgress)
		if !errors.Is(err, llama.ErrBadModel) || !strings.HasPrefix(err.Error(), "unable to load model: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = l.Load(t.Context(), daemon.LoadSpec{ModelPath: "/nowhere/model.gguf", Slots: 1}, noProgress)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestAdaptersAreApplied(t *testing.T) {
	l := newLoader(t, Options{})
	model, adapter := tiny(t), filepath.Join(t.TempDir(), "adapter.gguf")
	if err := tinymodel.WriteAdapter(adapter, tinymodel.Tiny, 4, 1); err != nil {
		t.Fatal(err)
	}
	likeliest := func(adapters ...string) (tokens []llm.Token) {
		m, err := l.Load(t.Context(), daemon.LoadSpec{ModelPath: model, AdapterPaths: adapters, Slots: 1}, noProgress)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		defer m.Engine.Close()
		sampler := llm.NewSampler(llm.SamplingParams{RepeatPenalty: 1, TopP: 1, TypicalP: 1}, nil, nil)
		next := m.Vocab.Tokenize("a", true)[0]
		for i := range 20 {
			if err := m.Engine.Decode([]llm.Row{{Token: next, Pos: llm.Pos(i), Logits: true}}); err != nil {
				t.Fatal(err)
			}
			picks := []llm.Pick{{Sampler: sampler}}
			m.Engine.Sample(picks)
			next = picks[0].Token
			tokens = append(tokens, next)
		}
		return tokens
	}
	if plain, adapted := likeliest(), likeliest(adapter); slices.Equal(plain, adapted) {
		t.Errorf("the adapter changes nothing: %v", plain)
	}
}

func TestFailedAdapterLeavesNothingOpen(t *testing.T) {
	l := newLoader(t, Options{})
	path := tiny(t)
	_, err := l.Load(t.Context(), daemon.LoadSpec{ModelPath: path, Slots: 1, AdapterPaths: []string{path}}, noProgress)
	if err == nil || !strings.HasPrefix(err.Error(), "unable to load model: ") {
		t.Errorf("a model as an adapter: %v", err)
	}
}

func TestCancelledLoadEnds(t *testing.T) {
	l := newLoader(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := l.Load(ctx, daemon.LoadSpec{ModelPath: tiny(t), Slots: 1}, func(float32) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Load: %v", err)
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	no := false
	for want, o := range map[string]Options{
		`unknown KV cache type "q5"`: {KVType: "q5"},
		"needs flash attention":      {KVType: "q8_0", FlashAttention: &no},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestQuantizeTellsItsProgressInBytes(t *testing.T) {
	l := newLoader(t, Options{})
	src := tiny(t)
	dst := filepath.Join(t.TempDir(), "small.gguf")
	var done, total int64
	if err := l.Quantize(t.Context(), src, dst, "Q8_0", func(d, of int64) { done, total = d, of }); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(src)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(dst)
	if err != nil {
		t.Fatal(err)
	}
	if done != before.Size() || total != before.Size() || after.Size() >= before.Size() {
		t.Errorf("%d bytes became %d; progress %d of %d", before.Size(), after.Size(), done, total)
	}
	if err := l.Quantize(t.Context(), src, dst, "Q9", func(int64, int64) {}); err == nil {
		t.Error("an unknown type was accepted")
	}
}
