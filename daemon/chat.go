package daemon

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"

	"cllm/daemon/prompt"
	"cllm/llm"
	"cllm/modelstore"
)

// chat answers POST /api/chat.
func (d *Daemon) chat(c *gin.Context) {
	start := time.Now()
	to := d.native(c)
	var req api.ChatRequest
	if err := readBody(c, &req); err != nil {
		to.fail(err)
		return
	}
	d.answerChat(c.Request.Context(), &req, start, false, to)
}

// answerChat answers a chat request that came at start. With relaxed it only thinks
// where the model can, and is not refused where it can't.
func (d *Daemon) answerChat(ctx context.Context, req *api.ChatRequest, start time.Time, relaxed bool, to reply) {
	m, err := d.chatModel(req)
	if err != nil {
		to.fail(err)
		return
	}
	if len(req.Messages) == 0 && req.KeepAlive != nil && req.KeepAlive.Duration == 0 {
		d.resident.unload(m)
		to.whole(chatLine(req.Model, piece{}, &ending{reason: "unload"}))
		return
	}
	set, err := d.checkChat(req, m, relaxed)
	if err != nil {
		to.fail(err)
		return
	}
	l, err := d.resident.acquire(ctx, m, set.Runner, req.KeepAlive)
	if err != nil {
		to.fail(err)
		return
	}
	defer l.release()
	if len(req.Messages) == 0 {
		to.whole(chatLine(req.Model, piece{}, &ending{reason: "load"}))
		return
	}
	d.converse(ctx, l, req, set, start, to)
}

// chatModel returns the model that the request names. One of Ollama's cloud is refused
// later: unloading it is answered.
func (d *Daemon) chatModel(req *api.ChatRequest) (*modelstore.Model, error) {
	if err := checkTopLogprobs(req.TopLogprobs); err != nil {
		return nil, err
	}
	if _, err := modelstore.ParseName(req.Model); err != nil {
		return nil, newError(http.StatusBadRequest, textNoModel)
	}
	return d.resolve(req.Model)
}

// checkChat checks what can be checked before the model is loaded. It settles
// req.Think.
func (d *Daemon) checkChat(req *api.ChatRequest, m *modelstore.Model, relaxed bool) (set settings, err error) {
	if err := runsHere(m); err != nil {
		return set, err
	}
	can := ability(m.Capabilities())
	think, err := can.think(req.Model, req.Think)
	switch {
	case err == nil:
		req.Think = think
	case relaxed:
		req.Think = nil
	default:
		return set, err
	}
	var need []model.Capability
	if len(req.Tools) > 0 {
		need = append(need, model.CapabilityTools)
	}
	if err := can.check(m, req.Model, "chat", need...); err != nil {
		return set, err
	}
	if set.Options, err = d.options(m, req.Options); err == nil && len(req.Messages) > 0 {
		set.grammar, err = d.grammar(req.Format)
	}
	return set, err
}

// converse answers the last message of a conversation.
func (d *Daemon) converse(ctx context.Context, l *lease, req *api.ChatRequest, set settings, start time.Time, to reply) {
	loaded := time.Since(start)
	style := prompt.NewStyle(l.model.Template, l.model.Config, l.model.Name)
	talk := prompt.Conversation{
		Messages: style.Forget(withModel(l.model, req.Messages)),
		Tools:    req.Tools,
		Think:    req.Think,
	}
	output, tools, err := style.NewOutput(talk)
	if err != nil {
		to.fail(err)
		return
	}
	asked := talk
	talk.Tools = tools
	limit := contextLimit(set.Options, l.context)
	p, err := fit(style, talk, l.vocab, limit, isTrue(req.Truncate))
	if err != nil {
		to.fail(err)
		return
	}
	if req.DebugRenderOnly {
		to.whole(&api.ChatResponse{
			Model:     req.Model,
			CreatedAt: time.Now().UTC(),
			DebugInfo: &api.DebugInfo{RenderedTemplate: p.Text, ImageCount: p.Images},
		})
		return
	}
	if err := checkLevel(req.Think, style.Parser == prompt.Harmony); err != nil {
		to.fail(err)
		return
	}
	request, err := newRequest(set.Options, l.vocab, p.Tokens, limit, isTrue(req.Truncate), isTrue(req.Shift))
	if err != nil {
		to.fail(err)
		return
	}
	if request.Grammar, err = formatted(set.grammar, l, style, asked, p.Text); err != nil {
		to.fail(err)
		return
	}
	request.Logprobs, request.TopLogprobs = req.Logprobs, req.TopLogprobs
	output.Begin(p.Text)
	d.deliver(ctx, l.sched, turn{
		start:   start,
		loaded:  loaded,
		stream:  isTrue(req.Stream),
		request: request,
		output:  output,
		vocab:   l.vocab,
		line:    func(p piece, e *ending) any { return chatLine(req.Model, p, e) },
	}, to)
}

// withModel puts the model's own messages before the request's, and its system
// text before both unless the request begins with one.
func withModel(m *modelstore.Model, messages []api.Message) []api.Message {
	var all []api.Message
	if m.System != "" && messages[0].Role != "system" {
		all = append(all, api.Message{Role: "system", Content: m.System})
	}
	all = append(all, m.Messages...)
	return append(all, messages...)
}

// fit renders and tokenizes a conversation, with truncate so that it fits limit
// where that can be had by leaving out old messages.
func fit(s prompt.Style, talk prompt.Conversation, vocab llm.Vocab, limit int, truncate bool) (prompt.Fitted[llm.Token], error) {
	tokenize := func(text string) []llm.Token { return vocab.Tokenize(text, true) }
	if truncate {
		return prompt.Fit(s, talk, limit, tokenize)
	}
	r, err := s.Render(talk)
	if err != nil {
		return prompt.Fitted[llm.Token]{}, err
	}
	return prompt.Fitted[llm.Token]{Rendered: r, Tokens: tokenize(r.Text)}, nil
}

// chatLine is one line of a chat, the last with an ending.
func chatLine(name string, p piece, e *ending) *api.ChatResponse {
	r := &api.ChatResponse{
		Model:     name,
		CreatedAt: time.Now().UTC(),
		Message:   api.Message{Role: "assistant", Content: p.Content, Thinking: p.Thinking, ToolCalls: p.Calls},
		Logprobs:  p.logprobs,
	}
	if e != nil {
		r.Done, r.DoneReason, r.Metrics = true, e.reason, e.metrics
	}
	return r
}
