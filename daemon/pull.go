package daemon

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"

	"cllm/modelstore"
)

// pull answers POST /api/pull.
func (d *Daemon) pull(c *gin.Context) {
	var req api.PullRequest
	if err := decode(c, &req); err != nil {
		d.fail(c, err)
		return
	}
	//lint:ignore SA1019 old clients send it
	name, err := modelstore.ParseName(cmp.Or(req.Model, req.Name))
	if err != nil {
		d.fail(c, newError(http.StatusBadRequest, textBadName))
		return
	}
	out := &progress{c: c, stream: isTrue(req.Stream)}
	d.transferred(out, d.store.Pull(c.Request.Context(), name, req.Insecure, out.tell))
}

// push answers POST /api/push.
func (d *Daemon) push(c *gin.Context) {
	var req api.PushRequest
	if err := decode(c, &req); err != nil {
		d.fail(c, err)
		return
	}
	//lint:ignore SA1019 old clients send it
	written := cmp.Or(req.Model, req.Name)
	if written == "" {
		d.fail(c, newError(http.StatusBadRequest, textNoModel))
		return
	}
	out := &progress{c: c, stream: isTrue(req.Stream)}
	name := model.ParseName(written)
	err := d.store.Push(c.Request.Context(), name, req.Insecure, out.tell)
	if invalid := (*modelstore.InvalidNameError)(nil); errors.As(err, &invalid) {
		err = model.Unqualified(name)
	}
	d.transferred(out, err)
}

// transferred ends the answer to a pull or push. As in Ollama every failure is a 500,
// whatever the registry said.
func (d *Daemon) transferred(out *progress, err error) {
	switch {
	case err == nil:
		out.end()
	case out.c.Request.Context().Err() != nil: // the client has gone
		d.failAnywhere(out.c, out.c.Request.Context().Err())
	default:
		d.failAnywhere(out.c, newError(http.StatusInternalServerError, err.Error()))
	}
}
