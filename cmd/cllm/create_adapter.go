package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/ollama/ollama/parser"
)

// adapterFolder takes an ADAPTER that is a folder as PEFT and MLX write them out of
// the Modelfile, and returns its files by digest. The parser looks for a model's files
// there only, and finds none.
func adapterFolder(modelfile *parser.Modelfile, dir string) (map[string]string, error) {
	for i, c := range slices.Backward(modelfile.Commands) {
		if c.Name != "adapter" {
			continue
		}
		path := c.Args
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		config := filepath.Join(path, "adapter_config.json")
		if _, err := os.Stat(config); err != nil {
			return nil, nil // the parser knows what it is
		}
		weights, err := filepath.Glob(filepath.Join(path, "*.safetensors"))
		if err != nil || len(weights) == 0 {
			return nil, err
		}
		modelfile.Commands = slices.Delete(modelfile.Commands, i, i+1)
		return digests(append(weights, config))
	}
	return nil, nil
}

// digests hashes files.
func digests(paths []string) (map[string]string, error) {
	found := make(map[string]string, len(paths))
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		hash := sha256.New()
		_, err = io.Copy(hash, f)
		f.Close()
		if err != nil {
			return nil, err
		}
		found[path] = fmt.Sprintf("sha256:%x", hash.Sum(nil))
	}
	return found, nil
}
