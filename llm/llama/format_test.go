//go:build cgo

package llama

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"cllm/llm"
	"cllm/llm/gbnf"
)

// fits checks a value against the part of JSON Schema that the tests use. root is the
// schema that references start from.
func fits(root, schema map[string]any, v any) error {
	if ref, ok := schema["$ref"].(string); ok {
		target := any(root)
		for _, key := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
			target = target.(map[string]any)[key]
		}
		return fits(root, target.(map[string]any), v)
	}
	if several, ok := schema["anyOf"].([]any); ok {
		var all []string
		for _, s := range several {
			err := fits(root, s.(map[string]any), v)
			if err == nil {
				return nil
			}
			all = append(all, err.Error())
		}
		return fmt.Errorf("none of: %s", strings.Join(all, "; "))
	}
	if enum, ok := schema["enum"].([]any); ok {
		for _, e := range enum {
			if fmt.Sprint(e) == fmt.Sprint(v) {
				return nil
			}
		}
		return fmt.Errorf("%v is none of %v", v, enum)
	}
	number := func(key string, otherwise float64) float64 {
		if n, ok := schema[key].(float64); ok {
			return n
		}
		return otherwise
	}
	within := func(n float64, least, most string) error {
		if n < number(least, math.Inf(-1)) || n > number(most, math.Inf(1)) {
			return fmt.Errorf("%v is not from %v to %v", n, schema[least], schema[most])
		}
		return nil
	}
	switch v := v.(type) {
	case map[string]any:
		properties, _ := schema["properties"].(map[string]any)
		required, _ := schema["required"].([]any)
		for _, key := range required {
			if _, ok := v[key.(string)]; !ok {
				return fmt.Errorf("%v lacks %v", v, key)
			}
		}
		for key, value := range v {
			s, ok := properties[key].(map[string]any)
			if !ok {
				return fmt.Errorf("%q is no property", key)
			}
			if err := fits(root, s, value); err != nil {
				return err
			}
		}
		return typed(schema, "object")
	case []any:
		for _, item := range v {
			if err := fits(root, schema["items"].(map[string]any), item); err != nil {
				return err
			}
		}
		if err := within(float64(len(v)), "minItems", "maxItems"); err != nil {
			return err
		}
		return typed(schema, "array")
	case string:
		if err := within(float64(len([]rune(v))), "minLength", "maxLength"); err != nil {
			return err
		}
		return typed(schema, "string")
	case json.Number: // of any size: 1e999 is one
		n, err := v.Int64()
		if err != nil {
			return typed(schema, "number")
		}
		if err := within(float64(n), "minimum", "maximum"); err != nil {
			return err
		}
		return typed(schema, "integer", "number")
	case bool:
		return typed(schema, "boolean")
	default:
		return typed(schema, "null")
	}
}

func typed(schema map[string]any, types ...string) error {
	for _, t := range types {
		if schema["type"] == t {
			return nil
		}
	}
	return fmt.Errorf("it is a %s, not a %v", types[0], schema["type"])
}

// Answers to formats and free ones, side by side in one batch, by a model that means
// nothing and would write anything.
func TestAnswersToASchemaFitIt(t *testing.T) {
	const sequences, longest = 16, 400
	m := load(t, tinyPath, ModelOptions{})
	v := m.Vocab()
	for promise, text := range map[string]string{
		"enum, integer, required": `{"type":"object","properties":{"e":{"enum":["red","grün",3,null]},"i":{"type":"integer","minimum":-20,"maximum":300}},"required":["e","i"]}`,
		"nested, not required":    `{"type":"object","properties":{"o":{"type":"object","properties":{"b":{"type":"boolean"},"s":{"type":"string","maxLength":6}},"required":["b"]},"n":{"type":"null"}}}`,
		"arrays":                  `{"type":"array","items":{"type":"array","items":{"type":"integer"},"maxItems":2},"minItems":1,"maxItems":4}`,
		"one of several":          `{"anyOf":[{"type":"string","minLength":1,"maxLength":5},{"type":"object","properties":{"k":{"type":"boolean"}},"required":["k"]},{"type":"number"}]}`,
		"references":              `{"$defs":{"n":{"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/n"}]}},"required":["v","next"]}},"$ref":"#/$defs/n"}`,
	} {
		t.Run(promise, func(t *testing.T) {
			var schema map[string]any
			if err := json.Unmarshal([]byte(text), &schema); err != nil {
				t.Fatal(err)
			}
			g := grammarOf(t, text)
			c := open(t, m, ContextOptions{Sequences: sequences, ContextPerSequence: longest + 16, Threads: 1})
			answers, ended := make([]string, sequences), make([]bool, sequences)
			var samplers []*llm.Sampler
			var rows []llm.Row
			for seq := range llm.SeqID(sequences) {
				var limit llm.Grammar
				if seq%4 != 3 {
					match, err := g.Match(v)
					if err != nil {
						t.Fatal(err)
					}
					limit = match
				}
				samplers = append(samplers, llm.NewSampler(llm.SamplingParams{
					Temperature: float32(seq%3) * 0.7, TopK: int(seq%5) * 10, TopP: 1, TypicalP: 1, RepeatPenalty: 1.1, RepeatLastN: 64, Seed: int64(seq),
				}, limit, nil))
				rows = append(rows, llm.Row{Token: llm.Token('a' + seq), Seq: seq, Logits: true})
			}
			for range longest {
				if err := c.Decode(rows); err != nil {
					t.Fatal(err)
				}
				var picks []llm.Pick
				for i, r := range rows {
					picks = append(picks, llm.Pick{Row: i, Sampler: samplers[r.Seq]})
				}
				c.Sample(picks)
				before := rows
				rows = nil
				for i, p := range picks {
					seq := before[i].Seq
					if p.Err != nil {
						t.Fatalf("sequence %d after %q: %v", seq, answers[seq], p.Err)
					}
					if samplers[seq].Accept(p.Token); v.IsEnd(p.Token) {
						ended[seq] = true
						continue
					}
					answers[seq] += v.Piece(p.Token)
					rows = append(rows, llm.Row{Token: p.Token, Pos: c.Held(seq), Seq: seq, Logits: true})
				}
				if len(rows) == 0 {
					break
				}
			}
			whole := 0
			for seq, answer := range answers {
				if seq%4 == 3 {
					if takes(t, g, answer) {
						t.Errorf("free answer %q fits the schema", answer)
					}
					continue
				}
				if !ended[seq] {
					continue
				}
				whole++
				var value any
				d := json.NewDecoder(strings.NewReader(answer))
				d.UseNumber()
				if err := d.Decode(&value); err != nil || d.More() {
					t.Errorf("%v: %s", err, answer)
				} else if err := fits(schema, schema, value); err != nil {
					t.Errorf("%v: %s", err, answer)
				}
			}
			if whole < 8 {
				t.Errorf("only %d of 12 answers came to their end", whole)
			}
		})
	}
}

// BenchmarkMask is a row whose first candidate is refused, so that others have to be
// found, in Qwen's vocabulary as far as its size goes.
func BenchmarkMask(b *testing.B) {
	row := logitsRow()
	g, err := gbnf.Parse(`root ::= "{" ("\"" [a-z]+ "\"" ":" [0-9]+ ","?)* "}"`)
	if err != nil {
		b.Fatal(err)
	}
	for name, p := range map[string]llm.SamplingParams{
		"greedy":   {},
		"defaults": {Temperature: 0.8, TopK: 40, TopP: 0.9, TypicalP: 1, RepeatPenalty: 1, Seed: 1},
	} {
		b.Run(name, func(b *testing.B) {
			var pk picker
			for b.Loop() {
				m, err := g.Match(large{})
				if err != nil {
					b.Fatal(err)
				}
				s := llm.NewSampler(p, m, nil)
				k := s.Prepare(row)
				_, more, err := s.Choose(pk.top(row, k), k == llm.All)
				if more {
					_, _, err = s.Choose(pk.top(row, llm.All), true)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// large is a vocabulary of Qwen's size whose pieces are made up.
type large struct{ *Vocab }

func (large) Size() int              { return qwenVocab }
func (large) IsEnd(t llm.Token) bool { return t == 0 }
func (large) Piece(t llm.Token) string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789{}[]:,\" .ABCDEFGHIJKLMNOPQRSTUV"
	return letters[t%60 : t%60+1+(t/60)%4]
}
