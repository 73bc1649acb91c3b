package prompt

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/model/renderers"
	"github.com/ollama/ollama/template"
	"github.com/ollama/ollama/thinking"
	"github.com/ollama/ollama/types/model"
)

// Harmony is the parser of the gpt-oss models, the only ones with levels of thinking.
const Harmony = "harmony"

func init() {
	// The renderers leave images out unless they are told to write tags for them.
	renderers.RenderImgTags = true
}

// Style is how a model writes conversations.
type Style struct {
	Template *template.Template // never nil
	Renderer string             // built-in renderer to use instead of the template; "": none
	Parser   string             // built-in parser of the output; "": the template's tags

	// OldThinking is false for models that must not see what they thought before
	// the last question.
	OldThinking bool
}

// NewStyle returns the style of a model.
func NewStyle(t *template.Template, config model.ConfigV2, name model.Name) Style {
	s := Style{
		Template:    t,
		Renderer:    config.Renderer,
		Parser:      config.Parser,
		OldThinking: config.ModelFamily != "qwen3" && name.Model != "deepseek-r1",
	}
	gptOSS := config.ModelFamily == "gptoss" || config.ModelFamily == "gpt-oss"
	if s.Parser == "" && gptOSS && t.Contains("<|start|>") && t.Contains("<|end|>") {
		s.Parser = Harmony
	}
	return s
}

// Conversation is what Render writes. Its slices are not changed.
type Conversation struct {
	Messages []api.Message
	Tools    []api.Tool
	Think    *api.ThinkValue // nil: the model's habit
}

// Rendered is a prompt.
type Rendered struct {
	Text   string
	Images int // images that the prompt refers to
}

// Render writes a conversation up to the point where the model goes on.
func (s Style) Render(c Conversation) (Rendered, error) {
	messages, images := s.tagImages(c.Messages)
	if s.Renderer != "" {
		text, err := guard(func() (string, error) {
			return renderers.RenderWithRenderer(s.Renderer, messages, c.Tools, c.Think)
		})
		return Rendered{Text: text, Images: images}, err
	}
	text, err := Execute(s.Template, template.Values{Messages: messages, Tools: c.Tools}, c.Think)
	return Rendered{Text: text, Images: images}, err
}

// Parse reads a template that a client sent.
func Parse(text string) (*template.Template, error) {
	return guard(func() (*template.Template, error) { return template.Parse(text) })
}

// Execute fills in a template. The messages in v may be changed.
func Execute(t *template.Template, v template.Values, think *api.ThinkValue) (string, error) {
	v.Think, v.ThinkLevel, v.IsThinkSet = think.Bool(), think.String(), think != nil
	return guard(func() (string, error) {
		var b bytes.Buffer
		err := t.Execute(&b, v)
		return b.String(), err
	})
}

// tagImages returns a copy of the messages in which each image has its tag in the
// text, in place of "[img]" or in front. The built-in renderers write the tags
// themselves.
func (s Style) tagImages(messages []api.Message) (tagged []api.Message, images int) {
	tagged = slices.Clone(messages)
	for i := range tagged {
		m := &tagged[i]
		if s.Renderer != "" {
			images += len(m.Images)
			continue
		}
		front := ""
		for range m.Images {
			tag := fmt.Sprintf("[img-%d]", images)
			images++
			if strings.Contains(m.Content, "[img]") {
				m.Content = strings.Replace(m.Content, "[img]", tag, 1)
			} else {
				front += tag
			}
		}
		m.Content = front + m.Content
	}
	return tagged, images
}

// Forget returns the messages without what the model thought before the last
// question, for models that must not see it.
func (s Style) Forget(messages []api.Message) []api.Message {
	if s.OldThinking {
		return messages
	}
	last := -1
	for i, m := range messages {
		if m.Role == "user" {
			last = i
		}
	}
	kept := slices.Clone(messages)
	for i := range max(last, 0) {
		if kept[i].Role == "assistant" {
			p := thinking.Parser{OpeningTag: "<think>", ClosingTag: "</think>"}
			_, kept[i].Content = p.AddContent(kept[i].Content)
		}
	}
	return kept
}

// guard calls code of Ollama's that works on outside input.
func guard[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the model's template, renderer or parser failed: %v", r)
		}
	}()
	return f()
}
