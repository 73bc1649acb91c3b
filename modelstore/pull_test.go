package modelstore

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"cllm/modelstore/modelstoretest"
)

// smallPart makes blobs of some kilobytes fall into parts.
const smallPart = 1000

// noise is content that no other seed has.
func noise(seed int64, n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}

// signer signs as Ollama's auth package does, with a key of its own.
func signer(t testing.TB) func(context.Context, []byte) (string, error) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.New(rand.NewSource(1)))
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return func(_ context.Context, data []byte) (string, error) {
		sig, err := s.Sign(nil, data)
		if err != nil {
			return "", err
		}
		return base64.StdEncoding.EncodeToString(s.PublicKey().Marshal()) + ":" + base64.StdEncoding.EncodeToString(sig.Blob), nil
	}
}

// networked opens a store that reaches these hosts.
func networked(t testing.TB, dir string, hosts map[string]http.Handler, opts ...Option) *Store {
	t.Helper()
	return openStore(t, dir, append(opts, WithRegistry(Registry{
		Transport: modelstoretest.NewNetwork(t, hosts).Transport(),
		UserAgent: "ollama/0.17.4 (test)",
		Sign:      signer(t),
		leastPart: smallPart,
	}))...)
}

// onOllama is networked with a registry where names without a host are.
func onOllama(t testing.TB, reg http.Handler) *Store {
	t.Helper()
	return networked(t, t.TempDir(), map[string]http.Handler{"registry.ollama.ai": reg})
}

// statuses collects progress: one line for each blob, with its last numbers.
type statuses []Progress

func (s *statuses) tell(p Progress) {
	if n := len(*s); n > 0 && p.Digest != "" && (*s)[n-1].Digest == p.Digest {
		(*s)[n-1] = p
		return
	}
	*s = append(*s, p)
}

// wantPulled fails the test unless the name stands for the registry's manifest and all
// its blobs are there, whole.
func wantPulled(t testing.TB, s *Store, n string, reg *modelstoretest.Registry, ref string) {
	t.Helper()
	m, err := decodeManifest(strings.NewReader(reg.ManifestOf(ref)))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := m.pulled()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(s.dir, "manifests", modelPath(name(t, n))))
	if err != nil || string(got) != string(raw) {
		t.Errorf("the manifest of %s is %q, %v; want %q", n, got, err, raw)
	}
	for _, l := range m.blobs() {
		content, err := os.ReadFile(s.BlobPath(l.Digest))
		if err != nil || DigestOf(content) != l.Digest {
			t.Errorf("%s is broken: %v", l.Digest, err)
		}
	}
	wantNoScraps(t, s)
}

// wantNoScraps fails the test if anything but manifests and true blobs is there.
func wantNoScraps(t testing.TB, s *Store) {
	t.Helper()
	for p, content := range files(t, filepath.Join(s.dir, "blobs")) {
		if p != DigestOf([]byte(content)).file() {
			t.Errorf("blobs/%s is no blob, or holds something else", p)
		}
	}
	for _, p := range paths(t, filepath.Join(s.dir, "manifests")) {
		if strings.Count(p, "/") != 3 {
			t.Errorf("manifests/%s is left", p)
		}
	}
	if len(s.held) != 0 || len(s.downloads) != 0 {
		t.Errorf("%d blobs are held, %d downloads go on", len(s.held), len(s.downloads))
	}
}

func TestPullFetchesAModelAndTellsItInOllamasWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		weights, license := noise(1, 5000), []byte("MIT")
		m := reg.AddModel("library/x:latest", weights, license)
		s := onOllama(t, reg)
		var told statuses
		if err := s.Pull(t.Context(), name(t, "x"), false, told.tell); err != nil {
			t.Fatal(err)
		}
		wantPulled(t, s, "x", reg, "library/x:latest")
		line := func(l modelstoretest.Layer) Progress {
			return Progress{Status: "pulling " + l.Digest[7:19], Digest: l.Digest, Total: l.Size, Completed: l.Size}
		}
		want := statuses{
			{Status: "pulling manifest"}, line(m.Layers[0]), line(m.Layers[1]), line(m.Config),
			{Status: "verifying sha256 digest"}, {Status: "writing manifest"}, {Status: "success"},
		}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("progress (-want +got):\n%s", diff)
		}

		reg.Asked()
		if err := s.Pull(t.Context(), name(t, "X"), false, nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"GET /v2/library/x/manifests/latest"}, reg.Asked()); diff != "" {
			t.Errorf("a second pull fetches what is there (-want +got):\n%s", diff)
		}
	})
}

func TestPullUnderstandsHostsTagsAndPlainHTTP(t *testing.T) {
	tests := []struct {
		name, host, ref string
		insecure        bool
	}{
		{"x:small", "registry.ollama.ai", "library/x:small", false},
		{"me/x", "registry.ollama.ai", "me/x:latest", false},
		{"hf.co/Someone/A.Model-GGUF:Q4_K_M", "hf.co", "Someone/A.Model-GGUF:Q4_K_M", false},
		{"localhost:5000/a/b:c", "localhost:5000", "a/b:c", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := modelstoretest.NewRegistry()
				reg.AddModel(test.ref, noise(1, 3000))
				s := networked(t, t.TempDir(), map[string]http.Handler{test.host: reg})
				if err := s.Pull(t.Context(), name(t, test.name), test.insecure, nil); err != nil {
					t.Fatal(err)
				}
				wantPulled(t, s, test.name, reg, test.ref)
			})
		})
	}
}

func TestPullReplacesAModelAndRemovesWhatItLeavesBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		reg.AddModel("library/x:latest", noise(1, 3000), []byte("shared"))
		s := onOllama(t, reg)
		pull := func() (told statuses) {
			if err := s.Pull(t.Context(), name(t, "x"), false, told.tell); err != nil {
				t.Fatal(err)
			}
			return told
		}
		pull()
		reg.AddModel("library/x:latest", noise(2, 3000), []byte("shared"))
		if told := pull(); !slices.Contains(told, Progress{Status: "removing unused layers"}) {
			t.Errorf("progress: %v", told)
		}
		wantPulled(t, s, "x", reg, "library/x:latest")
		if n := len(paths(t, filepath.Join(s.dir, "blobs"))); n != 3 {
			t.Errorf("%d blobs, want 3", n)
		}
		if told := pull(); slices.Contains(told, Progress{Status: "removing unused layers"}) {
			t.Errorf("progress: %v", told)
		}
	})
}

// Every way in which a registry can fail, and what comes of it. Whatever happens, the
// old model of the name stays whole, nothing false gets a name, and once the registry
// is well again a pull succeeds.
func TestPullFromARegistryThatFails(t *testing.T) {
	const blobs, manifests = "/blobs/", "/manifests/"
	weights := noise(3, 10*smallPart+7)
	digest := modelstoretest.DigestOf(weights)
	order := func(method, path string, times int, f modelstoretest.Fault) func(*modelstoretest.Registry) {
		return func(r *modelstoretest.Registry) { r.On(method, path, times, f) }
	}
	status := modelstoretest.Status
	tests := []struct {
		name  string
		order func(*modelstoretest.Registry)
		want  string        // a part of the error; "": the pull succeeds all the same
		least time.Duration // that it takes, for those that wait
	}{
		{"cut at once", order("GET", blobs, 3, modelstoretest.CutAfter(0)), "", 0},
		{"cut in the middle", order("GET", blobs, 5, modelstoretest.CutAfter(smallPart/2)), "", time.Second / 2},
		{"always cut", order("GET", blobs, modelstoretest.Always, modelstoretest.CutAfter(300)), "", time.Second},
		{"always cut at once", order("GET", blobs, modelstoretest.Always, modelstoretest.CutAfter(0)), "max retries exceeded: ", 10 * time.Second},
		{"a cut manifest", order("GET", manifests, 1, modelstoretest.CutAfter(100)), "", time.Second / 2},
		{"other content", order("GET", blobs, modelstoretest.Always, modelstoretest.Sends(noise(4, len(weights)))), "digest mismatch, file must be downloaded again: want " + digest + ", got sha256:", 0},
		{"a blob that changes between parts", order("GET", blobs, 4, modelstoretest.Sends(noise(4, len(weights)))), "digest mismatch, file must be downloaded again: want " + digest, 0},
		{"a shorter blob", order("GET", blobs, modelstoretest.Always, modelstoretest.Sends(noise(4, 500))), "its manifest says", 0},
		{"a longer blob", order("GET", blobs, modelstoretest.Always, modelstoretest.Sends(noise(4, len(weights)+1))), "its manifest says that " + digest + " has 10007 bytes, but it sends one of 10008", 0},
		{"a wrong length", order("GET", blobs, modelstoretest.Always, modelstoretest.Claims(99999)), "but it sends one of 99999", 0},
		{"whole files only", order("GET", blobs, modelstoretest.Always, modelstoretest.NoRanges()), "", 0},
		{"400", order("GET", blobs, modelstoretest.Always, status(400)), "400: as ordered", 0},
		{"401 without a challenge", order("", "", modelstoretest.Always, status(401)), "pull model manifest: unauthorized: access denied", 0},
		{"401 for a password", order("", "", modelstoretest.Always, status(401, "WWW-Authenticate", `Basic realm="x"`)), "wants a user name and a password", 0},
		{"401 from another host", order("", "", modelstoretest.Always, status(401, "WWW-Authenticate", `Bearer realm="https://evil.example/token",service="x"`)), `realm host "evil.example" does not match original host "registry.ollama.ai"`, 0},
		{"403", order("GET", blobs, modelstoretest.Always, status(403)), "403: as ordered", 0},
		{"403 for the manifest", order("GET", manifests, modelstoretest.Always, status(403)), "pull model manifest: 403: as ordered", 0},
		{"404", order("GET", blobs, modelstoretest.Always, status(404)), "file does not exist", 0},
		{"404 for the manifest", order("GET", manifests, modelstoretest.Always, status(404)), "pull model manifest: file does not exist", 0},
		{"416", order("GET", blobs, modelstoretest.Always, status(416)), "the registry has less of " + digest, 0},
		{"429 with Retry-After", order("GET", blobs, 1, status(429, "Retry-After", "45")), "", 45 * time.Second},
		{"429 with a date", order("GET", manifests, 1, status(429, "Retry-After", "Sat, 01 Jan 2000 00:01:00 GMT")), "", 50 * time.Second},
		{"429 for a year", order("GET", manifests, 1, status(429, "Retry-After", "31536000")), "", 2 * time.Minute},
		{"429 for ever", order("GET", manifests, modelstoretest.Always, status(429)), "pull model manifest: max retries exceeded: 429: as ordered", 20 * time.Second},
		{"500 twice", order("GET", "", 2, status(500)), "", time.Second},
		{"503 for ever", order("GET", blobs, modelstoretest.Always, status(503)), "max retries exceeded: 503: as ordered", 20 * time.Second},
		{"a 204", order("GET", "", 1, status(204)), "pull model manifest: 204: No Content", 0},
		{"a 206 that was not asked for", order("GET", manifests, 1, status(206)), "pull model manifest: 206: as ordered", 0},
		{"other bytes than asked for", order("GET", blobs, modelstoretest.Always, status(206, "Content-Range", "bytes 5-9/10007")), "was asked for the bytes from", 0},
		{"307 to another host", order("GET", blobs, modelstoretest.Always, modelstoretest.Redirect(307, "https://cdn.example:444")), "", 0},
		{"302 to another host", order("GET", "", modelstoretest.Always, modelstoretest.Redirect(302, "https://cdn.example:444")), "", 0},
		{"a redirect loop", order("GET", blobs, modelstoretest.Always, modelstoretest.Redirect(302, "")), "maximum redirects exceeded (10)", 0},
		{"a redirect to nowhere", order("GET", blobs, modelstoretest.Always, modelstoretest.Redirect(302, "https://gone.example")), "no such host", 0},
		{"a slow drip", order("GET", blobs, modelstoretest.Always, modelstoretest.Drip(100, 20*time.Second)), "", 3 * time.Minute},
		{"a stall", order("GET", blobs, 1, modelstoretest.Hold(nil, nil)), "", 30 * time.Second},
		{"a stall within", order("GET", blobs, 3, modelstoretest.Drip(100, time.Hour)), "", 30 * time.Second},
		{"a stall for ever", order("GET", blobs, modelstoretest.Always, modelstoretest.Hold(nil, nil)), "max retries exceeded: the registry sent nothing for 30 seconds", 3 * time.Minute},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				reg, cdn := modelstoretest.NewRegistry(), modelstoretest.NewRegistry()
				s := networked(t, t.TempDir(), map[string]http.Handler{"registry.ollama.ai": reg, "cdn.example:444": cdn})
				reg.AddModel("library/x:latest", []byte("old"))
				if err := s.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
					t.Fatal(err)
				}
				old := files(t, s.dir)
				reg.AddModel("library/x:latest", weights)
				cdn.AddModel("library/x:latest", weights)
				test.order(reg)

				start := time.Now()
				err := s.Pull(t.Context(), name(t, "x"), false, nil)
				if took := time.Since(start); took < test.least || took > test.least*2+10*time.Minute {
					t.Errorf("it took %v, want at least %v", took, test.least)
				}
				if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("got %v, want %q", err, test.want)
				}
				if err != nil {
					now := files(t, s.dir)
					for p, content := range old {
						if now[p] != content {
							t.Errorf("%s was lost or changed", p)
						}
					}
					if _, err := s.statBlob(DigestOf(weights)); err == nil {
						t.Error("the blob got its name")
					}
					reg.Heal()
					if err := s.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
						t.Errorf("the next pull: %v", err)
					}
				}
				wantPulled(t, s, "x", reg, "library/x:latest")
			})
		})
	}
}

func TestPullOfAHostThatIsNotThereFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := networked(t, t.TempDir(), nil).Pull(t.Context(), name(t, "nowhere.example/a/b"), false, nil)
		if err == nil || !strings.Contains(err.Error(), "pull model manifest: ") || !strings.Contains(err.Error(), "no such host") || time.Since(start) > 0 {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestPullThroughAProxyThatIsNotThereFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := networked(t, t.TempDir(), nil)
		transport := s.registry.Transport.(*http.Transport)
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.example:8080"})
		start := time.Now()
		err := s.Pull(t.Context(), name(t, "x"), false, nil)
		if err == nil || !strings.Contains(err.Error(), "proxyconnect tcp: ") || time.Since(start) > 0 {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestAStoreWithoutANetworkSaysSo(t *testing.T) {
	s := openStore(t, t.TempDir())
	createSmall(t, s, "x", 8)
	for _, err := range []error{s.Pull(t.Context(), name(t, "x"), false, nil), s.Push(t.Context(), name(t, "x"), false, nil)} {
		if !errors.Is(err, errNoNetwork) {
			t.Errorf("got %v", err)
		}
	}
}

func TestPullSignsForATokenAndRenewsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, cdn := modelstoretest.NewRegistry(), modelstoretest.NewRegistry()
		weights := noise(5, 20*smallPart)
		reg.AddModel("library/x:latest", weights)
		reg.RequireToken("", 7)
		cdn.AddBlob(weights)
		s := networked(t, t.TempDir(), map[string]http.Handler{"registry.ollama.ai": reg, "cdn.example": cdn})
		s.registry.Streams = 1
		if err := s.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
			t.Fatal(err)
		}
		wantPulled(t, s, "x", reg, "library/x:latest")
		if n := reg.Tokens(); n != 4 { // for 22 requests
			t.Errorf("%d tokens", n)
		}
		// A token is for the registry alone.
		reg.AddModel("library/x:latest", weights, []byte("more"))
		reg.On("GET", "/blobs/", modelstoretest.Always, modelstoretest.Redirect(307, "https://cdn.example"))
		cdn.AddBlob([]byte("more"))
		cdn.On("GET", "", modelstoretest.Always, func(w http.ResponseWriter, req *http.Request, serve http.Handler) {
			if req.Header.Get("Authorization") != "" {
				t.Error("the token went to another host")
			}
			serve.ServeHTTP(w, req)
		})
		if err := s.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPullWithoutAKeySaysWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		reg.RequireToken("", 0)
		s := onOllama(t, reg)
		s.registry.Sign = func(context.Context, []byte) (string, error) {
			return "", &os.PathError{Op: "open", Path: "/home/x/.ollama/id_ed25519", Err: syscall.ENOENT}
		}
		err := s.Pull(t.Context(), name(t, "x"), false, nil)
		if err == nil || !strings.Contains(err.Error(), "the key can't be read") || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("got %v", err)
		}
	})
}

func TestAKeyThatCanNotBeReadIsNotTakenForTheStoresFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		reg.AddModel("library/x:latest", noise(13, 100))
		s, m := pushed(t, reg)
		for _, cause := range []error{syscall.EACCES, syscall.ENOENT} {
			s.registry.Sign = func(context.Context, []byte) (string, error) {
				return "", &os.PathError{Op: "open", Path: "/home/x/.ollama/id_ed25519", Err: cause}
			}
			reg.On("GET", "/manifests/", 1, func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
				fmt.Fprint(w, reg.ManifestOf("library/x:latest"))
			})
			reg.RequireToken("", 0)
			reg.Asked()
			for _, err := range []error{s.Pull(t.Context(), name(t, "x"), false, nil), s.Push(t.Context(), m.Name, false, nil)} {
				if err == nil || !strings.HasPrefix(err.Error(), "the registry asks who we are, and the key can't be read") || errors.Is(err, ErrReadOnly) {
					t.Errorf("%v: got %v", cause, err)
				}
			}
			if asked := strings.Join(reg.Asked(), "\n"); strings.Contains(asked, "POST") {
				t.Errorf("%v: the push goes on:\n%s", cause, asked)
			}
		}
	})
}

func TestPullGoesOnWhereACancelledOneStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		weights := noise(6, 8*smallPart)
		reg.AddModel("library/x:latest", weights)
		s := onOllama(t, reg)
		s.registry.Streams = 2
		reg.On("GET", "/blobs/", modelstoretest.Always, modelstoretest.Drip(100, time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), 25500*time.Millisecond)
		defer cancel()
		if err := s.Pull(ctx, name(t, "x"), false, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if len(s.downloads) != 0 || len(s.held) != 0 {
			t.Errorf("%d downloads, %d blobs held", len(s.downloads), len(s.held))
		}
		reg.Heal()
		reg.Asked()
		// A pause of less than a day, and a start with its pruning, cost nothing.
		ageAll(t, s.dir, 20*time.Hour)
		s = networked(t, s.dir, map[string]http.Handler{"registry.ollama.ai": reg})
		s.now = time.Now
		if _, err := s.Prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
			t.Fatal(err)
		}
		wantPulled(t, s, "x", reg, "library/x:latest")
		asked := strings.Join(reg.Asked(), "\n")
		if strings.Contains(asked, "bytes=0-") || strings.Contains(asked, "bytes=1000-") || !strings.Contains(asked, "bytes=4800-4999") || strings.Count(asked, "bytes=") != 4 {
			t.Errorf("asked for:\n%s", asked)
		}
	})
}

func TestPullsOfTheSameBlobShareItsDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		weights := noise(7, 2*smallPart)
		reg.AddModel("library/x:latest", weights)
		reg.AddModel("library/y:latest", weights, []byte("another"))
		s := onOllama(t, reg)
		reg.On("GET", "/blobs/"+modelstoretest.DigestOf(weights), modelstoretest.Always, modelstoretest.Drip(100, time.Second))
		first, cancel := context.WithCancel(t.Context())
		var pulls sync.WaitGroup
		errs := make([]error, 4)
		for i, n := range []string{"x", "x", "y", "y"} {
			ctx := t.Context()
			if i == 0 {
				ctx = first
			}
			pulls.Go(func() { errs[i] = s.Pull(ctx, name(t, n), false, nil) })
			synctest.Wait()
		}
		time.Sleep(3 * time.Second) // of the test's clock
		cancel()                    // the one that began it leaves, and the others go on
		pulls.Wait()
		if !errors.Is(errs[0], context.Canceled) || errors.Join(errs[1:]...) != nil {
			t.Errorf("got %v", errs)
		}
		wantPulled(t, s, "x", reg, "library/x:latest")
		wantPulled(t, s, "y", reg, "library/y:latest")
		if n := strings.Count(strings.Join(reg.Asked(), "\n"), modelstoretest.DigestOf(weights)); n != 2 {
			t.Errorf("the blob's two parts were asked for %d times", n)
		}
	})
}

func TestAPullWhoseSharedDownloadFailsTriesItsOwnRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, good := modelstoretest.NewRegistry(), modelstoretest.NewRegistry()
		weights := noise(8, 500)
		bad.AddModel("library/x:latest", weights)
		good.AddModel("a/x:latest", weights)
		s := networked(t, t.TempDir(), map[string]http.Handler{"registry.ollama.ai": bad, "good.example": good})
		held, release := make(chan struct{}, 1), make(chan struct{})
		bad.On("GET", "/blobs/", 1, modelstoretest.Hold(held, release))
		bad.On("GET", "/blobs/", 1, modelstoretest.Status(403))
		var pulls sync.WaitGroup
		var failed, fine error
		pulls.Go(func() { failed = s.Pull(t.Context(), name(t, "x"), false, nil) })
		<-held
		pulls.Go(func() { fine = s.Pull(t.Context(), name(t, "good.example/a/x"), false, nil) })
		synctest.Wait()
		bad.On("GET", "/blobs/", modelstoretest.Always, modelstoretest.Status(403))
		bad.SetManifest("library/x:latest", "{}")
		// What is held answers now, but with something else.
		bad.Heal()
		bad.AddBlob(weights)
		s.downloadsMu.Lock()
		d := s.downloads[DigestOf(weights)]
		s.downloadsMu.Unlock()
		if d == nil || d.waiting != 2 {
			t.Fatalf("the download is not shared: %+v", d)
		}
		d.cancel()
		pulls.Wait()
		close(release)
		if failed == nil || fine != nil {
			t.Errorf("got %v and %v", failed, fine)
		}
		wantPulled(t, s, "good.example/a/x", good, "a/x:latest")
	})
}

func TestPullRepairsABlobThatHasNotItsSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		weights := noise(9, 3000)
		reg.AddModel("library/x:latest", weights)
		s := onOllama(t, reg)
		writeFile(t, s.BlobPath(DigestOf(weights)), "cut")
		if err := s.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
			t.Fatal(err)
		}
		wantPulled(t, s, "x", reg, "library/x:latest")
	})
}

func TestDeleteAndPruneSpareWhatAPullNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		shared := noise(10, 3000)
		reg.AddModel("library/x:latest", shared)
		reg.AddModel("library/y:latest", shared, []byte("slow"))
		s := onOllama(t, reg)
		if err := s.Pull(t.Context(), name(t, "x"), false, nil); err != nil {
			t.Fatal(err)
		}
		held, release := make(chan struct{}, 1), make(chan struct{})
		reg.On("GET", modelstoretest.DigestOf([]byte("slow")), 1, modelstoretest.Hold(held, release))
		done := make(chan error, 1)
		go func() { done <- s.Pull(t.Context(), name(t, "y"), false, nil) }()
		<-held
		if err := s.Delete(name(t, "x")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		wantPulled(t, s, "y", reg, "library/y:latest")
	})
}

func TestAnotherProgramsPruneSparesWhatALongPullHasFetched(t *testing.T) {
	reg := modelstoretest.NewRegistry()
	first, second := noise(11, 3000), noise(12, 3000)
	reg.AddModel("library/x:latest", first, second)
	s := onOllama(t, reg)
	held, release := make(chan struct{}, 10), make(chan struct{})
	reg.On("GET", modelstoretest.DigestOf(second), modelstoretest.Always, modelstoretest.Hold(held, release))
	done := make(chan error, 1)
	go func() { done <- s.Pull(t.Context(), name(t, "x"), false, nil) }()
	<-held
	later := openStore(t, s.dir)
	later.now = func() time.Time { return time.Now().Add(5 * time.Hour) }
	if _, err := later.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantPulled(t, s, "x", reg, "library/x:latest")
	if n := strings.Count(strings.Join(reg.Asked(), "\n"), modelstoretest.DigestOf(first)); n != 3 {
		t.Errorf("the first blob's three parts were asked for %d times", n)
	}
	info, err := s.statBlob(DigestOf(first))
	if err != nil || time.Until(info.ModTime()) > time.Minute {
		t.Errorf("its time is still ahead: %v, %v", info.ModTime(), err)
	}
}

func ExampleRegistryError() {
	fmt.Println(&RegistryError{Status: 404, Text: "not here"})
	fmt.Println(&RegistryError{Status: 403, Text: "denied"})
	fmt.Println(&RegistryError{Status: 500})
	// Output:
	// file does not exist
	// 403: denied
	// 500: Internal Server Error
}
