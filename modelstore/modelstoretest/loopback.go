package modelstoretest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// Loopback is a registry on a port of the loopback address, until the test ends.
type Loopback struct {
	*Registry
	Host    string // "127.0.0.1:PORT"
	fetched atomic.Pointer[func(int)]
	server  *httptest.Server // ends with the test
}

// NewLoopback starts a registry.
func NewLoopback(t testing.TB) *Loopback {
	l := &Loopback{Registry: NewRegistry()}
	l.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if tell := l.fetched.Load(); tell != nil && strings.Contains(req.URL.Path, "/blobs/") {
			w = &meter{w, *tell}
		}
		l.ServeHTTP(w, req)
	}))
	l.Host = strings.TrimPrefix(l.server.URL, "http://")
	t.Cleanup(func() {
		l.server.CloseClientConnections()
		l.server.Close()
	})
	return l
}

// SetFetched has a function told how many bytes of blobs are sent; nil ends that.
func (l *Loopback) SetFetched(tell func(bytes int)) {
	if tell == nil {
		l.fetched.Store(nil)
		return
	}
	l.fetched.Store(&tell)
}

// AddWithSystem adds a model of these weights and this system text, and returns the
// name to pull it by and what the pull makes.
func (l *Loopback) AddWithSystem(name string, weights []byte, system string) (string, Found) {
	m := l.AddModel("library/"+name, weights)
	m.Layers = append(m.Layers, Layer{"application/vnd.ollama.image.system", l.AddBlob([]byte(system)), int64(len(system))})
	l.SetManifest("library/"+name, m)
	return l.Host + "/library/" + name, Found{System: system, Weights: DigestOf(weights)}
}

// meter tells what is written, in pieces in which a connection may end.
type meter struct {
	http.ResponseWriter
	tell func(int)
}

func (m *meter) Write(p []byte) (written int, err error) {
	for len(p) > 0 {
		n, err := m.ResponseWriter.Write(p[:min(len(p), 16<<10)])
		m.tell(n)
		if written += n; err != nil {
			return written, err
		}
		p = p[n:]
	}
	return written, nil
}
