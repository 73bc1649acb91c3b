// Command synthmodel writes a model of a real shape with random weights, for
// benchmarks: it runs as fast as the trained model does and says nothing.
//
//	go run ./scripts/synthmodel -o FILE [-shape qwen3-0.6b] [-type Q4_K_M] [-seed N] [-vocab FILE]
//
// The vocabulary is a real one, from the llama.cpp sources that the build keeps.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ollama/ollama/fs/ggml"

	"cllm/llm/llama"
	"cllm/llm/llmtest/tinymodel"
)

// shapes are those of published models, without their vocabularies.
var shapes = map[string]tinymodel.Shape{
	"qwen3-0.6b": {Layers: 28, Width: 1024, FeedForward: 3072, Heads: 16, KVHeads: 8, HeadWidth: 128, Context: 40960, RopeBase: 1e6},
	"qwen3-1.7b": {Layers: 28, Width: 2048, FeedForward: 6144, Heads: 16, KVHeads: 8, HeadWidth: 128, Context: 40960, RopeBase: 1e6},
	"qwen3-4b":   {Layers: 36, Width: 2560, FeedForward: 9728, Heads: 32, KVHeads: 8, HeadWidth: 128, Context: 40960, RopeBase: 1e6},
}

// vocabFile is the vocabulary of all shapes.
const vocabFile = "ggml-vocab-qwen2.gguf"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	slog.SetLogLoggerLevel(slog.LevelWarn)
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "synthmodel:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, say io.Writer) error {
	flags := flag.NewFlagSet("synthmodel", flag.ContinueOnError)
	flags.SetOutput(say)
	out := flags.String("o", "", "write the model to `FILE`")
	name := flags.String("shape", "qwen3-0.6b", "the shape: "+strings.Join(slices.Sorted(maps.Keys(shapes)), ", "))
	typeName := flags.String("type", "Q4_K_M", "the number format")
	seed := flags.Uint64("seed", 1, "seed of the weights")
	vocab := flags.String("vocab", "", "take the vocabulary from this GGUF `FILE` (default: "+vocabFile+" of the llama.cpp build)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	shape, ok := shapes[*name]
	if !ok {
		return fmt.Errorf("unknown shape %q; there are %s", *name, strings.Join(slices.Sorted(maps.Keys(shapes)), ", "))
	}
	quant, err := llama.ParseQuantType(*typeName)
	if err != nil {
		return err
	}
	if *out == "" || flags.NArg() > 0 {
		return errors.New("say where to write the model: -o FILE")
	}
	if *vocab == "" {
		if *vocab, err = builtVocab(); err != nil {
			return err
		}
	}
	if shape.Vocab, err = readVocab(*vocab); err != nil {
		return err
	}
	shape.Name, shape.Half = "synthetic "+*name, true
	return write(ctx, *out, shape, quant, *seed, say)
}

// builtVocab finds the vocabulary that the build of llama.cpp left.
func builtVocab() (string, error) {
	dir, err := exec.Command("pkg-config", "--variable=srcdir", "llama").Output()
	if err != nil {
		return "", fmt.Errorf("llama.cpp's build is not known to pkg-config (%w): run this through make, or name a vocabulary with -vocab", err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), "models", vocabFile), nil
}

// readVocab takes the vocabulary out of a GGUF file.
func readVocab(path string) (tinymodel.Vocab, error) {
	f, err := os.Open(path)
	if err != nil {
		return tinymodel.Vocab{}, fmt.Errorf("read vocabulary: %w", err)
	}
	defer f.Close()
	file, err := ggml.Decode(f, -1)
	if err != nil {
		return tinymodel.Vocab{}, fmt.Errorf("read vocabulary %s: %w", path, err)
	}
	kv := file.KV()
	v := tinymodel.Vocab{
		Tokens: kv.Strings("tokenizer.ggml.tokens"),
		Types:  kv.Ints("tokenizer.ggml.token_type"),
		Merges: kv.Strings("tokenizer.ggml.merges"),
	}
	if pre := kv.String("tokenizer.ggml.pre"); pre != "qwen2" || len(v.Tokens) == 0 || len(v.Types) != len(v.Tokens) || len(v.Merges) == 0 {
		return tinymodel.Vocab{}, fmt.Errorf("read vocabulary %s: it is not one of Qwen2", path)
	}
	return v, nil
}

// write makes the model with 16-bit weights beside out, and out from that.
func write(ctx context.Context, out string, shape tinymodel.Shape, quant llama.QuantType, seed uint64, say io.Writer) error {
	start := time.Now()
	dir, err := os.MkdirTemp(filepath.Dir(out), filepath.Base(out)+".*")
	if err != nil {
		return fmt.Errorf("write model: %w", err)
	}
	defer os.RemoveAll(dir)
	half, done := filepath.Join(dir, "f16.gguf"), filepath.Join(dir, "done.gguf")
	if err := tinymodel.WriteRandomContext(ctx, half, shape, seed, telling(say, "random weights")); err != nil {
		return err
	}
	if quant.String() == "F16" {
		done = half
	} else if err := llama.Quantize(ctx, half, done, quant, 0, telling(say, "quantizing to "+quant.String())); err != nil {
		return err
	}
	if err := os.Rename(done, out); err != nil {
		return fmt.Errorf("write model: %w", err)
	}
	info, err := os.Stat(out)
	if err != nil {
		return fmt.Errorf("write model: %w", err)
	}
	fmt.Fprintf(say, "%s: %s, %d weights, %.1f MB, in %.0f s\n", out, shape.Name, shape.Parameters(), float64(info.Size())/1e6, time.Since(start).Seconds())
	return nil
}

// telling returns a progress function that prints every tenth. It may be called
// by several goroutines.
func telling(say io.Writer, what string) func(float32) {
	var mu sync.Mutex
	tenth := 0
	return func(p float32) {
		mu.Lock()
		defer mu.Unlock()
		if now := int(p * 10); now > tenth {
			tenth = now
			fmt.Fprintf(say, "%s: %d %%\n", what, 10*tenth)
		}
	}
}
