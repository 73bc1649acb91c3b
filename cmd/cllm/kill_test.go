package main

import (
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cllm/llm/llmtest/tinymodel"
	"cllm/modelstore/modelstoretest"
)

// Tests of this file kill the daemon that users run, while many clients change the
// same names, and look at what it leaves. See also modelstore/kill_test.go, where the
// process dies at chosen steps.

// triggers are the events that a kill may wait for, and the most of each.
var triggers = map[string]int{"answer": 40, "line": 150, "sent": 3 << 20, "fetched": 3 << 20}

// stormyHome is a home in memory, where that can be: a kill loses nothing that was
// written, synced or not.
func stormyHome(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "cllm-home-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// stormOn returns a storm whose names are those of the registry's models as well.
func stormOn(t *testing.T, reg *modelstoretest.Loopback) *modelstoretest.Storm {
	t.Helper()
	s := &modelstoretest.Storm{Names: []string{"a:latest", "b:latest", "me/c:tag"}, Workers: 8, History: modelstoretest.NewHistory(), Pulls: map[string]modelstoretest.Found{}}
	for i := range 3 {
		file := filepath.Join(t.TempDir(), "m.gguf")
		if err := tinymodel.WriteRandom(file, tinymodel.Tiny, uint64(i+1)); err != nil {
			t.Fatal(err)
		}
		weights, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s.Weights = append(s.Weights, weights)
	}
	for i, model := range []string{"p:latest", "q:latest"} {
		name, found := reg.AddWithSystem(model, s.Weights[i], "pulled "+model)
		s.Pulls[name] = found
		s.Names = append(s.Names, name)
	}
	return s
}

// checkModels fails unless the folder holds whole models that fit the history.
func checkModels(t *testing.T, home string, s *modelstoretest.Storm) modelstoretest.Folder {
	t.Helper()
	f, err := modelstoretest.ReadFolder(filepath.Join(home, ".ollama", "models"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range append(f.Broken, s.History.Check(f.Models)...) {
		t.Error(text)
	}
	return f
}

func (s *server) stormClient(t *testing.T) modelstoretest.HTTP {
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	return modelstoretest.HTTP{URL: s.url, Client: &http.Client{Transport: transport}}
}

func TestADaemonKilledAmongManyClientsLosesNothing(t *testing.T) {
	seed := modelstoretest.FromEnv(t, "CLLM_SEED", rand.Uint64()>>32)
	defer func() {
		if t.Failed() {
			t.Logf("to see this again: CLLM_SEED=%d scripts/build-llama.sh --exec go test ./cmd/cllm -run '^%s$'", seed, t.Name())
		}
	}()
	kills, rng, home := modelstoretest.FromEnv(t, "CLLM_KILLS", 24), rand.New(rand.NewPCG(seed, 0)), stormyHome(t)
	reg := modelstoretest.NewLoopback(t)
	storm := stormOn(t, reg)
	for kill := range kills {
		s := serveE2E(t, home, "CLLM_NODEMO=1")
		trigger := modelstoretest.NewTrigger(rng, triggers, func() { _ = s.cmd.Process.Kill() })
		storm.Event = trigger.Event
		reg.SetFetched(func(n int) { trigger.Event("fetched", n) })
		// Some events stay away, once everything is fetched for example: then the kill
		// comes after the last call.
		storm.Calls = 250
		for _, text := range storm.Run(t.Context(), rng.Uint64(), s.stormClient(t)) {
			t.Error(text)
		}
		_ = s.cmd.Process.Kill()
		<-s.exited
		checkModels(t, home, storm)
		if t.Failed() {
			t.Fatalf("kill %d, at %s", kill, trigger)
		}
	}
	reg.SetFetched(nil)
	storm.Event = nil
	pullAndPrune(t, home, storm)
	t.Logf("the daemon: %d kills, seed %d, nothing lost", kills, seed)
}

// pullAndPrune ends the pulls that kills left unfinished, and fails unless a daemon's
// start then clears the folder of everything that no model needs.
func pullAndPrune(t *testing.T, home string, storm *modelstoretest.Storm) {
	t.Helper()
	s := serveE2E(t, home, "CLLM_NODEMO=1")
	for name, found := range storm.Pulls {
		change := storm.History.Begin(name, found.System, found.Weights)
		if err := s.stormClient(t).Pull(t.Context(), name, func() {}); err != nil {
			t.Fatalf("the pull after the kills: %v", err)
		}
		storm.History.Done(change)
	}
	s.cmd.Process.Kill()
	<-s.exited
	checkModels(t, home, storm)
	blobs := filepath.Join(home, ".ollama", "models", "blobs")
	entries, err := os.ReadDir(blobs)
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-48 * time.Hour)
	for _, e := range entries {
		if err := os.Chtimes(filepath.Join(blobs, e.Name()), long, long); err != nil {
			t.Fatal(err)
		}
	}
	s = serveE2E(t, home, "CLLM_NODEMO=1")
	// A copy waits for the prune that began with the daemon.
	for name := range storm.Pulls {
		s.must(t, "", "cp", name, name)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		f := checkModels(t, home, storm)
		if len(f.Spare) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not pruned: %q", f.Spare)
		}
	}
}

// namesARemedy tells the errors that two programs on one folder may cause each other.
func namesARemedy(text string) bool {
	for _, remedy := range []string{"upload it first", "pull or create the model again"} {
		if strings.Contains(text, remedy) {
			return true
		}
	}
	return false
}

func TestTwoDaemonsMayShareAFolder(t *testing.T) {
	home, reg := stormyHome(t), modelstoretest.NewLoopback(t)
	storm := stormOn(t, reg)
	storm.Calls, storm.May = 200, func(err error) bool { return namesARemedy(err.Error()) }
	a, b := serveE2E(t, home, "CLLM_NODEMO=1"), serveE2E(t, home, "CLLM_NODEMO=1")
	for _, text := range storm.Run(t.Context(), modelstoretest.FromEnv(t, "CLLM_SEED", rand.Uint64()>>32), a.stormClient(t), b.stormClient(t)) {
		t.Error(text)
	}
	for _, s := range []*server{a, b} {
		s.cmd.Process.Signal(os.Interrupt)
		<-s.exited
	}
	checkModels(t, home, storm)
}
