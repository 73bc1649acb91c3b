package bench

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// Run measures and returns the report of what it has measured, also when ctx ends
// first; the error is the context's then. Any other error comes before the first
// measurement: requests that fail later are part of the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = new(Progress)
	}
	report := &Report{Date: time.Now(), Settings: o, Machine: thisMachine()}
	for _, s := range o.Servers {
		t, err := prepare(ctx, s, report.Servers, o)
		if err != nil {
			return nil, err
		}
		report.Servers = append(report.Servers, t)
	}
	order := plan(len(o.Servers), o.loads(), o.Repeat)
	for i, step := range order {
		if ctx.Err() != nil {
			break
		}
		t := report.Servers[step.server]
		o.Progress.begin(fmt.Sprintf("%d/%d: %s, %s %s", i+1, len(order), t.Name, step.load, step.load.unit()), o.Requests)
		m := measure(ctx, t, step.load, step.stream, step.repeat, o)
		report.Measurements = append(report.Measurements, m)
	}
	report.Interrupted = ctx.Err() != nil
	report.Summary = summarize(report.Measurements)
	return report, ctx.Err()
}

// prepare finds out about a server and warms it up.
func prepare(ctx context.Context, s Server, before []*target, o Options) (*target, error) {
	o.Progress.begin("preparing "+s.Name, 0)
	client, done := newClient(o, 1)
	defer done()
	t, err := find(ctx, client, s, o)
	if err != nil {
		return nil, err
	}
	for _, b := range before {
		if b.URL == t.URL {
			t.again++
		}
	}
	if err := t.fit(ctx, client, o); err != nil {
		return nil, err
	}
	p := newPrompter(t, o)
	for i := range o.Warmup {
		if _, err := ask(ctx, client, t, p.prompt(drawWarmup, i, t.again), o.MaxTokens, o); err != nil {
			return nil, fmt.Errorf("%s fails at warm-up request %d of %d: %w", t.Name, i+1, o.Warmup, err)
		}
	}
	return t, nil
}

// step is one measurement of the plan.
type step struct {
	repeat, server, stream int
	load                   load
}

// plan interleaves the servers, so that what happens to the machine meanwhile
// happens to all: at each load one after the other, in an order that turns round
// with each repeat.
func plan(servers int, loads []load, repeats int) []step {
	var steps []step
	for repeat := range repeats {
		order := make([]int, servers)
		for i := range order {
			order[i] = i
		}
		if repeat%2 == 1 {
			slices.Reverse(order)
		}
		for i, l := range loads {
			for _, s := range order {
				steps = append(steps, step{repeat: repeat + 1, server: s, stream: drawRuns + repeat*len(loads) + i, load: l})
			}
		}
	}
	return steps
}

// Progress is what a run is doing.
type Progress struct {
	now                       atomic.Pointer[stage]
	completed, failed, tokens atomic.Int64
}

// stage is one measurement, or the preparation of a server.
type stage struct {
	what     string
	requests int
	start    time.Time
}

func (p *Progress) begin(what string, requests int) {
	p.completed.Store(0)
	p.failed.Store(0)
	p.tokens.Store(0)
	p.now.Store(&stage{what, requests, time.Now()})
}

// String is one line for a terminal.
func (p *Progress) String() string {
	s := p.now.Load()
	if s == nil {
		return ""
	}
	if s.requests == 0 {
		return s.what + " ..."
	}
	completed, failed := p.completed.Load(), p.failed.Load()
	line := fmt.Sprintf("%s: %d of %d requests", s.what, completed+failed, s.requests)
	if failed > 0 {
		line += fmt.Sprintf(", %d failed", failed)
	}
	if took := time.Since(s.start).Seconds(); took > 0 {
		line += fmt.Sprintf(", %.1f tokens/s", float64(p.tokens.Load())/took)
	}
	return line
}
