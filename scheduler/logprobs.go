package scheduler

import "cllm/llm"

// unsent is what is known about a token whose text was not sent yet.
type unsent struct {
	Logprob
	from int // the first byte of its piece, counted over the answer
}

// logprobs is where the engine shall tell how likely the next token was; nil when
// nobody wants to know.
func (q *sequence) logprobs() *llm.Logprobs {
	if !q.req.Logprobs {
		return nil
	}
	return &llm.Logprobs{Most: q.req.TopLogprobs}
}

// note keeps what the engine told about a token until its text is sent.
func (q *sequence) note(p llm.Pick, bytes int) {
	if p.Logprobs == nil {
		return
	}
	l := Logprob{Logprob: llm.Logprob{Token: p.Token, Logprob: p.Logprobs.Picked}, Top: p.Logprobs.Top}
	q.unsent = append(q.unsent, unsent{Logprob: l, from: q.bytes})
	q.bytes += bytes
}

// told takes out the tokens whose pieces begin before a byte of the answer.
func (q *sequence) told(before int) (told []Logprob) {
	n := 0
	for n < len(q.unsent) && q.unsent[n].from < before {
		told = append(told, q.unsent[n].Logprob)
		n++
	}
	q.unsent = q.unsent[n:]
	return told
}
