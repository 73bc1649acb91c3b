package daemon

import (
	"context"

	"cllm/llm"
)

// Loader opens models. It is called from one goroutine at a time.
type Loader interface {
	// Load reads the weights and makes an engine of them. It calls progress with
	// the fraction that is done, again and again: a load that does not is taken
	// for stalled. It ends soon after ctx does.
	Load(ctx context.Context, spec LoadSpec, progress func(fraction float32)) (*Loaded, error)
}

// LoadSpec says what to load and how.
type LoadSpec struct {
	ModelPath    string   // the GGUF file
	AdapterPaths []string // LoRA, applied to every request

	Slots   int   // sequences
	Context int   // positions per sequence; 0: what the model was trained for
	Threads int   // 0: one per core
	GPU     int   // layers on the GPU; negative: as many as fit
	MainGPU int   // index of the GPU for what is not split
	UseMMap *bool // nil: the engine's choice
}

// Loaded is a model in memory.
type Loaded struct {
	Engine llm.Engine // its owner closes it
	Vocab  llm.Vocab
	Size   int64 // bytes of weights and buffers, without the KV cache
	VRAM   int64 // bytes of Size that are on a GPU

	// Grammar compiles GBNF text for the model's vocabulary.
	Grammar func(gbnf string) (llm.Grammar, error)

	// Close frees the weights and the vocabulary. It is called once, after the
	// engine was closed.
	Close func()
}
