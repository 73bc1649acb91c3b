package modelstore

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// dockerRegistry starts Debian's docker-registry on a free port with a folder of its
// own, and returns its address. more is added to its configuration.
func dockerRegistry(t *testing.T, more string) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		const how = "docker-registry is not installed: run scripts/setup.sh --registry"
		if os.Getenv("CI") != "" {
			t.Fatal(how)
		}
		t.Skip(how)
	}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := port.Addr().String()
	port.Close()
	config := filepath.Join(t.TempDir(), "config.yml")
	writeFile(t, config, fmt.Sprintf("version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q, relativeurls: true}\n%s", t.TempDir(), addr, more))
	cmd := exec.Command(program, "serve", config)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		read.Close()
	})
	var log strings.Builder
	for lines := bufio.NewScanner(read); lines.Scan(); {
		fmt.Fprintln(&log, lines.Text())
		if strings.Contains(lines.Text(), "listening on") {
			go io.Copy(io.Discard, read) // it ends with the process
			return addr
		}
	}
	t.Fatalf("docker-registry does not start:\n%s", log.String())
	return ""
}

// onNetwork opens a store that reaches real registries.
func onNetwork(t *testing.T) *Store {
	t.Helper()
	return openStore(t, t.TempDir(), WithRegistry(Registry{Transport: NewTransport(), UserAgent: "ollama/0.17.4 (test)", Sign: signer(t)}))
}

// roundTrip pushes a model, pulls it into another folder and compares.
func roundTrip(t *testing.T, addr string) {
	t.Helper()
	s, n := onNetwork(t), name(t, addr+"/team/model:tag")
	create(t, s, CreateRequest{
		Name: n, System: "Be brief.", Licenses: []string{"MIT"},
		Files: map[string]string{"m.gguf": upload(t, s, ggufFile(t, 20<<20, untalkative))}, // several parts
	})
	for range 2 { // the second time all is there
		if err := s.Push(t.Context(), n, true, nil); err != nil {
			t.Fatal(err)
		}
	}
	other := onNetwork(t)
	var told statuses
	if err := other.Pull(t.Context(), n, true, told.tell); err != nil {
		t.Fatal(err)
	}
	if told[len(told)-1].Status != "success" {
		t.Errorf("progress: %v", told)
	}
	ours, theirs := files(t, filepath.Join(s.dir, "blobs")), files(t, filepath.Join(other.dir, "blobs"))
	for p, content := range ours {
		if theirs[p] != content {
			t.Errorf("%s is not what it was", p)
		}
	}
	if len(ours) != len(theirs) {
		t.Errorf("%d blobs became %d", len(ours), len(theirs))
	}
	if m, err := other.Get(n); err != nil || m.System != "Be brief." {
		t.Errorf("%+v, %v", m, err)
	}
	err := other.Pull(t.Context(), name(t, addr+"/team/nowhere"), true, nil)
	if err == nil || err.Error() != "pull model manifest: file does not exist" {
		t.Errorf("a model that is not there: %v", err)
	}
}

func TestModelsGoThroughADockerRegistry(t *testing.T) { roundTrip(t, dockerRegistry(t, "")) }

// A push whose connection breaks ends well, whatever is left at docker-registry: that
// tells how much it has where no part was broken, and forgets the upload otherwise.
func TestAPushToADockerRegistryThatBreaksOffGoesOnOrBeginsAnew(t *testing.T) {
	for _, test := range []struct {
		name    string
		forward int64 // bytes of the third part that arrive
		begun   int   // uploads, for two blobs
	}{{"before a part", 0, 2}, {"within a part", smallPart, 3}} {
		t.Run(test.name, func(t *testing.T) {
			proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: dockerRegistry(t, "")})
			proxy.ErrorLog = log.New(io.Discard, "", 0)
			var parts, begun atomic.Int64
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				switch {
				case req.Method == http.MethodPost:
					begun.Add(1)
				case req.Method == http.MethodPatch && parts.Add(1) == 3:
					if test.forward > 0 {
						req.Body = io.NopCloser(io.LimitReader(req.Body, test.forward))
						proxy.ServeHTTP(&nowhere{}, req)
					}
					panic(http.ErrAbortHandler)
				}
				proxy.ServeHTTP(w, req)
			}))
			defer front.Close()
			s, n := onNetwork(t), name(t, strings.TrimPrefix(front.URL, "http://")+"/team/model")
			s.registry.leastPart = 2 * smallPart
			create(t, s, CreateRequest{Name: n, Files: map[string]string{"m.gguf": upload(t, s, ggufFile(t, 4000, untalkative))}})
			if err := s.Push(t.Context(), n, true, nil); err != nil {
				t.Fatal(err)
			}
			if got := begun.Load(); got != int64(test.begun) {
				t.Errorf("%d uploads were begun, want %d", got, test.begun)
			}
			if err := onNetwork(t).Pull(t.Context(), n, true, nil); err != nil { // which verifies all
				t.Error(err)
			}
		})
	}
}

// tokenServer gives tokens that docker-registry believes, to whoever signs as Ollama
// does, and passes all else on. Both have one address, as Ollama's protocol wants it.
type tokenServer struct {
	key   *ecdsa.PrivateKey
	cert  []byte
	proxy http.Handler // set before the first request
	given int
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path != "/token" {
		s.proxy.ServeHTTP(w, req)
		return
	}
	if !strings.Contains(req.Header.Get("Authorization"), ":") {
		http.Error(w, "not signed", http.StatusUnauthorized)
		return
	}
	s.given++
	encode := func(v any) string {
		raw, _ := json.Marshal(v) // maps of texts and numbers
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	now := time.Now().Unix()
	text := encode(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(s.cert)}}) + "." +
		encode(map[string]any{
			"iss": "tests", "sub": "someone", "aud": "registry", "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1",
			"access": []any{map[string]any{"type": "repository", "name": "team/model", "actions": []string{"pull", "push"}},
				map[string]any{"type": "repository", "name": "team/nowhere", "actions": []string{"pull"}}},
		})
	sum := sha256.Sum256([]byte(text))
	r, sig, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	raw := append(r.FillBytes(make([]byte, 32)), sig.FillBytes(make([]byte, 32))...)
	fmt.Fprintf(w, `{"token":%q}`, text+"."+base64.RawURLEncoding.EncodeToString(raw))
}

func TestModelsGoThroughADockerRegistryThatWantsTokens(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tests"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(t.TempDir(), "cert.pem")
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: cert}); err != nil {
		t.Fatal(err)
	}
	writeFile(t, bundle, b.String())
	tokens := &tokenServer{key: key, cert: cert}
	front := httptest.NewServer(tokens)
	defer front.Close()
	addr := dockerRegistry(t, fmt.Sprintf("auth: {token: {realm: %q, service: registry, issuer: tests, rootcertbundle: %q}}\n", front.URL+"/token", bundle))
	tokens.proxy = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	roundTrip(t, strings.TrimPrefix(front.URL, "http://"))
	if tokens.given == 0 {
		t.Error("the registry wanted no token")
	}
}
