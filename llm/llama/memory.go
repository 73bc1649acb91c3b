//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"fmt"
	"unsafe"

	"cllm/llm"
)

// Held returns how many positions the sequence holds.
func (c *Context) Held(seq llm.SeqID) llm.Pos {
	c.uses++
	if c.checkSeq("held", seq) != nil {
		return 0
	}
	return c.held[seq]
}

// Truncate forgets all positions from n on.
func (c *Context) Truncate(seq llm.SeqID, n llm.Pos) error {
	c.uses++
	if err := c.checkSeq("truncate", seq); err != nil {
		return err
	}
	return c.truncate(seq, n)
}

func (c *Context) truncate(seq llm.SeqID, n llm.Pos) error {
	if n >= c.held[seq] {
		return nil
	}
	var cerr C.cllm_error
	C.cllm_seq_truncate(c.c, C.int32_t(seq), C.int32_t(n), &cerr)
	return c.moved("truncate", seq, &cerr)
}

// Shift forgets the positions keep to keep+discard-1 and moves the later ones
// down by discard. The cells themselves are updated by the next decode.
func (c *Context) Shift(seq llm.SeqID, keep, discard llm.Pos) error {
	c.uses++
	if err := c.checkSeq("shift", seq); err != nil {
		return err
	}
	if keep < 0 || discard < 0 || keep+discard > c.held[seq] {
		return &Error{Op: "shift", Class: llm.ErrInvalidBatch,
			Detail: fmt.Sprintf("positions %d to %d of %d", keep, keep+discard, c.held[seq])}
	}
	if !c.canShift {
		return &Error{Op: "shift", Class: llm.ErrUnsupported}
	}
	if discard == 0 {
		return nil
	}
	var cerr C.cllm_error
	C.cllm_seq_shift(c.c, C.int32_t(seq), C.int32_t(keep), C.int32_t(discard), &cerr)
	c.stale = true
	return c.moved("shift", seq, &cerr)
}

// Copy makes dst hold what the first n positions of src hold. A unified cache
// shares the cells; otherwise their content is copied. A model that keeps one
// state can only copy all of it: llm.ErrUnsupported otherwise, and dst is empty.
func (c *Context) Copy(dst, src llm.SeqID, n llm.Pos) error {
	c.uses++
	if err := c.checkSeq("copy", dst); err != nil {
		return err
	}
	if err := c.checkSeq("copy", src); err != nil {
		return err
	}
	if n < 0 || n > c.held[src] {
		return &Error{Op: "copy", Class: llm.ErrInvalidBatch, Detail: fmt.Sprintf("%d positions of %d", n, c.held[src])}
	}
	if dst == src {
		return c.truncate(src, n)
	}
	// A cache of its own is overwritten, in the memory that it has.
	if c.limits.Unified || n == 0 {
		if err := c.truncate(dst, 0); err != nil || n == 0 {
			return err
		}
	}
	all := n == c.held[src]
	if c.whole && !all {
		return c.forget(dst, &Error{Op: "copy", Class: llm.ErrUnsupported})
	}
	count := C.int32_t(n)
	if all || !c.limits.Unified {
		count = -1 // parts of a sequence have caches of their own: only all of it can be copied
	}
	var cerr C.cllm_error
	C.cllm_seq_share(c.c, C.int32_t(dst), C.int32_t(src), count, &cerr)
	if err := c.moved("copy", dst, &cerr); err != nil || c.limits.Unified {
		return err
	}
	c.stale = true
	if err := c.truncate(dst, n); err != nil {
		return c.forget(dst, err)
	}
	return nil
}

// Trim gives back the memory that empty sequences have left.
func (c *Context) Trim() {
	c.uses++
	if c.c == nil || !c.memory || c.limits.Unified {
		return
	}
	for seq := range c.held {
		if c.held[seq] == 0 {
			var cerr C.cllm_error
			C.cllm_seq_truncate(c.c, C.int32_t(seq), 0, &cerr)
		}
	}
}

// settle does the shifts and copies that llama.cpp leaves to the next decode. A
// saved state would hold the new positions with the old content otherwise, and a
// loaded one be overwritten. One token is decoded, and forgotten. When there is no
// room for the token the update has happened all the same.
func (c *Context) settle(seq llm.SeqID) error {
	if !c.stale {
		return nil
	}
	n := c.held[seq]
	row := C.cllm_row{pos: C.int32_t(n), seq: C.int32_t(seq)}
	var cerr C.cllm_error
	if code := int(C.cllm_decode(c.c, &row, 1, &cerr)); code != 0 && code != 1 {
		return &Error{Op: "update the cache", Code: code, Detail: cause(C.GoString(&cerr.text[0])), Class: decodeClass(code)}
	}
	c.rows = 0
	c.stale = false
	C.cllm_seq_truncate(c.c, C.int32_t(seq), C.int32_t(n), &cerr)
	return c.moved("update the cache", seq, &cerr)
}

// StateSize is the number of bytes that SaveState needs for the sequence.
func (c *Context) StateSize(seq llm.SeqID) (int, error) {
	c.uses++
	if err := c.checkSeq("save state", seq); err != nil {
		return 0, err
	}
	var cerr C.cllm_error
	n := C.cllm_state_size(c.c, C.int32_t(seq), &cerr)
	return int(n), failure("save state", &cerr, nil)
}

// SaveState appends what the sequence holds to buf.
func (c *Context) SaveState(seq llm.SeqID, buf []byte) ([]byte, error) {
	n, err := c.StateSize(seq)
	if err != nil {
		return buf, err
	}
	if err := c.settle(seq); err != nil {
		return buf, err
	}
	start := len(buf)
	if cap(buf)-start < n {
		buf = append(make([]byte, 0, start+n), buf...)
	}
	var cerr C.cllm_error
	n = int(C.cllm_state_get(c.c, C.int32_t(seq), unsafe.Pointer(unsafe.SliceData(buf[start:start+n])), C.int64_t(n), &cerr))
	return buf[:start+n], failure("save state", &cerr, nil)
}

// LoadState makes the sequence hold what SaveState saved, in a context of the
// same model and options. On an error it holds nothing.
func (c *Context) LoadState(seq llm.SeqID, state []byte) error {
	c.uses++
	if err := c.checkSeq("load state", seq); err != nil {
		return err
	}
	if !c.memory || len(state) == 0 {
		return &Error{Op: "load state", Class: llm.ErrUnsupported, Detail: "there is no state"}
	}
	if err := c.settle(seq); err != nil {
		return err
	}
	var cerr C.cllm_error
	C.cllm_state_set(c.c, C.int32_t(seq), unsafe.Pointer(&state[0]), C.int64_t(len(state)), &cerr)
	return c.moved("load state", seq, &cerr)
}

func (c *Context) checkSeq(op string, seq llm.SeqID) error {
	switch {
	case c.c == nil:
		return &Error{Op: op, Class: llm.ErrFatal, Detail: "the context is closed"}
	case seq < 0 || int(seq) >= len(c.held):
		return &Error{Op: op, Class: llm.ErrInvalidBatch, Detail: fmt.Sprintf("there is no sequence %d", seq)}
	}
	return nil
}

// moved notes what a sequence holds after a call that changed it.
func (c *Context) moved(op string, seq llm.SeqID, cerr *C.cllm_error) error {
	c.held[seq] = llm.Pos(C.cllm_seq_held(c.c, C.int32_t(seq)))
	var class error
	if cerr.code == C.CLLM_UNSUPPORTED {
		class = llm.ErrUnsupported
	}
	return failure(op, cerr, class)
}

// forget empties a sequence after a call that failed half-way.
func (c *Context) forget(seq llm.SeqID, err error) error {
	var cerr C.cllm_error
	C.cllm_seq_truncate(c.c, C.int32_t(seq), 0, &cerr)
	c.held[seq] = 0
	return err
}
