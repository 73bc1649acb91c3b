package safetensors

import (
	"bytes"
	"io"
	"io/fs"
	"strings"
	"time"
)

// The most bytes of files that are read into memory. Real ones stay below a quarter of
// that: gemma's tokenizer.json has 33 MB, its tokenizer.model 4.7 MB and its
// tokenizer_config.json 1.2 MB.
const (
	mostTokenizerJSON  = 128 << 20 // read piece by piece
	mostTokenizerModel = 16 << 20
	mostJSON           = 4 << 20
)

// bounded is a folder whose files are not too large for what is done with them.
type bounded struct{ fs.FS }

func (b bounded) Open(name string) (fs.File, error) {
	f, err := b.FS.Open(name)
	if err != nil || strings.HasSuffix(name, ".safetensors") {
		return f, err
	}
	most := int64(mostJSON)
	switch name {
	case "tokenizer.json":
		most = mostTokenizerJSON
	case "tokenizer.model":
		most = mostTokenizerModel
	}
	stat, err := f.Stat()
	if err == nil && stat.Size() > most {
		err = bad("%s has %d bytes, the most is %d", name, stat.Size(), most)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Glob finds names in the folder.
func (b bounded) Glob(pattern string) ([]string, error) { return fs.Glob(b.FS, pattern) }

// overlaid is a folder with other files in the place of some.
type overlaid struct {
	fs.FS
	files map[string][]byte
}

func (o overlaid) Open(name string) (fs.File, error) {
	if content, ok := o.files[name]; ok {
		return &inMemory{bytes.NewReader(content), name}, nil
	}
	return o.FS.Open(name)
}

// inMemory is a file that is nowhere else.
type inMemory struct {
	*bytes.Reader
	name string
}

var _ io.ReaderAt = inMemory{}

func (inMemory) Close() error                 { return nil }
func (f inMemory) Stat() (fs.FileInfo, error) { return f, nil }
func (f inMemory) Name() string               { return f.name }
func (inMemory) Mode() fs.FileMode            { return 0o444 }
func (inMemory) ModTime() time.Time           { return time.Time{} }
func (inMemory) IsDir() bool                  { return false }
func (inMemory) Sys() any                     { return nil }
