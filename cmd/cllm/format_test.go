package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/ollama/ollama/api"
)

// The tiny model means nothing by what it writes, so only the format can make JSON of it.
func TestFormatsAndLogprobsOfTheRealEngine(t *testing.T) {
	s := serveE2E(t, "")
	s.createTiny(t, "tiny")
	schema := `{"type":"object","properties":{
		"colour":{"enum":["red","green","blue"]},
		"sizes":{"type":"array","items":{"type":"integer","minimum":1,"maximum":40},"minItems":1,"maxItems":3},
		"parts":{"type":"array","items":{"$ref":"#/$defs/part"},"maxItems":2}},
		"required":["colour","sizes"],"additionalProperties":false,
		"$defs":{"part":{"type":"object","properties":{"id":{"anyOf":[{"type":"integer"},{"type":"null"}]}},"required":["id"]}}}`
	free := make(map[string]string)
	var mu sync.Mutex
	var clients sync.WaitGroup
	for i := range 24 {
		clients.Go(func() {
			stream := i%2 == 0
			req := &api.ChatRequest{
				Model:    "tiny",
				Messages: []api.Message{{Role: "user", Content: fmt.Sprint("number ", i/4)}},
				Stream:   &stream,
				Options:  map[string]any{"num_predict": 400, "temperature": 0.9, "seed": i},
				Logprobs: i%3 == 0, TopLogprobs: 2,
			}
			if i%4 != 0 {
				req.Format = json.RawMessage(schema)
			} else {
				req.Options["num_predict"], req.Options["temperature"] = 30, 0
			}
			var text, tokens strings.Builder
			var last api.ChatResponse
			if err := s.client.Chat(t.Context(), req, func(r api.ChatResponse) error {
				text.WriteString(r.Message.Content)
				for _, l := range r.Logprobs {
					for _, b := range l.Bytes {
						tokens.WriteByte(byte(b))
					}
					if len(l.TopLogprobs) != 2 || l.TopLogprobs[0].Logprob < l.Logprob || l.Logprob > 0 {
						t.Errorf("%+v", l)
					}
				}
				last = r
				return nil
			}); err != nil {
				t.Error(err)
				return
			}
			if told := strings.ToValidUTF8(tokens.String(), "\ufffd"); req.Logprobs && i%4 != 0 && told != text.String() {
				t.Errorf("the tokens told are %q, the text is %q", told, text.String())
			}
			if i%4 == 0 {
				mu.Lock()
				defer mu.Unlock()
				free[fmt.Sprint("number ", i/4)] = text.String()
				return
			}
			var got struct {
				Colour string
				Sizes  []int
				Parts  []struct{ ID *int }
			}
			d := json.NewDecoder(strings.NewReader(text.String()))
			d.DisallowUnknownFields()
			if err := d.Decode(&got); err != nil || last.DoneReason != "stop" {
				t.Errorf("%v, ended by %s: %s", err, last.DoneReason, text.String())
				return
			}
			if !strings.Contains("red green blue", got.Colour) || len(got.Sizes) < 1 || len(got.Sizes) > 3 || len(got.Parts) > 2 {
				t.Errorf("%s", text.String())
			}
			for _, n := range got.Sizes {
				if n < 1 || n > 40 {
					t.Errorf("size %d in %s", n, text.String())
				}
			}
		})
	}
	clients.Wait()
	for question, answer := range free { // their neighbours' formats are not theirs
		alone, _, err := s.ask(t.Context(), "tiny", question, 30)
		if err != nil || alone != answer {
			t.Errorf("%s: %q alone and %q among formats, %v", question, alone, answer, err)
		}
	}
	if _, _, err := s.cllm("", "run", "tiny", "--format", `{"type":"nothing"}`, "hello"); err == nil || !strings.Contains(err.Error(), "exit status") {
		t.Errorf("a bad schema: %v", err)
	}
	if out := strings.TrimSpace(s.must(t, "", "run", "tiny", "--format", `{"type":"boolean"}`, "hello")); out != "true" && out != "false" {
		t.Errorf("run --format printed %q", out)
	}
}
