package modelstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// copyBuffer is how much of a body is read at a time.
	copyBuffer = 256 << 10
	// saveEvery is into how many pieces a part falls: the one that a crash hits is
	// fetched anew.
	saveEvery = 16
)

var errNoRanges = errors.New("the registry sends whole files only")

// fetchPart fetches what is missing of a part.
func (d *download) fetchPart(ctx context.Context, p *part) error {
	return d.remote.retry(ctx, func() (moved bool, err error) {
		before := p.done.Load()
		err = d.readPart(ctx, p)
		return p.done.Load() > before, err
	})
}

// readPart is one try to fetch what is missing of a part.
func (d *download) readPart(ctx context.Context, p *part) (err error) {
	from, to := p.Offset+p.done.Load(), p.Offset+p.Size
	if from == to {
		return nil
	}
	var header http.Header
	ranged := from > 0 || to < d.size
	if ranged {
		header = http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", from, to-1)}}
	}
	resp, err := d.remote.do(ctx, d.blob(header))
	if err != nil {
		var refused *RegistryError
		if errors.As(err, &refused) && refused.Status == http.StatusRequestedRangeNotSatisfiable {
			return fmt.Errorf("the registry has less of %s than its manifest says: %w", d.digest, err)
		}
		return err
	}
	defer resp.Body.Close()
	if err := d.checkAnswer(resp, ranged, from); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.save()) }()
	return d.copyPart(p, resp.Body)
}

// checkAnswer looks whether this is what was asked for.
func (d *download) checkAnswer(resp *http.Response, ranged bool, from int64) error {
	total := resp.ContentLength
	switch {
	case ranged && resp.StatusCode == http.StatusPartialContent:
		sent := resp.Header.Get("Content-Range")
		var first int64
		var ok bool
		if first, total, ok = parseRange(sent); !ok || first != from {
			return fmt.Errorf("the registry was asked for the bytes from %d of %s, but sends %.100q", from, d.digest, sent)
		}
	case resp.StatusCode != http.StatusOK:
		return refusal(resp)
	case total >= 0 && total != d.size:
	case ranged:
		return errNoRanges
	}
	if total >= 0 && total != d.size {
		return &SizeError{Digest: d.digest, Want: d.size, Got: total}
	}
	return nil
}

// parseRange reads "bytes FIRST-LAST/TOTAL"; a TOTAL of "*" is -1.
func parseRange(s string) (first, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, size, cut := strings.Cut(s, "/")
	from, to, dash := strings.Cut(span, "-")
	first, err := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	total, err3 := int64(-1), error(nil)
	if size != "*" {
		total, err3 = strconv.ParseInt(size, 10, 64)
	}
	ok = ok && cut && dash && errors.Join(err, err2, err3) == nil && first >= 0 && last >= first && (total == -1 && size == "*" || total > last)
	return first, total, ok
}

// copyPart reads the rest of a part. More than that is not looked at.
func (d *download) copyPart(p *part, body io.Reader) error {
	buf, saved := make([]byte, copyBuffer), p.done.Load()
	for done := saved; done < p.Size; {
		n, err := body.Read(buf[:min(int64(len(buf)), p.Size-done)])
		if n > 0 {
			if err := d.files.folder.step("download write"); err != nil {
				return err
			}
			if _, err := d.files.data.WriteAt(buf[:n], p.Offset+done); err != nil {
				return err
			}
			done = p.done.Add(int64(n))
			d.completed.Add(int64(n))
			select {
			case d.grown <- struct{}{}:
			default:
			}
		}
		switch {
		case done == p.Size:
			return nil
		case err == io.EOF:
			return &brokenError{io.ErrUnexpectedEOF}
		case err != nil:
			return err
		case done-saved > p.Size/saveEvery:
			if err := p.save(); err != nil {
				return err
			}
			saved = done
		}
	}
	return nil
}

// readWhole is one try to fetch the whole blob.
func (d *download) readWhole(ctx context.Context) error {
	resp, err := d.remote.do(ctx, d.blob(nil))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := d.checkAnswer(resp, false, 0); err != nil {
		return err
	}
	for _, p := range d.files.parts {
		if err := d.copyPart(p, resp.Body); err != nil {
			return err
		}
	}
	return nil
}

// settleTimes sets the times of the blobs that spare has put ahead.
func (s *Store) settleTimes(list []layer) {
	root, err := s.blobs.open()
	if err != nil {
		return
	}
	defer root.Close()
	now := s.now()
	for _, l := range list {
		if info, err := root.Lstat(l.Digest.file()); err == nil && info.ModTime().Sub(now) > time.Minute {
			_ = root.Chtimes(l.Digest.file(), now, now) // it may be another user's
		}
	}
}

// stale tells the files of downloads that have become blobs; a crash can leave them.
func stale(root *os.Root, name string) bool {
	blob, _, ok := strings.Cut(name, partialSuffix+"-")
	if !ok || !downloadFile.MatchString(name) {
		return false
	}
	_, noData := root.Lstat(blob + partialSuffix)
	_, err := root.Lstat(blob)
	return err == nil && isNotExist(noData)
}
