package modelstore

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strings"
)

// Digest is the SHA-256 of a blob or of a manifest file. It is comparable. The
// zero Digest stands for none.
type Digest struct {
	sum [32]byte
	set bool
}

// ParseDigest reads "sha256:" or "sha256-" and 64 hexadecimal digits of either
// case. The error is ErrInvalidDigest.
func ParseDigest(s string) (Digest, error) {
	rest, ok := strings.CutPrefix(s, "sha256")
	if !ok || len(rest) != 65 || (rest[0] != ':' && rest[0] != '-') {
		return Digest{}, ErrInvalidDigest
	}
	d := Digest{set: true}
	if _, err := hex.Decode(d.sum[:], []byte(rest[1:])); err != nil {
		return Digest{}, ErrInvalidDigest
	}
	return d, nil
}

// DigestOf is the digest of content.
func DigestOf(content []byte) Digest { return Digest{sum: sha256.Sum256(content), set: true} }

// sumOf is the digest of what was hashed.
func sumOf(h hash.Hash) Digest { return Digest{sum: [32]byte(h.Sum(nil)), set: true} }

// IsZero reports whether d stands for no digest.
func (d Digest) IsZero() bool { return !d.set }

// Hex returns the 64 lower-case digits, as /api/tags shows them; "" for none.
func (d Digest) Hex() string {
	if !d.set {
		return ""
	}
	return hex.EncodeToString(d.sum[:])
}

// String returns "sha256:" and the digits; "" for none.
func (d Digest) String() string {
	if !d.set {
		return ""
	}
	return "sha256:" + d.Hex()
}

// MarshalText writes what String returns.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what ParseDigest accepts, and empty text as none.
func (d *Digest) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*d = Digest{}
		return nil
	}
	*d, err = ParseDigest(string(text))
	return err
}

// file is the name of the blob's file.
func (d Digest) file() string { return "sha256-" + d.Hex() }
