package daemon

import (
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/openai"
)

// modelList answers GET /v1/models: the models on disk, the newest first.
func (d *Daemon) modelList(c *gin.Context) {
	entries, err := d.store.List()
	if err != nil {
		d.fail(c, err)
		return
	}
	list := openai.ListCompletion{Object: "list", Data: make([]openai.Model, 0, len(entries))}
	for _, e := range entries {
		shown := api.ShowResponse{ModifiedAt: e.ModifiedAt}
		list.Data = append(list.Data, openai.ToModel(shown, e.Name.DisplayShortest()))
	}
	c.JSON(http.StatusOK, list)
}

// modelEntry answers GET /v1/models/:model.
func (d *Daemon) modelEntry(c *gin.Context) {
	written := c.Param("model")
	m, err := d.named(written)
	if err != nil {
		d.fail(c, err)
		return
	}
	c.JSON(http.StatusOK, openai.ToModel(api.ShowResponse{ModifiedAt: m.ModifiedAt}, written))
}
