package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxManifest bounds what is read as a manifest.
const maxManifest = 256 << 20

// chain is what a place holds: the generations, oldest first, by number.
type chain struct {
	p           place
	generations []int64
}

// readChain lists the manifests. ErrForeign where the place holds something and
// nothing of it is an export's.
func readChain(ctx context.Context, p place) (chain, error) {
	c := chain{p: p}
	err := p.list(ctx, manifestFolder, func(o object) error {
		if g, ok := generationOf(o.key); ok {
			c.generations = append(c.generations, g)
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	slices.Sort(c.generations)
	if len(c.generations) > 0 {
		return c, nil
	}
	errStop := errors.New("stop")
	err = p.list(ctx, "", func(o object) error {
		if !ours(o.key) {
			return fmt.Errorf("%w, such as %s: give a place of its own", ErrForeign, o.key)
		}
		return errStop // one of ours, from an export that did not come to its end
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return c, err
}

// ours reports whether a key is one that an export makes.
func ours(key string) bool {
	return filePattern.MatchString(key) || strings.HasPrefix(key, manifestFolder) || isTemporary(key)
}

func isTemporary(key string) bool {
	return strings.HasPrefix(key[strings.LastIndexByte(key, '/')+1:], temporary)
}

func (c chain) latest(ctx context.Context) (Manifest, bool, error) {
	if len(c.generations) == 0 {
		return Manifest{}, false, nil
	}
	m, err := c.manifest(ctx, c.generations[len(c.generations)-1])
	return m, true, err
}

func (c chain) manifest(ctx context.Context, generation int64) (Manifest, error) {
	key := manifestKey(generation)
	text, err := c.text(ctx, key)
	if err != nil {
		return Manifest{}, err
	}
	return decodeManifest(key, text)
}

// text reads a manifest.
func (c chain) text(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, smallTimeout)
	defer cancel()
	r, err := c.p.open(ctx, key)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, maxManifest))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return text, nil
}

// publish commits a generation. errExists when another exporter was first. A manifest
// that is there byte for byte is this one: the store took it, its answer was lost, and
// the client asked again.
func (c chain) publish(ctx context.Context, m Manifest) error {
	text, err := m.encode()
	if err != nil {
		return err
	}
	err = c.p.create(ctx, m.key(), bytes.NewReader(text))
	if errors.Is(err, errExists) {
		there, readErr := c.text(ctx, m.key())
		if readErr != nil {
			return errors.Join(err, readErr)
		}
		if bytes.Equal(there, text) {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	// Readers may list the manifests instead: the hint is no part of the commit.
	return c.p.replace(ctx, latestKey, fmt.Appendf(nil, "{\"generation\": %d, \"manifest\": %q}\n", m.Generation, m.key()))
}

// unlisted calls fn for every object of an export that no manifest lists.
func (c chain) unlisted(ctx context.Context, fn func(object) error) error {
	listed := map[string]bool{latestKey: true}
	for _, g := range c.generations {
		m, err := c.manifest(ctx, g)
		if err != nil {
			return err
		}
		listed[m.key()] = true
		for _, f := range m.Files {
			listed[f.Path] = true
		}
	}
	return c.p.list(ctx, "", func(o object) error {
		if listed[o.key] || !ours(o.key) {
			return nil
		}
		if _, manifest := generationOf(o.key); manifest {
			return nil // published meanwhile
		}
		return fn(o)
	})
}
