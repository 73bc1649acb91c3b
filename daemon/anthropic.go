package daemon

import (
	"maps"
	"net/http"
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
	if err := readCompat(c, &to.asked); err != nil {
		to.fail(err)
		return
	}
	req, err := fromMessages(to.asked)
	if err != nil {
		to.fail(err)
		return
	}
	to.search = slices.ContainsFunc(to.asked.Tools, func(t anthropic.Tool) bool { return strings.HasPrefix(t.Type, toolSearch) })
	d.answerChat(c.Request.Context(), req, start, true, to)
}

// fromMessages makes a chat request of a request for a message.
func fromMessages(asked anthropic.MessagesRequest) (*api.ChatRequest, error) {
	switch {
	case asked.Model == "":
		return nil, newError(http.StatusBadRequest, textNoModel)
	case asked.MaxTokens <= 0:
		return nil, newError(http.StatusBadRequest, "max_tokens is required and must be positive")
	case len(asked.Messages) == 0:
		return nil, newError(http.StatusBadRequest, "messages is required")
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
