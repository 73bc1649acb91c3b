package modelstore

import (
	"errors"
	"sync"
	"testing"
)

// A blob that one program takes for unused must not become a part of another one's
// model while it goes. Two stores lock each other out as two programs do.
func TestNoProgramMakesAModelOfABlobThatAnotherIsRemoving(t *testing.T) {
	dir := stormDir(t)
	ours, theirs := openStore(t, dir), openStore(t, dir)
	createSmall(t, ours, "x", 8)
	files := map[string]string{"m.gguf": get(t, ours, "x").ModelBlob.String()}

	ready := make(chan struct{})
	aboutToChange := sync.OnceFunc(func() { close(ready) })
	theirs.blobs.fault = func(step string) error {
		if step == "blobs: lock" {
			aboutToChange()
		}
		return nil
	}
	var group sync.WaitGroup
	var made error
	begin := sync.OnceFunc(func() {
		group.Go(func() { made = theirs.Create(t.Context(), CreateRequest{Name: name(t, "y"), Files: files}, nil) })
		<-ready
	})
	ours.blobs.fault = func(step string) error {
		if step == "blobs: remove" {
			begin()
		}
		return nil
	}
	if err := ours.Delete(name(t, "x")); err != nil {
		t.Fatal(err)
	}
	group.Wait()
	if !errors.As(made, new(*MissingBlobError)) {
		t.Errorf("the other program's create: %v", made)
	}
	checkPruned(t, dir)
}

// What two clients have uploaded stays until both have made their models of it.
func TestAnUploadOutlivesTheModelOfAnotherClient(t *testing.T) {
	s := openStore(t, t.TempDir())
	weights := ggufFile(t, 8, untalkative)
	files := map[string]string{"m.gguf": upload(t, s, weights)}
	upload(t, s, weights) // the second client
	create(t, s, CreateRequest{Name: name(t, "first"), Files: files})
	if err := s.Delete(name(t, "first")); err != nil {
		t.Fatal(err)
	}
	create(t, s, CreateRequest{Name: name(t, "second"), Files: files})
	if err := s.Delete(name(t, "second")); err != nil {
		t.Fatal(err)
	}
	if left := paths(t, s.dir); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
}
