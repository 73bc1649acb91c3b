package modelstore

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ollama/ollama/types/model"
)

// Store is an open model folder. It holds no open files and needs no closing.
type Store struct {
	dir        string
	manifests  folder
	blobs      folder
	keepUnused bool
	registry   Registry
	now        func() time.Time

	// mu orders the changes of names and the removal of blobs, and guards these:
	mu     sync.Mutex
	held   map[Digest]int  // blobs that a running Create, Pull or Push needs
	wanted map[Digest]wish // blobs that were just asked for or uploaded

	// cacheMu guards what was read. It is taken after mu, and never for long.
	cacheMu sync.Mutex
	records map[Name]*record
	headers map[Digest]*header
	tags    map[string]tags // by the paths of their folders; replaced, never changed

	downloadsMu sync.Mutex
	downloads   map[Digest]*download // those that run
}

// Option changes how a store behaves.
type Option func(*Store)

// KeepUnused keeps the blobs that a replaced model leaves behind (OLLAMA_NOPRUNE).
// Delete removes blobs all the same.
func KeepUnused() Option { return func(s *Store) { s.keepUnused = true } }

// Open opens the model folder and makes it if it is not there. It renames blobs of
// the old form sha256:X to sha256-X and removes what crashed writes left behind.
//
// A folder that exists and can be read, but not written, opens as a read-only
// store: Writable says why, and every change returns that error. Open fails when
// the folder can't be made or read.
func Open(dir string, opts ...Option) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the model folder: %w", err)
	}
	s := &Store{
		dir:       dir,
		manifests: folder{path: filepath.Join(dir, "manifests")},
		blobs:     folder{path: filepath.Join(dir, "blobs")},
		now:       time.Now,
		held:      make(map[Digest]int),
		wanted:    make(map[Digest]wish),
		records:   make(map[Name]*record),
		headers:   make(map[Digest]*header),
		downloads: make(map[Digest]*download),
	}
	for _, o := range opts {
		o(s)
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	return s, nil
}

// prepare makes the folders where it may, looks whether they can be read, and
// tidies them up.
func (s *Store) prepare() error {
	for _, f := range []folder{s.manifests, s.blobs} {
		root, err := f.make()
		if err != nil {
			if info, e := os.Stat(s.dir); e != nil || !info.IsDir() {
				return fmt.Errorf("the model folder %s can't be made: %w: set OLLAMA_MODELS to a folder that you may write", s.dir, err)
			}
			if root, err = f.open(); isNotExist(err) && !isNotDir(err) {
				continue // read-only, and nothing is in it
			}
		}
		if err == nil {
			_, err = fs.ReadDir(root.FS(), ".")
			root.Close()
		}
		if err != nil {
			return fmt.Errorf("the model folder %s can't be read: %w: let this user read it, or set OLLAMA_MODELS to another folder", s.dir, err)
		}
	}
	if err := s.Writable(); err != nil {
		return nil
	}
	if err := s.tidy(); err != nil {
		slog.Warn("could not tidy up the model folder", "dir", s.dir, "error", err)
	}
	return nil
}

// Dir is the absolute path of the folder that was opened.
func (s *Store) Dir() string { return s.dir }

// Writable tries whether the store can be written now. The error says why not and
// what to do about it, and matches ErrReadOnly.
func (s *Store) Writable() error {
	for _, f := range []struct {
		folder folder
		prefix string
	}{{s.manifests, manifestTemp}, {s.blobs, blobTemp}} {
		t, err := f.folder.newTemp(f.prefix)
		if err == nil {
			t.discard()
		} else if err = s.writeError("", err); errors.Is(err, ErrReadOnly) {
			return err
		}
	}
	return nil
}

// tidy renames blobs of the old form and removes leftovers of crashed writes.
func (s *Store) tidy() error {
	root, err := s.blobs.make()
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if rest, old := strings.CutPrefix(e.Name(), "sha256:"); old {
			err = errors.Join(err, root.Rename(e.Name(), "sha256-"+rest))
		}
	}
	_, e := s.sweep()
	return errors.Join(err, e)
}

// Entry is one line of the list of models.
type Entry struct {
	Name       Name
	Digest     Digest         // of the manifest file
	Size       int64          // bytes of all layers and the config
	ModifiedAt time.Time      // of the manifest file
	Config     model.ConfigV2 // must not be changed
}

// List returns all models, the newest first (to the second), then by name. A model
// whose manifest or config can't be read is left out and logged.
func (s *Store) List() ([]Entry, error) {
	root, err := s.manifests.open()
	if isNotExist(err) {
		return nil, nil
	} else if err != nil {
		return nil, s.readError(err)
	}
	defer root.Close()
	records, _, err := s.all(root)
	if err != nil {
		return nil, s.readError(err)
	}
	list := make([]Entry, 0, len(records))
	for _, r := range records {
		err := s.readLatest(root, r, func(r *record) error {
			config, err := s.config(r)
			if err == nil {
				list = append(list, Entry{
					Name: r.name, Digest: r.digest, Size: r.size(), ModifiedAt: r.file.ModTime(), Config: config,
				})
			}
			return err
		})
		if err != nil && !errors.Is(err, ErrNotFound) {
			r.lazy.warn(r.name, err)
		}
	}
	slices.SortStableFunc(list, func(a, b Entry) int {
		return cmp.Or(
			cmp.Compare(b.ModifiedAt.Unix(), a.ModifiedAt.Unix()),
			strings.Compare(a.Name.String(), b.Name.String()),
		)
	})
	return list, nil
}

func (s *Store) readError(err error) error {
	return fmt.Errorf("reading the model folder %s: %w", s.dir, err)
}

// lazy holds what is read only when it is needed.
type lazy struct {
	mu     sync.Mutex
	config *model.ConfigV2
	model  *Model
	warned bool
}

// warn logs, once, why a model is left out.
func (l *lazy) warn(n Name, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.warned {
		l.warned = true
		slog.Warn("a model is left out of the list", "model", n, "error", err)
	}
}

// config returns the model's config; the zero config when its manifest has none.
func (s *Store) config(r *record) (model.ConfigV2, error) {
	if r.err != nil {
		return model.ConfigV2{}, r.err
	}
	if r.Config.Digest.IsZero() {
		return model.ConfigV2{}, nil
	}
	r.lazy.mu.Lock()
	defer r.lazy.mu.Unlock()
	if r.lazy.config == nil {
		raw, err := s.readBlob(r.name, r.Config.Digest, maxText)
		if err != nil {
			return model.ConfigV2{}, err
		}
		var c model.ConfigV2
		if err := decodeJSON(raw, &c); err != nil {
			return model.ConfigV2{}, &CorruptManifestError{Name: r.name, Err: fmt.Errorf("its config %s: %w", r.Config.Digest, err)}
		}
		r.lazy.config = &c
	}
	return *r.lazy.config, nil
}

// decodeJSON reads the first JSON value, as Ollama does.
func decodeJSON(raw []byte, v any) error {
	return json.NewDecoder(strings.NewReader(string(raw))).Decode(v)
}

// isNotExist reports whether there is no such file, perhaps because a folder of its
// path is none.
func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) || isNotDir(err) }

func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }
