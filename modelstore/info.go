package modelstore

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"sync"

	"cllm/modelstore/gguf"
)

// Info is what a GGUF file says about itself. It is shared and must not be changed.
type Info struct {
	Architecture    string // general.architecture
	Kind            string // general.type: "model", "adapter", "projector", or "" when not given
	ContextLength   int    // tokens the model was trained for; 0 when not given
	EmbeddingLength int    // width of the model; 0 when not given
	BlockCount      int    // layers; 0 when not given
	ParameterCount  uint64 // elements of all tensors
	FileType        string // quantization, such as "Q4_K_M"; "unknown" when not given or unknown to Ollama
	ChatTemplate    string // Jinja, as the model's maker wrote it; "" when not given
	HasPooling      bool   // <architecture>.pooling_type is there: an embedding model
	UnitEmbeddings  bool   // Ollama's engine gives the model's embeddings the length 1
	HasVision       bool   // <architecture>.vision.block_count is there
	Tensors         []Tensor
}

// Tensor describes one tensor of a GGUF file.
type Tensor struct {
	Name  string
	Type  string // such as "F32"
	Shape []uint64
}

// header is a GGUF header that was read, or is being read under mu.
type header struct {
	mu    sync.Mutex
	info  *Info // nil until it was read
	pairs map[string]any
	parts uint64 // of a split model; 0 when it is not split
}

// Info reads the header of the model's GGUF file, once per blob. The error is
// ErrNoWeights, a *MissingBlobError, or says what is wrong with the file.
func (m *Model) Info() (*Info, error) {
	h, err := m.header()
	if err != nil {
		return nil, err
	}
	return h.info, nil
}

func (m *Model) header() (*header, error) {
	if m.ModelBlob.IsZero() {
		return nil, ErrNoWeights
	}
	return m.store.header(m.Name, m.ModelBlob)
}

// ModelInfo returns the key-value pairs of the GGUF file for /api/show: without
// general.name and the chat template, with general.parameter_count. Arrays are nil
// unless verbose, or empty. The map is the caller's.
func (m *Model) ModelInfo(verbose bool) (map[string]any, error) {
	if m.ModelBlob.IsZero() {
		return nil, ErrNoWeights
	}
	pairs, err := m.store.pairs(m.Name, m.ModelBlob, verbose)
	delete(pairs, "general.name")
	delete(pairs, "tokenizer.chat_template")
	return pairs, err
}

// ProjectorInfo is ModelInfo of the first projector, with all its pairs; nil for a
// model without one.
func (m *Model) ProjectorInfo(verbose bool) (map[string]any, error) {
	if len(m.projectors) == 0 {
		return nil, nil
	}
	return m.store.pairs(m.Name, m.projectors[0], verbose)
}

// pairs returns a copy of a blob's key-value pairs that encoding/json can write.
func (s *Store) pairs(n Name, d Digest, arrays bool) (map[string]any, error) {
	var pairs map[string]any
	if arrays {
		h, err := s.readHeader(n, d, true)
		if err != nil {
			return nil, err
		}
		pairs = h.pairs
	} else {
		h, err := s.header(n, d)
		if err != nil {
			return nil, err
		}
		pairs = maps.Clone(h.pairs)
	}
	for k, v := range pairs {
		pairs[k] = finite(v)
	}
	return pairs, nil
}

// finite replaces floats that JSON has no form for by nil.
func finite(v any) any {
	switch v := v.(type) {
	case float32:
		return finiteFloat(v)
	case float64:
		return finiteFloat(v)
	case []float32:
		return finiteList(v)
	case []float64:
		return finiteList(v)
	}
	return v
}

func finiteFloat[F float32 | float64](f F) any {
	if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) {
		return nil
	}
	return f
}

func finiteList[F float32 | float64](list []F) any {
	for _, f := range list {
		if finiteFloat(f) == nil {
			replaced := make([]any, len(list))
			for i, f := range list {
				replaced[i] = finiteFloat(f)
			}
			return replaced
		}
	}
	return list
}

// header returns the GGUF header of a blob without arrays, read once.
func (s *Store) header(n Name, d Digest) (*header, error) {
	s.cacheMu.Lock()
	h := s.headers[d]
	if h == nil {
		h = &header{}
		s.headers[d] = h
	}
	s.cacheMu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.info == nil {
		read, err := s.readHeader(n, d, false)
		if err != nil {
			s.forgetHeader(d)
			return nil, err
		}
		h.info, h.pairs, h.parts = read.info, read.pairs, read.parts
	}
	return h, nil
}

func (s *Store) forgetHeader(d Digest) {
	s.cacheMu.Lock()
	delete(s.headers, d)
	s.cacheMu.Unlock()
}

// readHeader reads the header of a blob that the model n needs, or a request when n
// is zero.
func (s *Store) readHeader(n Name, d Digest, arrays bool) (*header, error) {
	f, err := s.openBlob(n, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	g, err := gguf.Read(f, stat.Size(), arrays)
	switch {
	case err == nil:
		return newHeader(g), nil
	case n.Model == "":
		return nil, err
	case errors.Is(err, gguf.ErrNotGGUF):
		return nil, fmt.Errorf("model '%s' can't be used: its file %s is not in GGUF format: pull or create the model again", n.DisplayShortest(), d)
	default:
		return nil, fmt.Errorf("model '%s' can't be used: %w", n.DisplayShortest(), err)
	}
}

func newHeader(g *gguf.Header) *header {
	number := func(key string) int {
		n, _ := g.OwnUint(key)
		return int(min(n, math.MaxInt32))
	}
	i := &Info{
		Architecture:    g.Architecture(),
		Kind:            g.String("general.type"),
		ContextLength:   number("context_length"),
		EmbeddingLength: number("embedding_length"),
		BlockCount:      number("block_count"),
		ParameterCount:  g.Parameters(),
		FileType:        g.FileType(),
		ChatTemplate:    g.String("tokenizer.chat_template"),
	}
	_, i.HasPooling = g.Own("pooling_type")
	i.UnitEmbeddings = i.HasPooling && unitEmbeddings(g)
	_, i.HasVision = g.Own("vision.block_count")
	for _, t := range g.Tensors {
		i.Tensors = append(i.Tensors, Tensor{Name: t.Name, Type: t.Type(), Shape: t.Shape})
	}
	g.Pairs["general.parameter_count"] = i.ParameterCount
	parts, _ := g.Uint("split.count")
	return &header{info: i, pairs: g.Pairs, parts: parts}
}

// unitEmbeddings is Ollama's rule for the architectures that its own engine runs:
// some ask the file, with a default of their own.
func unitEmbeddings(g *gguf.Header) bool {
	switch architecture := g.Architecture(); architecture {
	case "gemma3", "qwen3":
		return true
	case "bert", "nomic-bert":
		own, _ := g.Own("normalize_embeddings")
		if said, ok := own.(bool); ok {
			return said
		}
		return architecture == "bert"
	default:
		return false
	}
}
