package modelstore

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cllm/modelstore/modelstoretest"
)

// pushed makes the model x in a store that reaches the registry.
func pushed(t testing.TB, reg *modelstoretest.Registry) (s *Store, m *Model) {
	t.Helper()
	s = onOllama(t, reg)
	createSmall(t, s, "x", 4000)
	return s, get(t, s, "x")
}

// wantAtRegistry fails the test unless the registry has all of the model x.
func wantAtRegistry(t testing.TB, s *Store, reg *modelstoretest.Registry) {
	t.Helper()
	m, err := decodeManifest(strings.NewReader(reg.ManifestOf("library/x:latest")))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range m.blobs() {
		want, err := os.ReadFile(s.BlobPath(l.Digest))
		if err != nil || !bytes.Equal(reg.Blob(l.Digest.String()), want) {
			t.Errorf("%s is not what it was: %v", l.Digest, err)
		}
	}
	if len(s.held) != 0 {
		t.Error("blobs are held")
	}
}

func TestPushSendsAModelAndTellsItInOllamasWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		s, _ := pushed(t, reg)
		var told statuses
		if err := s.Push(t.Context(), name(t, "X"), false, told.tell); err != nil {
			t.Fatal(err)
		}
		wantAtRegistry(t, s, reg)
		if len(told) != 5 || told[0].Status != "retrieving manifest" || told[3].Status != "pushing manifest" || told[4].Status != "success" {
			t.Errorf("progress: %v", told)
		}
		for _, p := range told[1:3] {
			if p.Status != "pushing "+p.Digest[7:19] || p.Completed != p.Total || p.Total == 0 {
				t.Errorf("progress: %v", p)
			}
		}
		reg.Asked()
		if err := s.Push(t.Context(), name(t, "x"), false, nil); err != nil {
			t.Fatal(err)
		}
		for _, line := range reg.Asked() {
			if strings.HasPrefix(line, "POST") || strings.HasPrefix(line, "PATCH") {
				t.Errorf("a second push sends what is there: %s", line)
			}
		}
	})
}

func TestPushedAndPulledModelsAreTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		s, m := pushed(t, reg)
		if err := s.Push(t.Context(), m.Name, false, nil); err != nil {
			t.Fatal(err)
		}
		other := onOllama(t, reg)
		if err := other.Pull(t.Context(), m.Name, false, nil); err != nil {
			t.Fatal(err)
		}
		a, b := files(t, s.dir+"/blobs"), files(t, other.dir+"/blobs")
		if diff := cmp.Diff(a, b); diff != "" {
			t.Error("the blobs differ")
		}
	})
}

func TestPushToARegistryThatFails(t *testing.T) {
	status := modelstoretest.Status
	tests := []struct {
		name  string
		order func(*modelstoretest.Registry)
		want  string
	}{
		{"500 for the first request", func(r *modelstoretest.Registry) { r.On("HEAD", "", 1, status(500)) }, ""},
		{"500 where the upload begins", func(r *modelstoretest.Registry) { r.On("POST", "", 2, status(500)) }, ""},
		{"500 for a part", func(r *modelstoretest.Registry) { r.On("PATCH", "", 2, status(502)) }, ""},
		{"a part of which half arrives", func(r *modelstoretest.Registry) { r.On("PATCH", "", 1, half()) }, ""},
		{"429 at the end", func(r *modelstoretest.Registry) { r.On("PUT", "/uploads/", 1, status(429, "Retry-After", "7")) }, ""},
		{"500 for the manifest", func(r *modelstoretest.Registry) { r.On("PUT", "/manifests/", 3, status(500)) }, ""},
		{"a part refused for ever", func(r *modelstoretest.Registry) { r.On("PATCH", "", modelstoretest.Always, status(500)) }, "max retries exceeded: 500: as ordered"},
		{"403", func(r *modelstoretest.Registry) { r.On("POST", "", modelstoretest.Always, status(403)) }, "403: as ordered"},
		{"404", func(r *modelstoretest.Registry) { r.On("POST", "", modelstoretest.Always, status(404)) }, "file does not exist"},
		{"401", func(r *modelstoretest.Registry) { r.On("", "", modelstoretest.Always, status(401)) }, "unauthorized: access denied"},
		{"no address for the parts", func(r *modelstoretest.Registry) { r.On("POST", "", modelstoretest.Always, status(202)) }, "does not tell where the upload goes on"},
		{"an address that is none", func(r *modelstoretest.Registry) {
			r.On("POST", "", modelstoretest.Always, status(202, "Location", "://"))
		}, "tells no address"},
		{"a manifest refused", func(r *modelstoretest.Registry) { r.On("PUT", "/manifests/", modelstoretest.Always, status(400)) }, "400: as ordered"},
		{"a stall", func(r *modelstoretest.Registry) { r.On("HEAD", "", 1, modelstoretest.Hold(nil, nil)) }, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				reg := modelstoretest.NewRegistry()
				s, m := pushed(t, reg)
				before := files(t, s.dir)
				test.order(reg)
				err := s.Push(t.Context(), m.Name, false, nil)
				if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("got %v, want %q", err, test.want)
				}
				if err != nil {
					if reg.ManifestOf("library/x:latest") != "" {
						t.Error("the registry has the model's name")
					}
					reg.Heal()
					if err := s.Push(t.Context(), m.Name, false, nil); err != nil {
						t.Errorf("the next push: %v", err)
					}
				}
				wantAtRegistry(t, s, reg)
				if diff := cmp.Diff(before, files(t, s.dir)); diff != "" {
					t.Errorf("the store changed:\n%s", diff)
				}
			})
		})
	}
}

// half keeps half of a part, as docker-registry does, and cuts the connection.
func half() modelstoretest.Fault {
	return func(_ http.ResponseWriter, req *http.Request, serve http.Handler) {
		req.Body = io.NopCloser(io.LimitReader(req.Body, req.ContentLength/2))
		serve.ServeHTTP(&nowhere{}, req)
		panic(http.ErrAbortHandler)
	}
}

type nowhere struct{}

func (*nowhere) Header() http.Header         { return http.Header{} }
func (*nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (*nowhere) WriteHeader(int)             {}

func TestAPushThatBreaksOffGoesOnWhereTheRegistryStands(t *testing.T) {
	lies := func(offset string) func(*modelstoretest.Registry) {
		return func(r *modelstoretest.Registry) {
			r.On("PATCH", "", 1, half())
			r.On("GET", "/uploads/", 1, modelstoretest.Status(204, "Range", offset))
		}
	}
	tests := []struct {
		name    string
		order   func(*modelstoretest.Registry)
		uploads int // that are begun, for two blobs
	}{
		{"half of a part", func(r *modelstoretest.Registry) { r.On("PATCH", "", 1, half()) }, 2},
		{"halves of halves, more often than tries are", func(r *modelstoretest.Registry) { r.On("PATCH", "", 9, half()) }, 2},
		{"half of the third part", func(r *modelstoretest.Registry) {
			r.On("PATCH", "", 2, func(w http.ResponseWriter, req *http.Request, serve http.Handler) { serve.ServeHTTP(w, req) })
			r.On("PATCH", "", 1, half())
		}, 2},
		{"a part whose answer is lost", func(r *modelstoretest.Registry) { r.On("PATCH", "", 1, unheard()) }, 2},
		{"the end refused for now", func(r *modelstoretest.Registry) { r.On("PUT", "/uploads/", 1, modelstoretest.Status(503)) }, 2},
		{"and the registry is away for a while", func(r *modelstoretest.Registry) {
			r.On("PATCH", "", 1, half())
			r.On("GET", "/uploads/", 2, modelstoretest.Status(502))
		}, 2},
		{"nothing of a part", func(r *modelstoretest.Registry) { r.On("PATCH", "", 1, modelstoretest.Status(500)) }, 3},
		{"and it does not tell", func(r *modelstoretest.Registry) {
			r.On("PATCH", "", 1, half())
			r.On("GET", "/uploads/", modelstoretest.Always, modelstoretest.Status(404))
		}, 3},
		{"and it has lost the upload, and does not know", func(r *modelstoretest.Registry) {
			r.On("PATCH", "", 1, half())
			r.On("GET", "/uploads/", modelstoretest.Always, modelstoretest.Status(500))
		}, 3},
		{"and it tells too little", lies("0-9"), 3},
		{"and it tells too much", lies("0-99999999"), 3},
		{"and it tells nonsense", lies("bytes 1-2/3"), 3},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := modelstoretest.NewRegistry()
				s, m := pushed(t, reg)
				test.order(reg)
				if err := s.Push(t.Context(), m.Name, false, nil); err != nil {
					t.Fatal(err)
				}
				wantAtRegistry(t, s, reg)
				asked := strings.Join(reg.Asked(), "\n")
				if n := strings.Count(asked, "POST "); n != test.uploads {
					t.Errorf("%d uploads were begun, want %d:\n%s", n, test.uploads, asked)
				}
			})
		})
	}
}

// unheard takes a part, and cuts the connection before it says so.
func unheard() modelstoretest.Fault {
	return func(_ http.ResponseWriter, req *http.Request, serve http.Handler) {
		serve.ServeHTTP(&nowhere{}, req)
		panic(http.ErrAbortHandler)
	}
}

func TestPushMountsWhatAnotherModelHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		reg.Mounts()
		s := onOllama(t, reg)
		createSmall(t, s, "base", 4000)
		create(t, s, CreateRequest{Name: name(t, "x"), From: "base", System: "new"})
		content, err := os.ReadFile(get(t, s, "x").ModelPath)
		if err != nil {
			t.Fatal(err)
		}
		digest := reg.AddBlob(content)
		reg.On("HEAD", digest, 1, modelstoretest.Status(404)) // it is in another repository
		if err := s.Push(t.Context(), name(t, "x"), false, nil); err != nil {
			t.Fatal(err)
		}
		wantAtRegistry(t, s, reg)
	})
}

func TestPushSendsPartsWhereTheRegistryWantsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		reg.SendPartsTo("https://parts.example")
		got := make(chan string, 10)
		parts := http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Authorization") != "" || req.Method != http.MethodPut {
				t.Errorf("%s with %q", req.Method, req.Header.Get("Authorization"))
			}
			body, _ := io.ReadAll(req.Body)
			sum := md5.Sum(body)
			got <- fmt.Sprintf("%x", md5.Sum(sum[:])) + "-1"
		})
		reg.RequireToken("", 0)
		s := networked(t, t.TempDir(), map[string]http.Handler{"registry.ollama.ai": reg, "parts.example": parts})
		s.registry.leastPart = 0
		createSmall(t, s, "x", 4000)
		etags := make(chan string, 10)
		reg.On("PUT", "/uploads/", modelstoretest.Always, func(w http.ResponseWriter, req *http.Request, serve http.Handler) {
			etags <- req.URL.Query().Get("etag")
			reg.AddBlob(mustRead(t, s, req.URL.Query().Get("digest")))
			w.WriteHeader(http.StatusCreated)
		})
		if err := s.Push(t.Context(), name(t, "x"), false, nil); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if part, etag := <-got, <-etags; part != etag {
				t.Errorf("the registry hears of %s, its store got %s", etag, part)
			}
		}
	})
}

func mustRead(t testing.TB, s *Store, digest string) []byte {
	t.Helper()
	d, err := ParseDigest(digest)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.BlobPath(d))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPushOfAModelThatIsNotThereIsToldAsOllamaTellsIt(t *testing.T) {
	s := openStore(t, t.TempDir())
	var told statuses
	err := s.Push(t.Context(), name(t, "x"), false, told.tell)
	if want := "open " + s.dir + "/" + library + "/x/latest: no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
	if diff := cmp.Diff(statuses{{Status: "retrieving manifest"}, {Status: "couldn't retrieve manifest"}}, told); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
}

func TestACancelledPushEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := modelstoretest.NewRegistry()
		s, m := pushed(t, reg)
		reg.On("PATCH", "", modelstoretest.Always, modelstoretest.Hold(nil, nil))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		if err := s.Push(ctx, m.Name, false, nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 5*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}
