package daemon

import (
	"slices"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/openai"
)

// completions answers POST /v1/completions.
func (d *Daemon) completions(c *gin.Context) {
	start := time.Now()
	to := &completion{events: d.events(c), id: madeUp("cmpl-"), created: start.Unix()}
	var asked openai.CompletionRequest
	if err := readCompat(c, &asked); err != nil {
		to.fail(err)
		return
	}
	req, err := fromCompletion(asked)
	if err != nil {
		to.fail(err)
		return
	}
	to.stream, to.usage = asked.Stream, wantsUsage(asked.StreamOptions)
	d.answerGenerate(c.Request.Context(), req, start, to)
}

// fromCompletion makes a generate request of a request for a completion.
func fromCompletion(asked openai.CompletionRequest) (*api.GenerateRequest, error) {
	req, err := openai.FromCompleteRequest(asked)
	if err != nil {
		return nil, refuse(err)
	}
	asDecoded(req.Options)
	return &req, nil
}

// completion writes the answer to a prompt.
type completion struct {
	events
	id      string
	created int64 // Unix seconds
	stream  bool
	usage   bool // each chunk has counts, the last ones are the true ones
	offset  int  // characters of the tokens sent, for the log probabilities
}

// completionChoice adds the log probabilities, for which Ollama's type has the form
// that chats have.
type completionChoice struct {
	openai.CompleteChunkChoice
	Logprobs *completionLogprobs `json:"logprobs,omitempty"`
}

type completionChunk struct {
	openai.CompletionChunk
	Choices []completionChoice `json:"choices"`
}

type wholeCompletion struct {
	openai.Completion
	Choices []completionChoice `json:"choices"`
}

func (r *completion) line(response any) error {
	resp := *response.(*api.GenerateResponse)
	chunk := completionChunk{CompletionChunk: openai.ToCompleteChunk(r.id, resp)}
	chunk.Created = r.created
	chunk.Choices = r.choices(chunk.CompletionChunk.Choices, resp.Logprobs)
	if r.usage {
		chunk.Usage = &openai.Usage{}
	}
	r.add("", chunk)
	if resp.Done && r.usage {
		counts := openai.ToUsageGenerate(resp)
		chunk.Usage, chunk.Choices = &counts, []completionChoice{}
		r.add("", chunk)
	}
	if resp.Done {
		r.done()
	}
	return r.send()
}

func (r *completion) whole(response any) error {
	resp := *response.(*api.GenerateResponse)
	if r.stream && resp.Done {
		return r.line(response)
	}
	whole := wholeCompletion{Completion: openai.ToCompletion(r.id, resp)}
	whole.Choices = r.choices(whole.Completion.Choices, resp.Logprobs)
	return r.json(whole)
}

func (r *completion) choices(plain []openai.CompleteChunkChoice, probs []api.Logprob) []completionChoice {
	choices := make([]completionChoice, len(plain))
	for i, c := range plain {
		choices[i] = completionChoice{CompleteChunkChoice: c, Logprobs: r.logprobs(probs)}
	}
	return choices
}

// completionLogprobs are log probabilities in the form that OpenAI's completions
// have. The lists have an entry per token.
type completionLogprobs struct {
	Tokens        []string             `json:"tokens"`
	TokenLogprobs []float64            `json:"token_logprobs"`
	TopLogprobs   []map[string]float64 `json:"top_logprobs"`
	TextOffset    []int                `json:"text_offset"` // where the token begins, in characters of the answer
}

func (r *completion) logprobs(probs []api.Logprob) *completionLogprobs {
	if len(probs) == 0 {
		return nil
	}
	l := &completionLogprobs{}
	for _, p := range probs {
		top := make(map[string]float64, len(p.TopLogprobs))
		for _, t := range slices.Backward(p.TopLogprobs) { // of tokens with the same text the likeliest stays
			top[t.Token] = t.Logprob
		}
		l.Tokens = append(l.Tokens, p.Token)
		l.TokenLogprobs = append(l.TokenLogprobs, p.Logprob)
		l.TopLogprobs = append(l.TopLogprobs, top)
		l.TextOffset = append(l.TextOffset, r.offset)
		r.offset += characters(p.TokenLogprob)
	}
	return l
}

// characters is how many characters begin in a token. One may end in the next.
func characters(t api.TokenLogprob) (n int) {
	if t.Bytes == nil {
		return utf8.RuneCountInString(t.Token)
	}
	for _, b := range t.Bytes {
		if utf8.RuneStart(byte(b)) {
			n++
		}
	}
	return n
}
