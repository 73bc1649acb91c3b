package scheduler

import (
	"sync/atomic"
	"time"
)

// Stats is a snapshot of a scheduler's work. Counters only grow.
type Stats struct {
	Slots       int   // slots there are
	Active      int   // slots that serve a request
	Waiting     int   // requests without a slot
	HeldTokens  int64 // tokens in the KV cache, those of idle slots included
	TokenBudget int64 // tokens that the memory budget allows; less once the engine had no room

	Steps           int64         // calls of Decode
	Passes          int64         // passes over the weights, by llama.cpp's split rule
	DecodeTokens    int64         // tokens sampled
	PrefillTokens   int64         // tokens computed of prompts, and of answers sent back, but for each one's last: it is a decode row
	CachedTokens    int64         // prompt tokens found in the cache
	Preempted       int64         // requests sent back to wait for room
	Moved           int64         // sequences moved to close a hole
	DraftTokens     int64         // drafted tokens that were computed
	DraftsStood     int64         // those that were what the model went on with
	EngineTime      time.Duration // time inside Decode
	SampleTime      time.Duration // time inside Sample
	SchedulerTime   time.Duration // the rest of the steps
	FinishedOK      int64         // requests that ended with a reason
	FinishedFailed  int64         // requests that ended with an error
	CancelledByUser int64         // requests whose context ended
}

// counters are written by Run and read from anywhere.
type counters struct {
	active, waiting, held, budget               atomic.Int64
	steps, passes, decode, prefill, cached      atomic.Int64
	preempted, moved, drafted, draftsStood      atomic.Int64
	engine, sample, scheduler                   atomic.Int64 // nanoseconds
	finishedOK, finishedFailed, cancelledByUser atomic.Int64
}

// Stats may be called from any goroutine. It never waits for a step.
func (s *Scheduler) Stats() Stats {
	c := &s.count
	return Stats{
		Slots:           len(s.slots),
		Active:          int(c.active.Load()),
		Waiting:         int(c.waiting.Load()),
		HeldTokens:      c.held.Load(),
		TokenBudget:     c.budget.Load(),
		Steps:           c.steps.Load(),
		Passes:          c.passes.Load(),
		DecodeTokens:    c.decode.Load(),
		PrefillTokens:   c.prefill.Load(),
		CachedTokens:    c.cached.Load(),
		Preempted:       c.preempted.Load(),
		Moved:           c.moved.Load(),
		DraftTokens:     c.drafted.Load(),
		DraftsStood:     c.draftsStood.Load(),
		EngineTime:      time.Duration(c.engine.Load()),
		SampleTime:      time.Duration(c.sample.Load()),
		SchedulerTime:   time.Duration(c.scheduler.Load()),
		FinishedOK:      c.finishedOK.Load(),
		FinishedFailed:  c.finishedFailed.Load(),
		CancelledByUser: c.cancelledByUser.Load(),
	}
}
