package gguf

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrParts is wrapped by the error of Merge when the files are not the parts of one
// model.
var ErrParts = errors.New("the GGUF files are not all parts of one model")

// The pairs by which llama.cpp's gguf-split marks a part.
const (
	splitKeys  = "split."
	splitNo    = "split.no"
	splitCount = "split.count"
	splitAll   = "split.tensors.count"
)

// Parts is the number of files that the model was split into; 0 or 1: it is whole.
func (h *Header) Parts() uint64 {
	n, _ := h.Uint(splitCount)
	return n
}

// Part is one file of a model that was split.
type Part struct {
	io.ReaderAt
	Size int64
}

// part is a Part that was read.
type part struct {
	Part
	head   *Header
	spans  []span
	before int64 // bytes of tensor data in the parts before it
	data   int64 // bytes of its own, rounded up
}

// maxAlignment is far more than anybody uses: 32 is usual.
const maxAlignment = 64 << 10

// Merge writes one file with all that the parts hold, in the order that their numbers
// say. progress is called with the bytes written so far. It needs no more memory than
// the headers. Beside the errors of reading and writing the error is ErrNotGGUF, an
// *Error, or wraps ErrParts.
func Merge(ctx context.Context, files []Part, w io.Writer, progress func(done, total int64)) error {
	parts, err := order(files)
	if err != nil {
		return err
	}
	align := parts[0].head.alignment()
	total := int64(0)
	for _, p := range parts {
		if p.head.alignment() != align || align > maxAlignment {
			return fmt.Errorf("%w: their data is aligned differently or oddly: split the model again", ErrParts)
		}
		p.before = total
		p.data = padded(p.size(), align)
		total += p.data
	}
	out := &counted{w: bufio.NewWriterSize(w, 1<<20)}
	if err := writeHeader(out, parts); err != nil {
		return err
	}
	if err := out.zeros(padded(out.n, align) - out.n); err != nil {
		return err
	}
	for _, p := range parts {
		if err := p.copyData(ctx, out, func(done int64) { progress(p.before+done, total) }); err != nil {
			return err
		}
	}
	return out.w.Flush()
}

// order reads the headers and brings the parts into the order of their numbers.
func order(files []Part) ([]*part, error) {
	parts := make([]*part, len(files))
	tensors := make(map[string]bool)
	for _, f := range files {
		h, spans, err := readSpans(io.NewSectionReader(f, 0, f.Size), f.Size, false)
		if err != nil {
			return nil, err
		}
		no, ok := h.Uint(splitNo)
		switch {
		case !ok || h.Parts() != uint64(len(files)):
			return nil, fmt.Errorf("%w: one says that it is of %d, there are %d: give all parts of one model, and nothing else", ErrParts, h.Parts(), len(files))
		case no >= uint64(len(files)) || parts[no] != nil:
			return nil, fmt.Errorf("%w: the number %d is there twice or too large", ErrParts, no+1)
		}
		for _, t := range h.Tensors {
			if tensors[t.Name] {
				return nil, fmt.Errorf("%w: the tensor %.80q is in two of them", ErrParts, t.Name)
			}
			tensors[t.Name] = true
		}
		if len(tensors) > maxTensor {
			return nil, corrupt("holds %d tensors or more in all its parts, the most is %d", len(tensors), maxTensor)
		}
		parts[no] = &part{Part: f, head: h, spans: spans}
	}
	if n, ok := parts[0].head.Uint(splitAll); ok && n != uint64(len(tensors)) {
		return nil, fmt.Errorf("%w: the model has %d tensors, they hold %d", ErrParts, n, len(tensors))
	}
	return parts, nil
}

// writeHeader writes the pairs of the first part, but for those of the split, and the
// descriptions of all tensors.
func writeHeader(out *counted, parts []*part) error {
	var kept []span
	for _, s := range parts[0].spans {
		if !strings.HasPrefix(s.key, splitKeys) {
			kept = append(kept, s)
		}
	}
	tensors := 0
	for _, p := range parts {
		tensors += len(p.head.Tensors)
	}
	le := binary.LittleEndian
	head := le.AppendUint32([]byte("GGUF"), 3)
	head = le.AppendUint64(le.AppendUint64(head, uint64(tensors)), uint64(len(kept)))
	if _, err := out.Write(head); err != nil {
		return err
	}
	for _, s := range kept {
		if _, err := io.Copy(out, io.NewSectionReader(parts[0], s.from, s.to-s.from)); err != nil {
			return err
		}
	}
	for _, p := range parts {
		for _, t := range p.head.Tensors {
			b := append(le.AppendUint64(nil, uint64(len(t.Name))), t.Name...)
			b = le.AppendUint32(b, uint32(len(t.Shape)))
			for _, d := range t.Shape {
				b = le.AppendUint64(b, d)
			}
			b = le.AppendUint64(le.AppendUint32(b, t.Kind), uint64(p.before)+t.Offset)
			if _, err := out.Write(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// size is how much data the part has: up to the end of its last tensor or, where the
// size of a tensor is not known, to that of the file.
func (p *part) size() (end int64) {
	for _, t := range p.head.Tensors {
		n, _ := t.size() // it was checked
		if n == 0 && t.Elements() > 0 {
			return p.Size - p.head.DataOffset
		}
		end = max(end, int64(t.Offset+n))
	}
	return end
}

// copyData copies the part's tensor data, and fills it up.
func (p *part) copyData(ctx context.Context, out *counted, progress func(done int64)) error {
	size := p.size()
	for done := int64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.Copy(out, io.NewSectionReader(p, p.head.DataOffset+done, min(size-done, 4<<20)))
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		done += n
		progress(done)
	}
	return out.zeros(p.data - size)
}

// counted counts the bytes that it writes.
type counted struct {
	w *bufio.Writer
	n int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func (c *counted) zeros(n int64) error {
	_, err := c.Write(make([]byte, n))
	return err
}

func padded(n, align int64) int64 { return (n + align - 1) / align * align }
