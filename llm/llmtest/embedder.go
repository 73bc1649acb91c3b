package llmtest

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"cllm/llm"
)

// EmbedOptions configures a fake embedder. The zero value takes 64 texts of 4096
// tokens, 2048 tokens in a call, and gives vectors of 8 numbers.
type EmbedOptions struct {
	Limits llm.EmbedLimits // zero fields get the defaults above; CellBytes 1

	// Vector is the embedding of a text; nil: Vector.
	Vector func(text []llm.Token, width int) []float32

	// BeforeEmbed is called by Embed with the parts; an error is returned as
	// Embed's. Tests order failures with it, wait in it, or look at calls.
	BeforeEmbed func(parts []llm.EmbedPart) error
}

// Embedder is the fake. It computes nothing, but verifies every call and records
// each broken rule as a violation. A text's vector is a function of its tokens
// alone. It may be used by one goroutine at a time; Abort, Violations, Calls and
// Closed from any.
type Embedder struct {
	opts    EmbedOptions
	limits  llm.EmbedLimits
	held    [][]llm.Token // of the unfinished text of each sequence
	aborted atomic.Bool

	mu         sync.Mutex
	violations []string
	calls      []int // parts of each call
	closed     bool
}

var _ llm.Embedder = (*Embedder)(nil)

// NewEmbedder returns a fake embedder.
func NewEmbedder(o EmbedOptions) *Embedder {
	l := o.Limits
	for field, value := range map[*int]int{&l.Sequences: 64, &l.Context: 4096, &l.Batch: 2048, &l.Width: 8} {
		if *field == 0 {
			*field = value
		}
	}
	if l.CellBytes == 0 {
		l.CellBytes = 1
	}
	if o.Vector == nil {
		o.Vector = Vector
	}
	return &Embedder{opts: o, limits: l, held: make([][]llm.Token, l.Sequences)}
}

// Vector is the fake's embedding of a text: width numbers between -1 and 1 that
// follow from all its tokens and their order.
func Vector(text []llm.Token, width int) []float32 {
	h := hash(text)
	v := make([]float32, width)
	for i := range v {
		h = h*6364136223846793005 + 1442695040888963407
		v[i] = float32(h>>40)/(1<<23) - 1
	}
	return v
}

// Limits returns what the options say.
func (e *Embedder) Limits() llm.EmbedLimits { return e.limits }

// Embed verifies the parts and returns the vectors of those that are last.
func (e *Embedder) Embed(parts []llm.EmbedPart) error {
	e.alive("Embed")
	if e.opts.BeforeEmbed != nil {
		if err := e.opts.BeforeEmbed(parts); err != nil {
			return err
		}
	}
	if e.aborted.Load() {
		return llm.ErrAborted
	}
	if err := e.verify(parts); err != nil {
		e.violate(err.Error())
		return fmt.Errorf("%w: %w", llm.ErrInvalidBatch, err)
	}
	e.mu.Lock()
	e.calls = append(e.calls, len(parts))
	e.mu.Unlock()
	for i := range parts {
		p := &parts[i]
		e.held[p.Seq] = append(e.held[p.Seq], p.Tokens...)
		if p.Last {
			p.Vector = e.opts.Vector(e.held[p.Seq], e.limits.Width)
			e.held[p.Seq] = nil
		}
	}
	return nil
}

func (e *Embedder) verify(parts []llm.EmbedPart) error {
	if len(parts) == 0 {
		return fmt.Errorf("a call without parts")
	}
	total := 0
	var seen []llm.SeqID
	for i, p := range parts {
		if p.Seq < 0 || int(p.Seq) >= e.limits.Sequences {
			return fmt.Errorf("part %d: there is no sequence %d", i, p.Seq)
		}
		held := len(e.held[p.Seq])
		switch {
		case slices.Contains(seen, p.Seq):
			return fmt.Errorf("part %d: sequence %d has two parts", i, p.Seq)
		case len(p.Tokens) == 0:
			return fmt.Errorf("part %d is empty", i)
		case e.limits.Whole && !p.Last:
			return fmt.Errorf("part %d: a text comes in parts", i)
		case held+len(p.Tokens) > e.limits.Context:
			return fmt.Errorf("part %d: a text of %d tokens and more, %d are possible", i, held+len(p.Tokens), e.limits.Context)
		}
		for _, t := range p.Tokens {
			if t < 0 || t >= VocabSize {
				return fmt.Errorf("part %d: there is no token %d", i, t)
			}
		}
		seen = append(seen, p.Seq)
		total += len(p.Tokens)
	}
	if total > e.limits.Batch && !(e.limits.Whole && len(parts) == 1) {
		return fmt.Errorf("%d tokens, %d are possible", total, e.limits.Batch)
	}
	return nil
}

// Forget drops an unfinished text. That there is none is a violation.
func (e *Embedder) Forget(seq llm.SeqID) {
	e.alive("Forget")
	if len(e.held[seq]) == 0 {
		e.violate(fmt.Sprintf("sequence %d is forgotten, it holds nothing", seq))
	}
	e.held[seq] = nil
}

// Abort makes the calls after it fail.
func (e *Embedder) Abort() { e.aborted.Store(true) }

// Close ends the embedder. A second call is a violation.
func (e *Embedder) Close() {
	e.alive("Close")
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
}

// Calls returns the number of parts of each call so far.
func (e *Embedder) Calls() []int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.calls)
}

// Violations returns the rules that were broken.
func (e *Embedder) Violations() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.violations)
}

// Closed reports whether Close was called.
func (e *Embedder) Closed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}

func (e *Embedder) alive(op string) {
	if e.Closed() {
		e.violate(op + " after Close")
	}
}

func (e *Embedder) violate(rule string) {
	e.mu.Lock()
	e.violations = append(e.violations, rule)
	e.mu.Unlock()
}
