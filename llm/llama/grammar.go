//go:build cgo

package llama

// #include "shim.h"
// #include <stdlib.h>
import "C"

import (
	"fmt"
	"log/slog"
	"strings"
	"unsafe"

	"cllm/llm"
)

// Grammar is a grammar in llama.cpp's GBNF notation at some point of a text. It
// belongs to one request.
type Grammar struct {
	model *Model
	c     *C.struct_llama_sampler
}

var _ llm.Grammar = (*Grammar)(nil)

// NewGrammar reads a grammar; the text starts with the rule named root. The error
// wraps ErrBadGrammar when it does not parse.
func (m *Model) NewGrammar(gbnf, root string) (*Grammar, error) {
	if strings.TrimSpace(gbnf) == "" || strings.Contains(gbnf, "\x00") {
		return nil, &Error{Op: "new grammar", Class: ErrBadGrammar, Detail: "it is empty or holds NUL"}
	}
	if !m.acquire() {
		return nil, fmt.Errorf("new grammar: %w", errClosed)
	}
	ctext, croot := C.CString(gbnf), C.CString(root)
	defer C.free(unsafe.Pointer(ctext))
	defer C.free(unsafe.Pointer(croot))
	var cerr C.cllm_error
	c := C.cllm_grammar_new(m.c, ctext, croot, &cerr)
	if c == nil {
		m.release()
		return nil, failure("new grammar", &cerr, ErrBadGrammar)
	}
	handles.Add(1)
	return &Grammar{model: m, c: c}, nil
}

// Filter drops the candidates that may not come next, in place, and returns the
// rest. A grammar that breaks refuses all.
func (g *Grammar) Filter(c []llm.Candidate) []llm.Candidate {
	if g.c == nil || len(c) == 0 {
		return c[:0]
	}
	var cerr C.cllm_error
	n := C.cllm_grammar_filter(g.c, (*C.cllm_candidate)(unsafe.Pointer(&c[0])), C.int32_t(len(c)), &cerr)
	if err := failure("grammar", &cerr, nil); err != nil {
		slog.Error("a grammar can't be applied", "error", err)
		return c[:0]
	}
	return c[:n]
}

// Accept moves on by a token. The error wraps ErrRefused when the grammar does
// not allow it; the grammar stays where it was.
func (g *Grammar) Accept(t llm.Token) error {
	if t < 0 || int(t) >= g.model.vocab.Size() || len(g.Filter([]llm.Candidate{{Token: t}})) == 0 {
		return &Error{Op: "grammar", Class: ErrRefused, Detail: fmt.Sprintf("token %d, %q", t, g.model.vocab.Piece(t))}
	}
	var cerr C.cllm_error
	C.cllm_grammar_accept(g.c, C.int32_t(t), &cerr)
	return failure("grammar", &cerr, ErrRefused)
}

// Close frees the grammar. It may be called more than once.
func (g *Grammar) Close() {
	if g.c == nil {
		return
	}
	C.llama_sampler_free(g.c)
	g.c = nil
	handles.Add(-1)
	g.model.release()
}
