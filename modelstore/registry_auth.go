package modelstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ollama/ollama/auth"
)

// token is what a registry gave us to show. Only who holds turn may fetch a new one.
type token struct {
	turn  chan struct{}
	value chan string // one, always
}

func newToken() token {
	t := token{turn: make(chan struct{}, 1), value: make(chan string, 1)}
	t.value <- ""
	return t
}

func (t token) get() string {
	v := <-t.value
	t.value <- v
	return v
}

func (t token) set(v string) {
	<-t.value
	t.value <- v
}

// authorize gets a new token as the registry's challenge says, unless another request
// has got one since refused was refused.
func (r *remote) authorize(ctx context.Context, challenges []string, refused string) error {
	select {
	case r.token.turn <- struct{}{}:
		defer func() { <-r.token.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.token.get() != refused {
		return nil
	}
	c, err := findChallenge(challenges)
	if err != nil {
		return err
	}
	value, err := r.fetchToken(ctx, c)
	if err != nil {
		return err
	}
	r.token.set(value)
	return nil
}

// fetchToken asks for a token, with a signature that says who we are.
func (r *remote) fetchToken(ctx context.Context, c challenge) (string, error) {
	u, err := c.url(time.Now())
	if err != nil {
		return "", err
	}
	// A signature is for the registry that asked, and nobody else.
	if u.Host != r.base.Host {
		return "", fmt.Errorf("realm host %q does not match original host %q", u.Host, r.base.Host)
	}
	if u.Scheme != r.base.Scheme {
		return "", fmt.Errorf("the registry wants a token fetched by %q, and not by %q as all else", u.Scheme, r.base.Scheme)
	}
	if r.registry.Sign == nil {
		return "", errors.New("the registry asks who we are, and there is no key to answer with")
	}
	none := sha256.Sum256(nil)
	data := fmt.Sprintf("%s,%s,%s", http.MethodGet, u, base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(none[:]))))
	signature, err := r.registry.Sign(ctx, []byte(data))
	if err != nil { // its kind is not told on: it is no file of the store, nor the registry's
		return "", fmt.Errorf("the registry asks who we are, and the key can't be read (%v): the daemon makes ~/.ollama/id_ed25519 when it starts and may write there", err)
	}
	resp, err := r.send(ctx, call{method: http.MethodGet, url: u, upload: true, header: http.Header{"Authorization": {signature}}}, "")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return "", errUnauthorized
	case resp.StatusCode != http.StatusOK:
		return "", refusal(resp)
	}
	return decodeToken(resp.Body)
}

const maxToken = 1 << 20

// decodeToken reads the answer of a token server.
func decodeToken(r io.Reader) (string, error) {
	raw, err := readAll(r, maxToken)
	if err != nil {
		return "", fmt.Errorf("reading the registry's token: %w", err)
	}
	var t struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return "", fmt.Errorf("reading the registry's token: %w", err)
	}
	if t.Token == "" {
		t.Token = t.AccessToken
	}
	if t.Token == "" || strings.ContainsFunc(t.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", errors.New("the registry's token is empty or no token")
	}
	return t.Token, nil
}

// challenge says where a token can be had, and for what.
type challenge struct{ realm, service, scope string }

// findChallenge returns the challenge for a token among the values of a header.
func findChallenge(values []string) (challenge, error) {
	for _, v := range values {
		if c, ok := parseChallenge(v); ok {
			return c, nil
		}
	}
	if len(values) > 0 && strings.HasPrefix(strings.ToLower(values[0]), "basic") {
		return challenge{}, fmt.Errorf("%w: the registry wants a user name and a password, which Ollama's protocol has no place for", errUnauthorized)
	}
	return challenge{}, errUnauthorized
}

// parseChallenge reads `Bearer realm="...",service="...",scope="..."`.
func parseChallenge(s string) (c challenge, ok bool) {
	const scheme = "bearer "
	if len(s) < len(scheme) || !strings.EqualFold(s[:len(scheme)], scheme) {
		return challenge{}, false
	}
	for s = s[len(scheme):]; s != ""; {
		var key, value string
		if key, s, ok = strings.Cut(s, "="); !ok {
			break
		}
		if value, s, ok = cutValue(s); !ok {
			return challenge{}, false
		}
		switch strings.ToLower(strings.Trim(key, " \t,")) {
		case "realm":
			c.realm = value
		case "service":
			c.service = value
		case "scope":
			c.scope = value
		}
	}
	return c, c.realm != ""
}

// cutValue takes a value, in quotes or up to a comma, off the front of s.
func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, ",")
		return strings.TrimSpace(value), rest, true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

// url is where to ask for the token, as Ollama asks.
func (c challenge) url(now time.Time) (*url.URL, error) {
	u, err := url.Parse(c.realm)
	if err != nil {
		return nil, fmt.Errorf("the registry names no address for a token: %w", err)
	}
	query := u.Query()
	query.Add("service", c.service)
	for s := range strings.SplitSeq(c.scope, " ") {
		query.Add("scope", s)
	}
	query.Add("ts", strconv.FormatInt(now.Unix(), 10))
	nonce, err := auth.NewNonce(rand.Reader, 16)
	if err != nil {
		return nil, err
	}
	query.Add("nonce", nonce)
	u.RawQuery = query.Encode()
	return u, nil
}
