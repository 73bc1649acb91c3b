package modelstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxBlob bounds the size that a registry may tell of a blob.
const maxBlob = 1 << 46

// manifest fetches the manifest of a tag.
func (r *remote) manifest(ctx context.Context, tag string) (m *manifest, err error) {
	c := call{method: http.MethodGet, url: r.url("manifests", tag), header: http.Header{"Accept": {mediaManifest}}}
	err = r.retry(ctx, func() (bool, error) {
		resp, err := r.do(ctx, c)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return false, refusal(resp)
		}
		m, err = decodeManifest(resp.Body)
		return false, err
	})
	return m, err
}

// decodeManifest reads what a registry says a model is made of, and checks it.
func decodeManifest(r io.Reader) (*manifest, error) {
	raw, err := readAll(r, maxManifest)
	if err != nil {
		return nil, err
	}
	m := new(manifest)
	if err := decodeJSON(raw, m); err != nil {
		return nil, fmt.Errorf("the registry's manifest can't be read: %w", err)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("the registry's manifest is wrong: %w", err)
	}
	return m, nil
}

// blobs lists the blobs of a model, each once, the config last.
func (m *manifest) blobs() []layer {
	var list []layer
	seen := make(map[Digest]bool)
	for _, l := range append(m.Layers[:len(m.Layers):len(m.Layers)], m.Config) {
		if !l.Digest.IsZero() && !seen[l.Digest] {
			seen[l.Digest] = true
			list = append(list, l)
		}
	}
	return list
}

// ollamaType is how the media types of a model's layers begin.
const ollamaType = "application/vnd.ollama."

// check says what is wrong with a manifest that came from outside.
func (m *manifest) check() error {
	var total int64
	sizes := make(map[Digest]int64)
	for i, l := range append(m.Layers[:len(m.Layers):len(m.Layers)], m.Config) {
		isConfig := i == len(m.Layers)
		switch before, twice := sizes[l.Digest]; {
		case isConfig && l.Digest.IsZero():
			continue
		case l.Digest.IsZero():
			return fmt.Errorf("layer %d has no digest", i)
		case l.Size < 0 || l.Size > maxBlob:
			return fmt.Errorf("the size of %s is %d", l.Digest, l.Size)
		case twice && before != l.Size:
			return fmt.Errorf("%s is there twice, with %d and with %d bytes", l.Digest, before, l.Size)
		case !isConfig && !strings.HasPrefix(l.MediaType, ollamaType):
			return fmt.Errorf("layer %d is of the type %.100q: that is no part of a model", i, l.MediaType)
		}
		sizes[l.Digest] = l.Size
		if total += l.Size; total > maxBlob {
			return errors.New("the sizes of its layers add up to more than any disk holds")
		}
	}
	if len(sizes) == 0 {
		return errors.New("it names no files")
	}
	return nil
}

// pulled returns the bytes of the manifest file as Ollama's pull writes them: unlike
// those of a created model without a line end. The model's id is their digest.
func (m *manifest) pulled() ([]byte, error) {
	raw, err := m.encode()
	return bytes.TrimSuffix(raw, []byte("\n")), err
}
