package modelstore

import (
	"errors"
	"maps"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ollama/ollama/template"

	"cllm/modelstore/gguf"
)

// fromModel takes over the layers of another model.
func (c *creation) fromModel() error {
	name, err := ParseName(c.req.From)
	if err != nil {
		return err
	}
	r, err := c.hold.base(name)
	if err != nil {
		return err
	}
	base, err := c.store.config(r)
	if err != nil {
		return err
	}
	if c.config.Renderer == "" {
		c.config.Renderer = base.Renderer
	}
	if c.config.Parser == "" {
		c.config.Parser = base.Parser
	}
	if c.config.Requires == "" {
		c.config.Requires = base.Requires
	}
	hasGGUF := false
	for _, old := range r.Layers {
		stat, err := c.store.statBlob(old.Digest)
		if err != nil {
			return c.store.blobError(r.name, old.Digest, err)
		}
		l := &newLayer{layer: layer{
			MediaType: old.MediaType, Digest: old.Digest, Size: stat.Size(), From: name.DisplayShortest(), Name: old.Name,
		}}
		switch old.MediaType {
		case mediaModel, mediaProjector, mediaAdapter:
			h, err := c.store.header(r.name, old.Digest)
			if err != nil {
				return err
			}
			l.info, hasGGUF = h.info, true
		}
		c.layers = append(c.layers, l)
	}
	if !hasGGUF {
		// Nothing else tells what such a model is.
		old := base
		old.Renderer, old.Parser, old.Requires = c.config.Renderer, c.config.Parser, c.config.Requires
		old.Architecture, old.OS, old.RootFS = c.config.Architecture, c.config.OS, c.config.RootFS
		c.config = old
	}
	return nil
}

// fromRemote makes a model without weights, which runs on another host.
func (c *creation) fromRemote() error {
	if _, err := ParseName(c.req.From); err != nil {
		return err
	}
	host, err := remoteURL(c.req.RemoteHost)
	if err != nil {
		return badRequestf("bad remote")
	}
	c.config.RemoteHost, c.config.RemoteModel = host, c.req.From
	return nil
}

// remoteURL completes the address of a remote host as Ollama does: http, and port
// 11434, where none is given; a lone path means this machine.
func remoteURL(raw string) (string, error) {
	switch {
	case strings.HasPrefix(raw, "/"):
		raw = "http://localhost" + raw
	case raw == "ollama.com" || raw == "http://ollama.com":
		raw = "https://ollama.com:443"
	case !strings.Contains(raw, "://"):
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", err
	}
	if u.Host == "" {
		u.Host = "localhost"
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		u.Host = net.JoinHostPort(u.Host, "11434")
	}
	if u.Path != "" {
		u.Path = path.Clean(u.Path)
	}
	if u.Path == "/" {
		u.Path = ""
	}
	return u.String(), nil
}

// fileKind says what a set of uploaded files is.
type fileKind int

const (
	unknownFiles fileKind = iota
	ggufFiles
	safetensorsFiles
)

func (c *creation) kindOf(files map[string]string) (fileKind, error) {
	names := slices.Sorted(maps.Keys(files))
	has := func(suffix string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, suffix) })
	}
	switch {
	case has(".safetensors"):
		return safetensorsFiles, nil
	case has(".gguf"):
		return ggufFiles, nil
	}
	for _, n := range names {
		d, err := ParseDigest(files[n])
		if err != nil {
			return unknownFiles, err
		}
		switch _, err := c.store.header(Name{}, d); {
		case err == nil:
			return ggufFiles, nil
		case errors.Is(err, gguf.ErrNotGGUF):
		default:
			return unknownFiles, uploadError(err)
		}
	}
	return unknownFiles, nil
}

// fromFiles makes a model of uploaded files.
func (c *creation) fromFiles() error {
	switch kind, err := c.kindOf(c.req.Files); {
	case err != nil:
		return err
	case kind == safetensorsFiles:
		return c.fromSafetensors()
	case kind == unknownFiles:
		return ErrUnknownType
	}
	var models, parts []string
	for _, n := range slices.Sorted(maps.Keys(c.req.Files)) {
		l, split, err := c.uploaded(c.req.Files[n])
		switch {
		case err != nil:
			return err
		case split:
			parts = append(parts, n)
		case l.MediaType == mediaModel:
			models = append(models, n)
			// The weights come first: they give the model its family.
			c.layers = slices.Insert(c.layers, 0, l)
		default:
			c.layers = append(c.layers, l)
		}
	}
	if len(parts) > 0 {
		l, err := c.merge(parts)
		if err != nil {
			return err
		}
		models = append(models, parts[0])
		c.layers = slices.Insert(c.layers, 0, l)
	}
	switch len(models) {
	case 0:
		return badRequestf("the files hold no model: an adapter or projector needs the GGUF file of its model beside it")
	case 1:
		return c.detectTemplate()
	default:
		return badRequestf("the files %s hold more than one model", strings.Join(models, ", "))
	}
}

// uploaded makes a layer of an uploaded GGUF file, of the type that the file says. Of
// a part of a model that was split it makes none.
func (c *creation) uploaded(digest string) (l *newLayer, split bool, err error) {
	c.progress(Progress{Status: "parsing GGUF"})
	d, err := ParseDigest(digest)
	if err != nil {
		return nil, false, err
	}
	c.hold.add(d)
	h, err := c.store.header(Name{}, d)
	if err != nil {
		return nil, false, uploadError(err)
	}
	stat, err := c.store.statBlob(d)
	if err != nil {
		return nil, false, c.store.blobError(Name{}, d, err)
	}
	c.hold.renew(d)
	if h.parts > 1 {
		return nil, true, nil
	}
	if err := usable(h); err != nil {
		return nil, false, err
	}
	mediaType := mediaModel
	switch {
	case h.info.Kind == "adapter":
		mediaType = mediaAdapter
	case h.info.Kind == "projector", h.info.BlockCount == 0 && h.info.HasVision:
		mediaType = mediaProjector
	}
	return &newLayer{
		layer: layer{MediaType: mediaType, Digest: d, Size: stat.Size(), From: c.store.BlobPath(d)},
		info:  h.info,
	}, false, nil
}

// uploadError turns the error of reading an uploaded GGUF file into the caller's.
func uploadError(err error) error {
	var bad *gguf.Error
	var missing *MissingBlobError
	switch {
	case errors.Is(err, gguf.ErrNotGGUF):
		return ErrOnlyGGUF
	case errors.As(err, &bad), errors.As(err, &missing):
		return badRequestf("%w", err)
	}
	return err
}

// usable refuses files that no engine could load.
func usable(h *header) error {
	switch {
	case h.info.Architecture == "":
		return badRequestf("the GGUF file names no architecture (general.architecture): it holds no model that can be run")
	case len(h.info.Tensors) == 0:
		return badRequestf("the GGUF file holds no tensors: it is a vocabulary or a part of a model, and can't be run")
	}
	return nil
}

// maxChatTemplate bounds, in characters, the chat templates that are compared with
// the known ones. The longest known has 4614, and 99 differences are allowed.
const maxChatTemplate = 8 << 10

// detectTemplate looks for the Go template of the model's chat template.
func (c *creation) detectTemplate() error {
	text := c.layers[0].info.ChatTemplate
	if text == "" || utf8.RuneCountInString(text) > maxChatTemplate {
		return nil
	}
	t, err := template.Named(text)
	if err != nil {
		return nil // unknown, which is not wrong
	}
	if err := c.text(mediaTemplate, t.Bytes, "using autodetected template "+t.Name); err != nil {
		return err
	}
	if t.Parameters == nil {
		return nil
	}
	return c.json(mediaParams, t.Parameters)
}
