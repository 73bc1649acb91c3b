package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ollama/ollama/api"
)

// modelName is what the model is called on every server that is measured.
const modelName = "bench"

// daemonProcess is a cllm of our own, with a store of its own.
type daemonProcess struct {
	cmd  *exec.Cmd
	dir  string
	url  string
	idle int64 // resident bytes with the model loaded and nothing to do
	file int64 // bytes of the model file
}

func startDaemon(ctx context.Context, o options) (*daemonProcess, error) {
	dir, err := os.MkdirTemp("", "cllm-bench-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	d := &daemonProcess{dir: dir, url: "http://127.0.0.1:" + strconv.Itoa(port)}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.cmd = exec.CommandContext(ctx, o.binary, "serve")
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(syscall.SIGTERM) }
	d.cmd.Env = append(os.Environ(), "OLLAMA_HOST="+d.url, "OLLAMA_MODELS="+filepath.Join(dir, "models"),
		"OLLAMA_KEEP_ALIVE=-1", "OLLAMA_CONTEXT_LENGTH=4096", "OLLAMA_MAX_QUEUE=512")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("the daemon does not start: %w; build it with make build", err)
	}
	if err := d.prepare(ctx, o); err != nil {
		text, _ := os.ReadFile(log.Name())
		d.stop()
		return nil, fmt.Errorf("%w\nthe daemon's log:\n%s", err, bytes.TrimSpace(text))
	}
	return d, nil
}

// prepare waits for the daemon, puts the model into its store and loads it.
func (d *daemonProcess) prepare(ctx context.Context, o options) error {
	base, err := url.Parse(d.url)
	if err != nil {
		return err
	}
	client := api.NewClient(base, http.DefaultClient)
	deadline := time.Now().Add(20 * time.Second)
	for client.Heartbeat(ctx) != nil {
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.New("the daemon does not answer")
		}
		time.Sleep(50 * time.Millisecond)
	}
	f, err := os.Open(o.model)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha256.New()
	if d.file, err = io.Copy(hash, f); err != nil {
		return err
	}
	digest := fmt.Sprintf("sha256:%x", hash.Sum(nil))
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := client.CreateBlob(ctx, digest, f); err != nil {
		return err
	}
	create := &api.CreateRequest{Model: modelName, Files: map[string]string{"model.gguf": digest}}
	if err := client.Create(ctx, create, func(api.ProgressResponse) error { return nil }); err != nil {
		return err
	}
	load := &api.GenerateRequest{Model: modelName}
	if err := client.Generate(ctx, load, func(api.GenerateResponse) error { return nil }); err != nil {
		return err
	}
	d.idle, err = resident(d.cmd.Process.Pid)
	return err
}

func (d *daemonProcess) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	_ = d.cmd.Wait()
	_ = os.RemoveAll(d.dir)
}

// resident is the memory of a process that is in RAM, in bytes.
func resident(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the kernel does not say how much memory the daemon uses")
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
