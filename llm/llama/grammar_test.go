//go:build cgo

package llama

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"cllm/llm"
)

const jsonGrammar = `
root   ::= object
value  ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" [^"\\\x00-\x1f]* "\"" ws
number ::= "-"? [0-9]+ ws
ws     ::= | " " | "\n"
`

func grammar(t *testing.T, m *Model, gbnf string) *Grammar {
	t.Helper()
	g, err := m.NewGrammar(gbnf, "root")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func candidates(m *Model) []llm.Candidate {
	c := make([]llm.Candidate, m.Vocab().Size())
	for i := range c {
		c[i] = llm.Candidate{Token: llm.Token(i), Logit: float32(-i)}
	}
	return c
}

func TestAGrammarLeavesWhatMayComeNextInOrder(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	g := grammar(t, m, `root ::= ("yes" | "no" | "Ж") "."`)
	c := candidates(m)
	c[int('y')].Logit = float32(math.Inf(-1)) // is no refusal
	var got []string
	for _, c := range g.Filter(c) {
		got = append(got, m.Vocab().Piece(c.Token))
	}
	if want := []string{"n", "y", "\xd0"}; !slices.Equal(got, want) {
		t.Errorf("candidates %q, want %q", got, want)
	}
	for _, s := range []string{"n", "o", "."} {
		token := m.Vocab().Tokenize(s, false)[0]
		if err := g.Accept(token); err != nil {
			t.Fatal(err)
		}
	}
	rest := g.Filter(candidates(m))
	for _, c := range rest {
		if !m.Vocab().IsEnd(c.Token) {
			t.Errorf("%q may come after the end", m.Vocab().Piece(c.Token))
		}
	}
	if len(rest) == 0 {
		t.Error("no end may come after the end")
	}
	if err := g.Accept(rest[0].Token); err != nil {
		t.Errorf("the end is refused: %v", err)
	}
}

func TestAGrammarRefusesAndStaysWhereItWas(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	g := grammar(t, m, `root ::= "ab"`)
	end := m.Vocab().Tokenize("<|im_end|>", false)[0]
	for _, token := range []llm.Token{'b' - '!', end, llm.Token('z')} {
		if err := g.Accept(token); !errors.Is(err, ErrRefused) {
			t.Errorf("token %d: %v", token, err)
		}
	}
	for _, s := range []string{"a", "b"} {
		if err := g.Accept(m.Vocab().Tokenize(s, false)[0]); err != nil {
			t.Fatal(err)
		}
	}
	for _, token := range []llm.Token{-5, 1 << 30} {
		if err := g.Accept(token); err == nil {
			t.Errorf("token %d, which is none, was accepted", token)
		}
	}
	g.Close()
	if got := g.Filter(candidates(m)); len(got) != 0 {
		t.Errorf("a closed grammar leaves %d candidates", len(got))
	}
	if err := g.Accept(end); !errors.Is(err, ErrRefused) {
		t.Errorf("a closed grammar accepts: %v", err)
	}
}

func TestABadGrammarIsAnError(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	for name, text := range map[string]string{
		"empty":          "",
		"blank":          "  \n ",
		"no root":        `start ::= "a"`,
		"no definition":  `root ::= missing`,
		"cut":            `root ::= ("a"`,
		"left recursion": `root ::= root "a" | "b"`,
		"a quantifier":   `root ::= * "a"`,
		"NUL":            "root ::= \"a\x00",
		"too many":       `root ::= "a"{100000000}`,
	} {
		g, err := m.NewGrammar(text, "root")
		if err == nil {
			g.Close()
		}
		if !errors.Is(err, ErrBadGrammar) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSamplingUnderAGrammarGivesItsLanguage(t *testing.T) {
	m := load(t, tinyPath, ModelOptions{})
	v := m.Vocab()
	for i, p := range []llm.SamplingParams{{}, {Temperature: 1, TopK: 40, TopP: 1, TypicalP: 1, Seed: 3}, {Temperature: 1, TopP: 0.9, TypicalP: 1, Seed: 4}} {
		c := open(t, m, ContextOptions{ContextPerSequence: 1024, Threads: 1})
		s := llm.NewSampler(p, grammar(t, m, `root ::= [a-c]{3,9} ("-" [0-9] [0-9])+ "!"{2}`), nil)
		tokens := v.Tokenize("A code: ", false)
		var out strings.Builder
		for range 400 {
			rows := rowsOf(c, 0, tokens)
			if err := c.Decode(rows); err != nil {
				t.Fatal(err)
			}
			picks := []llm.Pick{{Row: len(rows) - 1, Sampler: s}}
			if c.Sample(picks); picks[0].Err != nil {
				t.Fatal(picks[0].Err)
			}
			if err := s.Accept(picks[0].Token); err != nil {
				t.Fatal(err)
			}
			if v.IsEnd(picks[0].Token) {
				break
			}
			out.WriteString(v.Piece(picks[0].Token))
			tokens = []llm.Token{picks[0].Token}
		}
		head, tail, found := strings.Cut(out.String(), "-")
		if !found || len(head) < 3 || len(head) > 9 || strings.Trim(head, "abc") != "" || strings.Trim(tail, "0123456789-!") != "" {
			t.Errorf("sampler %d: %q", i, out.String())
		}
	}
}

func FuzzGrammar(f *testing.F) {
	m := load(f, tinyPath, ModelOptions{VocabOnly: true})
	f.Add(jsonGrammar, `{"a": [1, true]}`)
	f.Add(`root ::= "a"* root | [^b]`, "aab")
	f.Add(`root ::= (("a" | "b")+ "c"?){2,5}`, "abcabc")
	f.Fuzz(func(t *testing.T, gbnf, s string) {
		if len(gbnf) > 2000 || len(s) > 200 {
			return
		}
		g, err := m.NewGrammar(gbnf, "root")
		if err != nil {
			return
		}
		defer g.Close()
		for _, token := range m.Vocab().Tokenize(s, false) {
			if g.Accept(token) != nil {
				return
			}
			if len(g.Filter(candidates(m))) == 0 {
				return
			}
		}
	})
}
