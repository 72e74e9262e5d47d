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
	b           *blob.Bucket
	name        string
	small, file time.Duration // how long a call may take
}

func openBucket(ctx context.Context, l Location) (place, error) {
	u := *l.url
	prefix := strings.Trim(u.Path, "/")
	u.Path = ""
	b, err := blob.OpenBucket(ctx, u.String())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", l, credentials(err))
	}
	if prefix != "" {
		b = blob.PrefixedBucket(b, prefix+"/")
	}
	return bucket{b: b, name: l.String(), small: smallTimeout, file: fileTimeout}, nil
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
	return fmt.Errorf("%s %s in %s: %w", what, key, b.name, credentials(err))
}

// noCredentials is what the stores' libraries say, in different places and under no
// code, when they have found no credentials.
var noCredentials = []string{"get credentials", "could not find default credentials", "metadata: GCE metadata", "AccountName is required", "DefaultAzureCredential"}

// noRegion is what the library of S3 says where none is set.
const noRegion = "Invalid region"

// credentials adds to an error of credentials or of a region what it is about.
func credentials(err error) error {
	for _, words := range noCredentials {
		if strings.Contains(err.Error(), words) {
			return fmt.Errorf("no credentials were found in the environment, see docs/warehouse.md for where each store's are looked for: %w", err)
		}
	}
	if strings.Contains(err.Error(), noRegion) {
		return fmt.Errorf("the region is not set, or is none: give it in AWS_REGION, or as region= in the URL: %w", err)
	}
	return err
}

func (b bucket) create(ctx context.Context, key string, body io.Reader) error {
	ctx, cancel := context.WithTimeout(ctx, b.file)
	defer cancel()
	return b.explain("write", key, b.upload(ctx, cancel, key, body, true))
}

func (b bucket) replace(ctx context.Context, key string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, b.small)
	defer cancel()
	return b.explain("write", key, b.upload(ctx, cancel, key, strings.NewReader(string(body)), false))
}

// upload cancels the write when the body fails, before the library sees that the body
// has ended: it would publish the half of it. The library reads the body by itself,
// since Azure's writer panics when it is closed after the store has refused.
func (b bucket) upload(ctx context.Context, cancel func(), key string, body io.Reader, create bool) error {
	from := &source{r: body, cancel: cancel}
	err := b.b.Upload(ctx, key, from, &blob.WriterOptions{
		IfNotExist: create, BufferSize: partSize, MaxConcurrency: 1, ContentType: "application/octet-stream",
	})
	if from.err != nil {
		return from.err
	}
	return err
}

// source is the body of an upload.
type source struct {
	r      io.Reader
	cancel func()
	err    error // with which the body failed
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
		s.cancel()
	}
	return n, err
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
		call, cancel := context.WithTimeout(ctx, b.small)
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
	ctx, cancel := context.WithTimeout(ctx, b.small)
	defer cancel()
	if err := b.b.Delete(ctx, key); gcerrors.Code(err) != gcerrors.NotFound {
		return b.explain("delete", key, err)
	}
	return nil
}

func (b bucket) close() error { return b.b.Close() }
