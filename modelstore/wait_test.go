package modelstore

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cllm/modelstore/modelstoretest"
)

// twoStores opens a folder twice, as two programs do, and has a registry send the blobs
// of its model x slowly.
func twoStores(t *testing.T, weights []byte) (ours, theirs *Store, reg *modelstoretest.Registry) {
	t.Helper()
	reg = modelstoretest.NewRegistry()
	reg.AddModel("library/x:latest", weights)
	reg.On("GET", modelstoretest.DigestOf(weights), modelstoretest.Always, modelstoretest.Drip(100, time.Second))
	hosts, dir := map[string]http.Handler{"registry.ollama.ai": reg}, t.TempDir()
	ours, theirs = networked(t, dir, hosts), networked(t, dir, hosts)
	theirs.registry.Streams = 2
	return ours, theirs, reg
}

func TestAPullWaitsForTheDownloadOfAnotherProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		weights := noise(1, 4*smallPart)
		ours, theirs, reg := twoStores(t, weights)
		var pulls sync.WaitGroup
		var failed error
		pulls.Go(func() { failed = theirs.Pull(t.Context(), name(t, "x"), false, nil) })
		synctest.Wait()
		between := false
		err := ours.Pull(t.Context(), name(t, "x"), false, func(p Progress) {
			between = between || p.Total == int64(len(weights)) && p.Completed > 0 && p.Completed < p.Total
		})
		pulls.Wait()
		if err != nil || failed != nil {
			t.Errorf("got %v and %v", err, failed)
		}
		if !between {
			t.Error("the one that waits does not tell how far the other is")
		}
		wantPulled(t, ours, "x", reg, "library/x:latest")
		if n := strings.Count(strings.Join(reg.Asked(), "\n"), modelstoretest.DigestOf(weights)); n != 4 {
			t.Errorf("the blob's four parts were asked for %d times", n)
		}
	})
}

func TestAPullGoesOnWhereAnotherProgramGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs, reg := twoStores(t, noise(2, 4*smallPart))
		ctx, cancel := context.WithTimeout(t.Context(), 15500*time.Millisecond) // half of it is there then
		defer cancel()
		var pulls sync.WaitGroup
		var failed error
		pulls.Go(func() {
			failed = theirs.Pull(ctx, name(t, "x"), false, nil)
			reg.Heal()
			reg.Asked()
		})
		synctest.Wait()
		if err := ours.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
			t.Error(err)
		}
		pulls.Wait()
		if !errors.Is(failed, context.DeadlineExceeded) {
			t.Errorf("got %v", failed)
		}
		wantPulled(t, ours, "x", reg, "library/x:latest")
		asked := strings.Join(reg.Asked(), "\n")
		if strings.Contains(asked, "bytes=0-") || strings.Contains(asked, "bytes=1000-") || strings.Count(asked, "bytes=") != 2 {
			t.Errorf("asked for:\n%s", asked)
		}
	})
}

func TestAPullThatWaitsForAnotherProgramObeysItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs, reg := twoStores(t, noise(3, 4*smallPart))
		var pulls sync.WaitGroup
		var failed error
		pulls.Go(func() { failed = theirs.Pull(t.Context(), name(t, "x"), false, nil) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if err := ours.Pull(ctx, name(t, "x"), false, nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		pulls.Wait()
		if failed != nil {
			t.Error(failed)
		}
		wantPulled(t, theirs, "x", reg, "library/x:latest")
	})
}

// The end of another program's download may fall between our look for the blob and our
// turn at its files.
func TestAPullLooksAgainForTheBlobOnceItsFilesAreItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs, reg := twoStores(t, noise(4, 4*smallPart))
		reg.Heal()
		once := sync.OnceFunc(func() {
			if err := theirs.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
				t.Error(err)
			}
			reg.Asked()
		})
		ours.blobs.fault = func(step string) error {
			if step == "blobs: download create" {
				once()
			}
			return nil
		}
		if err := ours.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
			t.Error(err)
		}
		wantPulled(t, ours, "x", reg, "library/x:latest")
		if asked := reg.Asked(); len(asked) != 0 {
			t.Errorf("what is there was fetched again: %q", asked)
		}
	})
}
