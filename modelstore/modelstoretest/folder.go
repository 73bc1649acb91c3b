package modelstoretest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// Folder is what the files of a model folder say, read without the store's code.
type Folder struct {
	Models map[string]Found // by name, as clients write it
	Broken []string         // sentences about models that are not whole and blobs that are not what their names say
	Spare  []string         // files in blobs/ and manifests/ that no model needs
}

// Found is a model on disk.
type Found struct {
	System  string // its text
	Weights string // digest
}

var blobName = regexp.MustCompile(`^sha256-[0-9a-f]{64}$`)

// ReadFolder reads a model folder, and every byte of its blobs.
func ReadFolder(dir string) (Folder, error) {
	f := Folder{Models: map[string]Found{}}
	sizes := map[string]int64{}
	var blobs []string
	err := eachFile(filepath.Join(dir, "blobs"), func(p string) error {
		blobs = append(blobs, p)
		if !blobName.MatchString(p) {
			return nil
		}
		sum, size, err := hashFile(filepath.Join(dir, "blobs", p))
		if err != nil {
			return err
		}
		if sizes[p] = size; p != sum {
			f.Broken = append(f.Broken, fmt.Sprintf("the file blobs/%s has %d bytes with the digest %s", p, size, sum))
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	used := map[string]bool{}
	err = eachFile(filepath.Join(dir, "manifests"), func(p string) error {
		if strings.Count(p, "/") != 3 {
			f.Spare = append(f.Spare, "manifests/"+p)
			return nil
		}
		return f.readModel(dir, p, sizes, used)
	})
	for _, p := range blobs {
		if !used[p] {
			f.Spare = append(f.Spare, "blobs/"+p)
		}
	}
	return f, err
}

// readModel reads the manifest at p, and takes note of what it needs.
func (f *Folder) readModel(dir, p string, sizes map[string]int64, used map[string]bool) error {
	raw, err := os.ReadFile(filepath.Join(dir, "manifests", p))
	if err != nil {
		return err
	}
	type layer struct {
		MediaType, Digest string
		Size              int64
	}
	var m struct {
		Config layer
		Layers []layer
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		f.Broken = append(f.Broken, fmt.Sprintf("manifests/%s is no manifest: %v", p, err))
		return nil
	}
	var found Found
	for _, l := range append(m.Layers, m.Config) {
		file := strings.Replace(l.Digest, ":", "-", 1)
		used[file] = true
		if size, there := sizes[file]; !there || size != l.Size {
			f.Broken = append(f.Broken, fmt.Sprintf("manifests/%s needs %s with %d bytes; there is %v with %d", p, file, l.Size, there, size))
			continue
		}
		switch {
		case strings.HasSuffix(l.MediaType, "image.model"):
			found.Weights = l.Digest
		case strings.HasSuffix(l.MediaType, "image.system"):
			text, err := os.ReadFile(filepath.Join(dir, "blobs", file))
			if err != nil {
				return err
			}
			found.System = string(text)
		}
	}
	f.Models[clientName(p)] = found
	return nil
}

// clientName turns the path of a manifest into the name that clients write.
func clientName(p string) string {
	dir, tag := path.Split(p)
	name := strings.TrimPrefix(path.Clean(dir), "registry.ollama.ai/")
	return strings.TrimPrefix(name, "library/") + ":" + tag
}

// eachFile visits the files below dir, which need not be there.
func eachFile(dir string, visit func(p string) error) error {
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		return visit(filepath.ToSlash(rel))
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func hashFile(p string) (name string, size int64, err error) {
	file, err := os.Open(p)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	h := sha256.New()
	size, err = io.Copy(h, file)
	return "sha256-" + hex.EncodeToString(h.Sum(nil)), size, err
}
