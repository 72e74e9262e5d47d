package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/creditmirror/creditmirror/internal/sqlitetest"
	"github.com/creditmirror/creditmirror/mirror"
)

// Tests here fail for mistakes that were planted and that no other test saw.

func oneTable(t *testing.T, name string) table {
	t.Helper()
	tables, err := tablesNamed([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	return tables[0]
}

// Row groups end where they should, whatever sizes rows come in, and no row is lost or
// doubled where one ends.
func TestRowGroups(t *testing.T) {
	columns := oneTable(t, "customer_balances").columns()
	amount := slices.IndexFunc(columns, func(c mirror.Column) bool { return c.Name == "balance" })
	w := newRowWriter(Parquet, columns)
	for _, count := range []int{1, rowBatch, rowGroup - 1, rowGroup, rowGroup + 1, 2*rowGroup + 77} {
		var out bytes.Buffer
		if err := w.begin(&out); err != nil {
			t.Fatal(err)
		}
		row := make([]mirror.Value, len(columns))
		for i := range row {
			row[i] = mirror.Value{Text: []byte("x")}
		}
		for n := range count {
			row[amount].Int = int64(n)
			row[0].Null = n%3 == 0
			err := w.write(row)
			if err == nil && n%1013 == 0 { // as at the end of a block
				err = w.settle()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := w.close(); err != nil {
			t.Fatal(err)
		}
		file, err := parquet.OpenFile(bytes.NewReader(out.Bytes()), int64(out.Len()))
		if err != nil {
			t.Fatal(err)
		}
		left, next := count, int64(0)
		for _, group := range file.RowGroups() {
			// A batch may be cut off by the end of a block.
			if n := int(group.NumRows()); n > rowGroup+rowBatch || n < min(left, rowGroup) {
				t.Fatalf("%d rows: a row group has %d", count, n)
			}
			left -= int(group.NumRows())
			rows := group.Rows()
			batch := make([]parquet.Row, 1000)
			for {
				n, err := rows.ReadRows(batch)
				for _, row := range batch[:n] {
					if got := row[amount].Int64(); got != next || row[0].IsNull() != (next%3 == 0) {
						t.Fatalf("%d rows: row %d has %d and %v", count, next, got, row[0])
					}
					next++
				}
				if err != nil {
					break
				}
			}
			if err := rows.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if left != 0 || next != int64(count) {
			t.Fatalf("%d rows were written, %d read", count, next)
		}
	}
}

func spoolOf(t *testing.T, name string, rows int) *spool {
	t.Helper()
	table := oneTable(t, name)
	s := newSpool(t.TempDir(), table, 1)
	row := make([]mirror.Value, len(table.Columns))
	for i := range rows {
		for j := range row {
			row[j] = mirror.Value{Text: fmt.Appendf(nil, "%d of %d", i, rows)}
		}
		if err := s.add(2026*12, row, false, 0); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Rows that did not get to the disk are an error, however few they are and whoever
// writes them.
func TestASpoolThatCannotBeWritten(t *testing.T) {
	for _, rows := range []int{1, 30_000} {
		s := spoolOf(t, "customers", 1)
		if err := s.months["2026-01"].f.Close(); err != nil {
			t.Fatal(err)
		}
		row := make([]mirror.Value, len(s.table.Columns))
		for i := range row {
			row[i] = mirror.Value{Text: []byte("some text")}
		}
		var err error
		for i := 0; err == nil && i < rows; i++ {
			err = s.add(2026*12, row, false, 0)
		}
		if err == nil {
			err = s.finish()
		}
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%d rows that could not be spooled: %v", rows, err)
		}
	}
	// What is lost afterwards is an error too, and not an end of the rows.
	s := spoolOf(t, "customers", 3000)
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	f := s.months["2026-01"].f
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	nothing := func() error { return nil }
	for _, size := range []int64{info.Size() - 1, info.Size() / 2, 2, 0} {
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		n := 0
		if err := s.each("2026-01", func([]mirror.Value) error { n++; return nil }, nothing); err == nil || n == 3000 {
			t.Errorf("of a spool cut off after %d bytes %d rows were read: %v", size, n, err)
		}
	}
}

// A writer is used again for its own table alone, although tables are encoded side by
// side, and the files that it writes name their columns.
func TestWritersAreUsedAgainForTheirTable(t *testing.T) {
	for _, format := range []Format{Parquet, CSV} {
		a, b := spoolOf(t, "customers", 5), spoolOf(t, "customer_balances", 7)
		for _, s := range []*spool{a, b} {
			if err := s.finish(); err != nil {
				t.Fatal(err)
			}
		}
		g := newGeneration(nil, KindFull, nil, Options{Format: format})
		encode := func(s *spool, before func()) {
			t.Helper()
			var out bytes.Buffer
			err := g.encodeTo(s, "2026-01", writerFunc(func(p []byte) (int, error) {
				before()
				before = func() {}
				return out.Write(p)
			}))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := readBack(f, format, s.table, s.table.manifestColumns())
			if err == nil && got.rows != s.months["2026-01"].stat.rows {
				err = fmt.Errorf("%d rows", got.rows)
			}
			if err != nil {
				t.Errorf("%s of %s: %v", format, s.table.Name, err)
			}
		}
		none := func() {}
		encode(a, none)
		encode(a, func() { encode(b, none); encode(b, none) }) // b begins and ends while a is being encoded
		encode(b, none)
		encode(a, none)
		encode(a, none)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// order is a place that looks at what there is when a manifest is published.
type order struct {
	place
	published func(key string)
}

func (o order) create(ctx context.Context, key string, body io.Reader) error {
	if _, manifest := generationOf(key); manifest {
		o.published(key)
	}
	return o.place.create(ctx, key, body)
}

// A manifest is written when every file that it lists is on the disk under its name,
// and a file that cannot be flushed is not published.
func TestAManifestComesAfterItsFiles(t *testing.T) {
	s, _ := sqlitetest.Open(t)
	h := newHistory(t, s, 81)
	for range 20 {
		h.step()
	}
	dir := t.TempDir()
	e := newExporter(t, s, dir, Options{})
	synced := make(chan string, 1000)
	at := func() (list []string) {
		for {
			select {
			case name := <-synced:
				list = append(list, name)
			default:
				return list
			}
		}
	}
	full := errors.New("no space left")
	failing := folder{root: dir, sync: func(f *os.File) error {
		if strings.Contains(f.Name(), "customer_balances") {
			return full
		}
		return f.Sync()
	}}
	if _, err := e.runFiles(t.Context(), failing); !errors.Is(err, full) {
		t.Fatalf("a file that could not be flushed: %v", err)
	}
	if c, err := readChain(t.Context(), failing); err != nil || len(c.generations) > 0 {
		t.Fatalf("it was published: %v, %v", c.generations, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "customer_balances", "*", "g*")); err != nil || len(left) > 0 {
		t.Fatalf("files have names and are not flushed: %v, %v", left, err)
	}
	p := folder{root: dir, sync: func(f *os.File) error {
		synced <- f.Name()
		return f.Sync()
	}}
	looked := false
	r, err := e.runFiles(t.Context(), order{p, func(string) {
		looked = true
		flushed := map[string]int{}
		for _, name := range at() {
			flushed[filepath.Dir(name)]++
		}
		files, err := filepath.Glob(filepath.Join(dir, "*", "month=*", "g*"))
		if err != nil {
			t.Error(err)
		}
		for _, f := range files {
			flushed[filepath.Dir(f)]-- // one file of this run in each month of each table
		}
		if len(files) < 9 {
			t.Errorf("the manifest is published with %d files", len(files))
		}
		for month, n := range flushed {
			if n != 0 { // names that the failed run had taken are flushed for, and not used
				t.Errorf("%s: %d more files were flushed than have a name", month, n)
			}
		}
	}})
	if err != nil || !looked {
		t.Fatal(r, err)
	}
	for _, f := range r.Manifest.Files {
		if info, err := os.Stat(filepath.Join(dir, f.Path)); err != nil || info.Size() != f.Bytes {
			t.Errorf("%s: %v, %v", f.Path, info, err)
		}
	}
}
