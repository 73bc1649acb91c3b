package modelstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"
)

// What is younger may belong to a model that another program is just making, or to
// a download that goes on after a pause.
const (
	youngBlob     = time.Hour
	youngDownload = 24 * time.Hour
)

// Pruned says what Prune removed.
type Pruned struct {
	Files int
	Bytes int64
}

func (p *Pruned) remove(root *os.Root, info fs.FileInfo) error {
	if err := root.Remove(info.Name()); err != nil {
		return err
	}
	p.Files++
	p.Bytes += info.Size()
	return nil
}

// Prune removes the blobs that no model needs and the leftovers of crashed writes.
// It spares what is younger than an hour, downloads younger than a day, and what
// this process is writing. When any manifest can't be read it removes nothing and
// returns a *CorruptManifestError.
func (s *Store) Prune(ctx context.Context) (Pruned, error) {
	done, err := s.change()
	if err != nil {
		return Pruned{}, err
	}
	defer done()
	used, err := s.usedForPrune()
	if err != nil {
		return Pruned{}, err
	}
	pruned, err := s.sweep()
	if err != nil {
		return pruned, s.writeError("pruning the model folder", err)
	}
	err = eachFile(s.blobs, func(root *os.Root, info fs.FileInfo) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !s.prunable(root, info, used) {
			return nil
		}
		if d, err := ParseDigest(info.Name()); err == nil {
			s.forgetHeader(d)
		}
		return pruned.remove(root, info)
	})
	return pruned, s.writeError("pruning the model folder", err)
}

// usedForPrune returns the blobs that models need. It fails when that is not sure,
// also when there is no folder of manifests: Open makes one.
func (s *Store) usedForPrune() (map[Digest]bool, error) {
	root, err := s.manifests.open()
	if err != nil {
		return nil, s.readError(err)
	}
	defer root.Close()
	used, corrupt, err := s.used(root)
	if err != nil {
		return nil, s.readError(err)
	}
	if corrupt != nil {
		return nil, corrupt
	}
	return used, nil
}

// downloadFile matches the files of a download that can go on: the data, and what is
// known of its parts.
var downloadFile = regexp.MustCompile(`^sha256-[0-9a-fA-F]{64}-partial(-\d+)?$`)

// prunable reports whether a file in the folder of blobs can go. s.mu is held.
func (s *Store) prunable(root *os.Root, info fs.FileInfo, used map[Digest]bool) bool {
	name, age := info.Name(), s.now().Sub(info.ModTime())
	switch d, err := ParseDigest(name); {
	case err == nil:
		return age > youngBlob && !used[d] && !s.protected(d)
	case downloadFile.MatchString(name):
		// The data is written to later than what is known of its finished parts.
		data := name[:strings.Index(name, "-partial")+len("-partial")]
		if info, err := root.Lstat(data); err == nil {
			age = min(age, s.now().Sub(info.ModTime()))
		}
		return age > youngDownload
	case strings.HasPrefix(name, blobTemp):
		return false // sweep knows better
	default:
		return age > youngBlob && !strings.HasPrefix(name, ".")
	}
}

// foreignTemp matches the temporary files that Ollama writes blobs to.
var foreignTemp = regexp.MustCompile(`^sha256-\d{1,20}$`)

// sweep removes the temporary files that nobody writes any more.
func (s *Store) sweep() (pruned Pruned, err error) {
	leftover := func(root *os.Root, info fs.FileInfo) error {
		return whileAbandoned(root, info, s.now(), func() error { return pruned.remove(root, info) })
	}
	err = eachFile(s.blobs, func(root *os.Root, info fs.FileInfo) error {
		switch name := info.Name(); {
		case strings.HasPrefix(name, blobTemp):
			return leftover(root, info)
		case stale(root, name):
			return pruned.remove(root, info)
		case foreignTemp.MatchString(name) && s.now().Sub(info.ModTime()) > youngBlob:
			return pruned.remove(root, info)
		}
		return nil
	})
	e := eachFile(s.manifests, func(root *os.Root, info fs.FileInfo) error {
		if strings.HasPrefix(info.Name(), manifestTemp) {
			return leftover(root, info)
		}
		return nil
	})
	return pruned, errors.Join(err, e)
}

// eachFile visits the regular files right in the folder. That one of them went away
// is no error.
func eachFile(f folder, visit func(root *os.Root, info fs.FileInfo) error) error {
	root, err := f.open()
	if isNotExist(err) {
		return nil
	} else if err != nil {
		return err
	}
	defer root.Close()
	entries, err := readDir(root, ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err == nil {
			err = visit(root, info)
		}
		if err != nil && !isNotExist(err) {
			return err
		}
	}
	return nil
}
