package modelstore

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
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
type blobUpload struct {
	remote *remote
	layer  layer
	file   io.ReaderAt
	size   int64
	sent   atomic.Int64
}

// run sends the blob and tells how far it is.
func (u *blobUpload) run(ctx context.Context, tell func(done int64)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- u.remote.retry(ctx, func() (bool, error) { return false, u.attempt(ctx) }) }()
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

// span is a part of the blob, and its MD5, which the registry's store checks.
type span struct {
	at, size int64
	sum      [md5.Size]byte
}

// spans divides the blob.
func spans(size int64) (list []*span) {
	step := min(max(size/uploadParts, minUploadPart), maxUploadPart)
	for at := int64(0); at < size; at += step {
		list = append(list, &span{at: at, size: min(step, size-at)})
	}
	return list
}

// attempt is one upload from its beginning. A part that broke off can't be sent again:
// most registries keep what came of it, and put the next bytes behind.
func (u *blobUpload) attempt(ctx context.Context) error {
	u.sent.Store(0)
	next, err := u.begin(ctx)
	if next == nil || err != nil {
		return err
	}
	parts := spans(u.size)
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(u.remote.registry.streams())
	for _, p := range parts {
		var target *url.URL
		if next, target, err = u.patch(inner, next, p); err != nil {
			break
		}
		if target != nil {
			g.Go(func() error { return u.putPart(inner, target, p) })
		}
	}
	if e := g.Wait(); e != nil { // it is why the context of the others ended
		err = e
	}
	if err != nil {
		return err
	}
	return u.finish(ctx, next, parts)
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

// patch sends a part. It returns where the next one goes, and where this one has to be
// sent if the registry did not take it.
func (u *blobUpload) patch(ctx context.Context, to *url.URL, p *span) (next, target *url.URL, err error) {
	body := u.part(p)
	resp, err := u.remote.do(ctx, call{
		method: http.MethodPatch, url: to, upload: true, body: body.open, length: p.size, wait: answerTime,
		header: http.Header{
			"Content-Type":       {"application/octet-stream"},
			"Content-Range":      {fmt.Sprintf("%d-%d", p.at, p.at+p.size-1)},
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
	query.Set("etag", fmt.Sprintf("%x-%d", sums.Sum(nil), len(parts)))
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
	read   *partReader
}

func (u *blobUpload) part(p *span) *partBody { return &partBody{upload: u, span: p} }

func (b *partBody) open() io.Reader {
	b.takeBack()
	b.read = &partReader{body: b, hash: md5.New(), r: io.NewSectionReader(b.upload.file, b.span.at, b.span.size)}
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
	if b.read == nil || b.read.sent.Load() != b.span.size {
		return errors.New("the registry took a part of a file before all of it was sent")
	}
	b.span.sum = [md5.Size]byte(b.read.hash.Sum(nil))
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
