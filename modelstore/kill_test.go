package modelstore

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"cllm/modelstore/modelstoretest"
)

// seed is another one each time unless CLLM_SEED is set; it is printed if the test
// fails.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := modelstoretest.FromEnv(t, "CLLM_SEED", rand.Uint64()>>32)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to see this again: CLLM_SEED=%d go test ./modelstore -run '^%s$'", n, t.Name())
		}
	})
	return n
}

// mostSteps is about how many steps a storm takes in a tenth of a second.
const mostSteps = 600

func TestAProcessKilledAtAnyStepOfManyOperationsLosesNothing(t *testing.T) {
	dir, seed, kills := stormDir(t), seed(t), modelstoretest.FromEnv(t, "CLLM_KILLS", 24)
	rng, s := rand.New(rand.NewPCG(seed, 0)), storm(t, 8)
	for kill := range kills {
		at := 1 + rng.Int64N(mostSteps)
		c := startChild(t, dir, at)
		for _, text := range s.Run(t.Context(), rng.Uint64(), c) {
			t.Error(text)
		}
		status, _ := c.end().Sys().(syscall.WaitStatus)
		if status.Signal() != syscall.SIGKILL {
			t.Fatalf("the child was to be killed, but: %v\n%s", c.cmd.ProcessState, c.stderr.String())
		}
		checkFolder(t, dir, s.History)
		if kill%10 == 9 || kill == kills-1 {
			finishPulls(t, dir, s)
			checkPruned(t, dir)
		}
		if t.Failed() {
			t.Fatalf("kill %d, at step %d", kill, at)
		}
	}
	t.Logf("the store: %d kills, seed %d, nothing lost", kills, seed)
}

// finishPulls pulls all that may be unfinished, and fails unless it ends whole.
func finishPulls(t *testing.T, dir string, s *modelstoretest.Storm) {
	t.Helper()
	store := openChild(t, dir)
	for pulled := range s.Pulls {
		change := s.History.Begin(pulled, s.Pulls[pulled].System, s.Pulls[pulled].Weights)
		if err := store.Pull(t.Context(), name(t, pulled), true, nil); err != nil {
			t.Errorf("the pull after the kills: %v", err)
			return
		}
		s.History.Done(change)
	}
	checkFolder(t, dir, s.History)
}

// betweenPrograms tells the errors that two programs on one folder may cause each
// other. They are sentences about what to do.
func betweenPrograms(err error) bool {
	for _, text := range []string{"upload it first", "pull or create the model again"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

func TestTwoProcessesMayChangeTheSameNames(t *testing.T) {
	dir, seed := stormDir(t), seed(t)
	s := storm(t, 8)
	s.Calls, s.May = 300, betweenPrograms
	a, b := startChild(t, dir, 0), startChild(t, dir, 0)
	for _, text := range s.Run(t.Context(), seed, a, b) {
		t.Error(text)
	}
	for _, c := range []*child{a, b} {
		if state := c.end(); !state.Success() {
			t.Errorf("%v\n%s", state, c.stderr.String())
		}
	}
	checkFolder(t, dir, s.History)
	checkPruned(t, dir)
}

func TestAProcessThatIsKilledLeavesTheFolderToOthers(t *testing.T) {
	dir, seed := stormDir(t), seed(t)
	rng, s := rand.New(rand.NewPCG(seed, 0)), storm(t, 8)
	s.Calls, s.May = 150, betweenPrograms
	survivor := startChild(t, dir, 0)
	for range 4 {
		victim := startChild(t, dir, 1+rng.Int64N(mostSteps/4))
		for _, text := range s.Run(t.Context(), rng.Uint64(), survivor, victim) {
			t.Error(text)
		}
		victim.end()
		checkFolder(t, dir, s.History)
	}
	if state := survivor.end(); !state.Success() {
		t.Errorf("%v\n%s", state, survivor.stderr.String())
	}
	checkPruned(t, dir)
}

func TestAPullThatIsKilledGoesOnWhereItStopped(t *testing.T) {
	dir, seed := stormDir(t), seed(t)
	rng, reg := rand.New(rand.NewPCG(seed, 0)), modelstoretest.NewLoopback(t)
	weights := ggufFile(t, 1_000_000, untalkative)
	pulled, want := reg.AddWithSystem("big:latest", weights, "pulled")
	// Making the files of 64 parts takes 200 steps, then each piece that comes takes one.
	for _, at := range []int64{240 + rng.Int64N(10), 30 + rng.Int64N(5)} {
		c := startChild(t, dir, at)
		if err := c.Pull(t.Context(), pulled, nil); err == nil {
			t.Fatalf("step %d: the pull ended before the kill", at)
		}
		c.end()
		if f, err := modelstoretest.ReadFolder(dir); err != nil || len(f.Broken)+len(f.Models) > 0 {
			t.Fatalf("step %d: %v, %q, %v", at, err, f.Broken, f.Models)
		}
	}
	reg.Asked()
	if err := openChild(t, dir).Pull(t.Context(), name(t, pulled), true, nil); err != nil {
		t.Fatal(err)
	}
	f, err := modelstoretest.ReadFolder(dir)
	if err != nil || len(f.Broken)+len(f.Spare) > 0 || f.Models[pulled] != want {
		t.Errorf("%v, %+v", err, f)
	}
	asked := 0
	for _, line := range reg.Asked() {
		var first, last int
		if _, span, ranged := strings.Cut(line, " bytes="); ranged {
			if _, err := fmt.Sscanf(span, "%d-%d", &first, &last); err != nil {
				t.Fatal(err)
			}
			asked += last - first + 1
		} else if strings.Contains(line, want.Weights) {
			asked += len(weights)
		}
	}
	if asked == 0 || asked > len(weights)*9/10 {
		t.Errorf("after two kills %d bytes of %d were asked for", asked, len(weights))
	}
	t.Logf("after two kills %d bytes of %d were fetched", asked, len(weights))
}
