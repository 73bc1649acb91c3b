package llm

import (
	"strings"
	"unicode/utf8"
)

// Text turns the pieces of one answer into text that can be sent: always valid
// UTF-8, and never a part of a stop string that may still be completed.
//
// A character that is split over pieces is held until it is whole, with the whole of
// the pieces it is in, as Ollama does: so there are never more texts than pieces. A byte
// that can't belong to any character becomes U+FFFD; nothing else is changed, and
// nothing after it is lost. The zero value has no stop strings.
type Text struct {
	stop    []string
	pending []byte // neither returned nor dropped yet
	settled int    // bytes of the pieces that belong to what was returned
}

// NewText returns a Text that ends at the first occurrence of any stop string.
// Empty stop strings are ignored.
func NewText(stop []string) *Text {
	t := &Text{}
	for _, s := range stop {
		if s != "" {
			t.stop = append(t.stop, s)
		}
	}
	return t
}

// Add takes the next piece and returns the text that is safe to send now. With
// stopped, a stop string was found: what stood before it has been returned, it
// and the rest are dropped.
func (t *Text) Add(piece string) (text string, stopped bool) {
	t.pending = append(t.pending, piece...)
	end := -1
	for _, s := range t.stop {
		if i := strings.Index(string(t.pending), s); i >= 0 && (end < 0 || i < end) {
			end = i
		}
	}
	if end >= 0 {
		text = t.take(end)
		t.pending = t.pending[:0]
		return text, true
	}
	if t.mayStop() || partialRune(t.pending) > 0 {
		return "", false
	}
	return t.take(len(t.pending)), false
}

// Flush returns what is still held when the answer ends without a stop string.
// The first bytes of a character that was never completed are dropped.
func (t *Text) Flush() string {
	text := t.take(len(t.pending) - partialRune(t.pending))
	t.pending = t.pending[:0]
	return text
}

// Settled is how many bytes of the pieces belong to what was returned. A piece that
// begins before it has a part in that text; one that a stop string has cut off never
// gets there.
func (t *Text) Settled() int { return t.settled }

func (t *Text) take(n int) string {
	// What is held for a stop string may itself begin inside a character's bytes
	// only if the stop string does, so the cut falls between characters.
	text := valid(t.pending[:n])
	t.pending = append(t.pending[:0], t.pending[n:]...)
	t.settled += n
	return text
}

// mayStop reports whether pending ends with what begins a stop string.
func (t *Text) mayStop() bool {
	for _, s := range t.stop {
		for n := min(len(s)-1, len(t.pending)); n > 0; n-- {
			if strings.HasPrefix(s, string(t.pending[len(t.pending)-n:])) {
				return true
			}
		}
	}
	return false
}

// partialRune is the number of bytes at the end of b that begin a character and
// do not complete it.
func partialRune(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		tail := b[len(b)-n:]
		if utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

func valid(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return string([]rune(string(b)))
}
