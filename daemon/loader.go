package daemon

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ollama/ollama/format"

	"cllm/llm"
	"cllm/modelstore"
)

// Loader opens models. Loads come one after another, except that one which was
// given up may still run beside the next.
type Loader interface {
	// Load reads the weights and makes an engine of them. It calls progress with
	// the fraction that is done as it grows: a load whose fraction does not grow is
	// taken for stalled. It ends soon after ctx does.
	Load(ctx context.Context, spec LoadSpec, progress func(fraction float32)) (*Loaded, error)

	// SchemaToGrammar makes a grammar, in GBNF, of a JSON schema. An error says that
	// the schema is not valid or can't be had as a grammar.
	SchemaToGrammar(schema []byte) (gbnf string, err error)

	// Quantize is what modelstore.CreateRequest.Quantize asks for.
	Quantize(ctx context.Context, src, dst, typ string, progress func(done, total int64)) error
}

// LoadSpec says what to load and how.
type LoadSpec struct {
	ModelPath    string   // the GGUF file
	Weights      string   // loads for which it is the same share one set of weights; "": none does
	AdapterPaths []string // LoRA, applied to every request
	Embeddings   bool     // the model was made for embeddings: it needs no engine

	Slots   int   // sequences
	Context int   // positions that a sequence shall have at least, if the model was trained for so many
	Threads int   // 0: one per core
	GPU     int   // layers on the GPU; negative: as many as fit
	MainGPU int   // index of the GPU for what is not split
	UseMMap *bool // nil: the engine's choice
}

// Loaded is a model in memory.
type Loaded struct {
	Engine  llm.Engine // its owner closes it; nil: the model gives embeddings only
	Vocab   llm.Vocab
	Context int   // positions of one request, where there is no engine to say it
	Size    int64 // bytes of weights and buffers, without the KV cache
	Weights int64 // bytes of Size that loads with the same LoadSpec.Weights share
	VRAM    int64 // bytes of Size that are on a GPU

	// OpenEmbedder makes an embedder over the same weights; its owner closes it.
	// nil: the model gives no embeddings.
	OpenEmbedder func() (llm.Embedder, error)

	// Close frees the weights, unless others share them, and the vocabulary. It is
	// called once, after the engine and the embedders were closed.
	Close func()
}

// load is one call of Loader.Load.
type load struct {
	first    *waiter // the request that needs it; others may wait for it as well
	free     int64   // bytes of memory that were free before
	cancel   context.CancelFunc
	canceled bool // nobody waits for it any more
	began    time.Time
}

// wanted reports whether any waiter waits for this load.
func (l *load) wanted(waiting []*waiter) bool {
	return slices.ContainsFunc(waiting, l.serves)
}

// serves reports whether a waiter gets what is being loaded.
func (l *load) serves(w *waiter) bool {
	m := resident{options: l.first.options}
	return w.key == l.first.key && m.serves(w.options)
}

// start loads what a waiter needs.
func (r *residency) start(w *waiter, free int64) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{first: w, free: free, cancel: cancel, began: time.Now()}
	r.loading = l
	r.loads++
	r.log.Info("loading model", "model", w.model.Name.DisplayShortest(), "file", w.model.ModelPath, "slots", r.opts.Slots)
	spec := LoadSpec{
		ModelPath:    w.model.ModelPath,
		Weights:      weightsKey(w.model, w.options),
		AdapterPaths: w.model.AdapterPaths,
		Embeddings:   w.embeddings,
		Slots:        r.opts.Slots,
		Context:      r.opts.ContextLength,
		Threads:      w.options.NumThread,
		GPU:          w.options.NumGPU,
		MainGPU:      w.options.MainGPU,
		UseMMap:      w.options.UseMMap,
	}
	go func() {
		defer cancel()
		loaded, err := r.open(ctx, l, spec)
		if err != nil && isGone(w.model) {
			err = notFound(w.model.Name.DisplayShortest())
		}
		r.send(loadEnded{l, loaded, err})
	}()
}

// isGone reports whether the model was deleted while its request waited.
func isGone(m *modelstore.Model) bool {
	_, err := os.Stat(m.ModelPath)
	return errors.Is(err, fs.ErrNotExist)
}

// open calls the loader, and tells run when it stalls.
func (r *residency) open(ctx context.Context, l *load, spec LoadSpec) (loaded *Loaded, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("panic while a model was loading", "panic", p, "stack", string(debug.Stack()))
			err = errInternal
		}
	}()
	progress := func(float32) {}
	if limit := r.opts.LoadTimeout; limit > 0 {
		var reached atomic.Uint32 // bits of the fraction
		timer := time.AfterFunc(limit, func() { r.send(stalled{l, math.Float32frombits(reached.Load())}) })
		defer timer.Stop()
		progress = func(fraction float32) {
			if reached.Swap(math.Float32bits(fraction)) != math.Float32bits(fraction) {
				timer.Reset(limit)
			}
		}
	}
	return r.loader.Load(ctx, spec, progress)
}

// stalled: a load made no progress for too long. It is given up: its waiters are
// answered and others may load, even if the loader never returns.
type stalled struct {
	l        *load
	fraction float32
}

func (e stalled) happen(r *residency) {
	if r.loading != e.l {
		return
	}
	r.loading = nil
	e.l.cancel()
	err := errorf(http.StatusInternalServerError, "timed out waiting for llama runner to start - progress %0.2f - no progress for %s; is the disk of the model folder in order?", e.fraction, r.opts.LoadTimeout)
	r.dismiss(func(w *waiter) (bool, error) { return e.l.serves(w), err })
	r.advance()
}

// loadEnded: the loader has returned.
type loadEnded struct {
	l      *load
	loaded *Loaded
	err    error
}

func (e loadEnded) happen(r *residency) {
	r.loads--
	current := r.loading == e.l
	if current {
		r.loading = nil
	}
	switch {
	case e.err == nil && current && !r.stopping:
		r.welcome(e.l, e.loaded)
	case e.err == nil:
		r.discard(e.loaded)
	case current && !e.l.canceled:
		r.log.Error("the model can't be loaded", "model", e.l.first.model.Name.DisplayShortest(), "error", e.err)
		r.dismiss(func(w *waiter) (bool, error) { return e.l.serves(w), e.err })
	}
	r.advance()
}

// welcome makes a loaded model resident and serves those that wait for it.
func (r *residency) welcome(l *load, loaded *Loaded) {
	m, err := r.admit(l, loaded)
	if err != nil {
		r.discard(loaded)
		r.dismiss(func(w *waiter) (bool, error) { return l.serves(w), err })
		return
	}
	r.log.Info("model loaded", "model", m.model.Name.DisplayShortest(), "took", time.Since(l.began).Round(time.Millisecond),
		"slots", m.limits.Sequences, "context", m.limits.Context, "memory", format.HumanBytes2(uint64(loaded.Size)), "kv_budget", format.HumanBytes2(uint64(m.budget)))
	r.dismissServed()
	if m.leases == 0 {
		r.idle(m)
	}
}

// discard frees a model that nobody wants any more.
func (r *residency) discard(loaded *Loaded) {
	r.loads++ // run has to stay until it is freed
	go func() {
		if loaded.Engine != nil {
			loaded.Engine.Close()
		}
		loaded.Close()
		r.send(discarded{})
	}()
}

// discarded: a model that was loaded in vain has been freed.
type discarded struct{}

func (discarded) happen(r *residency) { r.loads-- }
