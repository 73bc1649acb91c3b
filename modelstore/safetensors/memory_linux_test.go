package safetensors

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"cllm/llm/llmtest/tinymodel"
)

// most is how many MiB a conversion may take, whatever the model's size.
const most = 100

// TestMemoryChild is the process whose memory is measured.
func TestMemoryChild(t *testing.T) {
	dir := os.Getenv("SAFETENSORS_DIR")
	if dir == "" {
		t.Skip("runs only as a child of another test")
	}
	out, err := os.Create(os.Getenv("SAFETENSORS_OUT"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	debug.FreeOSMemory()
	before := mostResident(t)
	if err := Model(context.Background(), os.DirFS(dir), out); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("taken %d KiB\n", mostResident(t)-before)
}

// mostResident is the most KiB of memory that this process ever had.
func mostResident(t *testing.T) (n int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(after, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// taken converts a folder in a process of its own, and returns how many MiB that took.
func taken(t *testing.T, dir string) int {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.gguf")
	if memory, err := os.MkdirTemp("/dev/shm", "cllm-convert-"); err == nil {
		t.Cleanup(func() { os.RemoveAll(memory) })
		out = filepath.Join(memory, "out.gguf")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryChild$", "-test.v")
	cmd.Env = append(os.Environ(), "SAFETENSORS_DIR="+dir, "SAFETENSORS_OUT="+out)
	said, err := cmd.CombinedOutput()
	_, after, found := strings.Cut(string(said), "taken ")
	var n int
	if _, e := fmt.Sscan(after, &n); err != nil || !found || e != nil {
		t.Fatalf("%v:\n%s", err, said)
	}
	return n >> 10
}

func TestAConversionTakesLittleMemoryWhateverTheModelsSize(t *testing.T) {
	if testing.Short() {
		t.Skip("it writes 300 MiB")
	}
	models := map[string]string{
		"LlamaForCausalLM": writeModel(t, "LlamaForCausalLM", nil, []raw{
			{"model.embed_tokens.weight", "BF16", []int{8192, 64 * experts}},
			{"model.layers.0.self_attn.q_proj.weight", "BF16", []int{16384, 64 * experts}},
		}, true),
	}
	for architecture, m := range turned {
		models[architecture] = writeModel(t, architecture, m.config, m.tensors(experts), true)
	}
	for architecture, dir := range models {
		n := taken(t, dir)
		t.Logf("%s: %d MiB", architecture, n)
		if n > most {
			t.Errorf("%s: %d MiB were taken", architecture, n)
		}
	}
}

// writeLargeTokenizer writes a tokenizer of the size of the largest of today, gemma's,
// or a part of that.
func writeLargeTokenizer(t *testing.T, dir string) {
	t.Helper()
	vocab, merges := make(map[string]int), make([][]string, 580_604/tokenizer)
	for i := range 262_144 / tokenizer {
		vocab[fmt.Sprintf("token%07d", i)] = i
	}
	for i := range merges {
		merges[i] = []string{fmt.Sprint("t", i), "abc"}
	}
	added := make([]addedToken, 6242/tokenizer)
	for i := range added {
		added[i] = addedToken{262_144 + int32(i), fmt.Sprintf("<unused%d>", i), true}
	}
	b, err := json.MarshalIndent(map[string]any{
		"added_tokens": added, "model": map[string]any{"vocab": vocab, "merges": merges},
	}, "", " ")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "tokenizer.json"), b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a tokenizer of %d MiB", len(b)>>20)
}

func TestTheLargestTokenizersTakeLittleMemory(t *testing.T) {
	dir := writeModel(t, "LlamaForCausalLM", map[string]any{"vocab_size": 300_000}, []raw{{"model.norm.weight", "F32", []int{1}}}, true)
	writeLargeTokenizer(t, dir)
	n := taken(t, dir)
	t.Logf("%d MiB", n)
	if n > most {
		t.Errorf("%d MiB were taken", n)
	}
}

func TestFilesThatAreTooLargeAreRefused(t *testing.T) {
	for name, size := range map[string]int64{
		"config.json": mostJSON, "tokenizer_config.json": mostJSON, "tokenizer.json": mostTokenizerJSON, "tokenizer.model": mostTokenizerModel,
	} {
		err := bent(t, func(_ *tinymodel.Folder, dir string) {
			if dir == "" {
				return
			}
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(size + 1); err != nil {
				t.Fatal(err)
			}
		})
		if want := fmt.Sprintf("%s has %d bytes, the most is %d", name, size+1, size); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
