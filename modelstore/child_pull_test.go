package modelstore

import (
	"context"
	"net/http"
	"testing"
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
