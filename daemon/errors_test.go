package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"

	"cllm/modelstore"
	"cllm/scheduler"
)

func TestErrorsHaveOllamasStatusAndText(t *testing.T) {
	name, err := modelstore.ParseName("m")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		err    error
		status int
		text   string
	}{
		{newError(418, "as it is"), 418, "as it is"},
		{fmt.Errorf("wrapped: %w", newError(418, "as it is")), 418, "as it is"},
		{scheduler.ErrBusy, 503, "server busy, please try again.  maximum pending requests exceeded"},
		{fmt.Errorf("submit: %w", scheduler.ErrBusy), 503, "server busy, please try again.  maximum pending requests exceeded"},
		{context.Canceled, 499, "request canceled"},
		{fmt.Errorf("load model: %w", context.Canceled), 499, "request canceled"},
		{fmt.Errorf("%w: it has 9 tokens, the context 4", scheduler.ErrPromptTooLong), 400, "the input length exceeds the context length"},
		{scheduler.ErrClosed, 500, "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, check ollama server logs for details"},
		{&modelstore.NotFoundError{Name: name}, 404, "model 'm:latest' not found"},
		{notFound("M"), 404, "model 'M' not found"},
		{modelstore.ErrInvalidDigest, 400, "invalid digest format"},
		{modelstore.ErrNeitherFromOrFiles, 400, "neither 'from' or 'files' was specified"},
		{&http.MaxBytesError{Limit: 100}, 413, "the request body is larger than the limit of 100 bytes"},
		{noMemory(3<<30, 1<<30), 500, "model requires more system memory (3.0 GiB) than is available (1.0 GiB)"},
		{errors.New("anything else"), 500, "anything else"},
	} {
		if status, text := answer(tt.err); status != tt.status || text != tt.text {
			t.Errorf("%v:\n got %d %s\nwant %d %s", tt.err, status, text, tt.status, tt.text)
		}
	}
}

func TestDecodeHasOllamasTexts(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		into       any
		want       string
	}{
		{"nothing", "", new(api.GenerateRequest), "missing request body"},
		{"white space", " \n", new(api.GenerateRequest), "missing request body"},
		{"cut off", `{"model":"m"`, new(api.GenerateRequest), "unexpected EOF"},
		{"a number for a name", `{"model":7}`, new(api.GenerateRequest), "json: cannot unmarshal number into Go struct field GenerateRequest.model of type string"},
		{"no base64", `{"images":["?"]}`, new(api.GenerateRequest), "illegal base64 data at input byte 0"},
		{"an unknown way to think", `{"think":"max"}`, new(api.ChatRequest), `invalid think value: "max" (must be "high", "medium", "low", true, or false)`},
		{"a keep_alive without unit", `{"keep_alive":"10"}`, new(api.ChatRequest), `time: missing unit in duration "10"`},
		{"an empty keep_alive", `{"keep_alive":""}`, new(api.ChatRequest), `time: invalid duration ""`},
		{"a keep_alive of another type", `{"keep_alive":true}`, new(api.ChatRequest), "Unsupported type: 'bool'"},
		{"unknown fields", `{"colour":"blue"}`, new(api.ChatRequest), ""},
		{"more than one value", `{"model":"m"} and more`, new(api.ChatRequest), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := gin.CreateTestContext(httptest.NewRecorder())
			c.Request = httptest.NewRequest(http.MethodPost, "/", strings.NewReader(tt.body))
			c.Request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			err := decode(c, tt.into)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if status, text := answer(err); status != http.StatusBadRequest || text != tt.want {
				t.Errorf("%d %s\nwant 400 %s", status, text, tt.want)
			}
		})
	}
}

// serveHandler serves a handler as the daemon's own are served.
func serveHandler(t *testing.T, handler gin.HandlerFunc, change ...func(*Options)) string {
	t.Helper()
	o := testOptions(t, &fakeLoader{})
	for _, c := range change {
		c(&o)
	}
	d := newDaemon(t, o)
	r := gin.New()
	r.Use(d.record, d.survive, d.limitBody)
	r.Any("/", handler)
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	return s.URL
}

func TestPanicIsA500AndHurtsNobodyElse(t *testing.T) {
	url := serveHandler(t, func(c *gin.Context) {
		switch c.Query("after") {
		case "nothing":
			panic("a bug")
		case "a line":
			c.Header("Content-Type", typeLines)
			io.WriteString(c.Writer, "{}\n")
			panic("a bug")
		case "half an object":
			c.Header("Content-Type", "application/json")
			io.WriteString(c.Writer, `{"half":`)
			c.Writer.Flush()
			panic("a bug")
		}
		c.String(http.StatusOK, "fine")
	})
	for _, tt := range []struct {
		after, body string
		status      int
		broken      bool // the client learns that the answer is not whole
	}{
		{"nothing", `{"error":"internal server error"}`, 500, false},
		{"a line", "{}\n" + `{"error":"internal server error"}` + "\n", 200, false},
		{"half an object", `{"half":`, 200, true},
		{"", "fine", 200, false},
	} {
		res, err := http.Get(url + "/?after=" + strings.ReplaceAll(tt.after, " ", "+"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != tt.status || string(body) != tt.body || (err != nil) != tt.broken {
			t.Errorf("panic after %q: %s %q, %v", tt.after, res.Status, body, err)
		}
	}
}

func TestBodyOverTheLimitIsA413(t *testing.T) {
	url := serveHandler(t, func(c *gin.Context) {
		var v any
		if err := decode(c, &v); err != nil {
			status, text := answer(err)
			c.AbortWithStatusJSON(status, gin.H{"error": text})
			return
		}
		c.String(http.StatusOK, "fine")
	}, func(o *Options) { o.MaxBody = 1000 })

	object := func(size int) string { return `"` + strings.Repeat("x", size-2) + `"` }
	for _, tt := range []struct {
		name   string
		body   io.Reader
		status int
	}{
		{"at the limit", strings.NewReader(object(1000)), 200},
		{"over the limit, as announced", strings.NewReader(object(1001)), 413},
		{"far over the limit", strings.NewReader(object(5_000_000)), 413},
		{"over the limit, in chunks", io.MultiReader(strings.NewReader(object(1001))), 413},
		{"at the limit, in chunks", io.MultiReader(strings.NewReader(object(1000))), 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, err := http.Post(url, "application/json", tt.body)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != tt.status {
				t.Fatalf("answer: %s", res.Status)
			}
			if tt.status == 200 {
				return
			}
			var answer struct{ Error string }
			if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.Error != "the request body is larger than the limit of 1000 bytes" {
				t.Errorf("%q, %v", answer.Error, err)
			}
		})
	}
}
