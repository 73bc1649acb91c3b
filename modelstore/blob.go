package modelstore

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// HasBlob reports whether the store has the blob. One that it has is then kept for
// an hour, so that a model can be created from it.
func (s *Store) HasBlob(d Digest) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.statBlob(d)
	switch {
	case err == nil:
		s.want(d)
		return true, nil
	case isNotExist(err):
		return false, nil
	default:
		return false, s.readError(err)
	}
}

// BlobPath is where the blob is, or would be.
func (s *Store) BlobPath(d Digest) string { return filepath.Join(s.blobs.path, d.file()) }

// WriteBlob stores what r gives, if its digest is d; otherwise the error is a
// *DigestMismatchError and nothing is kept. When the blob is already there, r is
// not read. The blob is then kept for an hour, as HasBlob does.
func (s *Store) WriteBlob(ctx context.Context, d Digest, r io.Reader) error {
	if there, err := s.HasBlob(d); there || err != nil {
		return err
	}
	h := &hold{store: s}
	h.add(d)
	err := s.storeBlob(ctx, d, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	h.release()
	if err == nil {
		s.want(d)
	}
	return err
}

// wish is for a blob to stay, of as many clients as have asked for it or uploaded it
// and have not made a model of it yet.
type wish struct {
	clients int
	since   time.Time // of the last one
}

// want keeps a blob from being removed for an hour, or until a Create has used it.
// s.mu is held.
func (s *Store) want(d Digest) { s.wanted[d] = wish{s.wanted[d].clients + 1, s.now()} }

// unwant takes back one want. s.mu is held.
func (s *Store) unwant(d Digest) {
	w := s.wanted[d]
	if w.clients--; w.clients <= 0 {
		delete(s.wanted, d)
		return
	}
	s.wanted[d] = w
}

// storeBlob writes a blob. Something must protect it from being removed.
func (s *Store) storeBlob(ctx context.Context, d Digest, r io.Reader) error {
	what := "writing the file " + d.String()
	t, err := s.blobs.newTemp(blobTemp)
	if err != nil {
		return s.writeError(what, err)
	}
	defer t.discard()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(t, hash), &contextReader{ctx, r}); err != nil {
		return s.writeError(what, err)
	}
	if got := sumOf(hash); got != d {
		return &DigestMismatchError{Want: d, Got: got}
	}
	return s.writeError(what, t.publish(d.file()))
}

// contextReader ends reading when the context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// protected reports whether the blob must not be removed now. s.mu is held.
func (s *Store) protected(d Digest) bool {
	if s.held[d] > 0 {
		return true
	}
	w, wanted := s.wanted[d]
	if wanted && s.now().Sub(w.since) > youngBlob {
		delete(s.wanted, d)
		return false
	}
	return wanted
}

// statBlob looks at the blob's file.
func (s *Store) statBlob(d Digest) (os.FileInfo, error) {
	root, err := s.blobs.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return regular(root, d.file())
}

// regular looks at a file. One that is not regular counts as missing: opening it
// could wait for ever.
func regular(root *os.Root, name string) (os.FileInfo, error) {
	info, err := root.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		return nil, &os.PathError{Op: "stat", Path: name, Err: os.ErrNotExist}
	}
	return info, err
}

// openBlob opens a blob that the model n needs, or a request when n is zero.
func (s *Store) openBlob(n Name, d Digest) (*os.File, error) {
	root, err := s.blobs.open()
	if err == nil {
		defer root.Close()
		if _, err = regular(root, d.file()); err == nil {
			var f *os.File
			if f, err = root.Open(d.file()); err == nil {
				return f, nil
			}
		}
	}
	return nil, s.blobError(n, d, err)
}

// blobError gives the error of reading a blob its cause.
func (s *Store) blobError(n Name, d Digest, err error) error {
	if isNotExist(err) {
		return &MissingBlobError{Digest: d, Name: n}
	}
	return fmt.Errorf("opening %s: %w", s.BlobPath(d), err)
}

// readBlob reads a small blob whole.
func (s *Store) readBlob(n Name, d Digest, most int64) ([]byte, error) {
	f, err := s.openBlob(n, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readAll(f, most)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", s.BlobPath(d), err)
	}
	return b, nil
}
