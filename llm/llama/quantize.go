//go:build cgo

package llama

// #include "shim.h"
// #include <stdlib.h>
import "C"

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// Quantize writes the model file src in another number format to dst. threads 0
// is all CPUs. progress may be nil; it is called with 0 to 1, once per tensor.
// It takes 16 MiB of memory, whatever the model's size; the model's file is mapped.
// When ctx is done the work ends after the tensor that is being converted: llama.cpp
// asks nobody within one. A core turned 28 MB/s of F16 into Q4_K_M when this was
// written (Q8_0 276, Q6_K 43, Q2_K 21), so that the largest tensor of today, the
// embeddings of a gemma of 27 billion parameters with 2.8 GB, may take 100 s on one
// core and 7 s on sixteen. No file is left at dst after an error.
func Quantize(ctx context.Context, src, dst string, t QuantType, threads int, progress func(float32)) error {
	start()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("quantize: %w", err)
	}
	if err := checkFile(src); err != nil {
		return err
	}
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	handle, free := newProgress(ctx, progress)
	defer free()
	csrc, cdst := C.CString(src), C.CString(dst)
	defer C.free(unsafe.Pointer(csrc))
	defer C.free(unsafe.Pointer(cdst))
	var cerr C.cllm_error
	C.cllm_quantize(csrc, cdst, C.int32_t(t), C.int32_t(threads), true, handle, &cerr)
	drainLog()
	if cerr.code == C.CLLM_OK {
		if progress != nil {
			progress(1)
		}
		return nil
	}
	full := diskFull(dst)
	os.Remove(dst)
	if full != nil {
		return fmt.Errorf("quantize %s to %s: %w", src, t, full)
	}
	if cerr.code == C.CLLM_CANCELLED {
		return fmt.Errorf("quantize: %w", context.Cause(ctx))
	}
	return failure("quantize "+src+" to "+t.String(), &cerr, ErrBadModel)
}

// diskFull asks whether the disk took no more: llama.cpp says only that its stream
// failed.
func diskFull(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 1<<20)); errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return nil
}
