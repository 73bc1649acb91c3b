package daemon

import (
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/klauspost/compress/zstd"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/openai"

	"cllm/daemon/prompt"
)

// maxZstdWindow bounds the memory of unpacking a body, in bytes.
const maxZstdWindow = 8 << 20

// responses answers POST /v1/responses.
func (d *Daemon) responses(c *gin.Context) {
	start := time.Now()
	to := &responseReply{events: d.events(c)}
	unpacked, err := d.unpack(c)
	if err != nil {
		to.fail(err)
		return
	}
	defer unpacked()
	if err := readCompat(c, &to.asked); err != nil {
		to.fail(err)
		return
	}
	req, err := fromResponses(to.asked)
	if err != nil {
		to.fail(err)
		return
	}
	d.settleEffort(req)
	to.stream = *req.Stream
	d.answerChat(c.Request.Context(), req, start, true, to)
}

// unpack lets the body be read that a client has compressed, and returns what has
// to be called when it was read. The limit on bodies is for what comes out.
func (d *Daemon) unpack(c *gin.Context) (done func(), err error) {
	if c.GetHeader("Content-Encoding") != "zstd" {
		return func() {}, nil
	}
	packed := c.Request.Body
	r, err := zstd.NewReader(packed, zstd.WithDecoderMaxMemory(maxZstdWindow), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, newError(http.StatusBadRequest, "failed to decompress zstd body")
	}
	c.Request.Body = http.MaxBytesReader(nil, io.NopCloser(r), d.opts.MaxBody)
	return func() {
		r.Close()
		c.Request.Body = packed
	}, nil
}

// fromResponses makes a chat request of a request for a response. Tools without a
// name are left out: those are the ones that OpenAI runs itself.
func fromResponses(asked openai.ResponsesRequest) (*api.ChatRequest, error) {
	asked.Tools = slices.DeleteFunc(slices.Clone(asked.Tools), func(t openai.ResponsesTool) bool { return t.Name == "" })
	req, err := openai.FromResponsesRequest(asked)
	if err != nil {
		return nil, refuse(err)
	}
	asDecoded(req.Options)
	lowerRoles(req.Messages)
	switch effort := asked.Reasoning.Effort; effort {
	case "none":
		req.Think = &api.ThinkValue{Value: false}
	case "low", "medium", "high":
		req.Think = &api.ThinkValue{Value: effort}
	}
	stream := asked.Stream != nil && *asked.Stream
	req.Stream = &stream
	return req, nil
}

// settleEffort leaves an effort to the models that have levels of thinking. The
// others think as they do without one.
func (d *Daemon) settleEffort(req *api.ChatRequest) {
	if !req.Think.IsString() {
		return
	}
	m, err := d.find(req.Model)
	if err != nil { // the answer tells of it
		return
	}
	if prompt.NewStyle(m.Template, m.Config, m.Name).Parser != prompt.Harmony {
		req.Think = nil
	}
}
