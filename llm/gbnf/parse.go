package gbnf

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Parse reads a grammar; the text starts with the rule named root. The error is
// an *Error.
//
// The notation is llama.cpp's, without its <token>s: rules "name ::= a | b", each
// on a line of its own unless it goes on in a group or after a bar; "literals",
// [sets], [^sets], the dot, (groups), and after any of these ?, *, +, {m}, {m,},
// {m,n}; # begins a comment. A repetition of up to more than 2000 has no upper end.
func Parse(text string) (_ *Grammar, err error) {
	p := &parser{text: text, names: make(map[string]int32), single: make(map[rune]int32), sets: make(map[string]int32)}
	defer func() {
		switch stop := recover().(type) {
		case nil:
		case *Error:
			err = stop
		default:
			panic(stop)
		}
	}()
	if len(text) > maxText {
		p.fail("it has %d bytes, %d are allowed", len(text), maxText)
	}
	p.space(true)
	for p.pos < len(p.text) {
		p.rule()
	}
	root, ok := p.names["root"]
	if !ok {
		p.fail("there is no rule named root")
	}
	for name, id := range p.names {
		if p.rules[id] == nil {
			p.fail("the rule %s is used and not defined", name)
		}
	}
	return build(p.rules, root, p.list), nil
}

// parser reads a text from left to right. It stops by a panic with an *Error.
type parser struct {
	text     string
	pos      int
	depth    int
	elements int // in all rules, ends included
	ranges   int // in all sets

	rules [][][]element // nil: not defined
	names map[string]int32
	list  []set
	// The numbers of sets that were met: single characters, and all others printed.
	single map[rune]int32
	sets   map[string]int32
}

func (p *parser) fail(format string, args ...any) {
	line := 1 + strings.Count(p.text[:min(p.pos, len(p.text))], "\n")
	panic(&Error{Line: line, Text: fmt.Sprintf(format, args...)})
}

// peek is the next byte, 0 at the end.
func (p *parser) peek() byte {
	if p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

// accept skips s if the text goes on with it.
func (p *parser) accept(s string) bool {
	if !strings.HasPrefix(p.text[p.pos:], s) {
		return false
	}
	p.pos += len(s)
	return true
}

func (p *parser) space(newlines bool) {
	for p.pos < len(p.text) {
		switch c := p.text[p.pos]; {
		case c == ' ' || c == '\t' || newlines && (c == '\r' || c == '\n'):
			p.pos++
		case c == '#':
			for p.pos < len(p.text) && p.text[p.pos] != '\n' && p.text[p.pos] != '\r' {
				p.pos++
			}
		default:
			return
		}
	}
}

func isName(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-'
}

func (p *parser) name() string {
	start := p.pos
	for isName(p.peek()) {
		p.pos++
	}
	if start == p.pos {
		p.fail("a rule's name is missing")
	}
	return p.text[start:p.pos]
}

// named is the number of the rule of that name.
func (p *parser) named(name string) int32 {
	id, ok := p.names[name]
	if !ok {
		id = p.unnamed(nil)
		p.names[name] = id
	}
	return id
}

// unnamed is the number of a new rule.
func (p *parser) unnamed(alternatives [][]element) int32 {
	p.rules = append(p.rules, alternatives)
	for _, a := range alternatives {
		p.count(len(a) + 1)
	}
	return int32(len(p.rules) - 1)
}

func (p *parser) count(elements int) {
	if p.elements += elements; p.elements > maxElements {
		p.fail("with its repetitions written out it has more than %d elements", maxElements)
	}
}

func (p *parser) rule() {
	name := p.name()
	id := p.named(name)
	p.space(false)
	if !p.accept("::=") {
		p.fail("the rule %s lacks its ::=", name)
	}
	p.space(true)
	p.rules[id] = p.alternatives(false)
	if c := p.peek(); c != 0 && c != '\r' && c != '\n' || c == 0 && p.pos < len(p.text) {
		p.fail("%q is out of place", p.text[p.pos:min(p.pos+10, len(p.text))])
	}
	p.space(true)
}

// alternatives reads up to the end of a rule or group. Within a group a newline is
// a space.
func (p *parser) alternatives(group bool) [][]element {
	if p.depth++; p.depth > maxDepth {
		p.fail("its groups are more than %d deep", maxDepth)
	}
	defer func() { p.depth-- }()
	all := [][]element{p.sequence(group)}
	for p.accept("|") {
		p.space(true)
		all = append(all, p.sequence(group))
	}
	return all
}

func (p *parser) sequence(group bool) []element {
	var all []element
	for {
		symbol, ok := p.symbol()
		if !ok {
			p.count(len(all) + 1)
			return all
		}
		p.space(group)
		for {
			least, most, ok := p.quantifier(group)
			if !ok {
				break
			}
			symbol = p.repeat(symbol, least, most)
		}
		all = append(all, symbol...)
	}
}

// symbol reads what a quantifier may follow. A literal is as many elements as it
// has characters.
func (p *parser) symbol() ([]element, bool) {
	switch c := p.peek(); {
	case c == '"':
		p.pos++
		return p.literal(), true
	case c == '[':
		p.pos++
		return []element{{char, p.set()}}, true
	case c == '.':
		p.pos++
		return []element{{char, p.setNumber(set{not: true})}}, true
	case c == '(':
		p.pos++
		p.space(true)
		id := int32(len(p.rules))
		p.rules = append(p.rules, nil)
		all := p.alternatives(true)
		if !p.accept(")") {
			p.fail("a group lacks its )")
		}
		p.rules[id] = all
		return []element{{rule, id}}, true
	case isName(c):
		return []element{{rule, p.named(p.name())}}, true
	case c == '<' || c == '!':
		p.fail("tokens are not supported")
	}
	return nil, false
}

func (p *parser) literal() []element {
	all := []element{}
	for !p.accept(`"`) {
		r := p.character()
		id, ok := p.single[r]
		if !ok {
			id = p.addSet(set{spans: []span{{r, r}}})
			p.single[r] = id
		}
		all = append(all, element{char, id})
	}
	return all
}

// set reads a set up to its closing bracket and returns its number.
func (p *parser) set() int32 {
	s := set{not: p.accept("^")}
	for !p.accept("]") {
		first := p.character()
		last := first
		if p.peek() == '-' && !strings.HasPrefix(p.text[p.pos:], "-]") {
			p.pos++
			last = p.character()
		}
		if first <= last {
			s.spans = append(s.spans, span{first, last})
		}
	}
	return p.setNumber(s)
}

// setNumber gives equal sets one number.
func (p *parser) setNumber(s set) int32 {
	key := fmt.Sprint(s)
	id, ok := p.sets[key]
	if !ok {
		id = p.addSet(s)
		p.sets[key] = id
	}
	return id
}

func (p *parser) addSet(s set) int32 {
	if p.ranges += 1 + len(s.spans); p.ranges > maxRanges {
		p.fail("it tells more than %d ranges of characters apart", maxRanges)
	}
	p.list = append(p.list, s)
	return int32(len(p.list) - 1)
}

// character reads a character of a literal or a set.
func (p *parser) character() rune {
	if p.accept(`\`) {
		return p.escape()
	}
	r, size := utf8.DecodeRuneInString(p.text[p.pos:])
	switch {
	case size == 0:
		p.fail("it ends in a literal or set")
	case r == utf8.RuneError && size == 1:
		p.fail("it is not valid UTF-8")
	}
	p.pos += size
	return r
}

func (p *parser) escape() rune {
	c := p.peek()
	p.pos++
	switch c {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case '\\', '"', '[', ']', '-':
		return rune(c)
	case 'x':
		return p.hex(2)
	case 'u':
		return p.hex(4)
	case 'U':
		return p.hex(8)
	}
	p.fail("the escape \\%c is unknown", c)
	return 0
}

func (p *parser) hex(digits int) rune {
	s := p.text[min(p.pos, len(p.text)):min(p.pos+digits, len(p.text))]
	n, err := strconv.ParseUint(s, 16, 32)
	if err != nil || len(s) != digits || s[0] == '+' || n > utf8.MaxRune {
		p.fail("%q is no character in hexadecimal", s)
	}
	p.pos += digits
	return rune(n)
}
