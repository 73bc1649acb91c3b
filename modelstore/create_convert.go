package modelstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"

	"cllm/modelstore/gguf"
	"cllm/modelstore/safetensors"
)

// newFile makes a layer of a GGUF file that write writes, from its begin or by its
// name. Of a failure nothing stays.
func (c *creation) newFile(what, mediaType string, write func(f *os.File) error) (*newLayer, error) {
	s := c.store
	t, err := s.blobs.newTemp(blobTemp)
	if err != nil {
		return nil, s.writeError(what, err)
	}
	defer t.discard()
	if err := s.blobs.step("write"); err != nil {
		return nil, s.writeError(what, err)
	}
	if err := write(t.file); err != nil {
		return nil, s.conversionError(what, err)
	}
	d, size, err := t.rehash(c.ctx)
	if err != nil {
		return nil, s.writeError(what, err)
	}
	c.hold.add(d)
	status := "using existing layer "
	if _, err := s.statBlob(d); err != nil {
		c.created = append(c.created, d) // it may be there though its folder can't be synced
		if err := t.publish(d.file()); err != nil {
			return nil, s.writeError(what, err)
		}
		status = "creating new layer "
	}
	h, err := s.header(Name{}, d)
	if err != nil {
		return nil, fmt.Errorf("%s: the result can't be read: %w", what, err)
	}
	return &newLayer{layer: layer{MediaType: mediaType, Digest: d, Size: size}, info: h.info, status: status + d.String()}, nil
}

// conversionError tells what the files are to blame for from what the disk is.
func (s *Store) conversionError(what string, err error) error {
	var input *safetensors.Error
	var bad *gguf.Error
	var missing *MissingBlobError
	switch {
	case errors.As(err, &input), errors.As(err, &bad), errors.As(err, &missing), errors.Is(err, gguf.ErrParts), errors.Is(err, ErrBadRequest):
		return badRequestf("%w", err)
	case errors.Is(err, gguf.ErrNotGGUF):
		return ErrOnlyGGUF
	}
	return s.writeError(what, err)
}

// merge makes one file of the parts of a model: the engine would look for the others
// under names that blobs don't have, and Ollama would load one of them only.
func (c *creation) merge(names []string) (*newLayer, error) {
	parts := make([]gguf.Part, len(names))
	for i, n := range names {
		d, err := ParseDigest(c.req.Files[n])
		if err != nil {
			return nil, err
		}
		f, err := c.store.openBlob(Name{}, d)
		if err != nil {
			return nil, uploadError(err)
		}
		defer f.Close()
		stat, err := f.Stat()
		if err != nil {
			return nil, err
		}
		parts[i] = gguf.Part{ReaderAt: f, Size: stat.Size()}
	}
	status := fmt.Sprintf("merging %d GGUF files", len(names))
	l, err := c.newFile("merging the GGUF files", mediaModel, func(f *os.File) error {
		return gguf.Merge(c.ctx, parts, f, func(done, total int64) {
			c.progress(Progress{Status: status, Digest: anyDigest, Total: total, Completed: done})
		})
	})
	if err != nil {
		return nil, err
	}
	h, err := c.store.header(Name{}, l.Digest)
	if err != nil {
		return nil, err
	}
	return l, usable(h)
}

// anyDigest is what Ollama writes where there is no digest yet: its client draws a
// bar for lines that have one.
const anyDigest = "0000000000000000000"

// fromSafetensors makes a model of a folder as Hugging Face keeps them.
func (c *creation) fromSafetensors() error {
	files, err := c.uploads(c.req.Files)
	if err != nil {
		return err
	}
	c.progress(Progress{Status: "converting model"})
	l, err := c.newFile("converting the model", mediaModel, func(f *os.File) error {
		return safetensors.Model(c.ctx, files, f)
	})
	if err != nil {
		return err
	}
	c.layers = append(c.layers, l)
	return c.detectTemplate()
}

// uploads is a folder of uploaded files: names, and the blobs behind them. Nothing
// else can be reached through it, whatever the names.
type uploads struct {
	store *Store
	files map[string]Digest
}

var _ fs.GlobFS = uploads{}

// uploads returns the uploaded files, all of which are there, and holds them.
func (c *creation) uploads(files map[string]string) (uploads, error) {
	u := uploads{c.store, make(map[string]Digest, len(files))}
	for n, digest := range files {
		d, err := ParseDigest(digest)
		if err != nil {
			return u, err
		}
		c.hold.add(d)
		if _, err := c.store.statBlob(d); err != nil {
			return u, uploadError(c.store.blobError(Name{}, d, err))
		}
		c.hold.renew(d)
		u.files[n] = d
	}
	return u, nil
}

// Open opens a file.
func (u uploads) Open(name string) (fs.File, error) {
	d, ok := u.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return u.store.openBlob(Name{}, d)
}

// Glob finds the names at the top of the folder, in order.
func (u uploads) Glob(pattern string) (names []string, err error) {
	for n := range u.files {
		ok, err := path.Match(pattern, n)
		if err != nil {
			return nil, err
		}
		if ok {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names, nil
}
