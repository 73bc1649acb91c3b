package gbnf

import (
	"encoding/binary"
	"errors"
	"slices"
	"unicode/utf8"

	"cllm/llm"
)

// ErrTooComplex: the grammar can be read in too many ways at this point of the text.
var ErrTooComplex = errors.New("the format is too complex: it can be read in too many ways, or calls itself before any text")

// The bounds of a matcher.
const (
	maxNodes = 1 << 17 // kept
	maxCells = 1 << 20 // of the table from states and characters to states

	// Looking at a stack for a character is a unit of work, a place that is reached is
	// reachWork of them. A call may do maxWork, which takes some tens of milliseconds,
	// and many calls together relief each.
	maxWork   = 1 << 24
	reachWork = 16
	relief    = maxWork / 16
)

// node is a stack: a place in an alternative, and the stack below it. Equal stacks
// are one node. Node 0 is the empty stack: the text is whole.
type node struct {
	at    int32 // an element that is no end
	below int32
}

// state is what the grammar can be doing at a point of the text.
type state struct {
	stacks []int32 // whose tops want a character; in rising order
	whole  bool    // the empty stack is among them
	next   []int32 // by class: the state after a character, dead, or unknown
}

// partial is the first bytes of a character that is not complete.
type partial struct {
	bytes [utf8.UTFMax]byte
	n     int
}

const (
	unknown int32 = 0  // the number of no state
	dead    int32 = -1 // the character does not fit
)

// Matcher is a place in a grammar. It implements llm.Grammar.
type Matcher struct {
	g     *Grammar
	vocab llm.Vocab

	state int32
	rest  partial

	nodes   []node
	nodeIDs map[node]int32
	states  []state
	ids     map[string]int32 // of the states
	cells   int
	work    int // of this call, and of those before it what was not forgiven yet
	err     error

	todo  []int32  // scratch of closure
	seen  []uint32 // scratch: seen[node] == round
	round uint32
	key   []byte // scratch
}

var _ llm.Grammar = (*Matcher)(nil)

// Match begins a text in the tokens of a vocabulary. The error is ErrTooComplex.
func (g *Grammar) Match(v llm.Vocab) (*Matcher, error) {
	m := &Matcher{g: g, vocab: v}
	m.clear()
	m.todo = m.todo[:0]
	for _, a := range g.rules[g.root] {
		m.todo = append(m.todo, m.push(a, 0))
	}
	if m.state = m.closure(); m.state == dead { // it may call itself and do nothing else
		return nil, ErrTooComplex
	}
	return m, nil
}

// Take moves on by a token if it fits.
func (m *Matcher) Take(t llm.Token) (bool, error) {
	if m.vocab.IsEnd(t) {
		return m.Complete(), m.err
	}
	return m.TakeText(m.vocab.Piece(t))
}

// TakeText moves on by a text if it fits. The empty text leads nowhere and never fits.
func (m *Matcher) TakeText(text string) (bool, error) {
	m.begin()
	to, rest := m.walk(text)
	if to == dead || m.err != nil {
		return false, m.err
	}
	m.state, m.rest = to, rest
	return true, nil
}

// Fits reports whether a text may come next.
func (m *Matcher) Fits(text string) (bool, error) {
	m.begin()
	to, _ := m.walk(text)
	return to != dead && m.err == nil, m.err
}

// Filter drops the candidates that don't fit.
func (m *Matcher) Filter(c []llm.Candidate) ([]llm.Candidate, error) {
	m.begin()
	kept, whole := c[:0], m.Complete()
	for _, one := range c {
		if m.err != nil {
			return nil, m.err
		}
		ok := whole
		if !m.vocab.IsEnd(one.Token) {
			to, _ := m.walk(m.vocab.Piece(one.Token))
			ok = to != dead
		}
		if ok {
			kept = append(kept, one)
		}
		if m.err == nil && m.full() {
			m.compact()
		}
	}
	if m.err != nil {
		return nil, m.err
	}
	return kept, nil
}

// Complete reports whether the text may end here.
func (m *Matcher) Complete() bool {
	return m.err == nil && m.rest.n == 0 && m.states[m.state].whole
}

// begin starts a call: more work may be done, and there is room in the tables.
func (m *Matcher) begin() {
	m.work = max(m.work-relief, 0)
	if m.err == nil && m.full() {
		m.compact()
	}
}

// walk follows a piece from the current state. It returns where it leads, and the
// bytes at its end that begin a character.
func (m *Matcher) walk(piece string) (to int32, rest partial) {
	if piece == "" || m.err != nil {
		return dead, rest
	}
	to, rest = m.state, m.rest
	for i := 0; i < len(piece) && to != dead; i++ {
		b := piece[i]
		if rest.n == 0 && b < utf8.RuneSelf {
			to = m.step(to, m.g.ascii[b])
			continue
		}
		rest.bytes[rest.n] = b
		rest.n++
		begun := rest.bytes[:rest.n]
		if !utf8.FullRune(begun) {
			continue
		}
		r, size := utf8.DecodeRune(begun)
		if size < len(begun) || r == utf8.RuneError && size == 1 {
			return dead, rest
		}
		to, rest.n = m.step(to, m.g.classOf(r)), 0
	}
	if to == dead || rest.n > 0 && !m.begins(to, rest.bytes[:rest.n]) {
		return dead, rest
	}
	return to, rest
}

// begins reports whether a character that begins with these bytes fits.
func (m *Matcher) begins(at int32, bytes []byte) bool {
	first, last := completions(bytes)
	for i := m.g.interval(first); i < len(m.g.bounds) && m.g.bounds[i] <= last; i++ {
		if m.step(at, m.g.class[i]) != dead {
			return true
		}
	}
	return false
}

// completions returns the first and the last character that begin with some bytes
// of which utf8.FullRune says that more may follow.
func completions(bytes []byte) (first, last rune) {
	low, high := slices.Clone(bytes), slices.Clone(bytes)
	for len(low) < utf8.UTFMax && !utf8.FullRune(low) {
		least, most := byte(0x80), byte(0xbf)
		if len(low) == 1 {
			switch low[0] {
			case 0xe0:
				least = 0xa0
			case 0xed:
				most = 0x9f
			case 0xf0:
				least = 0x90
			case 0xf4:
				most = 0x8f
			}
		}
		low, high = append(low, least), append(high, most)
	}
	first, _ = utf8.DecodeRune(low)
	last, _ = utf8.DecodeRune(high)
	return first, last
}

// step is the state after a character of a class.
func (m *Matcher) step(from int32, class uint16) int32 {
	s := &m.states[from]
	if s.next == nil {
		s.next = make([]int32, len(m.g.matches))
		m.cells += len(s.next)
	}
	if to := s.next[class]; to != unknown {
		return to
	}
	m.todo = m.todo[:0]
	for _, id := range s.stacks {
		n := m.nodes[id]
		if m.g.matchesClass(m.g.elements[n.at].arg, class) {
			m.todo = append(m.todo, m.push(n.at+1, n.below))
		}
	}
	m.work += len(s.stacks)
	to := m.closure()
	m.states[from].next[class] = to
	return to
}

// push is the node of a place on top of a stack. A place at the end of its
// alternative is the stack below.
func (m *Matcher) push(at, below int32) int32 {
	if m.g.elements[at].kind == end {
		return below
	}
	n := node{at, below}
	id, ok := m.nodeIDs[n]
	if !ok {
		id = int32(len(m.nodes))
		m.nodes = append(m.nodes, n)
		m.seen = append(m.seen, 0)
		m.nodeIDs[n] = id
	}
	return id
}

// closure goes from the stacks in todo into the rules on their tops until each
// top wants a character, and returns the state that these stacks are.
func (m *Matcher) closure() int32 {
	m.round++
	var stacks []int32
	whole := false
	for len(m.todo) > 0 {
		id := m.todo[len(m.todo)-1]
		m.todo = m.todo[:len(m.todo)-1]
		if m.seen[id] == m.round {
			continue
		}
		m.seen[id] = m.round
		if m.work += reachWork; m.work > maxWork || len(m.nodes) > 2*maxNodes {
			m.err = ErrTooComplex
			return dead
		}
		n := m.nodes[id]
		switch e := m.g.elements[max(n.at, 0)]; {
		case id == 0:
			whole = true
		case e.kind == char:
			stacks = append(stacks, id)
		default:
			below := m.push(n.at+1, n.below)
			for _, a := range m.g.rules[e.arg] {
				m.todo = append(m.todo, m.push(a, below))
			}
		}
	}
	return m.number(stacks, whole)
}

// number is the state of a set of stacks.
func (m *Matcher) number(stacks []int32, whole bool) int32 {
	if len(stacks) == 0 && !whole {
		return dead
	}
	slices.Sort(stacks)
	m.key = m.key[:0]
	if whole {
		m.key = append(m.key, 0)
	}
	for _, id := range stacks {
		m.key = binary.LittleEndian.AppendUint32(m.key, uint32(id))
	}
	id, ok := m.ids[string(m.key)]
	if !ok {
		id = int32(len(m.states))
		m.states = append(m.states, state{stacks: stacks, whole: whole})
		m.cells += len(stacks)
		m.ids[string(m.key)] = id
	}
	return id
}

func (m *Matcher) full() bool { return len(m.nodes) > maxNodes || m.cells > maxCells }

// clear forgets all nodes and states. State 0 is none.
func (m *Matcher) clear() {
	m.nodes, m.seen = []node{{at: -1}}, make([]uint32, 1)
	m.nodeIDs = make(map[node]int32)
	m.states, m.ids = make([]state, 1), make(map[string]int32)
	m.cells, m.round = 0, 0
}

// compact forgets all nodes and states but the current state.
func (m *Matcher) compact() {
	nodes, s := m.nodes, m.states[m.state]
	m.clear()
	moved := map[int32]int32{0: 0}
	var chain []int32
	var stacks []int32
	for _, id := range s.stacks {
		chain = chain[:0]
		for at := id; ; at = nodes[at].below {
			if _, ok := moved[at]; ok {
				break
			}
			chain = append(chain, at)
		}
		for _, at := range slices.Backward(chain) {
			moved[at] = m.push(nodes[at].at, moved[nodes[at].below])
		}
		stacks = append(stacks, moved[id])
	}
	m.state = m.number(stacks, s.whole)
	if len(m.nodes) > maxNodes/2 || m.cells > maxCells/2 { // it would come back soon
		m.err = ErrTooComplex
	}
}
