package export

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	// maxChanged is the number of changed rows from which a full export is cheaper
	// than to look each of them up, and which bounds the memory for their keys.
	maxChanged = 200_000
	// keyBatch is how many rows are looked up by one statement.
	keyBatch = 500
	// encoders is how many files are written at once.
	encoders = 2
)

// generation is one generation while it is made.
type generation struct {
	manifest Manifest
	tables   []table
	spools   []*spool
	month    string // of tables without created
	format   Format
	progress func(table string, rows int64)
	read     int64
}

func newGeneration(parent *Manifest, kind string, tables []table, o Options) *generation {
	g := &generation{tables: tables, format: o.Format, progress: o.Progress}
	g.manifest = Manifest{
		FormatVersion: formatVersion, Generation: 1, Kind: kind, ToolVersion: o.ToolVersion,
		Tables: map[string]TableManifest{}, Totals: map[string]mirror.TableTotals{}, Files: []File{},
	}
	if parent != nil {
		g.manifest.Generation = parent.Generation + 1
		g.manifest.Parent = &parent.Generation
	}
	return g
}

// spoolAll begins the spools in dir.
func (g *generation) begin(dir string, at mirror.FeedPosition, parent *Manifest, now time.Time) {
	m := &g.manifest
	m.DataLoadTime = now.UTC().Truncate(time.Microsecond)
	m.ToPosition, m.Position = at.Text, at.Number
	if parent != nil {
		// Rows of a later generation have a higher number, whatever the mirror's own
		// count does: it goes back when the mirror is restored from a backup.
		m.Position = max(m.Position, parent.Position+1)
		if m.Kind == KindIncremental {
			m.FromPosition = parent.ToPosition
		}
	}
	g.month = now.UTC().Format("2006-01")
	for _, t := range g.tables {
		g.spools = append(g.spools, newSpool(dir, t))
	}
}

func (g *generation) close() error {
	var errs []error
	for _, s := range g.spools {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// add spools one row of a table; values are the table's own columns.
func (g *generation) add(s *spool, row, values []mirror.Value, op string, syncedAt int64) error {
	n := copy(row, values)
	row[n] = mirror.Value{Text: []byte(op)}
	row[n+1] = mirror.Value{Int: g.manifest.Position}
	row[n+2] = mirror.Value{Int: syncedAt}
	month := g.month
	if c := s.table.created; c >= 0 && !row[c].Null {
		month = time.UnixMicro(row[c].Int).UTC().Format("2006-01")
	}
	g.read++
	if g.progress != nil && g.read%1000 == 0 {
		g.progress(s.table.Name, g.read)
	}
	return s.add(month, row, op == opDelete)
}

// readAll spools every row of every table and counts the totals on the way.
func (g *generation) readAll(ctx context.Context, r mirror.FeedReader) error {
	for _, s := range g.spools {
		row, synced := make([]mirror.Value, len(s.columns)), s.table.index("synced_at")
		err := r.Rows(ctx, s.table.Table, func(values []mirror.Value) error {
			return g.add(s, row, values, opUpsert, values[synced].Int)
		})
		if err != nil {
			return fmt.Errorf("read %s: %w", s.table.Name, err)
		}
		all, err := s.total()
		if err != nil {
			return fmt.Errorf("%s: %w", s.table.Name, err)
		}
		g.manifest.Totals[s.table.Name] = mirror.TableTotals{Rows: all.rows, Sums: all.sums}
	}
	return nil
}

// readChanged spools the rows that changed, in their latest state.
func (g *generation) readChanged(ctx context.Context, r mirror.FeedReader, parent *Manifest, changed map[string][]mirror.RowChange) error {
	for _, s := range g.spools {
		inserted, err := g.readKeys(ctx, r, s, changed[s.table.Name])
		if err != nil {
			return fmt.Errorf("read what changed of %s: %w", s.table.Name, err)
		}
		totals := parent.Totals[s.table.Name]
		switch {
		case len(changed[s.table.Name]) == 0:
		case s.table.appendOnly:
			sum := stats{rows: totals.Rows, sums: maps.Clone(totals.Sums)}
			if err := sum.merge(inserted); err != nil {
				return fmt.Errorf("%s: %w", s.table.Name, err)
			}
			totals = mirror.TableTotals{Rows: sum.rows, Sums: sum.sums}
		default:
			if totals, err = r.TableTotals(ctx, s.table.Table, s.table.sum); err != nil {
				return fmt.Errorf("add up %s: %w", s.table.Name, err)
			}
		}
		g.manifest.Totals[s.table.Name] = totals
	}
	return nil
}

// readKeys spools the rows of these keys, and what is left of those that are gone.
// It returns the figures of the rows that were inserted.
func (g *generation) readKeys(ctx context.Context, r mirror.FeedReader, s *spool, changes []mirror.RowChange) (inserted stats, err error) {
	row, synced := make([]mirror.Value, len(s.columns)), s.table.index("synced_at")
	for batch := range slices.Chunk(changes, keyBatch) {
		waiting := make(map[mirror.RowKey]mirror.RowChange, len(batch))
		keys := make([]mirror.RowKey, 0, len(batch))
		for _, c := range batch {
			waiting[s.table.Shorten(c.RowKey)] = c
			keys = append(keys, c.RowKey)
		}
		err := r.RowsOf(ctx, s.table.Table, keys, func(values []mirror.Value) error {
			key := s.table.KeyOf(values)
			change, ok := waiting[key]
			if !ok {
				return fmt.Errorf("row %v was not asked for", key)
			}
			delete(waiting, key)
			if change.Inserted {
				if err := inserted.add(s.table, values, false); err != nil {
					return err
				}
			}
			return g.add(s, row, values, opUpsert, values[synced].Int)
		})
		if err != nil {
			return inserted, err
		}
		for _, c := range batch {
			if _, gone := waiting[s.table.Shorten(c.RowKey)]; gone {
				if err := g.add(s, row, s.table.Gone(c.RowKey), opDelete, c.ChangedAt.UnixMicro()); err != nil {
					return inserted, err
				}
			}
		}
	}
	return inserted, nil
}

func (s *spool) total() (all stats, err error) {
	for _, f := range s.months {
		if err := all.merge(f.stat); err != nil {
			return all, err
		}
	}
	return all, nil
}

// describe fills in what the manifest says of the tables. A table without rows gets
// an empty file in a full generation, so that engines find its columns.
func (g *generation) describe() error {
	for _, s := range g.spools {
		if len(s.months) == 0 && g.manifest.Kind == KindFull {
			if _, err := s.month(g.month); err != nil {
				return err
			}
		}
		if err := s.finish(); err != nil {
			return err
		}
		all, err := s.total()
		if err != nil {
			return err
		}
		g.manifest.Tables[s.table.Name] = TableManifest{
			SchemaVersion: s.table.version, Columns: s.table.manifestColumns(), Rows: all.rows, Sums: all.sums,
		}
	}
	return nil
}

// rows is how many rows the generation has.
func (m Manifest) rows() (n int64) {
	for _, t := range m.Tables {
		n += t.Rows
	}
	return n
}

// write puts the spooled rows into files of p.
func (g *generation) write(ctx context.Context, p place) error {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(encoders)
	for _, s := range g.spools {
		for i, month := range s.sortedMonths() {
			group.Go(func() error {
				f, err := g.writeFile(ctx, p, s, month, i+1)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				g.manifest.Files = append(g.manifest.Files, f)
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	slices.SortFunc(g.manifest.Files, func(a, b File) int {
		if a.Path < b.Path {
			return -1
		}
		return 1
	})
	return nil
}

// maxNames is how many names of a file are tried: others are left from exports of
// this generation that did not come to their end.
const maxNames = 1000

func (g *generation) writeFile(ctx context.Context, p place, s *spool, month string, n int) (File, error) {
	stat := s.months[month].stat
	f := File{Table: s.table.Name, Month: month, Rows: stat.rows, Sums: stat.sums}
	if stat.created {
		low, high := time.UnixMicro(stat.min).UTC(), time.UnixMicro(stat.max).UTC()
		f.MinCreated, f.MaxCreated = &low, &high
	}
	for range maxNames {
		f.Path = fileKey(s.table.Name, month, g.manifest.Generation, n, g.format)
		size, sum, err := g.encode(ctx, p, s, month, f.Path)
		if errors.Is(err, errExists) {
			n++
			continue
		}
		f.Bytes, f.SHA256 = size, sum
		return f, err
	}
	return f, fmt.Errorf("%s: %d names are taken; run creditmirror export prune", f.Path, maxNames)
}

// encode streams one file. What the encoder fails with reaches the upload, which
// publishes nothing then.
func (g *generation) encode(ctx context.Context, p place, s *spool, month, key string) (size int64, sum string, err error) {
	pr, pw := io.Pipe()
	digest := &counter{hash: sha256.New()}
	done := make(chan error, 1)
	go func() {
		err := s.encode(g.format, month, io.MultiWriter(pw, digest))
		pw.CloseWithError(err)
		done <- err
	}()
	err = p.create(ctx, key, pr)
	pr.CloseWithError(errors.Join(err, errEnded)) // the encoder must not wait for a reader that is gone
	if encodeErr := <-done; encodeErr != nil && err == nil {
		err = encodeErr
	}
	return digest.n, hex.EncodeToString(digest.hash.Sum(nil)), err
}

var errEnded = errors.New("the upload has ended")

func (s *spool) encode(f Format, month string, w io.Writer) error {
	rows, err := newRowWriter(f, s.columns, w)
	if err != nil {
		return err
	}
	if err := s.each(month, rows.write); err != nil {
		return err
	}
	return rows.close()
}

// counter counts and digests what is written to it.
type counter struct {
	hash hash.Hash
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.hash.Write(p)
}

// spoolDir makes the folder that the rows are spooled in. Its files are the
// owner's alone: they hold what the mirror holds.
func spoolDir(parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, "creditmirror-export-")
	if err != nil {
		return "", fmt.Errorf("no place to spool rows, set TMPDIR: %w", err)
	}
	return dir, nil
}
