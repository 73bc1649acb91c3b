package modelstore

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWriteBlobKeepsOnlyWhatTheDigestSays(t *testing.T) {
	s := openStore(t, t.TempDir())
	good := DigestOf([]byte("good"))
	err := s.WriteBlob(t.Context(), good, strings.NewReader("bad"))
	var mismatch *DigestMismatchError
	want := `digest mismatch, expected "` + good.String() + `", got "` + DigestOf([]byte("bad")).String() + `"`
	if !errors.As(err, &mismatch) || !errors.Is(err, ErrBadRequest) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	broken := errors.New("the line broke")
	if err := s.WriteBlob(t.Context(), good, io.MultiReader(strings.NewReader("go"), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.WriteBlob(ctx, good, strings.NewReader("good")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left := paths(t, s.dir); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
	if there, err := s.HasBlob(good); there || err != nil {
		t.Errorf("HasBlob: %v, %v", there, err)
	}

	upload(t, s, []byte("good"))
	if there, err := s.HasBlob(good); !there || err != nil {
		t.Errorf("HasBlob: %v, %v", there, err)
	}
	info, err := os.Stat(s.BlobPath(good))
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("the blob has mode %v, %v", info.Mode(), err)
	}
	if err := s.WriteBlob(t.Context(), good, iotest.ErrReader(broken)); err != nil {
		t.Errorf("a blob that is there is read again: %v", err)
	}
}

func TestCopySharesAllAndHasTheSameDigest(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "src", 8)
	blobs := paths(t, filepath.Join(s.dir, "blobs"))
	if err := s.Copy(name(t, "SRC"), name(t, "me/Dst:v1")); err != nil {
		t.Fatal(err)
	}
	if a, b := get(t, s, "src"), get(t, s, "ME/dst:V1"); a.Digest != b.Digest || b.Name.DisplayShortest() != "me/Dst:v1" {
		t.Errorf("%v and %v", a.Digest, b.Digest)
	}
	if diff := cmp.Diff(blobs, paths(t, filepath.Join(s.dir, "blobs"))); diff != "" {
		t.Error(diff)
	}
	// Onto itself, and over another model, which leaves nothing behind.
	if err := s.Copy(name(t, "src"), name(t, "Src")); err != nil {
		t.Error(err)
	}
	createSmall(t, s, "other", 16)
	if err := s.Copy(name(t, "src"), name(t, "other")); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(blobs, paths(t, filepath.Join(s.dir, "blobs"))); diff != "" {
		t.Error(diff)
	}
	if err := s.Copy(name(t, "nobody"), name(t, "x")); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	for _, err := range []error{s.Copy(Name{}, name(t, "x")), s.Copy(name(t, "src"), Name{Model: ".."})} {
		var invalid *InvalidNameError
		if !errors.As(err, &invalid) {
			t.Errorf("got %v", err)
		}
	}
}

func TestDeleteRemovesWhatNoOtherModelNeeds(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "a/x", 8)
	create(t, s, CreateRequest{Name: name(t, "b/y"), From: "a/x", System: "mine"})
	weights := get(t, s, "a/x").ModelBlob
	if err := s.Delete(name(t, "A/X")); err != nil {
		t.Fatal(err)
	}
	if there, err := s.HasBlob(weights); !there || err != nil {
		t.Errorf("shared weights: %v, %v", there, err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "manifests/registry.ollama.ai/a")); !os.IsNotExist(err) {
		t.Errorf("the empty folder stays: %v", err)
	}
	if err := s.Delete(name(t, "a/x")); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	// HasBlob above made someone wait for the weights.
	if err := s.Delete(name(t, "b/y")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"blobs/" + weights.file()}, paths(t, s.dir)); diff != "" {
		t.Error(diff)
	}
	var invalid *InvalidNameError
	if err := s.Delete(Name{Model: "x"}); !errors.As(err, &invalid) {
		t.Errorf("got %v", err)
	}
}

func TestDeleteFreesTheDiskAtOnceAfterUploadAndCreate(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "x", 8)
	if err := s.Delete(name(t, "x")); err != nil {
		t.Fatal(err)
	}
	if left := paths(t, s.dir); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
	if len(s.wanted)+len(s.held) != 0 {
		t.Errorf("wanted %v, held %v", s.wanted, s.held)
	}
}

func TestDeleteRemovesABrokenName(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "good", 8)
	before := paths(t, s.dir)
	writeFile(t, filepath.Join(s.dir, library, "bad", "latest"), "{")
	if err := s.Delete(name(t, "bad")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, paths(t, s.dir)); diff != "" {
		t.Error(diff)
	}
}

func TestPruneRemovesOldFilesThatNobodyNeeds(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "x", 8)
	blobs := filepath.Join(s.dir, "blobs")
	ageAll(t, s.dir, 48*time.Hour) // the model is old, and stays
	keep := paths(t, s.dir)
	hash := func(c string) string { return "sha256-" + strings.Repeat(c, 64) }
	for _, f := range []struct {
		name string
		age  time.Duration
		kept bool
	}{
		{hash("1"), 2 * time.Hour, false}, {hash("2"), 30 * time.Minute, true},
		{hash("A"), 2 * time.Hour, false},                                                                // an upper-case name
		{hash("3") + "-partial", 23 * time.Hour, true}, {hash("3") + "-partial-0", 25 * time.Hour, true}, // still going on
		{hash("4") + "-partial", 25 * time.Hour, false}, {hash("4") + "-partial-0", 25 * time.Hour, false},
		{hash("5") + "-partial-7", 25 * time.Hour, false}, {hash("6") + "-partial-1", time.Minute, true},
		{"sha256-12345", 2 * time.Hour, false}, {"sha256-54321", time.Minute, true},
		{"Q4_K_M99", 2 * time.Hour, false}, {"Q4_K_M98", time.Minute, true},
		{"tmp-DEAD", time.Second, false}, {".keep", 48 * time.Hour, true},
	} {
		writeFile(t, filepath.Join(blobs, f.name), "12345")
		age(t, filepath.Join(blobs, f.name), f.age)
		if f.kept {
			keep = append(keep, "blobs/"+f.name)
		}
	}
	running, err := s.blobs.newTemp(blobTemp)
	if err != nil {
		t.Fatal(err)
	}
	defer running.discard()
	keep = append(keep, "blobs/"+running.name)
	if err := os.Chtimes(running.path(), time.Unix(0, 0), time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}

	pruned, err := s.Prune(t.Context())
	if err != nil || pruned != (Pruned{Files: 8, Bytes: 40}) {
		t.Errorf("pruned %+v, %v", pruned, err)
	}
	got := make(map[string]bool)
	for _, p := range paths(t, s.dir) {
		got[p] = true
	}
	for _, k := range keep {
		if !got[k] {
			t.Errorf("%s is gone", k)
		}
		delete(got, k)
	}
	if len(got) != 0 {
		t.Errorf("still there: %v", got)
	}
	get(t, openStore(t, s.dir), "x")
}

func TestPruneRemovesNothingWhileAManifestCannotBeRead(t *testing.T) {
	for what, spoil := range map[string]func(t *testing.T, lib string){
		"cut off":  func(t *testing.T, lib string) { writeFile(t, filepath.Join(lib, "y", "latest"), `{"layers":[`) },
		"odd name": func(t *testing.T, lib string) { writeFile(t, filepath.Join(lib, "x", "latest~"), `{}`) },
		"dangling link": func(t *testing.T, lib string) {
			if err := os.Symlink("nowhere", filepath.Join(lib, "x", "y")); err != nil {
				t.Fatal(err)
			}
		},
		"dangling folder": func(t *testing.T, lib string) {
			if err := os.Symlink("nowhere", filepath.Join(lib, "y")); err != nil {
				t.Fatal(err)
			}
		},
		"no folder": func(t *testing.T, lib string) {
			if err := os.RemoveAll(filepath.Join(lib, "../..")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := openStore(t, t.TempDir())
			createSmall(t, s, "x", 8)
			spoil(t, filepath.Join(s.dir, library))
			orphan := "sha256-" + strings.Repeat("1", 64)
			writeFile(t, filepath.Join(s.dir, "blobs", orphan), "x")
			ageAll(t, filepath.Join(s.dir, "blobs"), 48*time.Hour)
			before := paths(t, filepath.Join(s.dir, "blobs"))
			if pruned, err := s.Prune(t.Context()); err == nil || pruned != (Pruned{}) {
				t.Errorf("pruned %+v, %v", pruned, err)
			}
			if diff := cmp.Diff(before, paths(t, filepath.Join(s.dir, "blobs"))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPruneSparesWhatWasAskedForUntilAnHourLater(t *testing.T) {
	s := openStore(t, t.TempDir())
	d, _ := ParseDigest(upload(t, s, []byte("content")))
	now := time.Now()
	s.now = func() time.Time { return now }
	age(t, s.BlobPath(d), 48*time.Hour)
	for _, step := range []struct {
		later time.Duration
		ask   bool
		kept  bool
	}{{time.Minute, false, true}, {50 * time.Minute, true, true}, {59 * time.Minute, false, true}, {2 * time.Minute, false, false}} {
		now = now.Add(step.later)
		if step.ask {
			if there, err := s.HasBlob(d); !there || err != nil {
				t.Fatalf("HasBlob: %v, %v", there, err)
			}
		}
		if _, err := s.Prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(s.BlobPath(d)); (err == nil) != step.kept {
			t.Errorf("%+v: %v", step, err)
		}
	}
}

func TestPruneAndDeleteSpareWhatARunningCreateNeeds(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "base", 8)
	weights := get(t, s, "base").ModelBlob
	pruned := false
	// Between the layers and the manifest, all else tries to take them away.
	err := s.Create(t.Context(), CreateRequest{Name: name(t, "x"), From: "base", System: "s"}, func(p Progress) {
		if p.Status != "writing manifest" {
			return
		}
		if err := s.Delete(name(t, "base")); err != nil {
			t.Error(err)
		}
		ageAll(t, filepath.Join(s.dir, "blobs"), 48*time.Hour)
		if _, err := s.Prune(t.Context()); err != nil {
			t.Error(err)
		}
		pruned = true
	})
	if err != nil || !pruned {
		t.Fatal(err, pruned)
	}
	m := get(t, s, "x")
	if _, err := m.Info(); err != nil || m.ModelBlob != weights || m.System != "s" {
		t.Errorf("got %+v, %v", m, err)
	}
	if err := s.Delete(name(t, "x")); err != nil {
		t.Fatal(err)
	}
	if left := paths(t, s.dir); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
}

func TestAnotherProgramsPruneSparesWhatACreateTakesUp(t *testing.T) {
	dir := t.TempDir()
	s, other := openStore(t, dir), openStore(t, dir)
	digest := upload(t, s, ggufFile(t, 8, untalkative))
	ageAll(t, filepath.Join(dir, "blobs"), 48*time.Hour)
	err := s.Create(t.Context(), CreateRequest{Name: name(t, "x"), Files: map[string]string{"m.gguf": digest}}, func(p Progress) {
		if p.Status == "writing manifest" {
			if pruned, err := other.Prune(t.Context()); err != nil || pruned.Files != 0 {
				t.Errorf("pruned %+v, %v", pruned, err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	get(t, other, "x")
}

func TestACreateWhoseBlobsWereTakenAwayFails(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "base", 8)
	weights := get(t, s, "base").ModelPath
	err := s.Create(t.Context(), CreateRequest{Name: name(t, "x"), From: "base", System: "s"}, func(p Progress) {
		if p.Status == "writing manifest" {
			if err := os.Remove(weights); err != nil {
				t.Error(err)
			}
		}
	})
	var missing *MissingBlobError
	if !errors.As(err, &missing) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Get(name(t, "x")); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestPruneObeysItsContext(t *testing.T) {
	s := openStore(t, t.TempDir())
	orphan := filepath.Join(s.dir, "blobs", "sha256-"+strings.Repeat("1", 64))
	writeFile(t, orphan, "x")
	age(t, orphan, 48*time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Prune(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(orphan); err != nil {
		t.Error(err)
	}
}
