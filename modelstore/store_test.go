package modelstore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOpenMakesTheFolders(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := openStore(t, dir)
	for _, d := range []string{"blobs", "manifests"} {
		if info, err := os.Stat(filepath.Join(dir, d)); err != nil || !info.IsDir() {
			t.Errorf("%s: %v", d, err)
		}
	}
	if s.Dir() != dir {
		t.Errorf("Dir is %s", s.Dir())
	}
	if err := s.Writable(); err != nil {
		t.Error(err)
	}
	if left := paths(t, dir); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("list %v, %v", list, err)
	}
}

func TestOpenTidiesUp(t *testing.T) {
	dir := t.TempDir()
	blobs := filepath.Join(dir, "blobs")
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	for name, old := range map[string]time.Duration{
		"sha256:" + a: 0, "sha256:" + b + "-partial": 0, // of the old form
		"tmp-CRASHED":   0,                                        // nobody holds its lock
		"sha256-123456": 2 * time.Hour, "sha256-9": time.Hour / 2, // Ollama's
		"sha256-" + a + "-partial-0": 48 * time.Hour, "notes.txt": 48 * time.Hour,
	} {
		writeFile(t, filepath.Join(blobs, name), "x")
		age(t, filepath.Join(blobs, name), old)
	}
	writeFile(t, filepath.Join(dir, "manifests", ".tmp-CRASHED"), "x")
	openStore(t, dir)
	want := []string{
		"blobs/notes.txt", "blobs/sha256-9", "blobs/sha256-" + a, "blobs/sha256-" + a + "-partial-0", "blobs/sha256-" + b + "-partial",
	}
	if diff := cmp.Diff(want, paths(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestOpenSparesAWriteThatGoesOn(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	blob, err := s.blobs.newTemp(blobTemp)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.discard()
	manifest, err := s.manifests.newTemp(manifestTemp)
	if err != nil {
		t.Fatal(err)
	}
	defer manifest.discard()
	openStore(t, dir)
	if n := len(paths(t, dir)); n != 2 {
		t.Errorf("%d files are left of 2", n)
	}
}

func TestOpenSaysWhatIsWrongWithTheFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, "")
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "can't be made") || !strings.Contains(err.Error(), "OLLAMA_MODELS") {
			t.Errorf("%s: got %v", dir, err)
		}
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "blobs"), "")
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "can't be read") {
		t.Errorf("blobs is a file: got %v", err)
	}
}

// asOrdinaryUser prepares a folder and runs test on it where permissions count. For
// root they don't: then test runs in a process of its own, as nobody.
func asOrdinaryUser(t *testing.T, prepare, test func(dir string)) {
	const variable = "MODELSTORE_ORDINARY"
	if dir := os.Getenv(variable); dir != "" {
		if err := syscall.Setuid(65534); err != nil {
			t.Skip("root can't become another user here: ", err)
		}
		test(dir)
		return
	}
	dir, err := os.MkdirTemp("", "modelstore")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	prepare(dir)
	t.Cleanup(func() {
		filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if e.IsDir() {
				os.Chmod(p, 0o755)
			}
			return nil
		})
	})
	if os.Getuid() != 0 {
		test(dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- ")) {
		t.Errorf("%v:\n%s", err, out)
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skip(string(out))
	}
}

func TestAFolderThatCannotBeWrittenIsReadAllTheSame(t *testing.T) {
	asOrdinaryUser(t, func(dir string) {
		createSmall(t, openStore(t, dir), "x", 8)
		for _, p := range []string{"blobs", library + "/x", library, "manifests"} {
			if err := os.Chmod(filepath.Join(dir, p), 0o555); err != nil {
				t.Fatal(err)
			}
		}
	}, func(dir string) {
		s := openStore(t, dir)
		if err := s.Writable(); !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), "OLLAMA_MODELS") || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("Writable: %v", err)
		}
		if m := get(t, s, "x"); m.Config.ModelFamily != "llama" {
			t.Errorf("got %+v", m)
		}
		if list, err := s.List(); err != nil || len(list) != 1 {
			t.Errorf("list %v, %v", list, err)
		}
		for what, err := range map[string]error{
			"create": s.Create(t.Context(), CreateRequest{Name: name(t, "y"), From: "x", System: "s"}, nil),
			"copy":   s.Copy(name(t, "x"), name(t, "y")),
			"delete": s.Delete(name(t, "x")),
			"write":  s.WriteBlob(t.Context(), digestOf([]byte("x")), strings.NewReader("x")),
		} {
			if !errors.Is(err, ErrReadOnly) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

func TestAFolderThatCannotBeReadIsRefused(t *testing.T) {
	asOrdinaryUser(t, func(dir string) {
		for p, mode := range map[string]os.FileMode{"blobs": 0, "manifests": 0, "closed": 0o555} {
			if err := os.Mkdir(filepath.Join(dir, p), mode); err != nil {
				t.Fatal(err)
			}
		}
	}, func(dir string) {
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "can't be read") || !strings.Contains(err.Error(), "OLLAMA_MODELS") {
			t.Errorf("got %v", err)
		}
		if _, err := Open(filepath.Join(dir, "closed", "models")); err == nil || !strings.Contains(err.Error(), "can't be made") {
			t.Errorf("got %v", err)
		}
		// An empty folder that can't be written is an empty read-only store.
		s := openStore(t, filepath.Join(dir, "closed"))
		if list, err := s.List(); err != nil || len(list) != 0 {
			t.Errorf("list %v, %v", list, err)
		}
		if err := s.Writable(); !errors.Is(err, ErrReadOnly) {
			t.Errorf("Writable: %v", err)
		}
	})
}

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
	create(t, openStore(t, s.dir), CreateRequest{Name: name(t, "other"), Files: map[string]string{"m.gguf": upload(t, s, ggufFile(t, 16, nil))}})
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
	for content, want := range map[string]string{"rubbish": "is not in GGUF format", string(ggufFile(t, 8, nil)[:64]): "is cut off"} {
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
	if n := len(paths(t, elsewhere)); n != 5 {
		t.Errorf("%d files, want 4 blobs and a manifest", n)
	}
	get(t, s, "x")

	// A blob and a folder that lead outside.
	secret := filepath.Join(t.TempDir(), "secret")
	writeFile(t, secret, "secret")
	d := digestOf([]byte("secret"))
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
