package llamaloader

import (
	"context"
	"errors"

	"cllm/daemon"
	"cllm/llm"
	"cllm/llm/llama"
)

// weights are a model in memory with what is made over it.
type weights struct {
	*Loader
	set      *weightSet
	model    *llama.Model // of the set
	spec     daemon.LoadSpec
	adapters []*llama.Adapter
	scales   []float32
	context  int             // positions of a sequence of the engine; 0: there is none
	embedder *llama.Embedder // that openEmbedder gives out first; nil: it makes one
}

// prepare loads the adapters, and makes the engine. A model that gives embeddings
// only gets an embedder in its place, so that a load which succeeded can be used.
func (w *weights) prepare(ctx context.Context) (engine *llama.Context, err error) {
	for _, path := range w.spec.AdapterPaths {
		a, err := w.model.LoadAdapter(path)
		if err != nil {
			return nil, err
		}
		w.adapters = append(w.adapters, a)
		w.scales = append(w.scales, 1)
	}
	if !w.spec.Embeddings {
		engine, err = w.newContext(ctx, w.model, w.spec)
		switch {
		case err == nil:
			w.context = engine.Limits().Context
			if err = w.adapt(engine); err == nil {
				err = ctx.Err()
			}
			if err != nil {
				engine.Close()
			}
			return engine, err
		case !errors.Is(err, llm.ErrUnsupported):
			return nil, err
		}
		w.log.Info("the model can't answer; it gives embeddings only", "file", w.spec.ModelPath, "reason", err)
	}
	if w.embedder, err = w.newEmbedder(); err != nil {
		return nil, err
	}
	return nil, ctx.Err()
}

// adapt applies the adapters.
func (w *weights) adapt(to interface {
	SetAdapters([]*llama.Adapter, []float32) error
}) error {
	if len(w.adapters) == 0 {
		return nil
	}
	return to.SetAdapters(w.adapters, w.scales)
}

// openEmbedder is daemon.Loaded.OpenEmbedder.
func (w *weights) openEmbedder() (llm.Embedder, error) {
	if e := w.embedder; e != nil {
		w.embedder = nil
		return e, nil
	}
	e, err := w.newEmbedder()
	if err != nil {
		return nil, err // not e: an interface with a nil pointer in it is not nil
	}
	return e, nil
}

// leastOnGPU is the tokens that a text may have on a GPU if the model was trained for
// so many. Memory for them is reserved there, at the answers' expense.
const leastOnGPU = 8192

// newEmbedder makes an embedder for texts as long as the engine's requests may be,
// or as the model was trained for. Where there is no memory for that, it tries half
// as many tokens until they fit.
func (w *weights) newEmbedder() (*llama.Embedder, error) {
	positions := w.context
	if positions == 0 {
		info := w.model.Info()
		positions = contextLength(info.TrainContext, int64(info.Size), 1, w.spec.Context)
	}
	if w.spec.GPU != 0 && gpuFree() > 0 {
		positions = min(positions, max(leastOnGPU, w.spec.Context))
	}
	for {
		e, err := w.model.NewEmbedder(llama.EmbedderOptions{
			Context:        positions,
			Threads:        w.spec.Threads,
			KVType:         w.kvType,
			FlashAttention: w.flash,
		})
		switch {
		case err == nil:
			if err = w.adapt(e); err != nil {
				e.Close()
			}
			return e, err
		case !errors.Is(err, llama.ErrNoMemory) || positions/2 < leastContext:
			return nil, err
		}
		w.log.Warn("no memory for embeddings of texts of this length, trying half of it", "tokens", positions)
		positions /= 2
	}
}

// close frees all but what was given out.
func (w *weights) close() {
	if w.embedder != nil {
		w.embedder.Close()
	}
	for _, a := range w.adapters {
		a.Close()
	}
	w.pool.drop(w.set)
}
