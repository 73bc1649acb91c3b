package daemon

import (
	"github.com/ollama/ollama/openai"
)

// The types of the items of a response.
const (
	itemReasoning = "reasoning"
	itemMessage   = "message"
	itemCall      = "function_call"
)

// itemEvent adds an event about the item that is growing.
func (r *responseReply) itemEvent(name string, data map[string]any) {
	data["item_id"], data["output_index"] = r.openID, len(r.output)
	r.event(name, data)
}

// openItem begins an item with what is known of it.
func (r *responseReply) openItem(kind, id string, item map[string]any) {
	r.open, r.openID = kind, id
	r.written.Reset()
	item["id"], item["type"] = id, kind
	r.event("response.output_item.added", map[string]any{"output_index": len(r.output), "item": item})
}

// close ends the item that is growing, if there is one.
func (r *responseReply) close() {
	switch text := r.written.String(); r.open {
	case itemReasoning:
		part := openai.ResponsesReasoningSummary{Type: "summary_text", Text: text}
		r.itemEvent("response.reasoning_summary_text.done", map[string]any{"summary_index": 0, "text": text})
		r.itemEvent("response.reasoning_summary_part.done", map[string]any{"summary_index": 0, "part": part})
		r.closeItem(openai.ResponsesOutputItem{
			ID: r.openID, Type: itemReasoning,
			Summary:          []openai.ResponsesReasoningSummary{part},
			EncryptedContent: text, // clients send it back, and the converter reads it from here
		})
	case itemMessage:
		item := messageItem(r.openID, text)
		r.itemEvent("response.output_text.done", map[string]any{"content_index": 0, "text": text, "logprobs": []any{}})
		r.itemEvent("response.content_part.done", map[string]any{"content_index": 0, "part": item.Content[0]})
		r.closeItem(item)
	}
}

// closeItem ends an item with all of it.
func (r *responseReply) closeItem(item openai.ResponsesOutputItem) {
	r.event("response.output_item.done", map[string]any{"output_index": len(r.output), "item": item})
	r.output = append(r.output, item)
	r.open = ""
}

// reasoning adds thinking to the answer.
func (r *responseReply) reasoning(text string) {
	if text == "" {
		return
	}
	if r.open != itemReasoning {
		r.close()
		r.openItem(itemReasoning, madeUp("rs_"), map[string]any{"summary": []any{}})
		r.itemEvent("response.reasoning_summary_part.added", map[string]any{
			"summary_index": 0, "part": openai.ResponsesReasoningSummary{Type: "summary_text"},
		})
	}
	r.written.WriteString(text)
	r.itemEvent("response.reasoning_summary_text.delta", map[string]any{"summary_index": 0, "delta": text})
}

// text adds text to the answer.
func (r *responseReply) text(text string) {
	if text == "" {
		return
	}
	if r.open != itemMessage {
		r.close()
		r.openMessage()
	}
	r.written.WriteString(text)
	r.itemEvent("response.output_text.delta", map[string]any{"content_index": 0, "delta": text, "logprobs": []any{}})
}

func (r *responseReply) openMessage() {
	r.openItem(itemMessage, madeUp("msg_"), map[string]any{"status": "in_progress", "role": "assistant", "content": []any{}})
	r.itemEvent("response.content_part.added", map[string]any{"content_index": 0, "part": textPart("")})
}

// call adds a tool call to the answer. They come whole.
func (r *responseReply) call(c openai.ToolCall) {
	r.close()
	r.openItem(itemCall, madeUp("fc_"), map[string]any{
		"status": "in_progress", "call_id": c.ID, "name": c.Function.Name, "arguments": "",
	})
	r.itemEvent("response.function_call_arguments.delta", map[string]any{"delta": c.Function.Arguments})
	r.itemEvent("response.function_call_arguments.done", map[string]any{"arguments": c.Function.Arguments})
	r.closeItem(openai.ResponsesOutputItem{
		ID: r.openID, Type: itemCall, Status: "completed",
		CallID: c.ID, Name: c.Function.Name, Arguments: c.Function.Arguments,
	})
}

// messageItem is a message that is done.
func messageItem(id, text string) openai.ResponsesOutputItem {
	return openai.ResponsesOutputItem{
		ID: id, Type: itemMessage, Status: "completed", Role: "assistant",
		Content: []openai.ResponsesOutputContent{textPart(text)},
	}
}

func textPart(text string) openai.ResponsesOutputContent {
	return openai.ResponsesOutputContent{Type: "output_text", Text: text, Annotations: []any{}, Logprobs: []any{}}
}
