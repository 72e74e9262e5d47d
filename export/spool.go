package export

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/s2"

	"github.com/creditmirror/creditmirror/mirror"
)

// spool keeps the rows of one table on the local disk, a file a month, so that the
// snapshot they are read in is closed before the first byte goes to a bucket.
type spool struct {
	dir     string
	table   table
	columns []mirror.Column
	months  map[string]*spoolFile
	row     []byte
}

type spoolFile struct {
	f    *os.File
	w    *s2.Writer
	stat stats
}

// stats are what a manifest says of some rows.
type stats struct {
	rows     int64
	sums     map[string]int64
	min, max int64 // created, in microseconds
	created  bool
}

var errSumOverflow = errors.New("the sum does not fit 64 bits")

// add counts a row of t; the row may have the added columns behind its own.
func (s *stats) add(t table, row []mirror.Value, deleted bool) error {
	s.rows++
	if t.created >= 0 && !row[t.created].Null {
		at := row[t.created].Int
		if !s.created || at < s.min {
			s.min = at
		}
		if !s.created || at > s.max {
			s.max = at
		}
		s.created = true
	}
	if deleted || t.amount < 0 || row[t.amount].Null || row[t.currency].Null {
		return nil
	}
	return s.sum(string(row[t.currency].Text), row[t.amount].Int)
}

func (s *stats) sum(currency string, amount int64) error {
	if s.sums == nil {
		s.sums = map[string]int64{}
	}
	sum := s.sums[currency] + amount
	if (sum > s.sums[currency]) != (amount > 0) && amount != 0 {
		return fmt.Errorf("%s: %w", currency, errSumOverflow)
	}
	s.sums[currency] = sum
	return nil
}

func (s *stats) merge(other stats) error {
	s.rows += other.rows
	for currency, amount := range other.sums {
		if err := s.sum(currency, amount); err != nil {
			return err
		}
	}
	return nil
}

func newSpool(dir string, t table) *spool {
	return &spool{dir: dir, table: t, columns: t.columns(), months: map[string]*spoolFile{}}
}

// month is the file of a month, made where there is none.
func (s *spool) month(month string) (*spoolFile, error) {
	f, ok := s.months[month]
	if !ok {
		file, err := os.OpenFile(filepath.Join(s.dir, s.table.Name+"-"+month), os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		f = &spoolFile{f: file, w: s2.NewWriter(file, s2.WriterConcurrency(1), s2.WriterBlockSize(64<<10))}
		s.months[month] = f
	}
	return f, nil
}

// add keeps a row for a month.
func (s *spool) add(month string, row []mirror.Value, deleted bool) error {
	f, err := s.month(month)
	if err != nil {
		return err
	}
	s.row = appendRow(s.row[:0], s.columns, row)
	if _, err := f.w.Write(s.row); err != nil {
		return err
	}
	return f.stat.add(s.table, row, deleted)
}

// finish makes the files readable.
func (s *spool) finish() error {
	for _, f := range s.months {
		if err := f.w.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (s *spool) close() error {
	var errs []error
	for _, f := range s.months {
		errs = append(errs, f.f.Close(), os.Remove(f.f.Name()))
	}
	return errors.Join(errs...)
}

func (s *spool) sortedMonths() []string { return slices.Sorted(maps.Keys(s.months)) }

// each reads a month's rows in the order in which they were added.
func (s *spool) each(month string, fn func(row []mirror.Value) error) error {
	f := s.months[month]
	if _, err := f.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReaderSize(s2.NewReader(f.f, s2.ReaderMaxBlockSize(64<<10)), 64<<10)
	row := make([]mirror.Value, len(s.columns))
	var text []byte
	for range f.stat.rows {
		var err error
		if text, err = readRow(r, s.columns, row, text[:0]); err != nil {
			return fmt.Errorf("read the spooled rows of %s: %w", s.table.Name, err)
		}
		if err := fn(row); err != nil {
			return err
		}
	}
	return nil
}

// appendRow writes a row: for each value its length or number plus one, 0 for NULL,
// and the bytes of a text.
func appendRow(b []byte, columns []mirror.Column, row []mirror.Value) []byte {
	for i, v := range row {
		switch {
		case v.Null:
			b = append(b, 0)
		case isText(columns[i].Kind):
			b = binary.AppendUvarint(b, uint64(len(v.Text))+1)
			b = append(b, v.Text...)
		default:
			b = binary.AppendVarint(append(b, 1), v.Int)
		}
	}
	return b
}

func isText(k mirror.Kind) bool { return k == mirror.KindText || k == mirror.KindJSON }

// readRow reads what appendRow wrote. The texts lie in text, which it returns.
func readRow(r *bufio.Reader, columns []mirror.Column, row []mirror.Value, text []byte) ([]byte, error) {
	type span struct{ from, to int }
	var spans [64]span
	for i, c := range columns {
		row[i] = mirror.Value{}
		n, err := binary.ReadUvarint(r)
		if err != nil {
			return text, err
		}
		switch {
		case n == 0:
			row[i].Null = true
		case isText(c.Kind):
			from := len(text)
			text = slices.Grow(text, int(n-1))[:from+int(n-1)] //nolint:gosec // a length that appendRow wrote
			if _, err := io.ReadFull(r, text[from:]); err != nil {
				return text, err
			}
			spans[i] = span{from, len(text)}
		default:
			if row[i].Int, err = binary.ReadVarint(r); err != nil {
				return text, err
			}
		}
	}
	for i, c := range columns { // text may have moved while it grew
		if isText(c.Kind) && !row[i].Null {
			row[i].Text = text[spans[i].from:spans[i].to]
		}
	}
	return text, nil
}
