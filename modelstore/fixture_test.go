package modelstore

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ollama/ollama/fs/ggml"
)

const chatML = `{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

// untalkative leaves out the chat template. To compare it with the known ones takes
// most of the time of a test that makes many models.
var untalkative = ggml.KV{"tokenizer.chat_template": nil}

// ggufFile returns a GGUF file that Ollama's writer wrote, with one tensor of width
// elements. Pairs are laid over those of a small llama.
func ggufFile(t testing.TB, width int, pairs ggml.KV) []byte {
	t.Helper()
	kv := ggml.KV{
		"general.architecture":    "llama",
		"general.name":            "Test",
		"general.file_type":       uint32(1),
		"llama.context_length":    uint32(2048),
		"llama.embedding_length":  uint32(64),
		"llama.block_count":       uint32(2),
		"tokenizer.ggml.tokens":   []string{"a", "b"},
		"tokenizer.ggml.scores":   []float32{0, 1},
		"tokenizer.chat_template": chatML,
	}
	for k, v := range pairs {
		if v == nil {
			delete(kv, k)
		} else {
			kv[k] = v
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "file.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var tensors []*ggml.Tensor
	if width > 0 {
		tensors = append(tensors, &ggml.Tensor{
			Name: "token_embd.weight", Kind: uint32(ggml.TensorTypeF16), Shape: []uint64{uint64(width)},
			WriterTo: bytes.NewReader(make([]byte, 2*width)),
		})
	}
	if err := ggml.WriteGGUF(f, kv, tensors); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openStore(t testing.TB, dir string, opts ...Option) *Store {
	t.Helper()
	s, err := Open(dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func name(t testing.TB, s string) Name {
	t.Helper()
	n, err := ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// upload stores content and returns its digest as requests write it.
func upload(t testing.TB, s *Store, content []byte) string {
	t.Helper()
	d := DigestOf(content)
	if err := s.WriteBlob(t.Context(), d, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func create(t testing.TB, s *Store, req CreateRequest) {
	t.Helper()
	if err := s.Create(t.Context(), req, nil); err != nil {
		t.Fatal(err)
	}
}

// createSmall makes a model of its own weights, which no other width has.
func createSmall(t testing.TB, s *Store, n string, width int) {
	t.Helper()
	create(t, s, CreateRequest{
		Name:  name(t, n),
		Files: map[string]string{"model.gguf": upload(t, s, ggufFile(t, width, untalkative))},
	})
}

func get(t testing.TB, s *Store, n string) *Model {
	t.Helper()
	m, err := s.Get(name(t, n))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// files returns the content of all files below dir, by path.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		found[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// paths returns the paths of all files below dir.
func paths(t testing.TB, dir string) []string {
	t.Helper()
	return slices.Sorted(maps.Keys(files(t, dir)))
}

// age makes a file look as if it had been written that long ago.
func age(t testing.TB, path string, d time.Duration) {
	t.Helper()
	then := time.Now().Add(-d)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

// ageAll ages all files below dir.
func ageAll(t testing.TB, dir string, d time.Duration) {
	t.Helper()
	for _, p := range paths(t, dir) {
		age(t, filepath.Join(dir, p), d)
	}
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

const library = "manifests/registry.ollama.ai/library"
