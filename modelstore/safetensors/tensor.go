package safetensors

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"

	"github.com/ollama/ollama/convert"
	"github.com/ollama/ollama/fs/ggml"
	"github.com/x448/float16"
)

// source is the files that are being converted.
type source struct {
	ctx context.Context
	fs  fs.FS
	// busy is held by each tensor that is being written, whole by the one that is in
	// memory as a whole. GGUF's writer begins as many tensors as there are cores.
	busy, whole chan struct{}
}

// mostAtOnce is how many tensors are written at a time: a block of each is in memory.
const mostAtOnce = 8

func newSource(ctx context.Context, fsys fs.FS) *source {
	return &source{ctx: ctx, fs: fsys, busy: make(chan struct{}, mostAtOnce), whole: make(chan struct{}, 1)}
}

// enter waits for a place, until the context ends.
func (s *source) enter(places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

type readerAt interface {
	fs.File
	io.ReaderAt
}

func (s *source) open(name string) (readerAt, error) {
	f, err := s.fs.Open(name)
	if err != nil {
		return nil, err
	}
	r, ok := f.(readerAt)
	if !ok {
		f.Close()
		return nil, fmt.Errorf("%s can't be read at an offset", name)
	}
	return r, nil
}

// tensor is a tensor on its way into a GGUF file. It does what the tensors of
// Ollama's convert do.
type tensor struct {
	src    *source
	file   string
	from   entry
	name   string
	shape  []uint64 // shared with converters, which may turn it
	repack convert.Repacker

	narrowed bool  // shape says that there are two columns
	order    []int // rows of the file in the order that they are written; nil: all as they are
}

var _ convert.Tensor = (*tensor)(nil)

func (t *tensor) Name() string                        { return t.name }
func (t *tensor) Shape() []uint64                     { return t.shape }
func (t *tensor) SetRepacker(repack convert.Repacker) { t.repack = repack }

func (t *tensor) Clone() convert.Tensor {
	c := *t
	c.shape = slices.Clone(t.shape)
	return &c
}

// Kind is the type in the GGUF file, by Ollama's rules.
func (t *tensor) Kind() uint32 {
	ends := func(suffixes ...string) bool {
		return slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(t.name, s) })
	}
	begins := func(prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(s string) bool { return strings.HasPrefix(t.name, s) })
	}
	switch {
	case len(t.shape) == 1,
		ends(".ffn_gate_inp.weight", ".bias", ".shortconv.conv.weight", ".ssm_conv1d.weight", "rel_pos_h", "rel_pos_w"),
		slices.Contains([]string{
			"token_types.weight", "v.positional_embedding_vlm", "v.tile_position_embd.weight",
			"v.pre_tile_position_embd.weight", "v.post_tile_position_embd.weight", "s.position_embd",
		}, t.name):
		return uint32(ggml.TensorTypeF32)
	case t.from.dtype == "BF16" && !begins("v.", "s.", "mm.") && !strings.Contains(t.name, "ffn_gate_inp_shexp.weight"):
		return uint32(ggml.TensorTypeBF16)
	default:
		return uint32(ggml.TensorTypeF16)
	}
}

// block is how much of a file is read at a time.
const block = 256 << 10

// WriteTo writes the tensor's data as GGUF has it.
func (t *tensor) WriteTo(w io.Writer) (n int64, err error) {
	if err := t.src.enter(t.src.busy); err != nil {
		return 0, err
	}
	defer func() { <-t.src.busy }()
	f, err := t.src.open(t.file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	order := t.order
	if t.repack != nil {
		if order = t.rowOrder(); order == nil {
			return t.writeTurned(w, f)
		}
	}
	return t.writeRows(w, f, order)
}

// writeRows writes these rows in this order, or all as they are, in blocks.
func (t *tensor) writeRows(w io.Writer, f io.ReaderAt, order []int) (n int64, err error) {
	row := t.from.size
	if order != nil {
		row /= int64(t.shape[0])
	}
	read := make([]byte, min(block, max(row, 1)))
	var write []byte
	for i := range max(len(order), 1) {
		at := t.from.offset
		if order != nil {
			at += int64(order[i]) * row
		}
		for end := at + row; at < end; {
			if err := t.src.ctx.Err(); err != nil {
				return n, err
			}
			part := read[:min(int64(len(read)), end-at)]
			if _, err := f.ReadAt(part, at); err != nil {
				return n, err
			}
			at += int64(len(part))
			if write, err = transcode(write[:0], part, t.from.dtype, t.Kind()); err != nil {
				return n, err
			}
			k, err := w.Write(write)
			n += int64(k)
			if err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// transcode appends the elements of raw, which is of a safetensors type, as kind.
func transcode(out, raw []byte, dtype string, kind uint32) ([]byte, error) {
	switch {
	case dtype == "F32" && kind == uint32(ggml.TensorTypeF32),
		dtype == "F16" && kind == uint32(ggml.TensorTypeF16),
		dtype == "BF16" && kind == uint32(ggml.TensorTypeBF16),
		dtype == "U8": // packed already; its converter knows how
		return append(out, raw...), nil
	}
	data, err := decode(make([]float32, 0, len(raw)/2), raw, dtype)
	return encode(out, data, kind), err
}

// decode appends the elements of raw.
func decode(out []float32, raw []byte, dtype string) ([]float32, error) {
	switch dtype {
	case "F32":
		for ; len(raw) >= 4; raw = raw[4:] {
			out = append(out, math.Float32frombits(binary.LittleEndian.Uint32(raw)))
		}
	case "F16":
		for ; len(raw) >= 2; raw = raw[2:] {
			out = append(out, float16.Frombits(binary.LittleEndian.Uint16(raw)).Float32())
		}
	case "BF16":
		for ; len(raw) >= 2; raw = raw[2:] {
			out = append(out, math.Float32frombits(uint32(binary.LittleEndian.Uint16(raw))<<16))
		}
	default:
		return nil, bad("unknown data type: %s", dtype)
	}
	return out, nil
}

// encode appends the elements as kind. BF16 is cut, as Ollama does.
func encode(out []byte, data []float32, kind uint32) []byte {
	for _, x := range data {
		switch kind {
		case uint32(ggml.TensorTypeF32):
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
		case uint32(ggml.TensorTypeBF16):
			out = binary.LittleEndian.AppendUint16(out, uint16(math.Float32bits(x)>>16))
		default:
			out = binary.LittleEndian.AppendUint16(out, float16.Fromfloat32(x).Bits())
		}
	}
	return out
}
