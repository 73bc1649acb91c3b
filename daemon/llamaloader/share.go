package llamaloader

import (
	"sync"

	"cllm/llm/llama"
)

// pool keeps the weights that are in memory, so that models which differ in their
// adapters only are made over the same ones.
type pool struct {
	mu   sync.Mutex
	sets map[string]*weightSet
}

// weightSet is one set of weights. Its fields are the pool's.
type weightSet struct {
	key   string // daemon.LoadSpec.Weights; "": they are not shared
	model *llama.Model
	vram  int64 // bytes of it on GPUs
	users int
}

// take returns the weights, if they are there.
func (p *pool) take(key string) *weightSet {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sets[key]
	if s != nil {
		s.users++
	}
	return s
}

// put adds weights that were loaded. When others were faster, these are freed, and
// theirs are returned.
func (p *pool) put(key string, model *llama.Model, vram int64) *weightSet {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.sets[key]; s != nil {
		model.Close()
		s.users++
		return s
	}
	s := &weightSet{key: key, model: model, vram: vram, users: 1}
	if key != "" {
		if p.sets == nil {
			p.sets = make(map[string]*weightSet)
		}
		p.sets[key] = s
	}
	return s
}

// drop frees the weights when their last user has gone.
func (p *pool) drop(s *weightSet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	if s.key != "" {
		delete(p.sets, s.key)
	}
	s.model.Close()
}
