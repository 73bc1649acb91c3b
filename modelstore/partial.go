package modelstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// The files of a download are Ollama's, so that either program can go on with what
// the other began: sha256-X-partial has the size of the blob, and for each part of it
// sha256-X-partial-N says in JSON where it lies and how much of it is there.

const (
	partialSuffix = "-partial"
	// partRecord is the length of the files that say how far a part is. It never
	// changes, so that one write replaces all of it: a crash leaves no half of one.
	partRecord = 128

	minPart   = 16 << 20
	maxPart   = 256 << 20
	mostParts = 512 // each is an open file
)

// part is a piece of a blob that one request fetches.
type part struct {
	Number       int
	Offset, Size int64
	done         atomic.Int64 // bytes of it that are in the file
	file         *os.File
}

// partState is a part's file. Ollama uses the fields' names as keys.
type partState struct {
	N         int
	Offset    int64
	Size      int64
	Completed int64
}

func (p *part) complete() bool { return p.done.Load() == p.Size }

// save makes what is there known to a later run.
func (p *part) save() error {
	_, err := p.file.WriteAt(p.record(), 0)
	return err
}

func (p *part) record() []byte {
	raw, _ := json.Marshal(partState{p.Number, p.Offset, p.Size, p.done.Load()}) // four numbers
	return append(append(raw, bytes.Repeat([]byte(" "), partRecord-1-len(raw))...), '\n')
}

// decodePart reads the file of part number n.
func decodePart(raw []byte, n int) (*part, error) {
	var s partState
	if err := decodeJSON(raw, &s); err != nil {
		return nil, err
	}
	if s.N != n || s.Offset < 0 || s.Size <= 0 || s.Offset > math.MaxInt64-s.Size || s.Completed < 0 || s.Completed > s.Size {
		return nil, fmt.Errorf("part %d is impossible", n)
	}
	p := &part{Number: n, Offset: s.Offset, Size: s.Size}
	p.done.Store(s.Completed)
	return p, nil
}

// cutParts divides a blob: into so many parts that the last ones are soon done, and
// few enough that requests don't count.
func cutParts(size, least int64) (parts []*part) {
	step := max(min(max(size/64, least), maxPart), size/mostParts)
	for at := int64(0); at < size; at += step {
		parts = append(parts, &part{Number: len(parts), Offset: at, Size: min(step, size-at)})
	}
	return parts
}

// wholeParts reports whether the parts, in order, make up the blob.
func wholeParts(parts []*part, size int64) bool {
	var end int64
	for i, p := range parts {
		if p.Number != i || p.Offset != end {
			return false
		}
		end += p.Size
	}
	return end == size
}

// partial is a download's files, open. Its lock tells others that someone writes it.
type partial struct {
	folder folder
	root   *os.Root
	data   *os.File
	name   string
	size   int64
	parts  []*part

	leastPart int64 // bytes
}

// errInUse is returned while another program, or another store, downloads the blob.
var errInUse = errors.New("another program is downloading the same file")

// openPartial opens the files of a download, those of an earlier one if they can be
// gone on with. With errInUse it tells how much the other program has noted.
//
// there looks for the blob. Once the files are ours nobody else can be bringing it, so
// what it says counts; if the blob is there, nothing is opened and nothing is left.
func openPartial(f folder, d Digest, size, leastPart int64, there func() (bool, error)) (p *partial, noted int64, err error) {
	root, err := f.make()
	if err != nil {
		return nil, 0, err
	}
	p = &partial{folder: f, root: root, name: d.file() + partialSuffix, size: size, leastPart: leastPart}
	if err = p.openData(); errors.Is(err, errInUse) {
		noted = p.noted()
	}
	found := false
	if err == nil {
		found, err = there()
	}
	switch {
	case err == nil && found:
		err = p.discard()
	case err == nil:
		if err = p.openParts(); err == nil {
			return p, 0, nil
		}
	}
	p.close()
	return nil, noted, err
}

// noted is how much is there by the files of the parts, which another program writes.
func (p *partial) noted() (n int64) {
	parts, err := p.readParts()
	for _, one := range parts {
		n += one.done.Load()
		one.file.Close()
	}
	if err != nil || n > p.size {
		return 0 // they are being made or removed
	}
	return n
}

// openData opens the data, and locks it.
func (p *partial) openData() error {
	if err := p.folder.step("download create"); err != nil {
		return err
	}
	for {
		// A link would lead to a file that is somebody's.
		if info, err := p.root.Lstat(p.name); err == nil && !info.Mode().IsRegular() {
			if err := p.root.Remove(p.name); err != nil {
				return err
			}
		}
		file, err := p.root.OpenFile(p.name, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		if lock(file) == lockedByOther {
			file.Close()
			return errInUse
		}
		if same(p.root, file, p.name) {
			p.data = file
			return nil
		}
		file.Close()
	}
}

// openParts takes up the parts that are there, or begins anew.
func (p *partial) openParts() error {
	info, err := p.data.Stat()
	if err != nil {
		return err
	}
	if info.Size() == p.size {
		p.parts, err = p.readParts()
		if err == nil && wholeParts(p.parts, p.size) {
			return nil
		}
	}
	return p.restart()
}

// readParts opens the files of the parts, sorted.
func (p *partial) readParts() (parts []*part, err error) {
	err = p.eachPart(func(n int, name string) error {
		info, err := p.root.Lstat(name)
		if err == nil && !info.Mode().IsRegular() {
			err = fs.ErrNotExist
		}
		if err != nil {
			return err
		}
		file, err := p.root.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		raw, err := readAll(file, partRecord)
		var one *part
		if err == nil {
			one, err = decodePart(raw, n)
		}
		if err != nil {
			file.Close()
			return err
		}
		one.file = file
		parts = append(parts, one)
		return nil
	})
	slices.SortFunc(parts, func(a, b *part) int { return a.Number - b.Number })
	return parts, err
}

// eachPart visits the files of parts.
func (p *partial) eachPart(visit func(n int, name string) error) error {
	entries, err := readDir(p.root, ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), p.name+"-")
		n, err := strconv.Atoi(number)
		if !ok || err != nil || n < 0 || strconv.Itoa(n) != number {
			continue
		}
		if err := visit(n, e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// restart throws away what is there. When it fails nothing is left.
func (p *partial) restart() (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, p.discard())
		}
	}()
	if err := p.removeParts(); err != nil {
		return err
	}
	if err := hasRoom(p.folder, p.size); err != nil {
		return err
	}
	if err := p.data.Truncate(0); err != nil {
		return err
	}
	if err := p.data.Truncate(p.size); err != nil {
		return err
	}
	p.parts = cutParts(p.size, p.leastPart)
	for _, one := range p.parts {
		err := p.folder.step("download part")
		if err == nil {
			err = p.create(one)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// create makes the file of a part. It is there with its content or not at all.
func (p *partial) create(one *part) error {
	t, err := p.folder.newTemp(blobTemp)
	if err != nil {
		return err
	}
	defer t.root.Close()
	_, err = t.Write(one.record())
	if err == nil {
		err = t.root.Rename(t.name, p.name+"-"+strconv.Itoa(one.Number))
	}
	if err != nil {
		_ = t.root.Remove(t.name)
		t.file.Close()
		return err
	}
	one.file = t.file
	return nil
}

// removeParts removes the files of all parts.
func (p *partial) removeParts() error {
	for _, one := range p.parts {
		if one.file != nil {
			one.file.Close()
		}
	}
	p.parts = nil
	return p.eachPart(func(_ int, name string) error {
		if err := p.root.Remove(name); err != nil && !isNotExist(err) {
			return err
		}
		return nil
	})
}

// discard removes all files of the download.
func (p *partial) discard() error {
	err := p.removeParts()
	if e := p.root.Remove(p.name); e != nil && !isNotExist(e) {
		err = errors.Join(err, e)
	}
	return err
}

// hasRoom reports a disk that is too small before it is full.
func hasRoom(f folder, need int64) error {
	if free, known := freeSpace(f.path); known && free < need {
		return fmt.Errorf("%d MB are needed and %d MB are free: %w", need/1e6, free/1e6, syscall.ENOSPC)
	}
	return nil
}

// publish makes the data durable and puts it in the blob's place.
func (p *partial) publish(d Digest) error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"download chmod", func() error { return p.data.Chmod(0o644) }},
		{"download sync", p.data.Sync},
		{"download rename", func() error { return p.root.Rename(p.name, d.file()) }},
		{"download sync folder", func() error { return syncDir(p.root, ".") }},
		{"download parts", p.removeParts},
	} {
		if err := p.folder.step(step.name); err != nil {
			return err
		}
		if err := step.do(); err != nil {
			return err
		}
	}
	return nil
}

// close leaves the files for a later run.
func (p *partial) close() {
	for _, one := range p.parts {
		if one.file != nil {
			one.file.Close()
		}
	}
	if p.data != nil {
		p.data.Close()
	}
	p.root.Close()
}
