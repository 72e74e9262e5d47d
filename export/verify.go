package export

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// Difference is one thing that does not hold.
type Difference struct {
	Generation int64  `json:"generation"`
	Table      string `json:"table"`
	File       string `json:"file"`
	What       string `json:"what"`
	Expected   string `json:"expected"`
	Actual     string `json:"actual"`
}

// Verified is what a verification looked at and found.
type Verified struct {
	Generations int
	Files       int
	Rows        int64
	Differences []Difference
	// Mirror says whether the newest totals were held against the mirror: "compared",
	// or why not.
	Mirror string
	// Unlisted counts objects that no manifest lists: another exporter is at work, or
	// one was killed. Readers do not see them.
	Unlisted int
}

// Verify reads every file of the copy again and holds it against its manifest, the
// manifests against each other, and the newest totals against the mirror where it
// still knows what it held then. m may be nil.
func Verify(ctx context.Context, l Location, m mirror.Feed, progress func(file string)) (v Verified, err error) {
	if l.Postgres() {
		return verifyTables(ctx, l, m)
	}
	p, err := l.openPlace(ctx, false)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	c, err := readChain(ctx, p)
	if err != nil {
		return v, fmt.Errorf("%s: %w", l, err)
	}
	if len(c.generations) == 0 {
		return v, fmt.Errorf("%s holds no generation yet", l)
	}
	var before *Manifest
	for _, g := range c.generations {
		now, err := c.manifest(ctx, g)
		if err != nil {
			return v, err
		}
		v.Generations++
		v.checkLink(before, now)
		if err := v.checkFiles(ctx, p, now, progress); err != nil {
			return v, err
		}
		before = &now
	}
	if err := c.unlisted(ctx, func(object) error { v.Unlisted++; return nil }); err != nil {
		return v, err
	}
	v.Mirror, err = v.checkMirror(ctx, m, l, *before)
	return v, err
}

func (v *Verified) differ(m Manifest, table, file, what string, expected, actual any) {
	v.Differences = append(v.Differences, Difference{
		Generation: m.Generation, Table: table, File: file, What: what,
		Expected: fmt.Sprint(expected), Actual: fmt.Sprint(actual),
	})
}

// checkLink holds a manifest against the one before it.
func (v *Verified) checkLink(before *Manifest, now Manifest) {
	if before == nil {
		if now.Kind != KindFull {
			v.differ(now, "", now.key(), "the oldest generation is full", KindFull, now.Kind)
		}
		return
	}
	if now.Parent == nil || *now.Parent != before.Generation {
		v.differ(now, "", now.key(), "its parent is the generation before it", before.Generation, parentText(now))
	}
	if now.Kind == KindIncremental && now.FromPosition != before.ToPosition {
		v.differ(now, "", now.key(), "it begins where its parent ended", before.ToPosition, now.FromPosition)
	}
	if now.Position <= before.Position {
		v.differ(now, "", now.key(), "its position is after its parent's", before.Position, now.Position)
	}
}

func parentText(m Manifest) any {
	if m.Parent == nil {
		return "none"
	}
	return *m.Parent
}

// checkFiles reads the files of a generation.
func (v *Verified) checkFiles(ctx context.Context, p place, m Manifest, progress func(string)) error {
	found := map[string]*stats{}
	for _, f := range m.Files {
		if progress != nil {
			progress(f.Path)
		}
		tables, err := tablesNamed([]string{f.Table})
		if err != nil {
			return fmt.Errorf("%s: %w", m.key(), err)
		}
		s, err := v.checkFile(ctx, p, m, f, tables[0])
		if err != nil {
			return err
		}
		if found[f.Table] == nil {
			found[f.Table] = &stats{}
		}
		if err := found[f.Table].merge(s); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Tables)) {
		got := found[name]
		if got == nil {
			got = &stats{}
		}
		v.compare(m, name, "", mirror.TableTotals{Rows: m.Tables[name].Rows, Sums: m.Tables[name].Sums}, *got)
		if m.Kind == KindFull {
			v.compare(m, name, m.key(), m.Totals[name], *got)
		}
	}
	return nil
}

func (v *Verified) compare(m Manifest, table, file string, want mirror.TableTotals, got stats) {
	if want.Rows != got.rows {
		v.differ(m, table, file, "rows", want.Rows, got.rows)
	}
	if !sameSums(want.Sums, got.sums()) {
		v.differ(m, table, file, "sums", want.Sums, got.sums())
	}
}

// sameSums compares sums; a currency whose sum is zero may be left out.
func sameSums(a, b map[string]int64) bool {
	for _, pair := range [][2]map[string]int64{{a, b}, {b, a}} {
		for currency, amount := range pair[0] {
			if pair[1][currency] != amount {
				return false
			}
		}
	}
	return true
}

// checkFile reads one file whole.
func (v *Verified) checkFile(ctx context.Context, p place, m Manifest, f File, t table) (s stats, err error) {
	r, err := p.open(ctx, f.Path)
	if errors.Is(err, errNotFound) {
		v.differ(m, f.Table, f.Path, "the file is there", f.SHA256, "none")
		return s, nil
	}
	if err != nil {
		return s, err
	}
	local, err := os.CreateTemp("", "creditmirror-verify-*")
	if err != nil {
		return s, errors.Join(err, r.Close())
	}
	defer func() { err = errors.Join(err, local.Close(), os.Remove(local.Name())) }()
	digest := sha256.New()
	size, err := io.Copy(io.MultiWriter(local, digest), r)
	if err = errors.Join(err, r.Close()); err != nil {
		return s, fmt.Errorf("read %s: %w", f.Path, err)
	}
	v.Files++
	if size != f.Bytes {
		v.differ(m, f.Table, f.Path, "bytes", f.Bytes, size)
	}
	if sum := hex.EncodeToString(digest.Sum(nil)); sum != f.SHA256 {
		v.differ(m, f.Table, f.Path, "sha256", f.SHA256, sum)
	}
	if _, err := local.Seek(0, io.SeekStart); err != nil {
		return s, err
	}
	s, err = readBack(local, formatOf(f.Path), t, m.Tables[f.Table].Columns)
	if err != nil {
		v.differ(m, f.Table, f.Path, "the file can be read", "yes", err)
		return s, nil
	}
	v.Rows += s.rows
	v.compare(m, f.Table, f.Path, mirror.TableTotals{Rows: f.Rows, Sums: f.Sums}, s)
	if s.created {
		for what, pair := range map[string][2]any{
			"min_created": {f.MinCreated, s.min}, "max_created": {f.MaxCreated, s.max},
		} {
			want, _ := pair[0].(*time.Time)
			got := time.UnixMicro(pair[1].(int64)).UTC() //nolint:forcetypeassert // built above
			if want == nil || !want.Equal(got) {
				v.differ(m, f.Table, f.Path, what, want, got)
			}
		}
	}
	return s, nil
}

// checkMirror holds the totals of the newest generation against the mirror. What
// was changed since is taken into account where the feed says enough of it.
func (v *Verified) checkMirror(ctx context.Context, m mirror.Feed, l Location, newest Manifest) (string, error) {
	if m == nil {
		return "not compared: no mirror is configured", nil
	}
	if _, err := m.FeedCursor(ctx, l.Name(), allAccounts); errors.Is(err, mirror.ErrNotFound) {
		return "not compared: this mirror does not know the copy", nil
	} else if err != nil {
		return "", err
	}
	tables, err := tablesNamed(slices.Collect(maps.Keys(newest.Tables)))
	if err != nil {
		return "", err
	}
	said := "compared"
	err = m.ReadFeed(ctx, func(r mirror.FeedReader) error {
		changed, complete, err := r.Changed(ctx, newest.ToPosition, slices.Collect(maps.Keys(newest.Tables)), maxChanged)
		if errors.Is(err, mirror.ErrFeedGone) || err == nil && !complete {
			said = "not compared: the mirror no longer knows what it held at " + newest.ToPosition
			return nil
		}
		if err != nil {
			return err
		}
		sums, known, err := r.TotalsSince(ctx, newest.ToPosition)
		if err != nil {
			return err
		}
		var left []string
		for _, t := range tables {
			want := newest.Totals[t.Name]
			got, err := r.TableTotals(ctx, t.Table, t.sum)
			if err != nil {
				return err
			}
			now := statsOf(got)
			if changes := changed[t.Name]; len(changes) > 0 {
				switch {
				case t.appendOnly:
					now, err = before(ctx, r, t, now, changes)
				case known:
					now, err = now.without(statsOf(sums[t.Name]))
				default: // the amounts before the change are not known
					left = append(left, t.Name)
					continue
				}
				if err != nil {
					return err
				}
			}
			v.compare(newest, t.Name, "mirror", want, now)
		}
		if len(left) > 0 {
			slices.Sort(left)
			said = fmt.Sprintf("compared, but for tables that have changed since: %v", left)
		}
		return nil
	})
	return said, err
}

// before takes rows that were inserted since out of the figures of a table whose
// rows only ever come.
func before(ctx context.Context, r mirror.FeedReader, t table, now stats, changes []mirror.RowChange) (stats, error) {
	var keys []mirror.RowKey
	for _, c := range changes {
		if c.Inserted {
			keys = append(keys, c.RowKey)
		}
	}
	for batch := range slices.Chunk(keys, keyBatch) {
		err := r.RowsOf(ctx, t.Table, batch, func(row []mirror.Value) error {
			var one stats
			if err := one.add(t, row, false); err != nil {
				return err
			}
			now.rows--
			for _, a := range one.amounts {
				if err := now.sum([]byte(a.currency), -a.sum); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return now, err
		}
	}
	return now, nil
}
