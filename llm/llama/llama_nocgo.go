//go:build !cgo

package llama

import (
	"context"
	"errors"
	"log/slog"

	"cllm/llm"
)

// errNoCgo is all that this build can say.
var errNoCgo = errors.New("this build has no engine: it was made without cgo; build with CGO_ENABLED=1, a C++ compiler and llama.cpp (make build)")

// OpenHandles returns 0: nothing can be opened.
func OpenHandles() int { return 0 }

// SetLogger does nothing: nothing is logged.
func SetLogger(*slog.Logger) {}

// SystemInfo is empty.
func SystemInfo() string { return "" }

// Devices lists none.
func Devices() []Device { return nil }

// SchemaToGrammar says what is missing.
func SchemaToGrammar([]byte) (string, error) { return "", errNoCgo }

// Top finds nothing.
func Top([]float32, int) []llm.Candidate { return nil }

// LoadModel says what is missing.
func LoadModel(context.Context, string, ModelOptions) (*Model, error) { return nil, errNoCgo }

// Quantize says what is missing.
func Quantize(context.Context, string, string, QuantType, int, func(float32)) error { return errNoCgo }

// Model can't be made.
type Model struct{ _ [0]func() }

// Close does nothing.
func (*Model) Close() {}

// Vocab returns an empty vocabulary.
func (*Model) Vocab() *Vocab { return new(Vocab) }

// Info is empty.
func (*Model) Info() Info { return Info{} }

// Meta finds nothing.
func (*Model) Meta(string) (string, bool) { return "", false }

// NewContext says what is missing.
func (*Model) NewContext(ContextOptions) (*Context, error) { return nil, errNoCgo }

// NewEmbedder says what is missing.
func (*Model) NewEmbedder(EmbedderOptions) (*Embedder, error) { return nil, errNoCgo }

// LoadAdapter says what is missing.
func (*Model) LoadAdapter(string) (*Adapter, error) { return nil, errNoCgo }

// Vocab is empty.
type Vocab struct{ _ [0]func() }

var _ llm.Vocab = (*Vocab)(nil)

func (*Vocab) Tokenize(string, bool) []llm.Token { return nil }
func (*Vocab) Piece(llm.Token) string            { return "" }
func (*Vocab) IsEnd(llm.Token) bool              { return false }
func (*Vocab) BOS() int                          { return 0 }
func (*Vocab) Size() int                         { return 0 }

// Context can't be made.
type Context struct{ _ [0]func() }

var _ llm.Engine = (*Context)(nil)

func (*Context) Limits() llm.Limits                              { return llm.Limits{} }
func (*Context) Cells() int                                      { return 0 }
func (*Context) Decode([]llm.Row) error                          { return errNoCgo }
func (*Context) Held(llm.SeqID) llm.Pos                          { return 0 }
func (*Context) Truncate(llm.SeqID, llm.Pos) error               { return errNoCgo }
func (*Context) Shift(llm.SeqID, llm.Pos, llm.Pos) error         { return errNoCgo }
func (*Context) Copy(llm.SeqID, llm.SeqID, llm.Pos) error        { return errNoCgo }
func (*Context) StateSize(llm.SeqID) (int, error)                { return 0, errNoCgo }
func (*Context) SaveState(_ llm.SeqID, b []byte) ([]byte, error) { return b, errNoCgo }
func (*Context) LoadState(llm.SeqID, []byte) error               { return errNoCgo }
func (*Context) Logits(int) ([]float32, error)                   { return nil, errNoCgo }
func (*Context) SetAdapters([]*Adapter, []float32) error         { return errNoCgo }
func (*Context) Abort()                                          {}
func (*Context) Trim()                                           {}
func (*Context) Close()                                          {}

// Sample fails every pick.
func (*Context) Sample(picks []llm.Pick) {
	for i := range picks {
		picks[i].Err = errNoCgo
	}
}

// Embedder can't be made.
type Embedder struct{ _ [0]func() }

var _ llm.Embedder = (*Embedder)(nil)

func (*Embedder) Limits() llm.EmbedLimits                 { return llm.EmbedLimits{} }
func (*Embedder) Embed([]llm.EmbedPart) error             { return errNoCgo }
func (*Embedder) Forget(llm.SeqID)                        {}
func (*Embedder) SetAdapters([]*Adapter, []float32) error { return errNoCgo }
func (*Embedder) Abort()                                  {}
func (*Embedder) Close()                                  {}

// Adapter can't be made.
type Adapter struct{ _ [0]func() }

// Close does nothing.
func (*Adapter) Close() {}
