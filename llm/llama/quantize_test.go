//go:build cgo

package llama

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestQuantizeWritesASmallerModelThatRuns(t *testing.T) {
	before := load(t, tinyPath, ModelOptions{}).Info().Size
	for _, name := range []string{"F16", "q8_0", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K"} {
		q, err := ParseQuantType(name)
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(t.TempDir(), "small.gguf")
		var told []float32
		if err := Quantize(context.Background(), tinyPath, dst, q, 1, func(p float32) { told = append(told, p) }); err != nil {
			t.Fatal(err)
		}
		if len(told) < 10 || told[0] != 0 || told[len(told)-1] != 1 {
			t.Errorf("%s: progress %v", name, told)
		}
		m := load(t, dst, ModelOptions{})
		if size := m.Info().Size; size > before*6/10 {
			t.Errorf("%s: %d bytes of %d", name, size, before)
		}
		c := open(t, m, ContextOptions{ContextPerSequence: 256, Threads: 1})
		greedy(t, c, 0, m.Vocab().Tokenize("abc", false), 4)
	}
}

func TestQuantizeEndsWhenCancelledAndLeavesNothing(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "small.gguf")
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("the client has gone")
	calls := 0
	err := Quantize(ctx, tinyPath, dst, quantTypes["Q8_0"], 1, func(float32) {
		if calls++; calls == 3 {
			cancel(why)
		}
	})
	if !errors.Is(err, why) || calls != 3 {
		t.Errorf("error %v after %d calls", err, calls)
	}
	if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file is left: %v", err)
	}
	if err := Quantize(ctx, tinyPath, dst, quantTypes["Q8_0"], 1, nil); !errors.Is(err, why) && !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestQuantizeOfABadFileIsAnErrorAndLeavesNothing(t *testing.T) {
	good := tinyBytes(t)
	for name, b := range map[string][]byte{"empty": nil, "cut": good[:len(good)/2], "unknown": replaced(t, good, "qwen3", "qwenX")} {
		dst := filepath.Join(t.TempDir(), "small.gguf")
		if err := Quantize(context.Background(), writeFile(t, b), dst, quantTypes["Q8_0"], 1, nil); !errors.Is(err, ErrBadModel) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a file is left: %v", name, err)
		}
	}
	dst := filepath.Join(t.TempDir(), "no", "such", "folder")
	if err := Quantize(context.Background(), tinyPath, dst, quantTypes["Q8_0"], 1, nil); err == nil {
		t.Error("a file in a folder that is not there")
	}
}

func TestQuantTypesHaveNames(t *testing.T) {
	for name, q := range quantTypes {
		if q.String() != name {
			t.Errorf("%d is %s, not %s", q, q, name)
		}
	}
	if _, err := ParseQuantType("Q99"); err == nil {
		t.Error("Q99 is known")
	}
	for s, want := range map[string]KVType{"": KVF16, "f16": KVF16, "Q8_0": KVQ8_0, "q4_0": KVQ4_0} {
		if got, err := ParseKVType(s); err != nil || got != want {
			t.Errorf("KV type %q is %v, %v", s, got, err)
		}
	}
	if _, err := ParseKVType("q5_1"); err == nil {
		t.Error("q5_1 is a KV type")
	}
}
