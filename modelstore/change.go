package modelstore

import (
	"fmt"
	"log/slog"
	"os"
	"path"
	"slices"
	"time"
)

// Copy makes dst a second name of the model src. The errors are *InvalidNameError
// and *NotFoundError (of src), or from the file system.
func (s *Store) Copy(src, dst Name) error {
	src, err := valid(src)
	if err != nil {
		return err
	}
	if dst, err = valid(dst); err != nil {
		return err
	}
	done, err := s.change()
	if err != nil {
		return err
	}
	defer done()
	root, err := s.manifests.open()
	if isNotExist(err) {
		return &NotFoundError{Name: src}
	} else if err != nil {
		return s.readError(err)
	}
	defer root.Close()
	if src, err = s.resolve(root, src); err != nil {
		return s.readError(err)
	}
	if dst, err = s.resolve(root, dst); err != nil {
		return s.readError(err)
	}
	r, err := s.record(root, src)
	if err != nil {
		return err
	}
	if r.err != nil {
		return r.err
	}
	if src == dst {
		return nil
	}
	// The file is copied, not what was read of it: the copy has the same digest.
	raw, err := root.ReadFile(modelPath(src))
	if err != nil {
		return notFound(src, err)
	}
	return s.replaceManifest(root, dst, raw, &hold{store: s})
}

// Delete removes a name, and the blobs that no other name needs. A name whose
// manifest can't be read is removed too; its blobs are left to Prune. The errors
// are *InvalidNameError and *NotFoundError, or from the file system.
func (s *Store) Delete(n Name) error {
	n, err := valid(n)
	if err != nil {
		return err
	}
	done, err := s.change()
	if err != nil {
		return err
	}
	defer done()
	root, err := s.manifests.open()
	if isNotExist(err) {
		return &NotFoundError{Name: n}
	} else if err != nil {
		return s.readError(err)
	}
	defer root.Close()
	r, err := s.find(root, n)
	if err != nil {
		return err
	}
	what := "deleting model '" + r.name.DisplayShortest() + "'"
	if err := s.removeManifest(root, r.name); err != nil {
		return s.writeError(what, err)
	}
	return s.writeError(what, s.removeUnused(root, r.digests()))
}

// removeManifest removes a name for good, and the folders that it leaves empty.
// s.mu is held.
func (s *Store) removeManifest(root *os.Root, n Name) error {
	if err := s.manifests.step("remove"); err != nil {
		return err
	}
	if err := root.Remove(modelPath(n)); err != nil {
		return err
	}
	s.forget(n)
	dir := path.Dir(modelPath(n))
	for dir != "." && root.Remove(dir) == nil { // which fails when it is not empty
		dir = path.Dir(dir)
	}
	return syncDir(root, dir)
}

// replaceManifest makes n stand for the manifest with these bytes, lets go of what
// was held for that, and removes the blobs that nobody needs any more: of the
// manifest before, and of a base that was deleted meanwhile. s.mu is held.
func (s *Store) replaceManifest(root *os.Root, n Name, raw []byte, h *hold) error {
	var before []Digest
	if r, err := s.record(root, n); err == nil {
		before = r.digests()
	}
	if err := s.putManifest(n, raw); err != nil {
		return err
	}
	before = append(before, h.release()...)
	if s.keepUnused {
		return nil
	}
	if err := s.removeUnused(root, before); err != nil {
		slog.Warn("what a model replaced could not be removed", "model", n, "error", err)
	}
	return nil
}

// removeUnused removes those of the blobs that no model needs and nobody holds.
// Manifests that can't be read do not count: their models can't be used. s.mu is held.
func (s *Store) removeUnused(manifests *os.Root, list []Digest) error {
	if len(list) == 0 {
		return nil
	}
	used, _, err := s.used(manifests)
	if err != nil {
		return err
	}
	root, err := s.blobs.open()
	if isNotExist(err) {
		return nil
	} else if err != nil {
		return err
	}
	defer root.Close()
	for _, d := range list {
		if d.IsZero() || used[d] || s.protected(d) {
			continue
		}
		if err := s.blobs.step("remove"); err != nil {
			return err
		}
		if err := root.Remove(d.file()); err != nil && !isNotExist(err) {
			return err
		}
		s.forgetHeader(d)
	}
	return nil
}

// used returns the blobs that models need, and of the manifests that can't be read
// one.
func (s *Store) used(root *os.Root) (map[Digest]bool, *CorruptManifestError, error) {
	records, odd, err := s.all(root)
	if err != nil {
		return nil, nil, err
	}
	var corrupt *CorruptManifestError
	if len(odd) > 0 {
		corrupt = &CorruptManifestError{Err: fmt.Errorf("%s can't be read as a manifest", odd[0])}
	}
	used := make(map[Digest]bool)
	for _, r := range records {
		if r.err != nil {
			corrupt = r.err
		}
		for _, d := range r.digests() {
			used[d] = true
		}
	}
	return used, corrupt, nil
}

// hold keeps blobs from being removed while a model is made of them.
type hold struct {
	store   *Store
	list    []Digest
	uploads []Digest // what was uploaded for the model, each once
}

// add holds a blob from now on.
func (h *hold) add(d Digest) {
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	h.addLocked(d)
}

func (h *hold) addLocked(d Digest) {
	h.store.held[d]++
	h.list = append(h.list, d)
}

// release lets go of the blobs and returns them. s.mu is held.
func (h *hold) release() []Digest {
	list := h.list
	h.list = nil
	for _, d := range list {
		h.drop(d)
	}
	return list
}

func (h *hold) drop(d Digest) {
	if h.store.held[d]--; h.store.held[d] <= 0 {
		delete(h.store.held, d)
	}
}

// abandon lets go of the blobs when no model came of them, and removes those that
// were created for it. What was uploaded stays for another try.
func (h *hold) abandon(created []Digest) {
	s := h.store
	done, err := s.change()
	if err != nil {
		slog.Warn("the leftovers of a model that was not made stay until the next start", "error", err)
		s.mu.Lock()
		defer s.mu.Unlock()
		h.release()
		return
	}
	defer done()
	h.release()
	root, err := s.manifests.open()
	if err != nil {
		return
	}
	defer root.Close()
	if err := s.removeUnused(root, created); err != nil {
		slog.Warn("the leftovers of a model that was not made could not be removed", "error", err)
	}
}

// renew makes a blob that no model needs young again, so that another program's
// Prune spares it while this one makes a model of it.
func (h *hold) renew(d Digest) { h.setTime(d, h.store.now()) }

// spare is renew for a pull, whose other blobs may take hours: the time is ahead. It is
// set right (settleTimes) when the model is there.
func (h *hold) spare(d Digest) { h.setTime(d, h.store.now().Add(youngDownload-youngBlob)) }

// setTime sets the time of a blob that no model needs.
func (h *hold) setTime(d Digest, t time.Time) {
	s := h.store
	root, err := s.manifests.open()
	if err != nil {
		return
	}
	defer root.Close()
	if used, _, err := s.used(root); err == nil && !used[d] {
		if blobs, err := s.blobs.open(); err == nil {
			defer blobs.Close()
			_ = blobs.Chtimes(d.file(), t, t) // it may be another user's
		}
	}
}

// base finds the model that another one is made from, and holds its blobs.
func (h *hold) base(n Name) (*record, error) {
	s := h.store
	n, err := valid(n)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	root, err := s.manifests.open()
	if isNotExist(err) {
		return nil, &NotFoundError{Name: n}
	} else if err != nil {
		return nil, s.readError(err)
	}
	defer root.Close()
	r, err := s.find(root, n)
	if err != nil {
		return nil, err
	}
	if r.err != nil {
		return nil, r.err
	}
	for _, d := range r.digests() {
		h.addLocked(d)
	}
	return r, nil
}

// commit makes n stand for the manifest, all of whose blobs are held.
func (h *hold) commit(n Name, m *manifest) error {
	raw, err := m.encode()
	if err != nil {
		return err
	}
	return h.commitBytes(n, m, raw)
}

// commitBytes is commit of a manifest that is written in other bytes.
func (h *hold) commitBytes(n Name, m *manifest, raw []byte) error {
	s := h.store
	done, err := s.change()
	if err != nil {
		return err
	}
	defer done()
	for _, d := range m.digests() {
		if d.IsZero() {
			continue
		}
		// Another program may have removed it.
		if _, err := s.statBlob(d); err != nil {
			return s.blobError(Name{}, d, err)
		}
	}
	root, err := s.manifests.make()
	if err != nil {
		return s.writeError("writing the manifest of model '"+n.DisplayShortest()+"'", err)
	}
	defer root.Close()
	if n, err = s.resolve(root, n); err != nil {
		return s.readError(err)
	}
	if err := s.replaceManifest(root, n, raw, h); err != nil {
		return err
	}
	// An upload that became a part of its model is not waited for any more. Others are:
	// the source of a quantization may be used again, and so may what other clients
	// have uploaded at the same time.
	for _, d := range h.uploads {
		if slices.Contains(m.digests(), d) {
			s.unwant(d)
		}
	}
	return nil
}
