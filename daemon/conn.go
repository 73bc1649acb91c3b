package daemon

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// conn is a connection whose socket reads and writes must get on: a read or write
// that moves no byte for longer than limit fails, and net/http ends the connection.
//
// Three waits are not bounded by it. The wait for a request and for its header
// have deadlines that the server sets itself; those stand. And while an answer is
// made, net/http reads one byte ahead to learn that the client has left; that
// read lasts as long as the answer. It is known by its size: no other read of the
// server is that small.
type conn struct {
	net.Conn
	limit   time.Duration
	onClose func()
	once    sync.Once

	mu       sync.Mutex
	deadline time.Time // for reads, set by the server; zero: none
	rolling  bool      // the socket has a deadline of ours
}

// Read reads what is there, waiting no longer than the limit for the first byte.
func (c *conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	var err error
	switch {
	case !c.deadline.IsZero(): // the socket has it already
	case len(p) > 1:
		c.rolling = true
		err = c.Conn.SetReadDeadline(time.Now().Add(c.limit))
	case c.rolling:
		c.rolling = false
		err = c.Conn.SetReadDeadline(time.Time{})
	}
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		c.mu.Lock()
		stalled := c.rolling
		c.mu.Unlock()
		if stalled {
			c.Conn.Close() // or the server would try again to read what is left of the body
		}
	}
	return n, err
}

// writeChecks is how often within the limit a write that waits looks whether bytes
// have moved. The kernel tells only when a write returns.
const writeChecks = 4

// Write writes all of p. It goes on as long as some bytes move.
func (c *conn) Write(p []byte) (n int, err error) {
	for still := 0; still < writeChecks; {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(c.limit / writeChecks)); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(p[n:])
		if n += m; n == len(p) || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if still++; m > 0 {
			still = 0
		}
	}
	c.Conn.Close()
	return n, os.ErrDeadlineExceeded
}

// SetReadDeadline sets a deadline that stands in the limit's place; zero takes
// it away.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline, c.rolling = t, false
	return c.Conn.SetReadDeadline(t)
}

// CloseWrite ends the sending side, so that the client can read a last answer
// while what it still sends is thrown away.
func (c *conn) CloseWrite() error {
	if tcp, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return tcp.CloseWrite()
	}
	return nil
}

// Close closes the connection and gives its place back.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.onClose)
	return err
}
