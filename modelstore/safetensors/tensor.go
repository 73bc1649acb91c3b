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
	// whole is held by the one tensor that is in memory as a whole.
	whole chan struct{}
}

func newSource(ctx context.Context, fsys fs.FS) *source {
	return &source{ctx: ctx, fs: fsys, whole: make(chan struct{}, 1)}
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
	order  []int // rows of the file in the order that they are written; nil: as they are
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
	f, err := t.src.open(t.file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	order := t.order
	if t.repack != nil {
		if order, err = t.rowOrder(); err != nil {
			return 0, err
		}
		if order == nil {
			return t.writeWhole(w, f)
		}
	}
	return t.writeRows(w, f, order)
}

// writeRows writes the rows in this order, or as they are, in blocks.
func (t *tensor) writeRows(w io.Writer, f io.ReaderAt, order []int) (n int64, err error) {
	row := t.from.size
	if order != nil {
		row /= int64(len(order))
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

// writeWhole writes a tensor that a converter turns around in memory. Only one at a
// time is there: this is what a conversion needs the most memory for.
func (t *tensor) writeWhole(w io.Writer, f io.ReaderAt) (n int64, err error) {
	select {
	case t.src.whole <- struct{}{}:
		defer func() { <-t.src.whole }()
	case <-t.src.ctx.Done():
		return 0, t.src.ctx.Err()
	}
	data := make([]float32, 0, t.from.size/int64(width(t.from.dtype)))
	read := make([]byte, min(block, t.from.size))
	for at, end := t.from.offset, t.from.offset+t.from.size; at < end; {
		part := read[:min(int64(len(read)), end-at)]
		if _, err := f.ReadAt(part, at); err != nil {
			return 0, err
		}
		at += int64(len(part))
		if data, err = decode(data, part, t.from.dtype); err != nil {
			return 0, err
		}
	}
	if data, err = t.repack(t.name, data, t.shape); err != nil {
		return 0, bad("tensor %s can't be converted: %v", t.name, err)
	}
	var write []byte
	for part := range slices.Chunk(data, block/4) {
		if err := t.src.ctx.Err(); err != nil {
			return n, err
		}
		write = encode(write[:0], part, t.Kind())
		k, err := w.Write(write)
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// rowOrder finds out whether a repacker only reorders rows, as those of the query and
// key projections do, by giving it a matrix of two columns. nil: it does not.
func (t *tensor) rowOrder() ([]int, error) {
	turns := slices.ContainsFunc([]string{"attn_q.weight", "attn_k.weight"}, func(s string) bool { return strings.HasSuffix(t.name, s) })
	if !turns || len(t.shape) != 2 || t.shape[0] == 0 || t.shape[0] > 1<<22 {
		return nil, nil
	}
	rows := int(t.shape[0])
	probe := make([]float32, 2*rows)
	for i := range probe {
		probe[i] = float32(i) // exact up to 1<<24
	}
	got, err := t.repack(t.name, probe, []uint64{t.shape[0], 2})
	if err != nil {
		return nil, bad("tensor %s can't be converted: %v", t.name, err)
	}
	order, seen := make([]int, rows), make([]bool, rows)
	if len(got) != 2*rows {
		return nil, nil
	}
	for i := range order {
		from := int(got[2*i])
		if from%2 != 0 || from < 0 || from >= 2*rows || got[2*i+1] != float32(from+1) || seen[from/2] {
			return nil, nil
		}
		order[i], seen[from/2] = from/2, true
	}
	return order, nil
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
