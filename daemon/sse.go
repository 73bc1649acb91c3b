package daemon

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/openai"
)

// typeEvents is the content type of server-sent events.
const typeEvents = "text/event-stream"

// events writes the answer to one request as server-sent events. What was added
// goes out together with the next send. It is the part of a reply that the APIs
// with such streams share.
type events struct {
	d     *Daemon
	c     *gin.Context
	buf   bytes.Buffer
	enc   *json.Encoder // into buf
	err   error         // of the first event that could not be written as JSON
	begun bool          // something was sent
}

func (d *Daemon) events(c *gin.Context) events { return events{d: d, c: c} }

// add adds an event. OpenAI's chats and completions have no names. An error comes
// out of the next send.
func (e *events) add(name string, data any) {
	if e.enc == nil {
		e.enc = json.NewEncoder(&e.buf)
	}
	if name != "" {
		e.buf.WriteString("event: ")
		e.buf.WriteString(name)
		e.buf.WriteByte('\n')
	}
	e.buf.WriteString("data: ")
	if err := e.enc.Encode(data); err != nil && e.err == nil {
		e.err = err
	}
	e.buf.WriteByte('\n')
}

// done adds the mark that ends OpenAI's streams.
func (e *events) done() { e.buf.WriteString("data: [DONE]\n\n") }

// send sends what was added. An error says that the rest of the answer is of no use.
func (e *events) send() error {
	if e.err != nil {
		return e.err
	}
	if !e.begun {
		e.begun = true
		e.c.Header("Content-Type", typeEvents)
		e.c.Header("Cache-Control", "no-cache")
	}
	_, err := e.c.Writer.Write(e.buf.Bytes())
	e.buf.Reset()
	if err == nil {
		e.c.Writer.Flush()
	}
	return err
}

// fail answers with an error and its status. Nothing was sent before.
func (e *events) fail(err error) { e.d.fail(e.c, err) }

// broken ends a stream with an error. tell adds the events that tell of its status
// and text; they are sent unless nothing went out before, or the client has gone.
func (e *events) broken(err error, tell func(status int, text string)) {
	if !e.begun {
		e.fail(err)
		return
	}
	if e.c.Request.Context().Err() != nil {
		return
	}
	e.d.log.Error("answer failed", "path", e.c.Request.URL.Path, "error", err)
	e.buf.Reset() // what could not be sent
	e.err = nil
	tell(answer(err))
	if err := e.send(); err != nil {
		e.d.log.Debug("the client was not told", "path", e.c.Request.URL.Path, "error", err)
	}
}

// failLine ends a stream in the way of OpenAI's chats and completions.
func (e *events) failLine(err error) {
	e.broken(err, func(status int, text string) { e.add("", openai.NewError(status, text)) })
}

// json answers with one object.
func (e *events) json(v any) error {
	e.c.JSON(http.StatusOK, v)
	return nil
}
