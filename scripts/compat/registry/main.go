// Command registry is a registry of models for the client tests, on a port of the
// loopback address, which it prints. It ends with its standard input.
//
//	registry TINY.GGUF
//
// It has library/tiny, the model of that file with short answers, and library/large,
// whose weights are 101 MB of noise: two parts as Ollama cuts them. As Ollama's does it
// sends whoever wants a blob to another host, which here is another name of its own.
//
// The tests ask it by POST for more: /test/hold?from=N has parts of blobs that begin at
// N or behind not sent, /test/release ends that, /test/asked answers what was asked
// for since, as a JSON list of lines.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"cllm/modelstore/modelstoretest"
)

const largeSize = 101_000_000

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: registry TINY.GGUF")
		os.Exit(2)
	}
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func serve(tiny string) error {
	weights, err := os.ReadFile(tiny)
	if err != nil {
		return err
	}
	reg := modelstoretest.NewRegistry()
	m := reg.AddModel("library/tiny:latest", weights)
	params := []byte(`{"num_predict":8,"temperature":0}`)
	m.Layers = append(m.Layers, modelstoretest.Layer{
		MediaType: "application/vnd.ollama.image.params", Digest: reg.AddBlob(params), Size: int64(len(params)),
	})
	reg.SetManifest("library/tiny:latest", m)
	large := make([]byte, largeSize)
	rand.New(rand.NewSource(1)).Read(large)
	reg.AddModel("library/large:latest", large)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	server := &http.Server{
		Handler:  &front{Registry: reg, elsewhere: "localhost:" + port},
		ErrorLog: log.New(io.Discard, "", 0), // clients are killed
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Close()
	}()
	if err := server.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// front is the registry with the tests' own routes.
type front struct {
	*modelstoretest.Registry
	elsewhere string // host
}

func (f *front) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch {
	case req.URL.Path == "/test/hold":
		from, err := strconv.Atoi(req.FormValue("from"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.On("GET", "/blobs/", modelstoretest.Always, func(w http.ResponseWriter, req *http.Request, serve http.Handler) {
			first, _, _ := strings.Cut(strings.TrimPrefix(req.Header.Get("Range"), "bytes="), "-")
			if at, err := strconv.Atoi(first); err == nil && at >= from {
				modelstoretest.Hold(nil, nil)(w, req, serve)
				return
			}
			serve.ServeHTTP(w, req)
		})
	case req.URL.Path == "/test/release":
		f.Heal()
	case req.URL.Path == "/test/asked":
		_ = json.NewEncoder(w).Encode(f.Asked()) // the test may have gone
	case req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") && req.Host != f.elsewhere:
		modelstoretest.Redirect(http.StatusTemporaryRedirect, "http://"+f.elsewhere)(w, req, f.Registry)
	default:
		f.Registry.ServeHTTP(w, req)
	}
}
