package daemon

import (
	"net/http"
	"reflect"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/openai"
)

// chatCompletionRequest is a chat of OpenAI's API. Ollama's own type has the limit
// under its old name only.
type chatCompletionRequest struct {
	openai.ChatCompletionRequest
	MaxCompletionTokens *int `json:"max_completion_tokens"`
}

func (*chatCompletionRequest) wraps() reflect.Type {
	return reflect.TypeFor[openai.ChatCompletionRequest]()
}

// convert makes a chat request of it.
func (r *chatCompletionRequest) convert() (*api.ChatRequest, error) {
	if len(r.Messages) == 0 {
		return nil, newError(http.StatusBadRequest, "[] is too short - 'messages'")
	}
	if r.MaxCompletionTokens != nil {
		r.MaxTokens = r.MaxCompletionTokens
	}
	req, err := openai.FromChatRequest(r.ChatCompletionRequest)
	if err != nil {
		return nil, refuse(err)
	}
	asDecoded(req.Options)
	lowerRoles(req.Messages)
	return req, nil
}

// chatCompletions answers POST /v1/chat/completions.
func (d *Daemon) chatCompletions(c *gin.Context) {
	start := time.Now()
	to := &chatCompletion{events: d.events(c), id: madeUp("chatcmpl-"), created: start.Unix()}
	var asked chatCompletionRequest
	if err := readCompat(c, &asked); err != nil {
		to.fail(err)
		return
	}
	req, err := asked.convert()
	if err != nil {
		to.fail(err)
		return
	}
	to.stream, to.usage = asked.Stream, wantsUsage(asked.StreamOptions)
	d.answerChat(c.Request.Context(), req, start, false, to)
}

// chatCompletion writes the answer to a chat.
type chatCompletion struct {
	events
	id      string
	created int64 // Unix seconds
	stream  bool
	usage   bool // the stream ends with the counts
	calls   int  // tool calls sent
}

// line sends a chunk for each of what a piece can hold, and another for the end: what
// a chunk holds does not depend on how fast the client reads.
func (r *chatCompletion) line(response any) error {
	resp := *response.(*api.ChatResponse)
	for _, part := range apart(resp) {
		r.add("", r.chunk(part))
		r.calls += len(part.Message.ToolCalls)
	}
	if resp.Done {
		resp.Message, resp.Logprobs = api.Message{}, nil
		last := r.chunk(resp)
		r.add("", last)
		if r.usage {
			counts := openai.ToUsage(resp)
			last.Usage, last.Choices = &counts, []openai.ChunkChoice{}
			r.add("", last)
		}
		r.done()
	}
	return r.send()
}

// chunk is a chunk of the stream. The parts of an answer that is done are not.
func (r *chatCompletion) chunk(resp api.ChatResponse) openai.ChatCompletionChunk {
	chunk := openai.ToChunk(r.id, r.numbered(resp), r.calls > 0)
	chunk.Created = r.created
	choice := &chunk.Choices[0]
	choice.FinishReason = cutOff(choice.FinishReason, resp.DoneReason)
	return chunk
}

// apart splits a piece into thinking, content and tool calls. The log probabilities
// go with the first.
func apart(resp api.ChatResponse) []api.ChatResponse {
	whole := resp.Message
	var parts []api.ChatResponse
	add := func(m api.Message) {
		m.Role = whole.Role
		parts = append(parts, api.ChatResponse{Model: resp.Model, CreatedAt: resp.CreatedAt, Message: m})
	}
	if whole.Thinking != "" {
		add(api.Message{Thinking: whole.Thinking})
	}
	if whole.Content != "" || len(resp.Logprobs) > 0 && whole.Thinking == "" {
		add(api.Message{Content: whole.Content})
	}
	for i := range whole.ToolCalls {
		add(api.Message{ToolCalls: whole.ToolCalls[i : i+1]})
	}
	if len(parts) > 0 {
		parts[0].Logprobs = resp.Logprobs
	}
	return parts
}

func (r *chatCompletion) whole(response any) error {
	resp := *response.(*api.ChatResponse)
	if r.stream && resp.Done {
		return r.line(response)
	}
	whole := openai.ToChatCompletion(r.id, r.numbered(resp))
	choice := &whole.Choices[0]
	choice.FinishReason = cutOff(choice.FinishReason, resp.DoneReason)
	return r.json(whole)
}

// numbered counts the tool calls of an answer through: clients put the pieces of a
// stream together by these numbers, and not every parser gives them.
func (r *chatCompletion) numbered(resp api.ChatResponse) api.ChatResponse {
	for i := range resp.Message.ToolCalls {
		resp.Message.ToolCalls[i].Function.Index = r.calls + i
	}
	return resp
}

// cutOff returns what an answer is said to have ended for: one that was cut off says
// so even with tool calls in it.
func cutOff(told *string, reason string) *string {
	if reason == "length" {
		return &reason
	}
	return told
}

func wantsUsage(o *openai.StreamOptions) bool { return o != nil && o.IncludeUsage }
