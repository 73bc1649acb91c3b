package modelstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// BadBlobError is returned when a registry sends something else than it was asked
// for. Its text is Ollama's.
type BadBlobError struct{ Want, Got Digest }

func (e *BadBlobError) Error() string {
	return fmt.Sprintf("digest mismatch, file must be downloaded again: want %s, got %s", e.Want, e.Got)
}

// SizeError is returned when a registry's blob has not the size that its manifest
// tells.
type SizeError struct {
	Digest    Digest
	Want, Got int64
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("the registry contradicts itself: its manifest says that %s has %d bytes, but it sends one of %d", e.Digest, e.Want, e.Got)
}

// download is a blob on its way into the store. All pulls that want it share it; it
// ends with the last of them.
type download struct {
	store  *Store
	remote *remote
	digest Digest
	size   int64

	completed atomic.Int64
	done      chan struct{} // closed at the end; then err counts
	err       error

	// guarded by store.downloadsMu
	cancel  context.CancelFunc
	waiting int  // pulls
	over    bool // nobody may join any more

	files *partial
	grown chan struct{} // has one when data came
}

// fetch brings a blob into the store, unless it is there.
func (s *Store) fetch(ctx context.Context, r *remote, l layer, progress func(Progress)) error {
	for {
		there, err := s.hasSize(l)
		if err != nil {
			return err
		}
		if there {
			progress(pulling(l.Digest, l.Size, l.Size))
			return nil
		}
		d, own, err := s.join(ctx, r, l)
		if err != nil {
			return err
		}
		err = d.wait(ctx, progress)
		s.leave(d)
		if own && err != nil || ctx.Err() != nil {
			return err
		}
		// It is there now; or another pull failed, whose registry may not be ours.
		if own {
			return nil
		}
	}
}

// hasSize reports whether the blob is there. One of another size is broken.
func (s *Store) hasSize(l layer) (bool, error) {
	info, err := s.statBlob(l.Digest)
	if err == nil {
		return info.Size() == l.Size, nil
	}
	if isNotExist(err) {
		return false, nil
	}
	return false, s.readError(err)
}

// join returns the download of a blob, and whether it is the caller's own. Each join
// is followed by a leave.
func (s *Store) join(ctx context.Context, r *remote, l layer) (d *download, own bool, err error) {
	for {
		s.downloadsMu.Lock()
		d := s.downloads[l.Digest]
		if d == nil {
			d = s.start(ctx, r, l)
			s.downloadsMu.Unlock()
			return d, true, nil
		}
		if !d.over && d.size == l.Size {
			d.waiting++
			s.downloadsMu.Unlock()
			return d, false, nil
		}
		s.downloadsMu.Unlock()
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// start begins a download, which outlives the pull that wanted it first if another
// one joins. s.downloadsMu is held.
func (s *Store) start(ctx context.Context, r *remote, l layer) *download {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d := &download{
		store: s, remote: r, digest: l.Digest, size: l.Size,
		done: make(chan struct{}), cancel: cancel, waiting: 1, grown: make(chan struct{}, 1),
	}
	s.downloads[l.Digest] = d
	go func() { // whoever leaves last waits for it
		defer cancel()
		d.err = d.run(ctx)
		s.downloadsMu.Lock()
		d.over = true
		delete(s.downloads, d.digest)
		s.downloadsMu.Unlock()
		close(d.done)
	}()
	return d
}

// leave ends a download that nobody waits for.
func (s *Store) leave(d *download) {
	s.downloadsMu.Lock()
	d.waiting--
	last := d.waiting == 0
	if last {
		d.over = true
		d.cancel()
	}
	s.downloadsMu.Unlock()
	if last {
		<-d.done
	}
}

// progressEvery is how often progress is told; as in Ollama.
const progressEvery = 60 * time.Millisecond

// wait tells how far the download is until it ends.
func (d *download) wait(ctx context.Context, progress func(Progress)) error {
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	for {
		select {
		case <-d.done:
			if d.err == nil {
				progress(pulling(d.digest, d.size, d.size))
			}
			return d.err
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			progress(pulling(d.digest, d.size, d.completed.Load()))
		}
	}
}

func pulling(d Digest, total, completed int64) Progress {
	return Progress{Status: "pulling " + d.Hex()[:12], Digest: d.String(), Total: total, Completed: completed}
}

// run fetches the blob and puts it in its place. What is there of it stays when that
// fails, unless it is worth nothing.
func (d *download) run(ctx context.Context) error {
	err := d.fill(ctx)
	if errors.As(err, new(*fs.PathError)) || errors.Is(err, syscall.ENOSPC) { // the disk's, and not the network's
		return d.store.writeError("downloading "+d.digest.String(), err)
	}
	return err
}

// fill is run with the errors as they come.
func (d *download) fill(ctx context.Context) error {
	files, err := d.open(ctx)
	if files == nil {
		return err
	}
	defer files.close()
	d.files = files
	tooFull := hasRoom(files.folder, d.size-d.count())
	if err = tooFull; err == nil {
		err = d.verified(ctx)
	}
	if err == nil {
		return files.publish(d.digest)
	}
	// What is wrong is worth nothing, and others need the space of a disk that has
	// become full.
	wrong := errors.As(err, new(*BadBlobError))
	full := tooFull == nil && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
	if wrong || full || d.count() == 0 {
		if e := files.discard(); e != nil {
			slog.Warn("a download's files could not be removed", "digest", d.digest, "error", e)
		}
	}
	return err
}

// How often it is looked whether another program still downloads the blob. The pause
// grows from one to the other.
const (
	leastUsePause = 50 * time.Millisecond
	mostUsePause  = time.Second
)

// open opens the files. While another program downloads the blob it waits, and goes on
// with what is there if that program fails or dies. Without files and without an error
// the blob is there.
func (d *download) open(ctx context.Context) (*partial, error) {
	there := func() (bool, error) { return d.store.hasSize(layer{Digest: d.digest, Size: d.size}) }
	for wait := leastUsePause; ; wait = min(2*wait, mostUsePause) {
		files, noted, err := openPartial(d.store.blobs, d.digest, d.size, cmp.Or(d.remote.registry.leastPart, minPart), there)
		if !errors.Is(err, errInUse) {
			return files, err
		}
		if wait == leastUsePause {
			slog.Info("another program is downloading a file, the pull waits for it", "digest", d.digest)
		}
		if noted > 0 { // at its end the other program removes its notes
			d.completed.Store(noted)
		}
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// verified fetches the blob until all of it is there and is what it shall be.
func (d *download) verified(ctx context.Context) error {
	resumed := d.count() > 0
	for {
		got, err := d.fetchAll(ctx)
		if errors.Is(err, errNoRanges) {
			got, err = d.fetchWhole(ctx)
		}
		if err != nil || got == d.digest {
			return err
		}
		if !resumed {
			return &BadBlobError{Want: d.digest, Got: got}
		}
		// After a power failure what was known of a part may be more than what came to
		// the disk.
		slog.Warn("what was there of a download is broken, it begins anew", "digest", d.digest)
		resumed = false
		if err := d.files.restart(); err != nil {
			return err
		}
	}
}

// count sets completed to what is there.
func (d *download) count() (n int64) {
	for _, p := range d.files.parts {
		n += p.done.Load()
	}
	d.completed.Store(n)
	return n
}

// fetchAll fetches what is missing, many parts at a time, and returns the digest of
// all. Data is hashed while the rest comes.
func (d *download) fetchAll(ctx context.Context) (got Digest, err error) {
	d.count()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(d.remote.registry.streams() + 1)
	g.Go(func() (err error) {
		got, err = d.hash(ctx)
		return err
	})
	for _, p := range d.files.parts {
		if !p.complete() && ctx.Err() == nil {
			g.Go(func() error { return d.fetchPart(ctx, p) })
		}
	}
	err = g.Wait()
	return got, err
}

// fetchWhole fetches the blob with one request, from a registry that can't send parts.
func (d *download) fetchWhole(ctx context.Context) (got Digest, err error) {
	err = d.remote.retry(ctx, func() (bool, error) {
		for _, p := range d.files.parts {
			p.done.Store(0)
		}
		d.count()
		return false, d.readWhole(ctx)
	})
	if err != nil {
		return Digest{}, err
	}
	return d.hash(ctx)
}

// hash reads the data as far as it is there without a gap, until the end.
func (d *download) hash(ctx context.Context) (Digest, error) {
	h, buf := sha256.New(), make([]byte, 1<<20)
	for _, p := range d.files.parts {
		for at := int64(0); at < p.Size; {
			n := min(p.done.Load()-at, int64(len(buf)))
			if n <= 0 {
				select {
				case <-d.grown:
				case <-ctx.Done():
					return Digest{}, ctx.Err()
				}
				continue
			}
			if err := ctx.Err(); err != nil {
				return Digest{}, err
			}
			if _, err := d.files.data.ReadAt(buf[:n], p.Offset+at); err != nil {
				return Digest{}, err
			}
			h.Write(buf[:n])
			at += n
		}
	}
	return sumOf(h), nil
}

// blob is the call that fetches the blob, or a part of it.
func (d *download) blob(header http.Header) call {
	return call{method: http.MethodGet, url: d.remote.url("blobs", d.digest.String()), header: header}
}
