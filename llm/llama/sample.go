//go:build cgo

package llama

// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"cllm/llm"
)

// Candidates come from C as the Go slice that they are.
var _ = [1]struct{}{}[unsafe.Sizeof(llm.Candidate{})-unsafe.Sizeof(C.cllm_candidate{})+
	unsafe.Offsetof(llm.Candidate{}.Logit)-unsafe.Offsetof(C.cllm_candidate{}.logit)]

// errNoLogits: the row asked for none, or there was no decode.
var errNoLogits = errors.New("the row has no logits")

// few candidates are selected for many rows at once. Above, room for all rows
// would be megabytes, and sorting the whole row is about as fast.
const few = 4096

// picker samples the picks of one goroutine. Its slices are kept for the next step.
type picker struct {
	asks  []C.cllm_selection // what to select, for all picks in one call
	which []int              // the pick of each
	open  []int              // the picks that want the whole vocabulary
	found []llm.Candidate    // what was selected
	sums  []float64          // of each pick with log-probabilities, the logarithm of its row's sum
}

// Sample picks a token for each pick.
func (c *Context) Sample(picks []llm.Pick) {
	c.uses++
	if len(picks) == 0 {
		return
	}
	workers := min(runtime.GOMAXPROCS(0), len(picks)/4+1)
	for len(c.pickers) < workers {
		c.pickers = append(c.pickers, picker{})
	}
	share := (len(picks) + workers - 1) / workers
	var others sync.WaitGroup
	for w := 1; w < workers && w*share < len(picks); w++ {
		others.Go(func() { c.pickers[w].sample(c, picks[w*share:min((w+1)*share, len(picks))]) })
	}
	c.pickers[0].sample(c, picks[:min(share, len(picks))])
	others.Wait()
}

// sample serves the picks that want few candidates with one call into C. The
// others need room for the whole vocabulary and come one by one.
func (p *picker) sample(c *Context, picks []llm.Pick) {
	p.asks, p.which, p.open = p.asks[:0], p.which[:0], p.open[:0]
	p.sums = slices.Grow(p.sums[:0], len(picks))[:len(picks)]
	room := 0
	for i := range picks {
		row, err := c.row(picks[i].Row)
		if err != nil {
			picks[i].Err = err
			continue
		}
		if picks[i].Logprobs != nil {
			p.sums[i] = p.tell(row, picks[i].Logprobs)
		}
		k := picks[i].Sampler.Prepare(row)
		if k <= 0 || k > few || k >= len(row) {
			p.open = append(p.open, i)
			continue
		}
		p.asks = append(p.asks, C.cllm_selection{
			logits: c.logits[picks[i].Row], offset: C.int64_t(room), n: C.int32_t(len(row)), k: C.int32_t(k)})
		p.which = append(p.which, i)
		room += k
	}
	p.choose(picks)
	for _, i := range p.open {
		p.chooseFromAll(c, &picks[i])
	}
	for i := range picks {
		if l := picks[i].Logprobs; l != nil && picks[i].Err == nil {
			row, _ := c.row(picks[i].Row)
			l.Picked = float32(float64(picks[i].Sampler.Logit(row, picks[i].Token)) - p.sums[i])
		}
	}
}

// tell notes the likeliest tokens of a row that was not prepared yet. It returns the
// logarithm of the row's sum.
func (p *picker) tell(row []float32, l *llm.Logprobs) (sum float64) {
	sum = float64(C.cllm_logsumexp((*C.float)(&row[0]), C.int32_t(len(row))))
	l.Top = nil
	if l.Most <= 0 {
		return sum
	}
	for _, c := range p.top(row, l.Most) {
		if q := float32(float64(c.Logit) - sum); !math.IsInf(float64(q), -1) {
			l.Top = append(l.Top, llm.Logprob{Token: c.Token, Logprob: q})
		}
	}
	return sum
}

// choose selects for p.asks and notes in p.open where that did not do.
func (p *picker) choose(picks []llm.Pick) {
	if len(p.asks) == 0 {
		return
	}
	last := &p.asks[len(p.asks)-1]
	p.makeRoom(int(last.offset) + int(last.k))
	C.cllm_select(&p.asks[0], C.int32_t(len(p.asks)), (*C.cllm_candidate)(unsafe.Pointer(&p.found[0])))
	for j := range p.asks {
		a, pick := &p.asks[j], &picks[p.which[j]]
		var more bool
		pick.Token, more, pick.Err = pick.Sampler.Choose(p.found[a.offset:int64(a.offset)+int64(a.found)], false)
		if more {
			p.open = append(p.open, p.which[j])
		}
	}
}

// chooseFromAll selects from a row that was prepared already.
func (p *picker) chooseFromAll(c *Context, pick *llm.Pick) {
	row, err := c.row(pick.Row)
	if err != nil {
		pick.Err = err
		return
	}
	pick.Token, _, pick.Err = pick.Sampler.Choose(p.top(row, llm.All), true)
}

// top selects from one row. What it returns is valid until p is used again.
func (p *picker) top(row []float32, k int) []llm.Candidate {
	if len(row) == 0 {
		return nil
	}
	if k <= 0 || k > len(row) {
		k = len(row)
	}
	p.makeRoom(k)
	n := C.cllm_select_one((*C.float)(&row[0]), C.int32_t(len(row)), C.int32_t(k), (*C.cllm_candidate)(unsafe.Pointer(&p.found[0])))
	return p.found[:n]
}

// Top returns the k likeliest tokens of a row of logits, likeliest first, equal
// ones by rising token; all of them for llm.All. Logits that are NaN are left out.
func Top(row []float32, k int) []llm.Candidate {
	return new(picker).top(row, k)
}

func (p *picker) makeRoom(n int) {
	if cap(p.found) < n {
		p.found = make([]llm.Candidate, n)
	}
	p.found = p.found[:cap(p.found)]
}

func (c *Context) vocabSize() int { return len(c.model.vocab.pieces) }

// row is a view of the logits of a row of the last decode, valid until the next.
func (c *Context) row(i int) ([]float32, error) {
	if i < 0 || i >= c.rows || c.logits[i] == nil {
		return nil, fmt.Errorf("sample row %d of %d: %w", i, c.rows, errNoLogits)
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(c.logits[i])), c.vocabSize()), nil
}

// Logits returns the logits of a row of the last decode, without a copy. They
// are valid until the next decode.
func (c *Context) Logits(row int) ([]float32, error) {
	c.uses++
	return c.row(row)
}
