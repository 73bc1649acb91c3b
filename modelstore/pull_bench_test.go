package modelstore

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"cllm/modelstore/modelstoretest"
)

// largeBlob is a file of 400 MB, and a registry that sends it from the disk.
func largeBlob(b *testing.B) (server *httptest.Server, digest string) {
	b.Helper()
	const size = 400_000_000
	path := filepath.Join(b.TempDir(), "blob")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	h, block := sha256.New(), noise(1, 1<<20)
	for left := size; left > 0; left -= len(block) {
		block = block[:min(left, len(block))]
		block[0]++
		if _, err := io.MultiWriter(f, h).Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	digest = fmt.Sprintf("sha256:%x", h.Sum(nil))
	reg := modelstoretest.NewRegistry()
	reg.SetManifest("a/x:latest", modelstoretest.Manifest{Layers: []modelstoretest.Layer{
		{MediaType: mediaModel, Digest: digest, Size: size},
	}})
	reg.On("GET", "/blobs/", modelstoretest.Always, func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		http.ServeFile(w, req, path)
	})
	server = httptest.NewServer(reg)
	b.Cleanup(server.Close)
	return server, digest
}

// peakHeap returns a function that ends the watch and tells by how many MiB the heap
// grew at most.
func peakHeap() func() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, most := m.HeapInuse, m.HeapInuse
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapInuse)
			}
		}
	}()
	return func() float64 {
		close(stop)
		<-ended
		return float64(most-before) / (1 << 20)
	}
}

// BenchmarkPull400MB tells how fast a pull is in percent of curl and sha256sum, one
// after the other, of the same blob, and by how much the heap grows meanwhile.
func BenchmarkPull400MB(b *testing.B) {
	for _, tool := range []string{"curl", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Skip(err)
		}
	}
	server, digest := largeBlob(b)
	n := name(b, strings.TrimPrefix(server.URL, "http://")+"/a/x")
	var tools, ours time.Duration
	var heap float64
	for b.Loop() {
		b.StopTimer()
		file := filepath.Join(b.TempDir(), "curl")
		start := time.Now()
		if out, err := exec.Command("curl", "-sf", "-o", file, server.URL+"/v2/a/x/blobs/"+digest).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		if out, err := exec.Command("sha256sum", file).CombinedOutput(); err != nil || !strings.HasPrefix(string(out), digest[7:]) {
			b.Fatalf("%v: %s", err, out)
		}
		tools += time.Since(start)
		s := openStore(b, b.TempDir(), WithRegistry(Registry{Transport: NewTransport()}))
		peak := peakHeap()
		b.StartTimer()
		start = time.Now()
		if err := s.Pull(b.Context(), n, true, nil); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(start)
		b.StopTimer()
		heap = max(heap, peak())
		_ = os.RemoveAll(s.dir)
		_ = os.Remove(file)
		b.StartTimer()
	}
	b.ReportMetric(100*tools.Seconds()/ours.Seconds(), "%of-curl+sha256sum")
	b.ReportMetric(heap, "MiB-heap")
}
