//go:build cgo

package llama

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cllm/llm/gbnf"
)

// grammarOf is the grammar of a schema; it must be one that a matcher begins with.
func grammarOf(t testing.TB, schema string) *gbnf.Grammar {
	t.Helper()
	text, err := SchemaToGrammar([]byte(schema))
	if err != nil {
		t.Fatalf("%s: %v", schema, err)
	}
	g, err := gbnf.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v\n%s", schema, err, text)
	}
	return g
}

// takes reports whether a grammar takes a whole text, and whether it may end there.
func takes(t testing.TB, g *gbnf.Grammar, text string) bool {
	t.Helper()
	m, err := g.Match(new(Vocab))
	if err != nil {
		t.Fatal(err)
	}
	ok, err := m.TakeText(text)
	if err != nil {
		t.Fatal(err)
	}
	return ok && m.Complete()
}

func TestTheGrammarOfASchemaTakesWhatFitsIt(t *testing.T) {
	for _, tt := range []struct {
		promise, schema string
		yes, no         []string
	}{
		{"any object", `{"type":"object"}`, []string{`{}`, `{"a": [1, {"b": null}], "c":"\u00e9\n"}`}, []string{`[]`, `1`, `{"a"}`, `{"a":1,}`}},
		{"anything", `{}`, []string{`{}`, `[]`, `"a"`, `-1.5e3`, `true`, `null`}, []string{``, `nul`, `01`, `"`}},
		{"properties, required and not", `{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}},"required":["a"]}`,
			[]string{`{"a": "x"}`, `{"a":"x","b":-12}`}, []string{`{}`, `{"b":1}`, `{"a":1}`, `{"a":"x","b":1.5}`, `{"a":"x","c":1}`}},
		{"other properties", `{"type":"object","properties":{"a":{"type":"null"}},"additionalProperties":{"type":"boolean"}}`,
			[]string{`{}`, `{"a":null,"b":true}`, `{"ab":false}`}, []string{`{"a":true}`, `{"b":1}`}},
		{"enum and const", `{"type":"object","properties":{"e":{"enum":["red","grün",3,null]},"c":{"const":{"k":[1]}}},"required":["e","c"]}`,
			[]string{`{"e":"grün","c":{"k":[1]}}`, `{"e":3,"c":{"k":[1]}}`}, []string{`{"e":"blue","c":{"k":[1]}}`, `{"e":3,"c":{}}`}},
		{"nested", `{"type":"object","properties":{"o":{"type":"object","properties":{"p":{"type":"object","properties":{"q":{"type":"boolean"}},"required":["q"]}},"required":["p"]}},"required":["o"]}`,
			[]string{`{"o": {"p": {"q": true}}}`}, []string{`{"o":{"p":{}}}`, `{"o":{}}`}},
		{"arrays", `{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":3}`, []string{`[1,2]`, `[1, 2, 3]`}, []string{`[1]`, `[1,2,3,4]`, `[1,"a"]`}},
		{"tuples", `{"prefixItems":[{"type":"string"},{"type":"number"}]}`, []string{`["a", 1.5]`}, []string{`["a"]`, `[1,"a"]`, `["a",1,2]`}},
		{"integers in bounds", `{"type":"integer","minimum":-7,"maximum":120}`, []string{`-7`, `0`, `99`, `120`}, []string{`-8`, `121`, `007`, `1.0`}},
		{"integers above", `{"type":"integer","exclusiveMinimum":9}`, []string{`10`, `99`, `1000`}, []string{`9`, `-10`}},
		{"strings by length", `{"type":"string","minLength":2,"maxLength":3}`, []string{`"ab"`, `"äöü"`, `"a\n"`}, []string{`"a"`, `"abcd"`}},
		{"strings by pattern", `{"type":"string","pattern":"^[A-Z]{2}-[0-9]+(x|y)?$"}`, []string{`"AB-1"`, `"ZZ-123y"`}, []string{`"A-1"`, `"AB-"`, `"AB-1z"`}},
		{"strings by format", `{"type":"string","format":"date"}`, []string{`"2026-11-23"`}, []string{`"2026-13-23"`, `"today"`}},
		{"one of several", `{"anyOf":[{"type":"string"},{"type":"object","properties":{"n":{"type":"number"}},"required":["n"]}]}`, []string{`"a"`, `{"n": 1e5}`}, []string{`1`, `{}`}},
		{"a list of types", `{"type":["integer","null"]}`, []string{`1`, `null`}, []string{`"1"`}},
		{"all of several", `{"allOf":[{"type":"object","properties":{"a":{"type":"integer"}}},{"type":"object","properties":{"b":{"type":"integer"}}}]}`, []string{`{"a":1,"b":2}`}, []string{`{"a":1}`}},
		{"references", `{"$defs":{"n":{"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]}},"required":["v","next"]}},"$ref":"#/$defs/n"}`,
			[]string{`{"v":1,"next":null}`, `{"v":1,"next":{"v":2,"next":null}}`}, []string{`{"v":1}`, `{"v":1,"next":{}}`}},
		{"a pattern that no grammar can be takes any string", `{"type":"string","pattern":"(?=a)b"}`, []string{`"anything"`}, []string{`1`}},
	} {
		t.Run(tt.promise, func(t *testing.T) {
			g := grammarOf(t, tt.schema)
			for _, text := range tt.yes {
				if !takes(t, g, text) {
					t.Errorf("%s is refused", text)
				}
			}
			for _, text := range tt.no {
				if takes(t, g, text) {
					t.Errorf("%s is taken", text)
				}
			}
		})
	}
}

// chain is a schema of definitions of which each uses the next twice.
func chain(n int, use string) string {
	var b strings.Builder
	b.WriteString(`{"$defs":{`)
	for i := range n {
		next := fmt.Sprintf(use, i+1, i+1)
		fmt.Fprintf(&b, `"d%d":%s,`, i, next)
	}
	fmt.Fprintf(&b, `"d%d":{"type":"null"}},"$ref":"#/$defs/d0"}`, n)
	return b.String()
}

func nested(n int, open, middle, end string) string {
	return strings.Repeat(open, n) + middle + strings.Repeat(end, n)
}

func properties(n int, value string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"p%d":%s,`, i, value)
	}
	return `{"type":"object","properties":{` + strings.TrimSuffix(b.String(), ",") + `}}`
}

func TestABadOrHostileSchemaIsAnErrorAndSoon(t *testing.T) {
	for _, tt := range []struct{ promise, schema, want string }{
		{"empty", ``, "not valid JSON"},
		{"no JSON", `{"type":`, "not valid JSON"},
		{"two values", `{} {}`, "not valid JSON"},
		{"no schema", `[]`, "must be an object"},
		{"an unknown type", `{"type":"thing"}`, "unrecognized type thing"},
		{"a type of no kind", `{"type":5}`, "type must be"},
		{"no types", `{"type":[]}`, "type must not be empty"},
		{"a reference to nothing", `{"$ref":"#/$defs/x"}`, "not found"},
		{"a reference elsewhere", `{"$ref":"https://example.com/x"}`, "only references into the same document"},
		{"a reference past an array", `{"anyOf":[{"$ref":"#/anyOf/7"}]}`, "out of range"},
		{"an empty enum", `{"enum":[]}`, "enum must be"},
		{"a broken pattern", `{"type":"string","pattern":"^(a$"}`, "unbalanced"},
		{"properties of no kind", `{"type":"object","properties":[1]}`, "properties must be an object"},
		{"a negative count", `{"type":"array","minItems":-1}`, "non-negative"},
		{"too long", `{"title":"` + strings.Repeat("x", maxSchema) + `"}`, "bytes"},
		{"too deep", nested(200, `{"items":`, `{}`, `}`), "deep"},
		{"values too deep", `{"const":` + nested(500, `[`, ``, `]`) + `}`, "deep"},
		{"too many keys", properties(maxKeys+1, "{}"), "more than 2000 keys"},
		{"too many values", `{"enum":[` + strings.Repeat("1,", maxValues) + `1]}`, "more than 10000 values"},
		{"a part made of itself through allOf", `{"$defs":{"n":{"type":"object","properties":{"next":{"allOf":[{"$ref":"#/$defs/n"}]}}}},"$ref":"#/$defs/n"}`, "too deep"},
		{"references that are only each other", `{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"allOf":[{"$ref":"#/$defs/a"}]}`, "too deep"},
		{"lists of types in lists of types", nested(12, `{"type":["object","object","object","object","object","object"],"properties":{"a":`, `{}`, `}}`), "too large"},
		{"a doubling chain through allOf", chain(60, `{"type":"object","properties":{"a":{"allOf":[{"$ref":"#/$defs/d%d"}]},"b":{"allOf":[{"$ref":"#/$defs/d%d"}]}}}`), "too"},
		{"very many optional properties", properties(maxKeys, "{}"), "too large"},
		{"very long names", `{"properties":{"` + strings.Repeat("ä", 100000) + `":{"type":"object"}}}`, "too long"},
		{"a very long reference", `{"` + strings.Repeat("_", 100000) + `":{"type":"null"},"$ref":"#/` + strings.Repeat("_", 100000) + `"}`, "too long"},
		{"a very deep pattern", `{"type":"string","pattern":"^` + strings.Repeat("(", 50000) + strings.Repeat(")", 50000) + `$"}`, ""},
	} {
		t.Run(tt.promise, func(t *testing.T) {
			began := time.Now()
			_, err := SchemaToGrammar([]byte(tt.schema))
			if tt.want == "" && err == nil {
				return
			}
			if !errors.Is(err, ErrBadSchema) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%.300v, want %q", err, tt.want)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// What the converter makes may still be more than a matcher follows; that is an error
// too, and soon.
func TestTheGrammarOfAHostileSchemaIsBounded(t *testing.T) {
	for promise, schema := range map[string]string{
		"a doubling chain of alternatives": chain(60, `{"anyOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]}`),
		"alternatives that begin alike":    `{"type":"array","items":{"anyOf":[` + strings.Repeat(`{"type":"array","items":{"$ref":"#"}},`, 50) + `{"type":"array","minItems":1,"items":{"$ref":"#"}}]}}`,
		"repetitions in repetitions":       nested(20, `{"type":"array","minItems":1900,"items":`, `{"type":"string","minLength":1900}`, `}`),
		"a pattern of empty loops":         `{"type":"string","pattern":"^((((a*)*)*)*)*$"}`,
		"many repetitions":                 properties(200, `{"type":"string","minLength":1500}`),
	} {
		t.Run(promise, func(t *testing.T) {
			text, err := SchemaToGrammar([]byte(schema))
			if err != nil {
				t.Log(err)
				return
			}
			g, err := gbnf.Parse(text)
			if err != nil {
				t.Log(err)
				return
			}
			m, err := g.Match(new(Vocab))
			for i := 0; err == nil && i < 2000; i++ {
				var ok bool
				if ok, err = m.TakeText("["); !ok {
					break
				}
			}
			if err != nil && !errors.Is(err, gbnf.ErrTooComplex) {
				t.Error(err)
			}
		})
	}
}

func FuzzSchemas(f *testing.F) {
	for _, s := range []string{
		`{"type":"object","properties":{"a":{"type":["string","null"],"minLength":1},"b":{"type":"array","items":{"$ref":"#/$defs/x"},"minItems":1,"maxItems":4}},"required":["a"],"additionalProperties":false,"$defs":{"x":{"enum":["p","q",1]}}}`,
		`{"allOf":[{"$ref":"#/$defs/a"},{"properties":{"b":{"const":1}}}],"$defs":{"a":{"type":"object","properties":{"c":{"$ref":"#"}}}}}`,
		`{"type":"string","pattern":"^(a|b[^c]{1,3}\\.)+$","format":"date-time"}`,
		`{"type":"integer","minimum":-12.5,"exclusiveMaximum":9007199254740993}`,
		`{"anyOf":[{"prefixItems":[{"type":"boolean"},{}]},{"additionalProperties":{"type":"number"}}],"oneOf":[{}]}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, schema string) {
		text, err := SchemaToGrammar([]byte(schema))
		if err != nil {
			return
		}
		g, err := gbnf.Parse(text)
		if err != nil {
			return
		}
		if m, err := g.Match(new(Vocab)); err == nil {
			_, _ = m.TakeText(`{"a": "p", "b": [1, true]}`)
		}
	})
}
