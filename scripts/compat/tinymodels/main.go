// Command tinymodels writes the models that the client tests use beside the demo
// model: tiny.gguf, whose random answers run on until their limit, and embed.gguf,
// which gives embeddings of 64 numbers. They are the same files each time.
//
//	go run ./scripts/compat/tinymodels DIR
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"cllm/llm/llmtest/tinymodel"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: tinymodels DIR")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "tinymodels:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tiny := tinymodel.Tiny
	tiny.Half = true
	if err := tinymodel.WriteRandom(filepath.Join(dir, "tiny.gguf"), tiny, 1); err != nil {
		return err
	}
	return tinymodel.WriteRandomBERT(filepath.Join(dir, "embed.gguf"), 1)
}
