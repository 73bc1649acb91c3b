package daemon

import (
	"net/http"

	"github.com/ollama/ollama/api"

	"cllm/llm"
	"cllm/scheduler"
)

// logprobs says in the API's words how likely tokens were.
func logprobs(vocab llm.Vocab, tokens []scheduler.Logprob) []api.Logprob {
	if len(tokens) == 0 {
		return nil
	}
	all := make([]api.Logprob, len(tokens))
	for i, t := range tokens {
		all[i].TokenLogprob = tokenLogprob(vocab, t.Logprob)
		for _, other := range t.Top {
			all[i].TopLogprobs = append(all[i].TopLogprobs, tokenLogprob(vocab, other))
		}
	}
	return all
}

// tokenLogprob gives the bytes too: a token may be a part of a character, which is no
// text of its own.
func tokenLogprob(vocab llm.Vocab, l llm.Logprob) api.TokenLogprob {
	text := vocab.Piece(l.Token)
	bytes := make([]int, len(text))
	for i := range len(text) {
		bytes[i] = int(text[i])
	}
	return api.TokenLogprob{Token: text, Logprob: float64(l.Logprob), Bytes: bytes}
}

// checkTopLogprobs refuses numbers of tokens that Ollama refuses.
func checkTopLogprobs(n int) error {
	if n < 0 || n > 20 {
		return newError(http.StatusBadRequest, "top_logprobs must be between 0 and 20")
	}
	return nil
}
