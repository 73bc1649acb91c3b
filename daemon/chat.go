package daemon

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// chat answers POST /api/chat.
func (d *Daemon) chat(c *gin.Context) {
	d.fail(c, newError(http.StatusNotImplemented, "/api/chat is not served yet"))
}
