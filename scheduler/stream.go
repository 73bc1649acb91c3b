package scheduler

import (
	"strings"
	"sync"
)

// mostPieces is how many events wait for a reader one by one. What comes after them is
// put together.
const mostPieces = 16

// Stream is the way of an answer from the step to its reader. The step appends
// and goes on; it never waits for the reader. What piles up is bounded by the
// tokens that the request may generate.
type Stream struct {
	mu       sync.Mutex
	pieces   []Event         // generated and not read yet, the first of it
	text     strings.Builder // the rest
	logprobs []Logprob       // of the rest
	tokens   int
	done     *Done
	read     bool          // the final event was read
	wake     chan struct{} // holds one signal: there is something to read
}

func newStream() *Stream {
	return &Stream{wake: make(chan struct{}, 1)}
}

// Next waits for the next event: the text of a token, also where a step had several
// of them, or, when the reader was long busy, all that came meanwhile. After the event
// with Done it returns false. It must be called from one goroutine at a time. It always
// returns: a request whose context ends gets its final event before the next step.
func (s *Stream) Next() (Event, bool) {
	for {
		s.mu.Lock()
		if s.read {
			s.mu.Unlock()
			return Event{}, false
		}
		e, ok := s.take()
		s.mu.Unlock()
		if ok {
			return e, true
		}
		<-s.wake
	}
}

// take removes the next event. s.mu is held.
func (s *Stream) take() (e Event, ok bool) {
	switch {
	case len(s.pieces) > 0:
		e, ok = s.pieces[0], true
		s.pieces[0] = Event{}
		s.pieces = s.pieces[1:]
	case s.text.Len() > 0:
		e, ok = Event{Text: s.text.String(), Logprobs: s.logprobs, Tokens: s.tokens}, true
		s.text.Reset()
		s.logprobs = nil
	}
	if s.done != nil && len(s.pieces) == 0 && s.text.Len() == 0 {
		e.Logprobs, s.logprobs = append(e.Logprobs, s.logprobs...), nil
		e.Tokens, e.Done, ok, s.read = s.tokens, s.done, true, true
	}
	return e, ok
}

// add appends generated text and what is known about its tokens.
func (s *Stream) add(text string, logprobs []Logprob, tokens int) {
	s.mu.Lock()
	s.tokens = tokens
	if text != "" && len(s.pieces) < mostPieces && s.text.Len() == 0 {
		s.pieces = append(s.pieces, Event{Text: text, Logprobs: append(s.logprobs, logprobs...), Tokens: tokens})
		s.logprobs = nil
	} else {
		s.text.WriteString(text)
		s.logprobs = append(s.logprobs, logprobs...)
	}
	s.mu.Unlock()
	if text != "" {
		s.signal()
	}
}

// end appends the final event. It is called once.
func (s *Stream) end(d *Done) {
	s.mu.Lock()
	s.tokens = d.Tokens
	s.done = d
	s.mu.Unlock()
	s.signal()
}

func (s *Stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Stream) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done != nil
}
