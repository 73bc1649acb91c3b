//go:build unix

package modelstore

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// asOrdinaryUser prepares a folder and runs test on it where permissions count. For
// root they don't: then test runs in a process of its own, as nobody.
func asOrdinaryUser(t *testing.T, prepare, test func(dir string)) {
	const variable = "MODELSTORE_ORDINARY"
	if dir := os.Getenv(variable); dir != "" {
		if err := syscall.Setuid(65534); err != nil {
			t.Skip("root can't become another user here: ", err)
		}
		test(dir)
		return
	}
	dir, err := os.MkdirTemp("", "modelstore")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	prepare(dir)
	t.Cleanup(func() {
		filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if e.IsDir() {
				os.Chmod(p, 0o755)
			}
			return nil
		})
	})
	if os.Getuid() != 0 {
		test(dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- ")) {
		t.Errorf("%v:\n%s", err, out)
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skip(string(out))
	}
}

func TestAFolderThatCannotBeWrittenIsReadAllTheSame(t *testing.T) {
	asOrdinaryUser(t, func(dir string) {
		createSmall(t, openStore(t, dir), "x", 8)
		for _, p := range []string{"blobs", library + "/x", library, "manifests"} {
			if err := os.Chmod(filepath.Join(dir, p), 0o555); err != nil {
				t.Fatal(err)
			}
		}
	}, func(dir string) {
		s := openStore(t, dir)
		if err := s.Writable(); !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), "OLLAMA_MODELS") || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("Writable: %v", err)
		}
		if m := get(t, s, "x"); m.Config.ModelFamily != "llama" {
			t.Errorf("got %+v", m)
		}
		if list, err := s.List(); err != nil || len(list) != 1 {
			t.Errorf("list %v, %v", list, err)
		}
		for what, err := range map[string]error{
			"create": s.Create(t.Context(), CreateRequest{Name: name(t, "y"), From: "x", System: "s"}, nil),
			"copy":   s.Copy(name(t, "x"), name(t, "y")),
			"delete": s.Delete(name(t, "x")),
			"write":  s.WriteBlob(t.Context(), DigestOf([]byte("x")), strings.NewReader("x")),
		} {
			if !errors.Is(err, ErrReadOnly) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

func TestAFolderThatCannotBeReadIsRefused(t *testing.T) {
	asOrdinaryUser(t, func(dir string) {
		for p, mode := range map[string]os.FileMode{"blobs": 0, "manifests": 0, "closed": 0o555} {
			if err := os.Mkdir(filepath.Join(dir, p), mode); err != nil {
				t.Fatal(err)
			}
		}
	}, func(dir string) {
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "can't be read") || !strings.Contains(err.Error(), "OLLAMA_MODELS") {
			t.Errorf("got %v", err)
		}
		if _, err := Open(filepath.Join(dir, "closed", "models")); err == nil || !strings.Contains(err.Error(), "can't be made") {
			t.Errorf("got %v", err)
		}
		// An empty folder that can't be written is an empty read-only store.
		s := openStore(t, filepath.Join(dir, "closed"))
		if list, err := s.List(); err != nil || len(list) != 0 {
			t.Errorf("list %v, %v", list, err)
		}
		if err := s.Writable(); !errors.Is(err, ErrReadOnly) {
			t.Errorf("Writable: %v", err)
		}
	})
}
