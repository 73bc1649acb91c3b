package daemon

import (
	"fmt"
	"time"

	"cllm/llm"
	"cllm/modelstore"
	"cllm/scheduler"
)

// resident is a model in memory. Its fields belong to residency.run. It serves,
// then retires (no new leases), then is shut (its scheduler and its embeddings
// end), and is freed when both have ended and no lease is held.
type resident struct {
	key     string
	weights string            // the same for residents that share them
	options runnerOptions     // it was loaded with
	model   *modelstore.Model // as the last request named it
	loaded  *Loaded
	sched   *scheduler.Scheduler  // nil: the model gives embeddings only
	embed   *scheduler.Embeddings // nil: it gives none
	running int                   // of sched and embed, those whose Run has not returned
	limits  llm.Limits            // of the engine; without one only Context counts
	budget  int64                 // bytes of KV cache it may hold

	keepAlive time.Duration
	leases    int
	context   int       // positions that the last request asked for
	idleSince time.Time // when the last lease was given back
	expires   time.Time // when it goes, if nobody asks for it; set while idle
	timer     *time.Timer
	turn      int // counts leases given, so that an old timer is known as one

	retiring bool
	shutting bool
	ended    bool // it serves nobody any more
	freeing  bool
}

// residentInfo describes a model in memory.
type residentInfo struct {
	model   *modelstore.Model
	size    int64 // bytes of weights, buffers and KV cache in use
	vram    int64 // bytes of size that are on a GPU
	expires time.Time
	context int
	stats   scheduler.Stats           // zero without an engine
	embed   scheduler.EmbeddingsStats // zero until embeddings were asked for
	cell    int64                     // bytes of KV cache per token
	budget  int64                     // bytes of KV cache it may hold
}

func (m *resident) info() residentInfo {
	info := residentInfo{
		model: m.model, vram: m.loaded.VRAM, expires: m.expires, context: m.context,
		cell: m.limits.CellBytes, budget: m.budget, size: m.loaded.Size + m.heldBytes(),
	}
	if m.sched != nil {
		info.stats = m.sched.Stats()
	}
	if m.embed != nil {
		info.embed = m.embed.Stats()
	}
	if m.leases > 0 {
		info.expires = time.Now().Add(m.keepAlive)
	}
	return info
}

// serves reports whether a request with these options can use the model as it is
// loaded. num_ctx and num_batch never matter: each sequence has all positions.
func (m *resident) serves(want runnerOptions) bool {
	have := m.options
	return (want.NumGPU < 0 || want.NumGPU == have.NumGPU) &&
		want.MainGPU == have.MainGPU &&
		(want.UseMMap == nil || have.UseMMap != nil && *want.UseMMap == *have.UseMMap) &&
		(want.NumThread == 0 || want.NumThread == have.NumThread)
}

// failed reports whether the model has to be loaded anew.
func (m *resident) failed() bool {
	return m.sched != nil && m.sched.Failed() != nil || m.embed != nil && m.embed.Failed() != nil
}

// begin notes that a waiter has a lease.
func (m *resident) begin(w *waiter, defaultContext int) {
	m.leases++
	m.turn++
	m.stopTimer()
	m.model = w.model
	m.context = w.options.NumCtx
	if m.context <= 0 {
		m.context = defaultContext
	}
	m.context = min(m.context, m.limits.Context)
	if w.keepAlive != nil {
		if m.keepAlive = w.keepAlive.Duration; m.keepAlive < 0 { // so many seconds that they overflowed
			m.keepAlive = forever
		}
	}
}

func (m *resident) stopTimer() {
	if m.timer != nil {
		m.timer.Stop()
	}
}

// released: a lease was given back.
type released struct{ m *resident }

func (e released) happen(r *residency) {
	m := e.m
	if m.leases--; m.leases > 0 {
		return
	}
	m.idleSince = time.Now()
	switch {
	case m.ended:
		r.free(m) // or its Run does
	case m.retiring:
		r.shut(m)
	default:
		r.idle(m)
	}
}

// idle starts the time that a model without requests stays.
func (r *residency) idle(m *resident) {
	m.expires = m.idleSince.Add(m.keepAlive)
	switch m.keepAlive {
	case 0:
		r.retire(m)
	case forever:
	default:
		turn := m.turn
		m.timer = time.AfterFunc(m.keepAlive, func() { r.send(expired{m, turn}) })
	}
}

// expired: a model has been idle for its keep_alive.
type expired struct {
	m    *resident
	turn int
}

func (e expired) happen(r *residency) {
	if e.m.turn == e.turn {
		r.retire(e.m)
	}
}

// retire gives a model no new requests and shuts it when it has none.
func (r *residency) retire(m *resident) {
	if m.retiring {
		return
	}
	r.log.Info("unloading model", "model", m.model.Name.DisplayShortest(), "requests", m.leases)
	m.retiring = true
	if m.leases == 0 {
		r.shut(m)
	}
}

// shut ends the scheduler and the embeddings, and with them what they own.
func (r *residency) shut(m *resident) {
	if m.shutting {
		return
	}
	m.shutting = true
	m.stopTimer()
	if m.sched != nil { // a Run that returns is an event
		go m.sched.Close()
	}
	if m.embed != nil {
		go m.embed.Close()
	}
}

// ended: the Run of a model's scheduler has returned, or that of its embeddings.
type ended struct {
	m       *resident
	err     error
	answers bool // answers go on: only the embeddings have failed
}

func (e ended) happen(r *residency) {
	m := e.m
	m.running--
	if e.err != nil {
		r.log.Error("the engine failed; the next request loads the model anew", "model", m.model.Name.DisplayShortest(), "error", e.err)
	}
	if e.answers && e.err != nil {
		r.retire(m)
	} else {
		m.ended, m.retiring = true, true
		r.shut(m)
	}
	r.free(m)
	r.advance()
}

// free gives the memory of a model back when nobody uses it any more.
func (r *residency) free(m *resident) {
	if m.freeing || m.leases > 0 || m.running > 0 {
		return
	}
	m.freeing = true
	go func() {
		m.loaded.Close()
		r.send(freed{m})
	}()
}

// freed: the memory of a model was given back.
type freed struct{ m *resident }

func (e freed) happen(r *residency) {
	for i, m := range r.residents {
		if m == e.m {
			r.residents = append(r.residents[:i], r.residents[i+1:]...)
			break
		}
	}
	r.advance()
}

// admit makes a loaded model resident and starts its scheduler.
func (r *residency) admit(l *load, loaded *Loaded) (*resident, error) {
	m := &resident{
		key: l.first.key, weights: weightsKey(l.first.model, l.first.options), options: l.first.options, model: l.first.model, loaded: loaded,
		limits: llm.Limits{Context: loaded.Context}, keepAlive: r.opts.KeepAlive, idleSince: time.Now(),
	}
	if loaded.Engine != nil {
		m.limits = loaded.Engine.Limits()
		m.budget = r.kvBudget(min(l.free-r.newBytes(m), r.opts.memory().available))
		var err error
		m.sched, err = scheduler.New(loaded.Engine, loaded.Vocab, scheduler.Options{
			Queue: r.queue, MemoryBudget: m.budget, NoDrafts: r.opts.NoDrafts,
		})
		if err != nil {
			return nil, fmt.Errorf("the model can't be scheduled: %w", err)
		}
		m.running++
		go func() { r.send(ended{m: m, err: m.sched.Run()}) }()
	}
	if loaded.OpenEmbedder != nil {
		m.embed = scheduler.NewEmbeddings(loaded.OpenEmbedder, scheduler.EmbeddingsOptions{Queue: r.queue, Slots: r.opts.Slots})
		m.running++
		go func() { r.send(ended{m: m, err: m.embed.Run(), answers: m.sched != nil}) }()
	}
	m.context = min(r.opts.ContextLength, m.limits.Context)
	r.residents = append(r.residents, m)
	return m, nil
}
