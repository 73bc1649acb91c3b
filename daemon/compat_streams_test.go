package daemon

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"
)

// heard is what a client understood of a stream.
type heard struct {
	Content, Thinking string
	Calls             []string // name and arguments
	End               string   // why it ended
}

// recorded returns a context whose answer can be read.
func recorded() (*httptest.ResponseRecorder, *gin.Context) {
	w := httptest.NewRecorder()
	c, _ := gin.CreateTestContext(w)
	c.Request = httptest.NewRequest(http.MethodPost, "/v1/x", nil)
	return w, c
}

// sse is one event of a stream.
type sse struct {
	name string
	data map[string]any
}

// readEvents takes a stream apart.
func readEvents(t testing.TB, body string) (events []sse) {
	t.Helper()
	rest, ok := strings.CutSuffix(body, "\n\n")
	if !ok {
		t.Fatalf("the stream does not end after an event: %q", body)
	}
	for event := range strings.SplitSeq(rest, "\n\n") {
		var e sse
		name, data, ok := strings.Cut("\n"+event, "\ndata: ")
		e.name = strings.TrimPrefix(strings.TrimPrefix(name, "\n"), "event: ")
		if !ok || strings.Contains(data, "\n") {
			t.Fatalf("not an event: %q", event)
		}
		if data == "[DONE]" {
			e.name = data
		} else if err := json.Unmarshal([]byte(data), &e.data); err != nil {
			t.Fatalf("%v: %q", err, event)
		}
		events = append(events, e)
	}
	return events
}

// in returns what is at a path of names and numbers in a JSON value.
func in(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p < 0 || p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

func text(v any, path ...any) string {
	s, _ := in(v, path...).(string)
	return s
}

func number(v any, path ...any) int {
	n, ok := in(v, path...).(float64)
	if !ok {
		return -1
	}
	return int(n)
}

// hearChat reads a chat as OpenAI's client does: tool calls are put together by
// their numbers.
func hearChat(t testing.TB, body string) (h heard) {
	t.Helper()
	events := readEvents(t, body)
	if last := events[len(events)-1]; last.name != "[DONE]" {
		t.Errorf("the stream ends with %v", last)
	}
	var id any
	for i, e := range events[:len(events)-1] {
		if h.End != "" {
			t.Errorf("a choice after the end: %v", e.data)
		}
		if id == nil {
			id = e.data["id"]
		}
		if e.data["id"] != id || text(e.data, "object") != "chat.completion.chunk" {
			t.Errorf("chunk %d: %v", i, e.data)
		}
		delta := in(e.data, "choices", 0, "delta")
		h.Content += text(delta, "content")
		h.Thinking += text(delta, "reasoning")
		calls, _ := in(delta, "tool_calls").([]any)
		for _, c := range calls {
			if got := number(c, "index"); got != len(h.Calls) || text(c, "id") == "" || text(c, "type") != "function" {
				t.Errorf("call %d: %v", len(h.Calls), c)
			}
			h.Calls = append(h.Calls, text(c, "function", "name")+text(c, "function", "arguments"))
		}
		h.End = text(e.data, "choices", 0, "finish_reason")
	}
	return h
}

// hearMessage reads a message as Anthropic's client does: one block is open at a
// time, the numbers of the blocks have no gap.
func hearMessage(t testing.TB, body string) (h heard) {
	t.Helper()
	events := readEvents(t, body)
	if n := len(events); events[0].name != "message_start" || events[n-1].name != "message_stop" || events[n-2].name != "message_delta" {
		t.Fatalf("begins with %v, ends with %v", events[0], events[n-1])
	}
	blocks, open := 0, ""
	for _, e := range events {
		if text(e.data, "type") != e.name {
			t.Errorf("%s has type %s", e.name, text(e.data, "type"))
		}
		switch e.name {
		case "content_block_start":
			if open != "" || number(e.data, "index") != blocks {
				t.Errorf("block %d while %q is open: %v", blocks, open, e.data)
			}
			open = text(e.data, "content_block", "type")
			if open == "tool_use" {
				if cmp.Diff(map[string]any{}, in(e.data, "content_block", "input")) != "" || text(e.data, "content_block", "id") == "" {
					t.Errorf("%v", e.data)
				}
				h.Calls = append(h.Calls, text(e.data, "content_block", "name"))
			} else if in(e.data, "content_block", open) != "" {
				t.Errorf("a block begins without its field: %v", e.data)
			}
		case "content_block_delta":
			kinds := map[string]string{"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "tool_use"}
			if kinds[text(e.data, "delta", "type")] != open || number(e.data, "index") != blocks {
				t.Errorf("in block %d, %s: %v", blocks, open, e.data)
			}
			h.Content += text(e.data, "delta", "text")
			h.Thinking += text(e.data, "delta", "thinking")
			if open == "tool_use" {
				h.Calls[len(h.Calls)-1] += text(e.data, "delta", "partial_json")
			}
		case "content_block_stop":
			if open == "" || number(e.data, "index") != blocks {
				t.Errorf("block %d ends, %q is open: %v", blocks, open, e.data)
			}
			open = ""
			blocks++
		case "message_delta":
			h.End = text(e.data, "delta", "stop_reason")
		}
	}
	if open != "" {
		t.Errorf("a block of %s stays open", open)
	}
	return h
}

// hearResponse reads a response as OpenAI's client does: each item is added, grows
// and is done, at a place of its own, and the whole at the end has them all.
func hearResponse(t testing.TB, body string) (h heard) {
	t.Helper()
	events := readEvents(t, body)
	if n := len(events); events[0].name != "response.created" || events[1].name != "response.in_progress" || events[n-1].name != "response.completed" {
		t.Fatalf("begins with %v, ends with %v", events[0], events[n-1])
	}
	var items []any
	var open map[string]any // the item that grows
	grown := ""
	for i, e := range events {
		if number(e.data, "sequence_number") != i || text(e.data, "type") != e.name {
			t.Errorf("event %d, %s: %v", i, e.name, e.data)
		}
		if at := number(e.data, "output_index"); at != -1 && at != len(items) {
			t.Errorf("an event about item %d during item %d: %v", at, len(items), e.data)
		}
		if id := text(e.data, "item_id"); id != "" && id != open["id"] {
			t.Errorf("an event about item %s during item %v: %v", id, open["id"], e.data)
		}
		switch e.name {
		case "response.output_item.added":
			open, grown = e.data["item"].(map[string]any), ""
		case "response.reasoning_summary_part.added":
			open["part"] = true
		case "response.content_part.added":
			open["part"] = true
		case "response.reasoning_summary_text.delta", "response.output_text.delta", "response.function_call_arguments.delta":
			if open["type"] != "function_call" && open["part"] == nil {
				t.Errorf("a delta before its part: %v", e.data)
			}
			grown += text(e.data, "delta")
		case "response.output_item.done":
			item := e.data["item"]
			items = append(items, item)
			said := text(item, "summary", 0, "text") + text(item, "content", 0, "text") + text(item, "arguments")
			if said != grown || text(item, "id") != open["id"] {
				t.Errorf("item %v grew to %q", item, grown)
			}
			switch text(item, "type") {
			case "reasoning":
				h.Thinking += said
			case "message":
				h.Content += said
			case "function_call":
				h.Calls = append(h.Calls, text(item, "name")+said)
			}
		case "response.completed":
			h.End = text(e.data, "response", "status")
			if diff := cmp.Diff(items, in(e.data, "response", "output")); diff != "" {
				t.Errorf("the items in the whole response (-done +whole):\n%s", diff)
			}
		}
	}
	return h
}

// anAnswer makes an answer of random pieces, the last of which ends it.
func anAnswer(r *rand.Rand) (pieces []*api.ChatResponse, want heard) {
	for n := range 1 + r.IntN(6) {
		p := &api.ChatResponse{Model: "plain", Message: api.Message{Role: "assistant"}}
		if r.IntN(3) == 0 {
			p.Message.Thinking = fmt.Sprintf("thought %d. ", n)
		}
		if r.IntN(3) == 0 {
			p.Message.Content = fmt.Sprintf("word %d. ", n)
		}
		for i := range max(0, r.IntN(6)-3) {
			args := api.NewToolCallFunctionArguments()
			args.Set("n", n)
			call := api.ToolCall{ID: fmt.Sprintf("call_%d_%d", n, i), Function: api.ToolCallFunction{Name: "f", Arguments: args}}
			p.Message.ToolCalls = append(p.Message.ToolCalls, call)
			want.Calls = append(want.Calls, fmt.Sprintf(`f{"n":%d}`, n))
		}
		want.Content += p.Message.Content
		want.Thinking += p.Message.Thinking
		pieces = append(pieces, p)
	}
	last := pieces[len(pieces)-1]
	last.Done, last.DoneReason, last.PromptEvalCount, last.EvalCount = true, "stop", 3, 4
	return pieces, want
}

func TestCompatStreamsHoldAllThatTheModelSaidInAnyOrder(t *testing.T) {
	d := &Daemon{}
	for seed := range uint64(100) {
		for name, api := range map[string]struct {
			to        func(*gin.Context) reply
			hear      func(testing.TB, string) heard
			end, call string // what it says at the end, without and with tool calls
		}{
			"chat": {
				func(c *gin.Context) reply {
					return &chatCompletion{events: d.events(c), id: "chatcmpl-1", stream: true}
				},
				hearChat, "stop", "tool_calls",
			},
			"message":  {func(c *gin.Context) reply { return &messageReply{events: d.events(c)} }, hearMessage, "end_turn", "tool_use"},
			"response": {func(c *gin.Context) reply { return &responseReply{events: d.events(c)} }, hearResponse, "completed", "completed"},
		} {
			pieces, want := anAnswer(rand.New(rand.NewPCG(seed, 1)))
			if want.End = api.end; len(want.Calls) > 0 {
				want.End = api.call
			}
			w, c := recorded()
			to := api.to(c)
			for _, p := range pieces {
				if err := to.line(p); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(want, api.hear(t, w.Body.String())); diff != "" || t.Failed() {
				t.Fatalf("%s, answer %d (-said +heard):\n%s\n%s", name, seed, diff, w.Body)
			}
		}
	}
}

func TestAnAnswerThatIsNotJSONEndsTheStreamWithAnError(t *testing.T) {
	w, c := recorded()
	a := serveFake(t, always(""))
	to := &chatCompletion{events: a.events(c), id: "chatcmpl-1", stream: true}
	piece := &api.ChatResponse{Message: api.Message{Role: "assistant", Content: "a"}}
	if err := to.line(piece); err != nil {
		t.Fatal(err)
	}
	piece.Logprobs = []api.Logprob{{TokenLogprob: api.TokenLogprob{Token: "a", Logprob: math.Inf(-1)}}}
	err := to.line(piece)
	if err == nil {
		t.Fatal("no error")
	}
	to.failLine(err)
	events := readEvents(t, w.Body.String())
	if len(events) != 2 || text(events[1].data, "error", "message") != err.Error() {
		t.Errorf("%v", events)
	}
}

func TestLogProbabilitiesHaveTheFormOfTheirRoute(t *testing.T) {
	d := &Daemon{}
	probs := []api.Logprob{
		{
			TokenLogprob: api.TokenLogprob{Token: "né", Logprob: -0.5},
			TopLogprobs:  []api.TokenLogprob{{Token: "né", Logprob: -0.5}, {Token: "x", Logprob: -2}},
		},
		{TokenLogprob: api.TokenLogprob{Token: "e", Logprob: -1}},
	}
	w, c := recorded()
	chat := &chatCompletion{events: d.events(c), id: "chatcmpl-1", stream: true}
	piece := &api.ChatResponse{Message: api.Message{Role: "assistant", Thinking: "t", Content: "née"}, Logprobs: probs}
	if err := chat.line(piece); err != nil {
		t.Fatal(err)
	}
	chunks := readEvents(t, w.Body.String())
	if got := in(chunks[0].data, "choices", 0, "logprobs", "content"); len(got.([]any)) != 2 || text(got, 0, "token") != "né" {
		t.Errorf("%v", got)
	}
	if got := in(chunks[1].data, "choices", 0, "logprobs"); got != nil {
		t.Errorf("twice: %v", got)
	}

	w, c = recorded()
	completion := &completion{events: d.events(c), id: "cmpl-1", stream: true}
	for _, p := range probs {
		if err := completion.line(&api.GenerateResponse{Response: p.Token, Logprobs: []api.Logprob{p}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range [][]int{{195}, {169}, {'x'}} { // a character in two tokens
		p := api.Logprob{TokenLogprob: api.TokenLogprob{Token: "?", Logprob: -1, Bytes: b}}
		p.TopLogprobs = []api.TokenLogprob{p.TokenLogprob, {Token: "?", Logprob: -9}}
		if err := completion.line(&api.GenerateResponse{Logprobs: []api.Logprob{p}}); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []string{
		`{"text_offset":[0],"token_logprobs":[-0.5],"tokens":["né"],"top_logprobs":[{"né":-0.5,"x":-2}]}`,
		`{"text_offset":[2],"token_logprobs":[-1],"tokens":["e"],"top_logprobs":[{}]}`,
		`{"text_offset":[3],"token_logprobs":[-1],"tokens":["?"],"top_logprobs":[{"?":-1}]}`,
		`{"text_offset":[4],"token_logprobs":[-1],"tokens":["?"],"top_logprobs":[{"?":-1}]}`,
		`{"text_offset":[4],"token_logprobs":[-1],"tokens":["?"],"top_logprobs":[{"?":-1}]}`,
	} {
		got, err := json.Marshal(in(readEvents(t, w.Body.String())[i].data, "choices", 0, "logprobs"))
		if err != nil || string(got) != want {
			t.Errorf("%s, want %s (%v)", got, want, err)
		}
	}
}

func TestTextBesideToolCallsIsInTheWholeResponse(t *testing.T) {
	d := &Daemon{}
	w, c := recorded()
	answer := &api.ChatResponse{
		Message: api.Message{
			Role: "assistant", Thinking: "t", Content: "word",
			ToolCalls: []api.ToolCall{{ID: "call_1", Function: api.ToolCallFunction{Name: "f"}}},
		},
		Done: true, DoneReason: "stop",
	}
	if err := (&responseReply{events: d.events(c)}).whole(answer); err != nil {
		t.Fatal(err)
	}
	var got struct{ Output []struct{ Type string } }
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, item := range got.Output {
		types = append(types, item.Type)
	}
	if want := []string{"reasoning", "message", "function_call"}; !slices.Equal(types, want) {
		t.Errorf("%q, want %q", types, want)
	}
}
