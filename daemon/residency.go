package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ollama/ollama/api"

	"cllm/modelstore"
	"cllm/scheduler"
)

// runnerOptions are the options that belong to the engine, not to a request.
type runnerOptions = api.Runner

// residency owns the models in memory. One goroutine, run, reads and writes
// residents, waiting and loading; everybody else sends it events. It never waits:
// loads, the end of schedulers and the freeing of weights have their own
// goroutines, whose results come back as events.
//
// A request that needs a load waits in the daemon's queue. The answer to it is
// sent on a channel without a buffer, so a lease is only given to a client that is
// still there.
type residency struct {
	loader Loader
	opts   Options
	queue  *scheduler.Queue
	log    *slog.Logger

	events chan event
	done   chan struct{} // closed when run has returned

	residents []*resident // all whose weights are in memory
	waiting   []*waiter   // oldest first
	loading   *load       // the load that waiters wait for; nil: none
	loads     int         // loads that have not returned, given up ones included
	stopping  bool
}

// event is something that happened. happen is called by run only.
type event interface{ happen(r *residency) }

// waiter is a request for a model.
type waiter struct {
	ctx        context.Context
	model      *modelstore.Model
	key        string
	size       int64 // bytes of its files
	embeddings bool  // it was made for embeddings
	options    runnerOptions
	keepAlive  *api.Duration
	arrived    time.Time
	queued     bool // it has a place in the queue
	answer     chan grant
}

type grant struct {
	lease *lease
	err   error
}

func newResidency(opts Options, queue *scheduler.Queue) *residency {
	return &residency{
		loader: opts.Loader,
		opts:   opts,
		queue:  queue,
		log:    opts.Log,
		events: make(chan event),
		done:   make(chan struct{}),
	}
}

// run lives until stop was called and everything is freed.
func (r *residency) run() {
	defer close(r.done)
	for !r.stopping || len(r.residents) > 0 || r.loads > 0 {
		e := <-r.events
		e.happen(r)
	}
}

// send hands an event to run. It reports false when run has ended.
func (r *residency) send(e event) bool {
	select {
	case r.events <- e:
		return true
	case <-r.done:
		return false
	}
}

// unload frees the model when its last lease is given back.
func (r *residency) unload(m *modelstore.Model) { r.send(unwanted{identity(m)}) }

// list describes the models in memory. It is empty once the daemon has stopped.
func (r *residency) list() []residentInfo {
	q := asked{make(chan []residentInfo, 1)}
	if !r.send(q) {
		return nil
	}
	return <-q.answer
}

// stop ends every answer and every load, and frees what is not leased any more.
// It does not wait; done is closed when all is freed.
func (r *residency) stop() { r.send(stopped{}) }

// arrived: a request wants a model.
type arrived struct{ w *waiter }

func (e arrived) happen(r *residency) {
	switch {
	case r.stopping:
		e.w.deliver(grant{err: errStopping})
	case r.serve(e.w):
	case !r.queue.Enter():
		e.w.deliver(grant{err: scheduler.ErrBusy})
	default:
		e.w.queued = true
		r.waiting = append(r.waiting, e.w)
		r.advance()
	}
}

// left: a client went away before its model was there.
type left struct{ w *waiter }

func (e left) happen(r *residency) {
	r.dismiss(func(w *waiter) (bool, error) { return w == e.w, context.Canceled })
	r.advance()
}

// unwanted: a model shall go as soon as it is idle.
type unwanted struct{ key string }

func (e unwanted) happen(r *residency) {
	if m := r.find(e.key); m != nil {
		m.keepAlive = 0
		if m.leases == 0 {
			r.retire(m)
		}
	}
}

// asked: somebody wants to know what is resident.
type asked struct{ answer chan []residentInfo }

func (e asked) happen(r *residency) {
	var list []residentInfo
	for _, m := range r.residents {
		if !m.ended && !m.shutting { // what was unloaded is gone for who asks next
			list = append(list, m.info())
		}
	}
	e.answer <- list
}

// stopped: the daemon stops.
type stopped struct{}

func (stopped) happen(r *residency) {
	r.stopping = true
	r.dismiss(func(*waiter) (bool, error) { return true, errStopping })
	for _, m := range r.residents {
		m.retiring = true
		r.shut(m)
	}
	r.advance()
}

// dismiss answers the waiters that match, and ends a load that nobody waits for.
func (r *residency) dismiss(match func(*waiter) (bool, error)) {
	kept := r.waiting[:0]
	for _, w := range r.waiting {
		if ok, err := match(w); ok {
			r.leaveQueue(w)
			w.deliver(grant{err: err})
			continue
		}
		kept = append(kept, w)
	}
	clear(r.waiting[len(kept):])
	r.waiting = kept
}

// advance serves the waiters whose model is there, and starts the next load.
func (r *residency) advance() {
	r.dismissServed()
	if l := r.loading; l != nil {
		if !l.canceled && !l.wanted(r.waiting) {
			l.canceled = true
			l.cancel()
		}
		return
	}
	for i := 0; i < len(r.waiting) && r.loading == nil; {
		switch w := r.waiting[i]; r.begin(w) {
		case loadBegun, loadBlocked:
			return
		case loadReplaces:
			i++ // its model has to go first; others need not wait for that
		case loadRefused:
			r.waiting = append(r.waiting[:i], r.waiting[i+1:]...)
		}
	}
}

func (r *residency) dismissServed() {
	kept := r.waiting[:0]
	for _, w := range r.waiting {
		if !r.serve(w) {
			kept = append(kept, w)
		}
	}
	clear(r.waiting[len(kept):])
	r.waiting = kept
}

// serve gives a lease to a waiter whose model is there, and reports whether it is
// done with the waiter.
func (r *residency) serve(w *waiter) bool {
	m := r.find(w.key)
	if m == nil || m.retiring || !m.serves(w.options) || m.failed() {
		return false
	}
	r.leaveQueue(w)
	l := &lease{
		model:        w.model,
		vocab:        m.loaded.Vocab,
		sched:        m.sched,
		embed:        m.embed,
		context:      m.limits.Context,
		loadDuration: time.Since(w.arrived),
		done:         sync.OnceFunc(func() { r.send(released{m}) }),
	}
	if !w.deliver(grant{lease: l}) {
		return true
	}
	m.begin(w, r.opts.ContextLength)
	return true
}

// deliver sends the answer. It reports false when the client has gone.
func (w *waiter) deliver(g grant) bool {
	select {
	case w.answer <- g:
		return true
	case <-w.ctx.Done():
		return false
	}
}

func (r *residency) leaveQueue(w *waiter) {
	if w.queued {
		w.queued = false
		r.queue.Leave()
	}
}

// find returns the resident model that new requests of that identity are for.
func (r *residency) find(key string) *resident {
	for _, m := range r.residents {
		if m.key == key && !m.ended {
			return m
		}
	}
	return nil
}

// Outcomes of begin.
type beginning int

const (
	loadBegun    beginning = iota
	loadBlocked            // others have to go first
	loadReplaces           // the same model, with other options, has to go first
	loadRefused            // the waiter was answered
)

// begin starts the load that a waiter needs, or makes room for it.
func (r *residency) begin(w *waiter) beginning {
	if old := r.find(w.key); old != nil {
		r.retire(old)
		return loadReplaces
	}
	size := w.size + loadReserve
	free, occupants := r.room()
	victims, ok := evict(newcomer{size, weightsKey(w.model, w.options)}, free, r.opts.MaxLoaded, occupants)
	if !ok {
		free += all(occupants)
		r.leaveQueue(w)
		w.deliver(grant{err: noMemory(size, free)})
		return loadRefused
	}
	for _, i := range victims {
		r.retire(r.residents[i])
	}
	if len(victims) > 0 {
		return loadBlocked
	}
	r.start(w, free)
	return loadBegun
}
