package modelstore

import (
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"cllm/modelstore/modelstoretest"
)

// TestPullCrashChild is the process that dies in TestAPullThatIsKilledAtAnyStepGoesOn.
func TestPullCrashChild(t *testing.T) {
	dir := os.Getenv("MODELSTORE_PULL_DIR")
	if dir == "" {
		t.Skip("runs only as a child of another test")
	}
	left, err := strconv.Atoi(os.Getenv("MODELSTORE_PULL_AT"))
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dir, WithRegistry(Registry{Transport: NewTransport(), leastPart: smallPart}))
	var mu sync.Mutex
	hook := func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		if left--; left == -1 {
			fmt.Println("crash at", step)
			_ = os.Stdout.Sync()
			p, _ := os.FindProcess(os.Getpid())
			_ = p.Kill()
			select {}
		}
		return nil
	}
	s.blobs.fault, s.manifests.fault = hook, hook
	if err := s.Pull(t.Context(), name(t, os.Getenv("MODELSTORE_PULL_NAME")), true, nil); err != nil {
		t.Fatal(err)
	}
}

func TestAPullThatIsKilledAtAnyStepGoesOn(t *testing.T) {
	reg := modelstoretest.NewRegistry()
	weights := noise(1, 4*smallPart)
	old := reg.AddModel("a/x:latest", []byte("old"))
	server := httptest.NewServer(reg)
	defer server.Close()
	n := strings.TrimPrefix(server.URL, "http://") + "/a/x"
	network := WithRegistry(Registry{Transport: NewTransport(), leastPart: smallPart})
	for at := 0; ; at++ {
		dir := t.TempDir()
		s := openStore(t, dir, network)
		reg.SetManifest("a/x:latest", old)
		if err := s.Pull(t.Context(), name(t, n), true, nil); err != nil {
			t.Fatal(err)
		}
		before := files(t, filepath.Join(dir, "manifests"))
		reg.AddModel("a/x:latest", weights)
		reg.Asked()

		cmd := exec.Command(os.Args[0], "-test.run=^TestPullCrashChild$")
		cmd.Env = append(os.Environ(), "MODELSTORE_PULL_DIR="+dir, "MODELSTORE_PULL_NAME="+n, "MODELSTORE_PULL_AT="+strconv.Itoa(at))
		out, err := cmd.CombinedOutput()
		if err == nil {
			if at < 25 {
				t.Errorf("only %d steps", at)
			}
			return
		}
		if !strings.Contains(string(out), "crash at") {
			t.Fatalf("step %d: %v:\n%s", at, err, out)
		}
		// The name stands for the old model or the new one, and either is whole.
		s = openStore(t, dir, network)
		after := files(t, filepath.Join(dir, "manifests"))
		for p := range before {
			if _, there := after[p]; !there {
				t.Errorf("step %d: %s is gone", at, p)
			}
		}
		if list, err := s.List(); err != nil || len(list) != 1 {
			t.Errorf("step %d: %v, %v", at, list, err)
		}
		if _, err := s.Get(name(t, n)); err != nil {
			t.Errorf("step %d: %v", at, err)
		}
		if _, err := s.Prune(t.Context()); err != nil {
			t.Errorf("step %d: %v", at, err)
		}
		if err := s.Pull(t.Context(), name(t, n), true, nil); err != nil {
			t.Errorf("step %d: the next pull: %v", at, err)
		}
		wantPulled(t, s, n, reg, "a/x:latest")
		if t.Failed() {
			t.Fatalf("step %d: %s", at, out)
		}
	}
}
