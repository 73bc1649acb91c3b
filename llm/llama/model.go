//go:build cgo

package llama

// #include "shim.h"
// #include <stdlib.h>
import "C"

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Model is a loaded model file. It may be used by many goroutines.
type Model struct {
	c      *C.struct_llama_model
	refs   atomic.Int32 // the model's own until it is closed, and one for each thing made from it
	closed atomic.Bool
	vocab  *Vocab

	vocabOnly bool // there are no weights to compute with

	loading sync.Mutex // llama.cpp keeps a list of a model's adapters, unguarded; new contexts look at it
}

// LoadModel loads a model file (GGUF). The load ends early when ctx is done.
// The error wraps ErrBadModel when the file is to blame, ErrNoMemory when memory
// is, a file system error, or the context's.
func LoadModel(ctx context.Context, path string, o ModelOptions) (*Model, error) {
	start()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	if err := checkFile(path); err != nil {
		return nil, err
	}
	opts := C.cllm_model_options{
		gpu_layers: C.int32_t(o.GPULayers),
		main_gpu:   C.int32_t(o.MainGPU),
		load_mode:  C.LLAMA_LOAD_MODE_AUTO,
		vocab_only: C.bool(o.VocabOnly),
	}
	if o.UseMmap != nil {
		opts.load_mode = C.LLAMA_LOAD_MODE_NONE
		if *o.UseMmap {
			opts.load_mode = C.LLAMA_LOAD_MODE_MMAP
		}
	}
	handle, free := newProgress(ctx, o.Progress)
	defer free()
	cpath := C.CString(path)
	defer C.free(unsafe.Pointer(cpath))

	var cerr C.cllm_error
	c := C.cllm_model_load(cpath, &opts, handle, &cerr)
	drainLog()
	if cerr.code == C.CLLM_CANCELLED {
		return nil, fmt.Errorf("load model: %w", context.Cause(ctx))
	}
	if c == nil {
		return nil, failure("load model "+path, &cerr, ErrBadModel)
	}
	m := &Model{c: c, vocabOnly: o.VocabOnly}
	m.refs.Store(1)
	handles.Add(1)
	var err error
	if m.vocab, err = newVocab(m); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// checkFile finds what can be said about a bad file without llama.cpp.
func checkFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load model: %w", err)
	}
	defer f.Close()
	var magic [4]byte
	switch _, err := io.ReadFull(f, magic[:]); {
	case err == io.EOF:
		return &Error{Op: "load model " + path, Class: ErrBadModel, Detail: "the file is empty"}
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("load model: %w", err)
	case string(magic[:]) != "GGUF":
		return &Error{Op: "load model " + path, Class: ErrBadModel, Detail: "the file is not in GGUF format"}
	}
	return nil
}

// acquire keeps the model's memory until release. False when it is gone already.
func (m *Model) acquire() bool {
	for {
		n := m.refs.Load()
		if n == 0 {
			return false
		}
		if m.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (m *Model) release() {
	if m.refs.Add(-1) == 0 {
		C.llama_model_free(m.c)
		handles.Add(-1)
	}
}

// Close frees the model, as soon as all that was made from it is closed, too.
func (m *Model) Close() {
	if m.closed.CompareAndSwap(false, true) {
		m.release()
	}
}

// errClosed is what a closed model answers where it must answer something.
var errClosed = errors.New("the model is closed")

// Vocab returns the model's vocabulary. After Close it still knows the pieces,
// but cuts no more text.
func (m *Model) Vocab() *Vocab { return m.vocab }

// Info returns what the model file says about itself. The zero value when the
// model is closed.
func (m *Model) Info() Info {
	if !m.acquire() {
		return Info{}
	}
	defer m.release()
	var desc [256]C.char
	C.llama_model_desc(m.c, &desc[0], C.size_t(len(desc)))
	info := Info{
		Description:  C.GoString(&desc[0]),
		Parameters:   uint64(C.llama_model_n_params(m.c)),
		Size:         uint64(C.llama_model_size(m.c)),
		TrainContext: int(C.llama_model_n_ctx_train(m.c)),
		Embedding:    int(C.llama_model_n_embd(m.c)),
		Layers:       int(C.llama_model_n_layer(m.c)),
		Recurrent:    bool(C.llama_model_is_recurrent(m.c)),
		Hybrid:       bool(C.llama_model_is_hybrid(m.c)),
		HasEncoder:   bool(C.llama_model_has_encoder(m.c)),
		HasDecoder:   bool(C.llama_model_has_decoder(m.c)),
	}
	if t := C.llama_model_chat_template(m.c, nil); t != nil {
		info.ChatTemplate = C.GoString(t)
	}
	return info
}

// Meta returns a metadata value as text. False when there is none or it is a list.
func (m *Model) Meta(key string) (string, bool) {
	if !m.acquire() {
		return "", false
	}
	defer m.release()
	ckey := C.CString(key)
	defer C.free(unsafe.Pointer(ckey))
	n := C.llama_model_meta_val_str(m.c, ckey, nil, 0)
	if n < 0 {
		return "", false
	}
	buf := make([]byte, int(n)+1)
	C.llama_model_meta_val_str(m.c, ckey, (*C.char)(unsafe.Pointer(&buf[0])), C.size_t(len(buf)))
	return string(buf[:n]), true
}
