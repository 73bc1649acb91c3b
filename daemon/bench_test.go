package daemon

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"

	"cllm/daemon/prompt"
	"cllm/scheduler"
)

// discard is a client that reads everything at once.
type discard struct {
	header http.Header
	bytes  int
}

func (d *discard) Header() http.Header { return d.header }
func (d *discard) WriteHeader(int)     {}
func (d *discard) Flush()              {}
func (d *discard) Write(p []byte) (int, error) {
	d.bytes += len(p)
	return len(p), nil
}

func thinker(b *testing.B) prompt.Style {
	b.Helper()
	t, err := prompt.Parse(thinkerTemplate(b))
	if err != nil {
		b.Fatal(err)
	}
	return prompt.Style{Template: t}
}

// BenchmarkStreamedToken is the way of one token from the scheduler's stream to
// the response writer, without the socket.
func BenchmarkStreamedToken(b *testing.B) {
	think := &api.ThinkValue{Value: true}
	for name, talk := range map[string]prompt.Conversation{
		"text":     {},
		"thinking": {Think: think},
		"tools":    {Think: think, Tools: make([]api.Tool, 1)},
	} {
		b.Run(name, func(b *testing.B) {
			w := &discard{header: make(http.Header)}
			to, t := answering(b, w, thinker(b), talk)
			b.ReportAllocs()
			for b.Loop() {
				if err := t.pass(scheduler.Event{Text: " token"}, nil, to); err != nil {
					b.Fatal(err)
				}
			}
			if w.bytes == 0 {
				b.Fatal("nothing was written")
			}
		})
	}
}

// BenchmarkStreamedTokenOverLoopback adds the server's socket, and a client that
// reads.
func BenchmarkStreamedTokenOverLoopback(b *testing.B) {
	style := thinker(b)
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.GET("/", func(c *gin.Context) {
		_, t := answering(b, c.Writer, style, prompt.Conversation{})
		to := &streamed{turn: t, to: (&Daemon{}).native(c)}
		for range b.N {
			if err := t.pass(scheduler.Event{Text: " token"}, nil, to); err != nil {
				b.Error(err)
				return
			}
		}
	})
	server := httptest.NewServer(r)
	defer server.Close()
	b.ResetTimer()
	res, err := http.Get(server.URL)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); err != nil || n == 0 {
		b.Fatal(n, err)
	}
}

// BenchmarkChatRequest is a request of 20 prompt tokens and one generated, over
// HTTP, with the fake engine.
func BenchmarkChatRequest(b *testing.B) {
	gin.SetMode(gin.ReleaseMode)
	a := serveFake(b, always(""))
	for b.Loop() {
		if r := a.post("/api/chat", strings.TrimSuffix(ask, "}")+`,"stream":false}`); r.status != 200 {
			b.Fatal(r.status, r.body)
		}
	}
}
