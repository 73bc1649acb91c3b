package modelstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/ollama/ollama/types/model"
)

// Media types of manifests and layers.
const (
	mediaManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	mediaConfig    = "application/vnd.docker.container.image.v1+json"
	mediaModel     = "application/vnd.ollama.image.model"
	mediaProjector = "application/vnd.ollama.image.projector"
	mediaAdapter   = "application/vnd.ollama.image.adapter"
	mediaTemplate  = "application/vnd.ollama.image.template"
	mediaPrompt    = "application/vnd.ollama.image.prompt" // what templates were called once
	mediaSystem    = "application/vnd.ollama.image.system"
	mediaParams    = "application/vnd.ollama.image.params"
	mediaMessages  = "application/vnd.ollama.image.messages"
	mediaLicense   = "application/vnd.ollama.image.license"
)

// maxManifest bounds what is read as a manifest. Models of many tensor layers have
// manifests of about a megabyte.
const maxManifest = 16 << 20

// manifest is the JSON file that a name stands for. The order of the fields is the
// order in the file.
type manifest struct {
	SchemaVersion int     `json:"schemaVersion"`
	MediaType     string  `json:"mediaType"`
	Config        layer   `json:"config"`
	Layers        []layer `json:"layers"`
}

type layer struct {
	MediaType string `json:"mediaType"`
	Digest    Digest `json:"digest"`
	Size      int64  `json:"size"`
	From      string `json:"from,omitempty"`
	Name      string `json:"name,omitempty"`
}

// size is what the blobs take on disk.
func (m *manifest) size() int64 {
	n := m.Config.Size
	for _, l := range m.Layers {
		n += l.Size
	}
	return n
}

// digests lists the blobs, the config last.
func (m *manifest) digests() []Digest {
	var list []Digest
	for _, l := range m.Layers {
		list = append(list, l.Digest)
	}
	return append(list, m.Config.Digest)
}

// encode returns the bytes of the manifest file.
func (m *manifest) encode() ([]byte, error) {
	var b bytes.Buffer
	err := json.NewEncoder(&b).Encode(m)
	return b.Bytes(), err
}

// settle is how old a file must be when it is read for its time to tell it from
// later versions. File systems count time in steps of up to two seconds.
const settle = 2 * time.Second

// record is what was read of one manifest file. Only lazy changes afterwards.
type record struct {
	name    Name
	file    fs.FileInfo
	settled bool
	digest  Digest
	err     *CorruptManifestError // then the manifest is empty
	manifest

	lazy *lazy // shared by the records of one content
}

// modelPath is the path of the name's manifest in the folder of manifests.
func modelPath(n Name) string { return path.Join(n.Host, n.Namespace, n.Model, n.Tag) }

// canonical gives n the protocol that names on disk have: the default.
func canonical(n Name) Name {
	n.ProtocolScheme = model.DefaultName().ProtocolScheme
	return n
}

// record reads the manifest of exactly this name, or takes it from the cache when
// the file has not changed. The error is a *NotFoundError or from the file system.
func (s *Store) record(root *os.Root, n Name) (*record, error) {
	info, err := regular(root, modelPath(n))
	if err != nil {
		s.cacheMu.Lock()
		delete(s.records, n)
		s.cacheMu.Unlock()
		return nil, notFound(n, err)
	}
	s.cacheMu.Lock()
	r := s.records[n]
	s.cacheMu.Unlock()
	if r != nil && r.settled && os.SameFile(r.file, info) && r.file.ModTime().Equal(info.ModTime()) && r.file.Size() == info.Size() {
		return r, nil
	}
	if r, err = s.readRecord(root, n, r); err != nil {
		return nil, notFound(n, err)
	}
	s.cacheMu.Lock()
	s.records[n] = r
	s.cacheMu.Unlock()
	return r, nil
}

// readRecord reads the file. What was filled in lazily is taken from old when the
// file is the same after all.
func (s *Store) readRecord(root *os.Root, n Name, old *record) (*record, error) {
	f, err := root.Open(modelPath(n))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r := &record{name: n, file: info, settled: s.now().Sub(info.ModTime()) > settle, lazy: &lazy{}}
	raw, err := readAll(f, maxManifest)
	if err != nil {
		return nil, err
	}
	r.digest = digestOf(raw)
	if old != nil && old.digest == r.digest && old.file.ModTime().Equal(info.ModTime()) {
		r.lazy = old.lazy
	}
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&r.manifest); err != nil {
		r.manifest, r.err = manifest{}, &CorruptManifestError{Name: n, Err: err}
	}
	return r, nil
}

// notFound turns the errors that mean "there is no such file" into a *NotFoundError.
func notFound(n Name, err error) error {
	if isNotExist(err) {
		return &NotFoundError{Name: n}
	}
	return fmt.Errorf("reading the manifest of model '%s': %w", n.DisplayShortest(), err)
}

func readAll(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("the file is larger than %d MiB", most>>20)
	}
	return b, err
}

// walk lists the names in the store, sorted, and the paths where manifests may be
// that can't be read as such: files with names of another form, folders that can't
// be read, links that lead outside.
func walk(root *os.Root) (names []Name, odd []string, err error) {
	fsys := root.FS()
	var visit func(dir string, depth int) error
	visit = func(dir string, depth int) error {
		entries, err := fs.ReadDir(fsys, dir)
		switch {
		case err == nil:
		case depth == 0:
			return err
		case !isNotExist(err):
			odd = append(odd, dir)
		}
		for _, e := range entries {
			p, kind := path.Join(dir, e.Name()), e.Type()
			if kind&fs.ModeSymlink != 0 {
				if info, err := root.Stat(p); err == nil {
					kind = info.Mode().Type()
				}
			}
			switch {
			case depth < 3 && kind.IsDir():
				if err := visit(p, depth+1); err != nil {
					return err
				}
			case depth < 3 && kind&fs.ModeSymlink != 0:
				odd = append(odd, p)
			case depth == 3 && !kind.IsDir():
				if n := nameOf(p); n.IsValid() {
					names = append(names, n)
				} else if !strings.HasPrefix(e.Name(), ".") {
					odd = append(odd, p)
				}
			}
		}
		return nil
	}
	return names, odd, visit(".", 0)
}

// nameOf is the name whose manifest is at p; not valid when p is no such path.
func nameOf(p string) Name {
	parts := strings.Split(p, "/")
	if len(parts) != 4 {
		return Name{}
	}
	return canonical(Name{Host: parts[0], Namespace: parts[1], Model: parts[2], Tag: parts[3]})
}

// all returns all names with what was read of them, sorted by name. Manifests
// that can't be opened come with an error in place of a content.
func (s *Store) all(root *os.Root) (list []*record, odd []string, err error) {
	names, odd, err := walk(root)
	if err != nil {
		return nil, nil, err
	}
	there := make(map[Name]bool, len(names))
	for _, n := range names {
		r, err := s.record(root, n)
		switch {
		case errors.Is(err, ErrNotFound) && !s.exists(root, n):
			continue // removed since the walk
		case err != nil:
			r = &record{name: n, lazy: &lazy{}, err: &CorruptManifestError{Name: n, Err: err}}
		}
		there[n] = true
		list = append(list, r)
	}
	s.cacheMu.Lock()
	for n := range s.records {
		if !there[n] {
			delete(s.records, n)
		}
	}
	s.cacheMu.Unlock()
	return list, odd, nil
}

func (s *Store) exists(root *os.Root, n Name) bool {
	_, err := root.Lstat(modelPath(n))
	return err == nil
}

// putManifest makes n stand for the manifest with these bytes. s.mu is held.
func (s *Store) putManifest(n Name, raw []byte) error {
	err := s.manifests.write(manifestTemp, modelPath(n), raw)
	s.cacheMu.Lock()
	delete(s.records, n)
	s.cacheMu.Unlock()
	return s.writeError("writing the manifest of model '"+n.DisplayShortest()+"'", err)
}
