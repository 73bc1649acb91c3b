package safetensors

import (
	"io"
	"slices"
	"strings"

	"github.com/ollama/ollama/fs/ggml"
)

// mostWhole is how large, as 32-bit numbers, what a converter turns around in memory
// may be: three times that is there for a moment. The experts of the largest model
// that a converter knows (llama4) take 320 MiB each.
const mostWhole = 1 << 30

// writeTurned writes a tensor that a converter turns around in memory: of stacked
// experts one at a time, of others all of it. One tensor at a time is there.
func (t *tensor) writeTurned(w io.Writer, f io.ReaderAt) (n int64, err error) {
	if err := t.src.enter(t.src.whole); err != nil {
		return 0, err
	}
	defer func() { <-t.src.whole }()
	if t.narrowed {
		return 0, bad("tensor %s of shape %v can't be converted: its rows are not what config.json says", t.from.name, t.from.shape)
	}
	shape, pieces := slices.Clone(t.shape), int64(1)
	if t.stacked() {
		shape[0], pieces = 1, int64(t.shape[0])
	}
	size := t.from.size / pieces
	count := size / int64(width(t.from.dtype))
	if count > mostWhole/4 {
		return 0, bad("tensor %s can't be converted: it would have to be turned around in memory, where it takes %d MiB; the most is %d", t.from.name, count*4>>20, mostWhole>>20)
	}
	data := make([]float32, 0, count)
	for i := range pieces {
		if data, err = t.read(data[:0], f, t.from.offset+i*size, size); err != nil {
			return n, err
		}
		turned, err := t.repack(t.name, data, shape)
		if err != nil {
			return n, bad("tensor %s can't be converted: %v", t.name, err)
		}
		k, err := t.write(w, turned)
		if n += k; err != nil {
			return n, err
		}
	}
	return n, nil
}

// stacked tells tensors of all experts of a layer, the outermost dimension of which is
// the expert. Converters turn each expert alike; a test compares the result with what
// they make of the whole.
func (t *tensor) stacked() bool {
	return len(t.shape) == 3 && t.shape[0] > 0 && t.shape[0] == t.from.shape[0] &&
		(strings.Contains(t.name, "_exps") || strings.Contains(t.name, ".mlp.experts."))
}

// read appends the numbers that stand at a place in the file.
func (t *tensor) read(data []float32, f io.ReaderAt, at, size int64) ([]float32, error) {
	raw := make([]byte, min(block, size))
	for end := at + size; at < end; {
		if err := t.src.ctx.Err(); err != nil {
			return nil, err
		}
		part := raw[:min(int64(len(raw)), end-at)]
		if _, err := f.ReadAt(part, at); err != nil {
			return nil, err
		}
		at += int64(len(part))
		var err error
		if data, err = decode(data, part, t.from.dtype); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// write writes numbers in the tensor's type.
func (t *tensor) write(w io.Writer, data []float32) (n int64, err error) {
	var raw []byte
	for part := range slices.Chunk(data, block/4) {
		if err := t.src.ctx.Err(); err != nil {
			return n, err
		}
		raw = encode(raw[:0], part, t.Kind())
		k, err := w.Write(raw)
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// byRows are the matrices of which converters take rows, in another order or some of
// them. Of others they may take columns, which a narrow matrix does not show.
var byRows = []string{"attn_q.weight", "attn_k.weight", "attn_qkv.weight", "attn_gate.weight", "ssm_in.weight"}

// rowOrder finds out which rows a repacker takes, by giving it a matrix of two columns.
// nil: it does something else, or maybe nothing to so narrow a matrix.
func (t *tensor) rowOrder() []int {
	known := slices.ContainsFunc(byRows, func(s string) bool { return strings.HasSuffix(t.name, s) })
	if !known || len(t.shape) != 2 || t.shape[0] == 0 || t.shape[0] > 1<<22 {
		return nil
	}
	rows := int(t.shape[0])
	probe := make([]float32, 2*rows)
	for i := range probe {
		probe[i] = float32(i) // exact up to 1<<24
	}
	got, err := t.repack(t.name, probe, []uint64{t.shape[0], 2})
	if err != nil || len(got)%2 != 0 || len(got) > 2*rows {
		return nil
	}
	order, seen, moved := make([]int, len(got)/2), make([]bool, rows), len(got) < 2*rows
	for i := range order {
		from := int(got[2*i])
		if from%2 != 0 || from < 0 || from >= 2*rows || got[2*i+1] != float32(from+1) || seen[from/2] {
			return nil
		}
		order[i], seen[from/2] = from/2, true
		moved = moved || from/2 != i
	}
	if !moved || len(order) == 0 {
		return nil
	}
	return order
}

// narrow takes all but two columns from the matrices whose converter asks beforehand
// how many there are: rowOrder gives it two. widen corrects what came of it.
func narrow(list []*tensor) {
	for _, t := range list {
		if strings.HasSuffix(t.name, ".ssm_in.weight") && len(t.shape) == 2 {
			t.shape, t.narrowed = []uint64{t.shape[0], 2}, true
		}
	}
}

func widen(out []*ggml.Tensor) {
	for _, o := range out {
		if t, ok := o.WriterTo.(*tensor); ok && t.narrowed {
			o.Shape = []uint64{o.Shape[0], t.from.shape[1]}
		}
	}
}
