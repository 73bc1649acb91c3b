package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// compatRoute is a route that answers with text, in a form that is not Ollama's own.
type compatRoute struct {
	path string
	ask  string // a request to model "plain" whose object is left open
	// piece begins a "data:" line with a piece of the answer.
	piece string
	// broken is how a stream ends with an error of the text TEXT. NUMBER is the
	// number of events before it.
	broken string
}

var compatRoutes = []compatRoute{
	{
		"/v1/chat/completions", `{"model":"plain","messages":[{"role":"user","content":"?"}]`,
		`data: {"id":"chatcmpl-`,
		`data: {"error":{"message":"TEXT","type":"api_error","param":null,"code":null}}` + "\n\n",
	},
	{
		"/v1/completions", `{"model":"plain","prompt":"?"`,
		`data: {"id":"cmpl-`,
		`data: {"error":{"message":"TEXT","type":"api_error","param":null,"code":null}}` + "\n\n",
	},
	{
		"/v1/responses", `{"model":"plain","input":"?"`,
		`data: {"content_index":0,"delta":`,
		`event: error` + "\n" +
			`data: {"code":"server_error","error":{"code":"server_error","message":"TEXT","param":null,"type":"server_error"},` +
			`"message":"TEXT","param":null,"sequence_number":NUMBER,"type":"error"}` + "\n\n",
	},
	{
		"/v1/messages", `{"model":"plain","max_tokens":9000,"messages":[{"role":"user","content":"?"}]`,
		`data: {"type":"content_block_delta",`,
		`event: error` + "\n" + `data: {"type":"error","error":{"type":"api_error","message":"TEXT"}}` + "\n\n",
	},
}

// asStream ends a request for a stream.
const asStream = `,"stream":true}`

// compatError returns type and text of an error, which is all that the body holds.
func compatError(t testing.TB, r response) (kind, text string) {
	t.Helper()
	var v struct {
		Type  string
		Error struct{ Type, Message string }
	}
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Errorf("not an error: %s", r.body)
	}
	if got := r.header.Get("Content-Type"); !strings.HasPrefix(got, "application/json") {
		t.Errorf("content type %q of %s", got, r.body)
	}
	return v.Error.Type, v.Error.Message
}

// failingAfter makes the engine fail when it has made so many tokens of an answer.
func failingAfter(most int) func(*Options, *llmtest.Options) {
	return func(_ *Options, e *llmtest.Options) {
		tokens := 0
		e.BeforeDecode = func(rows []llm.Row) error {
			if !rows[0].Logits {
				tokens = 0
			} else if tokens++; tokens > most {
				return llm.ErrFatal
			}
			return nil
		}
	}
}

func TestCompatErrorsBeforeTheFirstByteHaveTheirStatus(t *testing.T) {
	var broken atomic.Bool
	a := serveFake(t, always("x"), failing(&broken, llm.ErrFatal), func(o *Options, _ *llmtest.Options) { o.MaxBody = 1 << 10 })
	for _, route := range compatRoutes {
		a.post(route.path, route.ask+"}")
		broken.Store(true)
		for _, end := range []string{"}", asStream} {
			r := a.post(route.path, route.ask+end)
			kind, text := compatError(t, r)
			if r.status != 500 || kind != "api_error" || !strings.HasPrefix(text, "an error was encountered while running the model: ") {
				t.Errorf("%s%s: %d %s", route.path, end, r.status, r.body)
			}
		}
		broken.Store(false)
		r := a.post(route.path, route.ask+`,"user":"`+strings.Repeat("x", 1<<10)+`"}`)
		if _, text := compatError(t, r); r.status != 413 || text != "the request body is larger than the limit of 1024 bytes" {
			t.Errorf("%s: %d %s", route.path, r.status, r.body)
		}
	}
}

func TestCompatErrorsInAStreamAreEvents(t *testing.T) {
	a := serveFake(t, always("abc"), failingAfter(2))
	for _, route := range compatRoutes {
		r := a.post(route.path, route.ask+asStream)
		if r.status != 200 || r.header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("%s: %d %v", route.path, r.status, r.header)
		}
		_, text, _ := strings.Cut(r.body, `"message":"an error`)
		text, _, _ = strings.Cut("an error"+text, `"`)
		if !strings.HasPrefix(text, "an error was encountered while running the model: ") {
			t.Errorf("%s: %s", route.path, r.body)
		}
		number := strconv.Itoa(strings.Count(r.body, "\n\n") - 1)
		want := strings.NewReplacer("TEXT", text, "NUMBER", number).Replace(route.broken)
		if !strings.HasSuffix(r.body, "\n\n"+want) {
			t.Errorf("%s ends with %q, want %q", route.path, r.body[max(0, len(r.body)-len(want)-2):], want)
		}
		for _, end := range []string{"[DONE]", "response.completed", "message_stop"} {
			if strings.Contains(r.body, end) {
				t.Errorf("%s: an answer that failed says that it is done: %s", route.path, r.body)
			}
		}
		if failed := strings.Contains(r.body, "event: response.failed\n"); failed != (route.path == "/v1/responses") {
			t.Errorf("%s: %s", route.path, r.body)
		}
	}
}

func TestCompatPiecesAreSentAsTheyCome(t *testing.T) {
	g := newGate()
	defer g.open()
	a := serveFake(t, always("abc"), gated(g))
	for _, route := range compatRoutes {
		go g.step()
		_, lines := a.stream(t.Context(), route.path, route.ask+asStream)
		for i, piece := range []string{"a", "b"} {
			if i > 0 {
				g.step() // the piece before was read, so it had been flushed
			}
			line := lineWith(t, lines, route.piece)
			if !strings.Contains(line, `"`+piece+`"`) {
				t.Errorf("%s: piece %d is %s", route.path, i, line)
			}
		}
		for range 2 { // c and the end
			g.step()
		}
		if _, err := io.ReadAll(lines); err != nil {
			t.Error(err)
		}
	}
}

// lineWith reads on to a line that begins with something.
func lineWith(t *testing.T, lines *bufio.Reader, begin string) string {
	t.Helper()
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("no line %s: %v", begin, err)
		}
		if strings.HasPrefix(line, begin) {
			return line
		}
	}
}

func TestACompatClientThatLeavesFreesItsSlot(t *testing.T) {
	for _, route := range compatRoutes {
		for _, end := range []string{"}", asStream} {
			t.Run(route.path+end, func(t *testing.T) {
				g := newGate()
				defer g.open()
				a := serveFake(t, always(strings.Repeat("x", 3000)), gated(g))
				ctx, leave := context.WithCancel(t.Context())
				left := make(chan error, 1)
				go func() {
					req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+route.path, strings.NewReader(route.ask+end))
					if err == nil {
						_, err = http.DefaultClient.Do(req)
					}
					left <- err
				}()
				g.step() // the request has a slot
				leave()
				<-left
				g.open()
				a.idle()
				if s := a.resident.list()[0].stats; s.CancelledByUser != 1 || s.DecodeTokens > 2999 {
					t.Errorf("%+v", s)
				}
			})
		}
	}
}

func TestAFullQueueIsA503ThatClientsRetry(t *testing.T) {
	g := newGate()
	defer g.open()
	a := serveFake(t, always("x"), gated(g), func(o *Options, e *llmtest.Options) {
		o.Slots, e.Limits.Sequences, o.MaxQueue = 1, 1, 1
	})
	a.post("/api/chat", `{"model":"plain"}`)
	var clients sync.WaitGroup
	for i := range 2 {
		clients.Go(func() { a.post("/api/chat", ask) })
		waitFor(t, "the request to come", func() bool { return a.resident.list()[0].stats.Active+a.queue.Waiting() == i+1 })
	}
	types := map[string]string{"/v1/messages": "overloaded_error"}
	for _, route := range compatRoutes {
		for _, end := range []string{"}", asStream} {
			r := a.post(route.path, route.ask+end)
			kind, text := compatError(t, r)
			if want := types[route.path]; r.status != 503 || text != textBusy || want != "" && kind != want {
				t.Errorf("%s: %d %s", route.path, r.status, r.body)
			}
			if got := r.header.Get("Retry-After"); got != "1" {
				t.Errorf("%s: Retry-After is %q", route.path, got)
			}
		}
	}
	g.open()
	clients.Wait()
}

func TestStoppingEndsCompatStreamsWithAnError(t *testing.T) {
	for _, route := range compatRoutes {
		a := serveFake(t, nil, func(o *Options, e *llmtest.Options) {
			o.StopTimeout = time.Millisecond
			e.Next = func([]llm.Token) llm.Token { return 'x' } // for ever
		})
		_, lines := a.stream(t.Context(), route.path, route.ask+asStream)
		lineWith(t, lines, route.piece)
		stopped := make(chan error, 1)
		go func() { stopped <- a.Stop() }()
		rest, err := io.ReadAll(lines)
		if err != nil {
			t.Error(err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		events := strings.SplitAfter(strings.TrimSuffix(string(rest), "\n\n"), "\n\n")
		if last := events[len(events)-1]; !strings.Contains(last, `"message":"`+textStopped+`"`) {
			t.Errorf("%s ends with %s", route.path, last)
		}
	}
}
