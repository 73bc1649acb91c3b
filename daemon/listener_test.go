package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// listenLimited serves "fine" on a real socket with room for max connections.
func listenLimited(t *testing.T, max int) (*listener, string) {
	t.Helper()
	inner, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limited(inner, max, time.Minute)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "fine") })}
	go server.Serve(l)
	t.Cleanup(func() {
		l.cut()
		server.Shutdown(context.Background())
	})
	return l, l.Addr().String()
}

func dialTCP(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends a request on a connection and returns the answer with its body.
func exchange(t *testing.T, c net.Conn, text string) (*http.Response, string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(text, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

const plainGet = "GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"

func TestThe1025thConnectionGetsA503(t *testing.T) {
	l, address := listenLimited(t, 1024)
	conns := make([]net.Conn, 1024)
	for i := range conns {
		conns[i] = dialTCP(t, address)
	}
	for range 3 {
		res, body := exchange(t, dialTCP(t, address), plainGet)
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || !res.Close ||
			res.Header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("answer: %s %v", res.Status, res.Header)
		}
		var answer struct{ Error string }
		if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Error != textTooManyConnections {
			t.Errorf("body: %q", body)
		}
	}
	for _, i := range []int{0, 1023} { // those that came in time are served
		if res, _ := exchange(t, conns[i], plainGet); res.StatusCode != http.StatusOK {
			t.Errorf("connection %d: %s", i, res.Status)
		}
	}
	conns[5].Close()
	if n := l.refused.Load(); n != 3 {
		t.Errorf("%d connections were refused", n)
	}
	for l.open() == 1024 { // until the server has noticed
		runtime.Gosched()
	}
	if res, _ := exchange(t, dialTCP(t, address), plainGet); res.StatusCode != http.StatusOK {
		t.Errorf("with a place free again: %s", res.Status)
	}
}

func TestRefusalReachesEveryKindOfRequest(t *testing.T) {
	_, address := listenLimited(t, 0)
	for name, text := range map[string]string{
		"GET":           plainGet,
		"HEAD":          "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"POST":          "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody",
		"large body":    fmt.Sprintf("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n\r\n%s", strings.Repeat("x", 500_000)),
		"no end":        "GET / HTTP/1.1\r\nHost: loc",
		"not HTTP":      "\x16\x03\x01 what is this\r\n\r\n",
		"two at a time": plainGet + plainGet,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, body := exchange(t, dialTCP(t, address), text)
			if res.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("answer: %s", res.Status)
			}
			if (name == "HEAD") != (body == "") {
				t.Errorf("body: %q", body)
			}
		})
	}
}

func TestRefusalReachesHTTPClients(t *testing.T) {
	_, address := listenLimited(t, 0)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var all sync.WaitGroup
	for range 200 { // more than are refused at a time
		all.Go(func() {
			res, err := client.Post("http://"+address+"/api/chat", "application/json", strings.NewReader(`{"model":"m"}`))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if res.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("answer: %s", res.Status)
			}
		})
	}
	all.Wait()
}

func TestSilentConnectionIsRefusedSilently(t *testing.T) {
	_, address := listenLimited(t, 0)
	c := dialTCP(t, address)
	if text, err := io.ReadAll(c); len(text) != 0 || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

func TestCloseDoesNotWaitForThoseBeingRefused(t *testing.T) {
	l, address := listenLimited(t, 0)
	for range maxRefusals + 10 {
		dialTCP(t, address)
	}
	for l.refused.Load() < maxRefusals {
		runtime.Gosched()
	}
	start := time.Now()
	l.Close()
	if took := time.Since(start); took > refusalTime/2 {
		t.Errorf("Close took %s", took)
	}
}

func TestErrorsOfThePortSayWhatToDo(t *testing.T) {
	taken, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, want := range map[string]string{
		taken.Addr().String(): taken.Addr().String() + " is in use, perhaps by Ollama or another cllm: stop that one, or set OLLAMA_HOST to another address",
		"203.0.113.7:11434":   "203.0.113.7:11434 is not an address of this machine: set OLLAMA_HOST to one, or to 0.0.0.0 for all",
		"127.0.0.1:99999":     "can't listen on 127.0.0.1:99999, check OLLAMA_HOST: ",
	} {
		if _, err := listen(address); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
}
