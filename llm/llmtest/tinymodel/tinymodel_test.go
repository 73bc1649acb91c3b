package tinymodel

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/ollama/ollama/fs/ggml"
)

func written(t *testing.T, s Shape, seed uint64) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := WriteRandom(path, s, seed); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheSameSeedGivesTheSameFile(t *testing.T) {
	a := written(t, Tiny, 1)
	if !bytes.Equal(a, written(t, Tiny, 1)) {
		t.Error("the same seed gives two files")
	}
	if bytes.Equal(a, written(t, Tiny, 2)) {
		t.Error("two seeds give the same file")
	}
	if len(a) > 400<<10 {
		t.Errorf("the tiny model has %d bytes", len(a))
	}
}

func TestTheFileIsWhatTheShapeSays(t *testing.T) {
	half := Tiny
	half.Half = true
	for name, s := range map[string]Shape{"32 bits": Tiny, "16 bits": half} {
		f, err := ggml.Decode(bytes.NewReader(written(t, s, 1)), -1)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		kv := f.KV()
		if kv.Architecture() != "qwen3" || kv.String("general.name") != "tiny" || kv.ContextLength() != 1024 ||
			kv.BlockCount() != 2 || kv.EmbeddingLength() != 64 || len(kv.Strings("tokenizer.ggml.tokens")) != 275 {
			t.Errorf("%s: metadata %v", name, kv)
		}
		var elements uint64
		for _, tensor := range f.Tensors().Items() {
			elements += tensor.Elements()
		}
		if elements != uint64(s.Parameters()) {
			t.Errorf("%s: %d weights, %d promised", name, elements, s.Parameters())
		}
	}
}

func TestNothingIsLeftWhereNothingCanBeWritten(t *testing.T) {
	dir := t.TempDir()
	if err := WriteRandom(filepath.Join(dir, "no", "such", "folder"), Tiny, 1); err == nil {
		t.Error("a model in a folder that is not there")
	}
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteRandom(filepath.Join(dir, "taken"), Tiny, 1); err == nil {
		t.Error("a model in the place of a folder")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "taken.*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestWritingTellsItsProgressAndEndsWhenCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.gguf")
	ctx, cancel := context.WithCancel(t.Context())
	var last atomic.Value
	if err := WriteRandomContext(ctx, path, Tiny, 1, func(p float32) { last.Store(p) }); err != nil {
		t.Fatal(err)
	}
	if last.Load() == nil || last.Load().(float32) <= 0 {
		t.Errorf("last progress %v", last.Load())
	}
	os.Remove(path)
	cancel()
	if err := WriteRandomContext(ctx, path, Tiny, 1, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// GPT-2's table, in a few places.
func TestBytesAreWrittenAsGPT2Does(t *testing.T) {
	for bytes, want := range map[string]string{
		" the":         "Ġthe",
		"\n\t":         "Ċĉ",
		"\x00":         "Ā",
		"\x7f\x80":     "ġĢ",
		"\xa0\xad\xff": "łŃÿ",
		"é":            "Ã©",
	} {
		if got := encode(bytes); got != want {
			t.Errorf("%q is written %q, want %q", bytes, got, want)
		}
	}
}
