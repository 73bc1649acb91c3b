//go:build cgo

package llama

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"cllm/llm"
	"cllm/llm/llmtest"
	"cllm/llm/llmtest/tinymodel"
)

// tinyPath is a random model that all tests of the package read.
var tinyPath string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cllm-llama")
	if err == nil {
		tinyPath = filepath.Join(dir, "tiny.gguf")
		err = tinymodel.WriteRandom(tinyPath, tinymodel.Tiny, 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	SetLogger(slog.New(slog.DiscardHandler))
	code := m.Run()
	os.RemoveAll(dir)
	if n := OpenHandles(); n != 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d handles were not closed\n", n)
		code = 1
	}
	os.Exit(code)
}

func load(t testing.TB, path string, o ModelOptions) *Model {
	t.Helper()
	m, err := LoadModel(context.Background(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func open(t testing.TB, m *Model, o ContextOptions) *Context {
	t.Helper()
	c, err := m.NewContext(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestContextConforms(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	for _, unified := range []bool{false, true} {
		for _, kv := range []KVType{KVF16, KVQ8_0} {
			t.Run(fmt.Sprintf("unified=%v,kv=%d", unified, kv), func(t *testing.T) {
				llmtest.TestEngine(t, func(t *testing.T) (llm.Engine, llm.Vocab) {
					return open(t, m, ContextOptions{
						Sequences: 8, ContextPerSequence: 256, Batch: 128, Ubatch: 64, Unified: unified, KVType: kv, Threads: 1,
					}), m.Vocab()
				})
			})
		}
	}
}

// A recurrent model keeps the promises, too, by refusing what it can't do.
func TestARecurrentContextConforms(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mamba.gguf")
	if err := tinymodel.WriteRandomMamba(path, 1); err != nil {
		t.Fatal(err)
	}
	m := load(t, path, ModelOptions{})
	if info := m.Info(); !info.Recurrent {
		t.Errorf("info %+v", info)
	}
	for _, unified := range []bool{false, true} {
		t.Run(fmt.Sprintf("unified=%v", unified), func(t *testing.T) {
			llmtest.TestEngine(t, func(t *testing.T) (llm.Engine, llm.Vocab) {
				return open(t, m, ContextOptions{
					Sequences: 8, ContextPerSequence: 256, Batch: 128, Ubatch: 64, Unified: unified, Threads: 1,
				}), m.Vocab()
			})
		})
	}
}

func TestARecurrentContextRefusesToForgetAPart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mamba.gguf")
	if err := tinymodel.WriteRandomMamba(path, 1); err != nil {
		t.Fatal(err)
	}
	m := load(t, path, ModelOptions{})
	c := open(t, m, ContextOptions{Sequences: 2, ContextPerSequence: 256, Threads: 1})
	if err := c.Decode(rowsOf(c, 0, []llm.Token{1, 2, 3, 4, 5, 6})); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"truncate to 3": c.Truncate(0, 3),
		"shift":         c.Shift(0, 1, 2),
		"copy a part":   c.Copy(1, 0, 3),
	} {
		if !errors.Is(err, llm.ErrUnsupported) {
			t.Errorf("%s: %v, want ErrUnsupported", what, err)
		}
	}
	if c.Held(0) != 6 || c.Held(1) != 0 {
		t.Errorf("%d and %d positions are held", c.Held(0), c.Held(1))
	}
	if err := c.Copy(1, 0, 6); err != nil || c.Held(1) != 6 {
		t.Errorf("copy of all: %v, %d positions", err, c.Held(1))
	}
	if c.Limits().CellBytes != 0 {
		t.Errorf("a token costs %d bytes", c.Limits().CellBytes)
	}
}
