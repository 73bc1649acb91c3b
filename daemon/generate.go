package daemon

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/template"
	"github.com/ollama/ollama/types/model"

	"cllm/daemon/prompt"
	"cllm/llm"
	"cllm/modelstore"
)

// generate answers POST /api/generate.
func (d *Daemon) generate(c *gin.Context) {
	start := time.Now()
	to := d.native(c)
	var req api.GenerateRequest
	if err := readBody(c, &req); err != nil {
		to.fail(err)
		return
	}
	d.answerGenerate(c.Request.Context(), &req, start, to)
}

// answerGenerate answers a generate request that came at start.
func (d *Daemon) answerGenerate(ctx context.Context, req *api.GenerateRequest, start time.Time, to reply) {
	if err := checkTopLogprobs(req.TopLogprobs); err != nil {
		to.fail(err)
		return
	}
	m, err := d.find(req.Model)
	if err != nil {
		to.fail(err)
		return
	}
	if req.Prompt == "" && req.KeepAlive != nil && req.KeepAlive.Duration == 0 {
		d.resident.unload(m)
		to.whole(generateLine(req.Model, piece{}, &ending{reason: "unload"}))
		return
	}
	style := prompt.NewStyle(m.Template, m.Config, m.Name)
	set, err := d.checkGenerate(req, m, style)
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
	if req.Prompt == "" {
		to.whole(generateLine(req.Model, piece{}, &ending{reason: "load"}))
		return
	}
	d.complete(ctx, l, req, set, style, start, to)
}

// checkGenerate checks what can be checked before the model is loaded. It settles
// req.Think.
func (d *Daemon) checkGenerate(req *api.GenerateRequest, m *modelstore.Model, style prompt.Style) (set settings, err error) {
	if req.Raw && (req.Template != "" || req.System != "" || len(req.Context) > 0) {
		return set, newError(http.StatusBadRequest, "raw mode does not support template, system, or context")
	}
	if err := checkLevel(req.Think, style.Parser == prompt.Harmony); err != nil {
		return set, err
	}
	can := ability(m.Capabilities())
	if req.Think, err = can.think(req.Model, req.Think); err != nil {
		return set, err
	}
	var need []model.Capability
	if req.Suffix != "" {
		need = append(need, model.CapabilityInsert)
	}
	if err := can.check(m, req.Model, "generate", need...); err != nil {
		return set, err
	}
	if set.Options, err = d.options(m, req.Options); err == nil && req.Prompt != "" {
		set.grammar, err = d.grammar(req.Format)
	}
	return set, err
}

// complete answers a prompt.
func (d *Daemon) complete(ctx context.Context, l *lease, req *api.GenerateRequest, set settings, style prompt.Style, start time.Time, to reply) {
	loaded := time.Since(start)
	limit := contextLimit(set.Options, l.context)
	if req.Raw {
		style.Parser = "" // the parsers expect what their renderer wrote
	}
	output, _, err := style.NewOutput(prompt.Conversation{Think: req.Think})
	if err != nil {
		to.fail(err)
		return
	}
	p, err := completionPrompt(l, req, style, limit)
	if err != nil {
		to.fail(err)
		return
	}
	if req.DebugRenderOnly {
		to.whole(&api.GenerateResponse{
			Model:     req.Model,
			CreatedAt: time.Now().UTC(),
			DebugInfo: &api.DebugInfo{RenderedTemplate: p.Text, ImageCount: p.Images},
		})
		return
	}
	request, err := newRequest(set.Options, l.vocab, p.Tokens, limit, isTrue(req.Truncate), isTrue(req.Shift))
	if err != nil {
		to.fail(err)
		return
	}
	if set.grammar != nil { // from the first token on, thinking included, as in Ollama
		if request.Grammar, err = set.grammar.Match(l.vocab); err != nil {
			to.fail(err)
			return
		}
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
		line: func(part piece, e *ending) any {
			r := generateLine(req.Model, part, e)
			if e != nil && !req.Raw {
				r.Context = contextTokens(l.vocab, p, e.text)
			}
			return r
		},
	}, to)
}

// completionPrompt makes the prompt of a generate request: the text as it is, a
// template filled in, or a conversation of one message.
func completionPrompt(l *lease, req *api.GenerateRequest, style prompt.Style, limit int) (p prompt.Fitted[llm.Token], err error) {
	before, err := detokenize(l.vocab, req.Context)
	if err != nil {
		return p, err
	}
	talk := prompt.Conversation{Messages: question(l.model, req), Think: req.Think}
	switch {
	case req.Raw:
		p.Text, p.Images = req.Prompt, len(req.Images)
	case req.Suffix != "" || req.Template != "":
		p.Text, err = fillTemplate(l.model.Template, req, talk)
		p.Images = len(req.Images)
	default:
		p, err = fit(style, talk, l.vocab, limit, isTrue(req.Truncate))
	}
	if err != nil {
		return p, err
	}
	if before != "" || p.Tokens == nil {
		p.Text = before + p.Text
		p.Tokens = l.vocab.Tokenize(p.Text, true)
	}
	return p, nil
}

// question is the conversation that a generate request stands for. With a context
// the model's own messages have been said already.
func question(m *modelstore.Model, req *api.GenerateRequest) []api.Message {
	var all []api.Message
	if system := req.System; system != "" {
		all = append(all, api.Message{Role: "system", Content: system})
	} else if m.System != "" {
		all = append(all, api.Message{Role: "system", Content: m.System})
	}
	if req.Context == nil {
		all = append(all, m.Messages...)
	}
	return append(all, api.Message{Role: "user", Content: req.Prompt, Images: req.Images})
}

// fillTemplate fills in the request's template, or the model's for text that is to
// be inserted before a suffix.
func fillTemplate(t *template.Template, req *api.GenerateRequest, talk prompt.Conversation) (string, error) {
	if req.Template != "" {
		var err error
		if t, err = prompt.Parse(req.Template); err != nil {
			return "", err
		}
	}
	v := template.Values{Messages: talk.Messages}
	if req.Suffix != "" {
		v = template.Values{Prompt: req.Prompt, Suffix: req.Suffix}
	}
	return prompt.Execute(t, v, req.Think)
}

// detokenize returns the text of the context that an earlier answer gave.
func detokenize(vocab llm.Vocab, context []int) (string, error) {
	var text strings.Builder
	for _, t := range context {
		if t < 0 || t >= vocab.Size() {
			return "", errorf(http.StatusBadRequest, "context holds %d, which is no token of the model: send back what the model's last answer gave", t)
		}
		text.WriteString(vocab.Piece(llm.Token(t)))
	}
	return text.String(), nil
}

// contextTokens are the tokens of prompt and answer, without a begin token. Those
// of the prompt are known; they are used as they are where the tokens of the two
// together stand for the text exactly.
func contextTokens(vocab llm.Vocab, p prompt.Fitted[llm.Token], text string) []int {
	whole := p.Text + text
	tokens := append(p.Tokens[vocab.BOS():len(p.Tokens):len(p.Tokens)], vocab.Tokenize(text, false)...)
	if !standsFor(vocab, tokens, whole) {
		tokens = vocab.Tokenize(whole, false)
	}
	context := make([]int, len(tokens))
	for i, t := range tokens {
		context[i] = int(t)
	}
	return context
}

// standsFor reports whether the tokens' pieces are the text.
func standsFor(vocab llm.Vocab, tokens []llm.Token, text string) bool {
	for _, t := range tokens {
		rest, ok := strings.CutPrefix(text, vocab.Piece(t))
		if !ok {
			return false
		}
		text = rest
	}
	return text == ""
}

// generateLine is one line of a completion, the last with an ending.
func generateLine(name string, p piece, e *ending) *api.GenerateResponse {
	r := &api.GenerateResponse{
		Model:     name,
		CreatedAt: time.Now().UTC(),
		Response:  p.Content,
		Thinking:  p.Thinking,
		ToolCalls: p.Calls,
		Logprobs:  p.logprobs,
	}
	if e != nil {
		r.Done, r.DoneReason, r.Metrics = true, e.reason, e.metrics
	}
	return r
}
