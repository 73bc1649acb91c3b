package daemon

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/openai"
)

// embeddingList answers POST /v1/embeddings.
func (d *Daemon) embeddingList(c *gin.Context) {
	start := time.Now()
	var asked openai.EmbedRequest
	if err := readCompat(c, &asked); err != nil {
		d.fail(c, err)
		return
	}
	req, err := embedRequest(asked)
	if err != nil {
		d.fail(c, err)
		return
	}
	resp, err := d.embedAll(c.Request.Context(), req, start)
	if err != nil {
		d.fail(c, err)
		return
	}
	vectors := resp.Embeddings
	resp.Embeddings = [][]float32{} // not nil: the converter would leave out the rest
	frame := openai.ToEmbeddingList(asked.Model, *resp, asked.EncodingFormat)
	writeList(c, frame, "data", len(vectors), func(i int) any {
		one := openai.ToEmbeddingList("", api.EmbedResponse{Embeddings: vectors[i : i+1]}, asked.EncodingFormat).Data[0]
		one.Index = i
		return one
	})
}

// writeList answers with an object whose field of that name is null, and puts n items
// there. They are sent one by one: the text of all of them would take several times
// their memory.
func writeList(c *gin.Context, frame any, field string, n int, item func(i int) any) {
	text, err := json.Marshal(frame)
	place := `"` + field + `":`
	before, after, ok := strings.Cut(string(text), place+"null")
	if err != nil || !ok {
		panic(fmt.Sprintf("the answer has no place for %s: %s %v", field, text, err))
	}
	c.Header("Content-Type", "application/json; charset=utf-8")
	c.Status(http.StatusOK)
	c.Writer.WriteString(before + place + "[")
	for i := range n {
		if i > 0 {
			c.Writer.WriteString(",")
		}
		text, err := json.Marshal(item(i))
		if err != nil {
			panic(err) // what can't be written as JSON was refused before
		}
		if _, err := c.Writer.Write(text); err != nil {
			return // the client has gone
		}
	}
	c.Writer.WriteString("]" + after)
}

// embedRequest converts a request for embeddings. What its input holds is looked at
// where it is embedded.
func embedRequest(asked openai.EmbedRequest) (*api.EmbedRequest, error) {
	switch strings.ToLower(asked.EncodingFormat) {
	case "", "float", "base64":
	default:
		return nil, errorf(http.StatusBadRequest, "Invalid value for 'encoding_format' = %s. Supported values: ['float', 'base64'].", asked.EncodingFormat)
	}
	switch input := asked.Input.(type) {
	case nil:
		return nil, newError(http.StatusBadRequest, "invalid input")
	case string:
		if input == "" { // a list of one is embedded, an empty text only loads the model
			asked.Input = []any{""}
		}
	case []any:
		if len(input) == 0 {
			return nil, newError(http.StatusBadRequest, "invalid input")
		}
	}
	return &api.EmbedRequest{Model: asked.Model, Input: asked.Input, Dimensions: asked.Dimensions}, nil
}
