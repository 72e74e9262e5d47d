package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// folder is a place in a file system. A library's would do, but the ones looked at
// test whether a file exists before they rename another over it, so that two
// processes both get it, and flush nothing to the disk.
type folder struct {
	root string
	sync func(*os.File) error // flushes a file to the disk
}

// temporary marks files that a write which was cut off left behind.
const temporary = ".tmp-"

func openFolder(root string, write bool) (place, error) {
	info, err := os.Stat(root)
	switch {
	case errors.Is(err, fs.ErrNotExist) && write:
		if err := os.MkdirAll(root, 0o750); err != nil {
			return nil, err
		}
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no folder %s", root)
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, fmt.Errorf("%w: %s is no folder", ErrWrongURL, root)
	}
	return folder{root, (*os.File).Sync}, nil
}

func (f folder) file(key string) string { return filepath.Join(f.root, filepath.FromSlash(key)) }

// create links a finished file to its name, which fails where there is one.
func (f folder) create(ctx context.Context, key string, body io.Reader) error {
	return f.write(ctx, key, body, func(temp, name string) error {
		err := os.Link(temp, name)
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%s: %w", key, errExists)
		}
		return errors.Join(err, os.Remove(temp))
	})
}

func (f folder) replace(ctx context.Context, key string, body []byte) error {
	return f.write(ctx, key, strings.NewReader(string(body)), os.Rename)
}

// write puts body into a temporary file beside its place, flushes it, and calls publish.
func (f folder) write(ctx context.Context, key string, body io.Reader, publish func(temp, name string) error) (err error) {
	name := f.file(key)
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, temporary+"*")
	if err != nil {
		return err
	}
	_, err = io.Copy(temp, body)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = f.sync(temp)
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	if err := publish(temp.Name(), name); err != nil {
		return err
	}
	return syncFolder(dir)
}

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir) // #nosec G304 -- a folder of the export
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f folder) open(_ context.Context, key string) (io.ReadCloser, error) {
	file, err := os.Open(f.file(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", key, errNotFound)
	}
	return file, err
}

func (f folder) list(ctx context.Context, prefix string, fn func(object) error) error {
	// Only the folder that the prefix names is walked.
	dir := f.root
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		dir = f.file(prefix[:i])
	}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(f.root, name)
		if err != nil {
			return err
		}
		key := filepath.ToSlash(rel)
		if !strings.HasPrefix(key, prefix) {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) { // another exporter's temporary file
			return nil
		}
		if err != nil {
			return err
		}
		return fn(object{key: key, size: info.Size(), changed: info.ModTime()})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (f folder) remove(_ context.Context, key string) error {
	name := f.file(key)
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for dir := filepath.Dir(name); dir != f.root; dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil { // not empty
			break
		}
	}
	return nil
}

func (f folder) close() error { return nil }
