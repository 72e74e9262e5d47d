package export

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"
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
	// encoders is how many files are encoded at once.
	encoders = 2
	// finishing is how many more are on their way to the disk of a folder meanwhile.
	finishing = 6
)

// generation is one generation while it is made.
type generation struct {
	manifest Manifest
	tables   []table
	spools   []*spool
	month    int // of tables without created, see monthNumber
	format   Format
	progress func(table string, rows int64)
	read     int64

	writing *writing // of files; nil: the rows go elsewhere

	mu   sync.Mutex
	of   *spool      // whose writers are kept
	idle []rowWriter // that have ended a file
}

// writing is the writing of a generation's files. It begins while later tables are
// still being read: nothing that it waits for makes the reading wait.
type writing struct {
	ctx      context.Context //nolint:containedctx // of the goroutines that it has begun
	cancel   context.CancelFunc
	p        place
	group    *errgroup.Group
	encoding chan struct{} // a token for each file that is being encoded
	tables   chan *spool   // whose rows are all spooled
	files    []File        // under generation.mu
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

// begin begins the spools in dir.
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
	g.month = monthNumber(now.UnixMicro())
	for _, t := range g.tables {
		g.spools = append(g.spools, newSpool(dir, t, m.Position))
	}
}

// writeInto begins to write files into p, of which so many at once wait for it.
func (g *generation) writeInto(ctx context.Context, p place, waiting int) {
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(1 + encoders + waiting)
	w := &writing{ctx: ctx, cancel: cancel, p: p, group: group, encoding: make(chan struct{}, encoders), tables: make(chan *spool, len(g.spools))}
	g.writing = w
	group.Go(func() error { // so that whoever reads never waits for a place in the group
		for s := range w.tables {
			for i, month := range s.sortedMonths() {
				group.Go(func() error { return g.writeFile(w, s, month, i+1) })
			}
		}
		return nil
	})
}

func (g *generation) close() error {
	var errs []error
	if w := g.writing; w != nil { // left by an error: the files are in no manifest
		g.writing = nil
		w.cancel()
		close(w.tables)
		_ = w.group.Wait() //nolint:errcheck // the error that ended it is told
	}
	for _, s := range g.spools {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// add spools one row of a table; deletedAt is that of one that is gone, in microseconds.
func (g *generation) add(s *spool, row []mirror.Value, deleted bool, deletedAt int64) error {
	month := g.month
	if c := s.table.created; c >= 0 && !row[c].Null {
		month = monthNumber(row[c].Int)
	}
	g.read++
	if g.progress != nil && g.read%1000 == 0 {
		g.progress(s.table.Name, g.read)
	}
	return s.add(month, row, deleted, deletedAt)
}

// readAll spools every row of every table and counts the totals on the way. The
// ledgers, which have most of the rows, are read first: their files are encoded while
// the other tables are read.
func (g *generation) readAll(ctx context.Context, r mirror.FeedReader) error {
	for _, large := range []bool{true, false} {
		for _, s := range g.spools {
			if s.table.appendOnly != large {
				continue
			}
			if err := g.readTable(ctx, r, s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *generation) readTable(ctx context.Context, r mirror.FeedReader, s *spool) error {
	err := r.Rows(ctx, s.table.Table, func(row []mirror.Value) error { return g.add(s, row, false, 0) })
	if err != nil {
		return fmt.Errorf("read %s: %w", s.table.Name, err)
	}
	all, err := g.describe(s)
	if err != nil {
		return err
	}
	g.manifest.Totals[s.table.Name] = all.totals()
	return nil
}

// readChanged spools the rows that changed, in their latest state.
func (g *generation) readChanged(ctx context.Context, r mirror.FeedReader, parent *Manifest, since string, changed map[string][]mirror.RowChange) error {
	sums, known, err := r.TotalsSince(ctx, since)
	if err != nil {
		return fmt.Errorf("read what changed of the totals: %w", err)
	}
	for _, s := range g.spools {
		inserted, err := g.readKeys(ctx, r, s, changed[s.table.Name])
		if err != nil {
			return fmt.Errorf("read what changed of %s: %w", s.table.Name, err)
		}
		totals := parent.Totals[s.table.Name]
		switch {
		case s.table.appendOnly:
			sum := statsOf(totals)
			if err := sum.merge(inserted); err != nil {
				return fmt.Errorf("%s: %w", s.table.Name, err)
			}
			totals = sum.totals()
		case known:
			sum := statsOf(totals)
			if err := sum.merge(statsOf(sums[s.table.Name])); err != nil {
				return fmt.Errorf("%s: %w", s.table.Name, err)
			}
			totals = sum.totals()
		case len(changed[s.table.Name]) > 0:
			if totals, err = r.TableTotals(ctx, s.table.Table, s.table.sum); err != nil {
				return fmt.Errorf("add up %s: %w", s.table.Name, err)
			}
		}
		g.manifest.Totals[s.table.Name] = totals
		if _, err := g.describe(s); err != nil {
			return err
		}
	}
	return nil
}

// readKeys spools the rows of these keys, and what is left of those that are gone.
// It returns the figures of the rows that were inserted.
func (g *generation) readKeys(ctx context.Context, r mirror.FeedReader, s *spool, changes []mirror.RowChange) (inserted stats, err error) {
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
			return g.add(s, values, false, 0)
		})
		if err != nil {
			return inserted, err
		}
		for _, c := range batch {
			if _, gone := waiting[s.table.Shorten(c.RowKey)]; gone {
				if err := g.add(s, s.table.Gone(c.RowKey), true, c.ChangedAt.UnixMicro()); err != nil {
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

// describe ends the reading of a table: it fills in what the manifest says of it and
// has its files written. A table without rows gets an empty file in a full generation,
// so that engines find its columns.
func (g *generation) describe(s *spool) (all stats, err error) {
	if len(s.months) == 0 && g.manifest.Kind == KindFull {
		if _, err := s.month(g.month); err != nil {
			return all, err
		}
	}
	if err := s.finish(); err != nil {
		return all, fmt.Errorf("spool the rows of %s: %w", s.table.Name, err)
	}
	if all, err = s.total(); err != nil {
		return all, fmt.Errorf("%s: %w", s.table.Name, err)
	}
	g.manifest.Tables[s.table.Name] = TableManifest{
		SchemaVersion: s.table.version, Columns: s.table.manifestColumns(), Rows: all.rows, Sums: all.sums(),
	}
	if g.writing != nil {
		g.writing.tables <- s
	}
	return all, nil
}

// rows is how many rows the generation has.
func (m Manifest) rows() (n int64) {
	for _, t := range m.Tables {
		n += t.Rows
	}
	return n
}

// written waits until every file is written.
func (g *generation) written() error {
	w := g.writing
	g.writing = nil
	close(w.tables)
	err := w.group.Wait()
	w.cancel()
	if err != nil {
		return err
	}
	g.manifest.Files = append(g.manifest.Files, w.files...)
	slices.SortFunc(g.manifest.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return nil
}

// maxNames is how many names of a file are tried: others are left from exports of
// this generation that did not come to their end.
const maxNames = 1000

func (g *generation) writeFile(w *writing, s *spool, month string, n int) error {
	stat := s.months[month].stat
	f := File{Table: s.table.Name, Month: month, Rows: stat.rows, Sums: stat.sums()}
	if stat.created {
		low, high := time.UnixMicro(stat.min).UTC(), time.UnixMicro(stat.max).UTC()
		f.MinCreated, f.MaxCreated = &low, &high
	}
	for range maxNames {
		f.Path = fileKey(s.table.Name, month, g.manifest.Generation, n, g.format)
		size, sum, err := g.encode(w, s, month, f.Path)
		if errors.Is(err, errExists) {
			n++
			continue
		}
		if err != nil {
			return err
		}
		f.Bytes, f.SHA256 = size, sum
		g.mu.Lock()
		defer g.mu.Unlock()
		w.files = append(w.files, f)
		return nil
	}
	return fmt.Errorf("%s: %d names are taken; run creditmirror export prune", f.Path, maxNames)
}

// encode streams one file. What the encoder fails with reaches the upload, which
// publishes nothing then. While the end of a file is on its way to the disk, the
// encoder works on another one.
func (g *generation) encode(w *writing, s *spool, month, key string) (size int64, sum string, err error) {
	select {
	case w.encoding <- struct{}{}:
	case <-w.ctx.Done():
		return 0, "", w.ctx.Err()
	}
	pr, pw := io.Pipe()
	digest := &counter{hash: sha256.New()}
	done := make(chan error, 1)
	go func() {
		err := g.encodeTo(s, month, io.MultiWriter(pw, digest))
		<-w.encoding
		pw.CloseWithError(err)
		done <- err
	}()
	err = w.p.create(w.ctx, key, pr)
	_ = pr.CloseWithError(errors.Join(err, errEnded)) // the encoder must not wait for a reader that is gone
	if encodeErr := <-done; encodeErr != nil && err == nil {
		err = encodeErr
	}
	return digest.n, hex.EncodeToString(digest.hash.Sum(nil)), err
}

var errEnded = errors.New("the upload has ended")

func (g *generation) encodeTo(s *spool, month string, w io.Writer) error {
	rows := g.writer(s)
	if err := rows.begin(w); err != nil {
		return err
	}
	if err := s.each(month, rows.write, rows.settle); err != nil {
		return err
	}
	if err := rows.close(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of == s {
		g.idle = append(g.idle, rows)
	}
	return nil
}

// writer is an idle writer of a table, or a new one: their buffers and dictionaries are
// used again for the table's next month.
func (g *generation) writer(s *spool) rowWriter {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of != s {
		g.of, g.idle = s, nil
	}
	if n := len(g.idle); n > 0 {
		w := g.idle[n-1]
		g.idle = g.idle[:n-1]
		return w
	}
	return newRowWriter(g.format, s.columns)
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
