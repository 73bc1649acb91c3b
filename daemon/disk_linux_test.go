package daemon

import (
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cllm/modelstore/modelstoretest"
)

const diskSize = 8 << 20

// disk is a small file system, or what stands in for one.
type disk struct {
	dir  string
	full func() // leaves no room
	free func() // makes room again
	says string // in the error of a write
	real bool
}

// smallDisk mounts a file system of 8 MiB. A user who may not mount gets a limit on
// the size of files instead, which fails the same writes with another error.
func smallDisk(t *testing.T) disk {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("cllm-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize))
	if err != nil {
		if os.Getuid() == 0 && os.Getenv("CI") != "" {
			t.Fatalf("root can't mount a tmpfs here (%v), so a full disk can't be tested", err)
		}
		t.Logf("a tmpfs can't be mounted (%v): a limit on the size of files takes its place", err)
		return limitedFiles(t, dir)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	filler := filepath.Join(dir, "filler")
	return disk{
		dir: dir, says: "no space left on device", real: true,
		full: func() {
			f, err := os.Create(filler)
			if err == nil {
				_, err = io.Copy(f, zeros{})
				f.Close()
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("the disk can't be filled: %v", err)
			}
		},
		free: func() { os.Remove(filler) },
	}
}

func limitedFiles(t *testing.T, dir string) disk {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Skip(err)
	}
	set := func(most uint64) {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: most, Max: before.Max}); err != nil {
			t.Error(err)
		}
	}
	free := func() { set(min(diskSize, before.Max)) }
	t.Cleanup(func() { set(before.Cur) })
	free()
	return disk{dir: dir, says: "file too large", full: func() { set(0) }, free: free}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// wantNothingLeft fails unless the folder holds these models and not one file more.
func (d disk) wantNothingLeft(t *testing.T, models int) {
	t.Helper()
	f, err := modelstoretest.ReadFolder(filepath.Join(d.dir, "models"))
	if err != nil || len(f.Models) != models || len(f.Spare)+len(f.Broken) > 0 {
		t.Errorf("%d models, want %d; needless are %q, broken %q, %v", len(f.Models), models, f.Spare, f.Broken, err)
	}
}

func (d disk) wantFull(t *testing.T, what string, status, want int, body string) {
	t.Helper()
	if status != want || !strings.Contains(body, d.says) || !strings.Contains(body, `"error":`) || d.real && !strings.Contains(body, "free some space") {
		t.Errorf("%s: %d %s", what, status, body)
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(int64(n))).Read(b)
	return b
}

func TestAFullDiskIsReportedAndNothingIsLeftOnIt(t *testing.T) {
	d, reg := smallDisk(t), modelstoretest.NewLoopback(t)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	a := serveEmpty(t, func(o *Options) { o.Models, o.transport = filepath.Join(d.dir, "models"), transport })
	digest := a.upload(gguf(t, nil))
	a.do("POST", "/api/create", `{"model":"first","files":{"m.gguf":"`+digest+`"}}`)
	d.wantNothingLeft(t, 1)

	large := noise(diskSize + 1)
	r := a.do("POST", "/api/blobs/"+digestOf(large), string(large))
	d.wantFull(t, "an upload that is larger than the disk", r.status, 500, r.body)
	d.wantNothingLeft(t, 1)

	name, _ := reg.AddWithSystem("large:latest", large, "pulled")
	r = a.do("POST", "/api/pull", `{"model":"`+name+`","insecure":true}`)
	d.wantFull(t, "a pull that is larger than the disk", r.status, 200, r.body)
	d.wantNothingLeft(t, 1)

	// Another program fills the disk in the middle of a pull that fitted.
	name, _ = reg.AddWithSystem("fits:latest", noise(diskSize/2), "pulled")
	reg.On("GET", "/blobs/", 1, func(w http.ResponseWriter, req *http.Request, serve http.Handler) {
		d.full()
		serve.ServeHTTP(w, req)
	})
	r = a.do("POST", "/api/pull", `{"model":"`+name+`","insecure":true}`)
	d.wantFull(t, "a pull whose disk is filled meanwhile", r.status, 200, r.body)
	d.wantNothingLeft(t, 1)

	r = a.do("POST", "/api/create", `{"model":"second","from":"first","system":"No room for this."}`)
	if last := r.body[strings.LastIndex(strings.TrimSpace(r.body), "\n")+1:]; strings.Contains(last, "success") {
		t.Errorf("a create on a full disk: %s", r.body)
	}
	d.wantFull(t, "a create on a full disk", r.status, r.status, r.body)
	d.wantNothingLeft(t, 1)
	if r := a.do("POST", "/api/generate", `{"model":"first","prompt":"x","stream":false,"options":{"num_predict":1}}`); r.status != 200 {
		t.Errorf("a model on a full disk does not answer: %d %s", r.status, r.body)
	}

	d.free()
	for _, request := range [][2]string{
		{"/api/pull", `{"model":"` + name + `","insecure":true,"stream":false}`},
		{"/api/create", `{"model":"second","from":"first","system":"Now there is.","stream":false}`},
	} {
		if r := a.do("POST", request[0], request[1]); r.body != `{"status":"success"}` {
			t.Errorf("%s once there is room: %d %s", request[0], r.status, r.body)
		}
	}
	d.wantNothingLeft(t, 3)
}
