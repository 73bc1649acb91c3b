package modelstoretest

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
)

// Network is hosts that are reached without sockets, in plain HTTP also where a
// client means to speak TLS.
type Network struct {
	t     testing.TB
	mu    sync.Mutex
	hosts map[string]*pipes
}

type onNetwork struct{}

// NewNetwork returns a network of hosts ("name" or "name:port") that ends with the
// test.
func NewNetwork(t testing.TB, hosts map[string]http.Handler) *Network {
	n := &Network{t: t, hosts: map[string]*pipes{}}
	for host, h := range hosts {
		p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		n.hosts[host] = p
		server := &http.Server{
			Handler:     h,
			ErrorLog:    log.New(io.Discard, "", 0), // cut connections are ordered
			BaseContext: func(net.Listener) context.Context { return context.WithValue(context.Background(), onNetwork{}, true) },
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = server.Serve(p) // it ends with the listener
		}()
		t.Cleanup(func() {
			server.Close()
			<-ended
		})
	}
	return n
}

// Transport returns a transport that reaches the hosts, and nothing else.
func (n *Network) Transport() *http.Transport {
	t := &http.Transport{
		DialContext:         n.dial,
		DialTLSContext:      n.dial,
		MaxIdleConnsPerHost: 16,
		DisableCompression:  true,
	}
	n.t.Cleanup(t.CloseIdleConnections)
	return t
}

func (n *Network) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	p := n.hosts[addr]
	if p == nil && (port == "80" || port == "443") {
		p = n.hosts[host]
	}
	n.mu.Unlock()
	if p == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}}
	}
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// pipes is a listener whose connections are pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}
