package safetensors

import (
	"io"
	"strings"

	"github.com/ollama/ollama/fs/ggml"
)

// mxfp4 writes experts that were published in 4 bits as GGUF has them. Ollama's
// converter does the same with whole tensors in memory, many at a time.
type mxfp4 struct {
	blocks, scales *tensor // experts × rows × blocks × 16 and experts × rows × blocks
	first, step    int     // rows that are taken
}

const blockBytes = 16 // and one of the scale

// streamMXFP4 lets tensors of that type be written piece by piece.
func streamMXFP4(out []*ggml.Tensor, from []*tensor) error {
	byName := make(map[string]*tensor)
	for _, t := range from {
		if strings.HasSuffix(t.name, ".blocks") || strings.HasSuffix(t.name, ".scales") {
			byName[strings.Replace(t.name, ".weight.", ".", 1)] = t
		}
	}
	for _, t := range out {
		if t.Kind != uint32(ggml.TensorTypeMXFP4) {
			continue
		}
		name := strings.TrimSuffix(t.Name, ".weight")
		m := mxfp4{step: 1}
		for i, half := range []string{"ffn_gate_exps", "ffn_up_exps"} {
			if strings.Contains(name, half) {
				name = strings.Replace(name, half, "ffn_gate_up_exps", 1)
				m.first, m.step = i, 2
			}
		}
		m.blocks, m.scales = byName[name+".blocks"], byName[name+".scales"]
		if err := m.check(name); err != nil {
			return err
		}
		t.WriterTo = m
	}
	return nil
}

func (m mxfp4) check(name string) error {
	if m.blocks == nil || m.scales == nil {
		return bad("the experts %s have only one of blocks and scales", name)
	}
	b, s := m.blocks.from, m.scales.from
	if b.dtype != "U8" || s.dtype != "U8" || len(b.shape) != 4 || len(s.shape) != 3 || b.shape[3] != blockBytes ||
		b.shape[0] != s.shape[0] || b.shape[1] != s.shape[1] || b.shape[2] != s.shape[2] || b.shape[1]%uint64(m.step) != 0 {
		return bad("the experts %s have blocks of type %.20q and shape %v and scales of type %.20q and shape %v, which don't fit", name, b.dtype, b.shape, s.dtype, s.shape)
	}
	return nil
}

func (m mxfp4) WriteTo(w io.Writer) (n int64, err error) {
	src := m.blocks.src
	if err := src.enter(src.busy); err != nil {
		return 0, err
	}
	defer func() { <-src.busy }()
	blocks, err := src.open(m.blocks.file)
	if err != nil {
		return 0, err
	}
	defer blocks.Close()
	scales, err := src.open(m.scales.file)
	if err != nil {
		return 0, err
	}
	defer scales.Close()
	shape := m.blocks.from.shape
	perRow := int64(shape[2]) // blocks
	const most = block / blockBytes
	raw, exponents, out := make([]byte, most*blockBytes), make([]byte, most), make([]byte, 0, most*(blockBytes+1))
	for at, end := int64(0), m.scales.from.size; at < end; {
		if err := src.ctx.Err(); err != nil {
			return n, err
		}
		count := min(end-at, most)
		if _, err := blocks.ReadAt(raw[:count*blockBytes], m.blocks.from.offset+at*blockBytes); err != nil {
			return n, err
		}
		if _, err := scales.ReadAt(exponents[:count], m.scales.from.offset+at); err != nil {
			return n, err
		}
		out = out[:0]
		for i := range count {
			if (at+i)/perRow%int64(m.step) == int64(m.first) {
				out = appendBlock(append(out, exponents[i]), raw[i*blockBytes:][:blockBytes])
			}
		}
		at += count
		k, err := w.Write(out)
		if n += int64(k); err != nil {
			return n, err
		}
	}
	return n, nil
}

// appendBlock appends the 32 numbers of a block: neighbours share a byte in the
// source, those of the two halves do in GGUF.
func appendBlock(out, b []byte) []byte {
	for j := range blockBytes / 2 {
		lo, hi := b[j], b[j+blockBytes/2]
		out = append(out, lo&0x0f|hi<<4, lo>>4|hi&0xf0)
	}
	return out
}
