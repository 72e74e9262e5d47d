package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob://
	_ "gocloud.dev/blob/gcsblob"   // gs://
	_ "gocloud.dev/blob/s3blob"    // s3://
	"gocloud.dev/gcerrors"
)

// Bounds of one call, so that a store that does not answer is an error some time.
const (
	smallTimeout = time.Minute
	fileTimeout  = 30 * time.Minute
)

// partSize bounds the memory of an upload: one part is filled while one is sent.
const partSize = 8 << 20

// bucket is a place in an object store.
type bucket struct {
	b    *blob.Bucket
	name string
}

func openBucket(ctx context.Context, l Location) (place, error) {
	u := *l.url
	prefix := strings.Trim(u.Path, "/")
	u.Path = ""
	b, err := blob.OpenBucket(ctx, u.String())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", l, err)
	}
	if prefix != "" {
		b = blob.PrefixedBucket(b, prefix+"/")
	}
	return bucket{b, l.String()}, nil
}

// explain says in words what the store's own error may not.
func (b bucket) explain(what, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s %s in %s: the store does not answer: %w", what, key, b.name, err)
	}
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		return fmt.Errorf("%s %s in %s: %w (%w)", what, key, b.name, errNotFound, err)
	case gcerrors.FailedPrecondition:
		return fmt.Errorf("%s %s in %s: %w", what, key, b.name, errExists)
	case gcerrors.PermissionDenied:
		return fmt.Errorf("%s %s in %s: the store denies it; check the credentials and their rights to list, read, write and delete: %w", what, key, b.name, err)
	}
	return fmt.Errorf("%s %s in %s: %w", what, key, b.name, err)
}

func (b bucket) create(ctx context.Context, key string, body io.Reader) error {
	ctx, cancel := context.WithTimeout(ctx, fileTimeout)
	defer cancel()
	return b.explain("write", key, b.upload(ctx, cancel, key, body, true))
}

func (b bucket) replace(ctx context.Context, key string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, smallTimeout)
	defer cancel()
	return b.explain("write", key, b.upload(ctx, cancel, key, strings.NewReader(string(body)), false))
}

// upload cancels the write before it closes the writer when the body fails: closing
// alone would publish the half of it.
func (b bucket) upload(ctx context.Context, cancel func(), key string, body io.Reader, create bool) error {
	w, err := b.b.NewWriter(ctx, key, &blob.WriterOptions{
		IfNotExist: create, BufferSize: partSize, MaxConcurrency: 1, DisableContentTypeDetection: true,
		ContentType: "application/octet-stream",
	})
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, body); err != nil {
		cancel()
		_ = w.Close() // says that it was cancelled
		return err
	}
	return w.Close()
}

func (b bucket) open(ctx context.Context, key string) (io.ReadCloser, error) {
	r, err := b.b.NewReader(ctx, key, nil)
	if err != nil {
		return nil, b.explain("read", key, err)
	}
	return r, nil
}

func (b bucket) list(ctx context.Context, prefix string, fn func(object) error) error {
	it := b.b.List(&blob.ListOptions{Prefix: prefix})
	for {
		call, cancel := context.WithTimeout(ctx, smallTimeout)
		o, err := it.Next(call)
		cancel()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return b.explain("list", prefix+"*", err)
		}
		if err := fn(object{key: o.Key, size: o.Size, changed: o.ModTime}); err != nil {
			return err
		}
	}
}

func (b bucket) remove(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, smallTimeout)
	defer cancel()
	if err := b.b.Delete(ctx, key); gcerrors.Code(err) != gcerrors.NotFound {
		return b.explain("delete", key, err)
	}
	return nil
}

func (b bucket) close() error { return b.b.Close() }
