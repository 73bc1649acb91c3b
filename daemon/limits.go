package daemon

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/gin-gonic/gin"
)

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
