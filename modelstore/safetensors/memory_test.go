package safetensors

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"cllm/llm/llmtest/tinymodel"
)

// writeLarge writes a llama whose tensors are 384 MiB of zeros, which take no room on
// the disk.
func writeLarge(t *testing.T, dir string) {
	t.Helper()
	s := llama()
	s.Layers, s.Width, s.Heads = 1, 2048, 32
	f := tinymodel.RandomFolder("LlamaForCausalLM", llama(), 1)
	config := f.Files["config.json"].(map[string]any)
	config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"] = s.Width, s.Heads, s.Layers
	f.Tensors = nil
	if err := f.Write(dir, "F16", 1); err != nil {
		t.Fatal(err)
	}
	const header = `{"model.embed_tokens.weight":{"dtype":"BF16","shape":[65536,2048],"data_offsets":[0,268435456]},` +
		`"model.layers.0.self_attn.q_proj.weight":{"dtype":"BF16","shape":[32768,2048],"data_offsets":[268435456,402653184]}}`
	path := filepath.Join(dir, "model.safetensors")
	head := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	if err := os.WriteFile(path, head, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(len(head))+402653184); err != nil {
		t.Fatal(err)
	}
}

func TestAConversionTakesLittleMemoryWhateverTheModelsSize(t *testing.T) {
	if testing.Short() {
		t.Skip("it writes 384 MiB")
	}
	dir := t.TempDir()
	writeLarge(t, dir)
	out, err := os.Create(filepath.Join(t.TempDir(), "out.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := Model(t.Context(), os.DirFS(dir), out); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if stat, err := out.Stat(); err != nil || stat.Size() < 402653184 {
		t.Fatalf("%v, %v", stat.Size(), err)
	}
	// What was taken from the system is never given back in these figures.
	taken := float64(after.Sys-before.Sys) / (1 << 20)
	t.Logf("%.1f MiB for 384 MiB of weights", taken)
	if taken > 64 {
		t.Errorf("%.1f MiB were taken", taken)
	}
}
