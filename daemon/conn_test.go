package daemon

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// serveLimited serves a handler behind the daemon's limits, with the daemon's
// times, on pipes.
func serveLimited(t *testing.T, handler http.HandlerFunc) *pipes {
	t.Helper()
	p := newPipes()
	l := limited(p, 100, time.Minute)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, IdleTimeout: 10 * time.Minute, MaxHeaderBytes: maxHeader}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Serve(l)
	}()
	t.Cleanup(func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		<-ended
		if n := l.open(); n != 0 {
			t.Errorf("%d places of connections were not given back", n)
		}
	})
	return p
}

func dialPipe(t *testing.T, p *pipes) net.Conn {
	t.Helper()
	c, err := p.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// untilClosed reads until the server closes and returns how long that took.
func untilClosed(c net.Conn) (time.Duration, string) {
	start := time.Now()
	text, _ := io.ReadAll(c)
	return time.Since(start), string(text)
}

func TestStalledHeaderEndsTheConnectionAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serveLimited(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "fine") })
		slow := dialPipe(t, p)
		fmt.Fprint(slow, "GET / HTTP/1.1\r\nHost: lo")
		dripped := make(chan struct{})
		go func() { // a byte now and then does not keep it open
			defer close(dripped)
			for range 10 {
				time.Sleep(20 * time.Second)
				if _, err := slow.Write([]byte("c")); err != nil {
					return
				}
			}
		}()
		other := p.client(t)
		if took, _ := untilClosed(slow); took != time.Minute {
			t.Errorf("the connection was closed after %s", took)
		}
		if res, err := other.Get("http://localhost/"); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("another client got %v, %v", res, err)
		} else {
			res.Body.Close()
		}
		<-dripped
	})
}

func TestStalledBodyEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		result := make(chan error, 1)
		p := serveLimited(t, func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			result <- err
		})
		c := dialPipe(t, p)
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
		took, _ := untilClosed(c)
		if took < time.Minute || took > 61*time.Second {
			t.Errorf("the connection was closed after %s", took)
		}
		if err := <-result; err == nil {
			t.Error("the handler read a whole body")
		}
	})
}

func TestStalledBodyThatNobodyReadsEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serveLimited(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) })
		c := dialPipe(t, p)
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
		if took, _ := untilClosed(c); took > 61*time.Second {
			t.Errorf("the connection was closed after %s", took)
		}
	})
}

func TestSlowBodyThatGetsOnIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serveLimited(t, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%d %v", len(body), err)
		})
		c := dialPipe(t, p)
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\nConnection: close\r\n\r\n")
		for range 20 {
			time.Sleep(59 * time.Second)
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		if _, text := untilClosed(c); !strings.HasSuffix(text, "\r\n\r\n20 <nil>") {
			t.Errorf("answer: %q", text)
		}
	})
}

func TestClientThatStopsReadingIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type end struct {
			after time.Duration
			err   error
			gone  error
		}
		result := make(chan end, 1)
		p := serveLimited(t, func(w http.ResponseWriter, r *http.Request) {
			start := time.Now()
			for {
				if _, err := w.Write(make([]byte, 100_000)); err != nil {
					<-r.Context().Done()
					result <- end{time.Since(start), err, r.Context().Err()}
					return
				}
			}
		})
		c := dialPipe(t, p)
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := io.ReadFull(c, make([]byte, 50_000)); err != nil {
			t.Fatal(err)
		}
		if e := <-result; e.after < time.Minute || e.after > 75*time.Second {
			t.Errorf("the answer ended after %s with %v", e.after, e.err)
		}
	})
}

func TestClientThatReadsSlowlyIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 40_000
		p := serveLimited(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, size)) })
		c := dialPipe(t, p)
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		read, buf := 0, make([]byte, 1000)
		for {
			time.Sleep(50 * time.Second)
			n, err := c.Read(buf)
			read += n
			if err != nil {
				break
			}
		}
		if read < size {
			t.Errorf("%d bytes of %d came", read, size)
		}
	})
}

func TestLongAnswerWithoutTrafficLives(t *testing.T) {
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody",
		"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			p := serveLimited(t, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				for range 3 { // as a stream that waits for tokens
					select {
					case <-time.After(time.Hour):
					case <-r.Context().Done():
						t.Error("the request was cancelled while its answer was made")
						return
					}
					io.WriteString(w, "line\n")
					w.(http.Flusher).Flush()
				}
			})
			c := dialPipe(t, p)
			fmt.Fprint(c, request)
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(res.Body); err != nil || string(body) != "line\nline\nline\n" {
				t.Errorf("%q, %v", body, err)
			}
		})
	}
}

func TestClientThatLeavesCancelsItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := make(chan time.Duration, 1)
		p := serveLimited(t, func(_ http.ResponseWriter, r *http.Request) {
			start := time.Now()
			<-r.Context().Done()
			left <- time.Since(start)
		})
		c := dialPipe(t, p)
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		time.Sleep(2 * time.Hour)
		c.Close()
		if d := <-left; d != 2*time.Hour {
			t.Errorf("noticed after %s", d)
		}
	})
}

func TestConnectionBetweenRequestsMayIdleLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serveLimited(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, "fine")
		})
		c := dialPipe(t, p)
		reader := bufio.NewReader(c)
		for range 3 {
			fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody")
			res, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			time.Sleep(9 * time.Minute)
		}
		if took, _ := untilClosed(c); took != time.Minute {
			t.Errorf("an idle connection was closed %s after its tenth minute began", took)
		}
	})
}

func TestHeaderIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := serveLimited(t, func(http.ResponseWriter, *http.Request) {})
		c := dialPipe(t, p)
		go fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: localhost\r\nX: %s\r\n\r\n", strings.Repeat("x", 2*maxHeader))
		if _, text := untilClosed(c); !strings.HasPrefix(text, "HTTP/1.1 431 ") {
			t.Errorf("answer: %.60q", text)
		}
	})
}
