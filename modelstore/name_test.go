package modelstore

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestDigestsHaveOneFormAndAStrictParser(t *testing.T) {
	hex := strings.Repeat("0aF", 22)[:64]
	for _, in := range []string{"sha256:" + hex, "sha256-" + hex, "sha256:" + strings.ToUpper(hex)} {
		d, err := ParseDigest(in)
		if err != nil || d.String() != "sha256:"+strings.ToLower(hex) || d.Hex() != strings.ToLower(hex) || d.IsZero() {
			t.Errorf("%s: %v, %v", in, d, err)
		}
		text, _ := d.MarshalText()
		var back Digest
		if err := back.UnmarshalText(text); err != nil || back != d {
			t.Errorf("%s comes back as %v, %v", text, back, err)
		}
	}
	for _, in := range []string{"", "sha256", "sha256:", hex, "sha256:" + hex[1:], "sha256:" + hex + "0", "sha256/" + hex, "sha512:" + hex, "sha256:" + hex[1:] + "g", "SHA256:" + hex, " sha256:" + hex} {
		if _, err := ParseDigest(in); !errors.Is(err, ErrInvalidDigest) || !errors.Is(err, ErrBadRequest) || err.Error() != "invalid digest format" {
			t.Errorf("%q: got %v", in, err)
		}
	}
	var zero Digest
	if zero.String() != "" || zero.Hex() != "" || !zero.IsZero() {
		t.Errorf("the zero digest is %q", zero)
	}
	if err := zero.UnmarshalText(nil); err != nil || !zero.IsZero() {
		t.Errorf("no text: %v, %v", zero, err)
	}
}

func FuzzParseDigest(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("ab", 32))
	f.Add("sha256-../../../../../../../../../../../../../../../../../../../../etc")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDigest(s)
		if err != nil {
			return
		}
		if !strings.EqualFold(strings.Replace(s, "-", ":", 1), d.String()) || filepath.Base(d.file()) != d.file() {
			t.Errorf("%q is %v in %s", s, d, d.file())
		}
	})
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"x", "a/b:c", "http://h:1/ns/a:t", "../../x", "a/../b", ".x", "x:.", "a//b", "x\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if err != nil {
			var invalid *InvalidNameError
			if !errors.As(err, &invalid) || invalid.Text != s || !errors.Is(err, ErrBadRequest) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		p := modelPath(n)
		if !filepath.IsLocal(p) || filepath.Clean(p) != p || strings.Count(p, "/") != 3 || nameOf(p) != canonical(n) {
			t.Errorf("%q is the path %q", s, p)
		}
		if slices.ContainsFunc(strings.Split(p, "/"), func(part string) bool { return strings.HasPrefix(part, ".") }) {
			t.Errorf("%q is the path %q", s, p)
		}
	})
}
