package safetensors

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ollama/ollama/convert"

	"cllm/llm/llmtest/tinymodel"
)

// llama is tinymodel.Tiny with heads as a llama has them.
func llama() tinymodel.Shape {
	s := tinymodel.Tiny
	s.HeadWidth = s.Width / s.Heads
	return s
}

// result returns what write writes.
func result(t testing.TB, write func(f *os.File) error) ([]byte, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "out.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := write(f); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b, nil
}

func TestAModelBecomesWhatOllamaMakesOfIt(t *testing.T) {
	for _, dtype := range []string{"F32", "F16", "BF16"} {
		for _, parts := range []int{1, 3} {
			dir := t.TempDir()
			if err := tinymodel.RandomFolder("LlamaForCausalLM", llama(), 1).Write(dir, dtype, parts); err != nil {
				t.Fatal(err)
			}
			got, err := result(t, func(f *os.File) error { return Model(t.Context(), os.DirFS(dir), f) })
			if err != nil {
				t.Fatal(err)
			}
			want, err := result(t, func(f *os.File) error { return convert.ConvertModel(os.DirFS(dir), f) })
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s in %d files: %d bytes, Ollama makes %d others", dtype, parts, len(got), len(want))
			}
		}
	}
}

func TestAQwen3BecomesAModel(t *testing.T) {
	dir := t.TempDir()
	if err := tinymodel.RandomFolder("Qwen3ForCausalLM", tinymodel.Tiny, 1).Write(dir, "BF16", 2); err != nil {
		t.Fatal(err)
	}
	got, err := result(t, func(f *os.File) error { return Model(t.Context(), os.DirFS(dir), f) })
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"qwen3.block_count", "qwen3.attention.key_length", "blk.1.attn_q_norm.weight", "tokenizer.ggml.merges"} {
		if !bytes.Contains(got, []byte(key)) {
			t.Errorf("%s is missing", key)
		}
	}
}

func TestAConversionEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	if err := tinymodel.RandomFolder("LlamaForCausalLM", llama(), 1).Write(dir, "F32", 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := result(t, func(f *os.File) error { return Model(ctx, os.DirFS(dir), f) }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// bent writes a llama's folder after bend changed it, and converts it.
func bent(t testing.TB, bend func(f *tinymodel.Folder, dir string)) error {
	t.Helper()
	f, dir := tinymodel.RandomFolder("LlamaForCausalLM", llama(), 1), t.TempDir()
	bend(f, "")
	if err := f.Write(dir, "F16", 1); err != nil {
		t.Fatal(err)
	}
	bend(f, dir)
	_, err := result(t, func(f *os.File) error { return Model(t.Context(), os.DirFS(dir), f) })
	return err
}

func TestABadModelIsTheCallersErrorAndNoPanic(t *testing.T) {
	config := func(key string, v any) func(*tinymodel.Folder, string) {
		return func(f *tinymodel.Folder, dir string) { f.Files["config.json"].(map[string]any)[key] = v }
	}
	file := func(name string, content []byte) func(*tinymodel.Folder, string) {
		return func(_ *tinymodel.Folder, dir string) {
			if dir == "" {
				return
			}
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		bend func(*tinymodel.Folder, string)
		want string
	}{
		"unknown architecture":      {config("architectures", []string{"WhaleForCausalLM"}), `unsupported architecture "WhaleForCausalLM"`},
		"no architecture":           {config("architectures", []string{}), "unknown architecture"},
		"absurd vocabulary":         {config("vocab_size", 4_000_000_000), "vocab_size"},
		"absurd layers":             {config("num_hidden_layers", 1e9), "num_hidden_layers"},
		"no heads":                  {config("num_attention_heads", 0), "can't be converted"},
		"heads that divide nothing": {config("num_attention_heads", 7), "can't be converted"},
		"a text for a number":       {config("hidden_size", "wide"), "parse config.json"},
		"no JSON":                   {file("config.json", []byte("{")), "config.json can't be read"},
		"a list":                    {file("config.json", []byte("[]")), "config.json can't be read"},
		"tokenizer":                 {file("tokenizer.json", []byte(`{"model":{"vocab":3}}`)), "vocab should begin with {"},
		"special tokens":            {file("special_tokens_map.json", []byte(`{}`)), ""},
		"a pointer of git-lfs":      {file("model.safetensors", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n")), "no safetensors file"},
		"two names for one":         {func(f *tinymodel.Folder, _ string) { f.Tensors[1].Name = "token_embd.weight" }, "duplicate tensor name"},
		"number":                    {func(f *tinymodel.Folder, _ string) { f.Tensors[1].Shape, f.Tensors[1].Data = nil, []float32{1} }, "bitsandbytes"},
		"one dimension of two": {func(f *tinymodel.Folder, _ string) {
			for i := range f.Tensors {
				if strings.HasSuffix(f.Tensors[i].Name, "q_proj.weight") {
					f.Tensors[i].Shape = []int{len(f.Tensors[i].Data)}
				}
			}
		}, "can't be converted"},
	} {
		err := bent(t, c.bend)
		var input *Error
		if c.want == "" && err == nil {
			continue
		}
		if !errors.As(err, &input) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want ... %s ...", name, err, c.want)
		}
	}
}

func TestAMissingFileIsNamed(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []struct{ want, write string }{
		{"config.json is missing", "config.json"}, {"unknown tokenizer format", "tokenizer.json"}, {"hold no tensors", ""},
	} {
		_, err := result(t, func(f *os.File) error { return Model(t.Context(), os.DirFS(dir), f) })
		var input *Error
		if !errors.As(err, &input) || !strings.Contains(err.Error(), step.want) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want ... %s ...", err, step.want)
		}
		if step.write == "" {
			return
		}
		all := t.TempDir()
		if err := tinymodel.RandomFolder("LlamaForCausalLM", llama(), 1).Write(all, "F32", 1); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(all, step.write), filepath.Join(dir, step.write)); err != nil {
			t.Fatal(err)
		}
	}
}
