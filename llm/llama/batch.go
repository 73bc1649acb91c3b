//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"fmt"
	"unsafe"

	"cllm/llm"
)

// A batch goes to C as the Go slice that it is: both sides must agree on a row.
var _ = [1]struct{}{}[unsafe.Sizeof(llm.Row{})-unsafe.Sizeof(C.cllm_row{})+
	unsafe.Offsetof(llm.Row{}.Pos)-unsafe.Offsetof(C.cllm_row{}.pos)+
	unsafe.Offsetof(llm.Row{}.Seq)-unsafe.Offsetof(C.cllm_row{}.seq)+
	unsafe.Offsetof(llm.Row{}.Logits)-unsafe.Offsetof(C.cllm_row{}.logits)]

// Decode computes rows, in one call into C, and returns when the logits are there.
func (c *Context) Decode(rows []llm.Row) error {
	c.uses++
	c.rows = 0
	if err := c.check(rows); err != nil {
		return err
	}
	defer c.holdAdapters()()
	var cerr C.cllm_error
	code := int(C.cllm_decode(c.c, (*C.cllm_row)(unsafe.Pointer(&rows[0])), C.int32_t(len(rows)), &cerr))
	if code == 0 {
		c.rows = len(rows)
		if c.memory {
			copy(c.held, c.next)
		}
		c.stale = false
		return nil
	}
	drainLog()
	class := decodeClass(code)
	if class != llm.ErrInvalidBatch {
		c.stale = false
	}
	if class == llm.ErrAborted || class == llm.ErrFatal {
		for seq := range c.held {
			c.held[seq] = llm.Pos(C.cllm_seq_held(c.c, C.int32_t(seq)))
		}
	}
	return &Error{Op: "decode", Code: code, Detail: cause(C.GoString(&cerr.text[0])), Class: class}
}

// decodeClass tells apart the ways in which llama_decode fails.
func decodeClass(code int) error {
	switch {
	case code == 1:
		return llm.ErrNoRoom
	case code == 2:
		return llm.ErrAborted
	case code == -1:
		return llm.ErrInvalidBatch
	default:
		return llm.ErrFatal
	}
}

// check finds the batches that llama.cpp would refuse, those that it would end
// the program for, and a sequence that starts with a gap, which it would take.
// It leaves in c.next what the sequences hold afterwards.
func (c *Context) check(rows []llm.Row) error {
	invalid := func(format string, args ...any) error {
		return &Error{Op: "decode", Class: llm.ErrInvalidBatch, Detail: fmt.Sprintf(format, args...)}
	}
	if c.c == nil {
		return &Error{Op: "decode", Class: llm.ErrFatal, Detail: "the context is closed"}
	}
	if len(rows) == 0 || len(rows) > c.limits.Batch {
		return invalid("%d rows; 1 to %d are possible", len(rows), c.limits.Batch)
	}
	copy(c.next, c.held)
	outputs := 0
	for i, r := range rows {
		if r.Seq < 0 || int(r.Seq) >= len(c.next) {
			return invalid("row %d: there is no sequence %d", i, r.Seq)
		}
		if r.Token < 0 || int(r.Token) >= len(c.model.vocab.pieces) {
			return invalid("row %d: there is no token %d", i, r.Token)
		}
		if r.Pos != c.next[r.Seq] {
			return invalid("row %d: position %d of sequence %d, where %d comes next", i, r.Pos, r.Seq, c.next[r.Seq])
		}
		if int(r.Pos) >= c.limits.Context {
			return invalid("row %d: sequence %d is full; it can hold %d positions", i, r.Seq, c.limits.Context)
		}
		c.next[r.Seq]++
		if r.Logits {
			outputs++
		}
	}
	if outputs > c.limits.Outputs {
		return invalid("%d rows ask for logits; at most %d may", outputs, c.limits.Outputs)
	}
	return nil
}
