package modelstore

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// found is a manifest's file.
type found struct {
	name Name
	key  string      // the name's text, by which they are sorted
	info fs.FileInfo // of the link, when the file is one
}

func newFound(n Name, info fs.FileInfo) found { return found{n, n.String(), info} }

// tags is what a folder of tags held when it was read.
type tags struct {
	folder fs.FileInfo
	files  []string
}

// walk lists the manifests in the store, sorted, and the paths where manifests may
// be that can't be read as such: files with names of another form, folders that
// can't be read, links that lead outside.
func (s *Store) walk(root *os.Root) (list []found, odd []string, err error) {
	s.cacheMu.Lock()
	known := s.tags
	s.cacheMu.Unlock()
	w := &walker{root: root, dir: s.manifests.path, now: s.now(), known: known, seen: make(map[string]tags, len(known))}
	if err = w.visit(root, ".", ".", 0); err == nil {
		s.cacheMu.Lock()
		s.tags = w.seen
		s.cacheMu.Unlock()
	}
	slices.SortFunc(w.list, func(a, b found) int { return strings.Compare(a.key, b.key) })
	return w.list, slices.Compact(w.odd), err
}

type walker struct {
	root *os.Root
	dir  string // where root is
	now  time.Time
	list []found
	odd  []string

	links int // that lead to where visit is

	// Folders of tags by their paths: from an earlier walk, and for the next one.
	known, seen map[string]tags
}

// visit looks into a folder, which is called name in parent and stands at p below
// the root. Each folder is opened from the one above: with paths from the root, a
// thousand models would take several times the system calls.
func (w *walker) visit(parent *os.Root, name, p string, depth int) error {
	if depth == 3 && w.links == 0 && w.unchanged(p) {
		return nil
	}
	entries, folder, err := readFolder(parent, name)
	if err != nil {
		switch {
		case depth == 0:
			return err
		case !isNotExist(err):
			w.odd = append(w.odd, p)
		}
		return nil
	}
	if depth == 3 {
		w.files(p, entries, folder)
		return nil
	}
	dir, err := parent.OpenRoot(name)
	if err != nil {
		w.odd = append(w.odd, p)
		return nil
	}
	defer dir.Close()
	for _, e := range entries {
		below := path.Join(p, e.Name())
		switch {
		case e.IsDir():
			err = w.visit(dir, e.Name(), below, depth+1)
		case e.Type()&fs.ModeSymlink != 0:
			// It may lead to another folder of the store, so it is followed from the root.
			w.links++
			err = w.visit(w.root, below, below, depth+1)
			w.links--
			if info, e := w.root.Stat(below); e != nil || !info.IsDir() {
				w.odd = append(w.odd, below)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// files takes note of a folder of tags. It is kept for the next walk when it is an
// ordinary one: all that is in it are manifests, and no link led there or is there.
func (w *walker) files(p string, entries []fs.DirEntry, folder fs.FileInfo) {
	at := len(w.list)
	for _, e := range entries {
		w.file(path.Join(p, e.Name()), e)
	}
	t := tags{folder: folder}
	for _, f := range w.list[at:] {
		if f.info.Mode().IsRegular() {
			t.files = append(t.files, f.info.Name())
		}
	}
	if settled := w.now.Sub(folder.ModTime()) > settle; settled && w.links == 0 && len(t.files) == len(entries) {
		w.seen[p] = t
	}
}

// unchanged takes note of a folder of tags as an earlier walk found it, when no file
// has come or gone since. To look at the folder and at each file takes a quarter of
// the system calls of reading them. A link put in the place of a folder above leads
// here by another way; one put in the place of a file is seen.
func (w *walker) unchanged(p string) bool {
	t, ok := w.known[p]
	if !ok {
		return false
	}
	folder, err := os.Lstat(filepath.Join(w.dir, p))
	if err != nil || !os.SameFile(folder, t.folder) || !folder.ModTime().Equal(t.folder.ModTime()) {
		return false
	}
	at := len(w.list)
	for _, name := range t.files {
		below := path.Join(p, name)
		info, err := os.Lstat(filepath.Join(w.dir, below))
		if err != nil || !info.Mode().IsRegular() {
			w.list = w.list[:at]
			return false
		}
		w.list = append(w.list, newFound(nameOf(below), info))
	}
	w.seen[p] = t
	return true
}

// file takes note of an entry in the place of a manifest.
func (w *walker) file(p string, e fs.DirEntry) {
	if e.IsDir() {
		return
	}
	n, info := nameOf(p), fs.FileInfo(nil)
	if n.IsValid() {
		info, _ = e.Info()
	}
	switch {
	case info != nil:
		w.list = append(w.list, newFound(n, info))
	case !strings.HasPrefix(e.Name(), "."):
		w.odd = append(w.odd, p)
	}
}

// readDir lists a folder with what is known of its files.
func readDir(root *os.Root, name string) ([]fs.DirEntry, error) {
	entries, _, err := readFolder(root, name)
	return entries, err
}

// readFolder is readDir, with what was known of the folder before it was read.
func readFolder(root *os.Root, name string) (entries []fs.DirEntry, folder fs.FileInfo, err error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if folder, err = f.Stat(); err != nil {
		return nil, nil, err
	}
	entries, err = f.ReadDir(-1)
	return entries, folder, err
}
