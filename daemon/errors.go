package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"

	"cllm/modelstore"
	"cllm/scheduler"
)

// Ollama's texts, which clients compare.
const (
	textMissingBody = "missing request body"
	textNoModel     = "model is required"
	textBusy        = "server busy, please try again.  maximum pending requests exceeded"
	textCanceled    = "request canceled"
	textTooLong     = "the input length exceeds the context length"
	textStopped     = "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, check ollama server logs for details"
	textBadName     = "invalid model name"
)

// typeLines is the content type of streams.
const typeLines = "application/x-ndjson"

// statusClientClosed is what Ollama answers when the client left while its model
// was loading.
const statusClientClosed = 499

// retryAfter is the value of Retry-After, in seconds, of every 503.
const retryAfter = "1"

var (
	// errStopping: Stop was called while the request waited.
	errStopping = newError(http.StatusServiceUnavailable, "the server is stopping")
	// errInternal stands for a failure that is described in the log only.
	errInternal = newError(http.StatusInternalServerError, "internal server error")
)

// newError returns an error that fail answers with the status and the exact text.
func newError(status int, text string) error {
	return api.StatusError{StatusCode: status, ErrorMessage: text}
}

// errorf is newError with a format.
func errorf(status int, format string, args ...any) error {
	return newError(status, fmt.Sprintf(format, args...))
}

// notFound is the text of generate, chat, show and delete. The name is as the
// client wrote it.
func notFound(name string) error {
	return errorf(http.StatusNotFound, "model '%s' not found", name)
}

// answer returns the status and the text of an error.
func answer(err error) (status int, text string) {
	var (
		known    api.StatusError
		tooLarge *http.MaxBytesError
	)
	switch {
	case errors.As(err, &known):
		return known.StatusCode, known.ErrorMessage
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge, fmt.Sprintf("the request body is larger than the limit of %d bytes", tooLarge.Limit)
	case errors.Is(err, scheduler.ErrBusy):
		return http.StatusServiceUnavailable, textBusy
	case errors.Is(err, context.Canceled):
		return statusClientClosed, textCanceled
	case errors.Is(err, scheduler.ErrPromptTooLong):
		return http.StatusBadRequest, textTooLong
	case errors.Is(err, scheduler.ErrClosed):
		return http.StatusInternalServerError, textStopped
	case errors.Is(err, modelstore.ErrNotFound):
		return http.StatusNotFound, err.Error()
	case errors.Is(err, modelstore.ErrBadRequest):
		return http.StatusBadRequest, err.Error()
	default:
		return http.StatusInternalServerError, err.Error()
	}
}

// fail answers a request with an error. It may only be called before the first
// byte of the answer.
func (d *Daemon) fail(c *gin.Context, err error) {
	status, text := answer(err)
	switch {
	case status == http.StatusServiceUnavailable: // overload is told to the client, the log has the request
		c.Header("Retry-After", retryAfter)
	case status >= http.StatusInternalServerError:
		d.log.Error("request failed", "method", c.Request.Method, "path", c.Request.URL.Path, "status", status, "error", err)
	}
	c.AbortWithStatusJSON(status, errorBody(c.Request.URL.Path, status, text))
}

// failAnywhere ends a request with an error, whatever was sent before: a stream gets
// a last line. Of any other answer that has begun the connection is cut, so that
// the client can't take it for whole.
func (d *Daemon) failAnywhere(c *gin.Context, err error) {
	switch {
	case !c.Writer.Written():
		c.Header("Content-Type", "application/json")
		d.fail(c, err)
	case strings.HasPrefix(c.Writer.Header().Get("Content-Type"), typeLines):
		_, text := answer(err)
		d.log.Error("answer failed", "path", c.Request.URL.Path, "error", err)
		if err := json.NewEncoder(c.Writer).Encode(gin.H{"error": text}); err == nil {
			c.Writer.Flush()
		}
		c.Abort()
	default:
		panic(http.ErrAbortHandler)
	}
}
