//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"fmt"
	"slices"
	"unsafe"

	"cllm/llm"
)

// Embed returns the embedding of each token list, as the model gives it: its
// length is not normalized. The context is one made with Embeddings; what it
// held before is forgotten. A list that is longer than a batch or the context
// is an error that wraps ErrTooLong; an empty one has no embedding.
func (c *Context) Embed(lists [][]llm.Token) ([][]float32, error) {
	c.uses++
	if c.c == nil || !c.embeds {
		return nil, fmt.Errorf("embed: the context was not made for embeddings, or it is closed")
	}
	longest := min(c.limits.Batch, c.limits.Context)
	for i, l := range lists {
		if len(l) == 0 {
			return nil, fmt.Errorf("embed: text %d of %d is empty", i+1, len(lists))
		}
		if len(l) > longest {
			return nil, &Error{Op: "embed", Class: ErrTooLong, Detail: fmt.Sprintf("%d tokens, %d are possible", len(l), longest)}
		}
	}
	out := make([][]float32, 0, len(lists))
	for len(out) < len(lists) {
		group := c.fitting(lists[len(out):])
		vectors, err := c.embed(group)
		if err != nil {
			return nil, err
		}
		out = append(out, vectors...)
	}
	return out, nil
}

// fitting returns as many lists from the start as one batch can take.
func (c *Context) fitting(lists [][]llm.Token) [][]llm.Token {
	tokens := 0
	for i, l := range lists {
		if tokens += len(l); i == c.limits.Sequences || tokens > min(c.limits.Batch, c.cells) {
			return lists[:i]
		}
	}
	return lists
}

// embed computes one batch, a sequence per list.
func (c *Context) embed(lists [][]llm.Token) ([][]float32, error) {
	var rows []llm.Row
	last := make([]int, len(lists))
	for seq, l := range lists {
		if err := c.truncate(llm.SeqID(seq), 0); err != nil {
			return nil, err
		}
		for i, t := range l {
			rows = append(rows, llm.Row{Token: t, Pos: llm.Pos(i), Seq: llm.SeqID(seq), Logits: true})
		}
		last[seq] = len(rows) - 1
	}
	if err := c.Decode(rows); err != nil {
		return nil, err
	}
	out := make([][]float32, len(lists))
	for seq := range lists {
		var cerr C.cllm_error
		p := C.cllm_embedding(c.c, C.int32_t(seq), C.int32_t(last[seq]), &cerr)
		if p == nil {
			return nil, &Error{Op: "embed", Class: llm.ErrUnsupported, Detail: "the model gives no embedding"}
		}
		out[seq] = slices.Clone(unsafe.Slice((*float32)(unsafe.Pointer(p)), c.width))
		if err := c.truncate(llm.SeqID(seq), 0); err != nil {
			return nil, err
		}
	}
	return out, nil
}
