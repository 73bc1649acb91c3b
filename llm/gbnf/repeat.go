package gbnf

import "strconv"

// unlimited is a repetition without an upper end.
const unlimited = -1

// quantifier reads how often the symbol before it is repeated, if it says so.
func (p *parser) quantifier(group bool) (least, most int, ok bool) {
	switch {
	case p.accept("?"):
		least, most = 0, 1
	case p.accept("*"):
		least, most = 0, unlimited
	case p.accept("+"):
		least, most = 1, unlimited
	case p.accept("{"):
		p.space(group)
		least = p.number()
		most = least
		p.space(group)
		if p.accept(",") {
			p.space(group)
			most = unlimited
			if p.peek() != '}' {
				most = p.number()
			}
			p.space(group)
		}
		if !p.accept("}") {
			p.fail("a repetition lacks its }")
		}
		if most > maxRepeat {
			most = unlimited
		}
		if least > maxRepeat {
			p.fail("%d repetitions are asked for, at most %d are allowed", least, maxRepeat)
		}
		if most != unlimited && most < least {
			p.fail("the repetition {%d,%d} ends before it begins", least, most)
		}
	default:
		return 0, 0, false
	}
	p.space(group)
	return least, most, true
}

func (p *parser) number() int {
	start := p.pos
	for c := p.peek(); '0' <= c && c <= '9'; c = p.peek() {
		p.pos++
	}
	n, err := strconv.Atoi(p.text[start:p.pos])
	switch {
	case start == p.pos:
		p.fail("a repetition lacks its number")
	case err != nil: // more than an int holds
		n = 1 << 30
	}
	return n
}

// repeat writes a repetition out. What may be left out is a chain of rules of
// which each has the next at its end.
func (p *parser) repeat(symbol []element, least, most int) []element {
	if len(symbol) != 1 {
		symbol = []element{{rule, p.unnamed([][]element{symbol})}}
	}
	one := symbol[0]
	var all []element
	for range least {
		all = append(all, one)
	}
	p.count(least)
	if most == unlimited {
		id := p.unnamed(nil)
		p.rules[id] = [][]element{{one, {rule, id}}, {}}
		p.count(4)
		return append(all, element{rule, id})
	}
	rest := []element{one}
	for range most - least {
		id := p.unnamed([][]element{rest, {}})
		rest = []element{one, {rule, id}}
	}
	return append(all, rest[1:]...)
}
