package modelstore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"
)

// Names of temporary files. The one for manifests stays invisible to Ollama, which
// looks for manifests four levels deep.
const (
	blobTemp     = "tmp-"
	manifestTemp = ".tmp-"
)

// folder is DIR/manifests or DIR/blobs. It is opened anew for every use: Ollama
// removes DIR/manifests with the last model and makes it again. Through the
// os.Root no link leads outside of it.
type folder struct {
	path  string
	fault func(step string) error // tests make steps fail; otherwise nil
}

// open opens the folder; the error is fs.ErrNotExist when it is not there.
func (f folder) open() (*os.Root, error) { return os.OpenRoot(f.path) }

// make opens the folder, made when it was not there.
func (f folder) make() (*os.Root, error) {
	if err := os.MkdirAll(f.path, 0o755); err != nil {
		return nil, err
	}
	return os.OpenRoot(f.path)
}

func (f folder) step(name string) error {
	if f.fault == nil {
		return nil
	}
	return f.fault(filepath.Base(f.path) + ": " + name)
}

// write puts a whole file in place, by way of a temporary file.
func (f folder) write(prefix, name string, content []byte) error {
	t, err := f.newTemp(prefix)
	if err != nil {
		return err
	}
	defer t.discard()
	if _, err := t.Write(content); err != nil {
		return err
	}
	return t.publish(name)
}

// temp is a file that is being written. It is locked while it is open, so that a
// leftover of a crash can be told from a file in use.
type temp struct {
	folder folder
	root   *os.Root
	file   *os.File
	name   string // "" once published
}

func (f folder) newTemp(prefix string) (*temp, error) {
	root, err := f.make()
	if err != nil {
		return nil, err
	}
	if err := f.step("create"); err != nil {
		root.Close()
		return nil, err
	}
	for {
		name := prefix + rand.Text()
		file, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			root.Close()
			return nil, err
		}
		// Between the two calls another program may have taken the file for a leftover.
		if lock(file) != lockedByOther && same(root, file, name) {
			return &temp{folder: f, root: root, file: file, name: name}, nil
		}
		file.Close()
	}
}

func same(root *os.Root, file *os.File, name string) bool {
	there, err := root.Lstat(name)
	if err != nil {
		return false
	}
	own, err := file.Stat()
	return err == nil && os.SameFile(there, own)
}

func (t *temp) Write(p []byte) (int, error) {
	if err := t.folder.step("write"); err != nil {
		return 0, err
	}
	return t.file.Write(p)
}

// path is where the file is now.
func (t *temp) path() string { return filepath.Join(t.folder.path, t.name) }

// rehash opens the file anew, after another wrote it by its path, and hashes it.
func (t *temp) rehash(ctx context.Context) (d Digest, size int64, err error) {
	f, err := t.root.OpenFile(t.name, os.O_RDWR, 0)
	if err != nil {
		return Digest{}, 0, err
	}
	if same(t.root, t.file, t.name) {
		defer f.Close() // the old one stays, and with it the lock
	} else {
		t.file.Close()
		t.file = f
		_ = lock(f)
	}
	hash := sha256.New()
	size, err = io.Copy(hash, &contextReader{ctx, f})
	return sumOf(hash), size, err
}

// publish makes the file durable under its name, which may lie in folders that are
// not there yet. The file is closed last: while it is open, it is locked.
func (t *temp) publish(name string) error {
	if err := t.folder.step("chmod"); err != nil {
		return err
	}
	if err := t.file.Chmod(0o644); err != nil {
		return err
	}
	if err := t.folder.step("sync"); err != nil {
		return err
	}
	if err := t.file.Sync(); err != nil {
		return err
	}
	dir := path.Dir(name)
	old := dir // the deepest folder that is there already
	for old != "." {
		if _, err := t.root.Stat(old); err == nil {
			break
		}
		old = path.Dir(old)
	}
	if err := t.root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := t.folder.step("rename"); err != nil {
		return err
	}
	if err := t.root.Rename(t.name, name); err != nil {
		return err
	}
	t.name = ""
	if err := t.folder.step("sync folder"); err != nil {
		return err
	}
	for ; ; dir = path.Dir(dir) {
		if err := syncDir(t.root, dir); err != nil {
			return err
		}
		if dir == old {
			return nil
		}
	}
}

// discard closes the file, and removes it unless it was published.
func (t *temp) discard() {
	if t.name != "" {
		_ = t.root.Remove(t.name)
	}
	t.file.Close()
	t.root.Close()
}

func syncDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some file systems can't sync folders, and need not.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// whileAbandoned calls remove if the temporary file, which one of our own kind wrote,
// is a leftover. The file stays locked meanwhile, so that nobody who has just made it
// takes it for theirs. Where files can't be locked, an hour without a write makes
// a leftover.
func whileAbandoned(root *os.Root, info fs.FileInfo, now time.Time, remove func() error) error {
	file, err := root.OpenFile(info.Name(), os.O_RDWR, 0)
	if err != nil {
		return nil // gone, or not ours
	}
	defer file.Close()
	switch lock(file) {
	case lockedByUs:
		return remove()
	case lockedByOther:
		return nil
	}
	if now.Sub(info.ModTime()) > youngBlob {
		return remove()
	}
	return nil
}

// readOnlyError says why the folder can't be written. It matches ErrReadOnly.
type readOnlyError struct {
	dir string
	err error
}

func (e *readOnlyError) Error() string {
	return fmt.Sprintf("the model folder %s can't be written (%v): run as the folder's owner, or set OLLAMA_MODELS to a folder that you may write", e.dir, e.err)
}

func (e *readOnlyError) Is(target error) bool { return target == ErrReadOnly }
func (e *readOnlyError) Unwrap() error        { return e.err }

// writeError gives the error of a change its cause and remedy.
func (s *Store) writeError(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return &readOnlyError{s.dir, err}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s: %w: free some space on the disk of %s, or set OLLAMA_MODELS to a folder on another one", what, err, s.dir)
	case errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("%s: %w: lift the limit on the size of files (ulimit -f), or set OLLAMA_MODELS to a folder on a disk that takes larger ones", what, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}
