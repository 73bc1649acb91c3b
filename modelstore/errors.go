package modelstore

import (
	"errors"
	"fmt"
)

var (
	// ErrBadRequest is matched by every error that the caller's input caused: a bad
	// name, digest, file, template or parameter. Sending the same again can't work.
	ErrBadRequest = errors.New("bad request")

	// ErrNotFound is matched by *NotFoundError.
	ErrNotFound = errors.New("model not found")

	// ErrReadOnly is matched by the error of every change of a store that can't be
	// written. Its text says why and what to do.
	ErrReadOnly = errors.New("the model folder is read-only")

	// ErrNoWeights is returned for the GGUF data of a model that has no GGUF file,
	// such as one that runs on a remote host.
	ErrNoWeights = errors.New("the model has no GGUF file")
)

// The errors of a request that Ollama has a fixed text for. All match ErrBadRequest.
var (
	ErrInvalidDigest      error = badRequest("invalid digest format")
	ErrNeitherFromOrFiles error = badRequest("neither 'from' or 'files' was specified")
	ErrOnlyOneAdapter     error = badRequest("only one adapter is currently supported")
	ErrOnlyGGUF           error = badRequest("supplied file was not in GGUF format")
	ErrUnknownType        error = badRequest("unknown type")
	ErrFilePath           error = badRequest("file path must be relative")
	ErrTemplate           error = badRequest("template error")
)

// badRequest is the text of an error that matches ErrBadRequest.
type badRequest string

func (e badRequest) Error() string        { return string(e) }
func (e badRequest) Is(target error) bool { return target == ErrBadRequest }

// badRequestf returns an error that matches ErrBadRequest and what its arguments wrap.
func badRequestf(format string, args ...any) error {
	return &wrappedBadRequest{fmt.Errorf(format, args...)}
}

type wrappedBadRequest struct{ error }

func (e *wrappedBadRequest) Is(target error) bool { return target == ErrBadRequest }
func (e *wrappedBadRequest) Unwrap() error        { return e.error }

// InvalidNameError is returned for a text that is no model name. It matches
// ErrBadRequest.
type InvalidNameError struct{ Text string }

func (e *InvalidNameError) Error() string {
	return fmt.Sprintf("the model name %q is invalid", e.Text)
}

// Is makes the error match ErrBadRequest.
func (e *InvalidNameError) Is(target error) bool { return target == ErrBadRequest }

// NotFoundError is returned when no manifest has the name. It matches ErrNotFound.
type NotFoundError struct{ Name Name }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("model '%s' not found", e.Name.DisplayShortest())
}

// Is makes the error match ErrNotFound.
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// DigestMismatchError is returned when a blob's content is not what its digest
// says. Its text is Ollama's. It matches ErrBadRequest.
type DigestMismatchError struct{ Want, Got Digest }

func (e *DigestMismatchError) Error() string {
	return fmt.Sprintf("digest mismatch, expected %q, got %q", e.Want, e.Got)
}

// Is makes the error match ErrBadRequest.
func (e *DigestMismatchError) Is(target error) bool { return target == ErrBadRequest }

// MissingBlobError is returned when a blob that a model or a request names is not
// in the store.
type MissingBlobError struct {
	Digest Digest
	Name   Name // the model that needs it; zero when a request named the blob
}

func (e *MissingBlobError) Error() string {
	if e.Name.Model == "" {
		return fmt.Sprintf("the file with digest %s is not in the model folder: upload it first", e.Digest)
	}
	return fmt.Sprintf("model '%s' is incomplete, its file %s is missing: pull or create the model again", e.Name.DisplayShortest(), e.Digest)
}

// CorruptManifestError is returned for a manifest that can't be read. List skips
// such models, Prune then removes nothing, and Delete removes them.
type CorruptManifestError struct {
	Name Name // zero when a file stands where manifests are, and is none
	Err  error
}

func (e *CorruptManifestError) Error() string {
	if e.Name.Model == "" {
		return fmt.Sprintf("the folder of manifests holds something else: %v; move it away", e.Err)
	}
	return fmt.Sprintf("the manifest of model '%s' can't be read: %v; delete the model, then pull or create it again", e.Name.DisplayShortest(), e.Err)
}

func (e *CorruptManifestError) Unwrap() error { return e.Err }
