package prompt

import (
	"math/rand/v2"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/model/parsers"
	"github.com/ollama/ollama/thinking"
	"github.com/ollama/ollama/tools"
)

// Part is a piece of an answer.
type Part struct {
	Content  string
	Thinking string
	Calls    []api.ToolCall
}

// Empty reports whether there is nothing in the part.
func (p Part) Empty() bool { return p.Content == "" && p.Thinking == "" && len(p.Calls) == 0 }

// Output splits the text of one answer into content, thinking and tool calls. It
// holds text back while that may still become a tag.
type Output struct {
	builtin  parsers.Parser   // does everything; nil: the two below
	thinking *thinking.Parser // nil: thinking is not told apart
	tools    *tools.Parser    // nil: no tools were offered
}

// NewOutput returns the parser of one answer, and the tools in the form in which
// they have to be rendered. It comes before the prompt because some formats rename
// tools; Begin tells it the prompt. Messages are those of the conversation.
func (s Style) NewOutput(c Conversation) (*Output, []api.Tool, error) {
	if s.Parser != "" {
		if p := parsers.ParserForName(s.Parser); p != nil {
			var last *api.Message
			if n := len(c.Messages); n > 0 {
				m := c.Messages[n-1]
				last = &m
			}
			renamed, err := guard(func() ([]api.Tool, error) { return p.Init(c.Tools, last, c.Think), nil })
			return &Output{builtin: p}, renamed, err
		}
	}
	o := &Output{}
	if c.Think.Bool() {
		if open, end := thinking.InferTags(s.Template.Template); open != "" && end != "" {
			o.thinking = &thinking.Parser{OpeningTag: open, ClosingTag: end}
		}
	}
	if len(c.Tools) > 0 {
		o.tools = tools.NewParser(s.Template.Template, c.Tools)
	}
	return o, c.Tools, nil
}

// NewWatch returns a parser of the same answer that only tells thinking from content.
// To it a tool call is content, unless it is a built-in parser that takes out both.
func (s Style) NewWatch(c Conversation) (*Output, error) {
	o, _, err := s.NewOutput(c)
	if err == nil {
		o.tools = nil
	}
	return o, err
}

// Thinks reports whether the answer may hold thinking that is told from its content.
func (o *Output) Thinks() bool { return o.builtin != nil || o.thinking != nil }

// Begin takes the prompt: the answer is thinking from the start where the prompt
// ends with the opening tag.
func (o *Output) Begin(prompt string) {
	if o.thinking != nil && strings.HasSuffix(strings.TrimSpace(prompt), o.thinking.OpeningTag) {
		o.thinking.AddContent(o.thinking.OpeningTag)
	}
}

// Add takes the next text of the answer.
func (o *Output) Add(text string) (Part, error) {
	if o.builtin == nil && o.thinking == nil && o.tools == nil {
		return Part{Content: text}, nil
	}
	return guard(func() (Part, error) { return o.add(text, false) })
}

// End returns what is still held back.
func (o *Output) End() (Part, error) {
	return guard(func() (Part, error) {
		if o.builtin != nil {
			return o.add("", true)
		}
		return o.flush(), nil
	})
}

func (o *Output) add(text string, done bool) (p Part, err error) {
	p.Content = text
	switch {
	case o.builtin != nil:
		p.Content, p.Thinking, p.Calls, err = o.builtin.Add(text, done)
		if err != nil {
			return Part{}, err
		}
	case o.thinking != nil:
		p.Thinking, p.Content = o.thinking.AddContent(text)
	}
	if o.tools != nil && p.Content != "" {
		var calls []api.ToolCall
		calls, p.Content = o.tools.Add(p.Content)
		p.Calls = append(p.Calls, calls...)
	}
	identify(p.Calls)
	return p, nil
}

// endMark is in no tag. Text that is held back because it may begin a tag comes
// out when the mark follows it.
const endMark = "\x00"

func (o *Output) flush() Part {
	p := Part{}
	if o.thinking != nil {
		p.Thinking, p.Content = o.thinking.AddContent(endMark)
		p.Thinking, p.Content = strings.TrimSuffix(p.Thinking, endMark), strings.TrimSuffix(p.Content, endMark)
	}
	if o.tools == nil {
		return p
	}
	p.Calls, p.Content = o.tools.Add(p.Content + endMark)
	if p.Content == "" && len(p.Calls) == 0 {
		p.Content = o.tools.Content() // what looked like a call and is none
	}
	p.Content = strings.TrimSuffix(p.Content, endMark)
	identify(p.Calls)
	return p
}

// identify gives tool calls the ids by which clients refer to them.
func identify(calls []api.ToolCall) {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	for i := range calls {
		id := []byte("call_........")
		for j := len("call_"); j < len(id); j++ {
			id[j] = letters[rand.IntN(len(letters))]
		}
		calls[i].ID = string(id)
	}
}
