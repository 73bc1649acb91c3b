package modelstoretest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Registry is a registry in memory. Its methods may be called from many goroutines.
type Registry struct {
	mu        sync.Mutex
	blobs     map[string][]byte // by digest
	manifests map[string][]byte // by NAMESPACE/MODEL:TAG
	uploads   map[string][]byte // by id
	faults    []*fault
	asked     []string
	tokens    tokens
	mounts    bool
	parts     string // where parts of uploads are sent; "" for here
}

// NewRegistry returns a registry that holds nothing.
func NewRegistry() *Registry {
	return &Registry{blobs: map[string][]byte{}, manifests: map[string][]byte{}, uploads: map[string][]byte{}}
}

// DigestOf is the digest of content, as registries write it.
func DigestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// AddBlob adds a blob to all repositories and returns its digest.
func (r *Registry) AddBlob(content []byte) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := DigestOf(content)
	r.blobs[d] = content
	return d
}

// Layer is a layer of a manifest.
type Layer struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

// Manifest is a manifest.
type Manifest struct {
	SchemaVersion int     `json:"schemaVersion"`
	MediaType     string  `json:"mediaType"`
	Config        Layer   `json:"config"`
	Layers        []Layer `json:"layers"`
}

const (
	typeManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeConfig   = "application/vnd.docker.container.image.v1+json"
	typeModel    = "application/vnd.ollama.image.model"
)

// AddModel adds a model whose weights are the files, as NAMESPACE/MODEL:TAG, and
// returns its manifest.
func (r *Registry) AddModel(ref string, files ...[]byte) Manifest {
	config := []byte(`{"model_format":"gguf","model_family":"llama"}`)
	m := Manifest{SchemaVersion: 2, MediaType: typeManifest, Config: Layer{typeConfig, r.AddBlob(config), int64(len(config))}}
	for _, f := range files {
		m.Layers = append(m.Layers, Layer{typeModel, r.AddBlob(f), int64(len(f))})
	}
	r.SetManifest(ref, m)
	return m
}

// SetManifest makes a name stand for the manifest: a Manifest, or its text.
func (r *Registry) SetManifest(ref string, manifest any) {
	var raw []byte
	switch m := manifest.(type) {
	case string:
		raw = []byte(m)
	default:
		var err error
		if raw, err = json.MarshalIndent(m, "", "  "); err != nil {
			panic(err) // a test's mistake
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests[ref] = raw
}

// ManifestOf returns what a name stands for, "" for nothing.
func (r *Registry) ManifestOf(ref string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.manifests[ref])
}

// Blob returns a blob, nil if it is not there.
func (r *Registry) Blob(digest string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blobs[digest]
}

// Mounts makes the registry take blobs that it has from another repository.
func (r *Registry) Mounts() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mounts = true
}

// SendPartsTo makes the registry have parts of uploads sent to base, where a Registry
// listens that has no part in anything else.
func (r *Registry) SendPartsTo(base string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parts = base
}

// Asked returns the requests that came, such as "GET /v2/library/x/manifests/latest",
// with the range where one was asked for, and forgets them.
func (r *Registry) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.asked
	r.asked = nil
	return list
}

// ServeHTTP answers as a registry, or as the test ordered.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	line := req.Method + " " + req.URL.Path
	if s := req.Header.Get("Range"); s != "" {
		line += " " + s
	}
	r.mu.Lock()
	r.asked = append(r.asked, line)
	f := r.faultFor(req)
	r.mu.Unlock()
	if f != nil {
		f(w, req, http.HandlerFunc(r.serve))
		return
	}
	r.serve(w, req)
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == tokenPath {
		r.serveToken(w, req)
		return
	}
	if !r.admitted(w, req) {
		return
	}
	path, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	parts := strings.Split(path, "/")
	switch {
	case ok && len(parts) == 4 && parts[2] == "manifests":
		r.serveManifest(w, req, parts[0]+"/"+parts[1]+":"+parts[3])
	case ok && len(parts) == 4 && parts[2] == "blobs":
		r.serveBlob(w, req, parts[3])
	case ok && len(parts) == 5 && parts[3] == "uploads":
		r.serveUpload(w, req, parts[4])
	default:
		http.NotFound(w, req)
	}
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q}]}`, code)
}

func (r *Registry) serveManifest(w http.ResponseWriter, req *http.Request, ref string) {
	if req.Method == http.MethodPut {
		raw, err := io.ReadAll(req.Body)
		var m Manifest
		if err != nil || json.Unmarshal(raw, &m) != nil {
			refuse(w, http.StatusBadRequest, "MANIFEST_INVALID")
			return
		}
		for _, l := range append(m.Layers, m.Config) {
			if l.Digest != "" && r.Blob(l.Digest) == nil {
				refuse(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
				return
			}
		}
		r.SetManifest(ref, string(raw))
		w.WriteHeader(http.StatusCreated)
		return
	}
	raw := r.ManifestOf(ref)
	if raw == "" {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", typeManifest)
	_, _ = io.WriteString(w, raw) // the client may have gone
}

func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, digest string) {
	content := r.Blob(digest)
	if content == nil {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", digest)
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(content))
}

// serveUpload takes uploads as the specification of registries has it: each part is put
// behind what came before, also half of one, and whoever asks is told how much is there.
func (r *Registry) serveUpload(w http.ResponseWriter, req *http.Request, id string) {
	body, err := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	q := req.URL.Query()
	switch {
	case req.Method == http.MethodPost && r.mounts && r.blobs[q.Get("mount")] != nil:
		w.WriteHeader(http.StatusCreated)
		return
	case req.Method == http.MethodPost:
		id = fmt.Sprintf("upload-%d", len(r.uploads)+1)
		r.uploads[id] = nil
	case req.Method == http.MethodPatch && r.parts != "":
		w.Header().Set("Docker-Upload-Location", req.URL.Path)
		w.Header().Set("Location", fmt.Sprintf("%s/parts/%s/%s", r.parts, id, req.Header.Get("Content-Range")))
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	case req.Method == http.MethodGet && r.uploads[id] != nil:
		w.Header().Set("Location", req.URL.Path)
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(len(r.uploads[id])-1, 0)))
		w.WriteHeader(http.StatusNoContent)
		return
	case req.Method == http.MethodPatch && !strings.HasPrefix(req.Header.Get("Content-Range"), fmt.Sprintf("%d-", len(r.uploads[id]))):
		refuse(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID")
		return
	case req.Method == http.MethodPatch:
		r.uploads[id] = append(r.uploads[id], body...)
		if err != nil {
			return
		}
	case req.Method == http.MethodPut:
		d := q.Get("digest")
		content := append(r.uploads[id], body...)
		if r.parts == "" && DigestOf(content) != d {
			refuse(w, http.StatusBadRequest, "DIGEST_INVALID")
			return
		}
		r.blobs[d] = content
		w.WriteHeader(http.StatusCreated)
		return
	default:
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
		return
	}
	w.Header().Set("Location", strings.TrimSuffix(req.URL.Path, "/"+id)+"/"+id)
	if req.Method == http.MethodPost {
		w.Header().Set("Location", req.URL.Path+id)
	}
	w.WriteHeader(http.StatusAccepted)
}
