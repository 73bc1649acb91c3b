package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ollama/ollama/envconfig"
)

func TestServeReadsOllamasVariables(t *testing.T) {
	for _, name := range []string{"OLLAMA_NUM_PARALLEL", "OLLAMA_KEEP_ALIVE", "OLLAMA_FLASH_ATTENTION", "OLLAMA_KV_CACHE_TYPE"} {
		t.Setenv(name, "")
	}
	t.Setenv("OLLAMA_HOST", "0.0.0.0:1234")
	t.Setenv("OLLAMA_MODELS", "/models")
	t.Setenv("OLLAMA_MAX_QUEUE", "7")
	t.Setenv("OLLAMA_MAX_LOADED_MODELS", "2")
	t.Setenv("OLLAMA_LOAD_TIMEOUT", "90")
	t.Setenv("OLLAMA_CONTEXT_LENGTH", "8192")
	t.Setenv("OLLAMA_ORIGINS", "https://chat.example")
	t.Setenv("OLLAMA_NOPRUNE", "1")
	t.Setenv("OLLAMA_NO_CLOUD", "1")
	t.Setenv("OLLAMA_MAX_TRANSFER_STREAMS", "4")
	home := t.TempDir()
	t.Setenv("HOME", home)
	log := slog.New(slog.DiscardHandler)
	o, err := serveOptions(log)
	if err != nil {
		t.Fatal(err)
	}
	if o.Listen != "0.0.0.0:1234" || o.Models != "/models" || o.MaxQueue != 7 || o.MaxLoaded != 2 || o.LoadTimeout != 90*time.Second ||
		o.ContextLength != 8192 || !o.NoPrune || o.KeepAlive != 5*time.Minute || o.Version != version || o.Slots != 0 {
		t.Errorf("options: %+v", o)
	}
	if !o.Network || o.Streams != 4 || o.Sign == nil {
		t.Errorf("registries: %+v", o)
	}
	if o.Aliases != home+"/.ollama/server.json" || o.CloudOff != "env" {
		t.Errorf("aliases in %q, cloud off by %q", o.Aliases, o.CloudOff)
	}
	if o.Origins[0] != "https://chat.example" || len(o.Origins) < 10 {
		t.Errorf("origins: %q", o.Origins)
	}

	t.Setenv("OLLAMA_NUM_PARALLEL", "16")
	t.Setenv("OLLAMA_KEEP_ALIVE", "-1")
	if o, err = serveOptions(log); err != nil || o.Slots != 16 || o.KeepAlive < 100*365*24*time.Hour {
		t.Errorf("options: %+v, %v", o, err)
	}
	t.Setenv("OLLAMA_KV_CACHE_TYPE", "q5")
	if _, err = serveOptions(log); err == nil || !strings.Contains(err.Error(), "use f16, q8_0 or q4_0") {
		t.Errorf("a wrong KV cache type: %v", err)
	}
}

func TestServeNeedsAFolder(t *testing.T) {
	t.Setenv("HOME", "")
	t.Setenv("OLLAMA_MODELS", "")
	if _, err := serveOptions(slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "set OLLAMA_MODELS") {
		t.Errorf("without a home: %v", err)
	}
}

func TestServeHelpListsTheVariables(t *testing.T) {
	var out bytes.Buffer
	if code := run([]string{"serve", "--help"}, strings.NewReader(""), &out, io.Discard); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for _, v := range serveEnv {
		if !strings.Contains(out.String(), v.meaning) {
			t.Errorf("%s is not in the help", v.name)
		}
	}
	for name := range envconfig.AsMap() { // all that Ollama knows
		if !strings.Contains(out.String(), strings.ToUpper(name)) {
			t.Errorf("the help does not say what becomes of %s", name)
		}
	}
}

// watch tells when a text was written to it.
type watch struct {
	text  string
	found chan struct{}
	seen  bytes.Buffer
}

func (w *watch) Write(p []byte) (int, error) {
	w.seen.Write(p)
	if strings.Contains(w.seen.String(), w.text) {
		select {
		case w.found <- struct{}{}:
		default:
		}
	}
	return len(p), nil
}

func TestServeListensAndEndsWithItsContext(t *testing.T) {
	before := slog.Default()
	defer slog.SetDefault(before)
	t.Setenv("HOME", t.TempDir())
	t.Setenv("OLLAMA_HOST", "127.0.0.1:0")
	t.Setenv("OLLAMA_MODELS", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := &watch{text: "Listening on 127.0.0.1:", found: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, log) }()
	select {
	case <-log.found:
	case err := <-ended:
		t.Fatalf("serve ended: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
