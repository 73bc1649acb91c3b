package llmtest

import (
	"errors"
	"fmt"
	"sync"

	"cllm/llm"
)

// Options configures a fake engine. The zero value is 64 sequences of 4096
// positions, batches of 2048 rows, one cache per sequence.
type Options struct {
	Limits llm.Limits // zero fields get the defaults above; CellBytes 1
	Cells  int        // tokens it holds over all sequences; 0: no limit of their own
	Ubatch int        // rows of one pass; 0: 512

	// Next is the likeliest token after a history; nil: Next.
	Next func(history []llm.Token) llm.Token

	// BeforeDecode is called by Decode with the rows; an error is returned as
	// Decode's. Tests order failures with it, wait in it, or look at batches.
	BeforeDecode func(rows []llm.Row) error

	NoShift    bool // Shift returns ErrUnsupported
	NoTruncate bool // Truncate to more than 0 returns ErrUnsupported, as recurrent models do
}

// Engine is the fake. It may be used by one goroutine at a time, as every
// engine; Violations, Passes and Closed from any.
type Engine struct {
	opts   Options
	limits llm.Limits
	seqs   [][]llm.Token // what each sequence holds
	rows   []llm.Row     // of the last Decode that succeeded
	ends   []int         // ends[i]: tokens that rows[i].Seq held up to and with row i
	logits []float32

	mu         sync.Mutex
	violations []string
	passes     int
	decodes    int
	trims      int
	closed     bool
}

var _ llm.Engine = (*Engine)(nil)

// NewEngine returns a fake engine.
func NewEngine(o Options) *Engine {
	l := o.Limits
	if l.Sequences == 0 {
		l.Sequences = 64
	}
	if l.Context == 0 {
		l.Context = 4096
	}
	if l.Batch == 0 {
		l.Batch = 2048
	}
	if l.Outputs == 0 {
		l.Outputs = max(l.Sequences, 16)
	}
	if l.CellBytes == 0 {
		l.CellBytes = 1
	}
	if o.Ubatch == 0 {
		o.Ubatch = 512
	}
	if o.Next == nil {
		o.Next = Next
	}
	return &Engine{opts: o, limits: l, seqs: make([][]llm.Token, l.Sequences), logits: make([]float32, VocabSize)}
}

// Limits returns what the options say.
func (e *Engine) Limits() llm.Limits { return e.limits }

// Decode verifies the rows and holds them.
func (e *Engine) Decode(rows []llm.Row) error {
	e.alive("Decode")
	if e.opts.BeforeDecode != nil {
		if err := e.opts.BeforeDecode(rows); err != nil {
			return err
		}
	}
	if err := e.verify(rows); err != nil {
		e.violate(err.Error())
		return fmt.Errorf("%w: %w", llm.ErrInvalidBatch, err)
	}
	if e.opts.Cells > 0 && e.held()+len(rows) > e.opts.Cells {
		return llm.ErrNoRoom
	}
	e.rows, e.ends = append(e.rows[:0], rows...), e.ends[:0]
	for _, r := range rows {
		e.seqs[r.Seq] = append(e.seqs[r.Seq], r.Token)
		e.ends = append(e.ends, len(e.seqs[r.Seq]))
	}
	e.mu.Lock()
	e.passes += Passes(rows, e.opts.Ubatch, e.limits.Unified)
	e.decodes++
	e.mu.Unlock()
	return nil
}

func (e *Engine) verify(rows []llm.Row) error {
	if len(rows) == 0 || len(rows) > e.limits.Batch {
		return fmt.Errorf("a batch of %d rows; 1 to %d are allowed", len(rows), e.limits.Batch)
	}
	next := make(map[llm.SeqID]int)
	outputs := 0
	for i, r := range rows {
		if r.Logits {
			outputs++
		}
		if r.Seq < 0 || int(r.Seq) >= e.limits.Sequences {
			return fmt.Errorf("row %d: there is no sequence %d", i, r.Seq)
		}
		n, ok := next[r.Seq]
		if !ok {
			n = len(e.seqs[r.Seq])
		}
		switch {
		case int(r.Pos) != n:
			return fmt.Errorf("row %d: sequence %d goes on at position %d, not %d", i, r.Seq, n, r.Pos)
		case n >= e.limits.Context:
			return fmt.Errorf("row %d: sequence %d is full", i, r.Seq)
		case r.Token < 0 || r.Token >= VocabSize:
			return fmt.Errorf("row %d: there is no token %d", i, r.Token)
		}
		next[r.Seq] = n + 1
	}
	if outputs > e.limits.Outputs {
		return fmt.Errorf("%d rows ask for logits; at most %d may", outputs, e.limits.Outputs)
	}
	return nil
}

func (e *Engine) held() int {
	n := 0
	for _, s := range e.seqs {
		n += len(s)
	}
	return n
}

// Sample picks from logits that prefer Next of the row's history.
func (e *Engine) Sample(picks []llm.Pick) {
	e.alive("Sample")
	for i := range picks {
		p := &picks[i]
		if p.Row < 0 || p.Row >= len(e.rows) || !e.rows[p.Row].Logits {
			p.Err = fmt.Errorf("row %d has no logits", p.Row)
			e.violate(p.Err.Error())
			continue
		}
		history := e.seqs[e.rows[p.Row].Seq][:e.ends[p.Row]]
		e.fill(history)
		SamplePick(e.logits, p)
	}
}

// fill sets the logits of a history: Next is far ahead, the others follow from
// the same hash.
func (e *Engine) fill(history []llm.Token) {
	h := hash(history)
	for t := range e.logits {
		h = h*6364136223846793005 + 1442695040888963407
		e.logits[t] = float32(h>>40) / (1 << 24)
	}
	e.logits[e.opts.Next(history)] = 24
}

// Held is the number of tokens that the sequence holds.
func (e *Engine) Held(seq llm.SeqID) llm.Pos { return llm.Pos(len(e.seqs[seq])) }

// Truncate forgets the tokens from n on.
func (e *Engine) Truncate(seq llm.SeqID, n llm.Pos) error {
	e.alive("Truncate")
	if n > 0 && e.opts.NoTruncate {
		return llm.ErrUnsupported
	}
	if int(n) > len(e.seqs[seq]) {
		e.violate(fmt.Sprintf("sequence %d is truncated to %d, it holds %d", seq, n, len(e.seqs[seq])))
		return nil
	}
	e.seqs[seq] = e.seqs[seq][:n]
	return nil
}

// Shift drops tokens from the middle.
func (e *Engine) Shift(seq llm.SeqID, keep, discard llm.Pos) error {
	e.alive("Shift")
	if e.opts.NoShift {
		return llm.ErrUnsupported
	}
	s := e.seqs[seq]
	if keep < 0 || discard <= 0 || int(keep+discard) > len(s) {
		e.violate(fmt.Sprintf("sequence %d is shifted by %d after %d, it holds %d", seq, discard, keep, len(s)))
		return nil
	}
	e.seqs[seq] = append(s[:keep], s[keep+discard:]...)
	return nil
}

// Copy makes dst hold the first n tokens of src.
func (e *Engine) Copy(dst, src llm.SeqID, n llm.Pos) error {
	e.alive("Copy")
	if dst == src || int(n) > len(e.seqs[src]) {
		e.violate(fmt.Sprintf("%d tokens are copied from sequence %d, which holds %d, to %d", n, src, len(e.seqs[src]), dst))
		return errors.New("nothing to copy")
	}
	e.seqs[dst] = append(e.seqs[dst][:0], e.seqs[src][:n]...)
	return nil
}

// Trim notes that it was called.
func (e *Engine) Trim() {
	e.alive("Trim")
	e.mu.Lock()
	e.trims++
	e.mu.Unlock()
}

// Trims is how often Trim was called.
func (e *Engine) Trims() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.trims
}

// Close ends the engine. A second call is a violation.
func (e *Engine) Close() {
	e.alive("Close")
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
}

// Violations returns the rules that were broken.
func (e *Engine) Violations() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.violations...)
}

// Passes returns the passes over the weights and the calls of Decode so far.
func (e *Engine) Passes() (passes, decodes int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.passes, e.decodes
}

// Closed reports whether Close was called.
func (e *Engine) Closed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}

func (e *Engine) alive(op string) {
	if e.Closed() {
		e.violate(op + " after Close")
	}
}

func (e *Engine) violate(rule string) {
	e.mu.Lock()
	e.violations = append(e.violations, rule)
	e.mu.Unlock()
}
