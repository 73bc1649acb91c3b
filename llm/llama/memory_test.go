//go:build cgo

package llama

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"cllm/llm"
)

// anonymous is the memory of this process that belongs to no file, in bytes.
func anonymous(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		t.Skip(err)
	}
	_, after, found := strings.Cut(string(text), "\nAnonymous:")
	if !found {
		t.Skip("the kernel does not tell anonymous memory apart")
	}
	kib, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// Forgetting so few tokens keeps their memory, as it is likely to be used again soon.
func TestTrimGivesBackWhatEmptySequencesLeftEachTime(t *testing.T) {
	const tokens = 250
	m := load(t, tinyPath, ModelOptions{})
	c := open(t, m, ContextOptions{Sequences: 64, ContextPerSequence: 1024, Threads: 1})
	prompt := make([]llm.Token, tokens)
	for i := range prompt {
		prompt[i] = llm.Token(1 + i%5)
	}
	size := int64(c.Limits().Sequences) * tokens * c.Limits().CellBytes
	for round := range 3 {
		for seq := range llm.SeqID(c.Limits().Sequences) {
			if err := c.Decode(rowsOf(c, seq, prompt)); err != nil {
				t.Fatal(err)
			}
		}
		full := anonymous(t)
		for seq := range llm.SeqID(c.Limits().Sequences) {
			if err := c.Truncate(seq, 0); err != nil {
				t.Fatal(err)
			}
		}
		kept := full - anonymous(t)
		c.Trim()
		if freed := full - anonymous(t); freed < size*3/4 || kept > size/4 {
			t.Errorf("round %d: of %d KiB forgetting gave back %d, and Trim made it %d", round, size>>10, kept>>10, freed>>10)
		}
	}
}
