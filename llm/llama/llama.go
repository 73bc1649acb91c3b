//go:build cgo

package llama

// #cgo pkg-config: llama
// #cgo CXXFLAGS: -std=c++17 -O3
// #include "shim.h"
import "C"

import (
	"context"
	"log/slog"
	"runtime/cgo"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

// start makes llama.cpp ready, once.
var start = sync.OnceFunc(func() { C.cllm_init() })

var handles atomic.Int64

// OpenHandles returns how many models, contexts, embedders and adapters are open.
func OpenHandles() int { return int(handles.Load()) }

var logger atomic.Pointer[slog.Logger]

// SetLogger says where llama.cpp's log goes. Without it that is slog.Default.
// llama.cpp's own information is for developers: it is logged as debug.
func SetLogger(l *slog.Logger) { logger.Store(l) }

// drainLog passes on what llama.cpp logged.
func drainLog() { drainLogUpTo(slog.LevelError) }

// drainLogUpTo is drainLog, with nothing above a level.
func drainLogUpTo(most slog.Level) {
	if C.cllm_log_pending() == 0 {
		return
	}
	log := logger.Load()
	if log == nil {
		log = slog.Default()
	}
	var buf [2048]C.char
	var level C.int32_t
	for C.cllm_log_next(&buf[0], C.size_t(len(buf)), &level) {
		log.Log(context.Background(), min(logLevel(level), most), strings.TrimRight(C.GoString(&buf[0]), " \r\n"), "from", "llama.cpp")
	}
}

func logLevel(level C.int32_t) slog.Level {
	switch level {
	case C.GGML_LOG_LEVEL_ERROR:
		return slog.LevelError
	case C.GGML_LOG_LEVEL_WARN:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

// progress is a long call's line back to Go.
type progress struct {
	ctx  context.Context
	tell func(float32)
}

// newProgress returns the number by which C finds p, and what frees it.
func newProgress(ctx context.Context, tell func(float32)) (C.uintptr_t, func()) {
	h := cgo.NewHandle(&progress{ctx: ctx, tell: tell})
	return C.uintptr_t(h), h.Delete
}

//export cllmProgress
func cllmProgress(handle C.uintptr_t, done C.float) C.bool {
	p := cgo.Handle(handle).Value().(*progress)
	if p.tell != nil {
		p.tell(float32(done))
	}
	return C.bool(p.ctx.Err() == nil)
}

// failure makes an error of what the C side reported; nil when all went well.
func failure(op string, e *C.cllm_error, class error) error {
	if e.code == C.CLLM_OK {
		return nil
	}
	drainLog()
	detail := cause(C.GoString(&e.text[0]))
	if lacksMemory(detail) {
		class = ErrNoMemory
	}
	return &Error{Op: op, Detail: detail, Class: class}
}

// cause cuts the names of C++ functions from the front of a log line.
func cause(line string) string {
	for {
		head, tail, found := strings.Cut(line, ": ")
		if !found || strings.ContainsAny(head, " '\"") && head != "error loading model" && head != "failed to apply lora adapter" {
			return line
		}
		line = tail
	}
}

func lacksMemory(detail string) bool {
	for _, s := range []string{"failed to allocate", "unable to allocate", "out of memory", "bad_alloc"} {
		if strings.Contains(detail, s) {
			return true
		}
	}
	return false
}

// SystemInfo names the CPU's features that llama.cpp was built for.
func SystemInfo() string {
	start()
	return strings.TrimSpace(C.GoString(C.llama_print_system_info()))
}

// bytesAt is a view of C memory, valid as long as that is.
func bytesAt(p unsafe.Pointer, n int) []byte { return unsafe.Slice((*byte)(p), n) }
