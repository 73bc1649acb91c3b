package modelstore

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A folder whose time tells that nothing has come or gone is not read again. What has
// changed in spite of that, or with the time set back, has to be seen all the same.
func TestAListSeesWhatChangedInFoldersThatItKnows(t *testing.T) {
	elsewhere := t.TempDir()
	for name, c := range map[string]struct {
		change func(t *testing.T, library string)
		want   []string // the models' names
		odd    []string
	}{
		"nothing": {
			func(*testing.T, string) {},
			[]string{"x:latest", "y:latest"}, nil,
		},
		"a tag comes": {
			func(t *testing.T, library string) { writeFile(t, filepath.Join(library, "x", "two"), "{}") },
			[]string{"x:latest", "x:two", "y:latest"}, nil,
		},
		"a tag goes": {
			func(t *testing.T, library string) { remove(t, filepath.Join(library, "x", "latest")) },
			[]string{"y:latest"}, nil,
		},
		"a tag is put in another's place": {
			func(t *testing.T, library string) {
				if err := os.Rename(filepath.Join(library, "y", "latest"), filepath.Join(library, "x", "latest")); err != nil {
					t.Fatal(err)
				}
			},
			[]string{"x:latest"}, nil,
		},
		"a model's folder goes": {
			func(t *testing.T, library string) { remove(t, filepath.Join(library, "x")) },
			[]string{"y:latest"}, nil,
		},
		"a link is put in a tag's place, and the folder's time set back": {
			func(t *testing.T, library string) {
				folder, tag := filepath.Join(library, "x"), filepath.Join(library, "x", "latest")
				remove(t, tag)
				if err := os.Symlink("/nowhere", tag); err != nil {
					t.Fatal(err)
				}
				age(t, folder, time.Hour)
			},
			[]string{"x:latest", "y:latest"}, nil,
		},
		"the folders move away, and a link leads there": {
			func(t *testing.T, library string) {
				away := filepath.Join(elsewhere, "library")
				if err := os.Rename(library, away); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(away, library); err != nil {
					t.Fatal(err)
				}
			},
			nil, []string{"registry.ollama.ai/library"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir())
			folder := filepath.Join(s.dir, library)
			for _, m := range []string{"x", "y"} {
				writeFile(t, filepath.Join(folder, m, "latest"), "{}")
				age(t, filepath.Join(folder, m), time.Hour)
			}
			walkNames(t, s)
			if known := len(s.tags); known != 2 {
				t.Fatalf("%d folders are known, want both", known)
			}
			c.change(t, folder)
			for range 2 { // the second time from what the first one noted
				names, odd := walkNames(t, s)
				if diff := cmp.Diff(c.want, names); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff(c.odd, odd); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// A folder that was changed a moment ago may change again without another time.
func TestAFolderThatJustChangedIsReadAgain(t *testing.T) {
	s := openStore(t, t.TempDir())
	folder := filepath.Join(s.dir, library, "x")
	tick := time.Now().Add(-settle / 2)
	for _, tag := range []string{"one", "two"} {
		writeFile(t, filepath.Join(folder, tag), "{}")
		if err := os.Chtimes(folder, tick, tick); err != nil {
			t.Fatal(err)
		}
		if names, _ := walkNames(t, s); !slices.Contains(names, "x:"+tag) {
			t.Errorf("the tag %s is not seen: %q", tag, names)
		}
	}
}

func walkNames(t *testing.T, s *Store) (names, odd []string) {
	t.Helper()
	root, err := s.manifests.open()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	list, odd, err := s.walk(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		names = append(names, f.name.DisplayShortest())
	}
	return names, odd
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}
