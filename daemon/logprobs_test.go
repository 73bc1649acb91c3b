package daemon

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/ollama/ollama/api"
)

// told are the texts of the tokens of which the lines of a stream tell, and the whole
// text that was streamed.
func told(t *testing.T, body string) (tokens []api.Logprob, text string) {
	t.Helper()
	for line := range strings.Lines(body) {
		var l struct {
			Response, Thinking string
			Message            struct{ Content, Thinking string }
			Logprobs           []api.Logprob
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err, line)
		}
		tokens = append(tokens, l.Logprobs...)
		text += l.Response + l.Thinking + l.Message.Content + l.Message.Thinking
	}
	return tokens, text
}

func join(tokens []api.Logprob) string {
	var b strings.Builder
	for _, l := range tokens {
		b.WriteString(l.Token)
	}
	return b.String()
}

func TestLogprobsTellOfEachToken(t *testing.T) {
	a := serveFake(t, always("red, blue"))
	for path, body := range map[string]string{
		"/api/chat":     `{"model":"plain","messages":[{"role":"user","content":"?"}],"options":{"temperature":0},"logprobs":true`,
		"/api/generate": `{"model":"plain","prompt":"?","options":{"temperature":0},"logprobs":true`,
	} {
		for _, stream := range []bool{true, false} {
			for _, top := range []int{0, 1, 20} {
				r := a.post(path, fmt.Sprintf(`%s,"stream":%v,"top_logprobs":%d}`, body, stream, top))
				tokens, text := told(t, r.body)
				if join(tokens) != "red, blue" || text != "red, blue" {
					t.Fatalf("%s, stream %v: tokens %q, text %q", path, stream, join(tokens), text)
				}
				for _, l := range tokens {
					if len(l.TopLogprobs) != top || l.Logprob > 0 || l.Logprob < -1 || len(l.Bytes) != 1 || l.Bytes[0] != int(l.Token[0]) {
						t.Fatalf("%+v", l)
					}
					if top > 0 && (l.TopLogprobs[0].Token != l.Token || l.TopLogprobs[0].Logprob != l.Logprob) {
						t.Errorf("%+v", l)
					}
				}
			}
		}
	}
	if r := a.post("/api/chat", ask); strings.Contains(r.body, "logprobs") {
		t.Errorf("nobody asked: %s", r.body)
	}
	// Without logprobs, top_logprobs means nothing.
	if r := a.post("/api/chat", strings.TrimSuffix(ask, "}")+`,"top_logprobs":3}`); strings.Contains(r.body, "logprobs") {
		t.Errorf("nobody asked: %s", r.body)
	}
}

func TestLogprobsFollowTheText(t *testing.T) {
	for _, c := range []struct{ promise, model, script, options, want string }{
		{"without what a stop string cuts off", "plain", "red, blue", `"options":{"stop":["blue"]}`, "red, "},
		{"as many as num_predict", "plain", "red, blue", `"options":{"num_predict":5}`, "red, "},
		{"a character of several tokens", "plain", "a€b", `"options":{}`, "a\ufffd\ufffd\ufffdb"},
		{"a character that is cut", "plain", "a€b", `"options":{"num_predict":3}`, "a\ufffd\ufffd"},
		{"thinking and its tags", "thinker", "<think>red</think>\nblue", `"options":{}`, "<think>red</think>\nblue"},
		{"an answer of nothing but a tag", "thinker", "<think>", `"options":{}`, "<think>"},
		{"tool calls", "thinker", `<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>`, `"tools":` + weatherTool, `<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>`},
		{"a format", "plain", `{"a":1} and more`, `"format":"json","options":{"temperature":0}`, `{"a":1}`},
	} {
		t.Run(c.promise, func(t *testing.T) {
			a := serveFake(t, always(c.script))
			for _, stream := range []bool{true, false} {
				r := a.post("/api/chat", fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"?"}],"logprobs":true,"stream":%v,%s}`, c.model, stream, c.options))
				tokens, _ := told(t, r.body)
				if got := join(tokens); got != c.want {
					t.Errorf("stream %v: tokens %q, want %q", stream, got, c.want)
				}
			}
		})
	}
}

func TestLogprobsAndFormatsOfTheOpenAIRoutes(t *testing.T) {
	a := serveFake(t, always(`{"a":1} and more`))
	body := `{"model":"plain","messages":[{"role":"user","content":"?"}],"logprobs":true,"top_logprobs":2,"temperature":0`
	for _, c := range []struct{ extra, want string }{
		{``, `{"a":1} and more`},
		{`,"response_format":{"type":"json_object"}`, `{"a":1}`},
		{`,"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"array"}}}`, ``},
	} {
		for _, stream := range []bool{true, false} {
			r := a.post("/v1/chat/completions", fmt.Sprintf(`%s,"stream":%v%s}`, body, stream, c.extra))
			text, tokens := "", ""
			for line := range strings.Lines(r.body) {
				line = strings.TrimSpace(strings.TrimPrefix(line, "data: "))
				if line == "" || line == "[DONE]" {
					continue
				}
				var chunk struct {
					Choices []struct {
						Delta, Message struct{ Content string }
						Logprobs       struct{ Content []api.Logprob }
					}
				}
				if err := json.Unmarshal([]byte(line), &chunk); err != nil {
					t.Fatal(err, line)
				}
				for _, choice := range chunk.Choices {
					text += choice.Delta.Content + choice.Message.Content
					tokens += join(choice.Logprobs.Content)
				}
			}
			if tokens != text || c.want != "" && text != c.want {
				t.Errorf("%s, stream %v: text %q, tokens %q", c.extra, stream, text, tokens)
			}
			var list []int
			if c.want == "" && json.Unmarshal([]byte(text), &list) != nil {
				t.Errorf("%s, stream %v: text %q", c.extra, stream, text)
			}
		}
	}
}

func TestALineTellsOfTheTokensOfItsText(t *testing.T) {
	a := serveFake(t, always("one two to stop"))
	r := a.post("/api/chat", `{"model":"plain","messages":[{"role":"user","content":"?"}],"logprobs":true,"options":{"stop":["top"]}}`)
	for line := range strings.Lines(r.body) {
		var l api.ChatResponse
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if got := join(l.Logprobs); got != l.Message.Content {
			t.Errorf("a line of %q tells of %q", l.Message.Content, got)
		}
		if l.Done && l.Logprobs != nil {
			t.Errorf("the last line: %s", line)
		}
	}
}
