package modelstore

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCreateFollowsNoLinkThatLeadsOutside(t *testing.T) {
	for i, r := range recipes(t) {
		result := made(t, r)
		// Each uploaded file in turn, the file that is made, and where the manifest goes.
		var spots []string
		for _, group := range []map[string][]byte{r.Files, r.Adapters} {
			for _, content := range group {
				spots = append(spots, filepath.Join("blobs", DigestOf(content).file()))
			}
		}
		uploaded := len(spots)
		spots = append(spots, filepath.Join("blobs", result.ModelBlob.file()), filepath.Join(library, "x", "latest"), filepath.Join(library, "x"), library)
		for n, spot := range spots {
			s := openStore(t, stormDir(t))
			req := request(t, s, r, "x")
			outside := t.TempDir()
			victim := filepath.Join(outside, "latest")
			content := "do not touch"
			at := filepath.Join(s.dir, spot)
			if n < uploaded { // what is read is right, and outside
				b, err := os.ReadFile(at)
				if err != nil {
					t.Fatal(err)
				}
				content = string(b)
			}
			writeFile(t, victim, content)
			if err := os.RemoveAll(at); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				t.Fatal(err)
			}
			if n < len(spots)-2 {
				symlink(t, victim, at)
			} else {
				symlink(t, outside, at)
			}
			err := s.Create(t.Context(), req, nil)
			if n < uploaded && err == nil {
				t.Errorf("recipe %d, %s: a file outside was read", i, spot)
			}
			if got, e := os.ReadFile(victim); e != nil || string(got) != content || len(paths(t, outside)) != 1 {
				t.Errorf("recipe %d, %s: outside are %q, %v, after %v", i, spot, paths(t, outside), e, err)
			}
			for _, p := range paths(t, filepath.Join(s.dir, "blobs")) {
				if filepath.Base(p)[:3] == "tmp" {
					t.Errorf("recipe %d, %s: %s is left", i, spot, p)
				}
			}
			if err == nil {
				if b, e := os.ReadFile(s.BlobPath(result.ModelBlob)); e != nil || DigestOf(b) != result.ModelBlob {
					t.Errorf("recipe %d, %s: the blob is broken: %v", i, spot, e)
				}
			}
		}
	}
}
