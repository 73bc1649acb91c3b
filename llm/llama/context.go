//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"strconv"
	"sync"
	"unsafe"

	"cllm/llm"
)

// Context is an engine over a model: its KV cache and the buffers to compute
// with. It belongs to one goroutine; only Abort may be called from others.
type Context struct {
	uses  int // counts calls, so that the race detector sees a second goroutine
	model *Model
	c     *C.cllm_context

	limits   llm.Limits
	cells    int
	width    int  // of an embedding
	memory   bool // keeps positions or a state
	whole    bool // keeps a state that no part can be taken from
	canShift bool

	held     []llm.Pos  // positions of each sequence
	next     []llm.Pos  // scratch of Decode
	stale    bool       // sequences were shifted or copied and no decode has updated the cells yet
	rows     int        // rows of the last decode; 0 when it failed
	logits   []*C.float // C memory: the logits of each row of the last decode
	pickers  []picker
	adapters []*Adapter // applied now
	adapted  bool       // they were changed after the last decode

	mu     sync.Mutex // keeps Abort and Close apart
	closed bool
}

var _ llm.Engine = (*Context)(nil)

// NewContext returns a context over the model. Its first act is a small decode,
// so a context that is returned works.
func (m *Model) NewContext(o ContextOptions) (*Context, error) {
	if !m.acquire() {
		return nil, fmt.Errorf("new context: %w", errClosed)
	}
	c, err := m.newContext(o)
	if err != nil {
		m.release()
		return nil, err
	}
	handles.Add(1)
	return c, nil
}

func (m *Model) newContext(o ContextOptions) (*Context, error) {
	train := int(C.llama_model_n_ctx_train(m.c))
	if err := o.complete(train); err != nil {
		return nil, err
	}
	if m.vocabOnly {
		return nil, fmt.Errorf("new context: the model was loaded without its weights")
	}
	if bool(C.llama_model_has_encoder(m.c)) && bool(C.llama_model_has_decoder(m.c)) {
		return nil, &Error{Op: "new context", Class: llm.ErrUnsupported, Detail: "models with an encoder and a decoder can't be run"}
	}
	opts := C.cllm_context_options{
		n_ctx:         C.uint32_t(o.Cells),
		n_seq:         C.uint32_t(o.Sequences),
		n_batch:       C.uint32_t(o.Batch),
		n_ubatch:      C.uint32_t(o.Ubatch),
		n_outputs:     C.uint32_t(o.Outputs),
		threads:       C.int32_t(o.Threads),
		threads_batch: C.int32_t(o.ThreadsBatch),
		poll:          C.int32_t(o.Poll),
		kv_type:       C.int32_t(o.KVType),
		flash_attn:    C.int32_t(flashType(o.FlashAttention)),
		pooling:       C.int32_t(o.pooling) - 1,
		unified:       C.bool(o.Unified),
		embeddings:    C.bool(o.embeds != noEmbeddings),
	}
	if o.embeds == asWhole {
		opts.n_outputs = 0 // what is pooled needs all rows
	}
	var info C.cllm_context_info
	var cerr C.cllm_error
	m.loading.Lock()
	cc := C.cllm_context_new(m.c, &opts, &info, &cerr)
	m.loading.Unlock()
	if o.embeds != noEmbeddings {
		drainLogUpTo(slog.LevelDebug) // it warns of what is meant: more cells than a text has, our own pooling
	} else {
		drainLog()
	}
	if cc == nil {
		return nil, failure("new context", &cerr, nil)
	}
	if !bool(info.memory) && o.embeds != asWhole {
		C.cllm_context_free(cc)
		return nil, &Error{Op: "new context", Class: llm.ErrUnsupported, Detail: "the model gives embeddings only"}
	}
	perSeq := int(info.n_ctx_seq)
	if o.Unified {
		perSeq = min(perSeq, o.ContextPerSequence)
	}
	if train > 0 {
		perSeq = min(perSeq, train)
	}
	c := &Context{
		model: m,
		c:     cc,
		limits: llm.Limits{
			Sequences: o.Sequences,
			Context:   perSeq,
			Batch:     int(info.n_batch),
			Outputs:   o.Outputs,
			Unified:   o.Unified,
			CellBytes: int64(info.cell_bytes),
		},
		cells:    int(info.n_ctx),
		width:    int(info.n_embd),
		memory:   bool(info.memory),
		whole:    m.oneState(),
		canShift: bool(info.can_shift) && m.canShift(o.KVType),
		held:     make([]llm.Pos, o.Sequences),
		next:     make([]llm.Pos, o.Sequences),
		logits:   unsafe.Slice((**C.float)(unsafe.Pointer(C.cllm_logits(cc))), int(info.n_batch)),
	}
	return c, nil
}

// oneState reports whether a sequence has a state that changes with every token
// and forgets none.
func (m *Model) oneState() bool {
	return bool(C.llama_model_is_recurrent(m.c)) || bool(C.llama_model_is_hybrid(m.c))
}

// canShift reports whether a shift does what it says. For a state llama.cpp only
// moves its position. And it does not survive the shift of some quantized keys:
// it undoes a rotation first, also where there is none, as for heads whose width
// is no multiple of 64 (build_rope_shift).
func (m *Model) canShift(kv KVType) bool {
	if m.oneState() {
		return false
	}
	if kv == KVF16 {
		return true
	}
	arch, _ := m.Meta("general.architecture")
	text, _ := m.Meta(arch + ".attention.key_length")
	width, err := strconv.Atoi(text)
	if err != nil {
		width = int(C.llama_model_n_embd(m.c)) / max(1, int(C.llama_model_n_head(m.c)))
	}
	return width%64 == 0 && os.Getenv("LLAMA_ATTN_ROT_DISABLE") == ""
}

// leastOutputs is how many rows may ask for logits where there are fewer sequences: so
// there is room to check a draft.
const leastOutputs = 16

// maxSequences is llama.cpp's limit.
const maxSequences = 256

// complete fills in what was left open.
func (o *ContextOptions) complete(train int) error {
	o.Sequences = cmp.Or(o.Sequences, 1)
	if o.Sequences < 1 || o.Sequences > maxSequences {
		return fmt.Errorf("new context: %d sequences are asked for; 1 to %d are possible", o.Sequences, maxSequences)
	}
	o.ContextPerSequence = cmp.Or(o.ContextPerSequence, train, 4096)
	if o.ContextPerSequence < 0 || o.Cells < 0 || o.Batch < 0 || o.Ubatch < 0 || o.Outputs < 0 || o.Threads < 0 || o.ThreadsBatch < 0 {
		return fmt.Errorf("new context: a size is negative: %+v", *o)
	}
	o.ContextPerSequence = (o.ContextPerSequence + 255) / 256 * 256
	if !o.Unified || o.Cells == 0 {
		o.Cells = o.Sequences * o.ContextPerSequence
	}
	if o.ContextPerSequence > math.MaxInt32 || o.Cells > math.MaxInt32 {
		return fmt.Errorf("new context: %d positions for each of %d sequences are more than can be counted", o.ContextPerSequence, o.Sequences)
	}
	o.Batch = max(cmp.Or(o.Batch, 2048), o.Sequences)
	o.Ubatch = min(cmp.Or(o.Ubatch, 512), o.Batch)
	o.Outputs = min(cmp.Or(o.Outputs, max(o.Sequences, leastOutputs)), o.Batch)
	o.Threads = cmp.Or(o.Threads, runtime.GOMAXPROCS(0))
	o.ThreadsBatch = cmp.Or(o.ThreadsBatch, o.Threads)
	if o.Poll < 0 {
		o.Poll = 50
	}
	o.Poll = min(o.Poll, 100)
	o.KVType = cmp.Or(o.KVType, KVF16)
	if o.embeds == asWhole {
		// What is pooled has to be computed in one pass: the parts of a sequence
		// that lie in different passes would be pooled apart. llama.cpp reserves
		// for equal numbers of rows per sequence and can't pool the mean otherwise.
		o.Batch = (o.Batch + o.Sequences - 1) / o.Sequences * o.Sequences
		o.Ubatch = o.Batch
		o.Unified = true
	}
	return nil
}

func flashType(f FlashAttention) C.int32_t {
	switch f {
	case FlashOff:
		return C.LLAMA_FLASH_ATTN_TYPE_DISABLED
	case FlashOn:
		return C.LLAMA_FLASH_ATTN_TYPE_ENABLED
	default:
		return C.LLAMA_FLASH_ATTN_TYPE_AUTO
	}
}

// Limits says how much the context can hold.
func (c *Context) Limits() llm.Limits {
	c.uses++
	return c.limits
}

// Cells is the number of tokens that all sequences can hold together.
func (c *Context) Cells() int {
	c.uses++
	return c.cells
}

// Abort ends the decode in progress, and every later one, with llm.ErrAborted.
// It may be called from any goroutine; it is for shutting down. It works where
// the computation is the CPU's.
func (c *Context) Abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		C.cllm_context_abort(c.c)
	}
}

// Close frees the context. It may be called more than once.
func (c *Context) Close() {
	c.uses++
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	C.cllm_context_free(c.c)
	c.c, c.logits, c.rows = nil, nil, 0
	for _, a := range c.adapters {
		a.release()
	}
	c.adapters = nil
	handles.Add(-1)
	c.model.release()
}
