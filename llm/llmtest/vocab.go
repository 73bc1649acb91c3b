package llmtest

import (
	"strings"

	"cllm/llm"
)

// The fake vocabulary: a token for each byte, then control tokens.
const (
	IMStart   llm.Token = 256 // <|im_start|>
	IMEnd     llm.Token = 257 // <|im_end|>, ends the generation
	EndOfText llm.Token = 258 // <|endoftext|>, ends the generation
	VocabSize           = 259
)

var controls = []string{"<|im_start|>", "<|im_end|>", "<|endoftext|>"}

// Vocab is a byte-level vocabulary with ChatML's control tokens. The zero value
// adds no begin token.
type Vocab struct{}

var _ llm.Vocab = Vocab{}

// Tokenize gives each byte a token, each control token's name its own.
func (Vocab) Tokenize(text string, _ bool) []llm.Token {
	var out []llm.Token
next:
	for text != "" {
		for i, name := range controls {
			if strings.HasPrefix(text, name) {
				out = append(out, IMStart+llm.Token(i))
				text = text[len(name):]
				continue next
			}
		}
		out = append(out, llm.Token(text[0]))
		text = text[1:]
	}
	return out
}

// Piece returns the token's byte, or a control token's name.
func (Vocab) Piece(t llm.Token) string {
	switch {
	case t >= 0 && t < IMStart:
		return string([]byte{byte(t)})
	case t >= IMStart && t < VocabSize:
		return controls[t-IMStart]
	default:
		return ""
	}
}

// IsEnd reports whether t is <|im_end|> or <|endoftext|>.
func (Vocab) IsEnd(t llm.Token) bool { return t == IMEnd || t == EndOfText }

// BOS is 0: nothing is put before a text.
func (Vocab) BOS() int { return 0 }

// Size is VocabSize.
func (Vocab) Size() int { return VocabSize }
