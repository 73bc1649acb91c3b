package modelstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
)

// Push sends a model to the registry that its name tells. progress, which may be nil,
// is called from the calling goroutine with Ollama's texts, the last time with
// "success". The manifest goes last, so the registry has whole models only.
func (s *Store) Push(ctx context.Context, n Name, insecure bool, progress func(Progress)) error {
	if progress == nil {
		progress = func(Progress) {}
	}
	progress(Progress{Status: "retrieving manifest"})
	h := &hold{store: s}
	defer h.letGo()
	record, err := h.base(n)
	if err != nil {
		progress(Progress{Status: "couldn't retrieve manifest"})
		if errors.Is(err, ErrNotFound) {
			// As Ollama tells it.
			err = &fs.PathError{Op: "open", Path: filepath.Join(s.manifests.path, modelPath(canonical(n))), Err: syscall.ENOENT}
		}
		return err
	}
	r, err := s.remote(record.name, insecure)
	if err != nil {
		return err
	}
	for _, l := range record.blobs() {
		if err := s.pushBlob(ctx, r, record.name, l, progress); err != nil {
			return err
		}
	}
	progress(Progress{Status: "pushing manifest"})
	raw, err := record.pulled()
	if err != nil {
		return err
	}
	if err := r.putManifest(ctx, record.name.Tag, raw); err != nil {
		return err
	}
	progress(Progress{Status: "success"})
	return nil
}

// pushBlob sends a blob that the registry has not.
func (s *Store) pushBlob(ctx context.Context, r *remote, n Name, l layer, progress func(Progress)) error {
	f, err := s.openBlob(n, l.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("reading %s: %w", s.BlobPath(l.Digest), err)
	}
	tell := func(done int64) {
		progress(Progress{Status: "pushing " + l.Digest.Hex()[:12], Digest: l.Digest.String(), Total: size, Completed: done})
	}
	there, err := r.hasBlob(ctx, l.Digest)
	if err != nil {
		return err
	}
	if !there {
		u := &blobUpload{remote: r, layer: l, file: f, size: size}
		if err := u.run(ctx, tell); err != nil {
			return err
		}
	}
	tell(size)
	return nil
}

// hasBlob asks whether the registry has a blob.
func (r *remote) hasBlob(ctx context.Context, d Digest) (there bool, err error) {
	err = r.retry(ctx, func() (bool, error) {
		resp, err := r.do(ctx, call{method: http.MethodHead, url: r.url("blobs", d.String())})
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		there = true
		return false, resp.Body.Close()
	})
	return there, err
}

// putManifest gives the model its name at the registry.
func (r *remote) putManifest(ctx context.Context, tag string, raw []byte) error {
	return r.retry(ctx, func() (bool, error) {
		resp, err := r.do(ctx, call{
			method: http.MethodPut, url: r.url("manifests", tag), header: http.Header{"Content-Type": {mediaManifest}},
			body: func() io.Reader { return bytes.NewReader(raw) }, length: int64(len(raw)), wait: answerTime,
		})
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		if resp.StatusCode >= 300 {
			return false, refusal(resp)
		}
		return false, nil
	})
}
