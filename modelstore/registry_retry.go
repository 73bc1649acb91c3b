package modelstore

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// errNotExist is what a 404 is.
var errNotExist = fs.ErrNotExist

const (
	// maxTries is how often in a row something may fail that made no headway.
	maxTries = 6
	// maxWait bounds the pause that a registry asks for.
	maxWait = 2 * time.Minute
)

// retry calls try until it succeeds, fails for good, or fails too often in a row
// without having moved. Pauses are doubled.
func (r *remote) retry(ctx context.Context, try func() (moved bool, err error)) error {
	for failed := 0; ; {
		moved, err := try()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !r.temporary(err):
			return err
		case moved:
			failed = 0
		}
		if failed++; failed >= maxTries {
			return fmt.Errorf("max retries exceeded: %w", err)
		}
		if err := pause(ctx, delay(failed, err)); err != nil {
			return err
		}
	}
}

// delay is the pause after so many failures: a second, two, four, ..., or what the
// registry asks for. By chance it is a little shorter or longer, so that clients who
// failed together don't come back together.
func delay(failed int, err error) time.Duration {
	var refused *RegistryError
	if errors.As(err, &refused) && refused.RetryAfter > 0 {
		return min(refused.RetryAfter, maxWait)
	}
	return time.Duration((0.75 + rand.Float64()/2) * float64(time.Second<<(failed-1)))
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// brokenError is an answer that broke off.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return "the connection broke: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// temporary reports whether trying again may help.
func (r *remote) temporary(err error) bool {
	var (
		refused *RegistryError
		broken  *brokenError
		failed  *url.Error
		dial    *net.OpError
		badCert x509.UnknownAuthorityError
		badHost x509.HostnameError
		expired x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &refused):
		return refused.Status >= 500 || refused.Status == http.StatusTooManyRequests || refused.Status == http.StatusRequestTimeout
	case errors.Is(err, errStalled), errors.As(err, &broken):
		return true
	case !errors.As(err, &failed), errors.Is(err, errRedirects), errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &badCert), errors.As(err, &badHost), errors.As(err, &expired), strings.Contains(err.Error(), plainHTTP):
		return false
	case errors.As(err, &dial) && (dial.Op == "dial" || dial.Op == "proxyconnect"):
		// Whoever mistyped a host, or a proxy, need not wait; one that has answered may come back.
		return r.answered.Load()
	}
	return true
}

// plainHTTP is what net/http says of a registry that speaks no TLS.
const plainHTTP = "server gave HTTP response to HTTPS client"

// watchdog ends a request on which nothing moves.
type watchdog struct {
	timer  *time.Timer
	limit  atomic.Int64 // a time.Duration
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func newWatchdog(ctx context.Context, limit time.Duration) (*watchdog, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	d := &watchdog{ctx: ctx, cancel: cancel}
	d.limit.Store(int64(limit))
	d.timer = time.AfterFunc(limit, func() { cancel(errStalled) })
	return d, ctx
}

func (d *watchdog) moved() { d.timer.Reset(time.Duration(d.limit.Load())) }

func (d *watchdog) stop() {
	d.timer.Stop()
	d.cancel(nil)
}

// cause is errStalled if that is why err came.
func (d *watchdog) cause(err error) error {
	if errors.Is(context.Cause(d.ctx), errStalled) {
		return errStalled
	}
	return err
}

// watchedBody is the body of an answer.
type watchedBody struct {
	body io.ReadCloser
	dog  *watchdog
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if n > 0 {
		b.dog.moved()
	}
	if err != nil && err != io.EOF {
		err = b.dog.cause(&brokenError{err})
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.body.Close()
	b.dog.stop()
	return err
}

// watchedReader is the body of a request. When all is sent the registry has time to
// think.
type watchedReader struct {
	r   io.Reader
	dog *watchdog
}

func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err == io.EOF {
		w.dog.limit.Store(int64(answerTime))
	}
	w.dog.moved()
	return n, err
}
