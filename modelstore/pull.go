package modelstore

import (
	"context"
	"errors"
	"fmt"
)

// Pull fetches a model from the registry that its name tells, or makes it what it is
// there now. progress, which may be nil, is called from the calling goroutine with
// Ollama's texts, the last time with "success".
//
// Every blob is verified before it gets its name, and the model's name comes last:
// whatever the error, the name stands for what it stood for before. What was fetched
// by then stays, and the next Pull goes on with it; only a full disk is cleared. Pulls
// of the same blob share its download; one that another program has begun is waited for.
func (s *Store) Pull(ctx context.Context, n Name, insecure bool, progress func(Progress)) error {
	n, err := valid(n)
	if err != nil {
		return err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	if n, err = s.Resolve(n); err != nil {
		return s.readError(err)
	}
	progress(Progress{Status: "pulling manifest"})
	r, err := s.remote(n, insecure)
	if err != nil {
		return pullError(err)
	}
	m, err := r.manifest(ctx, n.Tag)
	if err != nil {
		return pullError(err)
	}
	h := &hold{store: s}
	defer h.letGo()
	for _, d := range m.digests() {
		h.add(d)
	}
	for try := 0; ; try++ {
		err := s.pull(ctx, r, n, m, h, progress)
		// Another program may prune what it takes for unused; what is missing is
		// fetched again.
		if !errors.As(err, new(*MissingBlobError)) || try == 2 {
			return err
		}
	}
}

// pullError is the error of a pull that got no manifest, in Ollama's words.
func pullError(err error) error { return fmt.Errorf("pull model manifest: %w", err) }

// pull fetches the blobs of a manifest and gives it its name.
func (s *Store) pull(ctx context.Context, r *remote, n Name, m *manifest, h *hold, progress func(Progress)) error {
	for _, l := range m.blobs() {
		if err := s.fetch(ctx, r, l, progress); err != nil {
			return err
		}
		h.spare(l.Digest)
	}
	progress(Progress{Status: "verifying sha256 digest"}) // it has been: fetch does it meanwhile
	progress(Progress{Status: "writing manifest"})
	raw, err := m.pulled()
	if err != nil {
		return err
	}
	replaced := s.replaces(n, m)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := h.commitBytes(n, m, raw); err != nil {
		return err
	}
	s.settleTimes(m.blobs())
	if replaced && !s.keepUnused {
		progress(Progress{Status: "removing unused layers"})
	}
	progress(Progress{Status: "success"})
	return nil
}

// replaces reports whether n has blobs that the manifest has not.
func (s *Store) replaces(n Name, m *manifest) bool {
	root, err := s.manifests.open()
	if err != nil {
		return false
	}
	defer root.Close()
	r, err := s.record(root, n)
	if err != nil {
		return false
	}
	need := make(map[Digest]bool)
	for _, d := range m.digests() {
		need[d] = true
	}
	for _, d := range r.digests() {
		if !d.IsZero() && !need[d] {
			return true
		}
	}
	return false
}

// letGo lets go of the blobs, and leaves them to the next pull or to Prune.
func (h *hold) letGo() {
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	h.release()
}
