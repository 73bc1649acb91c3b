package daemon

import (
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/anthropic"
	"github.com/ollama/ollama/api"
)

// toolSearch is the name of the web search that Anthropic's servers offer. A request
// has it when one of its tools is of a type that begins with it.
const toolSearch = "web_search"

// messages answers POST /v1/messages.
func (d *Daemon) messages(c *gin.Context) {
	start := time.Now()
	to := &messageReply{events: d.events(c), id: anthropic.GenerateMessageID()}
	var asked messagesRequest
	if err := readCompat(c, &asked); err != nil {
		to.fail(err)
		return
	}
	to.asked = asked.MessagesRequest
	req, err := asked.convert()
	if err != nil {
		to.fail(err)
		return
	}
	to.search = slices.ContainsFunc(to.asked.Tools, func(t anthropic.Tool) bool { return strings.HasPrefix(t.Type, toolSearch) })
	d.answerChat(c.Request.Context(), req, start, true, to)
}

// messagesRequest is a request for a message. Ollama's own type knows nothing of threads:
// conversations that Anthropic's servers keep.
type messagesRequest struct {
	anthropic.MessagesRequest
	Thread any `json:"thread"`
}

func (*messagesRequest) wraps() reflect.Type { return reflect.TypeFor[anthropic.MessagesRequest]() }

// textNoThreads refuses a thread. Without what was said before, the model would answer
// the last message alone.
const textNoThreads = "threads are not supported: send the whole conversation"

// messagesError is the body of an error. That of a thread is one which makes Anthropic's
// client send the whole conversation.
func messagesError(status int, text string) any {
	plain := anthropic.NewError(status, text)
	if text != textNoThreads {
		return plain
	}
	return gin.H{"type": plain.Type, "request_id": plain.RequestID, "error": gin.H{
		"type": plain.Error.Type, "message": text,
		"details": gin.H{"error_code": "thread_unsupported_request", "unsupported": []string{"thread"}},
	}}
}

// convert makes a chat request of it.
func (r *messagesRequest) convert() (*api.ChatRequest, error) {
	asked := r.MessagesRequest
	switch {
	case asked.Model == "":
		return nil, newError(http.StatusBadRequest, textNoModel)
	case asked.MaxTokens <= 0:
		return nil, newError(http.StatusBadRequest, "max_tokens is required and must be positive")
	case len(asked.Messages) == 0:
		return nil, newError(http.StatusBadRequest, "messages is required")
	case r.Thread != nil:
		return nil, newError(http.StatusBadRequest, textNoThreads)
	}
	req, err := anthropic.FromMessagesRequest(asked)
	if err != nil {
		return nil, refuse(err)
	}
	asDecoded(req.Options)
	for _, m := range req.Messages {
		for i := range m.ToolCalls {
			sortArguments(&m.ToolCalls[i].Function)
		}
	}
	if asked.Thinking != nil && asked.Thinking.Type == "disabled" {
		req.Think = &api.ThinkValue{Value: false}
	}
	return req, nil
}

// sortArguments gives the arguments of a call an order. The converter gives them
// another each time; the same conversation has to become the same prompt, or what
// is cached of it is of no use.
func sortArguments(f *api.ToolCallFunction) {
	all := f.Arguments.ToMap()
	sorted := api.NewToolCallFunctionArguments()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		sorted.Set(name, all[name])
	}
	f.Arguments = sorted
}
