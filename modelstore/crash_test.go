package modelstore

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// failAt makes the store's n-th step fail, counted from 0, and tells whether it came
// to that.
func failAt(s *Store, n int, fail func(step string) error) (failed *string) {
	failed = new(string)
	hook := func(step string) error {
		if n--; n == -1 {
			*failed = step
			return fail(step)
		}
		return nil
	}
	s.blobs.fault, s.manifests.fault = hook, hook
	return failed
}

// lifeOfAModel does all that changes a store. What each part leaves is checked by
// checkWhole, whatever happens on the way.
func lifeOfAModel(t testing.TB, s *Store, weights []byte) error {
	d := DigestOf(weights)
	if err := s.WriteBlob(t.Context(), d, strings.NewReader(string(weights))); err != nil {
		return err
	}
	x, y := name(t, "x"), name(t, "y")
	req := CreateRequest{
		Name: x, Files: map[string]string{"m.gguf": d.String()}, System: "new text", Licenses: []string{"new license"},
	}
	if err := s.Create(t.Context(), req, nil); err != nil {
		return err
	}
	if err := s.Copy(x, y); err != nil {
		return err
	}
	if err := s.Delete(x); err != nil {
		return err
	}
	_, err := s.Prune(t.Context())
	return err
}

// checkWhole fails the test unless every name stands for a whole model, every blob is
// what it is named after, and nothing else lies around.
func checkWhole(t *testing.T, dir string) {
	t.Helper()
	s := openStore(t, dir)
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "manifests/*/*/*/*"))
	if err != nil || len(names) != len(list) {
		t.Errorf("%d manifests, of which %d can be read: %v", len(names), len(list), err)
	}
	for _, e := range list {
		m, err := s.Get(e.Name)
		if err != nil {
			t.Errorf("%v: %v", e.Name, err)
			continue
		}
		if _, err := m.Info(); err != nil {
			t.Errorf("%v: %v", e.Name, err)
		}
		if m.System != "old text" && m.System != "new text" {
			t.Errorf("%v: system %q", e.Name, m.System)
		}
	}
	for p, content := range files(t, filepath.Join(dir, "blobs")) {
		if p != DigestOf([]byte(content)).file() {
			t.Errorf("blobs/%s is no blob, or holds something else", p)
		}
	}
	for _, p := range paths(t, filepath.Join(dir, "manifests")) {
		if strings.Count(p, "/") != 3 {
			t.Errorf("manifests/%s is left", p)
		}
	}
}

// oldStore returns a function that makes a folder with x as it was before.
func oldStore(t *testing.T) func() string {
	template := t.TempDir()
	s := openStore(t, template)
	create(t, s, CreateRequest{
		Name: name(t, "x"), Files: map[string]string{"m.gguf": upload(t, s, ggufFile(t, 4, untalkative))}, System: "old text",
	})
	return func() string {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(template)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
}

// The steps that lifeOfAModel takes, at least; fewer would mean that the hooks are gone.
const leastSteps = 40

func TestAnErrorAtAnyStepLeavesWholeModelsAndNoGarbage(t *testing.T) {
	weights := ggufFile(t, 8, untalkative)
	full := &os.PathError{Op: "write", Path: "file", Err: syscall.ENOSPC}
	var seen []string
	old := oldStore(t)
	for n := 0; ; n++ {
		dir := old()
		s := openStore(t, dir)
		failed := failAt(s, n, func(string) error { return full })
		err := lifeOfAModel(t, s, weights)
		if *failed == "" {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		seen = append(seen, *failed)
		switch {
		case err == nil && !strings.HasSuffix(*failed, "remove"):
			t.Errorf("step %d (%s): the error is lost", n, *failed)
		case err != nil && (!errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space")):
			t.Errorf("step %d (%s): %v", n, *failed, err)
		}
		for _, p := range paths(t, dir) {
			if strings.Contains(p, "tmp-") {
				t.Errorf("step %d (%s): %s is left", n, *failed, p)
			}
		}
		checkWhole(t, dir)
		s.blobs.fault, s.manifests.fault = nil, nil
		if err := lifeOfAModel(t, s, weights); err != nil {
			t.Errorf("step %d (%s): the store does not recover: %v", n, *failed, err)
		}
		if len(s.held) != 0 {
			t.Errorf("step %d (%s): blobs are still held", n, *failed)
		}
	}
	for _, step := range []string{"blobs: write", "blobs: sync", "blobs: rename", "blobs: sync folder", "blobs: remove", "manifests: rename", "manifests: remove"} {
		if !slices.Contains(seen, step) {
			t.Errorf("the step %q never came", step)
		}
	}
	if len(seen) < leastSteps {
		t.Errorf("only %d steps: %q", len(seen), seen)
	}
}

// TestCrashChild is the process that crashes in TestACrashAtAnyStepLeavesWholeModels.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv("MODELSTORE_CRASH_DIR")
	if dir == "" {
		t.Skip("runs only as a child of another test")
	}
	n, err := strconv.Atoi(os.Getenv("MODELSTORE_CRASH_AT"))
	if err != nil {
		t.Fatal(err)
	}
	weights, err := os.ReadFile(os.Getenv("MODELSTORE_CRASH_WEIGHTS"))
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dir)
	failAt(s, n, func(step string) error {
		fmt.Println("crash at", step)
		os.Exit(9)
		return nil
	})
	if err := lifeOfAModel(t, s, weights); err != nil {
		t.Fatal(err)
	}
}

func TestACrashAtAnyStepLeavesWholeModels(t *testing.T) {
	weights := filepath.Join(t.TempDir(), "weights")
	writeFile(t, weights, string(ggufFile(t, 8, untalkative)))
	old := oldStore(t)
	for n := 0; ; n++ {
		dir := old()
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
		cmd.Env = append(os.Environ(), "MODELSTORE_CRASH_DIR="+dir, "MODELSTORE_CRASH_WEIGHTS="+weights, "MODELSTORE_CRASH_AT="+strconv.Itoa(n))
		out, err := cmd.CombinedOutput()
		if err == nil {
			if n < leastSteps {
				t.Errorf("only %d steps", n)
			}
			return
		}
		if cmd.ProcessState.ExitCode() != 9 {
			t.Fatalf("step %d: %v:\n%s", n, err, out)
		}
		// The leftovers are there, and the next start takes them away.
		checkWhole(t, dir)
		if t.Failed() {
			t.Fatalf("step %d: %s", n, out)
		}
	}
}
