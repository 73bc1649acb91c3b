package modelstoretest

import (
	"os"
	"strconv"
	"testing"
)

// FromEnv reads a number from a variable that make soak sets; where it is not set, the
// usual one counts.
func FromEnv(t testing.TB, name string, usual uint64) uint64 {
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
