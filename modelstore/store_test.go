package modelstore

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestListIsNewestFirstThenByName(t *testing.T) {
	s := openStore(t, t.TempDir())
	ages := map[string]time.Duration{"b": time.Hour, "a": time.Hour, "c": 0, "me/d": 2 * time.Hour}
	for n, old := range ages {
		createSmall(t, s, n, 8)
		path := filepath.Join(s.dir, "manifests", modelPath(name(t, n)))
		then := time.Unix(1700000000, 0).Add(-old).Add(time.Duration(len(n)) * time.Millisecond)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		list, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range list {
			names = append(names, e.Name.DisplayShortest())
		}
		if diff := cmp.Diff([]string{"c:latest", "a:latest", "b:latest", "me/d:latest"}, names); diff != "" {
			t.Fatal(diff)
		}
	}
}

// logged returns what f logs.
func logged(t *testing.T, f func()) string {
	var b bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&b, nil)))
	defer slog.SetDefault(before)
	f()
	return b.String()
}

func TestListLeavesOutBrokenModelsAndWarnsOnce(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "good", 8)
	outside := filepath.Join(t.TempDir(), "outside")
	writeFile(t, outside, `{"layers":[]}`)
	lib := filepath.Join(s.dir, library)
	for n, content := range map[string]string{
		"cut":     `{"schemaVersion":2,"layers":[{"mediaType"`,
		"digest":  `{"layers":[{"mediaType":"x","digest":"sha256:../../etc/passwd","size":1}]}`,
		"config":  `{"config":{"digest":"sha256:` + strings.Repeat("0", 64) + `"},"layers":[]}`,
		"empty":   "",
		"archive": strings.Repeat(" ", maxManifest+1),
	} {
		writeFile(t, filepath.Join(lib, n, "latest"), content)
	}
	if err := os.Symlink(outside, filepath.Join(lib, "good", "link")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(lib, "good", ".hidden"), "x")
	writeFile(t, filepath.Join(lib, "good", "deeper", "latest"), "x")
	writeFile(t, filepath.Join(lib, "shallow"), "x")
	ageAll(t, filepath.Join(s.dir, "manifests"), time.Hour)
	out := logged(t, func() {
		for range 3 {
			list, err := s.List()
			if err != nil || len(list) != 1 || list[0].Name != name(t, "good") {
				t.Fatalf("list %v, %v", list, err)
			}
		}
	})
	for _, n := range []string{"cut", "digest", "config", "empty"} {
		if strings.Count(out, "library/"+n+":latest ") != 1 {
			t.Errorf("%s is not warned of once:\n%s", n, out)
		}
		var corrupt *CorruptManifestError
		var missing *MissingBlobError
		if _, err := s.Get(name(t, n)); !errors.As(err, &corrupt) && !errors.As(err, &missing) {
			t.Errorf("%s: got %v", n, err)
		}
	}
	if err := s.Delete(name(t, "archive")); err != nil {
		t.Errorf("a manifest that is too large can't be deleted: %v", err)
	}
	if err := s.Copy(name(t, "cut"), name(t, "copy")); err == nil {
		t.Error("a broken manifest is copied")
	}
	if _, err := s.Get(name(t, "good:link")); err == nil {
		t.Error("a link that leads outside is followed")
	}
}

func TestListSeesEveryChangeOfOtherPrograms(t *testing.T) {
	dir := t.TempDir()
	ours, other := openStore(t, dir), openStore(t, dir)
	createSmall(t, ours, "x", 8)
	var last Digest
	for i := range 20 {
		create(t, other, CreateRequest{Name: name(t, "x"), From: "x", System: fmt.Sprint("text ", i)})
		list, err := ours.List()
		if err != nil || len(list) != 1 || list[0].Digest == last {
			t.Fatalf("change %d is not seen: %v, %v", i, list, err)
		}
		last = list[0].Digest
		if m := get(t, ours, "x"); m.System != fmt.Sprint("text ", i) {
			t.Fatalf("change %d is not seen: %q", i, m.System)
		}
	}
	if err := other.Delete(name(t, "x")); err != nil {
		t.Fatal(err)
	}
	if list, err := ours.List(); err != nil || len(list) != 0 {
		t.Errorf("list %v, %v", list, err)
	}
}

func TestGetReadsAnUnchangedModelOnce(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "x", 8)
	m := get(t, s, "x")
	if get(t, s, "x") != m {
		t.Error("a model that just changed is made anew")
	}
	age(t, filepath.Join(s.dir, library, "x", "latest"), time.Hour)
	m = get(t, s, "x")
	// Without the config blob it can't be made again.
	if err := os.RemoveAll(filepath.Join(s.dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	if get(t, s, "X") != m {
		t.Error("an unchanged model is made anew")
	}
}

func TestGetSaysWhatIsMissing(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "x", 8)
	m := get(t, s, "x")
	if err := os.Remove(m.ModelPath); err != nil {
		t.Fatal(err)
	}
	create(t, openStore(t, s.dir), CreateRequest{Name: name(t, "other"), Files: map[string]string{"m.gguf": upload(t, s, ggufFile(t, 16, untalkative))}})
	var missing *MissingBlobError
	if _, err := openStore(t, s.dir).Get(name(t, "x")); !errors.As(err, &missing) || missing.Digest != m.ModelBlob || !strings.Contains(err.Error(), "pull or create the model again") {
		t.Errorf("got %v", err)
	}
	var notFound *NotFoundError
	if _, err := s.Get(name(t, "y")); !errors.As(err, &notFound) || !errors.Is(err, ErrNotFound) || err.Error() != "model 'y:latest' not found" {
		t.Errorf("got %v", err)
	}
	var invalid *InvalidNameError
	if _, err := s.Get(Name{Model: "x"}); !errors.As(err, &invalid) {
		t.Errorf("got %v", err)
	}
}

func TestACorruptModelFileIsAnErrorThatNamesTheModel(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "x", 8)
	path := get(t, s, "x").ModelPath
	for content, want := range map[string]string{"rubbish": "is not in GGUF format", string(ggufFile(t, 8, untalkative)[:64]): "is cut off"} {
		writeFile(t, path, content)
		_, err := get(t, openStore(t, s.dir), "x").Info()
		if err == nil || !strings.Contains(err.Error(), "model 'x:latest'") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want ... %s ...", err, want)
		}
	}
}

func TestResolveFindsNamesInAnyCase(t *testing.T) {
	s := openStore(t, t.TempDir())
	for _, n := range []string{"Foo:Tag", "foo:other", "Me/Bar", "host.X/ns/baz"} {
		writeFile(t, filepath.Join(s.dir, "manifests", modelPath(name(t, n))), "{}")
	}
	for in, want := range map[string]string{
		"Foo:Tag": "Foo:Tag", "FOO:TAG": "Foo:Tag", "foo:tag": "Foo:Tag", "foo:other": "foo:other", "FOO:OTHER": "foo:other",
		"foo:new": "foo:new", "FOO:new": "Foo:new", "me/new:TAG": "Me/new:Tag", "HOST.x/NS/BAZ": "host.X/ns/baz:latest", "new": "new:latest",
	} {
		got, err := s.Resolve(name(t, in))
		if err != nil || got.DisplayShortest() != want {
			t.Errorf("%s: got %s, %v; want %s", in, got.DisplayShortest(), err, want)
		}
	}
	if _, err := s.Resolve(Name{}); !errors.Is(err, ErrBadRequest) {
		t.Errorf("no name: got %v", err)
	}
	if err := os.RemoveAll(filepath.Join(s.dir, "manifests")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Resolve(name(t, "a")); err != nil || got.Model != "a" {
		t.Errorf("without a folder: %v, %v", got, err)
	}
}

func TestLinksOfTheOwnersMakingAreFollowedAndOthersAreNot(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	for _, d := range []string{"blobs", "manifests"} {
		if err := os.Mkdir(filepath.Join(elsewhere, d), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(elsewhere, d), filepath.Join(dir, d)); err != nil {
			t.Fatal(err)
		}
	}
	s := openStore(t, dir)
	createSmall(t, s, "x", 8)
	if n := len(paths(t, elsewhere)); n != 3 {
		t.Errorf("%d files, want two blobs and a manifest", n)
	}
	get(t, s, "x")

	// A blob and a folder that lead outside.
	secret := filepath.Join(t.TempDir(), "secret")
	writeFile(t, secret, "secret")
	d := DigestOf([]byte("secret"))
	if err := os.Symlink(secret, s.BlobPath(d)); err != nil {
		t.Fatal(err)
	}
	if there, err := s.HasBlob(d); there || err == nil {
		t.Errorf("a blob that leads outside: %v, %v", there, err)
	}
	trap := t.TempDir()
	if err := os.Symlink(trap, filepath.Join(dir, library, "trap")); err != nil {
		t.Fatal(err)
	}
	if err := s.Copy(name(t, "x"), name(t, "trap")); err == nil {
		t.Error("a manifest is written through a link that leads outside")
	}
	if err := s.Delete(name(t, "trap")); err == nil {
		t.Error("a manifest is deleted through a link that leads outside")
	}
	if left := paths(t, trap); len(left) != 0 {
		t.Errorf("written outside: %q", left)
	}
	// Models might be behind that link: their blobs are not pruned.
	var corrupt *CorruptManifestError
	if _, err := s.Prune(t.Context()); !errors.As(err, &corrupt) {
		t.Errorf("Prune: %v", err)
	}
}

// Two versions of one size, written into one file within one tick of its clock, look
// the same from outside.
func TestARewriteThatTheFileTimeDoesNotShowIsSeen(t *testing.T) {
	s := openStore(t, t.TempDir())
	path := filepath.Join(s.dir, library, "x", "latest")
	tick := time.Now().Add(-settle / 2)
	var last Digest
	for _, text := range []string{`{"schemaVersion":1}`, `{"schemaVersion":2}`} {
		writeFile(t, path, text)
		if err := os.Chtimes(path, tick, tick); err != nil {
			t.Fatal(err)
		}
		list, err := s.List()
		if err != nil || len(list) != 1 || list[0].Digest == last {
			t.Fatalf("%s is not seen: %v, %v", text, list, err)
		}
		last = list[0].Digest
	}
}

func TestAModelThatIsReplacedWhileItIsReadIsReadAnew(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "x", 8)
	n := name(t, "x")
	create(t, s, CreateRequest{Name: n, From: "x", System: "first"})
	root, err := s.manifests.open()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	before, err := s.record(root, n)
	if err != nil {
		t.Fatal(err)
	}
	create(t, s, CreateRequest{Name: n, From: "x", System: "second"})
	var m *Model
	read := func(r *record) (err error) {
		m, err = s.model(r)
		return err
	}
	if err := s.readLatest(root, before, read); err != nil || m.System != "second" {
		t.Errorf("got %+v, %v", m, err)
	}
	if err := s.Delete(n); err != nil {
		t.Fatal(err)
	}
	if err := s.readLatest(root, before, read); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}
