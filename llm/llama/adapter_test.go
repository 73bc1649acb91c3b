//go:build cgo

package llama

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"cllm/llm/llmtest/tinymodel"
)

func TestAnAdapterChangesTheAnswerWhileItIsApplied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "adapter.gguf")
	if err := tinymodel.WriteAdapter(path, tinymodel.Tiny, 4, 1); err != nil {
		t.Fatal(err)
	}
	m := load(t, tinyPath, ModelOptions{})
	c := open(t, m, ContextOptions{ContextPerSequence: 256, Threads: 1})
	prompt := m.Vocab().Tokenize("the rain", false)
	answer := func() string {
		t.Helper()
		if err := c.Truncate(0, 0); err != nil {
			t.Fatal(err)
		}
		return text(m.Vocab(), greedy(t, c, 0, prompt, 12))
	}
	plain := answer()
	a, err := m.LoadAdapter(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetAdapters([]*Adapter{a}, []float32{1}); err != nil {
		t.Fatal(err)
	}
	a.Close() // the context still has it
	a.Close()
	adapted := answer()
	if adapted == plain {
		t.Error("the adapter changes nothing")
	}
	if again := answer(); again != adapted {
		t.Errorf("%q, then %q", adapted, again)
	}
	if err := c.SetAdapters([]*Adapter{a}, []float32{1}); err == nil {
		t.Error("a closed adapter was applied")
	}
	if err := c.SetAdapters(nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := answer(); got != plain {
		t.Errorf("%q without the adapter, %q before", got, plain)
	}
	if err := c.SetAdapters(nil, []float32{1}); err == nil {
		t.Error("a scale without an adapter")
	}
}

func TestABadAdapterIsAnError(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	wide := tinymodel.Tiny
	wide.Width = 128
	path := filepath.Join(t.TempDir(), "adapter.gguf")
	if err := tinymodel.WriteAdapter(path, wide, 4, 1); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"another width": path, "a model": tinyPath, "empty": writeFile(t, nil)} {
		if a, err := m.LoadAdapter(path); !errors.Is(err, ErrBadModel) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				a.Close()
			}
		}
	}
	if _, err := m.LoadAdapter(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file was loaded")
	}
}

func TestDevicesHoldTheCPU(t *testing.T) {
	kinds := []string{}
	for _, d := range Devices() {
		kinds = append(kinds, d.Kind)
		if d.Name == "" || d.Kind == "cpu" && (d.Total == 0 || d.Description == "") {
			t.Errorf("device %+v", d)
		}
	}
	if !slices.Contains(kinds, "cpu") {
		t.Errorf("devices %v", kinds)
	}
	if SystemInfo() == "" {
		t.Error("no system info")
	}
}
