package daemon

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/gin-gonic/gin"
)

// maxHeader bounds the header of a request, in bytes.
const maxHeader = 64 << 10

// decode reads the JSON body into v, whatever its content type. What follows the
// first JSON value is ignored. Its errors are fit for fail.
func decode(c *gin.Context, v any) error {
	err := json.NewDecoder(c.Request.Body).Decode(v)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		return err
	case errors.Is(err, io.EOF):
		return newError(http.StatusBadRequest, textMissingBody)
	default:
		return newError(http.StatusBadRequest, err.Error())
	}
}

// limitBody bounds the body of a request. One that is announced as too large is
// refused before it is read.
func (d *Daemon) limitBody(c *gin.Context) {
	if c.Request.ContentLength > d.opts.MaxBody {
		d.fail(c, &http.MaxBytesError{Limit: d.opts.MaxBody})
		return
	}
	// net/http's own writer, so that it closes the connection when the limit is hit.
	w := http.ResponseWriter(c.Writer)
	if inner, ok := w.(interface{ Unwrap() http.ResponseWriter }); ok {
		w = inner.Unwrap()
	}
	c.Request.Body = http.MaxBytesReader(w, c.Request.Body, d.opts.MaxBody)
}
