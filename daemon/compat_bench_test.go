package daemon

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
)

// BenchmarkCompatLine is the way of one piece of an answer through a reply, to
// the response writer.
func BenchmarkCompatLine(b *testing.B) {
	d := &Daemon{}
	chat := &api.ChatResponse{Model: "plain", Message: api.Message{Role: "assistant", Content: " token"}}
	for _, way := range []struct {
		name  string
		to    func(*gin.Context) reply
		piece any
	}{
		{"native", func(c *gin.Context) reply { return d.native(c) }, chat},
		{"chat", func(c *gin.Context) reply {
			return &chatCompletion{events: d.events(c), id: "chatcmpl-1", stream: true}
		}, chat},
		{
			"completion", func(c *gin.Context) reply { return &completion{events: d.events(c), id: "cmpl-1", stream: true} },
			&api.GenerateResponse{Model: "plain", Response: " token"},
		},
		{"response", func(c *gin.Context) reply { return &responseReply{events: d.events(c), stream: true} }, chat},
		{"message", func(c *gin.Context) reply { return &messageReply{events: d.events(c)} }, chat},
	} {
		b.Run(way.name, func(b *testing.B) {
			w := &discard{header: make(http.Header)}
			c, _ := gin.CreateTestContext(w)
			c.Request = httptest.NewRequest(http.MethodPost, "/v1/x", nil)
			to := way.to(c)
			b.ReportAllocs()
			for b.Loop() {
				if err := to.line(way.piece); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
