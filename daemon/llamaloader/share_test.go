package llamaloader

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"cllm/daemon"
	"cllm/llm"
	"cllm/llm/llama"
	"cllm/llm/llmtest/tinymodel"
	"cllm/modelstore"
)

// created makes a model of these folders in a store, and returns what to load.
func created(t *testing.T, s *modelstore.Store, l *Loader, name string, req modelstore.CreateRequest, model, adapter *tinymodel.Folder) daemon.LoadSpec {
	t.Helper()
	send := func(f *tinymodel.Folder, parts int) map[string]string {
		if f == nil {
			return nil
		}
		dir, sent := t.TempDir(), make(map[string]string)
		if err := f.Write(dir, "F32", parts); err != nil {
			t.Fatal(err)
		}
		found, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			d := modelstore.DigestOf(b)
			if err := s.WriteBlob(t.Context(), d, bytes.NewReader(b)); err != nil {
				t.Fatal(err)
			}
			sent[filepath.Base(path)] = d.String()
		}
		return sent
	}
	n, err := modelstore.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	req.Name, req.Files, req.Adapters, req.Quantize = n, send(model, 2), send(adapter, 1), l.Quantize
	if err := s.Create(t.Context(), req, nil); err != nil {
		t.Fatal(err)
	}
	m, err := s.Get(n)
	if err != nil {
		t.Fatal(err)
	}
	return daemon.LoadSpec{ModelPath: m.ModelPath, AdapterPaths: m.AdapterPaths, Weights: m.ModelPath, Slots: 2, Threads: 1}
}

func newStore(t *testing.T) *modelstore.Store {
	t.Helper()
	s, err := modelstore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// logits loads a model and returns those after a text.
func logits(t *testing.T, l *Loader, spec daemon.LoadSpec) []float32 {
	t.Helper()
	m, err := l.Load(t.Context(), spec, noProgress)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	defer m.Engine.Close()
	return after(t, m, "the rain in the an")
}

func after(t *testing.T, m *daemon.Loaded, text string) []float32 {
	t.Helper()
	if err := m.Engine.Truncate(0, 0); err != nil {
		t.Fatal(err)
	}
	tokens := m.Vocab.Tokenize(text, true)
	if len(tokens) < 4 {
		t.Fatalf("tokens %v", tokens)
	}
	rows := make([]llm.Row, len(tokens))
	for i, token := range tokens {
		rows[i] = llm.Row{Token: token, Pos: llm.Pos(i), Logits: i == len(tokens)-1}
	}
	if err := m.Engine.Decode(rows); err != nil {
		t.Fatal(err)
	}
	found, err := m.Engine.(*llama.Context).Logits(len(rows) - 1)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(found)
}

// distance is the root of the mean square of what two rows differ by.
func distance(a, b []float32) float64 {
	sum := 0.0
	for i := range a {
		sum += float64(a[i]-b[i]) * float64(a[i]-b[i])
	}
	return math.Sqrt(sum / float64(len(a)))
}

// folders are models of both architectures: in one of them the rows of some weights
// stand in another order in GGUF.
func folders() map[string]*tinymodel.Folder {
	llama := tinymodel.Tiny
	llama.HeadWidth = llama.Width / llama.Heads
	return map[string]*tinymodel.Folder{
		"LlamaForCausalLM": tinymodel.RandomFolder("LlamaForCausalLM", llama, 1),
		"Qwen3ForCausalLM": tinymodel.RandomFolder("Qwen3ForCausalLM", tinymodel.Tiny, 1),
	}
}

func TestAConvertedAdapterDoesWhatMergedWeightsDo(t *testing.T) {
	for name, base := range folders() {
		l, s := newLoader(t, Options{}), newStore(t)
		adapter := base.RandomAdapter(4, 12, 2)
		plain := created(t, s, l, "plain", modelstore.CreateRequest{}, base, nil)
		adapted := created(t, s, l, "adapted", modelstore.CreateRequest{From: "plain"}, nil, adapter)
		merged := created(t, s, l, "merged", modelstore.CreateRequest{}, base.Merged(adapter), nil)
		a, b, c := logits(t, l, plain), logits(t, l, adapted), logits(t, l, merged)
		effect, wrong := distance(a, c), distance(b, c)
		t.Logf("%s: the adapter moves the logits by %.3f, and misses the merged weights by %.4f", name, effect, wrong)
		if effect < 0.2 || wrong > effect/50 {
			t.Errorf("%s: the adapter moves the logits by %.3f, and misses the merged weights by %.4f", name, effect, wrong)
		}
	}
}

func TestModelsThatDifferInTheirAdapterShareTheWeights(t *testing.T) {
	base := folders()["Qwen3ForCausalLM"]
	l, s := newLoader(t, Options{}), newStore(t)
	plain := created(t, s, l, "plain", modelstore.CreateRequest{}, base, nil)
	one := created(t, s, l, "one", modelstore.CreateRequest{From: "plain"}, nil, base.RandomAdapter(4, 12, 2))
	two := created(t, s, l, "two", modelstore.CreateRequest{From: "plain"}, nil, base.RandomAdapter(4, 12, 3))
	specs := []daemon.LoadSpec{plain, one, two}
	alone := make([][]float32, len(specs))
	for i, spec := range specs {
		alone[i] = logits(t, l, spec)
	}
	before := llama.OpenHandles()
	loaded := make([]*daemon.Loaded, len(specs))
	for i, spec := range specs {
		m, err := l.Load(t.Context(), spec, noProgress)
		if err != nil {
			t.Fatal(err)
		}
		loaded[i] = m
		if m.Weights <= 0 || m.Size < m.Weights || i > 0 && m.Size == m.Weights {
			t.Errorf("model %d: %d bytes, %d of them shared", i, m.Size, m.Weights)
		}
	}
	if n := llama.OpenHandles() - before; n != 1+3+2 { // weights, contexts, adapters
		t.Errorf("%d handles are open", n)
	}
	for i, m := range loaded {
		if d := distance(after(t, m, "the rain in the an"), alone[i]); d > 1e-5 {
			t.Errorf("model %d answers otherwise beside the others: %g", i, d)
		}
	}
	if distance(alone[0], alone[1]) < 0.2 || distance(alone[1], alone[2]) < 0.2 {
		t.Error("the adapters do the same")
	}
	// Those that stay are not hurt when the first goes, and a new one shares again.
	loaded[0].Engine.Close()
	loaded[0].Close()
	if d := distance(after(t, loaded[1], "the rain in the an"), alone[1]); d > 1e-5 {
		t.Errorf("after the unload: %g", d)
	}
	if d := distance(logits(t, l, plain), alone[0]); d > 1e-5 {
		t.Errorf("loaded again: %g", d)
	}
	for _, m := range loaded[1:] {
		m.Engine.Close()
		m.Close()
	}
	if len(l.pool.sets) != 0 {
		t.Errorf("weights stay: %v", l.pool.sets)
	}
}

func TestEveryQuantizationCanBeRun(t *testing.T) {
	wide := tinymodel.Tiny // K-quants need rows of 256
	wide.Width, wide.FeedForward = 256, 256
	wide.HeadWidth = wide.Width / wide.Heads
	base := tinymodel.RandomFolder("LlamaForCausalLM", wide, 1)
	l, s := newLoader(t, Options{}), newStore(t)
	full := created(t, s, l, "full", modelstore.CreateRequest{}, base, nil)
	want := logits(t, l, full)
	before, err := os.Stat(full.ModelPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []string{
		"F32", "BF16", "Q8_0", "Q4_K", "q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q5_K_S", "Q5_K_M", "Q6_K",
		"Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0",
	} {
		spec := created(t, s, l, "q", modelstore.CreateRequest{From: "full", Quantization: typ}, nil, nil)
		size, err := os.Stat(spec.ModelPath)
		if err != nil {
			t.Fatal(err)
		}
		if typ != "F32" && typ != "BF16" && size.Size() >= before.Size() {
			t.Errorf("%s: %d bytes of %d", typ, size.Size(), before.Size())
		}
		if d := distance(logits(t, l, spec), want); math.IsNaN(d) || typ == "Q8_0" && d > 0.5 {
			t.Errorf("%s: the logits move by %g", typ, d)
		}
	}
}
