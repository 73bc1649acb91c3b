//go:build cgo

package llama

// #include "shim.h"
// #include <stdlib.h>
import "C"

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"
)

// Adapter is a LoRA adapter for one model.
type Adapter struct {
	model  *Model
	c      *C.struct_llama_adapter_lora
	refs   atomic.Int32 // its own until it is closed, and one for each context that applies it
	closed atomic.Bool
}

// LoadAdapter loads a LoRA adapter (GGUF) that was made for the model.
func (m *Model) LoadAdapter(path string) (*Adapter, error) {
	if !m.acquire() {
		return nil, fmt.Errorf("load adapter: %w", errClosed)
	}
	if err := checkFile(path); err != nil {
		m.release()
		return nil, err
	}
	cpath := C.CString(path)
	defer C.free(unsafe.Pointer(cpath))
	var cerr C.cllm_error
	m.loading.Lock()
	c := C.cllm_adapter_load(m.c, cpath, &cerr)
	m.loading.Unlock()
	drainLog()
	if c == nil {
		m.release()
		return nil, failure("load adapter "+path, &cerr, ErrBadModel)
	}
	a := &Adapter{model: m, c: c}
	a.refs.Store(1)
	handles.Add(1)
	return a, nil
}

// Close frees the adapter, as soon as no context applies it any more.
func (a *Adapter) Close() {
	if a.closed.CompareAndSwap(false, true) {
		a.release()
	}
}

func (a *Adapter) release() {
	if a.refs.Add(-1) == 0 {
		a.model.loading.Lock()
		C.llama_adapter_lora_free(a.c)
		a.model.loading.Unlock()
		handles.Add(-1)
		a.model.release()
	}
}

// SetAdapters makes the context apply these adapters, each with its scale, in
// place of those before. What the sequences hold was computed with the old ones.
func (c *Context) SetAdapters(adapters []*Adapter, scales []float32) error {
	c.uses++
	if c.c == nil {
		return fmt.Errorf("set adapters: the context is closed")
	}
	if len(adapters) != len(scales) {
		return fmt.Errorf("set adapters: %d adapters and %d scales", len(adapters), len(scales))
	}
	for _, a := range adapters {
		if a.model != c.model || a.closed.Load() {
			return fmt.Errorf("set adapters: an adapter is closed or belongs to another model")
		}
	}
	// The array of C pointers is copied by llama.cpp.
	list := make([]*C.struct_llama_adapter_lora, len(adapters)+1)
	for i, a := range adapters {
		list[i] = a.c
	}
	weights := append(make([]float32, 0, len(scales)+1), scales...)
	weights = append(weights, 0)
	var cerr C.cllm_error
	C.cllm_adapters_set(c.c, &list[0], (*C.float)(unsafe.Pointer(&weights[0])), C.int32_t(len(adapters)), &cerr)
	runtime.KeepAlive(adapters)
	if err := failure("set adapters", &cerr, nil); err != nil {
		return err
	}
	for _, a := range adapters {
		a.refs.Add(1)
	}
	for _, a := range c.adapters {
		a.release()
	}
	c.adapters = append([]*Adapter(nil), adapters...)
	c.adapted = true
	return nil
}

// holdAdapters holds off the loading of other adapters of the model while a computation
// that follows a change of adapters begins: llama.cpp then looks at all that are
// loaded, unguarded.
func (c *Context) holdAdapters() (done func()) {
	if !c.adapted {
		return func() {}
	}
	c.adapted = false
	c.model.loading.Lock()
	return c.model.loading.Unlock
}
