// Package llamaloader opens models for the daemon with llama.cpp.
//
// It stands apart from package daemon, which only knows the interface, so that the
// daemon and its tests build without C++ and run under the race detector.
package llamaloader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"cllm/daemon"
	"cllm/llm/llama"
)

const (
	// leastContext is the smallest context, in positions of one sequence, that is
	// tried when the memory does not do for more.
	leastContext = 2048

	// An empty KV cell takes no memory for keys and values, but llama.cpp keeps
	// this many bytes of notes on it (measured with v0.5.0: 64 sequences of 131072
	// positions take 430 MB, and 1.2 s to make). All notes together may take a tenth
	// of the weights, or noteLeast where that is more.
	noteBytes = 52
	noteLeast = 256 << 20
	noteShare = 10
)

// Options say how all models are opened. The zero value is llama.cpp's choice.
type Options struct {
	KVType         string // f16, q8_0 or q4_0; "" is f16
	FlashAttention *bool  // nil: where the device can
	Unified        bool   // one pool of KV cells for all sequences
	Log            *slog.Logger
}

// Loader opens models with llama.cpp.
type Loader struct {
	log     *slog.Logger
	kvType  llama.KVType
	flash   llama.FlashAttention
	unified bool
	pool    pool
}

var _ daemon.Loader = (*Loader)(nil)

// New returns a loader, or says which option is wrong.
func New(o Options) (*Loader, error) {
	kv, err := llama.ParseKVType(o.KVType)
	if err != nil {
		return nil, err
	}
	l := &Loader{log: o.Log, kvType: kv, unified: o.Unified}
	if l.log == nil {
		l.log = slog.Default()
	}
	switch {
	case o.FlashAttention == nil:
		l.flash = llama.FlashAuto
	case *o.FlashAttention:
		l.flash = llama.FlashOn
	default:
		l.flash = llama.FlashOff
	}
	if kv != llama.KVF16 && l.flash == llama.FlashOff {
		return nil, fmt.Errorf("a KV cache of type %s needs flash attention: unset OLLAMA_FLASH_ATTENTION or OLLAMA_KV_CACHE_TYPE", o.KVType)
	}
	return l, nil
}

// Load reads the weights and makes a context with room for all sequences, or of a
// model for embeddings an embedder.
func (l *Loader) Load(ctx context.Context, spec daemon.LoadSpec, progress func(float32)) (*daemon.Loaded, error) {
	set, err := l.weightSet(ctx, spec, progress)
	if err != nil {
		return nil, fmt.Errorf("unable to load model: %w", err)
	}
	model := set.model
	before := gpuFree()
	w := &weights{Loader: l, set: set, model: model, spec: spec}
	engine, err := w.prepare(ctx)
	if err != nil {
		w.close()
		return nil, fmt.Errorf("unable to load model: %w", err)
	}
	bytes := int64(model.Info().Size)
	size := bytes
	for _, path := range spec.AdapterPaths {
		if info, err := os.Stat(path); err == nil {
			size += info.Size()
		}
	}
	loaded := &daemon.Loaded{
		Vocab:        model.Vocab(),
		Size:         size,
		Weights:      bytes,
		VRAM:         min(size, set.vram+max(before-gpuFree(), 0)),
		OpenEmbedder: w.openEmbedder,
		Close:        w.close,
	}
	if engine != nil {
		loaded.Engine = engine
	} else {
		loaded.Context = w.embedder.Limits().Context
	}
	return loaded, nil
}

// weightSet returns the weights that the spec asks for: those of another model, or from
// the file.
func (l *Loader) weightSet(ctx context.Context, spec daemon.LoadSpec, progress func(float32)) (*weightSet, error) {
	if set := l.pool.take(spec.Weights); set != nil {
		progress(1)
		return set, nil
	}
	before := gpuFree()
	model, err := llama.LoadModel(ctx, spec.ModelPath, llama.ModelOptions{
		GPULayers: spec.GPU,
		MainGPU:   spec.MainGPU,
		UseMmap:   spec.UseMMap,
		Progress:  progress,
	})
	if err != nil {
		return nil, err
	}
	return l.pool.put(spec.Weights, model, max(before-gpuFree(), 0)), nil
}

// newContext gives each sequence all positions that the model was trained for, as
// far as the notes on empty cells allow. On a host the cells themselves cost
// address space only. Where memory is reserved at once, or the system does not
// promise more than it has, it tries half as many until they fit.
func (l *Loader) newContext(ctx context.Context, model *llama.Model, spec daemon.LoadSpec) (*llama.Context, error) {
	info := model.Info()
	positions := contextLength(info.TrainContext, int64(info.Size), spec.Slots, spec.Context)
	if positions < info.TrainContext {
		l.log.Info("a request gets a part of the context that the model was trained for; a smaller OLLAMA_NUM_PARALLEL or a greater OLLAMA_CONTEXT_LENGTH gives more",
			"context", positions, "trained", info.TrainContext, "slots", spec.Slots)
	}
	for {
		engine, err := model.NewContext(llama.ContextOptions{
			Sequences:          spec.Slots,
			ContextPerSequence: positions,
			Threads:            spec.Threads,
			Unified:            l.unified,
			KVType:             l.kvType,
			FlashAttention:     l.flash,
		})
		if !errors.Is(err, llama.ErrNoMemory) || positions/2 < leastContext || ctx.Err() != nil {
			return engine, err
		}
		l.log.Warn("no memory for the whole context, trying half of it", "slots", spec.Slots, "context", positions)
		positions /= 2
	}
}

// contextLength is how many positions each of the sequences gets, of those that a model
// with size bytes of weights was trained for.
func contextLength(trained int, size int64, slots, least int) int {
	if trained <= 0 {
		return least
	}
	notes := max(size/noteShare, noteLeast)
	return min(trained, max(int(notes/noteBytes)/slots, least))
}

// gpuFree is the free memory of all GPUs, in bytes.
func gpuFree() (free int64) {
	for _, d := range llama.Devices() {
		if d.Kind == "gpu" || d.Kind == "igpu" {
			free += int64(d.Free)
		}
	}
	return free
}

// SchemaToGrammar makes a grammar of a JSON schema as llama.cpp does.
func (l *Loader) SchemaToGrammar(schema []byte) (string, error) {
	return llama.SchemaToGrammar(schema)
}

// Quantize writes the model file src in the number format typ to dst. Progress is
// in bytes of src.
func (l *Loader) Quantize(ctx context.Context, src, dst, typ string, progress func(done, total int64)) error {
	t, err := llama.ParseQuantType(typ)
	if err != nil {
		return err
	}
	info, err := os.Stat(src)
	if err != nil {
		return fmt.Errorf("quantize: %w", err)
	}
	total := info.Size()
	return llama.Quantize(ctx, src, dst, t, 0, func(fraction float32) {
		progress(int64(float64(fraction)*float64(total)), total)
	})
}
