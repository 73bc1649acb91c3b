// Package gguf reads the header of a GGUF file: the key-value pairs and the tensor
// descriptions, never the tensors' data.
//
// The file comes from outside. Every count and length in it is checked against the
// size of the file before anything is allocated or skipped, so a corrupt header
// costs an error and not memory. What Read accepts, Ollama's fs/ggml accepts too
// and reads alike; a fuzz test holds that. Refused beyond that is what llama.cpp
// would refuse when it loads the file.
package gguf

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"

	"github.com/ollama/ollama/fs/ggml"
)

// ErrNotGGUF is returned for a file that does not begin as GGUF files do.
var ErrNotGGUF = errors.New("the file is not in GGUF format")

// Error says what is wrong with a file that begins like GGUF.
type Error struct{ reason string }

func (e *Error) Error() string { return "the GGUF file " + e.reason }

func corrupt(format string, args ...any) error {
	return &Error{fmt.Sprintf(format, args...)}
}

// The most that a header may hold. Real files stay far below: the largest
// vocabularies make headers of about 20 MB.
const (
	maxHeader = 128 << 20 // bytes
	maxString = 16 << 20  // bytes
	maxPairs  = 1 << 16
	maxTensor = 1 << 18
	maxDims   = 4
)

// Header is what stands before the tensors' data.
type Header struct {
	Version uint32
	// Pairs holds the values by key: a Go integer, float, bool or string of the
	// type in the file, or for an array a slice of such, which is nil (any(nil))
	// when it is not empty and arrays were not asked for.
	Pairs   map[string]any
	Tensors []Tensor
	// DataOffset is where the tensors' data begins in the file.
	DataOffset int64
}

// Tensor describes one tensor.
type Tensor struct {
	Name   string
	Shape  []uint64
	Kind   uint32 // ggml's number of the type
	Offset uint64 // from DataOffset
}

// Type is the name of the tensor's type, such as "F32"; "unknown" when Ollama has
// no name for it.
func (t Tensor) Type() string { return ggml.TensorType(t.Kind).String() }

// Elements is the number of the tensor's elements.
func (t Tensor) Elements() uint64 {
	n := uint64(1)
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// size is the number of bytes of the tensor's data, 0 for a type that Ollama
// doesn't know; ok is false when that is no sensible number.
func (t Tensor) size() (n uint64, ok bool) {
	n = 1
	for _, d := range t.Shape {
		var hi uint64
		if hi, n = bits.Mul64(n, d); hi != 0 {
			return 0, false
		}
	}
	kind := ggml.TensorType(t.Kind)
	hi, lo := bits.Mul64(n, kind.TypeSize())
	if hi != 0 || n > 1<<62 {
		return 0, false
	}
	return lo / kind.BlockSize(), true
}

// String returns the string value of key, or "".
func (h *Header) String(key string) string {
	s, _ := h.Pairs[key].(string)
	return s
}

// Uint returns the value of key, if it is an integer of any type that is not negative.
func (h *Header) Uint(key string) (uint64, bool) {
	signed := int64(-1)
	switch v := h.Pairs[key].(type) {
	case uint8:
		return uint64(v), true
	case uint16:
		return uint64(v), true
	case uint32:
		return uint64(v), true
	case uint64:
		return v, true
	case int8:
		signed = int64(v)
	case int16:
		signed = int64(v)
	case int32:
		signed = int64(v)
	case int64:
		signed = v
	}
	return uint64(max(signed, 0)), signed >= 0
}

// Architecture is the value of general.architecture, or "".
func (h *Header) Architecture() string { return h.String("general.architecture") }

// alignment is what the data's places are multiples of.
func (h *Header) alignment() int64 {
	if v, ok := h.Pairs["general.alignment"].(uint32); ok {
		return int64(v)
	}
	return 32
}

// Own returns the value of a key of the architecture: Own("block_count") is the
// value of llama.block_count in a llama model.
func (h *Header) Own(key string) (any, bool) {
	v, ok := h.Pairs[h.ownKey(key)]
	return v, ok
}

// OwnUint is Uint of a key of the architecture.
func (h *Header) OwnUint(key string) (uint64, bool) { return h.Uint(h.ownKey(key)) }

func (h *Header) ownKey(key string) string {
	return cmp.Or(h.Architecture(), "unknown") + "." + key
}

// Parameters is the number of elements of all tensors.
func (h *Header) Parameters() uint64 {
	var n uint64
	for _, t := range h.Tensors {
		n += t.Elements()
	}
	return n
}

// FileType is the name of the quantization, such as "Q4_K_M"; "unknown" when the
// file doesn't say or Ollama has no name for it.
func (h *Header) FileType() string {
	n, ok := h.Uint("general.file_type")
	if !ok || n > uint64(ggml.FileTypeUnknown) {
		n = ggml.FileTypeUnknown
	}
	return ggml.FileType(n).String()
}
