package scheduler

import (
	"errors"
	"time"

	"cllm/llm"
)

// Request is what a client wants of the model, already checked and tokenized.
type Request struct {
	Prompt    []llm.Token // at least one token, at most Context
	Context   int         // positions the request may use; 0 or too large: what the engine has
	Keep      int         // first positions that a shift never discards
	Shift     bool        // at a full context, discard the oldest half; otherwise stop
	MaxTokens int         // tokens to generate; 0 or less: no limit
	Stop      []string    // text that ends the answer and is not part of it
	Sampling  llm.SamplingParams
	Grammar   llm.Grammar // nil: anything goes. Used by this request only.

	Logprobs    bool // tell how likely each token was
	TopLogprobs int  // and so many of the likeliest in its place
}

// Reason says why an answer ended.
type Reason string

const (
	ReasonStop   Reason = "stop"   // an end token or a stop string
	ReasonLength Reason = "length" // MaxTokens, or a full context without Shift
)

// Event is a piece of an answer, or its end.
type Event struct {
	Text     string    // valid UTF-8; may be empty
	Logprobs []Logprob // of the tokens of which Text has the first part
	Tokens   int       // tokens generated so far, those without text counted too
	Done     *Done     // set on the last event, and only there
}

// Logprob tells how likely a token was. The end token has none, nor have tokens that
// a stop string cut off.
type Logprob struct {
	llm.Logprob
	Top []llm.Logprob // the likeliest tokens in its place
}

// Done closes an answer.
type Done struct {
	Reason Reason // empty when Err is set
	Err    error  // why the answer is incomplete

	PromptTokens int // tokens of the prompt, those found in the cache included
	CachedTokens int // tokens of the prompt that did not have to be computed
	Tokens       int // tokens generated, the end token included

	Queued  time.Duration // from Submit to the first slot
	Prefill time.Duration // from the slot to the first token
	Decode  time.Duration // from the first token to the last
}

var (
	// ErrBusy: the queue of waiting requests is full.
	ErrBusy = errors.New("too many requests are waiting")
	// ErrClosed: the scheduler was closed before the answer was complete.
	ErrClosed = errors.New("the model was unloaded before the answer was complete")
	// ErrEmptyPrompt: a request needs at least one token.
	ErrEmptyPrompt = errors.New("the prompt has no tokens")
	// ErrPromptTooLong: the prompt has more tokens than the request's context.
	ErrPromptTooLong = errors.New("the prompt is longer than the context")
)
