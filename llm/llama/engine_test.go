//go:build cgo

package llama

import (
	"context"
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
