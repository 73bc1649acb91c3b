package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"cllm/daemon/prompt"
	"cllm/llm"
	"cllm/llm/llmtest"
	"cllm/modelstore"
	"cllm/scheduler"
)

const ask = `{"model":"plain","messages":[{"role":"user","content":"?"}]}`

// idle waits until no request has a slot.
func (a *testAPI) idle() {
	a.t.Helper()
	waitFor(a.t, "the slots to be free", func() bool {
		l := a.resident.list()
		return len(l) == 1 && l[0].stats.Active == 0 && l[0].stats.Waiting == 0
	})
}

// failing makes the engine fail once broken is set.
func failing(broken *atomic.Bool, err error) func(*Options, *llmtest.Options) {
	return func(_ *Options, e *llmtest.Options) {
		e.BeforeDecode = func([]llm.Row) error {
			if broken.Load() {
				return err
			}
			return nil
		}
	}
}

func TestAnErrorBeforeTheFirstByteHasItsStatus(t *testing.T) {
	var broken atomic.Bool
	a := serveFake(t, always("x"), failing(&broken, llm.ErrFatal))
	a.post("/api/chat", `{"model":"plain"}`)
	broken.Store(true)
	r := a.post("/api/chat", ask)
	if got := errorText(t, r); r.status != 500 || !strings.HasPrefix(got, "an error was encountered while running the model: ") {
		t.Errorf("%d %q", r.status, got)
	}
	if got := r.header.Get("Content-Type"); got != typePlain {
		t.Errorf("content type %q", got)
	}
	broken.Store(false)
	if r := a.post("/api/chat", ask); r.status != 200 {
		t.Errorf("the next request: %d %s", r.status, r.body)
	}
}

func TestAnErrorAfterTheFirstByteIsTheLastLine(t *testing.T) {
	a := serveFake(t, always("abc"), func(_ *Options, e *llmtest.Options) {
		tokens := 0 // of the answer
		e.BeforeDecode = func(rows []llm.Row) error {
			if !rows[0].Logits {
				tokens = 0
			} else if tokens++; tokens > 2 {
				return llm.ErrFatal
			}
			return nil
		}
	})
	for path, body := range map[string]string{"/api/chat": ask, "/api/generate": `{"model":"plain","prompt":"?"}`} {
		r := a.post(path, body)
		if r.status != 200 || r.header.Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("%d %q", r.status, r.header.Get("Content-Type"))
		}
		got := gather(t, r.body)
		if got.Content != "ab" || !strings.HasPrefix(got.Last, `{"error":"an error was encountered while running the model: `) {
			t.Errorf("%+v", got)
		}
		if strings.Contains(r.body, `"done":true`) {
			t.Errorf("an answer that failed says that it is done: %s", r.body)
		}
	}
	r := a.post("/api/chat", strings.TrimSuffix(ask, "}")+`,"stream":false}`)
	if got := errorText(t, r); r.status != 500 || !strings.HasPrefix(got, "an error was encountered") {
		t.Errorf("%d %q", r.status, got)
	}
}

func TestABrokenCallEndsTheAnswerAndFreesTheSlot(t *testing.T) {
	g := newGate()
	defer g.open()
	a := serveFake(t, always("1<tool_call>no JSON</tool_call>"+strings.Repeat("x", 3000)), gated(g))
	a.create("vl", modelstore.CreateRequest{Template: chatML, Renderer: "qwen3-vl-instruct", Parser: "qwen3-vl-instruct"})
	body := `{"model":"vl","messages":[{"role":"user","content":"?"}],"tools":` + weatherTool
	go g.step()
	_, lines := a.stream(t.Context(), "/api/chat", body+`}`)
	if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, `"content":"1"`) {
		t.Fatalf("%q, %v", line, err)
	}
	g.open()
	line, err := lines.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, `{"error":"`) {
		t.Errorf("%q, %v", line, err)
	}
	if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	r := a.post("/api/chat", body+`,"stream":false}`)
	if r.status != 500 || errorText(t, r) == "" {
		t.Errorf("%d %s", r.status, r.body)
	}
	a.idle()
	if s := a.resident.list()[0].stats; s.CancelledByUser != 2 {
		t.Errorf("%d of 2 answers were cancelled", s.CancelledByUser)
	}
}

func TestDurationsAreNeverZero(t *testing.T) {
	m := (&turn{start: time.Now()}).metrics(&scheduler.Done{})
	for _, d := range []time.Duration{m.TotalDuration, m.LoadDuration, m.PromptEvalDuration, m.EvalDuration} {
		if d < 1 {
			t.Errorf("%+v", m)
		}
	}
}

func TestAClientThatLeavesFreesItsSlot(t *testing.T) {
	for name, stream := range map[string]string{"streaming": "true", "not streaming": "false"} {
		t.Run(name, func(t *testing.T) {
			g := newGate()
			defer g.open()
			a := serveFake(t, always(strings.Repeat("x", 3000)), gated(g))
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan error, 1)
			go func() {
				body := `{"model":"plain","stream":` + stream + `,"messages":[{"role":"user","content":"?"}]}`
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+"/api/chat", strings.NewReader(body))
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

// TestAClientThatLeavesIsNoticedBehindAChunkedBody holds although the JSON decoder
// stops before the end of such a body.
func TestAClientThatLeavesIsNoticedBehindAChunkedBody(t *testing.T) {
	g := newGate()
	defer g.open()
	a := serveFake(t, always(strings.Repeat("x", 3000)), gated(g))
	conn, err := net.Dial("tcp", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	body := strings.TrimSuffix(ask, "}") + `,"stream":false}`
	if _, err := io.WriteString(conn, "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for _, chunk := range []string{body, " "} {
		if _, err := io.WriteString(conn, chunked(chunk)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(conn, chunked("")); err != nil {
		t.Fatal(err)
	}
	g.step()
	conn.Close()
	g.open()
	a.idle()
	if s := a.resident.list()[0].stats; s.CancelledByUser != 1 {
		t.Errorf("%+v", s)
	}
}

func chunked(data string) string {
	const hex = "0123456789abcdef"
	n := len(data)
	return string([]byte{hex[n>>12&15], hex[n>>8&15], hex[n>>4&15], hex[n&15]}) + "\r\n" + data + "\r\n"
}

func TestAFullQueueIsAPrompt503(t *testing.T) {
	g := newGate()
	defer g.open()
	a := serveFake(t, always("x"), gated(g), func(o *Options, e *llmtest.Options) {
		o.Slots, e.Limits.Sequences, o.MaxQueue = 1, 1, 1
	})
	a.post("/api/chat", `{"model":"plain"}`)
	var clients sync.WaitGroup
	answers := make(chan response, 2)
	for i := range 2 {
		clients.Go(func() { answers <- a.post("/api/chat", ask) })
		waitFor(t, "the request to come", func() bool {
			s := a.resident.list()[0].stats
			return s.Active+a.queue.Waiting() == i+1
		})
	}
	r := a.post("/api/chat", ask)
	if got := errorText(t, r); r.status != 503 || got != "server busy, please try again.  maximum pending requests exceeded" {
		t.Errorf("%d %q", r.status, got)
	}
	if got := r.header.Get("Retry-After"); got == "" {
		t.Error("no Retry-After")
	}
	g.open()
	clients.Wait()
	for range 2 {
		if r := <-answers; r.status != 200 {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
}

func TestSixtyFourChatsAreAnsweredTogether(t *testing.T) {
	a := serveFake(t, func(prompt string) string {
		_, question, _ := strings.Cut(prompt, "user\n")
		return "You said: " + strings.TrimSuffix(question, "<|im_end|>\n<|im_start|>assistant\n")
	})
	var clients sync.WaitGroup
	for i := range 64 {
		clients.Go(func() {
			text := strings.Repeat("n", i+1)
			stream := []string{"true", "false"}[i%2]
			r := a.post("/api/chat", `{"model":"plain","stream":`+stream+`,"messages":[{"role":"user","content":"`+text+`"}]}`)
			if got := gather(t, strings.TrimSuffix(r.body, "\n")+"\n"); got.Content != "You said: "+text {
				t.Errorf("client %d: %d %+v", i, r.status, got)
			}
		})
	}
	clients.Wait()
}

func TestStoppingEndsAStreamWithALastLine(t *testing.T) {
	a := serveFake(t, nil, func(o *Options, e *llmtest.Options) {
		o.StopTimeout = time.Millisecond
		e.Next = func([]llm.Token) llm.Token { return 'x' } // for ever
	})
	_, lines := a.stream(t.Context(), "/api/chat", strings.TrimSuffix(ask, "}")+`,"options":{"num_predict":0}}`)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- a.Stop() }()
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Error(err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if want := `{"error":"` + textStopped + `"}`; gather(t, string(rest)).Last != want+"\n" {
		t.Errorf("%q, want %q", gather(t, string(rest)).Last, want)
	}
}

// brokenPipe is a client that is gone.
type brokenPipe struct{ http.ResponseWriter }

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// answering is what a chat answer is sent with.
func answering(tb testing.TB, w http.ResponseWriter, style prompt.Style, talk prompt.Conversation) (sink, *turn) {
	tb.Helper()
	c, _ := gin.CreateTestContext(w)
	c.Request = httptest.NewRequest(http.MethodPost, "/api/chat", nil)
	output, _, err := style.NewOutput(talk)
	if err != nil {
		tb.Fatal(err)
	}
	t := &turn{start: time.Now(), output: output, line: func(p piece, e *ending) any { return chatLine("plain", p, e) }}
	return &streamed{turn: t, to: (&Daemon{}).native(c)}, t
}

func TestAnAnswerThatCantBeWrittenIsGivenUp(t *testing.T) {
	parsed, err := prompt.Parse(chatML)
	if err != nil {
		t.Fatal(err)
	}
	to, turn := answering(t, brokenPipe{httptest.NewRecorder()}, prompt.Style{Template: parsed}, prompt.Conversation{})
	if err := turn.pass(scheduler.Event{Text: "a"}, func() string { return "" }, to); err == nil {
		t.Error("no error")
	}
}
