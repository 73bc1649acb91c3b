package modelstore

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"
)

// CreateRequest says what to make a model of. Its fields mean what those of
// api.CreateRequest mean. A Create may use its maps and lists until it returns; it
// does not change them.
type CreateRequest struct {
	Name Name

	From  string            // name of a model in the store; or
	Files map[string]string // file name → digest of an uploaded blob: GGUF files, or a folder with safetensors files

	// RemoteHost, with From, makes a model that runs under that name on another host.
	RemoteHost string

	Adapters map[string]string // file name → digest: one GGUF file, or a folder with safetensors files

	Template   string
	System     string
	Licenses   []string // see ParseLicense
	Parameters map[string]any
	Messages   []api.Message
	Renderer   string
	Parser     string
	Requires   string         // least version of Ollama, as the model's maker sees it
	Info       map[string]any // overrides of the config: capabilities, model_family, base_name, ...

	Quantization string // target type, such as "Q4_K_M"; "" leaves the weights as they are

	// Quantize writes the model in the GGUF file src to the file dst, which exists,
	// quantized to typ (llama.cpp's name, such as "Q4_K_M"), and reports bytes done of
	// total, from the goroutine that it was called in. It is called only when
	// Quantization asks for another type than the weights have.
	Quantize func(ctx context.Context, src, dst, typ string, progress func(done, total int64)) error
}

// Progress is one line of progress, with Ollama's texts. Total and Completed are
// bytes; both are 0 when there is nothing to count.
type Progress struct {
	Status    string
	Digest    string
	Total     int64
	Completed int64
}

// ParseLicense turns the license of an api.CreateRequest (a text, a list of texts or
// nothing) into texts. The error matches ErrBadRequest.
func ParseLicense(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		if v == "" {
			return nil, nil
		}
		return []string{v}, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, badRequestf("unknown license type: %T", v)
	}
	var list []string
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, badRequestf("%w", err)
	}
	return list, nil
}

// Create makes a model, or replaces the one of that name. progress, which may be
// nil, is called from the calling goroutine, the last time with "success".
//
// Errors that match ErrBadRequest are the caller's. A *NotFoundError says that From
// is not in the store, and comes before any progress: pull it, then call again.
// Whatever the error, the name stands for what it stood for before; only when the disk
// fails in the last step of all, the sync of the folder, it may stand for the new model
// already.
func (s *Store) Create(ctx context.Context, req CreateRequest, progress func(Progress)) (err error) {
	name, err := valid(req.Name)
	if err != nil {
		return err
	}
	for f := range req.Files {
		if !fs.ValidPath(f) {
			return ErrFilePath
		}
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	c := &creation{
		store: s, ctx: ctx, req: &req, progress: progress,
		hold: hold{store: s},
		config: model.ConfigV2{
			Renderer: req.Renderer, Parser: req.Parser, Requires: req.Requires,
			Architecture: "amd64", OS: "linux", RootFS: model.RootFS{Type: "layers"},
		},
	}
	defer func() {
		if err != nil {
			c.hold.abandon(c.created)
		}
	}()
	if err := c.build(); err != nil {
		return err
	}
	if err := c.write(name); err != nil {
		return err
	}
	progress(Progress{Status: "success"})
	return nil
}

// creation is one run of Create: layers are collected, and written last.
type creation struct {
	store    *Store
	ctx      context.Context
	req      *CreateRequest
	progress func(Progress)
	hold     hold
	config   model.ConfigV2
	layers   []*newLayer
	created  []Digest // blobs that were not there before
}

// newLayer is a layer of the model that is being made.
type newLayer struct {
	layer
	content []byte // to be stored; nil when the blob is there
	info    *Info  // of a GGUF file
	status  string // progress line; "" for the usual one
}

// text adds a layer with this content, and with this line of progress or, where that
// is empty, the usual one.
func (c *creation) text(mediaType string, content []byte, status string) error {
	l, err := c.newText(mediaType, content)
	if err != nil {
		return err
	}
	l.status = status
	c.layers = append(c.layers, l)
	return nil
}

func (c *creation) newText(mediaType string, content []byte) (*newLayer, error) {
	if len(content) > maxText {
		return nil, badRequestf("a text of %d bytes is too long for a model, the most is %d", len(content), maxText)
	}
	d := DigestOf(content)
	c.hold.add(d)
	return &newLayer{layer: layer{MediaType: mediaType, Digest: d, Size: int64(len(content))}, content: content}, nil
}

// json adds a layer with this value, encoded as Ollama does.
func (c *creation) json(mediaType string, v any) error {
	content, err := encodeJSON(v)
	if err != nil {
		return err
	}
	return c.text(mediaType, content, "")
}

// drop removes the layers of a type.
func (c *creation) drop(mediaType string) {
	c.layers = slices.DeleteFunc(c.layers, func(l *newLayer) bool { return l.MediaType == mediaType })
}

// build collects the layers and fills in the config.
func (c *creation) build() error {
	switch {
	case c.req.From != "" && c.req.RemoteHost != "":
		if err := c.fromRemote(); err != nil {
			return err
		}
	case c.req.From != "":
		if err := c.fromModel(); err != nil {
			return err
		}
	case c.req.Files != nil:
		if err := c.fromFiles(); err != nil {
			return err
		}
	default:
		return ErrNeitherFromOrFiles
	}
	if c.req.Adapters != nil && c.config.RemoteHost == "" {
		if err := c.addAdapter(); err != nil {
			return err
		}
	}
	if err := c.applyInfo(); err != nil {
		return err
	}
	if err := c.applyTexts(); err != nil {
		return err
	}
	if err := c.quantize(); err != nil {
		return err
	}
	c.describe()
	return nil
}

// write stores the new blobs, then the manifest.
func (c *creation) write(name Name) error {
	m := manifest{SchemaVersion: 2, MediaType: mediaManifest}
	for _, l := range c.layers {
		c.config.RootFS.DiffIDs = append(c.config.RootFS.DiffIDs, l.Digest.String())
		m.Layers = append(m.Layers, l.layer)
	}
	if len(c.layers) == 0 {
		c.config.RootFS.DiffIDs = []string{}
	}
	content, err := encodeJSON(c.config)
	if err != nil {
		return err
	}
	config, err := c.newText(mediaConfig, content)
	if err != nil {
		return err
	}
	m.Config = config.layer
	for _, l := range slices.Concat(c.layers, []*newLayer{config}) {
		if err := c.save(l); err != nil {
			return err
		}
	}
	for _, l := range c.layers {
		c.progress(Progress{Status: l.status})
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	c.progress(Progress{Status: "writing manifest"})
	c.hold.uploads = c.req.uploads()
	return c.hold.commit(name, &m)
}

// uploads lists the blobs that the request names, each once.
func (r *CreateRequest) uploads() []Digest {
	var list []Digest
	for _, files := range []map[string]string{r.Files, r.Adapters} {
		for _, text := range files {
			if d, err := ParseDigest(text); err == nil && !slices.Contains(list, d) {
				list = append(list, d)
			}
		}
	}
	return list
}

// save stores a layer's content, and says what became of it.
func (c *creation) save(l *newLayer) error {
	status := "using existing layer"
	if l.content != nil {
		if _, err := c.store.statBlob(l.Digest); err != nil {
			c.created = append(c.created, l.Digest) // it may be there though its folder can't be synced
			if err := c.store.storeBlob(c.ctx, l.Digest, bytes.NewReader(l.content)); err != nil {
				return err
			}
			status = "creating new layer"
		}
	}
	if l.status == "" {
		l.status = fmt.Sprintf("%s %s", status, l.Digest)
	}
	return nil
}
