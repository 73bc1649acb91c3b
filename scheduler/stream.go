package scheduler

import (
	"strings"
	"sync"
)

// Stream is the way of an answer from the step to its reader. The step appends
// and goes on; it never waits for the reader. What piles up is bounded by the
// tokens that the request may generate.
type Stream struct {
	mu       sync.Mutex
	text     strings.Builder // generated and not read yet
	logprobs []Logprob       // of its tokens
	tokens   int
	done     *Done
	read     bool          // the final event was read
	wake     chan struct{} // holds one signal: there is something to read
}

func newStream() *Stream {
	return &Stream{wake: make(chan struct{}, 1)}
}

// Next waits for the next event. Text that came while the reader was busy is
// one event. After the event with Done it returns false. It must be called from
// one goroutine at a time. It always returns: a request whose context ends gets
// its final event before the next step.
func (s *Stream) Next() (Event, bool) {
	for {
		s.mu.Lock()
		if s.read {
			s.mu.Unlock()
			return Event{}, false
		}
		if s.text.Len() > 0 || s.done != nil {
			e := Event{Text: s.text.String(), Logprobs: s.logprobs, Tokens: s.tokens, Done: s.done}
			s.text.Reset()
			s.logprobs = nil
			s.read = s.done != nil
			s.mu.Unlock()
			return e, true
		}
		s.mu.Unlock()
		<-s.wake
	}
}

// add appends generated text and what is known about its tokens.
func (s *Stream) add(text string, logprobs []Logprob, tokens int) {
	s.mu.Lock()
	s.text.WriteString(text)
	s.logprobs = append(s.logprobs, logprobs...)
	s.tokens = tokens
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
