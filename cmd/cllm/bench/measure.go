package bench

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Measurement is one load on one server, once.
type Measurement struct {
	Server string `json:"server"`
	load
	Repeat int `json:"repeat"`
	// Interrupted: the load was not carried to its end. Requests that were in
	// progress then are neither completed nor failed.
	Interrupted bool      `json:"interrupted,omitempty"`
	Start       time.Time `json:"start"`
	Duration    float64   `json:"duration_s"`

	Completed  int       `json:"completed"`
	Failed     int       `json:"failed"`
	Failures   []Failure `json:"failures,omitempty"`
	EndedEarly int       `json:"ended_early"` // by the model, before the most tokens

	InputTokens  int `json:"total_input_tokens"`
	OutputTokens int `json:"total_output_tokens"`
	// Per second, of completed requests.
	RequestThroughput    float64 `json:"request_throughput"`
	OutputThroughput     float64 `json:"output_throughput"`
	TotalTokenThroughput float64 `json:"total_token_throughput"`
	RequestGoodput       float64 `json:"request_goodput"`

	TTFT  Distribution `json:"ttft_ms"`
	TPOT  Distribution `json:"tpot_ms"`
	ITL   Distribution `json:"itl_ms"`
	E2EL  Distribution `json:"e2el_ms"`
	Queue Distribution `json:"queue_ms"`
}

// Failure is the requests that failed for one reason, with the first one's text.
type Failure struct {
	Reason string `json:"reason"`
	Count  int    `json:"count"`
	First  string `json:"first"`
}

// withFailure adds failures of one reason to a list.
func withFailure(list []Failure, f Failure) []Failure {
	i := slices.IndexFunc(list, func(have Failure) bool { return have.Reason == f.Reason })
	if i < 0 {
		return append(list, f)
	}
	list[i].Count += f.Count
	return list
}

// tally collects the replies of a measurement.
type tally struct {
	o Options

	mu                      sync.Mutex
	m                       Measurement
	gaps                    gaps
	ttft, tpot, e2el, queue []float64
	good                    int
}

// fail counts a request that failed.
func (t *tally) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.o.Progress.failed.Add(1)
	t.m.Failed++
	t.m.Failures = withFailure(t.m.Failures, Failure{Reason: reason(err), Count: 1, First: short(err.Error())})
}

// succeed counts a whole reply.
func (t *tally) succeed(r *reply) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.o.Progress.completed.Add(1)
	t.o.Progress.tokens.Add(int64(r.tokens))
	t.m.Completed++
	t.m.InputTokens += r.promptTokens
	t.m.OutputTokens += r.tokens
	if r.early && r.tokens < r.maxTokens {
		t.m.EndedEarly++
	}
	e2el := r.end.Sub(r.start)
	t.e2el = append(t.e2el, inMS(e2el))
	good := within(inMS(e2el), t.o.Goodput.E2EL)
	if r.hasQueue {
		t.queue = append(t.queue, inMS(r.queue))
	}
	for _, gap := range r.gaps {
		t.gaps.add(gap)
	}
	if r.chunks > 0 {
		ttft := r.first.Sub(r.start)
		t.ttft = append(t.ttft, inMS(ttft))
		good = good && within(inMS(ttft), t.o.Goodput.TTFT)
		if r.tokens > 1 {
			tpot := inMS(e2el-ttft) / float64(r.tokens-1)
			t.tpot = append(t.tpot, tpot)
			good = good && within(tpot, t.o.Goodput.TPOT)
		}
	} else if t.o.Goodput.TTFT > 0 {
		good = false // no text came, so none came in time
	}
	if good {
		t.good++
	}
}

// within tells whether a figure keeps its limit, if it has one.
func within(ms, limit float64) bool { return limit == 0 || ms <= limit }

// result works out the figures.
func (t *tally) result(took time.Duration) Measurement {
	m := t.m
	m.Duration = took.Seconds()
	if m.Duration > 0 {
		m.RequestThroughput = float64(m.Completed) / m.Duration
		m.OutputThroughput = float64(m.OutputTokens) / m.Duration
		m.TotalTokenThroughput = float64(m.InputTokens+m.OutputTokens) / m.Duration
		m.RequestGoodput = float64(t.good) / m.Duration
	}
	m.TTFT, m.TPOT, m.ITL = distribution(t.ttft), distribution(t.tpot), t.gaps.distribution()
	m.E2EL, m.Queue = distribution(t.e2el), distribution(t.queue)
	return m
}

// work is the requests of one measurement.
type work struct {
	client *http.Client
	target *target
	prompt prompter
	stream int // of random numbers
	o      Options
	tally  *tally
}

// one sends request i and counts what became of it. What it has waited since it was due
// counts, too, also if that was the bench's fault; a zero time is now.
func (w *work) one(ctx context.Context, i int, due time.Time) {
	r, err := ask(ctx, w.client, w.target, w.prompt.prompt(w.stream, i, w.target.again), w.o.MaxTokens, w.o)
	switch {
	case err == nil:
		if !due.IsZero() {
			r.start = due
		}
		w.tally.succeed(r)
	case ctx.Err() == nil:
		w.tally.fail(err)
	}
}

// closedLoop has clients that each send their next request when the last is done.
func (w *work) closedLoop(ctx context.Context, clients int) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(clients, w.o.Requests) {
		group.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= w.o.Requests {
					return
				}
				w.one(ctx, i, time.Time{})
			}
		})
	}
	group.Wait()
}

// openLoop sends requests at a rate, with exponential gaps: a Poisson process. What
// the server has not answered yet does not hold the next one back.
func (w *work) openLoop(ctx context.Context, rate float64) {
	var group sync.WaitGroup
	defer group.Wait()
	rng := draw(w.o.Seed, drawArrivals, uint64(w.stream))
	due := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range w.o.Requests {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		at := due
		group.Go(func() { w.one(ctx, i, at) })
		// Due times are added up, so that sending late does not lower the rate.
		due = due.Add(time.Duration(rng.ExpFloat64() / rate * float64(time.Second)))
		timer.Reset(time.Until(due))
	}
}

// measure puts one load on one server.
func measure(ctx context.Context, t *target, l load, stream, repeat int, o Options) Measurement {
	open := l.Concurrency
	if open == 0 {
		open = o.Requests
	}
	client, done := newClient(o, open)
	defer done()
	p := newPrompter(t, o)
	if o.Warmup > 0 {
		// The server may have unloaded the model during the others' turns. If it fails, so will
		// the requests that are counted.
		_, _ = ask(ctx, client, t, p.prompt(drawWarmup, stream, t.again), 1, o)
	}
	sum := &tally{o: o}
	sum.gaps = gaps{limit: gapLimit, rng: draw(o.Seed, drawArrivals, 0)}
	sum.m = Measurement{Server: t.Name, load: l, Repeat: repeat, Start: time.Now()}
	w := &work{client: client, target: t, prompt: p, stream: stream, o: o, tally: sum}
	if l.Concurrency > 0 {
		w.closedLoop(ctx, l.Concurrency)
	} else {
		w.openLoop(ctx, l.Rate)
	}
	took := time.Since(sum.m.Start)
	sum.m.Interrupted = ctx.Err() != nil
	return sum.result(took)
}

// newClient has connections of its own, which stay open until done is called.
func newClient(o Options, connections int) (client *http.Client, done func()) {
	transport := &http.Transport{DialContext: o.dial, MaxIdleConnsPerHost: connections, DisableCompression: true}
	return &http.Client{Transport: transport}, transport.CloseIdleConnections
}
