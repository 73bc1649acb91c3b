package modelstore

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// found is a manifest's file.
type found struct {
	name Name
	info fs.FileInfo // of the link, when the file is one
}

// walk lists the manifests in the store, sorted, and the paths where manifests may
// be that can't be read as such: files with names of another form, folders that
// can't be read, links that lead outside.
func walk(root *os.Root) (list []found, odd []string, err error) {
	w := &walker{root: root}
	err = w.visit(root, ".", ".", 0)
	slices.SortFunc(w.list, func(a, b found) int { return strings.Compare(a.name.String(), b.name.String()) })
	return w.list, w.odd, err
}

type walker struct {
	root *os.Root
	list []found
	odd  []string
}

// visit looks into a folder, which is called name in parent and stands at p below
// the root. Each folder is opened from the one above: with paths from the root, a
// thousand models would take several times the system calls.
func (w *walker) visit(parent *os.Root, name, p string, depth int) error {
	entries, err := readDir(parent, name)
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
		for _, e := range entries {
			w.file(path.Join(p, e.Name()), e)
		}
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
			err = w.visit(w.root, below, below, depth+1)
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
		w.list = append(w.list, found{n, info})
	case !strings.HasPrefix(e.Name(), "."):
		w.odd = append(w.odd, p)
	}
}

// readDir lists a folder with what is known of its files.
func readDir(root *os.Root, name string) ([]fs.DirEntry, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}
