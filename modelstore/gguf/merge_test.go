package gguf

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ollama/ollama/fs/ggml"
)

// written returns a file of Ollama's writer, whose tensors hold their number.
func written(t testing.TB, pairs ggml.KV, names ...string) []byte {
	t.Helper()
	var list []*ggml.Tensor
	for _, n := range names {
		list = append(list, &ggml.Tensor{
			Name: n, Kind: uint32(ggml.TensorTypeF32), Shape: []uint64{3},
			WriterTo: bytes.NewReader([]byte(strings.Repeat(n, 12)[:12])),
		})
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := ggml.WriteGGUF(f, pairs, list); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// splitKey gives a file, whose writer puts keys below the architecture, its marks.
func marked(file []byte) []byte {
	for _, key := range []string{"split.no", "split.count", "split.tensors.count"} {
		from := append(binary.LittleEndian.AppendUint64(nil, uint64(len(key)+2)), "a."+key...)
		to := append(binary.LittleEndian.AppendUint64(nil, uint64(len(key))), key...)
		file = bytes.Replace(file, from, to, 1)
	}
	return file
}

// split returns the parts of a model of which each has these tensors.
func split(t testing.TB, tensors ...[]string) (parts [][]byte) {
	t.Helper()
	for i, names := range tensors {
		pairs := ggml.KV{"general.architecture": "a", "a.split.no": uint32(i), "a.split.count": uint32(len(tensors)), "a.split.tensors.count": int32(len(slices.Concat(tensors...)))}
		if i == 0 {
			pairs["a.block_count"] = uint32(7)
			pairs["tokenizer.ggml.tokens"] = []string{"x", "", "y"}
		}
		// The marks are shorter than what the writer wrote, so the data moves.
		file := marked(written(t, pairs, names...))
		parts = append(parts, aligned(t, file, names))
	}
	return parts
}

// aligned makes the data begin where it should after the header became shorter.
func aligned(t testing.TB, file []byte, names []string) []byte {
	t.Helper()
	data := 0
	for i := range names {
		data = (data+31)/32*32 + 12
		_ = i
	}
	if data == 0 {
		return append(bytes.TrimRight(file, "\x00"), make([]byte, 64)...)
	}
	body := file[len(file)-data:]
	head := file[:len(file)-data]
	// The padding before the data was for the longer header.
	end := len(head)
	if n := len(names); n > 0 {
		last := append([]byte(names[n-1]), 1, 0, 0, 0)
		end = bytes.LastIndex(head, last) + len(last) + 8 + 4 + 8
	}
	head = slices.Clone(head[:end])
	head = append(head, make([]byte, (32-len(head)%32)%32)...)
	return append(head, body...)
}

func merge(parts ...[]byte) ([]byte, error) {
	var list []Part
	for _, p := range parts {
		list = append(list, Part{bytes.NewReader(p), int64(len(p))})
	}
	var out bytes.Buffer
	err := Merge(context.Background(), list, &out, func(int64, int64) {})
	return out.Bytes(), err
}

func TestMergedPartsAreTheModel(t *testing.T) {
	p := split(t, nil, []string{"b", "c"}, []string{"d"})
	merged, err := merge(p[2], p[0], p[1]) // in any order
	if err != nil {
		t.Fatal(err)
	}
	h, err := Read(bytes.NewReader(merged), int64(len(merged)), true)
	if err != nil {
		t.Fatal(err)
	}
	if h.Parts() != 0 || h.Pairs["split.no"] != nil || h.Pairs["a.block_count"] != uint32(7) || fmt.Sprint(h.Pairs["tokenizer.ggml.tokens"]) != "[x  y]" {
		t.Errorf("pairs %v", h.Pairs)
	}
	if len(h.Tensors) != 3 {
		t.Fatalf("tensors %+v", h.Tensors)
	}
	end := uint64(0)
	for i, name := range []string{"b", "c", "d"} {
		tensor := h.Tensors[i]
		at := h.DataOffset + int64(tensor.Offset)
		if tensor.Name != name || string(merged[at:at+12]) != strings.Repeat(name, 12) {
			t.Errorf("tensor %d: %+v with %q", i, tensor, merged[at:at+12])
		}
		if tensor.Offset != end { // llama.cpp wants one behind the other
			t.Errorf("tensor %d at %d, not %d", i, tensor.Offset, end)
		}
		end = tensor.Offset + 32
	}
	if _, err := ggml.Decode(bytes.NewReader(merged), -1); err != nil {
		t.Errorf("Ollama can't read it: %v", err)
	}
}

func TestFilesThatAreNotAllPartsAreRefused(t *testing.T) {
	p := split(t, []string{"b"}, []string{"c"}, []string{"d"})
	twice := split(t, []string{"b"}, []string{"b"})
	more := split(t, []string{"b"}, []string{"c"})
	more[1] = split(t, []string{"b"}, []string{"c", "d"})[1]
	for name, c := range map[string]struct {
		parts [][]byte
		want  string
	}{
		"one missing":       {p[:2], "of 3, there are 2"},
		"one twice":         {[][]byte{p[0], p[1], p[1]}, "there twice"},
		"a tensor twice":    {twice, "in two of them"},
		"of another number": {more, "the model has 2 tensors, they hold 3"},
		"a whole model":     {[][]byte{written(t, ggml.KV{"general.architecture": "a"}, "b"), p[1]}, "of 0, there are 2"},
	} {
		if _, err := merge(c.parts...); !errors.Is(err, ErrParts) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want ... %s ...", name, err, c.want)
		}
	}
}

func FuzzMerge(f *testing.F) {
	p := split(f, []string{"b"}, []string{"c"})
	f.Add(p[0], p[1])
	f.Fuzz(func(t *testing.T, a, b []byte) {
		merged, err := merge(a, b)
		if err != nil {
			return
		}
		if _, err := Read(bytes.NewReader(merged), int64(len(merged)), false); err != nil {
			t.Errorf("what was merged can't be read: %v", err)
		}
	})
}

// crowded is a part of three that describes n empty tensors.
func crowded(no uint16, n int) []byte {
	le := binary.LittleEndian
	text := func(b []byte, s string) []byte { return append(le.AppendUint64(b, uint64(len(s))), s...) }
	b := le.AppendUint64(le.AppendUint64([]byte("GGUF\x03\x00\x00\x00"), uint64(n)), 2)
	b = le.AppendUint16(le.AppendUint32(text(b, "split.no"), typeUint16), no)
	b = le.AppendUint16(le.AppendUint32(text(b, "split.count"), typeUint16), 3)
	for i := range n {
		b = le.AppendUint32(text(b, fmt.Sprint(no, ".", i)), 1)
		b = le.AppendUint64(le.AppendUint32(le.AppendUint64(b, 0), 0), 0) // shape, type, offset
	}
	return append(b, make([]byte, 32)...)
}

func TestPartsOfTooManyTensorsAreRefusedBeforeAllAreRead(t *testing.T) {
	half := maxTensor/2 + 1
	_, err := merge(crowded(0, half), crowded(1, half), []byte("GGUF of nothing"))
	var bad *Error
	if !errors.As(err, &bad) || !strings.Contains(err.Error(), "in all its parts, the most is 262144") {
		t.Errorf("error %v", err)
	}
}
