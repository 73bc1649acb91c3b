package prompt

import "github.com/ollama/ollama/api"

// Fitted is a prompt and its tokens.
type Fitted[Token any] struct {
	Rendered
	Tokens []Token
}

// Fit renders a conversation and leaves out its oldest messages until at most
// limit tokens remain. System messages and the last message always stay, so the
// prompt may be longer than the limit all the same.
//
// Each message that goes makes the prompt shorter, so the first that stays is
// found by halving: n messages are rendered and tokenized about log n times.
func Fit[Token any](s Style, c Conversation, limit int, tokenize func(string) []Token) (Fitted[Token], error) {
	from := func(first int) (Fitted[Token], error) {
		rest := c
		rest.Messages = startAt(c.Messages, first)
		r, err := s.Render(rest)
		if err != nil {
			return Fitted[Token]{}, err
		}
		return Fitted[Token]{Rendered: r, Tokens: tokenize(r.Text)}, nil
	}

	best, err := from(0)
	if err != nil || len(best.Tokens) <= limit {
		return best, err
	}
	tooLong, fits := 0, len(c.Messages)-1 // the last message alone counts as fitting
	found := tooLong >= fits
	for tooLong+1 < fits {
		middle := (tooLong + fits) / 2
		f, err := from(middle)
		if err != nil {
			return f, err
		}
		if len(f.Tokens) > limit {
			tooLong = middle
			continue
		}
		best, fits, found = f, middle, true
	}
	if !found {
		return from(fits)
	}
	return best, nil
}

// startAt returns the messages from first on, after the system messages before it.
func startAt(messages []api.Message, first int) []api.Message {
	var kept []api.Message
	for _, m := range messages[:first] {
		if m.Role == "system" {
			kept = append(kept, m)
		}
	}
	return append(kept, messages[first:]...)
}
