package daemon

import (
	"slices"
	"strings"

	"cllm/daemon/prompt"
	"cllm/llm"
	"cllm/llm/gbnf"
)

// formatted is what holds a chat's answer to a grammar: the grammar itself, or one
// that sleeps where the answer may begin with thinking. The conversation is as the
// client sent it, text is the prompt that was made of it.
func formatted(g *gbnf.Grammar, l *lease, style prompt.Style, c prompt.Conversation, text string) (llm.Grammar, error) {
	if g == nil {
		return nil, nil
	}
	m, err := g.Match(l.vocab)
	if err != nil {
		return nil, err
	}
	s := &sleeper{grammar: m, vocab: l.vocab, watch: func() (*prompt.Output, error) {
		o, err := style.NewWatch(c)
		if err == nil {
			o.Begin(text)
		}
		return o, err
	}}
	if s.output, err = s.watch(); err != nil {
		return nil, err
	}
	if !ability(l.model.Capabilities()).thinks() || !s.output.Thinks() {
		return m, nil
	}
	return s, nil
}

// sleeper is a grammar that lets the thinking run free and holds the content to a
// format, all in one answer. It reads the answer with a parser of its own, which
// tells when the content begins. Tool calls that the parser takes out are no content.
//
// The first token with content has to fit already. White space before it is free.
type sleeper struct {
	grammar *gbnf.Matcher
	vocab   llm.Vocab
	watch   func() (*prompt.Output, error) // a parser at the beginning of the answer

	awake  bool
	output *prompt.Output // has read written
	wrote  []byte         // the answer while asleep
	again  int            // bytes that were read again since the last token
}

// mostAgain bounds the bytes that are read again for one token: each candidate that is
// tried on its own means reading the answer anew, which costs startAgain more.
const (
	mostAgain  = 1 << 20
	startAgain = 256
)

// white is what may stand before the content.
const white = " \t\r\n"

// Take moves on by a token, and wakes up with the first one that has content.
func (s *sleeper) Take(t llm.Token) (bool, error) {
	if s.awake {
		return s.grammar.Take(t)
	}
	if s.vocab.IsEnd(t) {
		return s.ends()
	}
	piece := s.vocab.Piece(t)
	content, ok := s.read(piece)
	if !ok || content == "" { // a parser that fails ends the answer elsewhere
		s.again = 0
		return true, nil
	}
	if took, err := s.grammar.TakeText(content); took || err != nil {
		s.wake()
		return took, err
	}
	return false, s.refuse(len(piece))
}

// read gives a piece to the parser. It returns the content that begins with it, if it
// does, up to the end of what was written: a parser may hold some of it back. A part
// of a character is given as it is, so that content is noticed with its first byte.
func (s *sleeper) read(piece string) (content string, ok bool) {
	s.wrote = append(s.wrote, piece...)
	part, err := s.output.Add(piece)
	if err != nil {
		return "", false
	}
	begun := strings.TrimLeft(part.Content, white)
	if begun == "" {
		return "", true
	}
	all := string(s.wrote)
	if i := strings.LastIndex(all, begun); i >= 0 {
		return all[i:], true
	}
	return begun, true
}

// refuse takes the last bytes back. Where content would begin right behind what is
// left, the grammar wakes up. Otherwise the token completed a tag and began content
// at once, so that other tokens may still complete it.
func (s *sleeper) refuse(bytes int) error {
	s.wrote = s.wrote[:len(s.wrote)-bytes]
	if err := s.reread(); err != nil {
		return err
	}
	if content, ok := s.read("x"); ok && content == "x" {
		s.wake()
		return nil
	}
	s.wrote = s.wrote[:len(s.wrote)-1]
	return s.reread()
}

// ends reports whether the answer may end in its thinking: not if it would have
// content then, which was held back because it might have been the beginning of a tag.
func (s *sleeper) ends() (bool, error) {
	part, err := s.output.End()
	if err != nil || strings.TrimLeft(part.Content, white) == "" {
		return true, nil
	}
	return false, s.reread()
}

// reread makes a parser that has read what was written.
func (s *sleeper) reread() (err error) {
	s.again += len(s.wrote) + startAgain
	wrote := string(s.wrote)
	s.wrote = s.wrote[:0]
	if s.output, err = s.watch(); err == nil {
		s.read(wrote)
	}
	return err
}

func (s *sleeper) wake() {
	s.awake = true
	s.output, s.wrote = nil, nil
}

// Filter drops what does not fit. While the grammar sleeps it is asked only when a
// token was refused, and returns the first candidate that can stand in for it.
func (s *sleeper) Filter(c []llm.Candidate) ([]llm.Candidate, error) {
	if s.awake {
		return s.grammar.Filter(c)
	}
	for i := range c {
		if s.again > mostAgain {
			break
		}
		if ok, err := s.fits(c[i].Token); err != nil {
			return nil, err
		} else if ok {
			return slices.Delete(c[:i+1], 0, i), nil
		}
	}
	return c[:0], nil
}

// fits reports whether a token may come next, and changes nothing.
func (s *sleeper) fits(t llm.Token) (bool, error) {
	if s.vocab.IsEnd(t) {
		ok, err := s.ends()
		if ok {
			err = s.reread()
		}
		return ok, err
	}
	piece := s.vocab.Piece(t)
	content, ok := s.read(piece)
	s.wrote = s.wrote[:len(s.wrote)-len(piece)]
	if err := s.reread(); err != nil {
		return false, err
	}
	if !ok || content == "" {
		return true, nil
	}
	return s.grammar.Fits(content)
}

// Complete reports whether nothing more has to come.
func (s *sleeper) Complete() bool { return s.awake && s.grammar.Complete() }
