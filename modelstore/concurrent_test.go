package modelstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// All methods may be used from many goroutines; the race detector and the whole
// models at the end say so.
func TestManyGoroutinesMayUseAStore(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	createSmall(t, s, "base", 8)
	weights := make([][]byte, 4)
	for i := range weights {
		weights[i] = ggufFile(t, 16+i, untalkative)
	}
	const rounds = 15
	var wg sync.WaitGroup
	do := func(what string, f func(round int) error) {
		wg.Go(func() {
			for i := range rounds {
				if err := f(i); err != nil && !errors.Is(err, ErrNotFound) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
	for i := range weights {
		n := name(t, fmt.Sprint("m", i%2))
		do("create from files", func(round int) error {
			return s.Create(t.Context(), CreateRequest{
				Name: n, Files: map[string]string{"m.gguf": upload(t, s, weights[i])}, System: fmt.Sprint("round ", round%3),
			}, nil)
		})
		do("create from base", func(round int) error {
			return s.Create(t.Context(), CreateRequest{Name: n, From: "base", System: fmt.Sprint("round ", round%3)}, nil)
		})
		do("delete", func(int) error { return s.Delete(n) })
		do("get", func(int) error {
			m, err := s.Get(n)
			if err != nil {
				return err
			}
			m.Modelfile()
			m.Capabilities()
			return nil
		})
	}
	do("list", func(int) error { _, err := s.List(); return err })
	do("copy", func(int) error { return s.Copy(name(t, "m0"), name(t, "m1")) })
	do("prune", func(int) error { _, err := s.Prune(t.Context()); return err })
	do("open", func(int) error { _, err := Open(dir); return err })
	wg.Wait()

	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	fresh := openStore(t, dir)
	for _, e := range list {
		m, err := fresh.Get(e.Name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Info(); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(e.Name); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.held) != 0 {
		t.Errorf("still held: %v", s.held)
	}
	ageAll(t, filepath.Join(dir, "blobs"), 2*time.Hour)
	if _, err := fresh.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := paths(t, dir); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
}

// A sweep takes leftovers of crashes only, never a file that somebody is about to
// write, however close the two are.
func TestASweepLeavesFilesThatAreJustBeingMade(t *testing.T) {
	s := openStore(t, t.TempDir())
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := s.sweep(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for round := range 60 {
		var made []*temp
		for range 10 {
			f, err := s.blobs.newTemp(blobTemp)
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, f)
		}
		for _, f := range made {
			if !same(f.root, f.file, f.name) {
				t.Errorf("round %d: a file was taken for a leftover", round)
			}
			f.discard()
		}
	}
	close(done)
	wg.Wait()
}

// thousand makes a folder of a thousand models that were written long ago.
func thousand(b testing.TB) *Store {
	dir := b.TempDir()
	s := openStore(b, dir)
	createSmall(b, s, "m0", 8)
	raw, err := os.ReadFile(filepath.Join(dir, library, "m0", "latest"))
	if err != nil {
		b.Fatal(err)
	}
	for i := 1; i < 1000; i++ {
		writeFile(b, filepath.Join(dir, library, fmt.Sprint("m", i), "latest"), string(raw))
	}
	ageAll(b, filepath.Join(dir, "manifests"), time.Hour)
	for i := range 1000 {
		age(b, filepath.Join(dir, library, fmt.Sprint("m", i)), time.Hour)
	}
	return openStore(b, dir)
}

// What a list costs is counted in allocations, of which another load makes no more. A warm
// one takes about 22 for each model; to read the folders and the manifests takes 100 more.
func TestAWarmListOfAThousandModelsReadsNoModelAgain(t *testing.T) {
	s := thousand(t)
	list := func() {
		if list, err := s.List(); err != nil || len(list) != 1000 {
			t.Fatal(len(list), err)
		}
	}
	cold := testing.AllocsPerRun(1, func() { s = openStore(t, s.dir); list() })
	warm := testing.AllocsPerRun(3, list)
	if t.Logf("%.0f allocations cold, %.0f warm", cold, warm); warm > 30_000 || warm > cold/2 {
		t.Errorf("a warm list makes %.0f allocations, a cold one %.0f", warm, cold)
	}
}

func BenchmarkList1000(b *testing.B) {
	s := thousand(b)
	b.ReportAllocs()
	for b.Loop() {
		if list, err := s.List(); err != nil || len(list) != 1000 {
			b.Fatal(len(list), err)
		}
	}
}

func BenchmarkList1000First(b *testing.B) {
	dir := thousand(b).dir
	for b.Loop() {
		if list, err := openStore(b, dir).List(); err != nil || len(list) != 1000 {
			b.Fatal(len(list), err)
		}
	}
}

func BenchmarkGetAmong1000(b *testing.B) {
	s := thousand(b)
	n := name(b, "m500")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Get(n); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetInAnotherCaseAmong1000(b *testing.B) {
	s := thousand(b)
	n := name(b, "M500")
	for b.Loop() {
		if _, err := s.Get(n); err != nil {
			b.Fatal(err)
		}
	}
}
