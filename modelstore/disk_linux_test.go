package modelstore

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cllm/llm/llmtest/tinymodel"
)

// smallDisk mounts a file system of so many bytes.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "models")
}

func TestAFullDiskIsReportedAndCleanedUp(t *testing.T) {
	s := openStore(t, smallDisk(t, "512k"))
	create(t, s, CreateRequest{Name: name(t, "old"), Files: map[string]string{"m.gguf": upload(t, s, ggufFile(t, 8, nil))}})
	sent := uploadFolder(t, s, tinymodel.RandomFolder("LlamaForCausalLM", tinyLlama(), 1), 1) // about 360 KB
	before := files(t, s.dir)
	err := s.Create(t.Context(), CreateRequest{Name: name(t, "x"), Files: sent}, nil)
	if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, files(t, s.dir)); diff != "" {
		t.Errorf("the folder has changed: %s", diff)
	}
	get(t, s, "old")
}
