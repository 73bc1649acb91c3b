package modelstore

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// number reads a variable that make soak sets.
func number(t *testing.T, name string, usual uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s is no number: %v", name, err)
	}
	return n
}

// seed is another one each time unless CLLM_SEED is set; it is printed if the test
// fails.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := number(t, "CLLM_SEED", rand.Uint64()>>32)
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
	dir, seed, kills := stormDir(t), seed(t), number(t, "CLLM_KILLS", 24)
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
			checkPruned(t, dir)
		}
		if t.Failed() {
			t.Fatalf("kill %d, at step %d", kill, at)
		}
	}
	t.Logf("the store: %d kills, seed %d, nothing lost", kills, seed)
}

// betweenPrograms tells the errors that two programs on one folder may cause each
// other. They are sentences about what to do.
func betweenPrograms(err error) bool {
	for _, text := range []string{"upload it first", "pull or create the model again", "another program is downloading"} {
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
