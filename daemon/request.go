package daemon

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"

	"cllm/llm"
	"cllm/llm/gbnf"
	"cllm/modelstore"
	"cllm/scheduler"
)

// readBody decodes the JSON body and reads it to its end: only then does net/http
// watch the connection, and notice a client that leaves.
func readBody(c *gin.Context, v any) error {
	if err := decode(c, v); err != nil {
		return err
	}
	return drain(c)
}

// drain reads the body to its end.
func drain(c *gin.Context) error {
	_, err := io.Copy(io.Discard, c.Request.Body)
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		return newError(http.StatusBadRequest, err.Error())
	}
	return err
}

// settings are what a request asks for, checked.
type settings struct {
	api.Options
	grammar *gbnf.Grammar // of the format; nil: anything goes
}

// leastContext is the smallest context that a request gets.
const leastContext = 4

// options lays the model's parameters and then the request's options over the
// defaults. They are Ollama's, but for repeat_penalty: 1.1 is what Ollama itself
// has given up since, and its penalty has to be computed for every token.
func (d *Daemon) options(m *modelstore.Model, request map[string]any) (api.Options, error) {
	opts := api.DefaultOptions()
	opts.NumCtx = d.opts.ContextLength
	opts.RepeatPenalty = 1
	for _, layer := range []map[string]any{m.Parameters, request} {
		if len(layer) == 0 {
			continue // reading none costs as much as reading all
		}
		if err := opts.FromMap(listStop(layer)); err != nil {
			return api.Options{}, newError(http.StatusInternalServerError, err.Error())
		}
	}
	return opts, nil
}

// listStop lets "stop" be a single string, as Ollama's description of its API does.
func listStop(options map[string]any) map[string]any {
	one, ok := options["stop"].(string)
	if !ok {
		return options
	}
	listed := make(map[string]any, len(options))
	for k, v := range options {
		listed[k] = v
	}
	listed["stop"] = []any{one}
	return listed
}

// contextLimit is how many positions the request may use, of the most that the
// model gives one.
func contextLimit(opts api.Options, most int) int {
	return min(max(opts.NumCtx, leastContext), most)
}

// newRequest makes the scheduler's request of a prompt. A prompt that is longer
// than the context loses its middle, or is refused without truncate.
func newRequest(opts api.Options, vocab llm.Vocab, prompt []llm.Token, context int, truncate, shift bool) (scheduler.Request, error) {
	if len(prompt) == 0 {
		return scheduler.Request{}, newError(http.StatusBadRequest, "the prompt is empty: the template left nothing of it")
	}
	keep := opts.NumKeep
	if keep < 0 {
		keep = len(prompt)
	}
	keep = min(min(keep, context)+vocab.BOS(), context-1)
	if len(prompt) > context {
		if !truncate {
			return scheduler.Request{}, newError(http.StatusBadRequest, textTooLong)
		}
		prompt = cutMiddle(prompt, keep, context)
	}
	most := 10 * context
	tokens := opts.NumPredict
	if tokens < 0 || tokens > most {
		tokens = most
	}
	return scheduler.Request{
		Prompt:    prompt,
		Context:   context,
		Keep:      keep,
		Shift:     shift,
		MaxTokens: tokens, // 0 is no limit, as in Ollama
		Stop:      opts.Stop,
		Sampling:  sampling(opts),
	}, nil
}

// cutMiddle returns the first keep tokens and as many of the last as make limit
// tokens together.
func cutMiddle(tokens []llm.Token, keep, limit int) []llm.Token {
	return slices.Concat(tokens[:keep], tokens[len(tokens)-(limit-keep):])
}

func sampling(opts api.Options) llm.SamplingParams {
	p := llm.SamplingParams{
		Temperature:      opts.Temperature,
		TopK:             opts.TopK,
		TopP:             opts.TopP,
		MinP:             opts.MinP,
		TypicalP:         opts.TypicalP,
		RepeatLastN:      opts.RepeatLastN,
		RepeatPenalty:    opts.RepeatPenalty,
		PresencePenalty:  opts.PresencePenalty,
		FrequencyPenalty: opts.FrequencyPenalty,
		Seed:             -1,
	}
	if opts.Seed != -1 {
		p.Seed = int64(uint32(opts.Seed)) // llama.cpp's seeds have 32 bits
	}
	if p.RepeatPenalty <= 0 {
		p.RepeatPenalty = 1 // dividing by it makes no sense
	}
	return p
}

// ability is what a model can do.
type ability []model.Capability

// check refuses a model that can't do what the request needs. name is as the
// client wrote it, verb what it asked for.
func (can ability) check(m *modelstore.Model, name, verb string, need ...model.Capability) error {
	if !slices.Contains(can, model.CapabilityCompletion) {
		return errorf(http.StatusBadRequest, "%q does not support %s", name, verb)
	}
	var missing []string
	for _, c := range need {
		if !slices.Contains(can, c) {
			missing = append(missing, string(c))
		}
	}
	if len(missing) > 0 {
		return errorf(http.StatusBadRequest, "%s does not support %s", m.Name, strings.Join(missing, "\n"))
	}
	return nil
}

// thinks reports whether the model thinks before it answers.
func (can ability) thinks() bool { return slices.Contains(can, model.CapabilityThinking) }

// think returns what a request's "think" means: on where the model can and nothing
// was said.
func (can ability) think(name string, think *api.ThinkValue) (*api.ThinkValue, error) {
	switch able := can.thinks(); {
	case able && think == nil:
		return &api.ThinkValue{Value: true}, nil
	case !able && think.Bool():
		return nil, errorf(http.StatusBadRequest, "%q does not support thinking", name)
	default:
		return think, nil
	}
}

// checkLevel refuses a level of thinking where the model has none.
func checkLevel(think *api.ThinkValue, levels bool) error {
	if think.IsString() && !levels {
		return errorf(http.StatusBadRequest, "think value %q is not supported for this model", think.String())
	}
	return nil
}

// isTrue is the value of an optional setting that is on by default.
func isTrue(b *bool) bool { return b == nil || *b }
