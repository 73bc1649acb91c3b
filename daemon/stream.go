package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"

	"cllm/daemon/prompt"
	"cllm/scheduler"
)

// turn is one answer: what the scheduler shall do, and how the result is told.
type turn struct {
	start   time.Time     // when the request came
	loaded  time.Duration // from start until the model was there
	stream  bool          // a line per piece, otherwise one object at the end
	request scheduler.Request
	output  *prompt.Output

	// line makes what is sent of a piece. With an ending it is the last one.
	line func(prompt.Part, *ending) any
}

// ending is what the last line tells.
type ending struct {
	reason  string
	metrics api.Metrics
	text    string // all that the model wrote
}

// sink takes an answer on its way to the client.
type sink interface {
	part(prompt.Part) error
	end(prompt.Part, *ending) error
	fail(error)
}

// deliver submits the turn and sends its answer. It returns when the scheduler is
// done with the request. An answer that nobody can use any more is cancelled.
func (d *Daemon) deliver(c *gin.Context, s *scheduler.Scheduler, t turn) {
	ctx, cancel := context.WithCancel(c.Request.Context())
	defer cancel()
	var to sink = &whole{d: d, c: c, turn: &t}
	if t.stream {
		to = newLines(d, c, &t)
	}
	events, err := s.Submit(ctx, t.request)
	if err != nil {
		to.fail(err)
		return
	}
	var text strings.Builder
	for lost := false; ; {
		e, ok := events.Next()
		switch {
		case !ok:
			return
		case lost:
			continue
		}
		text.WriteString(e.Text)
		if err := t.pass(e, text.String, to); err != nil {
			lost = true
			cancel()
			to.fail(err)
		}
	}
}

// pass sends what an event holds. An error ends the answer.
func (t *turn) pass(e scheduler.Event, text func() string, to sink) error {
	if e.Text != "" {
		p, err := t.output.Add(e.Text)
		if err != nil {
			return err
		}
		if !p.Empty() {
			if err := to.part(p); err != nil {
				return err
			}
		}
	}
	if e.Done == nil {
		return nil
	}
	if err := e.Done.Err; err != nil {
		return engineError(err)
	}
	p, err := t.output.End()
	if err != nil {
		return err
	}
	return to.end(p, &ending{reason: string(e.Done.Reason), metrics: t.metrics(e.Done), text: text()})
}

// engineError gives the errors of an engine the beginning by which clients know
// them. Errors that have a status or a text of their own keep it.
func engineError(err error) error {
	if status, text := answer(err); status != http.StatusInternalServerError || text != err.Error() {
		return err
	}
	return fmt.Errorf("an error was encountered while running the model: %w", err)
}

// metrics never has a duration of zero: it would be left out, and clients that
// check what they get would refuse the line.
func (t *turn) metrics(d *scheduler.Done) api.Metrics {
	return api.Metrics{
		TotalDuration:      max(time.Since(t.start), 1),
		LoadDuration:       max(t.loaded, 1),
		PromptEvalCount:    d.PromptTokens,
		PromptEvalDuration: max(d.Prefill, 1),
		EvalCount:          d.Tokens,
		EvalDuration:       max(d.Decode, 1),
	}
}

// lines sends an answer as NDJSON, each line as soon as it is there.
type lines struct {
	d    *Daemon
	c    *gin.Context
	turn *turn
	buf  bytes.Buffer
	enc  *json.Encoder
}

func newLines(d *Daemon, c *gin.Context, t *turn) *lines {
	l := &lines{d: d, c: c, turn: t}
	l.enc = json.NewEncoder(&l.buf)
	return l
}

func (l *lines) part(p prompt.Part) error           { return l.write(l.turn.line(p, nil)) }
func (l *lines) end(p prompt.Part, e *ending) error { return l.write(l.turn.line(p, e)) }

func (l *lines) write(v any) error {
	l.buf.Reset()
	if err := l.enc.Encode(v); err != nil {
		return err
	}
	w := l.c.Writer
	if !w.Written() {
		l.c.Header("Content-Type", typeLines)
	}
	if _, err := w.Write(l.buf.Bytes()); err != nil {
		return err
	}
	w.Flush()
	return nil
}

// fail gives the status while that is possible, then a last line. Nothing reaches a
// client that has gone.
func (l *lines) fail(err error) {
	if l.c.Request.Context().Err() == nil || !l.c.Writer.Written() {
		l.d.failAnywhere(l.c, err)
	}
}

// whole gathers an answer and sends it at the end.
type whole struct {
	d                 *Daemon
	c                 *gin.Context
	turn              *turn
	content, thinking strings.Builder
	calls             []api.ToolCall
}

func (w *whole) part(p prompt.Part) error {
	w.content.WriteString(p.Content)
	w.thinking.WriteString(p.Thinking)
	w.calls = append(w.calls, p.Calls...)
	return nil
}

func (w *whole) end(p prompt.Part, e *ending) error {
	if err := w.part(p); err != nil {
		return err
	}
	all := prompt.Part{Content: w.content.String(), Thinking: w.thinking.String(), Calls: w.calls}
	w.c.JSON(http.StatusOK, w.turn.line(all, e))
	return nil
}

func (w *whole) fail(err error) { w.d.fail(w.c, err) }
