package export

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Listed is one generation of a copy.
type Listed struct {
	Manifest
	Rows, Bytes int64
}

// List reads the manifests of a copy, oldest first.
func List(ctx context.Context, l Location) (list []Listed, err error) {
	if l.Postgres() {
		return listTables(ctx, l)
	}
	p, err := l.openPlace(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	c, err := readChain(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l, err)
	}
	for _, g := range c.generations {
		m, err := c.manifest(ctx, g)
		if err != nil {
			return nil, err
		}
		list = append(list, listed(m))
	}
	return list, nil
}

func listed(m Manifest) Listed {
	l := Listed{Manifest: m, Rows: m.rows()}
	for _, f := range m.Files {
		l.Bytes += f.Bytes
	}
	return l
}

// leftover is how old an object must be that no manifest lists before it counts as
// left from an export that was killed.
const leftover = 24 * time.Hour

// Pruned is what Prune deleted.
type Pruned struct {
	Generations, Files, Leftovers int
	Bytes                         int64
	// Young are files that no manifest lists either and that stay: an export under way
	// may be writing them.
	Young int
	// Kept is the full generation that the copy begins with now; 0 without any.
	Kept int64
}

// Prune deletes the generations before the newest full one, which replaces them,
// and files of exports that were killed more than a day ago. With dry nothing is
// deleted. A manifest goes before its files, so that no reader is sent to one that is gone.
func Prune(ctx context.Context, l Location, dry bool, now time.Time) (result Pruned, err error) {
	if l.Postgres() {
		return result, ErrTables
	}
	p, err := l.openPlace(ctx, false)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	c, err := readChain(ctx, p)
	if err != nil {
		return result, fmt.Errorf("%s: %w", l, err)
	}
	var old []Manifest
	for _, g := range c.generations {
		m, err := c.manifest(ctx, g)
		if err != nil {
			return result, err
		}
		if m.Kind == KindFull {
			result.Kept = m.Generation
		}
		old = append(old, m)
	}
	remove := func(key string) error {
		if dry {
			return nil
		}
		return p.remove(ctx, key)
	}
	// Leftovers first: the files of pruned generations must not be counted as such.
	err = c.unlisted(ctx, func(o object) error {
		if now.Sub(o.changed) < leftover {
			result.Young++
			return nil
		}
		result.Leftovers++
		result.Bytes += o.size
		return remove(o.key)
	})
	if err != nil {
		return result, err
	}
	for _, m := range old {
		if m.Generation >= result.Kept {
			break
		}
		if err := remove(m.key()); err != nil {
			return result, err
		}
		result.Generations++
		for _, f := range m.Files {
			if err := remove(f.Path); err != nil {
				return result, err
			}
			result.Files++
			result.Bytes += f.Bytes
		}
	}
	return result, nil
}
