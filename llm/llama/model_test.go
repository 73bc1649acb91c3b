//go:build cgo

package llama

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cllm/llm"
	"cllm/llm/llmtest/tinymodel"
)

func tinyBytes(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(tinyPath)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// replaced puts new in the place of old, which the file holds once and is as long.
func replaced(t *testing.T, b []byte, old, new string) []byte {
	t.Helper()
	if len(old) != len(new) || bytes.Count(b, []byte(old)) == 0 {
		t.Fatalf("%q can't be replaced by %q", old, new)
	}
	return bytes.ReplaceAll(b, []byte(old), []byte(new))
}

// setUint changes the 32-bit value of a metadata key.
func setUint(t *testing.T, b []byte, key string, v uint32) []byte {
	t.Helper()
	i := bytes.Index(b, []byte(key))
	if i < 0 {
		t.Fatalf("no key %s", key)
	}
	b = bytes.Clone(b)
	binary.LittleEndian.PutUint32(b[i+len(key)+4:], v)
	return b
}

func TestABadFileIsAClearError(t *testing.T) {
	good := tinyBytes(t)
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":                {nil, "the file is empty"},
		"two bytes":            {[]byte("GG"), "not in GGUF format"},
		"another format":       {[]byte("PK\x03\x04 something else"), "not in GGUF format"},
		"magic only":           {[]byte("GGUF"), "failed to read"},
		"version 0":            {append([]byte("GGUF\x00\x00\x00\x00"), good[8:]...), "version"},
		"cut in the header":    {good[:100], "failed to read"},
		"cut in the tensors":   {good[:len(good)-5000], "corrupted or incomplete"},
		"unknown architecture": {replaced(t, good, "qwen3", "qwenX"), "unknown model architecture: 'qwenX'"},
		"unknown tokenizer":    {replaced(t, good, "gpt2", "gptX"), "unknown tokenizer: 'gptX'"},
		"a tensor is missing":  {replaced(t, good, "output_norm.weight", "output_nxrm.weight"), "output_norm.weight"},
		"another width":        {setUint(t, good, "qwen3.embedding_length", 96), "wrong shape"},
		"no layers":            {setUint(t, good, "qwen3.block_count", 0), ""},
		"a billion layers":     {setUint(t, good, "qwen3.block_count", 1<<30), ""},
		"no heads":             {setUint(t, good, "qwen3.attention.head_count", 0), ""},
		"no KV heads":          {setUint(t, good, "qwen3.attention.head_count_kv", 0), ""},
		"more KV heads":        {setUint(t, good, "qwen3.attention.head_count_kv", 7), ""},
		"key width 1":          {setUint(t, good, "qwen3.attention.key_length", 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := LoadModel(context.Background(), writeFile(t, c.file), ModelOptions{})
			if err == nil {
				m.Close()
				t.Fatal("the file was loaded")
			}
			if !errors.Is(err, ErrBadModel) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want ErrBadModel with %q", err, c.want)
			}
			t.Log(err)
		})
	}
}

func TestAMissingFileIsSaidToBeMissing(t *testing.T) {
	if _, err := LoadModel(context.Background(), filepath.Join(t.TempDir(), "none"), ModelOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if _, err := LoadModel(context.Background(), t.TempDir(), ModelOptions{}); err == nil {
		t.Error("a folder was loaded")
	}
}

func TestALoadTellsItsProgressAndEndsWhenCancelled(t *testing.T) {
	var told []float32
	m := load(t, tinyPath, ModelOptions{Progress: func(p float32) { told = append(told, p) }})
	m.Close()
	if len(told) < 2 || told[len(told)-1] != 1 {
		t.Fatalf("progress %v", told)
	}
	for i := range told {
		if i > 0 && told[i] < told[i-1] {
			t.Errorf("progress falls: %v", told)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("the client has gone")
	calls := 0
	_, err := LoadModel(ctx, tinyPath, ModelOptions{Progress: func(float32) { calls++; cancel(why) }})
	if !errors.Is(err, why) {
		t.Errorf("error %v, want the cause of the cancellation", err)
	}
	if calls != 1 {
		t.Errorf("%d calls of progress after the cancellation", calls-1)
	}
	if _, err := LoadModel(ctx, tinyPath, ModelOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a load that was cancelled before: %v", err)
	}
}

func TestInfoIsWhatTheFileSays(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	info := m.Info()
	s := tinymodel.Tiny
	if info.TrainContext != s.Context || info.Embedding != s.Width || info.Layers != s.Layers ||
		info.Parameters != uint64(s.Parameters()) || info.Size != 4*info.Parameters {
		t.Errorf("info %+v of %+v", info, s)
	}
	if info.Recurrent || info.Hybrid || info.HasEncoder || !info.HasDecoder || !strings.Contains(info.ChatTemplate, "<|im_start|>") {
		t.Errorf("info %+v", info)
	}
	if v, ok := m.Meta("qwen3.context_length"); !ok || v != "1024" {
		t.Errorf("context_length is %q, %v", v, ok)
	}
	for _, key := range []string{"no.such.key", "tokenizer.ggml.tokens", ""} {
		if v, ok := m.Meta(key); ok {
			t.Errorf("Meta(%q) is %q", key, v)
		}
	}
}

func TestAModelLivesUntilTheLastUserIsClosed(t *testing.T) {
	before := OpenHandles()
	m := load(t, tinyPath, ModelOptions{})
	c, err := m.NewContext(ContextOptions{ContextPerSequence: 256, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	m.Close()
	if err := c.Decode([]llm.Row{{Token: 1}}); err != nil {
		t.Errorf("decode after the model was closed: %v", err)
	}
	if tokens := m.Vocab().Tokenize("abc", false); len(tokens) != 3 {
		t.Errorf("tokens %v while a context is open", tokens)
	}
	c.Close()
	c.Close()
	if n := OpenHandles(); n != before {
		t.Errorf("%d handles are open, %d before", n, before)
	}
	if tokens := m.Vocab().Tokenize("abc", false); tokens != nil {
		t.Errorf("tokens %v after the end", tokens)
	}
	if m.Vocab().Piece('a') == "" {
		t.Error("the pieces are gone")
	}
	if _, err := m.NewContext(ContextOptions{}); err == nil {
		t.Error("a context over a closed model")
	}
	if info := m.Info(); info != (Info{}) {
		t.Errorf("info of a closed model: %+v", info)
	}
	if err := c.Decode([]llm.Row{{Token: 1}}); !errors.Is(err, llm.ErrFatal) {
		t.Errorf("decode after close: %v", err)
	}
	c.Abort()
}

// A file that passes the checks but is not sound must not end the program.
func FuzzLoadModel(f *testing.F) {
	good := tinyBytes(f)
	f.Add(uint32(8), byte(1), uint32(0), byte(0))
	f.Add(uint32(40), byte(0xff), uint32(3000), byte(0x80))
	f.Fuzz(func(t *testing.T, at1 uint32, flip1 byte, at2 uint32, flip2 byte) {
		// The header and the list of tensors fill the first 20 KB.
		b := bytes.Clone(good)
		b[at1%20000] ^= flip1
		b[at2%20000] ^= flip2
		m, err := LoadModel(context.Background(), writeFile(t, b), ModelOptions{})
		if err != nil {
			return
		}
		defer m.Close()
		m.Vocab().Tokenize("Hello, world", true)
		c, err := m.NewContext(ContextOptions{ContextPerSequence: 256, Threads: 1})
		if err != nil {
			return
		}
		c.Close()
	})
}
