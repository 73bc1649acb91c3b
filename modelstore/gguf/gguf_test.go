package gguf

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/fs/ggml"
)

// file builds GGUF bytes by hand, so that each field can be wrong.
type file struct{ bytes.Buffer }

func newFile(version uint32, tensors, pairs uint64) *file {
	f := &file{}
	f.WriteString("GGUF")
	f.put(version, tensors, pairs)
	return f
}

func (f *file) put(values ...any) *file {
	for _, v := range values {
		if s, ok := v.(string); ok {
			f.put(uint64(len(s)))
			f.WriteString(s)
		} else if err := binary.Write(f, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return f
}

// sample writes a file with Ollama's own writer.
func sample(t testing.TB) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "sample.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tensor := func(name string, kind uint32, size int, shape ...uint64) *ggml.Tensor {
		return &ggml.Tensor{Name: name, Kind: kind, Shape: shape, WriterTo: bytes.NewReader(make([]byte, size))}
	}
	err = ggml.WriteGGUF(f, ggml.KV{
		"general.architecture":    "llama",
		"general.alignment":       uint32(64),
		"general.file_type":       uint32(15),
		"llama.context_length":    uint32(4096),
		"llama.block_count":       int32(2),
		"llama.rope":              float32(0.5),
		"llama.long":              int64(-7),
		"llama.ulong":             uint64(7),
		"llama.flag":              true,
		"llama.empty":             []string{},
		"tokenizer.chat_template": "{{ messages }}",
		"tokenizer.tokens":        []string{"a", "", "ü"},
		"tokenizer.types":         []int32{1, 2, -3},
		"tokenizer.scores":        []float32{0, -1.5},
		"tokenizer.flags":         []bool{true, false},
	}, []*ggml.Tensor{
		tensor("token_embd.weight", 0, 8*4*4, 8, 4),
		tensor("blk.0.attn_k.weight", 12, 144, 256, 1), // Q4_K
		tensor("odd", 77, 0, 3),                        // a type that Ollama doesn't know
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(b []byte, arrays bool) (*Header, error) {
	return Read(bytes.NewReader(b), int64(len(b)), arrays)
}

// agree reports how h differs from what Ollama's reader makes of the same bytes.
func agree(t *testing.T, b []byte, h *Header, arrays bool) {
	t.Helper()
	most := 0
	if arrays {
		most = -1
	}
	want, err := ggml.Decode(bytes.NewReader(b), most)
	if err != nil {
		t.Fatalf("fs/ggml refuses what Read accepts: %v", err)
	}
	pairs := make(map[string]any)
	for k, v := range h.Pairs {
		pairs[k] = v
	}
	pairs["general.parameter_count"] = h.Parameters()
	got, err := json.Marshal(pairs)
	if err != nil {
		return // a float that is no number
	}
	wanted, err := json.Marshal(want.KV())
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(wanted) {
		t.Errorf("pairs:\n got %s\nwant %s", got, wanted)
	}
	if n := len(want.Tensors().Items()); n != len(h.Tensors) {
		t.Fatalf("%d tensors, want %d", len(h.Tensors), n)
	}
	if want.Tensors().Offset != uint64(h.DataOffset) {
		t.Errorf("the data begins at %d, want %d", h.DataOffset, want.Tensors().Offset)
	}
	for i, w := range want.Tensors().Items() {
		g := h.Tensors[i]
		if n, ok := g.size(); !ok || n != w.Size() || g.Name != w.Name || g.Kind != w.Kind || g.Offset != w.Offset || g.Type() != w.Type() || !cmp.Equal(g.Shape, w.Shape) {
			t.Errorf("tensor %d is %+v, want %+v", i, g, w)
		}
	}
}

func TestReadAgreesWithOllamasReader(t *testing.T) {
	b := sample(t)
	for _, arrays := range []bool{false, true} {
		h, err := read(b, arrays)
		if err != nil {
			t.Fatal(err)
		}
		agree(t, b, h, arrays)
	}
}

func TestReadAgreesOnRealVocabularies(t *testing.T) {
	dir := os.Getenv("LLAMA_SRC")
	if dir == "" {
		t.Skip("LLAMA_SRC names no checkout of llama.cpp")
	}
	files, err := filepath.Glob(filepath.Join(dir, "models", "ggml-vocab-*.gguf"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vocabularies in %s: %v", dir, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		h, err := read(b, true)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		agree(t, b, h, true)
	}
}

func TestArraysAreKeptOnlyWhenAsked(t *testing.T) {
	b := sample(t)
	with, err := read(b, true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "", "ü"}, with.Pairs["tokenizer.tokens"]); diff != "" {
		t.Error(diff)
	}
	without, err := read(b, false)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := without.Pairs["tokenizer.tokens"]; !ok || v != nil {
		t.Errorf("got %v, %v; want a nil value under the key", v, ok)
	}
	if diff := cmp.Diff([]string{}, without.Pairs["llama.empty"]); diff != "" {
		t.Error(diff)
	}
}

func TestHeaderAnswers(t *testing.T) {
	h, err := read(sample(t), false)
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Architecture(); got != "llama" {
		t.Errorf("architecture %q", got)
	}
	if got := h.FileType(); got != "Q4_K_M" {
		t.Errorf("file type %q", got)
	}
	if got := h.Parameters(); got != 32+256+3 {
		t.Errorf("%d parameters", got)
	}
	for _, c := range []struct {
		key  string
		want uint64
		ok   bool
	}{
		{"context_length", 4096, true}, {"block_count", 2, true}, {"ulong", 7, true},
		{"long", 0, false}, {"rope", 0, false}, {"none", 0, false},
	} {
		if got, ok := h.OwnUint(c.key); got != c.want || ok != c.ok {
			t.Errorf("%s: %d, %v; want %d, %v", c.key, got, ok, c.want, c.ok)
		}
	}
	if _, ok := h.Own("flag"); !ok {
		t.Error("llama.flag is not found")
	}
	for _, v := range []any{uint32(0), uint8(0)} {
		if got := (&Header{Pairs: map[string]any{"general.file_type": v}}).FileType(); got != "F32" {
			t.Errorf("file type 0 is %q, want F32", got)
		}
	}
	for _, pairs := range []map[string]any{{}, {"general.file_type": uint64(math.MaxUint64)}, {"general.file_type": "F16"}} {
		if got := (&Header{Pairs: pairs}).FileType(); got != "unknown" {
			t.Errorf("file type of %v is %q, want unknown", pairs, got)
		}
	}
}

func TestEveryCutIsAnError(t *testing.T) {
	b := sample(t)
	h, err := read(b, true)
	if err != nil {
		t.Fatal(err)
	}
	// All of the last tensor's data but its padding is needed.
	for n := range int(h.DataOffset) + 32*4 {
		for _, arrays := range []bool{false, true} {
			if _, err := read(b[:n], arrays); err == nil {
				t.Fatalf("the first %d of %d bytes are accepted", n, len(b))
			}
			// A file that shrinks while it is read.
			if _, err := Read(bytes.NewReader(b[:n]), int64(len(b)), arrays); err == nil && n < int(h.DataOffset)-64 {
				t.Fatalf("the first %d of %d bytes are accepted", n, len(b))
			}
		}
	}
}

func TestBadFilesAreRefused(t *testing.T) {
	pair := func(key string, kind uint32, value ...any) *file {
		return newFile(3, 0, 1).put(key, kind).put(value...)
	}
	tensor := func(values ...any) *file { return newFile(3, 1, 0).put(values...) }
	cases := []struct {
		name string
		file *file
		want string
	}{
		{"version 1", newFile(1, 0, 0), "has version 1"},
		{"version 4", newFile(4, 0, 0), "has version 4"},
		{"big endian", newFile(3<<24, 0, 0), "big-endian"},
		{"absurd number of pairs", newFile(3, 0, math.MaxUint64), "key-value pairs, more than fit"},
		{"absurd number of tensors", newFile(3, 1<<40, 0), "tensors, more than fit"},
		{"absurd key", newFile(3, 0, 1).put(uint64(math.MaxUint64), [64]byte{}), "a text of"},
		{"absurd string", pair("k", 8, uint64(1<<63), [64]byte{}), "a text of"},
		{"absurd array", pair("k", 9, uint32(4), uint64(1<<62)), "array elements, more than fit"},
		{"absurd array of strings", pair("k", 9, uint32(8), uint64(1<<61)), "array elements, more than fit"},
		{"absurd string in an array", pair("k", 9, uint32(8), uint64(1), uint64(math.MaxInt64+1)), "a text of"},
		{"unknown type", pair("k", 13, uint64(0)), "unknown type 13"},
		{"array of arrays", pair("k", 9, uint32(9), uint64(0)), "array of the type 9"},
		{"key twice", newFile(3, 0, 2).put("k", uint32(0), uint8(1), "k", uint32(0), uint8(1)), `the key "k" twice`},
		{"alignment 0", pair("general.alignment", 4, uint32(0)), "alignment of 0"},
		{"alignment 24", pair("general.alignment", 4, uint32(24)), "alignment of 24"},
		{"dimensions", tensor("t", uint32(5), [5]uint64{1, 1, 1, 1, 1}, uint32(0), uint64(0)), "5 dimensions"},
		{"absurd dimensions", tensor("t", uint32(math.MaxUint32), uint64(1), uint64(1)), "4294967295 dimensions"},
		{"absurd shape", tensor("t", uint32(2), uint64(1<<33), uint64(1<<33), uint32(0), uint64(0)), "too large"},
		{"absurd size", tensor("t", uint32(1), uint64(1<<62), uint32(0), uint64(0)), "too large"},
		{"absurd offset", tensor("t", uint32(1), uint64(1), uint32(0), uint64(math.MaxUint64)), "cut off"},
		{"no data", tensor("t", uint32(1), uint64(1), uint32(0), uint64(0)), "cut off"},
		{"tensor twice", newFile(3, 2, 0).put("t", uint32(1), uint64(0), uint32(0), uint64(0), "t", uint32(1), uint64(0), uint32(0), uint64(0), [64]byte{}), `the tensor "t" twice`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, arrays := range []bool{false, true} {
				_, err := read(c.file.Bytes(), arrays)
				var bad *Error
				if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want ... %s ...", err, c.want)
				}
			}
		})
	}
	for _, b := range []string{"", "GG", "GGUX0000000000000", "ggml", "PK\x03\x04"} {
		if _, err := read([]byte(b), false); err != ErrNotGGUF {
			t.Errorf("%q: got %v, want ErrNotGGUF", b, err)
		}
	}
}

// A sparse file of any size must not make the reader allocate its size.
func TestHugeFilesDoNotMakeHugeHeaders(t *testing.T) {
	for name, f := range map[string]*file{
		"string":  newFile(3, 0, 1).put("k", uint32(8), uint64(maxString+1)),
		"header":  newFile(3, 0, 1).put("k", uint32(9), uint32(10), uint64(maxHeader/8)),
		"pairs":   newFile(3, 0, maxPairs+1),
		"tensors": newFile(3, maxTensor+1, 0),
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, f.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 1<<40); err != nil {
			t.Skip("no sparse files here: ", err)
		}
		r, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		var bad *Error
		if grown := allocated(func() { _, err = Read(r, 1<<40, true) }); grown > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", name, grown)
		}
		if !errors.As(err, &bad) {
			t.Errorf("%s: got %v, want an *Error", name, err)
		}
		r.Close()
	}
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func FuzzRead(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte("GGUF"))
	f.Add(newFile(2, 0, 1).put("k", uint32(9), uint32(8), uint64(2), "a", "b").Bytes())
	f.Add(newFile(3, 1, 1).put("general.alignment", uint32(4), uint32(8), "t", uint32(1), uint64(2), uint32(1), uint64(0), [8]byte{}).Bytes())
	f.Add(newFile(3, 1, 1).put("general.alignment", uint32(4), uint32(8), "t", uint32(1), uint64(2), uint32(34), uint64(0)).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, arrays := range []bool{false, true} {
			h, err := read(b, arrays)
			if err == nil {
				agree(t, b, h, arrays)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	name := filepath.Join(os.Getenv("LLAMA_SRC"), "models", "ggml-vocab-qwen2.gguf")
	data, err := os.ReadFile(name)
	if err != nil {
		b.Skip("LLAMA_SRC names no checkout of llama.cpp")
	}
	for b.Loop() {
		if _, err := read(data, false); err != nil {
			b.Fatal(err)
		}
	}
}
