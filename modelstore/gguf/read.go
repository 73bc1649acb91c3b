package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math"
)

// The types of values, as the format numbers them.
const (
	typeUint8 = iota
	typeInt8
	typeUint16
	typeInt16
	typeUint32
	typeInt32
	typeFloat32
	typeBool
	typeString
	typeArray
	typeUint64
	typeInt64
	typeFloat64
)

// Read reads the header of a GGUF file of size bytes from its beginning. With
// arrays, array values are kept. The error is ErrNotGGUF, an *Error, or that of r.
func Read(r io.Reader, size int64, arrays bool) (*Header, error) {
	h, _, err := readSpans(r, size, arrays)
	return h, err
}

// readSpans is Read that also tells where the pairs stand.
func readSpans(r io.Reader, size int64, arrays bool) (*Header, []span, error) {
	magic := make([]byte, 4)
	if size < 4 {
		return nil, nil, ErrNotGGUF
	}
	if _, err := io.ReadFull(r, magic); err != nil {
		return nil, nil, err
	}
	if string(magic) != "GGUF" {
		return nil, nil, ErrNotGGUF
	}
	d := &decoder{r: bufio.NewReaderSize(r, 64<<10), pos: 4, size: size, arrays: arrays}
	h := &Header{Pairs: make(map[string]any)}
	d.header(h)
	if d.err != nil {
		return nil, nil, d.err
	}
	return h, d.spans, nil
}

// decoder reads one header. After the first error it reads nothing more and all
// its results are zero.
type decoder struct {
	r       *bufio.Reader
	pos     int64 // bytes read
	size    int64 // of the file
	arrays  bool
	err     error
	scratch [8]byte
	spans   []span // of the pairs, in the order of the file
}

// span is where a pair stands in the file.
type span struct {
	key      string
	from, to int64
}

func (d *decoder) header(h *Header) {
	h.Version = d.uint32("version")
	switch {
	case d.err != nil:
		return
	case h.Version&0xffff == 0:
		d.fail("is in big-endian byte order, which this machine can't run: convert the model again for little-endian")
		return
	case h.Version < 2 || h.Version > 3:
		d.fail("has version %d; only versions 2 and 3 can be run: convert the model again", h.Version)
		return
	}
	tensors := d.count("tensors", 24, maxTensor)
	pairs := d.count("key-value pairs", 13, maxPairs)
	for i := uint64(0); i < pairs && d.err == nil; i++ {
		from := d.pos
		key := d.pair(h)
		d.spans = append(d.spans, span{key, from, d.pos})
	}
	for i := uint64(0); i < tensors && d.err == nil; i++ {
		h.Tensors = append(h.Tensors, d.tensor())
	}
	if d.err == nil {
		d.checkData(h)
	}
}

func (d *decoder) pair(h *Header) (key string) {
	key = d.string("key")
	kind := d.uint32("value type")
	if d.err != nil {
		return key
	}
	if _, twice := h.Pairs[key]; twice {
		d.fail("is corrupt: it holds the key %.80q twice", key)
		return key
	}
	if kind == typeArray {
		h.Pairs[key] = d.array()
	} else {
		h.Pairs[key] = d.value(kind)
	}
	return key
}

func (d *decoder) tensor() (t Tensor) {
	t.Name = d.string("tensor name")
	dims := d.uint32("tensor dimensions")
	if dims > maxDims {
		d.fail("is corrupt: tensor %.80q has %d dimensions, the most is %d", t.Name, dims, maxDims)
		return t
	}
	t.Shape = make([]uint64, dims)
	for i := range t.Shape {
		t.Shape[i] = d.uint64("tensor shape")
	}
	t.Kind = d.uint32("tensor type")
	t.Offset = d.uint64("tensor offset")
	return t
}

// checkData finds where the data begins and that the file holds all of it.
func (d *decoder) checkData(h *Header) {
	a := h.alignment()
	if a <= 0 || a&(a-1) != 0 {
		d.fail("is corrupt: its alignment of %d is not a power of two", a)
		return
	}
	h.DataOffset = d.pos + (a-d.pos%a)%a
	names := make(map[string]bool, len(h.Tensors))
	for _, t := range h.Tensors {
		if names[t.Name] {
			d.fail("is corrupt: it holds the tensor %.80q twice", t.Name)
			return
		}
		names[t.Name] = true
		n, ok := t.size()
		if !ok {
			d.fail("is corrupt: tensor %.80q has the shape %v, which is too large", t.Name, t.Shape)
			return
		}
		room := uint64(max(d.size-h.DataOffset, 0))
		if h.DataOffset > d.size || t.Offset > room || n > room-t.Offset {
			d.fail("is cut off: tensor %.80q ends behind the end of the file: download or copy it again", t.Name)
			return
		}
	}
}

// value reads a value that is no array.
func (d *decoder) value(kind uint32) any {
	switch kind {
	case typeUint8:
		return d.bytes(1, "value")[0]
	case typeInt8:
		return int8(d.bytes(1, "value")[0])
	case typeUint16:
		return binary.LittleEndian.Uint16(d.bytes(2, "value"))
	case typeInt16:
		return int16(binary.LittleEndian.Uint16(d.bytes(2, "value")))
	case typeUint32:
		return d.uint32("value")
	case typeInt32:
		return int32(d.uint32("value"))
	case typeFloat32:
		return math.Float32frombits(d.uint32("value"))
	case typeBool:
		return d.bytes(1, "value")[0] != 0
	case typeString:
		return d.string("value")
	case typeUint64:
		return d.uint64("value")
	case typeInt64:
		return int64(d.uint64("value"))
	case typeFloat64:
		return math.Float64frombits(d.uint64("value"))
	default:
		d.fail("is corrupt: it holds a value of the unknown type %d", kind)
		return nil
	}
}

// array reads an array of values, or skips it.
func (d *decoder) array() any {
	kind := d.uint32("array type")
	switch kind {
	case typeUint8:
		return readArray(d, kind, 1, func() uint8 { return d.bytes(1, "array")[0] })
	case typeInt8:
		return readArray(d, kind, 1, func() int8 { return int8(d.bytes(1, "array")[0]) })
	case typeUint16:
		return readArray(d, kind, 2, func() uint16 { return binary.LittleEndian.Uint16(d.bytes(2, "array")) })
	case typeInt16:
		return readArray(d, kind, 2, func() int16 { return int16(binary.LittleEndian.Uint16(d.bytes(2, "array"))) })
	case typeUint32:
		return readArray(d, kind, 4, func() uint32 { return d.uint32("array") })
	case typeInt32:
		return readArray(d, kind, 4, func() int32 { return int32(d.uint32("array")) })
	case typeFloat32:
		return readArray(d, kind, 4, func() float32 { return math.Float32frombits(d.uint32("array")) })
	case typeBool:
		return readArray(d, kind, 1, func() bool { return d.bytes(1, "array")[0] != 0 })
	case typeString:
		return readArray(d, kind, 8, func() string { return d.string("array") })
	case typeUint64:
		return readArray(d, kind, 8, func() uint64 { return d.uint64("array") })
	case typeInt64:
		return readArray(d, kind, 8, func() int64 { return int64(d.uint64("array")) })
	case typeFloat64:
		return readArray(d, kind, 8, func() float64 { return math.Float64frombits(d.uint64("array")) })
	default:
		d.fail("is corrupt: it holds an array of the type %d, which can't be", kind)
		return nil
	}
}

// readArray reads an array whose elements take at least least bytes each.
func readArray[T any](d *decoder, kind uint32, least int64, read func() T) any {
	n := d.count("array elements", least, math.MaxInt64)
	switch {
	case n == 0:
		return []T{}
	case d.arrays:
		values := make([]T, n)
		for i := range values {
			if d.err != nil {
				return nil
			}
			values[i] = read()
		}
		return values
	case kind == typeString:
		d.skipStrings(n)
	default:
		d.skip(int64(n) * least)
	}
	return nil
}

// count reads the number of things that take at least least bytes each.
func (d *decoder) count(what string, least int64, most uint64) uint64 {
	n := d.uint64("number of " + what)
	if d.err != nil {
		return 0
	}
	if n > uint64(d.room()/least) {
		d.fail("says that it holds %d %s, more than fit into it: it is cut off or corrupt; download or copy it again", n, what)
		return 0
	}
	if n > most {
		d.fail("holds %d %s, the most is %d", n, what, most)
		return 0
	}
	return n
}

// length reads the length of a string.
func (d *decoder) length(what string) uint64 {
	n := d.uint64(what)
	if d.err == nil && n > maxString {
		d.fail("is corrupt: it holds a text of %d bytes, the most is %d", n, maxString)
		return 0
	}
	return n
}

func (d *decoder) string(what string) string {
	n := d.length(what)
	if d.err != nil || !d.need(int64(n), what) {
		return ""
	}
	b := make([]byte, n)
	_, err := io.ReadFull(d.r, b)
	d.took(int64(n), err)
	return string(b)
}

func (d *decoder) uint32(what string) uint32 {
	return binary.LittleEndian.Uint32(d.bytes(4, what))
}

func (d *decoder) uint64(what string) uint64 {
	return binary.LittleEndian.Uint64(d.bytes(8, what))
}

// bytes returns the next n bytes, 8 at most, valid until the next call.
func (d *decoder) bytes(n int, what string) []byte {
	b := d.scratch[:n]
	clear(b)
	if d.err == nil && d.need(int64(n), what) {
		_, err := io.ReadFull(d.r, b)
		d.took(int64(n), err)
	}
	return b
}

func (d *decoder) skip(n int64) {
	if d.err != nil || !d.need(n, "array") {
		return
	}
	for n > 0 && d.err == nil {
		k, err := d.r.Discard(int(min(n, 1<<20)))
		n -= int64(k)
		d.took(int64(k), err)
	}
}

// skipStrings skips n strings. A vocabulary has hundreds of thousands of them: they
// are skipped where they lie in the buffer, except those that go over its end.
func (d *decoder) skipStrings(n uint64) {
	for n > 0 && d.err == nil {
		window, _ := d.r.Peek(d.r.Buffered()) // can't fail: it is all there
		window = window[:max(min(int64(len(window)), d.room()), 0)]
		skipped := 0
		for ; n > 0 && len(window) >= 8; n-- {
			length := binary.LittleEndian.Uint64(window)
			if length > uint64(len(window)-8) {
				break
			}
			window = window[8+length:]
			skipped += 8 + int(length)
		}
		k, err := d.r.Discard(skipped)
		d.took(int64(k), err)
		if n > 0 {
			d.skip(int64(d.length("array")))
			n--
		}
	}
}

// room is how many bytes may still be read.
func (d *decoder) room() int64 { return min(d.size, maxHeader) - d.pos }

func (d *decoder) need(n int64, what string) bool {
	if n <= d.room() {
		return true
	}
	if d.size-d.pos < n {
		d.fail("is cut off: it ends in the middle of its header (%s): download or copy it again", what)
	} else {
		d.fail("is corrupt: its header is larger than %d MiB", maxHeader>>20)
	}
	return false
}

func (d *decoder) took(n int64, err error) {
	d.pos += n
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = corrupt("ended early: it became shorter while it was read")
	}
	if err != nil && d.err == nil {
		d.err = err
	}
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = corrupt(format, args...)
	}
}
