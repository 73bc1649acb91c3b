package daemon

import (
	"slices"
	"strings"
	"time"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/openai"
)

// responseReply writes an answer as a response: a list of items (thinking, messages,
// tool calls). A stream tells of each item as it grows.
//
// What surrounds the items is made by Ollama's converter. The items of a stream are
// made here: those of the converter count some items twice, leave out the text
// beside tool calls, and send thinking without the part that it belongs to, which
// OpenAI's client refuses.
type responseReply struct {
	events
	asked  openai.ResponsesRequest
	stream bool

	frame   *openai.ResponsesStreamConverter
	number  int // of the next event
	output  []any
	open    string // the type of the item that is growing, if there is one
	openID  string
	written strings.Builder // its text
}

func (r *responseReply) line(response any) error {
	resp := *response.(*api.ChatResponse)
	if r.frame == nil {
		r.begin()
	}
	r.reasoning(resp.Message.Thinking)
	r.text(resp.Message.Content)
	for _, call := range openai.ToToolCalls(resp.Message.ToolCalls) {
		r.call(call)
	}
	if resp.Done {
		r.end(resp)
	}
	return r.send()
}

func (r *responseReply) whole(response any) error {
	resp := *response.(*api.ChatResponse)
	if r.stream {
		return r.line(response)
	}
	message := madeUp("msg_")
	whole := openai.ToResponse(r.asked.Model, madeUp("resp_"), message, resp, r.asked)
	if len(resp.Message.ToolCalls) > 0 && resp.Message.Content != "" {
		first := slices.IndexFunc(whole.Output, func(i openai.ResponsesOutputItem) bool { return i.Type == "function_call" })
		whole.Output = slices.Insert(whole.Output, first, messageItem(message, resp.Message.Content))
	}
	now := time.Now().Unix()
	whole.CompletedAt = &now
	return r.json(whole)
}

func (r *responseReply) failLine(err error) {
	r.broken(err, func(_ int, text string) {
		const code = "server_error" // a request can't be at fault any more
		response := r.response(api.ChatResponse{})
		response["status"], response["completed_at"], response["usage"] = "failed", nil, nil
		response["error"] = openai.ResponsesError{Code: code, Message: text}
		r.event("response.failed", map[string]any{"response": response})
		r.event("error", map[string]any{
			"code": code, "message": text, "param": nil,
			"error": map[string]any{"type": code, "code": code, "message": text, "param": nil},
		})
	})
}

// event adds the next event of the stream.
func (r *responseReply) event(name string, data map[string]any) {
	data["type"], data["sequence_number"] = name, r.number
	r.number++
	r.add(name, data)
}

// begin tells that the answer has begun.
func (r *responseReply) begin() {
	r.frame = openai.NewResponsesStreamConverter(madeUp("resp_"), "", r.asked.Model, r.asked)
	for _, e := range r.frame.Process(api.ChatResponse{}) {
		r.event(e.Event, e.Data.(map[string]any))
	}
}

// end closes what is open and tells that the answer is whole. One without a word
// has an empty message, as it has when it is not streamed.
func (r *responseReply) end(resp api.ChatResponse) {
	r.close()
	if !slices.ContainsFunc(r.output, func(item any) bool { return item.(openai.ResponsesOutputItem).Type != "reasoning" }) {
		r.openMessage()
		r.close()
	}
	r.event("response.completed", map[string]any{"response": r.response(resp)})
}

// response is the response with all items that are done.
func (r *responseReply) response(resp api.ChatResponse) map[string]any {
	last := r.frame.Process(api.ChatResponse{Done: true, Metrics: resp.Metrics})
	response := last[len(last)-1].Data.(map[string]any)["response"].(map[string]any)
	response["output"] = append([]any{}, r.output...)
	return response
}
