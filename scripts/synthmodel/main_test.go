package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cllm/llm/llama"
	"cllm/llm/llmtest/tinymodel"
)

func TestWrongArgumentsSayWhatIsRight(t *testing.T) {
	for args, want := range map[string]string{
		"":                            "-o FILE",
		"-o x y":                      "-o FILE",
		"-o x -shape gpt-9":           "qwen3-0.6b",
		"-o x -type Q9":               "Q9",
		"-o x -vocab /does/not/exist": "/does/not/exist",
	} {
		err := run(t.Context(), strings.Fields(args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestTheModelIsWrittenWholeOrNotAtAll(t *testing.T) {
	shape := tinymodel.Tiny
	shape.Half = true
	for _, name := range []string{"F16", "Q4_K_M"} {
		q, err := llama.ParseQuantType(name)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		out := filepath.Join(dir, "model.gguf")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := write(ctx, out, shape, q, 1, io.Discard); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: cancelled: %v", name, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
		var said strings.Builder
		if err := write(t.Context(), out, shape, q, 1, &said); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("%s: %v", name, left)
		}
		if !strings.Contains(said.String(), "random weights: 100 %") {
			t.Errorf("%s: said %q", name, said.String())
		}
		m, err := llama.LoadModel(t.Context(), out, llama.ModelOptions{})
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
	}
}

func TestTheVocabularyIsQwens(t *testing.T) {
	path, err := builtVocab()
	if err != nil {
		t.Fatal(err)
	}
	v, err := readVocab(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Tokens) != 151936 || v.Tokens[151645] != "<|im_end|>" {
		t.Errorf("%d tokens", len(v.Tokens))
	}
	if _, err := readVocab(strings.Replace(path, "qwen2", "llama-spm", 1)); err == nil {
		t.Error("a vocabulary of another kind was taken")
	}
}
