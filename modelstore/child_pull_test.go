package modelstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"cllm/modelstore/modelstoretest"
)

// openChild opens the folder as a child does: its pulls come from a registry on the
// loopback address, in small parts.
func openChild(t *testing.T, dir string) *Store {
	transport := &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return openStore(t, dir, WithRegistry(Registry{Transport: transport, leastPart: 8 << 10}))
}

func obeyPull(ctx context.Context, s *Store, n Name, progress func(Progress)) error {
	return s.Pull(ctx, n, true, progress)
}

func TestAPullGoesOnWhereAnotherProcessWasKilled(t *testing.T) {
	const part = 8 << 10 // of openChild
	reg := modelstoretest.NewLoopback(t)
	weights := noise(1, 5*part)
	reg.AddModel("a/x:latest", weights)
	digest := modelstoretest.DigestOf(weights)
	held := make(chan struct{}, 2)
	reg.On("GET", digest, modelstoretest.Always, func(w http.ResponseWriter, req *http.Request, serve http.Handler) {
		var first int
		if _, err := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-", &first); err != nil {
			t.Error(err)
		}
		if first >= 3*part {
			modelstoretest.Hold(held, nil)(w, req, serve)
			return
		}
		serve.ServeHTTP(w, req)
	})
	dir, n := t.TempDir(), reg.Host+"/a/x"
	c := startChild(t, dir, 0)
	died := make(chan error, 1)
	go func() { died <- c.Pull(t.Context(), n, nil) }()
	<-held
	<-held
	kill := sync.OnceFunc(func() {
		reg.Heal()
		reg.Asked()
		_ = c.cmd.Process.Kill()
	})
	s := openChild(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := s.Pull(ctx, name(t, n), true, func(p Progress) {
		if p.Digest == digest && p.Completed == 3*part { // as much as the child gets
			kill()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-died; !errors.Is(err, modelstoretest.ErrGone) {
		t.Errorf("the child: %v", err)
	}
	wantPulled(t, s, n, reg.Registry, "a/x:latest")
	asked := strings.Join(reg.Asked(), "\n")
	if strings.Count(asked, "bytes=") != 2 || !strings.Contains(asked, fmt.Sprintf("bytes=%d-", 3*part)) || !strings.Contains(asked, fmt.Sprintf("bytes=%d-", 4*part)) {
		t.Errorf("asked for:\n%s", asked)
	}
}
