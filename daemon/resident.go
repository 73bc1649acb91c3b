package daemon

import (
	"fmt"
	"time"

	"cllm/llm"
	"cllm/modelstore"
	"cllm/scheduler"
)

// resident is a model in memory. Its fields belong to residency.run. It serves,
// then retires (no new leases), then is shut (its scheduler ends), and is freed
// when the scheduler has ended and no lease is held.
type resident struct {
	key     string
	options runnerOptions     // it was loaded with
	model   *modelstore.Model // as the last request named it
	loaded  *Loaded
	sched   *scheduler.Scheduler
	limits  llm.Limits
	budget  int64 // bytes of KV cache it may hold

	keepAlive time.Duration
	leases    int
	context   int       // positions that the last request asked for
	idleSince time.Time // when the last lease was given back
	expires   time.Time // when it goes, if nobody asks for it; set while idle
	timer     *time.Timer
	turn      int // counts leases given, so that an old timer is known as one

	retiring bool
	shutting bool
	ended    bool // the scheduler's Run has returned
	freeing  bool
}

// residentInfo describes a model in memory.
type residentInfo struct {
	model   *modelstore.Model
	size    int64 // bytes of weights, buffers and KV cache in use
	vram    int64 // bytes of size that are on a GPU
	expires time.Time
	context int
	stats   scheduler.Stats
	cell    int64 // bytes of KV cache per token
	budget  int64 // bytes of KV cache it may hold
}

func (m *resident) info() residentInfo {
	info := residentInfo{
		model: m.model, vram: m.loaded.VRAM, expires: m.expires, context: m.context,
		stats: m.sched.Stats(), cell: m.limits.CellBytes, budget: m.budget,
	}
	info.size = m.loaded.Size + info.stats.HeldTokens*info.cell
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
		m.keepAlive = w.keepAlive.Duration
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
		r.free(m)
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

// shut ends the scheduler, and with it the engine.
func (r *residency) shut(m *resident) {
	if m.shutting {
		return
	}
	m.shutting = true
	m.stopTimer()
	go m.sched.Close() // its Run returns, which is an event
}

// ended: a scheduler's Run has returned.
type ended struct {
	m   *resident
	err error
}

func (e ended) happen(r *residency) {
	m := e.m
	m.ended = true
	m.stopTimer()
	if e.err != nil {
		r.log.Error("the engine failed; the next request loads the model anew", "model", m.model.Name.DisplayShortest(), "error", e.err)
	}
	m.retiring, m.shutting = true, true
	if m.leases == 0 {
		r.free(m)
	}
	r.advance()
}

// free gives the memory of a model back.
func (r *residency) free(m *resident) {
	if m.freeing {
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
		key: l.first.key, options: l.first.options, model: l.first.model, loaded: loaded,
		limits: loaded.Engine.Limits(), keepAlive: r.opts.KeepAlive, idleSince: time.Now(),
	}
	m.context = min(r.opts.ContextLength, m.limits.Context)
	m.budget = r.kvBudget(min(l.free-loaded.Size, r.opts.memory().available))
	var err error
	m.sched, err = scheduler.New(loaded.Engine, loaded.Vocab, scheduler.Options{Queue: r.queue, MemoryBudget: m.budget})
	if err != nil {
		return nil, fmt.Errorf("the model can't be scheduled: %w", err)
	}
	r.residents = append(r.residents, m)
	go func() { r.send(ended{m, m.sched.Run()}) }()
	return m, nil
}
