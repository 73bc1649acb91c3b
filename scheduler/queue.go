package scheduler

import "sync/atomic"

// Queue bounds the requests that wait, over all schedulers that share it and
// over those that wait for a model to load.
type Queue struct {
	limit   int64
	waiting atomic.Int64
}

// NewQueue returns a queue with room for limit requests.
func NewQueue(limit int) *Queue {
	return &Queue{limit: int64(limit)}
}

// Enter takes a place and reports whether there was one. Each place that was
// taken is given back by one Leave.
func (q *Queue) Enter() bool {
	if q.waiting.Add(1) > q.limit {
		q.waiting.Add(-1)
		return false
	}
	return true
}

// Leave gives a place back.
func (q *Queue) Leave() { q.waiting.Add(-1) }

// Waiting is the number of places taken.
func (q *Queue) Waiting() int { return int(q.waiting.Load()) }
