package daemon

import (
	"slices"
	"strings"

	"github.com/ollama/ollama/anthropic"
	"github.com/ollama/ollama/api"
)

// messageReply writes an answer as a message: a list of blocks (thinking, text, tool
// calls). A stream has one open block at a time, and numbers them from 0.
//
// A message as a whole is made by Ollama's converter. The stream is made here: the
// converter's opens a block beside an open one when thinking is followed by a tool
// call, and again when text is followed by thinking.
type messageReply struct {
	events
	id     string
	asked  anthropic.MessagesRequest
	search bool // Anthropic's own web search was offered

	index    int    // of the open block, or of the next
	open     string // the type of the open block, if there is one
	called   bool   // a tool was called
	searched *api.ToolCall
}

func (r *messageReply) line(response any) error {
	resp := *response.(*api.ChatResponse)
	if !r.begun {
		r.begin(resp)
	}
	if r.searched == nil { // what follows a search would be about its results
		r.searched = r.findSearch(resp)
		r.delta("thinking", anthropic.Delta{Type: "thinking_delta", Thinking: resp.Message.Thinking})
		r.delta("text", anthropic.Delta{Type: "text_delta", Text: resp.Message.Content})
		if r.searched == nil {
			r.calls(resp.Message.ToolCalls)
		}
	}
	if resp.Done {
		r.end(resp)
	}
	return r.send()
}

func (r *messageReply) whole(response any) error {
	resp := *response.(*api.ChatResponse)
	if r.asked.Stream {
		return r.line(response)
	}
	whole := anthropic.ToMessagesResponse(r.id, resp)
	if call := r.findSearch(resp); call != nil {
		whole.Content, whole.StopReason = r.noSearch(call), "end_turn"
	}
	if whole.Content == nil {
		whole.Content = []anthropic.ContentBlock{}
	}
	return r.json(whole)
}

func (r *messageReply) failLine(err error) {
	r.broken(err, func(status int, text string) {
		r.add("error", anthropic.StreamErrorEvent{Type: "error", Error: anthropic.NewError(status, text).Error})
	})
}

// begin opens the message. The prompt's tokens are estimated from its text, as they
// are counted at the end only.
func (r *messageReply) begin(resp api.ChatResponse) {
	tokens := resp.PromptEvalCount
	if tokens == 0 {
		tokens = anthropic.EstimateInputTokens(r.asked)
	}
	r.add("message_start", anthropic.MessageStartEvent{Type: "message_start", Message: anthropic.MessagesResponse{
		ID: r.id, Type: "message", Role: "assistant", Model: r.asked.Model,
		Content: []anthropic.ContentBlock{},
		Usage:   anthropic.Usage{InputTokens: tokens},
	}})
}

// end closes the message.
func (r *messageReply) end(resp api.ChatResponse) {
	reason := stopReason(resp.DoneReason)
	switch {
	case r.searched != nil:
		for _, b := range r.noSearch(r.searched) {
			r.openBlock(b)
			r.closeBlock()
		}
		reason = "end_turn"
	case r.called:
		reason = "tool_use"
	}
	r.closeBlock()
	r.add("message_delta", anthropic.MessageDeltaEvent{
		Type:  "message_delta",
		Delta: anthropic.MessageDelta{StopReason: reason},
		Usage: anthropic.DeltaUsage{InputTokens: resp.PromptEvalCount, OutputTokens: resp.EvalCount},
	})
	r.add("message_stop", anthropic.MessageStopEvent{Type: "message_stop"})
}

// delta adds to the block of a type, which it opens if need be.
func (r *messageReply) delta(kind string, d anthropic.Delta) {
	if d.Text == "" && d.Thinking == "" {
		return
	}
	if r.open != kind {
		block := anthropic.ContentBlock{Type: kind}
		if kind == "thinking" {
			block.Thinking = new("")
		} else {
			block.Text = new("")
		}
		r.openBlock(block)
	}
	r.blockDelta(d)
}

// calls adds tool calls, each with its arguments in one piece.
func (r *messageReply) calls(calls []api.ToolCall) {
	for _, c := range calls {
		r.called = true
		r.openBlock(anthropic.ContentBlock{Type: "tool_use", ID: c.ID, Name: c.Function.Name, Input: map[string]any{}})
		r.blockDelta(anthropic.Delta{Type: "input_json_delta", PartialJSON: c.Function.Arguments.String()})
		r.closeBlock()
	}
}

func (r *messageReply) openBlock(b anthropic.ContentBlock) {
	r.closeBlock()
	r.open = b.Type
	r.add("content_block_start", anthropic.ContentBlockStartEvent{Type: "content_block_start", Index: r.index, ContentBlock: b})
}

func (r *messageReply) blockDelta(d anthropic.Delta) {
	r.add("content_block_delta", anthropic.ContentBlockDeltaEvent{Type: "content_block_delta", Index: r.index, Delta: d})
}

// closeBlock closes the open block, if there is one.
func (r *messageReply) closeBlock() {
	if r.open == "" {
		return
	}
	r.open = ""
	r.add("content_block_stop", anthropic.ContentBlockStopEvent{Type: "content_block_stop", Index: r.index})
	r.index++
}

// findSearch returns the call by which the model asks for a web search.
func (r *messageReply) findSearch(resp api.ChatResponse) *api.ToolCall {
	calls := resp.Message.ToolCalls
	i := slices.IndexFunc(calls, func(c api.ToolCall) bool { return r.search && c.Function.Name == toolSearch })
	if i < 0 {
		return nil
	}
	return &calls[i]
}

// noSearch are the blocks that tell of a search and why nothing was found. Ollama
// searches for models of its cloud only.
func (r *messageReply) noSearch(call *api.ToolCall) []anthropic.ContentBlock {
	given, _ := call.Function.Arguments.Get("query")
	query, _ := given.(string)
	id := "srvtoolu_" + strings.TrimPrefix(r.id, "msg_")
	return []anthropic.ContentBlock{
		{Type: "server_tool_use", ID: id, Name: toolSearch, Input: map[string]any{"query": query}},
		{Type: "web_search_tool_result", ToolUseID: id, Content: anthropic.WebSearchToolResultError{
			Type: "web_search_tool_result_error", ErrorCode: "web_search_not_supported_for_local_models",
		}},
	}
}

// stopReason is Anthropic's word for why an answer ended.
func stopReason(reason string) string {
	switch reason {
	case "stop":
		return "end_turn"
	case "length":
		return "max_tokens"
	default:
		return "stop_sequence"
	}
}
