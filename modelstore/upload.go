package modelstore

import (
	"cmp"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Sizes of the parts of an upload, as Ollama cuts them.
const (
	uploadParts   = 16
	minUploadPart = 100_000_000
	maxUploadPart = 1_000_000_000
)

// blobUpload is one blob on its way to a registry.
//
// The registry tells where the first part goes, and with each answer where the next
// one does. If it answers with a redirect, the part goes there, beside the others.
//
// When the upload breaks off, the registry is asked how much it has. Where it does not
// tell, the upload begins anew: most registries keep what came of a broken part, and put
// the next bytes behind.
type blobUpload struct {
	remote *remote
	layer  layer
	file   io.ReaderAt
	size   int64
	sent   atomic.Int64

	// of the goroutine that run starts
	parts []*span
	next  *url.URL // where the upload goes on; nil: only from its beginning
	have  int64    // bytes that the registry is known to have, of the upload at next
	most  int64    // that it had of any
	idle  int      // attempts in a row without headway
}

// maxIdle is after how many attempts without headway an upload is given up for a new
// one: a registry may have lost it, and not know.
const maxIdle = 4

// run sends the blob and tells how far it is.
func (u *blobUpload) run(ctx context.Context, tell func(done int64)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- u.remote.retry(ctx, func() (bool, error) { return u.attempt(ctx) }) }()
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-ticker.C:
			tell(u.sent.Load())
		}
	}
}

// span is a part of the blob, and its MD5, which the registry's store checks. A part
// that came in pieces has none.
type span struct {
	at, size int64
	sum      [md5.Size]byte
	summed   bool
}

// spans divides the blob.
func spans(size, least int64) (list []*span) {
	step := min(max(size/uploadParts, least), maxUploadPart)
	for at := int64(0); at < size; at += step {
		list = append(list, &span{at: at, size: min(step, size-at)})
	}
	return list
}

// attempt goes on with an upload that broke off, or begins one. It has moved when the
// registry has more than ever before.
func (u *blobUpload) attempt(ctx context.Context) (moved bool, err error) {
	before := u.most
	resumed, err := u.resume(ctx)
	if err == nil && !resumed {
		err = u.restart(ctx)
	}
	if err == nil && u.next != nil {
		if err = u.send(ctx); err != nil && resumed && !u.remote.temporary(err) && ctx.Err() == nil {
			// What the registry told of itself was wrong.
			slog.Debug("an upload can't be gone on with, it begins anew", "digest", u.layer.Digest, "error", err)
			if err = u.restart(ctx); err == nil && u.next != nil {
				err = u.send(ctx)
			}
		}
	}
	if moved = u.most > before; moved {
		u.idle = 0
	} else if u.idle++; u.idle == maxIdle {
		u.next = nil
	}
	return moved, err
}

// restart begins the upload. next is nil if the registry has the blob after all.
func (u *blobUpload) restart(ctx context.Context) (err error) {
	u.parts = spans(u.size, cmp.Or(u.remote.registry.leastPart, minUploadPart))
	u.sent.Store(0)
	u.have = 0
	u.next, err = u.begin(ctx)
	return err
}

// resume asks the registry how much it has of an upload that broke off. An error says
// that it is to be asked again.
func (u *blobUpload) resume(ctx context.Context) (ok bool, err error) {
	if u.next == nil {
		return false, nil
	}
	resp, err := u.remote.do(ctx, call{method: http.MethodGet, url: u.next, upload: true})
	if err != nil {
		if ctx.Err() != nil || u.remote.temporary(err) {
			return false, err
		}
		return false, nil
	}
	defer resp.Body.Close()
	have, ok := uploaded(resp)
	if !ok || have < u.have || have > u.size {
		return false, nil
	}
	if resp.Header.Get("Location") != "" {
		if u.next, err = location(resp); err != nil {
			return false, nil
		}
	}
	u.got(have)
	u.sent.Store(have)
	return true, nil
}

// got notes how much the registry has.
func (u *blobUpload) got(have int64) {
	u.have = have
	u.most = max(u.most, have)
}

// uploaded reads how much a registry has of an upload, from "0-LAST". A first byte alone
// is told as nothing is.
func uploaded(resp *http.Response) (have int64, ok bool) {
	last, ok := strings.CutPrefix(strings.TrimPrefix(resp.Header.Get("Range"), "bytes="), "0-")
	n, err := strconv.ParseInt(last, 10, 64)
	return n + 1, ok && err == nil && n > 0 && n < maxBlob && resp.StatusCode < 300
}

// send sends what the registry has not, and has it make a blob of all.
func (u *blobUpload) send(ctx context.Context) (err error) {
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(u.remote.registry.streams())
	next := u.next
	for _, p := range u.parts {
		if p.at+p.size <= u.have {
			continue
		}
		var target *url.URL
		if next, target, err = u.patch(inner, next, p, max(u.have, p.at)); err != nil {
			break
		}
		if target != nil {
			u.next = nil // nobody tells which of the parts are there
			g.Go(func() error { return u.putPart(inner, target, p) })
		} else if u.next != nil {
			u.next = next
			u.got(p.at + p.size)
		}
	}
	if e := g.Wait(); e != nil { // it is why the context of the others ended
		err = e
	}
	if err != nil {
		return err
	}
	return u.finish(ctx, next, u.parts)
}

// begin returns where the first part goes, nil if the registry has the blob after all.
func (u *blobUpload) begin(ctx context.Context) (*url.URL, error) {
	to := u.remote.base.JoinPath("v2", u.remote.repo, "blobs", "uploads/")
	// Ollama writes there also the path of a file.
	if from, err := ParseName(u.layer.From); err == nil && !strings.HasPrefix(u.layer.From, "/") {
		to.RawQuery = url.Values{"mount": {u.layer.Digest.String()}, "from": {from.DisplayNamespaceModel()}}.Encode()
	}
	resp, err := u.remote.do(ctx, call{method: http.MethodPost, url: to, upload: true})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated: // mounted from another repository
		return nil, nil
	case http.StatusAccepted:
		return location(resp)
	}
	return nil, refusal(resp)
}

// location is where an upload goes on.
func location(resp *http.Response) (*url.URL, error) {
	to := resp.Header.Get("Docker-Upload-Location")
	if to == "" {
		to = resp.Header.Get("Location")
	}
	if to == "" {
		return nil, errors.New("the registry does not tell where the upload goes on")
	}
	u, err := resp.Request.URL.Parse(to)
	if err != nil {
		return nil, fmt.Errorf("the registry tells no address where the upload goes on: %w", err)
	}
	return u, nil
}

// patch sends a part, from a byte of the blob on. It returns where the next one goes,
// and where this one has to be sent if the registry did not take it.
func (u *blobUpload) patch(ctx context.Context, to *url.URL, p *span, from int64) (next, target *url.URL, err error) {
	body := u.part(p)
	body.from = from - p.at
	resp, err := u.remote.do(ctx, call{
		method: http.MethodPatch, url: to, upload: true, body: body.open, length: p.size - body.from, wait: answerTime,
		header: http.Header{
			"Content-Type":       {"application/octet-stream"},
			"Content-Range":      {fmt.Sprintf("%d-%d", from, p.at+p.size-1)},
			"X-Redirect-Uploads": {"1"},
		},
	})
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if next, err = location(resp); err != nil {
		return nil, nil, err
	}
	switch {
	case resp.StatusCode == http.StatusTemporaryRedirect:
		body.takeBack()
		target, err = resp.Location()
		return next, target, err
	case resp.StatusCode >= 300:
		return nil, nil, refusal(resp)
	}
	return next, nil, body.sum()
}

// putPart sends a part to where the registry wants it.
func (u *blobUpload) putPart(ctx context.Context, to *url.URL, p *span) error {
	body := u.part(p)
	return u.remote.retry(ctx, func() (bool, error) {
		resp, err := u.remote.do(ctx, call{
			method: http.MethodPut, url: to, upload: true, body: body.open, length: p.size, wait: answerTime,
			header: http.Header{"Content-Type": {"application/octet-stream"}},
		})
		if err != nil {
			body.takeBack()
			return false, err
		}
		defer resp.Body.Close()
		if resp.StatusCode >= 300 {
			body.takeBack()
			return false, refusal(resp)
		}
		return false, body.sum()
	})
}

// finish has the registry make a blob of the parts.
func (u *blobUpload) finish(ctx context.Context, to *url.URL, parts []*span) error {
	sums := md5.New()
	for _, p := range parts {
		sums.Write(p.sum[:])
	}
	last := *to
	query := last.Query()
	query.Set("digest", u.layer.Digest.String())
	if !slices.ContainsFunc(parts, func(p *span) bool { return !p.summed }) {
		query.Set("etag", fmt.Sprintf("%x-%d", sums.Sum(nil), len(parts)))
	}
	last.RawQuery = query.Encode()
	resp, err := u.remote.do(ctx, call{
		method: http.MethodPut, url: &last, upload: true, wait: answerTime,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return refusal(resp)
	}
	return nil
}

// partBody is what is sent of a part. It may be opened several times, one after the
// other.
type partBody struct {
	upload *blobUpload
	span   *span
	from   int64 // bytes of the part that the registry has already
	read   *partReader
}

func (u *blobUpload) part(p *span) *partBody { return &partBody{upload: u, span: p} }

func (b *partBody) open() io.Reader {
	b.takeBack()
	b.read = &partReader{body: b, hash: md5.New(), r: io.NewSectionReader(b.upload.file, b.span.at+b.from, b.span.size-b.from)}
	return b.read
}

// takeBack forgets what was counted as sent.
func (b *partBody) takeBack() {
	if b.read != nil {
		b.upload.sent.Add(-b.read.sent.Swap(0))
	}
}

// sum notes the MD5 of what was sent.
func (b *partBody) sum() error {
	if b.read == nil || b.read.sent.Load() != b.span.size-b.from {
		return errors.New("the registry took a part of a file before all of it was sent")
	}
	if b.from == 0 {
		b.span.sum, b.span.summed = [md5.Size]byte(b.read.hash.Sum(nil)), true
	}
	return nil
}

// partReader hashes and counts what is read. After an early answer the transport may
// still read: only when all is counted the hash is at rest.
type partReader struct {
	body *partBody
	r    io.Reader
	hash hash.Hash
	sent atomic.Int64
}

func (p *partReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if n > 0 {
		p.hash.Write(b[:n])
		p.sent.Add(int64(n))
		p.body.upload.sent.Add(int64(n))
	}
	return n, err
}
