package llama

import (
	"fmt"
	"strings"
)

// ModelOptions say how a model is loaded. The zero value loads it into the
// machine's memory.
type ModelOptions struct {
	GPULayers int           // layers on GPUs; negative: all
	MainGPU   int           // the GPU of a model that is on one only
	UseMmap   *bool         // map the file instead of reading it; nil: what suits the devices
	VocabOnly bool          // the vocabulary and the metadata, no weights
	Progress  func(float32) // called with 0 to 1, from the goroutine that loads
}

// Info describes a model.
type Info struct {
	Description  string // architecture, size and number format in words
	Parameters   uint64
	Size         uint64 // bytes of the tensors
	TrainContext int    // positions that the model was trained for
	Embedding    int    // width of an embedding
	Layers       int
	Recurrent    bool // keeps one state, not a cache of positions
	Hybrid       bool // keeps both
	HasEncoder   bool
	HasDecoder   bool
	ChatTemplate string // the model's own, in Jinja; may be empty
}

// KVType is the number format of the KV cache.
type KVType int32

// The numbers are ggml's.
const (
	KVF16  KVType = 1
	KVQ4_0 KVType = 2
	KVQ8_0 KVType = 8
)

// ParseKVType reads f16, q8_0 or q4_0. The empty string is f16.
func ParseKVType(s string) (KVType, error) {
	switch strings.ToLower(s) {
	case "", "f16":
		return KVF16, nil
	case "q8_0":
		return KVQ8_0, nil
	case "q4_0":
		return KVQ4_0, nil
	}
	return 0, fmt.Errorf("unknown KV cache type %q: use f16, q8_0 or q4_0", s)
}

// FlashAttention says whether attention is computed without the whole matrix.
type FlashAttention int32

// The numbers are llama.cpp's, plus one so that auto is the zero value.
const (
	FlashAuto FlashAttention = iota
	FlashOff
	FlashOn
)

// Pooling says how the embedding of a sequence comes from those of its tokens.
type Pooling int32

// The numbers are llama.cpp's, plus one so that the model's own is the zero value.
const (
	PoolingModel Pooling = iota // what the model was made for
	PoolingNone                 // none: the last token's embedding
	PoolingMean
	PoolingCLS
	PoolingLast
	PoolingRank
)

// ContextOptions say what a context holds. Zero values are replaced as described.
type ContextOptions struct {
	Sequences          int            // sequences held at once, 1 to 256; 0: 1
	ContextPerSequence int            // positions of each, rounded up to 256; 0: what the model was trained for
	Cells              int            // unified only: tokens held in all; 0: Sequences*ContextPerSequence
	Batch              int            // rows of a Decode; 0: 2048, at least Sequences
	Ubatch             int            // rows computed in one pass; 0: 512
	Outputs            int            // rows of a batch that may ask for logits; 0: Sequences, or 16 where that is more
	Threads            int            // for a batch of one row; 0: GOMAXPROCS
	ThreadsBatch       int            // for all others; 0: Threads
	Poll               int            // how long idle threads spin, 0 (not at all) to 100; negative: 50
	Unified            bool           // one pool of cells for all sequences, instead of one part each
	KVType             KVType         // 0: f16
	FlashAttention     FlashAttention // 0: where the device can

	embeds  embedMode // for an Embedder
	pooling Pooling   // of embeds
}

// embedMode says who makes one vector of those of a text's tokens.
type embedMode int8

const (
	noEmbeddings embedMode = iota
	inParts                // this package: a text may come in parts, over several decodes
	asWhole                // llama.cpp: a text has to be computed in one pass
)

// EmbedderOptions say what an embedder holds. Zero values are replaced as described.
type EmbedderOptions struct {
	Sequences      int            // texts computed together, 1 to 256; 0: 128
	Context        int            // tokens of a text, at most what the model was trained for; 0: that
	Batch          int            // tokens computed together; 0: 2048; less where the vocabulary is large
	Threads        int            // 0: GOMAXPROCS
	Poll           int            // how long idle threads spin, 0 (not at all) to 100; negative: 50
	KVType         KVType         // 0: f16
	FlashAttention FlashAttention // 0: where the device can
	Pooling        Pooling        // 0: what the model was made for
}

// Device is a place where models can be computed.
type Device struct {
	Name        string // as llama.cpp names it: CPU, CUDA0
	Description string // the product's name
	Kind        string // cpu, gpu, igpu, accel or meta
	Total, Free uint64 // bytes of memory
}

// QuantType is a mix of number formats that a model file can have, as llama.cpp
// numbers them.
type QuantType int32

// quantTypes are the mixes that Quantize makes: those that need no importance matrix.
var quantTypes = map[string]QuantType{
	"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9,
	"Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15,
	"Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ3_S": 26, "IQ3_M": 27, "IQ4_XS": 30, "BF16": 32,
	"TQ1_0": 36, "TQ2_0": 37,
}

// ParseQuantType reads a name such as Q4_K_M, in any case.
func ParseQuantType(name string) (QuantType, error) {
	t, ok := quantTypes[strings.ToUpper(name)]
	if !ok {
		return 0, fmt.Errorf("unknown quantization type %q", name)
	}
	return t, nil
}

func (t QuantType) String() string {
	for name, q := range quantTypes {
		if q == t {
			return name
		}
	}
	return fmt.Sprintf("QuantType(%d)", int32(t))
}
