//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"log/slog"
	"math"
	"strings"
	"unsafe"

	"cllm/llm"
)

// Vocab is a model's vocabulary. It may be used by many goroutines.
type Vocab struct {
	model  *Model
	pieces []string // all parts of one string
	end    []bool
	bos    int
}

var _ llm.Vocab = (*Vocab)(nil)

// newVocab fetches all pieces, in one call.
func newVocab(m *Model) (*Vocab, error) {
	var p C.cllm_pieces
	var cerr C.cllm_error
	if !C.cllm_vocab_pieces(m.c, &p, &cerr) {
		C.cllm_pieces_free(&p)
		return nil, failure("read vocabulary", &cerr, ErrBadModel)
	}
	defer C.cllm_pieces_free(&p)
	n := int(p.n)
	offsets := unsafe.Slice((*int64)(unsafe.Pointer(p.offsets)), n+1)
	text := string(bytesAt(unsafe.Pointer(p.text), int(offsets[n])))
	end := bytesAt(unsafe.Pointer(p.end), n)

	v := &Vocab{model: m, pieces: make([]string, n), end: make([]bool, n)}
	for i := range n {
		v.pieces[i] = text[offsets[i]:offsets[i+1]]
		v.end[i] = end[i] != 0
	}
	cv := C.llama_model_get_vocab(m.c)
	if t := v.Tokenize("", true); len(t) > 0 && bool(C.llama_vocab_get_add_bos(cv)) && C.llama_token(t[0]) == C.llama_vocab_bos(cv) {
		v.bos = 1
	}
	return v, nil
}

// Tokenize cuts text into tokens. Bytes that are not UTF-8 become tokens, too.
// After the model is closed there are none.
func (v *Vocab) Tokenize(text string, special bool) []llm.Token {
	if !v.model.acquire() {
		return nil
	}
	defer v.model.release()
	if len(text) > math.MaxInt32/2 {
		slog.Error("a text is too long to be cut into tokens", "bytes", len(text))
		return nil
	}
	// Few texts have more than a token per two bytes; those take a second call.
	room := len(text)/2 + 16
	tokens, n, err := v.tokenize(text, special, room)
	if err == nil && n < 0 {
		tokens, n, err = v.tokenize(text, special, -n)
	}
	if err != nil && strings.ToValidUTF8(text, "\uFFFD") != text {
		return v.Tokenize(strings.ToValidUTF8(text, "\uFFFD"), special)
	}
	if err != nil || n < 0 {
		slog.Error("a text can't be cut into tokens", "bytes", len(text), "error", err)
		return nil
	}
	return tokens[:n]
}

func (v *Vocab) tokenize(text string, special bool, room int) ([]llm.Token, int, error) {
	var cerr C.cllm_error
	tokens := make([]llm.Token, room)
	n := C.cllm_tokenize(v.model.c, (*C.char)(unsafe.Pointer(unsafe.StringData(text))), C.int32_t(len(text)),
		(*C.int32_t)(unsafe.Pointer(&tokens[0])), C.int32_t(room), C.bool(special), &cerr)
	return tokens, int(n), failure("tokenize", &cerr, nil)
}

// Piece returns the bytes that a token stands for; none for a token that isn't in
// the vocabulary.
func (v *Vocab) Piece(t llm.Token) string {
	if t < 0 || int(t) >= len(v.pieces) {
		return ""
	}
	return v.pieces[t]
}

// IsEnd reports whether t ends the generation.
func (v *Vocab) IsEnd(t llm.Token) bool {
	return t >= 0 && int(t) < len(v.end) && v.end[t]
}

// BOS reports how many tokens Tokenize with special puts before the text: 0 or 1.
func (v *Vocab) BOS() int { return v.bos }

// Size is the number of tokens.
func (v *Vocab) Size() int { return len(v.pieces) }
