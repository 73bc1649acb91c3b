package tinymodel

import (
	"bufio"
	"encoding/binary"
	"hash/fnv"
	"io"
	"math"
	"math/rand/v2"

	"github.com/x448/float16"
)

// weights writes the numbers of one tensor. They follow from the seed and the
// tensor's name, so tensors can be written in any order and at the same time.
type weights struct {
	name   string
	seed   uint64
	count  int
	mean   float64
	spread float64           // standard deviation; 0: all are the mean
	half   bool              // 16 bits each instead of 32
	width  int               // of a row, where quiet is given
	quiet  []bool            // the rows that are scaled down
	step   func(n int) error // told of every n weights written; may stop the work
}

// WriteTo writes the tensor in GGUF's byte order.
func (t weights) WriteTo(w io.Writer) (int64, error) {
	h := fnv.New64a()
	io.WriteString(h, t.name)
	rng := rand.New(rand.NewPCG(t.seed, h.Sum64()))
	out := bufio.NewWriterSize(w, 1<<20)
	var n int64
	var b [4]byte
	const stride = 1 << 18
	for i := range t.count {
		if i%stride == 0 && t.step != nil {
			if err := t.step(min(stride, t.count-i)); err != nil {
				return n, err
			}
		}
		x := t.mean
		if t.spread != 0 {
			x += t.spread * rng.NormFloat64()
		}
		if t.quiet != nil && t.quiet[i/t.width] {
			x *= quiet
		}
		size := 4
		if t.half {
			size = 2
			binary.LittleEndian.PutUint16(b[:], float16.Fromfloat32(float32(x)).Bits())
		} else {
			binary.LittleEndian.PutUint32(b[:], math.Float32bits(float32(x)))
		}
		if _, err := out.Write(b[:size]); err != nil {
			return n, err
		}
		n += int64(size)
	}
	return n, out.Flush()
}
