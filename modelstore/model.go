package modelstore

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/template"
	"github.com/ollama/ollama/types/model"
)

// Model is a name with all that serving it needs. It is shared by everyone who gets
// the name: neither the Model nor anything it refers to may be changed. (Executing
// the template changes the messages that it is given: give it copies.)
type Model struct {
	Name       Name
	Digest     Digest // of the manifest file
	Size       int64  // bytes of all layers and the config
	ModifiedAt time.Time
	Config     model.ConfigV2

	ModelPath      string // the GGUF file; "" for a model without one
	ModelBlob      Digest // of that file; models that share it can share an engine
	ProjectorPaths []string
	AdapterPaths   []string
	ParentModel    string // what the model was made from, as Ollama notes it

	Template   *template.Template // never nil; Ollama's default when the model has none
	System     string
	Parameters map[string]any // as encoding/json decodes them
	Messages   []api.Message
	Licenses   []string

	store      *Store
	projectors []Digest
	derived    *derived // nil in a Model that no store made
}

// derived is what was worked out from a model's files. It lives as long as that
// version of the model, and is shared by the copies that With makes.
type derived struct {
	mu        sync.Mutex
	abilities []model.Capability
}

// maxText bounds what is read as a text blob: config, system text, license,
// messages, parameters.
const maxText = 64 << 20

// Get returns a model. The errors are *InvalidNameError, *NotFoundError,
// *CorruptManifestError, *MissingBlobError, or from the file system.
func (s *Store) Get(n Name) (*Model, error) {
	n, err := valid(n)
	if err != nil {
		return nil, err
	}
	root, err := s.manifests.open()
	if isNotExist(err) {
		return nil, &NotFoundError{Name: n}
	} else if err != nil {
		return nil, s.readError(err)
	}
	defer root.Close()
	r, err := s.find(root, n)
	if err != nil {
		return nil, err
	}
	var m *Model
	err = s.readLatest(root, r, func(r *record) (err error) {
		m, err = s.model(r)
		return err
	})
	return m, err
}

// readLatest reads blobs of a model. When one is missing because the model was
// replaced in the meantime, it reads those of its successor.
func (s *Store) readLatest(root *os.Root, r *record, read func(*record) error) error {
	for {
		err := read(r)
		var missing *MissingBlobError
		if !errors.As(err, &missing) {
			return err
		}
		now, e := s.record(root, r.name)
		if e != nil {
			return e
		}
		if now.digest == r.digest {
			return err
		}
		r = now
	}
}

// find returns the record of the name, whatever its case.
func (s *Store) find(root *os.Root, n Name) (*record, error) {
	r, err := s.record(root, n)
	if !errors.Is(err, ErrNotFound) {
		return r, err
	}
	there, _, e := s.walk(root)
	if e != nil {
		return nil, s.readError(e)
	}
	if folded := fold(n, there); folded.EqualFold(n) && folded != n {
		return s.record(root, folded)
	}
	return nil, err
}

// model returns the Model of a record, which it makes once.
func (s *Store) model(r *record) (*Model, error) {
	config, err := s.config(r)
	if err != nil {
		return nil, err
	}
	r.lazy.mu.Lock()
	defer r.lazy.mu.Unlock()
	if r.lazy.model != nil {
		return r.lazy.model, nil
	}
	m := &Model{
		Name: r.name, Digest: r.digest, Size: r.size(), ModifiedAt: r.file.ModTime(),
		Config: config, Template: template.DefaultTemplate, store: s, derived: &derived{},
	}
	for _, l := range r.Layers {
		if err := s.addLayer(m, l); err != nil {
			return nil, err
		}
	}
	r.lazy.model = m
	return m, nil
}

// addLayer lays one layer of the manifest into the model. Of several layers of one
// kind the last counts, but adapters, projectors and licenses add up.
func (s *Store) addLayer(m *Model, l layer) error {
	switch l.MediaType {
	case mediaModel, mediaProjector, mediaAdapter:
		return s.addFile(m, l)
	case mediaTemplate, mediaPrompt, mediaSystem, mediaParams, mediaMessages, mediaLicense:
	default:
		return nil
	}
	raw, err := s.readBlob(m.Name, l.Digest, maxText)
	if err != nil {
		return err
	}
	switch l.MediaType {
	case mediaTemplate, mediaPrompt:
		m.Template, err = parseTemplate(string(raw))
	case mediaSystem:
		m.System = string(raw)
	case mediaParams:
		err = decodeJSON(raw, &m.Parameters)
	case mediaMessages:
		m.Messages = nil
		err = decodeJSON(raw, &m.Messages)
	case mediaLicense:
		m.Licenses = append(m.Licenses, string(raw))
	}
	if err != nil {
		return &CorruptManifestError{Name: m.Name, Err: fmt.Errorf("its layer %s: %w", l.Digest, err)}
	}
	return nil
}

// addFile adds a layer that the engine opens by its path.
func (s *Store) addFile(m *Model, l layer) error {
	if _, err := s.statBlob(l.Digest); err != nil {
		return s.blobError(m.Name, l.Digest, err)
	}
	switch path := s.BlobPath(l.Digest); l.MediaType {
	case mediaModel:
		m.ModelPath, m.ModelBlob, m.ParentModel = path, l.Digest, l.From
	case mediaProjector:
		m.ProjectorPaths = append(m.ProjectorPaths, path)
		m.projectors = append(m.projectors, l.Digest)
	case mediaAdapter:
		m.AdapterPaths = append(m.AdapterPaths, path)
	}
	return nil
}

// maxTemplate bounds the text of a template. Parsing follows its nesting, and a
// long text could nest deeper than any stack.
const maxTemplate = 256 << 10

func parseTemplate(text string) (*template.Template, error) {
	if len(text) > maxTemplate {
		return nil, fmt.Errorf("the template is longer than %d KiB", maxTemplate>>10)
	}
	return template.Parse(text)
}

// With returns a copy of the model with another system text, where that is not
// empty, and with options laid over its parameters.
func (m *Model) With(system string, options map[string]any) *Model {
	c := *m
	if system != "" {
		c.System = system
	}
	if len(options) > 0 {
		c.Parameters = maps.Clone(m.Parameters)
		if c.Parameters == nil {
			c.Parameters = make(map[string]any)
		}
		maps.Copy(c.Parameters, options)
	}
	return &c
}
