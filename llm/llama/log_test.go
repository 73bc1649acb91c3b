//go:build cgo

package llama

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestTheLogGoesWhereItIsTold(t *testing.T) {
	var out bytes.Buffer
	before := logger.Load()
	defer logger.Store(before)
	SetLogger(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	load(t, tinyPath, ModelOptions{}).Close()
	log := out.String()
	if !strings.Contains(log, "from=llama.cpp") || !strings.Contains(log, "general.architecture") {
		t.Errorf("log %.500s", log)
	}
	if strings.Contains(log, "level=INFO") || strings.Contains(log, "level=ERROR") {
		t.Errorf("llama.cpp's information is not debug: %.2000s", log)
	}
	for line := range strings.Lines(log) {
		if strings.Count(line, "msg=") != 1 || strings.Contains(line, `\n`) && !strings.Contains(line, "chat_template") && !strings.Contains(line, "token") {
			t.Errorf("a line is not whole: %s", line)
		}
	}
}

func TestACauseLosesTheNamesOfFunctions(t *testing.T) {
	for line, want := range map[string]string{
		"llama_model_load: error loading model: unknown model architecture: 'x'": "unknown model architecture: 'x'",
		"gguf_init_from_file: failed to read magic":                              "failed to read magic",
		"load: error loading model: llama_model_loader: failed to open '/a: b'":  "failed to open '/a: b'",
		"llama-model.cpp:12: GGML_ASSERT(a > 0) failed":                          "GGML_ASSERT(a > 0) failed",
		"no function here": "no function here",
		"":                 "",
	} {
		if got := cause(line); got != want {
			t.Errorf("%q becomes %q, want %q", line, got, want)
		}
	}
	for detail, want := range map[string]bool{"failed to allocate buffer of size 8": true, "std::bad_alloc": true, "wrong shape": false} {
		if lacksMemory(detail) != want {
			t.Errorf("%q lacks memory: %v", detail, !want)
		}
	}
}
