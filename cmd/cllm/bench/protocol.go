package bench

import (
	"bytes"
	"encoding/json"

	"github.com/ollama/ollama/api"
)

// key is a name in a line of JSON with its colon. It cannot be found within a
// string: there its quotes would be escaped.
type key []byte

var (
	keyResponse = key(`"response":`)
	keyThinking = key(`"thinking":`)
	keyDone     = key(`"done":`)
	keyError    = key(`"error":`)
	keyText     = key(`"text":`)
	keyFinish   = key(`"finish_reason":`)
	keyUsage    = key(`"usage":`)
)

// in returns what follows the key in a line, nil if it is not there.
func (k key) in(line []byte) []byte {
	i := bytes.Index(line, k)
	if i < 0 {
		return nil
	}
	return bytes.TrimLeft(line[i+len(k):], " ")
}

// text tells whether the value of the key is a string that is not empty.
func (k key) text(line []byte) bool {
	v := k.in(line)
	return len(v) > 1 && v[0] == '"' && v[1] != '"'
}

// set tells whether the key has a value other than null.
func (k key) set(line []byte) bool {
	v := k.in(line)
	return v != nil && !bytes.HasPrefix(v, []byte("null"))
}

var ollamaProtocol = protocol{
	path: "/api/generate",
	body: func(model, prompt string, o Options, maxTokens int) any {
		return api.GenerateRequest{Model: model, Prompt: prompt, Stream: &o.Stream, Options: map[string]any{
			"num_predict": maxTokens, "temperature": o.Temperature, "seed": o.Seed & 0x7fffffff,
		}}
	},
	line: func(line []byte, r *reply) error {
		if keyError.set(line) {
			return streamError{short(errorText(line))}
		}
		if keyResponse.text(line) || keyThinking.text(line) {
			if err := r.chunk(); err != nil {
				return err
			}
		}
		if bytes.HasPrefix(keyDone.in(line), []byte("true")) {
			return ollamaEnd(line, r)
		}
		return nil
	},
	whole: ollamaEnd,
}

// ollamaEnd reads the counts of a reply to generate.
func ollamaEnd(line []byte, r *reply) error {
	var last api.GenerateResponse
	if err := json.Unmarshal(line, &last); err != nil {
		return streamError{"its last line is no JSON: " + err.Error()}
	}
	r.ended = last.Done
	r.early = last.DoneReason == "stop"
	r.promptTokens, r.tokens = last.PromptEvalCount, last.EvalCount
	r.queue = max(last.TotalDuration-last.LoadDuration-last.PromptEvalDuration-last.EvalDuration, 0)
	r.hasQueue = last.TotalDuration > 0
	return nil
}

// completionRequest asks /v1/completions. ignore_eos is known to llama-server and
// vLLM; cllm and Ollama pass over it.
type completionRequest struct {
	Model         string         `json:"model"`
	Prompt        string         `json:"prompt"`
	MaxTokens     int            `json:"max_tokens"`
	Temperature   float64        `json:"temperature"`
	Seed          uint64         `json:"seed"`
	Stream        bool           `json:"stream"`
	StreamOptions map[string]any `json:"stream_options,omitempty"`
	IgnoreEOS     bool           `json:"ignore_eos"`
}

// completionEnd is what the last chunks of a completion, or a whole one, say.
type completionEnd struct {
	Choices []struct {
		FinishReason *string `json:"finish_reason"`
	}
	Usage *struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
	}
}

var openAIProtocol = protocol{
	path: "/v1/completions",
	body: func(model, prompt string, o Options, maxTokens int) any {
		req := completionRequest{
			Model: model, Prompt: prompt, MaxTokens: maxTokens, Temperature: o.Temperature,
			Seed: o.Seed & 0x7fffffff, Stream: o.Stream, IgnoreEOS: true,
		}
		if o.Stream {
			req.StreamOptions = map[string]any{"include_usage": true}
		}
		return req
	},
	line: func(line []byte, r *reply) error {
		if bytes.HasPrefix(line, []byte("error:")) { // llama-server's events
			return streamError{short(errorText(bytes.TrimPrefix(line, []byte("error:"))))}
		}
		data, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			return nil // a comment that keeps the connection open, or an event's name
		}
		data = bytes.TrimSpace(data)
		switch {
		case bytes.Equal(data, []byte("[DONE]")):
			r.ended = true
			return nil
		case keyError.set(data):
			return streamError{short(errorText(data))}
		case keyText.text(data):
			if err := r.chunk(); err != nil {
				return err
			}
		}
		if keyUsage.set(data) || keyFinish.set(data) {
			return completionLast(data, r)
		}
		return nil
	},
	whole: func(body []byte, r *reply) error {
		r.ended = true
		return completionLast(body, r)
	},
}

// completionLast reads why a completion ended, and its counts.
func completionLast(data []byte, r *reply) error {
	var last completionEnd
	if err := json.Unmarshal(data, &last); err != nil {
		return streamError{"its last line is no JSON: " + err.Error()}
	}
	if u := last.Usage; u != nil {
		r.promptTokens, r.tokens = u.Prompt, u.Completion
	}
	for _, c := range last.Choices {
		if c.FinishReason != nil {
			r.early = *c.FinishReason == "stop"
		}
	}
	return nil
}
