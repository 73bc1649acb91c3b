package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// asked is a request for text that a fake server got.
type asked struct {
	prompt    string
	max       int
	stream    bool
	ignoreEOS bool
	at        time.Time
}

// fake is a server that says what the test lets it say. A prompt has ten tokens and
// two for each word.
type fake struct {
	api string
	// answer answers requests for more than one token; the others ask how long
	// prompts are.
	answer func(s *speaker)

	mu    sync.Mutex
	asked []asked
	short int // requests for one token
	open  int
	most  int // requests at a time
}

// speaker answers one request in its server's API.
type speaker struct {
	asked
	w   http.ResponseWriter
	r   *http.Request
	api string
	n   int // requests before this one
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ollama := f.api == apiOllama
	switch {
	case r.URL.Path == "/api/version" && ollama:
		io.WriteString(w, `{"version":"0.17.4"}`)
	case r.URL.Path == "/api/tags" && ollama:
		io.WriteString(w, `{"models":[{"name":"first:latest"},{"name":"second:latest"}]}`)
	case r.URL.Path == "/props" && !ollama:
		io.WriteString(w, `{"build_info":"b6000-abc"}`)
	case r.URL.Path == "/v1/models" && !ollama:
		io.WriteString(w, `{"models":[{"name":"x"}],"data":[{"id":"file.gguf"}]}`)
	case r.URL.Path == "/api/generate" && ollama, r.URL.Path == "/v1/completions" && !ollama:
		f.generate(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (f *fake) generate(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Prompt    string
		Stream    bool
		MaxTokens int  `json:"max_tokens"`
		IgnoreEOS bool `json:"ignore_eos"`
		Options   struct {
			NumPredict int `json:"num_predict"`
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a := asked{prompt: body.Prompt, max: max(body.MaxTokens, body.Options.NumPredict), stream: body.Stream, ignoreEOS: body.IgnoreEOS, at: time.Now()}
	s := &speaker{asked: a, w: w, r: r, api: f.api}
	if a.max == 1 {
		f.mu.Lock()
		f.short++
		f.mu.Unlock()
		s.chunk("x")
		s.end(1, "length")
		return
	}
	f.mu.Lock()
	s.n = len(f.asked)
	f.asked = append(f.asked, a)
	f.open++
	f.most = max(f.most, f.open)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.open--
		f.mu.Unlock()
	}()
	f.answer(s)
}

// line sends one line, or one event, at once.
func (s *speaker) line(text string) {
	if !s.stream {
		return
	}
	if s.api == apiOpenAI {
		text = "data: " + text + "\n"
	}
	io.WriteString(s.w, text+"\n")
	s.w.(http.Flusher).Flush()
}

func (s *speaker) chunk(text string) {
	quoted, _ := json.Marshal(text)
	if s.api == apiOllama {
		s.line(fmt.Sprintf(`{"model":"m","response":%s,"done":false}`, quoted))
	} else {
		s.line(fmt.Sprintf(`{"choices":[{"text":%s,"index":0,"finish_reason":null}],"usage":null}`, quoted))
	}
}

// end sends the last lines, or the whole reply. An Ollama was busy for all but 7 ms.
func (s *speaker) end(tokens int, reason string) {
	prompt := 10 + 2*len(strings.Fields(s.prompt))
	if s.api == apiOllama {
		last := fmt.Sprintf(`{"model":"m","response":"","done":true,"done_reason":%q,"total_duration":50000000,"load_duration":1000000,`+
			`"prompt_eval_count":%d,"prompt_eval_duration":2000000,"eval_count":%d,"eval_duration":40000000}`, reason, prompt, tokens)
		if s.stream {
			s.line(last)
		} else {
			io.WriteString(s.w, strings.Replace(last, `"response":""`, `"response":"whole"`, 1))
		}
		return
	}
	usage := fmt.Sprintf(`"usage":{"prompt_tokens":%d,"completion_tokens":%d}`, prompt, tokens)
	if !s.stream {
		fmt.Fprintf(s.w, `{"choices":[{"text":"whole","finish_reason":%q}],%s}`, reason, usage)
		return
	}
	s.line(fmt.Sprintf(`{"choices":[{"text":"","index":0,"finish_reason":%q}],"usage":null}`, reason))
	s.line(`{"choices":[],` + usage + `}`)
	s.line("[DONE]")
}

// reset ends the connection as a server that is killed does.
func (s *speaker) reset() {
	conn, _, err := s.w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// speaks answers with all the tokens that are asked for.
func speaks(s *speaker) {
	for range s.max {
		s.chunk("word ")
	}
	s.end(s.max, "length")
}

// listen starts a fake on a port.
func listen(t *testing.T, f *fake) string {
	t.Helper()
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

// small is a run of few requests against one server.
func small(url string) Options {
	return Options{
		Servers: []Server{{Name: "a", URL: url}}, Concurrency: []int{2}, Requests: 6, Repeat: 1,
		Timeout: time.Minute, PromptTokens: 30, MaxTokens: 4, Stream: true, Seed: 1,
	}
}

// one runs small options and returns the one measurement.
func one(t *testing.T, o Options) Measurement {
	t.Helper()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Measurements) != 1 {
		t.Fatalf("there are %d measurements, want 1", len(r.Measurements))
	}
	return r.Measurements[0]
}

// network is servers without sockets, for tests with a clock of their own.
type network map[string]chan net.Conn

// newNetwork starts fakes at names; stop ends them.
func newNetwork(fakes map[string]*fake) (n network, stop func()) {
	n = network{}
	var servers []*http.Server
	for name, f := range fakes {
		conns := make(chan net.Conn)
		n[name+":80"] = conns
		s := &http.Server{Handler: f, ErrorLog: log.New(io.Discard, "", 0)}
		servers = append(servers, s)
		go s.Serve(&listener{conns: conns, closed: make(chan struct{})})
	}
	return n, func() {
		for _, s := range servers {
			s.Close()
		}
	}
}

func (n network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	conns, ok := n[addr]
	if !ok {
		return nil, syscall.ECONNREFUSED
	}
	near, far := net.Pipe()
	select {
	case conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}
