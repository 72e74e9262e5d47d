package export

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// What callers branch on.
var (
	// ErrWrongURL says that a URL cannot be exported to whatever its content is.
	ErrWrongURL = errors.New("nothing can be exported there")
	// ErrTables says that a copy has no generations to prune.
	ErrTables = errors.New("tables of PostgreSQL hold only the latest state: there is nothing to prune")
	// ErrForeign says that the place holds something that is no export.
	ErrForeign = errors.New("holds something that is no export")

	errExists   = errors.New("it exists already")
	errNotFound = errors.New("it does not exist")
)

// place is where the files of an export lie. Keys have slashes.
type place interface {
	// create writes an object whole or not at all. errExists when there is one of
	// this key: of two that create the same one, one gets it.
	create(ctx context.Context, key string, body io.Reader) error
	// replace writes an object whole or not at all, whatever was there.
	replace(ctx context.Context, key string, body []byte) error
	// open reads an object; errNotFound when there is none.
	open(ctx context.Context, key string) (io.ReadCloser, error)
	// list calls fn for every object whose key begins with prefix. Those that a
	// write which was cut off left behind come too, under names of their own.
	list(ctx context.Context, prefix string, fn func(object) error) error
	remove(ctx context.Context, key string) error
	close() error
}

type object struct {
	key     string
	size    int64
	changed time.Time
}

// Location is a URL that was checked: where an export lies.
type Location struct {
	scheme string
	path   string // of a folder
	url    *url.URL
}

// Schemes lists the URLs that are understood, for messages.
const Schemes = "a folder, file://, s3://, gs://, azblob:// or postgres://"

// ParseURL reads the URL of an export. Errors never quote it: it may hold a password.
func ParseURL(s string) (Location, error) {
	if s == "" {
		return Location{}, fmt.Errorf("%w: it is empty; want %s", ErrWrongURL, Schemes)
	}
	if !strings.Contains(s, "://") {
		return folderLocation(s)
	}
	u, err := url.Parse(s)
	if err != nil {
		return Location{}, fmt.Errorf("%w: it cannot be read as a URL; want %s", ErrWrongURL, Schemes)
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" || u.Path == "" || u.RawQuery != "" {
			return Location{}, fmt.Errorf("%w: want file:///PATH, without a host and parameters", ErrWrongURL)
		}
		return folderLocation(u.Path)
	case "s3", "gs", "azblob":
		if u.Host == "" {
			return Location{}, fmt.Errorf("%w: want %s://BUCKET/PREFIX", ErrWrongURL, u.Scheme)
		}
		if u.User != nil {
			return Location{}, fmt.Errorf("%w: credentials do not belong into it; use the variables that the store's own tools use", ErrWrongURL)
		}
		return Location{scheme: u.Scheme, url: u}, nil
	case "postgres", "postgresql":
		return Location{scheme: "postgres", url: u}, nil
	}
	return Location{}, fmt.Errorf("%w: scheme %q is not known; want %s", ErrWrongURL, u.Scheme, Schemes)
}

func folderLocation(p string) (Location, error) {
	abs, err := filepath.Abs(p)
	if err != nil {
		return Location{}, fmt.Errorf("%w: %w", ErrWrongURL, err)
	}
	return Location{scheme: "file", path: abs}, nil
}

// Postgres reports whether the copy goes into tables, and not into files.
func (l Location) Postgres() bool { return l.scheme == "postgres" }

// String is the location without credentials and parameters.
func (l Location) String() string {
	if l.scheme == "file" {
		return l.path
	}
	return l.scheme + "://" + path.Join(l.url.Host, l.url.Path)
}

// Name is a short stable name of the location, for the mirror's list of readers.
func (l Location) Name() string {
	sum := sha256.Sum256([]byte(l.String()))
	return "export-" + hex.EncodeToString(sum[:8])
}

func (l Location) openPlace(ctx context.Context, write bool) (place, error) {
	if l.scheme == "file" {
		return openFolder(l.path, write)
	}
	return openBucket(ctx, l)
}
