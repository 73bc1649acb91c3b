package modelstore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOpenMakesTheFolders(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := openStore(t, dir)
	for _, d := range []string{"blobs", "manifests"} {
		if info, err := os.Stat(filepath.Join(dir, d)); err != nil || !info.IsDir() {
			t.Errorf("%s: %v", d, err)
		}
	}
	if s.Dir() != dir {
		t.Errorf("Dir is %s", s.Dir())
	}
	if err := s.Writable(); err != nil {
		t.Error(err)
	}
	if left := paths(t, dir); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("list %v, %v", list, err)
	}
}

func TestOpenTidiesUp(t *testing.T) {
	dir := t.TempDir()
	blobs := filepath.Join(dir, "blobs")
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	for name, old := range map[string]time.Duration{
		"sha256:" + a: 0, "sha256:" + b + "-partial": 0, // of the old form
		"tmp-CRASHED":   0,                                        // nobody holds its lock
		"sha256-123456": 2 * time.Hour, "sha256-9": time.Hour / 2, // Ollama's
		"sha256-" + a + "-partial-0": 0, // of a download that has become a blob
		"sha256-" + b + "-partial-0": 48 * time.Hour, "notes.txt": 48 * time.Hour,
	} {
		writeFile(t, filepath.Join(blobs, name), "x")
		age(t, filepath.Join(blobs, name), old)
	}
	writeFile(t, filepath.Join(dir, "manifests", ".tmp-CRASHED"), "x")
	openStore(t, dir)
	want := []string{
		"blobs/notes.txt", "blobs/sha256-9", "blobs/sha256-" + a, "blobs/sha256-" + b + "-partial", "blobs/sha256-" + b + "-partial-0",
	}
	if diff := cmp.Diff(want, paths(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestOpenSparesAWriteThatGoesOn(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	blob, err := s.blobs.newTemp(blobTemp)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.discard()
	manifest, err := s.manifests.newTemp(manifestTemp)
	if err != nil {
		t.Fatal(err)
	}
	defer manifest.discard()
	openStore(t, dir)
	if n := len(paths(t, dir)); n != 2 {
		t.Errorf("%d files are left of 2", n)
	}
}

func TestOpenSaysWhatIsWrongWithTheFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, "")
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "can't be made") || !strings.Contains(err.Error(), "OLLAMA_MODELS") {
			t.Errorf("%s: got %v", dir, err)
		}
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "blobs"), "")
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "can't be read") {
		t.Errorf("blobs is a file: got %v", err)
	}
}
