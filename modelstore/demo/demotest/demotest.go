// Package demotest reads, for tests, the texts that the demo model has learnt and the
// questions that it is measured with, so that a test holds whatever the corpus says.
package demotest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Folder is scripts/demomodel.
func Folder(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "scripts", "demomodel")
		} else if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			t.Fatalf("no go.mod above the test's folder: %v", err)
		}
		dir = filepath.Dir(dir)
	}
}

// Entry is a question in several phrasings and the answer that the model has learnt.
type Entry struct {
	ID        string
	Questions []string
	Answer    string
}

// Unknown reports whether the entry's answer is a refusal.
func (e Entry) Unknown() bool { return strings.HasPrefix(e.ID, "unknown.") }

// Corpus returns all entries, in the order of the files.
func Corpus(t testing.TB) []Entry {
	t.Helper()
	var entries []Entry
	for _, file := range []string{"concepts", "commands", "api", "smalltalk", "unknown"} {
		for _, b := range blocks(t, "corpus/"+file+".txt") {
			answers := b.all("A")
			if len(answers) != 1 || len(b.all("Q")) == 0 {
				t.Fatalf("%s.txt: [%s] has %d answers and %d questions", file, b.id, len(answers), len(b.all("Q")))
			}
			entries = append(entries, Entry{b.id, b.all("Q"), answers[0]})
		}
	}
	return entries
}

// Find returns the entry with an id.
func Find(t testing.TB, entries []Entry, id string) Entry {
	t.Helper()
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.ID == id })
	if i < 0 {
		t.Fatalf("the corpus has no entry [%s]", id)
	}
	return entries[i]
}

// HeldOut is a question that is not in the corpus.
type HeldOut struct {
	Question string
	Answers  []string // each is right
	Unknown  bool     // any refusal is right
}

// HeldOuts returns the held-out questions.
func HeldOuts(t testing.TB, entries []Entry) []HeldOut {
	t.Helper()
	var all []HeldOut
	for _, b := range blocks(t, "testdata/heldout.txt") {
		var right []string
		unknown := b.id == "unknown"
		for _, e := range entries {
			if unknown && e.Unknown() || slices.Contains(strings.Fields(b.id), e.ID) {
				right = append(right, e.Answer)
			}
		}
		if len(right) < len(strings.Fields(b.id)) {
			t.Fatalf("heldout.txt: not all ids of [%s] are in the corpus", b.id)
		}
		for _, q := range b.all("Q") {
			all = append(all, HeldOut{q, right, unknown})
		}
	}
	return all
}

// Fact is something that a user tells and asks for later. Its texts have the
// placeholders {name}, {word}, {city} and {number}.
type Fact struct {
	Tell, Noted   string // what the user says and the answer to it
	Ask, Answer   string // the question for it later, and the answer
	NotToldAnswer string // the answer to Ask when it was not told
}

// FactOf returns a fact in its first phrasings, such as that of "fact.name".
func FactOf(t testing.TB, id string) Fact {
	t.Helper()
	for _, b := range blocks(t, "corpus/facts.txt") {
		if b.id == id {
			return Fact{b.first("T"), b.first("B"), b.first("R"), b.first("A"), b.first("N")}
		}
	}
	t.Fatalf("facts.txt has no [%s]", id)
	return Fact{}
}

// Values returns the lines of a corpus file that holds values for a placeholder, such
// as "names".
func Values(t testing.TB, file string) []string {
	t.Helper()
	return lines(t, "corpus/"+file+".txt")
}

// block is what stands under one [id]: keys and values.
type block struct {
	id    string
	lines [][2]string
}

func (b block) all(key string) (values []string) {
	for _, l := range b.lines {
		if l[0] == key {
			values = append(values, l[1])
		}
	}
	return values
}

// first returns the first of the alternatives of a key, "" if there is none.
func (b block) first(key string) string {
	for _, value := range b.all(key) {
		first, _, _ := strings.Cut(value, " | ")
		return first
	}
	return ""
}

var (
	idLine  = regexp.MustCompile(`^\[([a-z0-9._ -]+)\]$`)
	keyLine = regexp.MustCompile(`^([A-Z]+): *(.*)$`)
)

// blocks reads a file of blocks as corpus.py does.
func blocks(t testing.TB, path string) (all []block) {
	t.Helper()
	for _, line := range lines(t, path) {
		if m := idLine.FindStringSubmatch(line); m != nil {
			all = append(all, block{id: m[1]})
		} else if m := keyLine.FindStringSubmatch(line); m != nil && len(all) > 0 {
			b := &all[len(all)-1]
			b.lines = append(b.lines, [2]string{m[1], strings.TrimSpace(m[2])})
		} else {
			t.Fatalf("%s: neither [id] nor KEY: text: %q", path, line)
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s is empty", path)
	}
	return all
}

// lines returns the lines of a file without comments and empty ones.
func lines(t testing.TB, path string) (kept []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(Folder(t), path))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\r\n"); strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "#") {
			kept = append(kept, line)
		}
	}
	return kept
}
