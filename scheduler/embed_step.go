package scheduler

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"cllm/llm"
)

// step makes one call of the embedder: take requests in, deal, embed, deliver. It
// reports whether there was work. An error means that the embedder is lost.
func (e *Embeddings) step() (worked bool, err error) {
	e.receive()
	e.reap()
	e.admit()
	defer e.publish()
	if len(e.active) == 0 {
		return false, nil
	}
	if e.embedder == nil {
		e.begin()
		return true, nil
	}
	e.refuse()
	tokens := e.pace.tokens(e.limits.Batch)
	if e.spans = deal(e.active, e.long, e.limits, tokens, e.spans); len(e.spans) == 0 {
		return true, nil // all were refused
	}
	e.parts = e.parts[:0]
	dealt := 0
	for _, s := range e.spans {
		e.parts = append(e.parts, llm.EmbedPart{Seq: s.seq, Tokens: s.tokens(), Last: s.last()})
		dealt += s.to - s.from
	}
	e.largest = max(e.largest, dealt)
	e.publish()
	start := time.Now()
	err = e.embedder.Embed(e.parts)
	took := time.Since(start)
	if err != nil {
		return true, e.fail(err)
	}
	e.pace.computed(dealt, took)
	e.count.engine.Add(int64(took))
	e.count.calls.Add(1)
	e.count.tokens.Add(int64(dealt))
	e.deliver()
	return true, nil
}

// receive takes what was submitted since the last call.
func (e *Embeddings) receive() {
	for {
		select {
		case r := <-e.inbox:
			e.waiting = append(e.waiting, r)
		default:
			return
		}
	}
}

// reap ends the requests whose clients have gone.
func (e *Embeddings) reap() {
	gone := func(r *embedding) bool {
		if r.ctx.Err() == nil {
			return false
		}
		e.abandon(r)
		e.end(r, r.ctx.Err())
		return true
	}
	e.active = slices.DeleteFunc(e.active, gone)
	e.waiting = slices.DeleteFunc(e.waiting, gone)
}

// abandon frees the sequence of the request's long text, if it has one.
func (e *Embeddings) abandon(r *embedding) {
	if e.long != nil && e.long.of == r {
		e.embedder.Forget(e.long.seq)
		e.long = nil
	}
}

// admit lets waiting requests take turns. A place in the queue goes on to one that
// still waits and has none: it was sent when others were about to end.
func (e *Embeddings) admit() {
	n := min(len(e.waiting), e.slots-len(e.active))
	places := 0
	for _, r := range e.waiting[:n] {
		if r.queued {
			r.queued = false
			places++
		}
		e.active = append(e.active, r)
	}
	e.waiting = slices.Delete(e.waiting, 0, n)
	for _, r := range e.waiting {
		if places > 0 && !r.queued {
			r.queued = true
			places--
		}
	}
	for range places {
		e.queue.Leave()
	}
}

// begin opens the embedder. If that fails, the requests that are there pay, and the
// next one tries again.
func (e *Embeddings) begin() {
	embedder, err := e.open()
	if err != nil {
		err = fmt.Errorf("the model can't give embeddings: %w", err)
		for _, r := range e.active {
			e.end(r, err)
		}
		e.active = e.active[:0]
		return
	}
	e.embedder, e.limits = embedder, embedder.Limits()
	e.current.Store(&opened{embedder, e.limits})
}

// refuse ends the requests that the embedder can't serve, and those that ask for
// nothing.
func (e *Embeddings) refuse() {
	e.active = slices.DeleteFunc(e.active, func(r *embedding) bool {
		if r.checked {
			return false
		}
		r.checked = true
		err := e.check(r.texts)
		if err == nil && len(r.texts) > 0 {
			return false
		}
		e.end(r, err)
		return true
	})
}

func (e *Embeddings) check(texts [][]llm.Token) error {
	for i, t := range texts {
		switch {
		case len(t) == 0:
			return fmt.Errorf("text %d of %d: %w", i+1, len(texts), ErrEmptyPrompt)
		case len(t) > e.limits.Context:
			return fmt.Errorf("text %d of %d: %w: it has %d tokens, the context %d", i+1, len(texts), ErrPromptTooLong, len(t), e.limits.Context)
		}
	}
	return nil
}

// deliver hands out the vectors and notes what was begun. Requests that were
// served stand behind those that were not.
func (e *Embeddings) deliver() {
	e.long = nil
	served := make(map[*embedding]bool, len(e.active))
	for i, s := range e.spans {
		r := s.of
		served[r] = true
		r.next = max(r.next, s.text+1)
		if !s.last() {
			e.long = &longText{of: r, text: s.text, seq: s.seq, done: s.to}
			continue
		}
		r.vectors[s.text] = e.parts[i].Vector
		r.left--
		e.count.texts.Add(1)
		if r.left == 0 {
			e.end(r, nil)
		}
	}
	clear(e.spans)
	clear(e.parts)
	e.active = slices.DeleteFunc(e.active, func(r *embedding) bool { return r.left == 0 })
	slices.SortStableFunc(e.active, func(a, b *embedding) int {
		switch {
		case served[a] == served[b]:
			return 0
		case served[a]:
			return 1
		default:
			return -1
		}
	})
}

// fail decides who pays for a failed call. It returns an error when the embedder is
// lost: then every request pays.
func (e *Embeddings) fail(err error) error {
	if !errors.Is(err, llm.ErrInvalidBatch) {
		return fmt.Errorf("the model stopped working and is loaded anew for the next request: %w", err)
	}
	err = fmt.Errorf("the scheduler built a batch that the engine refuses, which is a bug: %w", err)
	guilty := make(map[*embedding]bool)
	for _, s := range e.spans {
		guilty[s.of] = true
	}
	e.active = slices.DeleteFunc(e.active, func(r *embedding) bool {
		if !guilty[r] {
			return false
		}
		e.abandon(r)
		e.end(r, err)
		return true
	})
	return nil
}
