package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"time"

	"github.com/ollama/ollama/api"
)

// Bounds on what a server may send.
const (
	maxLine  = 16 << 20 // Ollama's last line has the prompt's tokens as numbers
	maxWhole = 64 << 20
	maxError = 64 << 10
)

// The reasons for which a request fails. A status is a reason of its own.
const (
	reasonRefused  = "connection refused"
	reasonReset    = "connection reset"
	reasonTimeout  = "timeout"
	reasonBroken   = "broken stream"
	reasonReported = "error in the stream"
	reasonCount    = "wrong count"
	reasonOther    = "other"
)

// streamError is an error that the server reported after it had answered 200, or a
// line that cannot be read.
type streamError struct{ text string }

func (e streamError) Error() string { return e.text }

// brokenError is a reply that stopped before its final event.
type brokenError struct{ cause error }

func (e brokenError) Error() string {
	if e.cause == nil {
		return "the stream ended without a final event"
	}
	return "the stream broke off: " + e.cause.Error()
}

func (e brokenError) Unwrap() error { return e.cause }

// countError is a reply whose count of tokens cannot be right.
type countError struct{ text string }

func (e countError) Error() string { return e.text }

// reason sorts an error of ask.
func reason(err error) string {
	var status api.StatusError
	var broken brokenError
	var reported streamError
	var count countError
	switch {
	case errors.As(err, &status):
		return fmt.Sprintf("HTTP %d", status.StatusCode)
	case errors.As(err, &count):
		return reasonCount
	case errors.As(err, &reported):
		return reasonReported
	case errors.Is(err, context.DeadlineExceeded):
		return reasonTimeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return reasonRefused
	case errors.As(err, &broken):
		return reasonBroken
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF):
		return reasonReset
	}
	return reasonOther
}

// reply is one reply as it is read.
type reply struct {
	start, first, last time.Time // first and last are those of chunks with text
	end                time.Time
	chunks             int // with text
	gaps               []time.Duration
	maxTokens          int

	ended                bool // the final event came
	early                bool // the model ended it
	promptTokens, tokens int
	queue                time.Duration
	hasQueue             bool
}

// chunk notes that text has arrived. A server that sends without end is stopped
// here.
func (r *reply) chunk() error {
	now := time.Now()
	if r.chunks == r.maxTokens {
		return countError{fmt.Sprintf("the server sent more chunks with text than the %d tokens that were asked for", r.maxTokens)}
	}
	if r.chunks == 0 {
		r.first = now
	} else {
		r.gaps = append(r.gaps, now.Sub(r.last))
	}
	r.last = now
	r.chunks++
	return nil
}

// check compares the server's count of tokens with what came: it counted some,
// unless the model ended the reply before any text; no more than were asked for; and
// no fewer than the chunks with text, each of which needs a token. Chunks without
// text say nothing: tokens may make half a character, or a word that is held back.
func (r *reply) check() error {
	switch {
	case r.tokens < r.chunks:
		return countError{fmt.Sprintf("the server counts %d tokens, but sent %d chunks with text", r.tokens, r.chunks)}
	case r.tokens > r.maxTokens:
		return countError{fmt.Sprintf("the server counts %d tokens, more than the %d that were asked for", r.tokens, r.maxTokens)}
	case r.tokens < 1 && !r.early:
		return countError{fmt.Sprintf("the server counts %d tokens, but does not say that the model ended the reply", r.tokens)}
	}
	return nil
}

// ask sends one request and reads its reply to the end. The error tells what is wrong
// with the reply, if anything is. The transport never sends a POST again of which it
// has written a byte.
func ask(ctx context.Context, client *http.Client, t *target, prompt string, maxTokens int, o Options) (*reply, error) {
	body, err := json.Marshal(t.protocol.body(t.Model, prompt, o, maxTokens))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL+t.protocol.path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = t.closes && o.Stream

	r := &reply{maxTokens: maxTokens, start: time.Now()}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode != http.StatusOK:
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxError)) // the status is the failure, with or without text
		return nil, statusError(resp, text)
	case o.Stream:
		err = r.readLines(resp.Body, t.protocol.line)
	default:
		err = r.readWhole(resp.Body, t.protocol.whole)
	}
	if err != nil {
		return nil, err
	}
	r.end = time.Now()
	if !r.ended {
		return nil, brokenError{}
	}
	return r, r.check()
}

// readLines reads to the end of the body, so that its connection is used again.
func (r *reply) readLines(body io.Reader, line func([]byte, *reply) error) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 4<<10), maxLine)
	for lines.Scan() {
		if err := line(lines.Bytes(), r); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return brokenError{err}
	}
	return nil
}

func (r *reply) readWhole(body io.Reader, whole func([]byte, *reply) error) error {
	text, err := io.ReadAll(io.LimitReader(body, maxWhole))
	if err != nil {
		return brokenError{err}
	}
	return whole(text, r)
}
