package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/parser"
	"github.com/ollama/ollama/types/model"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

func createCommand(c *console) *cobra.Command {
	var file, quantize string
	cmd := &cobra.Command{
		Use:   "create MODEL",
		Short: "Create a model",
		Args:  cobra.ExactArgs(1),
		RunE: withDaemon(func(cmd *cobra.Command, client *api.Client, args []string) error {
			return create(cmd.Context(), c, client, args[0], file, quantize)
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "Name of the Modelfile (default \"Modelfile\")")
	cmd.Flags().StringVarP(&quantize, "quantize", "q", "", "Quantize model to this level (e.g. q4_K_M)")
	return cmd
}

// create reads a Modelfile, uploads the files it names, and has the daemon make
// the model of them.
func create(ctx context.Context, c *console, client *api.Client, name, file, quantize string) error {
	if !model.ParseName(name).IsValid() {
		return fmt.Errorf("invalid model name: %s", name)
	}
	modelfile, dir, err := readModelfile(file)
	if err != nil {
		return err
	}

	d := newDisplay(c.err)
	defer d.finish()
	// Every file is read to find its digest, which can take minutes.
	d.status("gathering model components")
	req, err := components(ctx, modelfile, dir)
	if err != nil {
		return err
	}
	if isPath(req.From) {
		return fmt.Errorf("FROM %s: no such file or folder (relative to %s)", req.From, dir)
	}
	req.Model = name
	if quantize != "" {
		req.Quantize = quantize
	}
	if err := upload(ctx, client, d, req.Files, req.Adapters); err != nil {
		return err
	}
	req.Files, req.Adapters = sentNames(req.Files), sentNames(req.Adapters)

	watch := &transfer{display: d, label: func(r api.ProgressResponse) string {
		if r.Status != "" {
			return r.Status
		}
		return "pulling " + shortDigest(r.Digest) + "..."
	}}
	err = watch.ended(ctx, client.Create(ctx, req, watch.show))
	if err != nil && strings.Contains(err.Error(), "path or Modelfile are required") {
		return errors.New("the ollama server must be updated to use `cllm create` with this client")
	}
	return err
}

// readModelfile parses a Modelfile and returns the folder that its paths are
// relative to. Without a name it is ./Modelfile or, failing that, the model in
// the current folder.
func readModelfile(file string) (*parser.Modelfile, string, error) {
	path := file
	if path == "" {
		path = "Modelfile"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, "", err
	}
	dir := filepath.Dir(path)
	var text io.Reader
	f, err := os.Open(path)
	switch {
	case err == nil:
		defer f.Close()
		text = f
	case !errors.Is(err, os.ErrNotExist):
		return nil, "", err
	case file != "":
		return nil, "", fmt.Errorf("specified Modelfile wasn't found: %s", path)
	default:
		text = strings.NewReader("FROM .\n")
	}
	modelfile, err := parser.ParseFile(text)
	return modelfile, dir, err
}

// components makes the request of a Modelfile. The parser's hashing cannot be
// stopped: when ctx ends it is left behind, and ends with the process.
func components(ctx context.Context, modelfile *parser.Modelfile, dir string) (*api.CreateRequest, error) {
	var req *api.CreateRequest
	made := make(chan error, 1)
	go func() {
		adapter, err := adapterFolder(modelfile, dir)
		if err == nil {
			req, err = modelfile.CreateRequest(dir)
		}
		if err == nil && adapter != nil {
			req.Adapters = adapter
		}
		made <- err
	}()
	select {
	case err := <-made:
		return req, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// isPath tells whether a FROM that the parser took for a model's name, for want
// of such a file, can only be meant as a path.
func isPath(from string) bool {
	return slices.ContainsFunc([]string{"/", "./", "../", "~"}, func(prefix string) bool {
		return strings.HasPrefix(from, prefix)
	})
}

// upload sends files to the daemon, a few at a time. The maps are path to digest;
// the daemon answers at once for a blob it has.
func upload(ctx context.Context, client *api.Client, d *display, sets ...map[string]string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(runtime.GOMAXPROCS(0)-1, 1))
	for _, files := range sets {
		for path, digest := range files {
			g.Go(func() error { return uploadBlob(ctx, client, d, path, digest) })
		}
	}
	return g.Wait()
}

func uploadBlob(ctx context.Context, client *api.Client, d *display, path, digest string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	read := &countedReader{r: f, count: func(n int64) {
		d.bar(digest, "copying file "+shortDigest(digest), n, info.Size())
	}}
	if err := client.CreateBlob(ctx, digest, read); err != nil {
		return fmt.Errorf("copying %s to the server: %w", path, err)
	}
	read.count(info.Size()) // also when the daemon had it and read nothing
	return nil
}

// countedReader calls count with the bytes read so far.
type countedReader struct {
	r     io.Reader
	n     int64
	count func(int64)
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.count(c.n)
	return n, err
}

// sentNames turns path to digest into name to digest as the daemon wants it: the
// base name. Where two files share one (config.json and 1_Pooling/config.json),
// the deeper goes by its path from the folder of the other.
func sentNames(files map[string]string) map[string]string {
	if files == nil {
		return nil
	}
	paths := make([]string, 0, len(files))
	for path := range files {
		paths = append(paths, path)
	}
	depth := func(path string) int { return strings.Count(path, string(filepath.Separator)) }
	slices.SortFunc(paths, func(a, b string) int {
		if depth(a) != depth(b) {
			return depth(a) - depth(b)
		}
		return strings.Compare(a, b)
	})
	names := make(map[string]string, len(files))
	for _, path := range paths {
		name := filepath.Base(path)
		if _, taken := names[name]; taken {
			if rel, err := filepath.Rel(filepath.Dir(paths[0]), path); err == nil && filepath.IsLocal(rel) {
				name = filepath.ToSlash(rel)
			}
		}
		names[name] = files[path]
	}
	return names
}
