package gbnf

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"cllm/llm"
	"cllm/llm/llmtest"
)

// feed takes texts one after another until one is refused or the matcher gives up.
func feed(m *Matcher, text string, n int) (taken int, err error) {
	for range n {
		ok, err := m.TakeText(text)
		if !ok {
			return taken, err
		}
		taken++
	}
	return taken, nil
}

// Each of these keeps a matcher that follows every way on its own busy for ever, or
// takes all the memory. This one has to answer or to give up within its bounds.
func TestHostileGrammarsEndSoon(t *testing.T) {
	var chain, pairs strings.Builder
	chain.WriteString("root ::= r0 \"!\"\n")
	pairs.WriteString("root ::= p0 \"!\"\n")
	for i := range 60 {
		fmt.Fprintf(&chain, "r%d ::= r%d | r%d\n", i, i+1, i+1)
		fmt.Fprintf(&pairs, "p%d ::= p%d p%d\n", i, i+1, i+1)
	}
	chain.WriteString("r60 ::= \"a\"")
	pairs.WriteString("p60 ::= \"\" | \"a\"")
	for _, tt := range []struct {
		promise, grammar, text string
		times, taken           int
		give                   bool // it may give up
	}{
		{"alternatives that begin alike", `root ::= (` + strings.Repeat(`" " | `, 50) + `" "){1000} "b"`, strings.Repeat(" ", 80), 10, 10, false},
		{"a doubling chain of rules", chain.String(), "a", 1, 1, false},
		{"a tree of empty rules", pairs.String(), "a", 3, 0, true},
		{"stacks that double with each character", "root ::= \"[\" root \"]\" | \"[\" root \"}\" | \"[\" root \")\" | \"a\"", "[", 100, 8, true},
		{"many optional parts", `root ::= ("a"?){2000} "a"{2000} "b"`, "a", 2000, 2000, false},
		{"repetitions in repetitions", `root ::= ((("a"{2000}){2000}){2000}){2000}`, strings.Repeat("a", 1000), 100, 100, false},
		{"any number of any number", `root ::= (((("a"*)*)*)*)* "b"`, "a", 10000, 10000, false},
		{"a very deep text", `root ::= "[" root* "]"`, strings.Repeat("[", 100), 3000, 200, true},
		{"a large alternative", `root ::= (` + strings.Repeat(`"abcdefgh" | `, 5000) + `"x")*`, "abcdefgh", 100, 100, false},
	} {
		t.Run(tt.promise, func(t *testing.T) {
			g, err := Parse(tt.grammar)
			if err != nil {
				t.Fatal(err)
			}
			m, err := g.Match(llmtest.Vocab{})
			if err == nil {
				var taken int
				if taken, err = feed(m, tt.text, tt.times); taken < tt.taken {
					t.Errorf("%d times taken, want %d", taken, tt.taken)
				}
			}
			if err != nil && (!tt.give || !errors.Is(err, ErrTooComplex)) {
				t.Error(err)
			}
			if err != nil && m != nil {
				if _, again := m.Take('a'); again == nil {
					t.Error("after it gave up it goes on")
				}
				if left, again := m.Filter([]llm.Candidate{{Token: 'a'}, {Token: llmtest.IMEnd}}); again == nil || len(left) > 0 || m.Complete() {
					t.Errorf("after it gave up it leaves %v", left)
				}
			}
			var before runtime.MemStats
			runtime.ReadMemStats(&before)
			if before.HeapAlloc > 512<<20 {
				t.Errorf("%d MiB are in use", before.HeapAlloc>>20)
			}
			runtime.KeepAlive(m)
		})
	}
}

// Each round is a way through the grammar that was not gone before.
func TestALongTextKeepsTheMemoryBounded(t *testing.T) {
	m := match(t, "root ::= (pair \";\")*\npair ::= \"(\" pair \")\" | \"[\" pair \"]\" | \".\"")
	rng := rand.New(rand.NewPCG(1, 1))
	most := 0
	for range 6000 {
		var closing []byte
		text := make([]byte, 0, 100)
		for range 40 {
			i := rng.IntN(2)
			text = append(text, "(["[i])
			closing = append([]byte{")]"[i]}, closing...)
		}
		text = append(append(append(text, '.'), closing...), ';')
		if ok, err := m.TakeText(string(text)); !ok || !m.Complete() {
			t.Fatalf("%q is refused: %v", text, err)
		}
		most = max(most, len(m.nodes))
	}
	if most <= maxNodes/2 || most > 2*maxNodes || m.cells > 2*maxCells {
		t.Errorf("up to %d nodes and %d cells were kept", most, m.cells)
	}
}

// After the tables were emptied a text goes on as if they had not been.
func TestEmptyingTheTablesChangesNothing(t *testing.T) {
	grammar := `root ::= "{" ([a-c] ":" (root | [0-9]{1,3} | "€") ";")* "}"`
	whole, emptied := match(t, grammar), match(t, grammar)
	v := llmtest.Vocab{}
	rng := rand.New(rand.NewPCG(2, 1))
	for range 3000 {
		var all []llm.Candidate
		for i := range v.Size() {
			all = append(all, llm.Candidate{Token: llm.Token(i)})
		}
		left, err := whole.Filter(append([]llm.Candidate(nil), all...))
		if err != nil {
			t.Fatal(err)
		}
		emptied.compact()
		other, err := emptied.Filter(all)
		if err != nil || fmt.Sprint(left) != fmt.Sprint(other) || whole.Complete() != emptied.Complete() {
			t.Fatalf("%v and %v, %v", left, other, err)
		}
		next := left[rng.IntN(len(left))].Token
		if v.IsEnd(next) {
			return
		}
		if ok, _ := whole.Take(next); !ok {
			t.Fatal("refused")
		}
		if ok, _ := emptied.Take(next); !ok {
			t.Fatal("refused")
		}
	}
}

// regular writes a random expression, as a grammar and as a regular expression.
func regular(rng *rand.Rand, depth int) (grammar, expr string) {
	switch n := rng.IntN(9); {
	case depth == 0 || n < 2:
		c := string("abc"[rng.IntN(3)])
		return `"` + c + `"`, c
	case n == 2:
		return "[^a]", "[^a]"
	case n == 3:
		return "[ab]", "[ab]"
	case n < 6:
		g1, e1 := regular(rng, depth-1)
		g2, e2 := regular(rng, depth-1)
		return "(" + g1 + " | " + g2 + ")", "(?:" + e1 + "|" + e2 + ")"
	case n < 8:
		g1, e1 := regular(rng, depth-1)
		g2, e2 := regular(rng, depth-1)
		return g1 + " " + g2, e1 + e2
	default:
		g, e := regular(rng, depth-1)
		q := []string{"?", "*", "+", "{2}", "{1,3}", "{2,}", "{0,2}"}[rng.IntN(7)]
		return "(" + g + ")" + q, "(?:" + e + ")" + q
	}
}

func TestRegularGrammarsAreTheirRegularExpressions(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	accepted := 0
	for range 1000 {
		g, e := regular(rng, 5)
		re := regexp.MustCompile("^(?:" + e + ")$")
		for range 20 {
			var text strings.Builder
			for range rng.IntN(8) {
				text.WriteByte("abcd"[rng.IntN(4)])
			}
			want := re.MatchString(text.String())
			if got := verdict(t, "root ::= "+g, text.String()) == "yes"; got != want {
				t.Fatalf("%s: %q: %v, want %v", g, text.String(), got, want)
			}
			if want {
				accepted++
			}
		}
	}
	if accepted < 500 {
		t.Errorf("only %d texts were of their language", accepted)
	}
}

func FuzzGrammarsAndTexts(f *testing.F) {
	f.Add(`root ::= "a"* root | [^b]`, "aab")
	f.Add(`root ::= (("a" | "b")+ "c"?){2,5}`, "abcabc")
	f.Add("root ::= a | b\na ::= \"\\u20ac\" .\nb ::= [\\]a-z-]{3}", "€x")
	f.Fuzz(func(t *testing.T, grammar, text string) {
		if len(grammar) > 4000 || len(text) > 200 {
			return
		}
		g, err := Parse(grammar)
		if err != nil {
			return
		}
		m, err := g.Match(llmtest.Vocab{})
		if err != nil {
			return
		}
		for i := range len(text) {
			c := llm.Candidate{Token: llm.Token(text[i])}
			left, err := m.Filter([]llm.Candidate{c})
			if err != nil && m != nil {
				return
			}
			ok, err := m.Take(c.Token)
			if err == nil && ok != (len(left) == 1) {
				t.Fatalf("%q is left: %v, is taken: %v", text[:i+1], len(left) == 1, ok)
			}
			if !ok {
				return
			}
		}
	})
}
