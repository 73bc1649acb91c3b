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
	"cllm/llm"
	"cllm/scheduler"
)

// turn is one answer: what the scheduler shall do, and how the result is told.
type turn struct {
	start   time.Time     // when the request came
	loaded  time.Duration // from start until the model was there
	stream  bool          // a line per piece, otherwise one object at the end
	request scheduler.Request
	output  *prompt.Output
	vocab   llm.Vocab

	// line makes what is sent of a piece. With an ending it is the last one.
	line func(piece, *ending) any
}

// piece is a part of an answer and what the client wants to know of its tokens.
type piece struct {
	prompt.Part
	logprobs []api.Logprob
}

// ending is what the last line tells.
type ending struct {
	reason  string
	metrics api.Metrics
	text    string // all that the model wrote
}

// reply writes one answer to a client in the form of its API. It is given Ollama's
// own responses: *api.ChatResponse from a chat, *api.GenerateResponse from a completion.
type reply interface {
	// line sends a piece of a streamed answer, the last with Done. An error says
	// that the rest is of no use.
	line(response any) error
	// whole sends an answer that is not streamed, and what a load or unload is answered with.
	whole(response any) error
	// fail answers with an error and its status. Nothing was sent before.
	fail(err error)
	// failLine ends a stream with an error: with its status if nothing was sent before.
	failLine(err error)
}

// deliver submits the turn and sends its answer. It returns when the scheduler is
// done with the request. An answer that nobody can use any more is cancelled.
func (d *Daemon) deliver(ctx context.Context, s *scheduler.Scheduler, t turn, to reply) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sink = &gathered{turn: &t, to: to}
	if t.stream {
		parts = &streamed{turn: &t, to: to}
	}
	events, err := s.Submit(ctx, t.request)
	if err != nil {
		parts.fail(err)
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
		if err := t.pass(e, text.String, parts); err != nil {
			lost = true
			cancel()
			parts.fail(err)
		}
	}
}

// pass sends what an event holds. An error ends the answer.
func (t *turn) pass(e scheduler.Event, text func() string, to sink) error {
	if e.Text != "" || len(e.Logprobs) > 0 {
		part, err := t.output.Add(e.Text)
		if err != nil {
			return err
		}
		// What is held back because it may begin a tag keeps no logprobs back.
		p := piece{part, logprobs(t.vocab, e.Logprobs)}
		if !p.Empty() || len(p.logprobs) > 0 {
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
	return to.end(piece{Part: p}, &ending{reason: string(e.Done.Reason), metrics: t.metrics(e.Done), text: text()})
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

// sink takes the parts of an answer.
type sink interface {
	part(piece) error
	end(piece, *ending) error
	fail(error)
}

// streamed sends each part as soon as it is there.
type streamed struct {
	turn *turn
	to   reply
}

func (s *streamed) part(p piece) error           { return s.to.line(s.turn.line(p, nil)) }
func (s *streamed) end(p piece, e *ending) error { return s.to.line(s.turn.line(p, e)) }
func (s *streamed) fail(err error)               { s.to.failLine(err) }

// gathered sends all parts as one at the end.
type gathered struct {
	turn              *turn
	to                reply
	content, thinking strings.Builder
	calls             []api.ToolCall
	logprobs          []api.Logprob
}

func (g *gathered) part(p piece) error {
	g.content.WriteString(p.Content)
	g.thinking.WriteString(p.Thinking)
	g.calls = append(g.calls, p.Calls...)
	g.logprobs = append(g.logprobs, p.logprobs...)
	return nil
}

func (g *gathered) end(p piece, e *ending) error {
	if err := g.part(p); err != nil {
		return err
	}
	all := prompt.Part{Content: g.content.String(), Thinking: g.thinking.String(), Calls: g.calls}
	return g.to.whole(g.turn.line(piece{all, g.logprobs}, e))
}

func (g *gathered) fail(err error) { g.to.fail(err) }

// native is Ollama's own form: NDJSON, or one JSON object.
type native struct {
	d   *Daemon
	c   *gin.Context
	buf bytes.Buffer
	enc *json.Encoder // into buf, made with the first line
}

func (d *Daemon) native(c *gin.Context) *native { return &native{d: d, c: c} }

func (n *native) line(response any) error {
	if n.enc == nil {
		n.enc = json.NewEncoder(&n.buf)
		n.c.Header("Content-Type", typeLines)
	}
	n.buf.Reset()
	if err := n.enc.Encode(response); err != nil {
		return err
	}
	if _, err := n.c.Writer.Write(n.buf.Bytes()); err != nil {
		return err
	}
	n.c.Writer.Flush()
	return nil
}

func (n *native) whole(response any) error {
	n.c.JSON(http.StatusOK, response)
	return nil
}

func (n *native) fail(err error) { n.d.fail(n.c, err) }

// failLine sends nothing to a client that has gone.
func (n *native) failLine(err error) {
	if n.enc == nil || n.c.Request.Context().Err() == nil {
		n.d.failAnywhere(n.c, err)
	}
}
