package daemon

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"

	"cllm/llm"
	"cllm/modelstore"
)

// Ollama's texts about embeddings.
const (
	textNoEmbeddings = "this model does not support embeddings"
	textNotFinite    = "embedding contains NaN or Inf values"
	textInputType    = "invalid input type"
	textNothingLeft  = "input after truncation exceeds maximum context length"
)

// maxNumbers bounds the numbers in the vectors of one request: they take 256 MiB.
const maxNumbers = 64 << 20

// embed answers POST /api/embed.
func (d *Daemon) embed(c *gin.Context) {
	start := time.Now()
	var req api.EmbedRequest
	if err := readBody(c, &req); err != nil {
		d.fail(c, err)
		return
	}
	resp, err := d.embedAll(c.Request.Context(), &req, start)
	if err != nil {
		d.fail(c, err)
		return
	}
	vectors := resp.Embeddings
	resp.Embeddings = nil
	writeList(c, resp, "embeddings", len(vectors), func(i int) any { return vectors[i] })
}

// embedAll computes the normalized embeddings of a request that came at start. An
// error is fit for fail.
func (d *Daemon) embedAll(ctx context.Context, req *api.EmbedRequest, start time.Time) (*api.EmbedResponse, error) {
	inputs, err := inputTexts(req.Input)
	if err != nil {
		return nil, err
	}
	m, err := d.embeddingModel(req.Model)
	if err != nil {
		return nil, err
	}
	opts, err := d.options(m, req.Options)
	if err != nil {
		return nil, err
	}
	l, err := d.resident.acquireEmbeddings(ctx, m, opts.Runner, req.KeepAlive)
	if err != nil {
		return nil, err
	}
	defer l.release()
	resp := &api.EmbedResponse{Model: req.Model, Embeddings: [][]float32{}}
	if len(inputs) == 0 {
		return resp, nil
	}
	loaded := time.Since(start)
	limits, err := l.embed.Limits(ctx)
	if err != nil {
		return nil, engineError(err)
	}
	if most := maxNumbers / limits.Width; len(inputs) > most {
		return nil, errorf(http.StatusBadRequest, "%d inputs are too many for one request, which may have %d: send them in several", len(inputs), most)
	}
	texts, tokens, err := tokenizeInputs(ctx, l.vocab, inputs, contextLimit(opts, limits.Context), isTrue(req.Truncate))
	if err != nil {
		return nil, err
	}
	vectors, err := l.embed.Embed(ctx, texts)
	if err != nil {
		return nil, engineError(err)
	}
	for i, v := range vectors {
		if vectors[i], err = unit(v, req.Dimensions); err != nil {
			return nil, err
		}
	}
	resp.Embeddings = vectors
	resp.PromptEvalCount = tokens
	resp.LoadDuration = max(loaded, 1)
	resp.TotalDuration = max(time.Since(start), 1)
	return resp, nil
}

// inputTexts returns the texts of a request's input: one, several or none.
func inputTexts(input any) ([]string, error) {
	switch v := input.(type) {
	case nil:
		return nil, nil
	case string:
		if v == "" {
			return nil, nil
		}
		return []string{v}, nil
	case []string:
		return v, nil
	case []any:
		texts := make([]string, len(v))
		for i, t := range v {
			text, ok := t.(string)
			if !ok {
				return nil, newError(http.StatusBadRequest, textInputType)
			}
			texts[i] = text
		}
		return texts, nil
	default:
		return nil, newError(http.StatusBadRequest, textInputType)
	}
}

// embeddingModel returns the model that a request for embeddings names. A model of
// any kind may be asked for them.
func (d *Daemon) embeddingModel(name string) (*modelstore.Model, error) {
	if n := model.ParseName(name); !n.IsValid() {
		return nil, model.Unqualified(model.ParseName(n.String())) // as Ollama reads it twice
	}
	m, err := d.lookup(name)
	if known := (api.StatusError{}); errors.As(err, &known) && known.StatusCode == http.StatusNotFound {
		return nil, errorf(http.StatusNotFound, "model %q not found, try pulling it first", name)
	}
	return m, err
}

// tokenizeInputs cuts each text into tokens, at most limit of them, and counts all.
func tokenizeInputs(ctx context.Context, vocab llm.Vocab, inputs []string, limit int, truncate bool) (texts [][]llm.Token, count int, err error) {
	ends := vocab.Tokenize("", true)
	texts = make([][]llm.Token, len(inputs))
	for i, input := range inputs {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		tokens := vocab.Tokenize(input, true)
		switch n := len(tokens); {
		case n == 0:
			return nil, 0, errorf(http.StatusBadRequest, "input %d of %d has no tokens, so it has no embedding", i+1, len(inputs))
		case n > limit && !truncate:
			return nil, 0, newError(http.StatusBadRequest, textTooLong)
		case n > limit && limit <= len(ends):
			return nil, 0, newError(http.StatusBadRequest, textNothingLeft)
		case n > limit:
			tokens = cutText(tokens, limit, ends[min(vocab.BOS(), len(ends)):])
		}
		texts[i] = tokens
		count += len(tokens)
	}
	return texts, count, nil
}

// cutText returns the first limit tokens of a text. The tail that the tokenizer puts
// behind each text stays there.
func cutText(tokens []llm.Token, limit int, tail []llm.Token) []llm.Token {
	n := limit - len(tail)
	if !slices.Equal(tokens[len(tokens)-len(tail):], tail) {
		return tokens[:limit]
	}
	return append(tokens[:n:n], tail...)
}

// unit returns the vector with the length 1, of its first dimensions only if that is
// not 0. The vector is changed.
func unit(v []float32, dimensions int) ([]float32, error) {
	if err := finite(v); err != nil {
		return nil, err
	}
	if dimensions > 0 && dimensions < len(v) {
		v = v[:dimensions:dimensions]
	}
	var sum float64
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	scale := 1 / max(math.Sqrt(sum), 1e-12)
	for i, x := range v {
		v[i] = float32(float64(x) * scale)
	}
	return v, nil
}

// finite refuses a vector that JSON has no form for.
func finite(v []float32) error {
	for _, x := range v {
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return newError(http.StatusBadRequest, textNotFinite)
		}
	}
	return nil
}

// embeddings answers POST /api/embeddings, the older form: one text, and its vector
// as the model gives it. Some models give it the length 1.
func (d *Daemon) embeddings(c *gin.Context) {
	var req api.EmbeddingRequest
	err := readBody(c, &req)
	if err == nil {
		var resp *api.EmbeddingResponse
		if resp, err = d.embedOne(c.Request.Context(), &req); err == nil {
			c.JSON(http.StatusOK, resp)
			return
		}
	}
	d.fail(c, err)
}

// embedOne computes one embedding. Whatever is wrong with the text is a 500, as it
// is with Ollama.
func (d *Daemon) embedOne(ctx context.Context, req *api.EmbeddingRequest) (*api.EmbeddingResponse, error) {
	if _, err := modelstore.ParseName(req.Model); err != nil {
		return nil, newError(http.StatusBadRequest, textNoModel)
	}
	m, err := d.embeddingModel(req.Model)
	if err != nil {
		return nil, err
	}
	opts, err := d.options(m, req.Options)
	if err != nil {
		return nil, err
	}
	l, err := d.resident.acquireEmbeddings(ctx, m, opts.Runner, req.KeepAlive)
	if err != nil {
		return nil, err
	}
	defer l.release()
	if req.Prompt == "" {
		return &api.EmbeddingResponse{Embedding: []float64{}}, nil
	}
	limits, err := l.embed.Limits(ctx)
	if err != nil {
		return nil, engineError(err)
	}
	texts, _, err := tokenizeInputs(ctx, l.vocab, []string{req.Prompt}, contextLimit(opts, limits.Context), false)
	if err != nil {
		return nil, serverError(err)
	}
	vectors, err := l.embed.Embed(ctx, texts)
	if err != nil {
		return nil, engineError(err)
	}
	vector := vectors[0]
	if info, _ := m.Info(); info != nil && info.UnitEmbeddings {
		vector, err = unit(vector, 0)
	} else {
		err = finite(vector)
	}
	if err != nil {
		return nil, serverError(err)
	}
	wide := make([]float64, len(vector))
	for i, x := range vector {
		wide[i] = float64(x)
	}
	return &api.EmbeddingResponse{Embedding: wide}, nil
}

// serverError gives an error the status 500, if it has one that blames the request.
func serverError(err error) error {
	if status, text := answer(err); status == http.StatusBadRequest {
		return newError(http.StatusInternalServerError, text)
	}
	return err
}
