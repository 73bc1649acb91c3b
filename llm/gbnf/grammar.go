package gbnf

import (
	"fmt"
	"slices"
	"sort"
	"unicode/utf8"
)

// The bounds of a grammar.
const (
	maxText     = 1 << 20 // bytes
	maxElements = 1 << 18 // after repetitions were written out
	maxDepth    = 200     // groups in groups
	maxRanges   = 1 << 12 // of different sets of characters, together
	maxRepeat   = 2000    // times; more at most is any number, more at least an error
)

// Grammar is a grammar that was read. The zero value is none.
type Grammar struct {
	elements []element
	rules    [][]int32 // of each rule the first elements of its alternatives
	root     int32

	// Characters that no set tells apart are of one class.
	bounds  []rune      // bounds[i] is the first character of interval i; bounds[0] is 0
	class   []uint16    // of each interval
	ascii   [128]uint16 // class of the first characters
	matches [][]uint64  // matches[class] has a bit for each set
}

// element is a place in an alternative.
type element struct {
	kind kind
	arg  int32
}

type kind uint8

const (
	end  kind = iota // of an alternative
	char             // a character of the set arg
	rule             // the rule arg
)

// span is a range of characters, both ends included.
type span struct{ first, last rune }

// set is what a character may be.
type set struct {
	spans []span
	not   bool // anything but the spans
}

func (s set) has(r rune) bool {
	for _, p := range s.spans {
		if p.first <= r && r <= p.last {
			return !s.not
		}
	}
	return s.not
}

// build makes a grammar of rules whose elements refer to sets.
func build(rules [][][]element, root int32, sets []set) *Grammar {
	g := &Grammar{root: root, rules: make([][]int32, len(rules))}
	for i, alternatives := range rules {
		for _, a := range alternatives {
			g.rules[i] = append(g.rules[i], int32(len(g.elements)))
			g.elements = append(append(g.elements, a...), element{kind: end})
		}
	}
	g.classify(sets)
	return g
}

// classify cuts the characters into intervals at the ends of all spans and gives
// those that are in the same sets the same class.
func (g *Grammar) classify(sets []set) {
	g.bounds = []rune{0}
	for _, s := range sets {
		for _, p := range s.spans {
			g.bounds = append(g.bounds, p.first, p.last+1)
		}
	}
	slices.Sort(g.bounds)
	g.bounds = slices.Compact(g.bounds)

	known := make(map[string]uint16)
	words := (len(sets) + 63) / 64
	row, key := make([]uint64, words), make([]byte, 0, words*8)
	for _, first := range g.bounds {
		clear(row)
		for i, s := range sets {
			if s.has(first) {
				row[i/64] |= 1 << (i % 64)
			}
		}
		key = key[:0]
		for _, w := range row {
			for range 8 {
				key = append(key, byte(w))
				w >>= 8
			}
		}
		c, ok := known[string(key)]
		if !ok {
			c = uint16(len(g.matches))
			known[string(key)] = c
			g.matches = append(g.matches, slices.Clone(row))
		}
		g.class = append(g.class, c)
	}
	for r := range g.ascii {
		g.ascii[r] = g.class[g.interval(rune(r))]
	}
}

// interval is the number of the interval that a character is in.
func (g *Grammar) interval(r rune) int {
	return sort.Search(len(g.bounds), func(i int) bool { return g.bounds[i] > r }) - 1
}

func (g *Grammar) classOf(r rune) uint16 {
	if r < utf8.RuneSelf {
		return g.ascii[r]
	}
	return g.class[g.interval(r)]
}

// matchesClass reports whether a set has the characters of a class.
func (g *Grammar) matchesClass(set int32, class uint16) bool {
	return g.matches[class][set/64]>>(set%64)&1 == 1
}

// Size is about how many bytes of memory the grammar takes.
func (g *Grammar) Size() int {
	n := 8*len(g.elements) + 24*len(g.rules) + 6*len(g.bounds)
	if len(g.matches) > 0 {
		n += len(g.matches) * (24 + 8*len(g.matches[0]))
	}
	return n
}

// Error says where and why a text is no grammar.
type Error struct {
	Line int // counted from 1
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("grammar, line %d: %s", e.Line, e.Text) }
