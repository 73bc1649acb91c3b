package daemon

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// knock sends a request without a body to a daemon bound to an address.
func knock(t *testing.T, bound net.Addr, method, host, origin string, origins ...string) *http.Response {
	t.Helper()
	o := testOptions(t, &fakeLoader{})
	if len(origins) > 0 {
		o.Origins = origins
	}
	d := newDaemon(t, o)
	req := httptest.NewRequest(method, "http://"+host+"/api/version", nil)
	req.Host = host
	if origin != "" {
		req.Header.Set("Origin", origin)
		req.Header.Set("Access-Control-Request-Method", "POST")
	}
	w := httptest.NewRecorder()
	d.routes(bound).ServeHTTP(w, req)
	return w.Result()
}

var (
	boundLocal = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 11434}
	boundAll   = &net.TCPAddr{IP: net.IPv4zero, Port: 11434}
)

func TestOnlyThisMachinesNamesReachALocalDaemon(t *testing.T) {
	for host, want := range map[string]int{
		"localhost":         200,
		"localhost:11434":   200,
		"LOCALHOST:11434":   200,
		"127.0.0.1:11434":   200,
		"[::1]:11434":       200,
		"0.0.0.0:11434":     200,
		"192.168.1.5:11434": 200,
		"cllm.local":        200,
		"a.internal:80":     200,
		"x.localhost":       200,
		"":                  200,
		"example.com":       403,
		"example.com:11434": 403,
		"localhost.com":     403,
		"8.8.8.8:11434":     403,
	} {
		if res := knock(t, boundLocal, "GET", host, ""); res.StatusCode != want {
			t.Errorf("Host %q: %d, want %d", host, res.StatusCode, want)
		}
		if res := knock(t, boundAll, "GET", host, ""); res.StatusCode != 200 {
			t.Errorf("Host %q, bound to all addresses: %d", host, res.StatusCode)
		}
	}
	if res := knock(t, boundLocal, "OPTIONS", "localhost", ""); res.StatusCode != 204 {
		t.Errorf("OPTIONS by name: %d", res.StatusCode)
	}
	if res := knock(t, boundLocal, "OPTIONS", "127.0.0.1", ""); res.StatusCode != 405 {
		t.Errorf("OPTIONS by address: %d", res.StatusCode)
	}
}

func TestOnlyAllowedOriginsReachTheDaemonFromABrowser(t *testing.T) {
	allowed := []string{"https://chat.example", "app://*", "http://localhost:*"}
	for _, tt := range []struct {
		method, origin string
		status         int
		allow          string
	}{
		{"GET", "", 200, ""},
		{"GET", "http://localhost:11434", 200, ""}, // the daemon's own
		{"GET", "https://chat.example", 200, "https://chat.example"},
		{"GET", "app://here", 200, "app://here"},
		{"GET", "http://localhost:5173", 200, "http://localhost:5173"},
		{"GET", "https://evil.example", 403, ""},
		{"OPTIONS", "https://evil.example", 403, ""},
		{"OPTIONS", "https://chat.example", 204, "https://chat.example"},
	} {
		res := knock(t, boundLocal, tt.method, "localhost:11434", tt.origin, allowed...)
		if res.StatusCode != tt.status || res.Header.Get("Access-Control-Allow-Origin") != tt.allow {
			t.Errorf("%s from %q: %d, Allow-Origin %q", tt.method, tt.origin, res.StatusCode, res.Header.Get("Access-Control-Allow-Origin"))
		}
		if tt.status == 204 {
			for header, want := range map[string]string{
				"Access-Control-Allow-Methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
				"Access-Control-Max-Age":       "43200",
				"Access-Control-Allow-Headers": "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout",
			} {
				if got := res.Header.Get(header); got != want {
					t.Errorf("%s: %q", header, got)
				}
			}
		}
	}
	if res := knock(t, boundLocal, "GET", "localhost", "https://any.example", "*"); res.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("with *: %v", res.Header)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	for _, tt := range []struct {
		method, path string
		status       int
		body, allow  string
	}{
		{"POST", "//api/chat", 307, "", ""},
		{"GET", "/nothing", 404, "404 page not found", ""},
		{"GET", "/api/chat", 405, "405 method not allowed", "POST"},
		{"HEAD", "/api/ps", 405, "405 method not allowed", "GET"},
		{"POST", "/api/chat/", 307, "", ""},
		{"HEAD", "/", 200, "Ollama is running", ""},
		{"GET", "/", 200, "Ollama is running", ""},
		{"GET", "/api/version", 200, `{"version":"0.17.4"}`, ""},
		{"HEAD", "/api/version", 200, `{"version":"0.17.4"}`, ""},
	} {
		d := newDaemon(t, testOptions(t, &fakeLoader{}))
		w := httptest.NewRecorder()
		d.routes(boundAll).ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, nil))
		if w.Code != tt.status || w.Body.String() != tt.body || w.Header().Get("Allow") != tt.allow {
			t.Errorf("%s %s: %d %q Allow %q", tt.method, tt.path, w.Code, w.Body, w.Header().Get("Allow"))
		}
		if to := w.Header().Get("Location"); tt.status == 307 && to != "/api/chat" {
			t.Errorf("%s %s goes to %q", tt.method, tt.path, to)
		}
	}
}
