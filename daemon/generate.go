package daemon

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// generate answers POST /api/generate.
func (d *Daemon) generate(c *gin.Context) {
	d.fail(c, newError(http.StatusNotImplemented, "/api/generate is not served yet"))
}
