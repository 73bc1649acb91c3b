package modelstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Registry says how registries are spoken to. The zero Registry reaches none.
type Registry struct {
	Transport http.RoundTripper // nil: there is no network
	UserAgent string

	// Sign signs what proves to a registry who we are; auth.Sign of Ollama does.
	Sign func(ctx context.Context, data []byte) (string, error)

	Streams int // requests for one blob at a time; 16

	leastPart int64 // bytes; tests make it small
}

// WithRegistry lets the store pull and push.
func WithRegistry(r Registry) Option { return func(s *Store) { s.registry = r } }

const defaultStreams = 16

// streams is how many parts of a blob are on their way at a time.
func (r *Registry) streams() int {
	if r.Streams > 0 {
		return r.Streams
	}
	return defaultStreams
}

// NewTransport returns the transport for registries: through the proxies of the
// environment, with a connection for each of the streams. HTTP/2 would put all on one.
func NewTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.MaxIdleConnsPerHost = defaultStreams
	t.DisableCompression = true
	return t
}

const (
	maxRedirects = 10
	// stallTime is how long a request may stand still. Ollama waits as long.
	stallTime = 30 * time.Second
	// answerTime is how long a registry may think about what it was sent: some read
	// the whole blob again.
	answerTime = 10 * time.Minute
	// maxErrorText bounds what is told of a registry's own words.
	maxErrorText = 4 << 10
)

var (
	errNoNetwork = errors.New("this store has no access to registries")
	errStalled   = errors.New("the registry sent nothing for 30 seconds")
	errRedirects = fmt.Errorf("maximum redirects exceeded (%d)", maxRedirects)

	// errUnauthorized has Ollama's text, which clients look for.
	errUnauthorized = errors.New("unauthorized: access denied")
)

// RegistryError is a registry's refusal. Its text is Ollama's: the status and what
// the registry says. That of a 404 matches fs.ErrNotExist.
type RegistryError struct {
	Status     int
	Text       string        // of the answer, cut
	RetryAfter time.Duration // what the registry asked for; 0 if it did not
}

func (e *RegistryError) Error() string {
	switch {
	case e.Status == http.StatusNotFound:
		return "file does not exist"
	case e.Text == "":
		return fmt.Sprintf("%d: %s", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("%d: %s", e.Status, e.Text)
}

// Is makes a 404 match fs.ErrNotExist.
func (e *RegistryError) Is(target error) bool {
	return e.Status == http.StatusNotFound && target == errNotExist
}

// remote is a repository of a registry during one pull or push.
type remote struct {
	registry *Registry
	base     *url.URL // scheme and host
	repo     string   // namespace/model
	client   http.Client
	uploads  http.Client // does not follow redirects
	token    token
	answered atomic.Bool // the registry has answered once
}

// remote returns the repository of a name. Insecure registries are spoken to in
// plain HTTP, as Ollama does it.
func (s *Store) remote(n Name, insecure bool) (*remote, error) {
	if s.registry.Transport == nil {
		return nil, errNoNetwork
	}
	r := &remote{
		registry: &s.registry,
		base:     &url.URL{Scheme: "https", Host: n.Host},
		repo:     n.DisplayNamespaceModel(),
		token:    newToken(),
	}
	if insecure {
		r.base.Scheme = "http"
	}
	r.client = http.Client{Transport: s.registry.Transport, CheckRedirect: checkRedirect}
	r.uploads = http.Client{
		Transport:     s.registry.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return r, nil
}

// checkRedirect follows redirects, but takes no token to another host.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errRedirects
	}
	if req.URL.Host != via[0].URL.Host {
		req.Header.Del("Authorization")
	}
	return nil
}

// url returns an address below the repository.
func (r *remote) url(parts ...string) *url.URL {
	return r.base.JoinPath(append([]string{"v2", r.repo}, parts...)...)
}

// call is a request that can be sent more than once.
type call struct {
	method string
	url    *url.URL
	header http.Header
	body   func() io.Reader // nil: none
	length int64            // of the body
	upload bool             // redirects are the caller's
	wait   time.Duration    // for the answer to begin; stallTime
}

// do sends a request, with a new token if the registry wants one. It returns answers
// with a status below 400; the others are a *RegistryError or errUnauthorized.
func (r *remote) do(ctx context.Context, c call) (*http.Response, error) {
	for try := 0; ; try++ {
		token := r.token.get()
		resp, err := r.send(ctx, c, token)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode < 400 {
			return resp, nil
		}
		err = refusal(resp)
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized || resp.Request.URL.Host != r.base.Host {
			return nil, err
		}
		if try > 0 {
			return nil, errUnauthorized
		}
		if err := r.authorize(ctx, resp.Header.Values("WWW-Authenticate"), token); err != nil {
			return nil, err
		}
	}
}

// send sends a request once. The answer's body must be closed.
func (r *remote) send(ctx context.Context, c call, token string) (*http.Response, error) {
	dog, watched := newWatchdog(ctx, max(c.wait, stallTime))
	var body io.Reader
	if c.body != nil {
		body = &watchedReader{c.body(), dog}
	}
	req, err := http.NewRequestWithContext(watched, c.method, c.url.String(), body)
	if err != nil {
		dog.stop()
		return nil, err
	}
	if c.header != nil {
		req.Header = c.header.Clone()
	}
	if c.body != nil { // for a redirect
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(&watchedReader{c.body(), dog}), nil }
	}
	req.ContentLength = c.length
	req.Header.Set("User-Agent", r.registry.UserAgent)
	if token != "" && c.url.Host == r.base.Host {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &r.client
	if c.upload {
		client = &r.uploads
	}
	resp, err := client.Do(req)
	if err != nil {
		dog.stop()
		return nil, dog.cause(err)
	}
	r.answered.Store(true)
	dog.limit.Store(int64(stallTime))
	dog.moved()
	resp.Body = &watchedBody{resp.Body, dog}
	return resp, nil
}

// refusal reads why a registry refuses.
func refusal(resp *http.Response) error {
	// What can't be read is not told.
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
	e := &RegistryError{Status: resp.StatusCode, Text: printable(string(text))}
	after := resp.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(after); err == nil && seconds > 0 {
		e.RetryAfter = min(time.Duration(seconds), 1<<20) * time.Second
	} else if at, err := http.ParseTime(after); err == nil {
		e.RetryAfter = max(time.Until(at), 0)
	}
	return e
}

// printable leaves out what a terminal could obey.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "�")))
}
