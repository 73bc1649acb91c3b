// Package demo is the model that comes with cllm, and how it gets into the store.
//
// It is small enough to be part of the program and answers questions about cllm, so
// that a first run needs no download. scripts/demomodel makes it of text in this
// repository; demo.gguf.sha256 holds its digest, in the form of sha256sum.
package demo

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"cllm/modelstore"
)

// Name is what the model is called in the store.
const Name = "demo"

var (
	// Strings, because nothing of them is in memory until it is read.

	//go:embed demo.gguf
	weights string
	//go:embed demo.gguf.sha256
	checksum string
	//go:embed template.gotmpl
	chatTemplate string
	//go:embed LICENSE
	license string
)

// parameters are the model's own. Ollama penalizes repetition by default; this model
// has to repeat what it has learnt. And its steps are so short that several threads
// mostly wait for each other: on a busy machine one is thirty times as fast as two.
var parameters = map[string]any{
	"temperature":    0,
	"repeat_penalty": 1,
	"num_thread":     1,
	"stop":           []string{"<|im_start|>", "<|im_end|>"},
}

// DamagedError says that the model in the program is not the one that it was built
// with: a disk or a copy went wrong.
type DamagedError struct{ Err error }

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the demo model inside of this program is damaged (%v): build or copy cllm anew, or set CLLM_NODEMO=1 to do without the demo model", e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// Install puts the model into the store, unless there is one of that name: that is
// the user's, whatever it is. The error is a *DamagedError or what the store says;
// nothing of the model is in the store then.
func Install(ctx context.Context, s *modelstore.Store) error {
	return install(ctx, s, weights, checksum)
}

func install(ctx context.Context, s *modelstore.Store, weights, checksum string) error {
	name, err := modelstore.ParseName(Name)
	if err != nil {
		return err
	}
	// One that is there and can't be read is the user's, too.
	if _, err := s.Get(name); !errors.Is(err, modelstore.ErrNotFound) {
		return nil
	}
	hex, _, _ := strings.Cut(checksum, " ")
	digest, err := modelstore.ParseDigest("sha256:" + hex)
	if err != nil {
		return &DamagedError{fmt.Errorf("its checksum %q is none: %w", checksum, err)}
	}
	err = s.WriteBlob(ctx, digest, strings.NewReader(weights))
	if mismatch := (*modelstore.DigestMismatchError)(nil); errors.As(err, &mismatch) {
		return &DamagedError{err}
	} else if err != nil {
		return err
	}
	return s.Create(ctx, modelstore.CreateRequest{
		Name:       name,
		Files:      map[string]string{Name + ".gguf": digest.String()},
		Template:   chatTemplate,
		Licenses:   []string{license},
		Parameters: parameters,
	}, nil)
}
