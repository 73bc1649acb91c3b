package gbnf

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"cllm/llm"
	"cllm/llm/llmtest"
)

func match(t testing.TB, text string) *Matcher {
	t.Helper()
	g, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	m, err := g.Match(llmtest.Vocab{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// verdict is what a grammar says to a text: "no", "more" or "yes" (it may end).
func verdict(t testing.TB, grammar, text string) string {
	t.Helper()
	m := match(t, grammar)
	for _, token := range (llmtest.Vocab{}).Tokenize(text, false) {
		ok, err := m.Take(token)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return "no"
		}
	}
	if m.Complete() {
		return "yes"
	}
	return "more"
}

func TestTheNotation(t *testing.T) {
	for _, tt := range []struct {
		promise, grammar string
		yes, more, no    []string
	}{
		{"literals and bars", `root ::= "yes" | "no" | ""`, []string{"yes", "no", ""}, []string{"n", "ye"}, []string{"x", "yesno"}},
		{"a rule refers to another, before and after it", "a ::= \"a\"\nroot ::= a b a\nb ::= \"b\"", []string{"aba"}, []string{"ab"}, []string{"b"}},
		{"a set", `root ::= [a-cx_]`, []string{"a", "b", "c", "x", "_"}, []string{""}, []string{"d", "-", "aa"}},
		{"a set of all but", `root ::= [^a-c"]+`, []string{"d", "xyz", "€", "\n"}, nil, []string{"a", `"`, "da"}},
		{"a hyphen at a set's end", `root ::= [a-]`, []string{"a", "-"}, nil, []string{"b"}},
		{"an empty set", `root ::= "a" []?`, []string{"a"}, nil, []string{"ab"}},
		{"the dot", `root ::= . .`, []string{"ab", "€\n", "\x00a"}, []string{"a"}, []string{"abc"}},
		{"escapes", `root ::= "\"\\\n\r\t\x41\u20ac\U0001F600" [\]\[\-\\]`, []string{"\"\\\n\r\tA€😀]", "\"\\\n\r\tA€😀-", "\"\\\n\r\tA€😀\\"}, nil, []string{"\"\\\n\r\tA€😀x"}},
		{"question mark", `root ::= "ab"? "c"`, []string{"c", "abc"}, []string{"a", "ab"}, []string{"ac", "ababc"}},
		{"star", `root ::= "ab"* "c"`, []string{"c", "abc", "ababc"}, []string{"aba"}, []string{"ac"}},
		{"plus", `root ::= [0-9]+ "."`, []string{"1.", "123."}, []string{"", "1"}, []string{"."}},
		{"so often", `root ::= "a"{3}`, []string{"aaa"}, []string{"", "aa"}, []string{"aaaa"}},
		{"at least", `root ::= "a"{2,}`, []string{"aa", "aaaaaa"}, []string{"a"}, []string{"b"}},
		{"between", `root ::= "ab"{ 1 , 3 }`, []string{"ab", "abab", "ababab"}, []string{"a", "aba"}, []string{"abababa"}},
		{"none", `root ::= "a"{0} "b" "a"{0,0}`, []string{"b"}, []string{""}, []string{"a", "ba"}},
		{"up to more than is written out", `root ::= "a"{0,5000}`, []string{"", strings.Repeat("a", 6000)}, nil, []string{"b"}},
		{"several quantifiers", `root ::= "a"+? "b"{2}*`, []string{"", "a", "aaa", "bb", "abbbb"}, []string{"b", "abbb"}, []string{"ba"}},
		{"groups", `root ::= ("a" | "b" ("c" | "d")*)+ "."`, []string{"a.", "bcd.", "abca."}, []string{"ab"}, []string{"c.", "."}},
		{"a group goes over lines, a bar too", "root ::= (\n \"a\"\n | \"b\" ) |\n  \"c\"\nx ::= \"x\"", []string{"a", "b", "c"}, nil, []string{"x"}},
		{"comments", "# one\nroot ::= \"a\" # two\n  # three\n", []string{"a"}, nil, []string{"#"}},
		{"a literal keeps # and spaces", `root ::= "# \"a\" "`, []string{`# "a" `}, nil, []string{`#"`}},
		{"a later rule of the same name counts", "root ::= \"a\"\nroot ::= \"b\"", []string{"b"}, nil, []string{"a"}},
		{"recursion", `root ::= "(" root ")" | "x"`, []string{"x", "((x))"}, []string{"((x)"}, []string{"(x))"}},
		{"recursion on the left of what may be empty ends", `root ::= ("a"*)* "b"`, []string{"b", "aab"}, []string{"aa"}, []string{"ba"}},
		{"ways that begin alike", `root ::= "aab" | "aac" | "a" "ad" | [a]{2} "e"`, []string{"aab", "aac", "aad", "aae"}, []string{"aa"}, []string{"aaf"}},
		{"carriage returns", "root ::= a\r\na ::= \"a\"\r\n", []string{"a"}, nil, []string{"\r"}},
	} {
		t.Run(tt.promise, func(t *testing.T) {
			for want, texts := range map[string][]string{"yes": tt.yes, "more": tt.more, "no": tt.no} {
				for _, text := range texts {
					if got := verdict(t, tt.grammar, text); got != want {
						t.Errorf("%q: %s, want %s", text, got, want)
					}
				}
			}
		})
	}
}

func TestABadGrammarIsAnErrorWithItsLine(t *testing.T) {
	for _, tt := range []struct{ promise, grammar, want string }{
		{"empty", "", "line 1: there is no rule named root"},
		{"no root", "start ::= \"a\"", "there is no rule named root"},
		{"not defined", "root ::= a\nb ::= \"b\"", "the rule a is used and not defined"},
		{"cut in a group", "\nroot ::= (\"a\"", "line 2: a group lacks its )"},
		{"cut in a literal", `root ::= "a`, "it ends in a literal or set"},
		{"cut in a set", `root ::= [a`, "it ends in a literal or set"},
		{"cut in an escape", `root ::= "\`, "escape"},
		{"cut in a number", `root ::= "\x4`, "is no character in hexadecimal"},
		{"no character", `root ::= "\UFFFFFFFF"`, "is no character in hexadecimal"},
		{"no hexadecimal", `root ::= "\u+123"`, "is no character in hexadecimal"},
		{"nothing to repeat", `root ::= * "a"`, "out of place"},
		{"a repetition of words", `root ::= "a"{x}`, "lacks its number"},
		{"a repetition backwards", `root ::= "a"{3,2}`, "ends before it begins"},
		{"a repetition without end", `root ::= "a"{3`, "lacks its }"},
		{"too often", `root ::= "a"{2001}`, "at most 2000 are allowed"},
		{"more often than a number holds", `root ::= "a"{99999999999999999999999}`, "at most 2000 are allowed"},
		{"too large written out", `root ::= (` + strings.Repeat(`"ab"{2000} `, 200) + `)`, "more than 262144 elements"},
		{"too deep", `root ::= ` + strings.Repeat("(", 1000) + `"a"` + strings.Repeat(")", 1000), "more than 200 deep"},
		{"too long", strings.Repeat(" ", maxText+1), "bytes"},
		{"too many sets", "root ::= " + manySets(), "ranges of characters"},
		{"tokens", `root ::= <[12]>`, "tokens are not supported"},
		{"no definition", `root`, "lacks its ::="},
		{"a strange name", `röt ::= "a"`, "::="},
		{"something behind", `root ::= "a" )`, "out of place"},
		{"NUL", "root ::= \"a\"\x00", "out of place"},
		{"no UTF-8", "root ::= \"\xff\"", "not valid UTF-8"},
	} {
		t.Run(tt.promise, func(t *testing.T) {
			_, err := Parse(tt.grammar)
			var at *Error
			if !errors.As(err, &at) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func manySets() string {
	var b strings.Builder
	for r := rune(0x4e00); r < 0x4e00+5000; r++ {
		b.WriteString("[" + string(r) + "]")
	}
	return b.String()
}

func TestAGrammarOfNothingButItselfIsAnError(t *testing.T) {
	for _, text := range []string{
		`root ::= root`,
		`root ::= root "a" | "b"`,
		"root ::= a \"x\"\na ::= b\nb ::= root | \"y\"",
		"root ::= e root \"a\" | \"b\"\ne ::= \"\" | \"e\"",
	} {
		g, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Match(llmtest.Vocab{}); !errors.Is(err, ErrTooComplex) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// pieces is a vocabulary of whole pieces; the last token ends an answer.
type pieces []string

func (p pieces) Tokenize(string, bool) []llm.Token { return nil }
func (p pieces) Piece(t llm.Token) string          { return p[t] }
func (p pieces) IsEnd(t llm.Token) bool            { return int(t) == len(p)-1 }
func (p pieces) BOS() int                          { return 0 }
func (p pieces) Size() int                         { return len(p) }

// fitting are the pieces that a matcher lets through.
func fitting(t testing.TB, m *Matcher, v pieces) (left []string) {
	t.Helper()
	var all []llm.Candidate
	for i := range v {
		all = append(all, llm.Candidate{Token: llm.Token(i)})
	}
	c, err := m.Filter(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range c {
		left = append(left, v[one.Token])
	}
	return left
}

func TestAPieceFitsWhenAllOfItsCharactersDo(t *testing.T) {
	v := pieces{"", "a", "ab", "abc", "b", "a\xe2", "\xe2\x82", "\xac", "\xe2\x82\xac", "\xe3", "\xff", "\x80", "<end>"}
	g, err := Parse(`root ::= "a" [b€]*`)
	if err != nil {
		t.Fatal(err)
	}
	m, err := g.Match(v)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fitting(t, m, v), []string{"a", "ab", "a\xe2"}; !slices.Equal(got, want) {
		t.Errorf("at the beginning %q, want %q", got, want)
	}
	if ok, err := m.TakeText("a\xe2"); !ok || err != nil || m.Complete() {
		t.Errorf("a begun character: %v, %v, complete %v", ok, err, m.Complete())
	}
	if got := fitting(t, m, v); got != nil {
		t.Errorf("in a character %q", got)
	}
	if ok, _ := m.TakeText("\x82"); !ok {
		t.Error("the second byte is refused")
	}
	if got, want := fitting(t, m, v), []string{"\xac"}; !slices.Equal(got, want) {
		t.Errorf("before the last byte %q, want %q", got, want)
	}
	if ok, _ := m.TakeText("\xac"); !ok || !m.Complete() {
		t.Error("the whole character is refused")
	}
	if got, want := fitting(t, m, v), []string{"b", "\xe2\x82", "\xe2\x82\xac", "<end>"}; !slices.Equal(got, want) {
		t.Errorf("after it %q, want %q", got, want)
	}
	if ok, _ := m.Take(llm.Token(len(v) - 1)); !ok {
		t.Error("the end is refused")
	}
}

func TestACharacterMayBeginOnlyWhereOneOfItsKindFits(t *testing.T) {
	for _, tt := range []struct {
		set, bytes string
		want       bool
	}{
		{"[à-ÿ]", "\xc3", true}, {"[à-ÿ]", "\xc2", false},
		{"[\\uD7FF]", "\xed", true}, {"[\\uE000]", "\xed", false}, {"[\\uE000]", "\xee\x80", true},
		{"[\\u0800]", "\xe0", true}, {"[\\u07FF]", "\xe0", false}, {"[\\u0800]", "\xe0\xa0", true}, {"[^a]", "\xe0\x80", false},
		{"[\\U00010000]", "\xf0", true}, {"[\\U00010000]", "\xf0\x90\x80", true}, {"[\\U00010000]", "\xf0\x91", false},
		{"[\\U0010FFFF]", "\xf4\x8f", true}, {"[^a]", "\xf4\x90", false}, {"[^a]", "\xf5", false}, {"[a]", "\xc3", false},
		{"[^\\U00010000-\\U0010FFFF]", "\xf1", false},
	} {
		if got, _ := match(t, "root ::= "+tt.set).TakeText(tt.bytes); got != tt.want {
			t.Errorf("%s: %q fits: %v, want %v", tt.set, tt.bytes, got, tt.want)
		}
	}
}

func TestARefusedTextChangesNothing(t *testing.T) {
	m := match(t, `root ::= "ab" ("cd" | "ef")`)
	for _, step := range []struct {
		text string
		want bool
	}{{"x", false}, {"", false}, {"abx", false}, {"a", true}, {"a", false}, {"bc", true}, {"e", false}, {"\xc3", false}, {"d", true}, {"d", false}} {
		if ok, err := m.TakeText(step.text); ok != step.want || err != nil {
			t.Errorf("%q: %v, %v", step.text, ok, err)
		}
	}
	if !m.Complete() {
		t.Error("the text is whole and it does not say so")
	}
}

// A random walk through what Filter leaves must end in a text of the language.
func TestWhatFilterLeavesTakeTakes(t *testing.T) {
	grammar := `
root  ::= value
value ::= "{" (pair ("," pair)*)? "}" | "[" (value ("," value)*)? "]" | text | [0-9]{1,4} | "true" | "null"
pair  ::= text ":" value
text  ::= "\"" [^"\\]{0,6} "\""
`
	v := llmtest.Vocab{}
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m := match(t, grammar)
		text := ""
		for range 300 {
			var all []llm.Candidate
			for i := range v.Size() {
				all = append(all, llm.Candidate{Token: llm.Token(i)})
			}
			left, err := m.Filter(all)
			if err != nil || len(left) == 0 {
				t.Fatalf("after %q: %d candidates, %v", text, len(left), err)
			}
			fits := make(map[llm.Token]bool)
			for _, c := range left {
				fits[c.Token] = true
			}
			refused := llm.Token(rng.IntN(v.Size()))
			if !fits[refused] {
				if ok, _ := m.Take(refused); ok {
					t.Fatalf("after %q: %q was dropped and is taken", text, v.Piece(refused))
				}
			}
			next := left[rng.IntN(len(left))].Token
			if ok, err := m.Take(next); !ok {
				t.Fatalf("after %q: %q was left and is refused: %v", text, v.Piece(next), err)
			}
			if v.IsEnd(next) {
				break
			}
			text += v.Piece(next)
		}
	}
}
