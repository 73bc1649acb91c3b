package scheduler

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"cllm/llm"
)

// EmbeddingsOptions configures Embeddings.
type EmbeddingsOptions struct {
	Queue *Queue // bounds the waiting requests; may be shared. nil: 512 of its own
	Slots int    // requests served in turn; more of them wait. 0: 64
}

// Embeddings shares one embedder between many requests. Each call of the embedder
// takes texts of all of them in turn, so that many texts cost one pass over the
// weights, and a request with thousands of texts keeps nobody waiting.
//
// Run owns the embedder and the requests, as Scheduler's does. Other goroutines
// may only call Embed, Limits, Stats, Failed and Close. The embedder is opened for
// the first request: most models that answer are never asked for embeddings.
type Embeddings struct {
	open  func() (llm.Embedder, error)
	queue *Queue
	slots int

	embedder llm.Embedder
	limits   llm.EmbedLimits // of embedder
	active   []*embedding    // the one that was served longest ago first
	waiting  []*embedding    // oldest first
	long     *longText       // the text that is computed in parts; nil: none
	pace     embedPace
	largest  int // tokens of the largest call
	spans    []textSpan
	parts    []llm.EmbedPart

	inbox    chan *embedding
	inflight atomic.Int64
	stop     chan struct{}
	stopping sync.Once
	done     chan struct{}
	submit   sync.Mutex             // for what is counted and sent in one order, and for closed
	closed   bool                   // nothing enters the inbox any more
	current  atomic.Pointer[opened] // what Limits and Close see of embedder
	failed   atomic.Pointer[error]
	count    embedCounters
}

// opened is an embedder with its limits.
type opened struct {
	embedder llm.Embedder
	limits   llm.EmbedLimits
}

// embedding is a request. Its fields belong to Run once it was submitted.
type embedding struct {
	ctx     context.Context
	texts   [][]llm.Token
	vectors [][]float32
	checked bool
	next    int // the first text that no call has begun
	left    int // texts without a vector
	queued  bool
	ended   chan error // gets one value
}

// NewEmbeddings returns Embeddings over the embedder that open makes. open is
// called by Run, and again after it failed. Run has to be started; Close frees
// the embedder.
func NewEmbeddings(open func() (llm.Embedder, error), o EmbeddingsOptions) *Embeddings {
	if o.Queue == nil {
		o.Queue = NewQueue(512)
	}
	if o.Slots == 0 {
		o.Slots = 64
	}
	return &Embeddings{
		open:  open,
		queue: o.Queue,
		slots: o.Slots,
		inbox: make(chan *embedding, o.Slots+int(o.Queue.limit)),
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
	}
}

// Embed returns the vector of each text, not normalized. A text has at least one
// token and at most Limits.Context. It returns as soon as ctx ends; what is left
// of the request then costs no further call. Errors are ctx's, ErrBusy, ErrClosed,
// ErrEmptyPrompt, ErrPromptTooLong, or the embedder's.
func (e *Embeddings) Embed(ctx context.Context, texts [][]llm.Token) ([][]float32, error) {
	r := &embedding{
		ctx: ctx, texts: texts, vectors: make([][]float32, len(texts)), left: len(texts), ended: make(chan error, 1),
	}
	if err := e.enter(r); err != nil {
		return nil, err
	}
	select {
	case err := <-r.ended:
		if err != nil {
			return nil, err
		}
		return r.vectors, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Limits returns what the embedder takes, opening it if need be. Errors are those
// of Embed.
func (e *Embeddings) Limits(ctx context.Context) (llm.EmbedLimits, error) {
	if o := e.current.Load(); o != nil {
		return o.limits, nil
	}
	if _, err := e.Embed(ctx, nil); err != nil {
		return llm.EmbedLimits{}, err
	}
	return e.current.Load().limits, nil
}

func (e *Embeddings) enter(r *embedding) error {
	e.submit.Lock()
	defer e.submit.Unlock()
	if e.closed {
		return ErrClosed
	}
	if e.inflight.Add(1) > int64(e.slots) {
		if r.queued = e.queue.Enter(); !r.queued {
			e.inflight.Add(-1)
			return ErrBusy
		}
	}
	e.inbox <- r // has room for every slot and every place in the queue
	return nil
}

// Run serves requests until Close, or until the embedder fails for good. It
// returns nil after Close, otherwise the embedder's error.
func (e *Embeddings) Run() error {
	defer close(e.done)
	err := e.loop()
	if err != nil {
		e.failed.Store(&err)
	}
	e.submit.Lock()
	e.closed = true
	e.submit.Unlock()
	e.receive()
	e.endAll(err)
	if e.embedder != nil {
		e.embedder.Close()
	}
	return err
}

func (e *Embeddings) loop() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the embeddings broke off, which is a bug: %v\n%s", p, debug.Stack())
		}
	}()
	for {
		select {
		case <-e.stop:
			return nil
		default:
		}
		worked, err := e.step()
		if err != nil {
			select {
			case <-e.stop: // Close has aborted the call
				return nil
			default:
				return err
			}
		}
		if worked {
			continue
		}
		select {
		case r := <-e.inbox:
			e.waiting = append(e.waiting, r)
		case <-e.stop:
			return nil
		}
	}
}

// Close ends every request with ErrClosed, a call in progress too, waits for Run
// and frees the embedder. It may be called more than once, but not without Run.
func (e *Embeddings) Close() {
	e.stopping.Do(func() { close(e.stop) })
	if o := e.current.Load(); o != nil {
		o.embedder.Abort()
	}
	<-e.done
}

// Failed returns why Run gave up, or nil.
func (e *Embeddings) Failed() error {
	if err := e.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// end answers a request and counts it.
func (e *Embeddings) end(r *embedding, err error) {
	switch {
	case len(r.texts) == 0 && err == nil: // a question for the limits
	case err == nil:
		e.count.finishedOK.Add(1)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.count.cancelledByUser.Add(1)
	default:
		e.count.finishedFailed.Add(1)
	}
	if r.queued {
		r.queued = false
		e.queue.Leave()
	}
	e.inflight.Add(-1)
	r.ended <- err
}

// endAll ends the requests that are there when Run returns.
func (e *Embeddings) endAll(err error) {
	if err == nil {
		err = ErrClosed
	}
	for _, r := range append(e.active, e.waiting...) {
		e.end(r, err)
	}
	e.active, e.waiting, e.long = nil, nil, nil
	e.publish()
}

// EmbeddingsStats is a snapshot of the work on embeddings. Counters only grow.
type EmbeddingsStats struct {
	Active  int   // requests served in turn
	Waiting int   // requests that wait for their turns to begin
	Bytes   int64 // of the embedder: buffers for the largest call so far, and the unfinished text

	Calls           int64 // of the embedder
	Texts           int64 // that got their vector
	Tokens          int64 // computed
	EngineTime      time.Duration
	FinishedOK      int64
	FinishedFailed  int64
	CancelledByUser int64
}

type embedCounters struct {
	active, waiting, bytes                      atomic.Int64
	calls, texts, tokens, engine                atomic.Int64
	finishedOK, finishedFailed, cancelledByUser atomic.Int64
}

// Stats may be called from any goroutine. It never waits for a call.
func (e *Embeddings) Stats() EmbeddingsStats {
	c := &e.count
	return EmbeddingsStats{
		Active:          int(c.active.Load()),
		Waiting:         int(c.waiting.Load()),
		Bytes:           c.bytes.Load(),
		Calls:           c.calls.Load(),
		Texts:           c.texts.Load(),
		Tokens:          c.tokens.Load(),
		EngineTime:      time.Duration(c.engine.Load()),
		FinishedOK:      c.finishedOK.Load(),
		FinishedFailed:  c.finishedFailed.Load(),
		CancelledByUser: c.cancelledByUser.Load(),
	}
}

// publish makes the state visible to Stats.
func (e *Embeddings) publish() {
	e.count.active.Store(int64(len(e.active)))
	e.count.waiting.Store(int64(len(e.waiting)))
	if e.embedder != nil {
		bytes := e.limits.BufferBytes * int64(e.largest) / int64(e.limits.Batch)
		if e.long != nil {
			bytes += int64(e.long.done) * e.limits.CellBytes
		}
		e.count.bytes.Store(bytes)
	}
}
