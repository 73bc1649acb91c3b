package modelstoretest

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Fault answers a request in the registry's place. It may let serve answer, which is
// the registry as it is without faults.
type Fault func(w http.ResponseWriter, req *http.Request, serve http.Handler)

type fault struct {
	method, path string
	left         int
	do           Fault
}

// Always is a number of times without end.
const Always = -1

// On makes the next requests of a method ("" for any) whose path contains a text meet
// with a fault, so many times. Of several faults the first ordered comes first.
func (r *Registry) On(method, path string, times int, do Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, &fault{method, path, times, do})
}

// Heal takes back all faults.
func (r *Registry) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

// faultFor returns the fault that a request meets with. r.mu is held.
func (r *Registry) faultFor(req *http.Request) Fault {
	for _, f := range r.faults {
		if f.left != 0 && (f.method == "" || f.method == req.Method) && strings.Contains(req.URL.Path, f.path) {
			if f.left > 0 {
				f.left--
			}
			return f.do
		}
	}
	return nil
}

// Status answers with a status, and header lines in pairs of name and value.
func Status(code int, header ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "as ordered")
	}
}

// Redirect sends the client to the same path below base.
func Redirect(code int, base string) Fault {
	return func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		w.Header().Set("Location", base+req.URL.RequestURI())
		w.WriteHeader(code)
	}
}

// CutAfter cuts the connection when so many bytes of the body are sent.
func CutAfter(n int) Fault {
	return func(w http.ResponseWriter, req *http.Request, serve http.Handler) {
		serve.ServeHTTP(&cutter{ResponseWriter: w, left: n}, req)
	}
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

// Sends sends other content than was asked for, also in parts.
func Sends(content []byte) Fault {
	return func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(content))
	}
}

// NoRanges sends whole files only.
func NoRanges() Fault {
	return func(w http.ResponseWriter, req *http.Request, serve http.Handler) {
		req.Header.Del("Range")
		serve.ServeHTTP(w, req)
	}
}

// Drip sends the body in pieces with pauses between them.
func Drip(piece int, every time.Duration) Fault {
	return func(w http.ResponseWriter, req *http.Request, serve http.Handler) {
		serve.ServeHTTP(&dripper{ResponseWriter: w, req: req, piece: piece, every: every}, req)
	}
}

type dripper struct {
	http.ResponseWriter
	req   *http.Request
	piece int
	every time.Duration
	begun bool
}

// Write pauses before each piece but the first: behind the last one the client may
// have sent its next request already.
func (d *dripper) Write(p []byte) (written int, err error) {
	for len(p) > 0 {
		if d.begun {
			select {
			case <-time.After(d.every):
			case <-d.req.Context().Done():
				return written, d.req.Context().Err()
			}
		}
		d.begun = true
		n, err := d.ResponseWriter.Write(p[:min(d.piece, len(p))])
		written += n
		if err != nil {
			return written, err
		}
		d.ResponseWriter.(http.Flusher).Flush()
		p = p[n:]
	}
	return written, nil
}

// Hold sends nothing until release is closed or the client leaves; reached, which may
// be nil, gets a value when a request is held.
func Hold(reached chan<- struct{}, release <-chan struct{}) Fault {
	return func(w http.ResponseWriter, req *http.Request, serve http.Handler) {
		// The server sees a client leave only once it has read the body.
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		if reached != nil {
			reached <- struct{}{}
		}
		select {
		case <-release:
			serve.ServeHTTP(w, req)
		case <-req.Context().Done():
		}
	}
}

// Claims sends what was asked for, but tells that the whole has another size.
func Claims(size int) Fault {
	return func(w http.ResponseWriter, req *http.Request, serve http.Handler) {
		serve.ServeHTTP(&claimer{w, size}, req)
	}
}

type claimer struct {
	http.ResponseWriter
	size int
}

func (c *claimer) WriteHeader(status int) {
	h := c.Header()
	if of, _, ok := strings.Cut(h.Get("Content-Range"), "/"); ok {
		h.Set("Content-Range", of+"/"+strconv.Itoa(c.size))
	} else {
		h.Set("Content-Length", strconv.Itoa(c.size))
	}
	c.ResponseWriter.WriteHeader(status)
}
