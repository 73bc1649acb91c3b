package modelstoretest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/crypto/ssh"
)

const tokenPath = "/token"

// tokens is how the registry knows who asks.
type tokens struct {
	required bool
	realm    string
	given    int
	uses     int // requests that a token is good for; 0: any number
	left     int
}

// RequireToken makes the registry want a token, which is given for a right signature
// by realm, "" for the registry itself, and is good for so many requests (0: any).
func (r *Registry) RequireToken(realm string, uses int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens = tokens{required: true, realm: realm, uses: uses}
}

// Tokens is how many tokens were given.
func (r *Registry) Tokens() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tokens.given
}

func (r *Registry) admitted(w http.ResponseWriter, req *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.tokens
	if !t.required {
		return true
	}
	if req.Header.Get("Authorization") == fmt.Sprintf("Bearer token-%d", t.given) && t.given > 0 && (t.uses == 0 || t.left > 0) {
		t.left--
		return true
	}
	realm := t.realm
	if realm == "" {
		realm = scheme(req) + "://" + req.Host + tokenPath
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry",scope="repository:x:pull,push"`, realm))
	refuse(w, http.StatusUnauthorized, "UNAUTHORIZED")
	return false
}

// scheme is the one that the client used. On a Network nothing is encrypted: there
// the registries of names are taken for ones that would be.
func scheme(req *http.Request) string {
	if req.TLS != nil || req.Context().Value(onNetwork{}) != nil {
		return "https"
	}
	return "http"
}

// serveToken gives a token to whoever signed the request, as Ollama's registry does.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	if err := signed(req); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens.given++
	r.tokens.left = r.tokens.uses
	fmt.Fprintf(w, `{"token":"token-%d"}`, r.tokens.given)
}

// signed checks the signature of a request.
func signed(req *http.Request) error {
	key64, sig64, _ := strings.Cut(req.Header.Get("Authorization"), ":")
	key, err := base64.StdEncoding.DecodeString(key64)
	if err != nil {
		return err
	}
	sig, err := base64.StdEncoding.DecodeString(sig64)
	if err != nil {
		return err
	}
	public, err := ssh.ParsePublicKey(key)
	if err != nil {
		return err
	}
	none := sha256.Sum256(nil)
	data := fmt.Sprintf("%s,%s://%s%s,%s", req.Method, scheme(req), req.Host, req.RequestURI,
		base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(none[:]))))
	return public.Verify([]byte(data), &ssh.Signature{Format: public.Type(), Blob: sig})
}
