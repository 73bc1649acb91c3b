//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"unsafe"

	"cllm/llm"
)

// Embedder is an embedder over a model: a context of its own, which shares the
// weights with others.
//
// Where the tokens of a text see only those before them, the text may come in
// parts, and the context keeps what was computed. The vector is then made here:
// llama.cpp would pool the parts apart. Where tokens see the whole text,
// it is computed in one pass and llama.cpp pools.
type Embedder struct {
	c       *Context
	limits  llm.EmbedLimits
	pooling Pooling
	aborted atomic.Bool

	means []mean // of each sequence, with PoolingMean in parts
	rows  []llm.Row
	first []C.cllm_row // what is computed without vectors, before second
	then  []C.cllm_row // what is computed with vectors
	take  []C.int32_t
	out   []float32
}

var _ llm.Embedder = (*Embedder)(nil)

// mean is the sum of the vectors of an unfinished text's tokens.
type mean struct {
	sum []float64
	n   int
}

const (
	defaultTexts = 128
	// leastEmbedBatch is the fewest tokens that are computed together.
	leastEmbedBatch = 256
	// maxOutputBytes bounds the logits of a batch: where a model has them, llama.cpp
	// computes those of each row whose vector is taken, although nobody looks at them.
	// A text that is longer than a batch exceeds it.
	maxOutputBytes = 256 << 20
	// maxWhole is the longest text that is computed in one pass. The buffers grow with
	// the square of it. Models that see the whole text are trained for less, or as much.
	maxWhole = 8192
)

// NewEmbedder returns an embedder over the model. The error is as NewContext's.
func (m *Model) NewEmbedder(o EmbedderOptions) (*Embedder, error) {
	vocab := max(len(m.vocab.pieces), 1)
	rows := max(maxOutputBytes/4/vocab, leastEmbedBatch)
	o.Sequences = cmp.Or(o.Sequences, defaultTexts)
	o.Batch = cmp.Or(o.Batch, 2048)
	o.Context = cmp.Or(o.Context, m.Info().TrainContext, 4096)
	if o.Sequences < 0 || o.Batch < 0 || o.Context < 0 {
		return nil, fmt.Errorf("new embedder: a size is negative: %+v", o)
	}
	if o.Pooling == PoolingModel {
		o.Pooling = m.pooling()
	}
	if m.causal() && (o.Pooling == PoolingNone || o.Pooling == PoolingLast || o.Pooling == PoolingMean) {
		outputs := o.Sequences
		if o.Pooling == PoolingMean {
			o.Batch = min(o.Batch, rows)
			outputs = o.Batch
		}
		e, err := m.newEmbedder(o, ContextOptions{
			Cells: (o.Context + o.Batch + 255) / 256 * 256, Outputs: outputs, embeds: inParts, pooling: PoolingNone,
		})
		if !errors.Is(err, llm.ErrUnsupported) {
			return e, err
		}
		// The model keeps nothing between two passes.
	}
	o.Batch, o.Context = min(o.Batch, rows), min(o.Context, maxWhole)
	return m.newEmbedder(o, ContextOptions{embeds: asWhole, pooling: o.Pooling})
}

// newEmbedder completes the context's options and opens it.
func (m *Model) newEmbedder(o EmbedderOptions, co ContextOptions) (*Embedder, error) {
	co.Sequences, co.ContextPerSequence, co.Batch = o.Sequences, o.Context, o.Batch
	co.Threads, co.Poll, co.KVType, co.FlashAttention = o.Threads, o.Poll, o.KVType, o.FlashAttention
	co.Unified = true
	whole, outputs := co.embeds == asWhole, co.Outputs
	if whole {
		co.Batch = max(o.Batch, o.Context)
		co.Cells = (co.Batch + o.Sequences + 255) / 256 * 256 // Batch is rounded up to a multiple of Sequences
		outputs = o.Batch
	}
	c, err := m.NewContext(co)
	if err != nil {
		return nil, err
	}
	e := &Embedder{
		c:       c,
		pooling: o.Pooling,
		limits: llm.EmbedLimits{
			Sequences:   c.limits.Sequences,
			Context:     min(c.limits.Context, o.Context),
			Batch:       min(o.Batch, c.limits.Batch),
			Width:       c.width,
			Whole:       whole,
			CellBytes:   c.limits.CellBytes,
			BufferBytes: int64(outputs) * int64(c.width) * 4,
		},
	}
	if c.memory { // so it answers, too: it has logits
		e.limits.BufferBytes += int64(outputs) * int64(len(m.vocab.pieces)) * 4
	}
	if !whole && o.Pooling == PoolingMean {
		e.means = make([]mean, c.limits.Sequences)
	}
	return e, nil
}

// pooling is what the model file says.
func (m *Model) pooling() Pooling {
	arch, _ := m.Meta("general.architecture")
	text, _ := m.Meta(arch + ".pooling_type")
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > int(PoolingRank)-int(PoolingNone) {
		return PoolingNone
	}
	return PoolingNone + Pooling(n)
}

// causal reports whether a token sees only those before it. It is not the last
// word: some models have no memory whatever the file says.
func (m *Model) causal() bool {
	arch, _ := m.Meta("general.architecture")
	text, _ := m.Meta(arch + ".attention.causal")
	return text != "false"
}

// Limits says how much the embedder takes.
func (e *Embedder) Limits() llm.EmbedLimits { return e.limits }

// Embed computes the parts.
func (e *Embedder) Embed(parts []llm.EmbedPart) error {
	if err := e.check(parts); err != nil {
		return err
	}
	e.plan(parts)
	if len(e.first) > 0 {
		if err := e.compute(e.first, nil); err != nil {
			return err
		}
	}
	if len(e.then) > 0 {
		if err := e.compute(e.then, e.take); err != nil {
			return err
		}
	}
	if e.c.memory {
		copy(e.c.held, e.c.next)
	}
	e.deliver(parts)
	for _, p := range parts {
		if !p.Last {
			continue
		}
		if err := e.c.truncate(p.Seq, 0); err != nil {
			return err
		}
	}
	return nil
}

// check finds the parts that break a rule. It leaves all rows in e.rows, and in
// e.c.next what the sequences hold afterwards.
func (e *Embedder) check(parts []llm.EmbedPart) error {
	invalid := func(format string, args ...any) error {
		return &Error{Op: "embed", Class: llm.ErrInvalidBatch, Detail: fmt.Sprintf(format, args...)}
	}
	if e.aborted.Load() {
		return &Error{Op: "embed", Class: llm.ErrAborted}
	}
	e.rows = e.rows[:0]
	for i, p := range parts {
		if p.Seq < 0 || int(p.Seq) >= e.limits.Sequences {
			return invalid("part %d: there is no sequence %d", i, p.Seq)
		}
		twice := slices.ContainsFunc(parts[:i], func(q llm.EmbedPart) bool { return q.Seq == p.Seq })
		held := e.c.held[p.Seq]
		switch {
		case twice:
			return invalid("part %d: sequence %d has two", i, p.Seq)
		case len(p.Tokens) == 0:
			return invalid("part %d is empty", i)
		case e.limits.Whole && !p.Last:
			return invalid("part %d: a text must be whole", i)
		case int(held)+len(p.Tokens) > e.limits.Context:
			return invalid("part %d: a text of %d tokens; %d are possible", i, int(held)+len(p.Tokens), e.limits.Context)
		}
		for j, t := range p.Tokens {
			e.rows = append(e.rows, llm.Row{Token: t, Pos: held + llm.Pos(j), Seq: p.Seq})
		}
	}
	if n := len(e.rows); n > e.limits.Batch && !(e.limits.Whole && len(parts) == 1) {
		return invalid("%d tokens; %d are possible", n, e.limits.Batch)
	}
	return e.c.check(e.rows)
}

// plan sorts the rows: those whose vectors are taken come second. What a token's
// vector depends on is in the same sequence before it.
func (e *Embedder) plan(parts []llm.EmbedPart) {
	e.first, e.then, e.take = e.first[:0], e.then[:0], e.take[:0]
	all := e.limits.Whole || e.means != nil
	pooled := e.limits.Whole && e.pooling != PoolingNone
	i := 0
	for _, p := range parts {
		for j := range p.Tokens {
			row := C.cllm_row{token: C.int32_t(e.rows[i].Token), pos: C.int32_t(e.rows[i].Pos), seq: C.int32_t(p.Seq)}
			i++
			ends := p.Last && j == len(p.Tokens)-1
			if !all && !ends {
				e.first = append(e.first, row)
				continue
			}
			switch e.then = append(e.then, row); {
			case pooled && ends:
				e.take = append(e.take, C.int32_t(p.Seq))
			case !pooled && (ends || e.means != nil):
				e.take = append(e.take, C.int32_t(len(e.then)-1))
			}
		}
	}
}

// compute decodes rows and leaves the vectors that are taken in e.out.
func (e *Embedder) compute(rows []C.cllm_row, take []C.int32_t) error {
	e.c.uses++
	e.out = slices.Grow(e.out[:0], len(take)*e.limits.Width+1)[:len(take)*e.limits.Width+1]
	take = append(take, 0) // so that there is an address
	defer e.c.holdAdapters()()
	var cerr C.cllm_error
	code := int(C.cllm_embed(e.c.c, &rows[0], C.int32_t(len(rows)), &take[0], C.int32_t(len(take)-1), C.int32_t(e.limits.Width),
		(*C.float)(unsafe.Pointer(&e.out[0])), &cerr))
	if code != 0 {
		drainLog()
		return &Error{Op: "embed", Code: code, Detail: cause(C.GoString(&cerr.text[0])), Class: decodeClass(code)}
	}
	return failure("embed", &cerr, llm.ErrUnsupported)
}

// deliver makes the vectors of the texts that end.
func (e *Embedder) deliver(parts []llm.EmbedPart) {
	out := e.out
	next := func() (v []float32) {
		v, out = out[:e.limits.Width], out[e.limits.Width:]
		return v
	}
	for i := range parts {
		p := &parts[i]
		if e.means != nil {
			p.Vector = e.means[p.Seq].add(next, len(p.Tokens), e.limits.Width, p.Last)
		} else if p.Last {
			p.Vector = slices.Clone(next())
		}
	}
}

// add adds n vectors of the given width. With last it returns the mean and starts anew.
func (m *mean) add(next func() []float32, n, width int, last bool) []float32 {
	if m.sum == nil {
		m.sum = make([]float64, width)
	}
	m.n += n
	for range n {
		for i, x := range next() {
			m.sum[i] += float64(x)
		}
	}
	if !last {
		return nil
	}
	v := make([]float32, width)
	for i, x := range m.sum {
		v[i] = float32(x / float64(m.n))
	}
	*m = mean{}
	return v
}

// Forget frees the sequence of an unfinished text.
func (e *Embedder) Forget(seq llm.SeqID) {
	if e.c.checkSeq("forget", seq) != nil {
		return
	}
	e.c.truncate(seq, 0) // to nothing: it can't fail
	if e.means != nil {
		e.means[seq] = mean{}
	}
}

// SetAdapters makes the embedder apply these adapters, each with its scale.
func (e *Embedder) SetAdapters(adapters []*Adapter, scales []float32) error {
	return e.c.SetAdapters(adapters, scales)
}

// Abort ends the call in progress, and every later one, with llm.ErrAborted.
func (e *Embedder) Abort() {
	e.aborted.Store(true)
	e.c.Abort()
}

// Close frees the embedder. It may be called more than once.
func (e *Embedder) Close() { e.c.Close() }
