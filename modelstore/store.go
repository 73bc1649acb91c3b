package modelstore

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/ollama/ollama/types/model"
)

// Store is an open model folder. It holds no open files and needs no closing.
type Store struct {
	dir        string
	keepUnused bool
}

// Option changes how a store behaves.
type Option func(*Store)

// KeepUnused keeps the blobs that a replaced model leaves behind (OLLAMA_NOPRUNE).
// Delete removes blobs all the same.
func KeepUnused() Option { return func(s *Store) { s.keepUnused = true } }

// Open opens the model folder and makes it if it is not there. It renames blobs of
// the old form sha256:X to sha256-X and removes what crashed writes left behind.
//
// A folder that exists and can be read, but not written, opens as a read-only
// store: Writable says why, and every change returns that error. Open fails when
// the folder can't be made or read.
func Open(dir string, opts ...Option) (*Store, error) { return nil, errors.ErrUnsupported }

// Dir is the folder that was opened.
func (s *Store) Dir() string { return s.dir }

// Writable returns nil, or why the store can't be written and what to do about it.
// The error matches ErrReadOnly.
func (s *Store) Writable() error { return nil }

// Resolve returns the name as the store has it, whatever the case of n. A name that
// is not there takes the case of those parts that other names share with it. Get,
// Copy, Delete and Create resolve by themselves.
func (s *Store) Resolve(n Name) (Name, error) { return n, nil }

// Entry is one line of the list of models.
type Entry struct {
	Name       Name
	Digest     Digest         // of the manifest file
	Size       int64          // bytes of all layers and the config
	ModifiedAt time.Time      // of the manifest file
	Config     model.ConfigV2 // must not be changed
}

// List returns all models, the newest first (to the second), then by name. A model
// whose manifest or config can't be read is left out and logged.
func (s *Store) List() ([]Entry, error) { return nil, errors.ErrUnsupported }

// Get returns a model. The errors are *InvalidNameError, *NotFoundError,
// *CorruptManifestError, *MissingBlobError, or from the file system.
func (s *Store) Get(n Name) (*Model, error) { return nil, errors.ErrUnsupported }

// Copy makes dst a second name of the model src. The errors are *InvalidNameError
// and *NotFoundError (of src), or from the file system.
func (s *Store) Copy(src, dst Name) error { return errors.ErrUnsupported }

// Delete removes a name, and the blobs that no other name needs. The errors are
// *InvalidNameError and *NotFoundError, or from the file system.
func (s *Store) Delete(n Name) error { return errors.ErrUnsupported }

// Pruned says what Prune removed.
type Pruned struct {
	Files int
	Bytes int64
}

// Prune removes the blobs that no model needs and the leftovers of crashed writes.
// It spares what is younger than an hour, downloads younger than a day, and what
// this process is writing. When any manifest can't be read it removes nothing and
// returns a *CorruptManifestError.
func (s *Store) Prune(ctx context.Context) (Pruned, error) { return Pruned{}, errors.ErrUnsupported }

// HasBlob reports whether the store has the blob. One that it has is then kept for
// an hour, so that a model can be created from it.
func (s *Store) HasBlob(d Digest) (bool, error) { return false, errors.ErrUnsupported }

// BlobPath is where the blob is, or would be.
func (s *Store) BlobPath(d Digest) string { return "" }

// WriteBlob stores what r gives, if its digest is d; otherwise the error is a
// *DigestMismatchError and nothing is kept. When the blob is already there, r is
// not read.
func (s *Store) WriteBlob(ctx context.Context, d Digest, r io.Reader) error {
	return errors.ErrUnsupported
}
