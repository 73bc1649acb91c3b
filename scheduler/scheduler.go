package scheduler

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"cllm/llm"
)

// Options configures a Scheduler.
type Options struct {
	Queue *Queue // bounds the waiting requests; may be shared. nil: 512 of its own

	// MemoryBudget is how many bytes of KV cache the sequences may hold together.
	// 0: as much as the engine has room for.
	MemoryBudget int64

	// NoDrafts: tokens are computed one by one, however foreseeable they are.
	NoDrafts bool

	// AfterStep, when set, is called by Run after each step; tests check the
	// invariants with it.
	AfterStep func(*Scheduler)
}

// Scheduler serves one engine. See the package's documentation for who may call what.
type Scheduler struct {
	engine llm.Engine
	vocab  llm.Vocab
	limits llm.Limits
	queue  *Queue
	budget int64 // tokens
	opts   Options

	slots   []slot
	waiting []*sequence // oldest first; preempted ones before all others
	rows    []llm.Row
	spans   []span
	picks   []llm.Pick
	picked  []int // the spans of picks
	stands  []int // by spans: how much of the slot's cache is settled
	pace    pace
	tick    int64 // counts admissions, orders slots by age and by last use
	held    int64 // tokens in the KV cache over all slots
	copied  int   // tokens copied in this step; the engine may do it within Decode

	draftCost rowCosts

	copiesWhole bool // the engine has refused to copy a part of a sequence
	draftless   bool // drafts are not wanted, or the engine can't forget them

	inbox    chan *sequence
	inflight atomic.Int64 // requests accepted and not ended
	stop     chan struct{}
	stopping sync.Once
	done     chan struct{} // closed when Run has returned
	submit   sync.RWMutex  // Submit reads, Run writes closed: nothing enters the inbox afterwards
	closed   bool
	failed   atomic.Pointer[error]
	count    counters
}

// New returns a scheduler for an engine that nobody else uses. Run has to be
// started for it to work; Close frees the engine.
func New(engine llm.Engine, vocab llm.Vocab, opts Options) (*Scheduler, error) {
	l := engine.Limits()
	if l.Sequences < 1 || l.Context < 1 || l.Batch < l.Sequences {
		return nil, fmt.Errorf("the engine's limits can't be scheduled: %d sequences of %d positions with batches of %d rows; a batch must hold a row of every sequence", l.Sequences, l.Context, l.Batch)
	}
	if opts.Queue == nil {
		opts.Queue = NewQueue(512)
	}
	s := &Scheduler{
		engine:    engine,
		vocab:     vocab,
		limits:    l,
		queue:     opts.Queue,
		opts:      opts,
		budget:    int64(l.Sequences) * int64(l.Context),
		slots:     make([]slot, l.Sequences),
		rows:      make([]llm.Row, 0, l.Batch),
		draftless: opts.NoDrafts,
		inbox:     make(chan *sequence, l.Sequences+int(opts.Queue.limit)),
		stop:      make(chan struct{}),
		done:      make(chan struct{}),
	}
	if opts.MemoryBudget > 0 && l.CellBytes > 0 {
		s.budget = min(s.budget, opts.MemoryBudget/l.CellBytes)
	}
	for i := range s.slots {
		s.slots[i].id = llm.SeqID(i)
	}
	s.publish()
	return s, nil
}

// Submit hands a request to the scheduler. The stream gets exactly one final
// event, also when ctx ends: the slot is then free before the next step.
// Errors are ErrBusy, ErrClosed, ErrEmptyPrompt and ErrPromptTooLong.
func (s *Scheduler) Submit(ctx context.Context, req Request) (*Stream, error) {
	q, err := s.newSequence(ctx, req)
	if err != nil {
		return nil, err
	}
	s.submit.RLock()
	defer s.submit.RUnlock()
	if s.closed {
		return nil, ErrClosed
	}
	// A request for which a slot is free does not count as waiting.
	if s.inflight.Add(1) > int64(len(s.slots)) {
		if q.queued = s.queue.Enter(); !q.queued {
			s.inflight.Add(-1)
			return nil, ErrBusy
		}
	}
	s.inbox <- q // has room for every slot and every place in the queue
	return q.stream, nil
}

// Run serves requests until Close, or until the engine fails for good. It
// returns nil after Close, otherwise the engine's error.
func (s *Scheduler) Run() error {
	defer close(s.done)
	err := s.loop()
	if err != nil {
		s.failed.Store(&err)
	}
	s.submit.Lock()
	s.closed = true
	s.submit.Unlock()
	s.receive()
	s.endAll(err)
	s.engine.Close()
	return err
}

// loop serves until Close. A panic in it is a bug that costs this model's
// requests, not the process: it comes back as an error.
func (s *Scheduler) loop() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the scheduler broke off, which is a bug: %v\n%s", p, debug.Stack())
		}
	}()
	for {
		select {
		case <-s.stop:
			return nil
		default:
		}
		worked, err := s.step()
		if err != nil {
			return err
		}
		if s.opts.AfterStep != nil {
			s.opts.AfterStep(s)
		}
		if worked {
			continue
		}
		// Waiting here would be for ever: an error is better than an answer that never ends.
		if n := s.count.active.Load() + s.count.waiting.Load(); n > 0 {
			return fmt.Errorf("the scheduler has %d requests and found nothing to do for them, which is a bug", n)
		}
		s.engine.Trim()
		select {
		case q := <-s.inbox:
			s.waiting = append(s.waiting, q)
		case <-s.stop:
			return nil
		}
	}
}

// Close ends every answer with ErrClosed, waits for Run and frees the engine.
// It may be called more than once, but not without Run.
func (s *Scheduler) Close() {
	s.stopping.Do(func() { close(s.stop) })
	<-s.done
}

// Done is closed when Run has returned: after Close, or because the engine failed.
func (s *Scheduler) Done() <-chan struct{} { return s.done }

// Failed returns why Run gave up, or nil.
func (s *Scheduler) Failed() error {
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Idle reports whether no request is in the scheduler.
func (s *Scheduler) Idle() bool { return s.inflight.Load() == 0 }

func (s *Scheduler) newSequence(ctx context.Context, req Request) (*sequence, error) {
	limit := s.limits.Context
	if req.Context > 0 {
		limit = min(limit, req.Context)
	}
	switch n := len(req.Prompt); {
	case n == 0:
		return nil, ErrEmptyPrompt
	case n > limit:
		return nil, fmt.Errorf("%w: it has %d tokens, the context %d", ErrPromptTooLong, n, limit)
	}
	for _, t := range req.Prompt {
		if t < 0 || int(t) >= s.vocab.Size() {
			return nil, fmt.Errorf("the prompt holds the token %d; the model has the tokens 0 to %d", t, s.vocab.Size()-1)
		}
	}
	return &sequence{
		ctx:     ctx,
		req:     req,
		limit:   limit,
		tokens:  append(make([]llm.Token, 0, len(req.Prompt)+64), req.Prompt...),
		trust:   firstTrust,
		sampler: llm.NewSampler(req.Sampling, req.Grammar, req.Prompt),
		text:    llm.NewText(req.Stop),
		stream:  newStream(),
		arrived: time.Now(),
	}, nil
}
