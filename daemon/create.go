package daemon

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"

	"cllm/modelstore"
)

// create answers POST /api/create. A model that is to be made of one that is not in
// the store has that one pulled first.
func (d *Daemon) create(c *gin.Context) {
	var req api.CreateRequest
	if err := decode(c, &req); err != nil {
		d.fail(c, err)
		return
	}
	r, err := d.createRequest(&req)
	if err != nil {
		d.fail(c, err)
		return
	}
	out := &progress{c: c, stream: isTrue(req.Stream)}
	ctx := c.Request.Context()
	err = d.store.Create(ctx, r, out.tell)
	if missing := (*modelstore.NotFoundError)(nil); errors.As(err, &missing) {
		if err := d.store.Pull(ctx, missing.Name, false, out.tellButSuccess); err != nil {
			d.transferred(out, err)
			return
		}
		err = d.store.Create(ctx, r, out.tell)
	}
	if missing := (*modelstore.NotFoundError)(nil); errors.As(err, &missing) { // it was deleted at once
		err = notFound(req.From)
	}
	if err != nil {
		d.failAnywhere(c, err)
		return
	}
	out.end()
}

// createRequest checks the request's names and brings it into the store's form.
func (d *Daemon) createRequest(req *api.CreateRequest) (modelstore.CreateRequest, error) {
	//lint:ignore SA1019 old clients send it
	name, err := modelstore.ParseName(cmp.Or(req.Model, req.Name))
	if err != nil {
		return modelstore.CreateRequest{}, newError(http.StatusBadRequest, textBadName)
	}
	if req.From != "" {
		if _, err := modelstore.ParseName(req.From); err != nil {
			return modelstore.CreateRequest{}, newError(http.StatusBadRequest, textBadName)
		}
	}
	licenses, err := modelstore.ParseLicense(req.License)
	if err != nil {
		return modelstore.CreateRequest{}, err
	}
	return modelstore.CreateRequest{
		Name:       name,
		From:       req.From,
		Files:      req.Files,
		RemoteHost: req.RemoteHost,
		Adapters:   req.Adapters,
		Template:   req.Template,
		System:     req.System,
		Licenses:   licenses,
		Parameters: req.Parameters,
		Messages:   req.Messages,
		Renderer:   req.Renderer,
		Parser:     req.Parser,
		Requires:   req.Requires,
		Info:       req.Info,
		//lint:ignore SA1019 old clients send it
		Quantization: cmp.Or(req.Quantize, req.Quantization),
		Quantize:     d.opts.Loader.Quantize,
	}, nil
}

// progress sends lines of progress, or keeps the last one for the end.
type progress struct {
	c      *gin.Context
	stream bool
	last   api.ProgressResponse
}

func (p *progress) tell(now modelstore.Progress) {
	p.last = api.ProgressResponse{Status: now.Status, Digest: now.Digest, Total: now.Total, Completed: now.Completed}
	if !p.stream {
		return
	}
	p.c.Header("Content-Type", typeLines)
	// A client that has gone ends the work through the request's context.
	if json.NewEncoder(p.c.Writer).Encode(p.last) == nil {
		p.c.Writer.Flush()
	}
}

// tellButSuccess is tell for a part of the work. Clients take the line with success
// for the end of all, and leave.
func (p *progress) tellButSuccess(now modelstore.Progress) {
	if now.Status != "success" {
		p.tell(now)
	}
}

func (p *progress) end() {
	if !p.stream {
		p.c.Header("Content-Type", "application/json")
		p.c.JSON(http.StatusOK, p.last)
	}
}
