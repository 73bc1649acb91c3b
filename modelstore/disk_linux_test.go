package modelstore

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cllm/llm/llmtest/tinymodel"
	"cllm/modelstore/modelstoretest"
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
	llama := tinymodel.RandomFolder("LlamaForCausalLM", tinyLlama(), 1) // about 360 KB, and half of it when converted
	folder, whole := contents(t, llama, 1), ggufFile(t, 150_000, untalkative)
	for what, c := range map[string]struct {
		room string
		of   modelstoretest.Recipe
	}{
		"converting":                    {"512k", modelstoretest.Recipe{Files: folder}},
		"merging":                       {"512k", modelstoretest.Recipe{Files: splitGGUF(t, whole)}},
		"quantizing":                    {"512k", modelstoretest.Recipe{Files: map[string][]byte{"m.gguf": whole}, Quantize: "q8_0"}},
		"quantizing what was converted": {"640k", modelstoretest.Recipe{Files: folder, Quantize: "q8_0"}},
	} {
		t.Run(what, func(t *testing.T) {
			s := openStore(t, smallDisk(t, c.room))
			create(t, s, CreateRequest{Name: name(t, "old"), Files: map[string]string{"m.gguf": upload(t, s, ggufFile(t, 8, nil))}})
			req := request(t, s, c.of, "x")
			before := files(t, s.dir)
			var last string
			err := s.Create(t.Context(), req, func(p Progress) { last = p.Status })
			if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), "free some space") {
				t.Errorf("got %v after %q", err, last)
			}
			if verb, _, _ := strings.Cut(what, " "); err != nil && !strings.HasPrefix(err.Error(), verb) {
				t.Errorf("the error does not say what failed: %v", err)
			}
			if diff := cmp.Diff(before, files(t, s.dir)); diff != "" {
				t.Errorf("the folder has changed: %s", diff)
			}
			get(t, s, "old")
		})
	}
}
