package modelstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
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

// record reads the manifest of exactly this name, or takes it from the cache when
// the file has not changed. The error is a *NotFoundError or from the file system.
func (s *Store) record(root *os.Root, n Name) (*record, error) {
	info, err := regular(root, modelPath(n))
	if err != nil {
		s.forget(n)
		return nil, notFound(n, err)
	}
	return s.recordOf(root, n, info)
}

// recordOf is record for a file that was just looked at.
func (s *Store) recordOf(root *os.Root, n Name, info fs.FileInfo) (*record, error) {
	s.cacheMu.Lock()
	r := s.records[n]
	s.cacheMu.Unlock()
	if r != nil && r.settled && os.SameFile(r.file, info) && r.file.ModTime().Equal(info.ModTime()) && r.file.Size() == info.Size() {
		return r, nil
	}
	r, err := s.readRecord(root, n, r)
	if err != nil {
		s.forget(n)
		return nil, notFound(n, err)
	}
	s.cacheMu.Lock()
	s.records[n] = r
	s.cacheMu.Unlock()
	return r, nil
}

// forget drops what was read of a name.
func (s *Store) forget(n Name) {
	s.cacheMu.Lock()
	delete(s.records, n)
	s.cacheMu.Unlock()
}

// readRecord reads the file. What was filled in lazily is taken from old when the
// file is the same after all.
func (s *Store) readRecord(root *os.Root, n Name, old *record) (*record, error) {
	if _, err := regular(root, modelPath(n)); err != nil {
		return nil, err
	}
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
	if errors.Is(err, errTooLarge) {
		r.err = &CorruptManifestError{Name: n, Err: err}
		return r, nil
	} else if err != nil {
		return nil, err
	}
	r.digest = DigestOf(raw)
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

var errTooLarge = errors.New("the file is too large")

// readAll reads a file that has at most that many bytes.
func readAll(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		return nil, fmt.Errorf("%w: the most is %d MiB", errTooLarge, most>>20)
	}
	return b, err
}

// all returns all names with what was read of them, sorted by name, and the paths
// that walk could not read. Manifests that can't be read come with an error in place
// of a content.
func (s *Store) all(root *os.Root) (list []*record, odd []string, err error) {
	found, odd, err := s.walk(root)
	if err != nil {
		return nil, nil, err
	}
	there := make(map[Name]bool, len(found))
	for _, f := range found {
		r, err := s.recordOf(root, f.name, f.info)
		if errors.Is(err, ErrNotFound) && !exists(root, f.name) {
			continue // removed since the walk
		}
		if err != nil {
			r = &record{name: f.name, lazy: &lazy{}, err: &CorruptManifestError{Name: f.name, Err: err}}
		}
		there[f.name] = true
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

func exists(root *os.Root, n Name) bool {
	_, err := root.Lstat(modelPath(n))
	return err == nil
}

// putManifest makes n stand for the manifest with these bytes. s.mu is held.
func (s *Store) putManifest(n Name, raw []byte) error {
	err := s.manifests.write(manifestTemp, modelPath(n), raw)
	s.forget(n)
	return s.writeError("writing the manifest of model '"+n.DisplayShortest()+"'", err)
}
