package modelstore

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"cllm/modelstore/modelstoretest"
)

func TestPullRefusesManifestsThatAreNoModels(t *testing.T) {
	good := modelstoretest.DigestOf([]byte("good"))
	layer := func(mediaType, digest, size string) string {
		return `{"mediaType":"` + mediaType + `","digest":"` + digest + `","size":` + size + `}`
	}
	with := func(layers ...string) string {
		return `{"schemaVersion":2,"config":` + layer(mediaConfig, good, "4") + `,"layers":[` + strings.Join(layers, ",") + `]}`
	}
	tests := map[string]struct{ manifest, want string }{
		"nothing":           {" ", "can't be read"},
		"null":              {"null", "it names no files"},
		"no JSON":           {"<html>", "can't be read"},
		"a list":            {"[]", "can't be read"},
		"empty":             {"{}", "it names no files"},
		"cut":               {with()[:40], "can't be read"},
		"an index":          {`{"schemaVersion":2,"manifests":[{"digest":"` + good + `"}]}`, "it names no files"},
		"no digest":         {with(layer(mediaModel, "", "4")), "layer 0 has no digest"},
		"a short digest":    {with(layer(mediaModel, good[:70], "4")), "invalid digest format"},
		"a long digest":     {with(layer(mediaModel, good+"0", "4")), "invalid digest format"},
		"no hex":            {with(layer(mediaModel, good[:70]+"g", "4")), "invalid digest format"},
		"another hash":      {with(layer(mediaModel, "sha512:"+good[7:], "4")), "invalid digest format"},
		"capitals":          {with(layer(mediaModel, strings.ToUpper(good), "4")), "invalid digest format"},
		"a path":            {with(layer(mediaModel, "../../../../etc/passwd", "4")), "invalid digest format"},
		"a negative size":   {with(layer(mediaModel, good, "-1")), "the size of " + good + " is -1"},
		"an absurd size":    {with(layer(mediaModel, good, "9223372036854775807")), "the size of"},
		"a fraction":        {with(layer(mediaModel, good, "1.5")), "can't be read"},
		"sizes that add up": {with(strings.Split(strings.Repeat(layer(mediaModel, "sha256:%", "70000000000000")+"|", 2), "|")[:2]...), "invalid digest format"},
		"two sizes":         {with(layer(mediaModel, good, "5")), "is there twice, with 5 and with 4 bytes"},
		"a foreign layer":   {with(layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", good, "4")), "that is no part of a model"},
		"a container":       {with(layer("application/vnd.oci.image.layer.v1.tar+gzip", good, "4")), "that is no part of a model"},
		"layers missing":    {with(layer(mediaModel, modelstoretest.DigestOf([]byte("missing")), "7")), "file does not exist"},
		"too long":          {`{"layers":"` + strings.Repeat("x", maxManifest) + `"}`, "the file is too large"},
	}
	for name_, test := range tests {
		t.Run(name_, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := modelstoretest.NewRegistry()
				reg.AddBlob([]byte("good"))
				reg.SetManifest("library/x:latest", test.manifest)
				s := onOllama(t, reg)
				err := s.Pull(t.Context(), name(t, "x"), false, nil)
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
				if err != nil && len(err.Error()) > 1000 {
					t.Errorf("the error has %d bytes", len(err.Error()))
				}
				if n := len(paths(t, filepath.Join(s.dir, "manifests"))); n != 0 {
					t.Error("the name stands for something")
				}
				wantNoScraps(t, s)
			})
		})
	}
}

func TestALayerMayBeThereTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		reg.AddModel("library/x:latest", []byte("one"), []byte("one"))
		s := onOllama(t, reg)
		if err := s.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
			t.Fatal(err)
		}
		wantPulled(t, s, "x", reg, "library/x:latest")
	})
}

func TestNamesThatLeadElsewhereAreRefused(t *testing.T) {
	s := onOllama(t, http.NotFoundHandler())
	for _, text := range []string{
		"", "..", "../x", "a/../b", "a//b", "/etc/passwd", "a/b/", "x:", ":x", "x:..", "a/b/c/d/e", "./x", "-x", "x\x00", "x y",
		"host/../x", "..:80/a/b", strings.Repeat("x", 1<<20), strings.Repeat("x/", 1<<19), "x:" + strings.Repeat("t", 1<<20),
	} {
		if n, err := ParseName(text); err == nil {
			t.Errorf("%.20q is the name %v", text, n)
		}
		forged := Name{Host: "registry.ollama.ai", Namespace: "library", Model: text, Tag: "latest"}
		var invalid *InvalidNameError
		if err := s.Pull(t.Context(), forged, false, nil); !errors.As(err, &invalid) {
			t.Errorf("%.20q: %v", text, err)
		}
		if err := s.Push(t.Context(), forged, false, nil); !errors.As(err, &invalid) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func TestPullFollowsNoLinkInTheStore(t *testing.T) {
	weights := noise(1, 3*smallPart)
	d := DigestOf(weights)
	outside := "do not touch"
	tests := map[string]func(t *testing.T, s *Store, victim string){
		"the data of a download": func(t *testing.T, s *Store, victim string) {
			symlink(t, victim, s.BlobPath(d)+"-partial")
		},
		"data that is another blob": func(t *testing.T, s *Store, _ string) {
			symlink(t, DigestOf([]byte("mine")).file(), s.BlobPath(d)+"-partial")
		},
		"a part of a download": func(t *testing.T, s *Store, victim string) {
			writeFile(t, s.BlobPath(d)+"-partial", string(make([]byte, len(weights))))
			symlink(t, victim, s.BlobPath(d)+"-partial-0")
		},
		"the blob": func(t *testing.T, s *Store, victim string) { symlink(t, victim, s.BlobPath(d)) },
		"the manifest": func(t *testing.T, s *Store, victim string) {
			p := filepath.Join(s.dir, library, "x", "latest")
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			symlink(t, victim, p)
		},
		"a folder of manifests": func(t *testing.T, s *Store, victim string) {
			p := filepath.Join(s.dir, library, "x")
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			symlink(t, filepath.Dir(victim), p)
		},
	}
	for name_, plant := range tests {
		t.Run(name_, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := modelstoretest.NewRegistry()
				reg.AddModel("library/x:latest", weights)
				s := onOllama(t, reg)
				victim := filepath.Join(t.TempDir(), "file")
				writeFile(t, victim, outside)
				writeFile(t, s.BlobPath(DigestOf([]byte("mine"))), "mine")
				plant(t, s, victim)
				err := s.Pull(t.Context(), name(t, "x"), false, nil)
				if got, e := os.ReadFile(victim); e != nil || string(got) != outside {
					t.Errorf("the file outside is %q, %v", got, e)
				}
				if n := len(paths(t, filepath.Dir(victim))); n != 1 {
					t.Errorf("%d files are outside", n)
				}
				if got, e := os.ReadFile(s.BlobPath(DigestOf([]byte("mine")))); e != nil || string(got) != "mine" {
					t.Errorf("the other blob is %q, %v", got, e)
				}
				if err == nil {
					if content, e := os.ReadFile(s.BlobPath(d)); e != nil || DigestOf(content) != d {
						t.Errorf("the blob is broken: %v", e)
					}
				}
			})
		})
	}
}

func symlink(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
}

func TestADownloadTakesUpOllamasFiles(t *testing.T) {
	weights := noise(2, 5000)
	d := DigestOf(weights)
	// As Ollama leaves them: the data as long as the blob, a file for each part.
	ollamas := func(t *testing.T, s *Store, parts ...string) {
		data := make([]byte, len(weights))
		copy(data, weights[:3000])
		writeFile(t, s.BlobPath(d)+"-partial", string(data))
		for i, p := range parts {
			writeFile(t, s.BlobPath(d)+"-partial-"+strconv.Itoa(i), p+"\n")
		}
	}
	first := `{"N":0,"Offset":0,"Size":3000,"Completed":3000}`
	second := `{"N":1,"Offset":3000,"Size":2000,"Completed":0}`
	tests := map[string]struct {
		parts []string
		whole bool // all is fetched anew
	}{
		"good":              {[]string{first, second}, false},
		"one is missing":    {[]string{first}, true},
		"one is cut":        {[]string{first, second[:10]}, true},
		"one is empty":      {[]string{first, ""}, true},
		"they overlap":      {[]string{first, `{"N":1,"Offset":2000,"Size":3000,"Completed":0}`}, true},
		"negative":          {[]string{first, `{"N":1,"Offset":3000,"Size":2000,"Completed":-5}`}, true},
		"more than all":     {[]string{first, `{"N":1,"Offset":3000,"Size":2000,"Completed":2001}`}, true},
		"the wrong number":  {[]string{first, `{"N":7,"Offset":3000,"Size":2000,"Completed":0}`}, true},
		"an overflow":       {[]string{first, `{"N":1,"Offset":3000,"Size":9223372036854775807,"Completed":0}`}, true},
		"complete, but not": {[]string{first, `{"N":1,"Offset":3000,"Size":2000,"Completed":2000}`}, true},
		"too long":          {[]string{first, second + strings.Repeat(" ", 1000)}, true},
	}
	for name_, test := range tests {
		t.Run(name_, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := modelstoretest.NewRegistry()
				reg.AddModel("library/x:latest", weights)
				s := onOllama(t, reg)
				ollamas(t, s, test.parts...)
				if err := s.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
					t.Fatal(err)
				}
				wantPulled(t, s, "x", reg, "library/x:latest")
				asked := strings.Join(reg.Asked(), "\n")
				if whole := strings.Contains(asked, "bytes=0-"); whole != test.whole {
					t.Errorf("asked for:\n%s", asked)
				}
			})
		})
	}
}

func TestTheFilesOfADownloadAreOllamas(t *testing.T) {
	p := cutParts(5000, smallPart)[3]
	p.done.Store(17)
	got := string(p.record())
	if want := `{"N":3,"Offset":3000,"Size":1000,"Completed":17}`; strings.TrimSpace(got) != want || len(got) != partRecord || !strings.HasSuffix(got, "\n") {
		t.Errorf("got %q", got)
	}
	if d := DigestOf(nil); !downloadFile.MatchString(d.file()+partialSuffix) || !downloadFile.MatchString(d.file()+partialSuffix+"-3") {
		t.Error("Prune does not know the files")
	}
}

func TestAFullDiskIsToldAndCleared(t *testing.T) {
	reg := modelstoretest.NewRegistry()
	weights := noise(4, 3000)
	reg.AddModel("library/x:latest", weights)
	s := onOllama(t, reg)
	s.registry.Streams = 1
	s.blobs.fault = func(step string) error {
		if step == "blobs: download write" {
			return &os.PathError{Op: "write", Path: "file", Err: syscall.ENOSPC}
		}
		return nil
	}
	err := s.Pull(t.Context(), name(t, "x"), false, nil)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("got %v", err)
	}
	if left := paths(t, filepath.Join(s.dir, "blobs")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	s.blobs.fault = nil
	if err := s.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
		t.Error(err)
	}
}

func TestABlobLargerThanTheDiskIsRefusedAtOnce(t *testing.T) {
	reg := modelstoretest.NewRegistry()
	reg.SetManifest("library/x:latest", `{"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"`+modelstoretest.DigestOf(nil)+`","size":8000000000000}]}`)
	s := onOllama(t, reg)
	if _, known := freeSpace(s.dir); !known {
		t.Skip("the free space is not known here")
	}
	err := s.Pull(t.Context(), name(t, "x"), false, nil)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "8000000 MB are needed") {
		t.Errorf("got %v", err)
	}
	wantNoScraps(t, s)
}

func FuzzDecodeManifest(f *testing.F) {
	f.Add(`{"schemaVersion":2,"config":{"digest":"` + modelstoretest.DigestOf(nil) + `"},"layers":[]}`)
	f.Add(`{"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"sha256-` + strings.Repeat("aB", 32) + `","size":1e3}]}`)
	f.Add(`{"layers":null}{`)
	f.Fuzz(func(t *testing.T, s string) {
		m, err := decodeManifest(strings.NewReader(s))
		if err != nil {
			return
		}
		raw, err := m.pulled()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeManifest(strings.NewReader(string(raw)))
		if err != nil || m.size() < 0 || len(again.blobs()) == 0 || len(again.blobs()) != len(m.blobs()) {
			t.Errorf("%s comes back as %v, %v", raw, again, err)
		}
	})
}

func FuzzParseChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://r/token",service="r",scope="a:b:pull,push c:d:e"`)
	f.Add(`bearer realm=x, error="a\"b"`)
	f.Add(`Basic realm="x"`)
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := parseChallenge(s)
		if ok != (c.realm != "") && ok || len(c.realm)+len(c.service)+len(c.scope) > len(s) {
			t.Errorf("%q is %+v, %v", s, c, ok)
		}
	})
}

func FuzzDecodePart(f *testing.F) {
	f.Add(`{"N":1,"Offset":3000,"Size":2000,"Completed":5}`, 1)
	f.Fuzz(func(t *testing.T, s string, n int) {
		p, err := decodePart([]byte(s), n)
		if err == nil && (p.Number != n || p.Offset < 0 || p.Size <= 0 || p.Offset+p.Size < 0 || p.done.Load() < 0 || p.done.Load() > p.Size) {
			t.Errorf("%q is %d %d %d %d", s, p.Number, p.Offset, p.Size, p.done.Load())
		}
	})
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 5-9/*")
	f.Fuzz(func(t *testing.T, s string) {
		if first, total, ok := parseRange(s); ok && (first < 0 || total != -1 && total <= first) {
			t.Errorf("%q is %d of %d", s, first, total)
		}
	})
}
