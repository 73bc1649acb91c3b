package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxRefusals is how many connections are refused at a time. Those that come
	// then wait in the kernel's backlog.
	maxRefusals = 64
	// refusalTime is how long a client that is refused may take for its request, and
	// then for reading the answer.
	refusalTime = time.Second
	// refusalBytes is how much a client may send that is being refused.
	refusalBytes = 1 << 20

	textTooManyConnections = "server busy, please try again.  maximum connections exceeded"
)

// listener accepts at most max connections at a time. The others get a 503.
type listener struct {
	net.Listener
	max   int
	limit time.Duration // of a read or write, see conn

	mu      sync.Mutex
	conns   map[*conn]struct{}
	closed  chan struct{}
	closing sync.Once

	refusals chan struct{} // a place for each refusal in progress
	refusing sync.WaitGroup
	refused  atomic.Int64
}

// listen opens a port. The backlog is as long as the system allows: package net asks
// for that much.
func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use, perhaps by Ollama or another cllm: stop that one, or set OLLAMA_HOST to another address", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is not an address of this machine: set OLLAMA_HOST to one, or to 0.0.0.0 for all", address)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("the system does not allow listening on %s: set OLLAMA_HOST to a port of 1024 or more", address)
	case err != nil:
		return nil, fmt.Errorf("can't listen on %s, check OLLAMA_HOST: %w", address, err)
	}
	return l, nil
}

// limited bounds the connections of a listener.
func limited(l net.Listener, max int, limit time.Duration) *listener {
	return &listener{
		Listener: l,
		max:      max,
		limit:    limit,
		conns:    make(map[*conn]struct{}),
		closed:   make(chan struct{}),
		refusals: make(chan struct{}, maxRefusals),
	}
}

// Accept returns the next connection that there is a place for.
func (l *listener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.admit(inner); c != nil {
			return c, nil
		}
		select {
		case l.refusals <- struct{}{}:
			l.refusing.Go(func() {
				defer func() { <-l.refusals }()
				l.refuse(inner)
			})
		case <-l.closed:
			inner.Close()
			return nil, net.ErrClosed
		}
	}
}

// admit gives a connection a place, or returns nil.
func (l *listener) admit(inner net.Conn) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) >= l.max {
		return nil
	}
	c := &conn{Conn: inner, limit: l.limit}
	c.onClose = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, c)
	}
	l.conns[c] = struct{}{}
	return c
}

// open is the number of connections.
func (l *listener) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// refuse answers a connection's first request with a 503. It waits for that
// request, because clients take an answer that comes earlier for a broken one, and
// it reads on for a while after the answer, because closing a socket that holds
// unread bytes would reset the connection before the client has read.
func (l *listener) refuse(c net.Conn) {
	defer c.Close()
	l.refused.Add(1)
	stop := make(chan struct{})
	defer close(stop)
	go func() { // a daemon that stops does not wait for slow clients
		select {
		case <-l.closed:
			c.Close()
		case <-stop:
		}
	}()
	if err := c.SetReadDeadline(time.Now().Add(refusalTime)); err != nil {
		return
	}
	head := readHead(c)
	if len(head) == 0 {
		return
	}
	if err := c.SetDeadline(time.Now().Add(refusalTime)); err != nil {
		return
	}
	if _, err := c.Write(refusal(bytes.HasPrefix(head, []byte("HEAD ")))); err != nil {
		return
	}
	if tcp, ok := c.(interface{ CloseWrite() error }); ok && tcp.CloseWrite() == nil {
		io.CopyN(io.Discard, c, refusalBytes)
	}
}

// readHead reads a request up to the end of its header, or as far as it comes.
func readHead(r io.Reader) []byte {
	var head []byte
	buf := make([]byte, 4096)
	for len(head) < maxHeader {
		n, err := r.Read(buf)
		head = append(head, buf[:n]...)
		if err != nil || bytes.Contains(head[max(len(head)-n-3, 0):], []byte("\r\n\r\n")) {
			break
		}
	}
	return head
}

// refusal is the answer of a server without a free place.
func refusal(head bool) []byte {
	body := fmt.Sprintf(`{"error":%q}`, textTooManyConnections)
	text := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\nRetry-After: %s\r\nConnection: close\r\n\r\n",
		http.StatusServiceUnavailable, http.StatusText(http.StatusServiceUnavailable), len(body), retryAfter)
	if !head {
		text += body
	}
	return []byte(text)
}

// Close stops accepting. Connections that were accepted stay.
func (l *listener) Close() error {
	l.closing.Do(func() { close(l.closed) })
	err := l.Listener.Close()
	l.refusing.Wait()
	return err
}

// cut closes all connections.
func (l *listener) cut() {
	l.mu.Lock()
	var open []*conn
	for c := range l.conns {
		open = append(open, c)
	}
	l.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}
