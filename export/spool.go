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
	dir      string
	table    table
	columns  []mirror.Column // the table's own and the added ones
	position int64           // that the rows of the generation carry
	synced   int             // index of synced_at
	months   map[string]*spoolFile
	byNumber map[int]*spoolFile // the same by monthNumber
	blocks   chan block         // to the goroutine that compresses and writes; nil: none runs
	written  chan error         // what it ended with
	free     chan []byte
}

// spoolFile is a file of blocks: the length of each in the file, and its rows compressed.
type spoolFile struct {
	f    *os.File
	rows []byte // that are in no block yet
	stat stats
}

// block is rows on their way to the file.
type block struct {
	f    *os.File
	rows []byte
}

const (
	// blockSize is how large a block becomes. There is one of each month of the table
	// that is being read in memory.
	blockSize = 128 << 10
	// blocksWaiting is how many blocks wait to be written.
	blocksWaiting = 8
)

// stats are what a manifest says of some rows.
type stats struct {
	rows     int64
	amounts  []amount // few: one for each currency
	min, max int64    // created, in microseconds
	created  bool
}

// amount is a sum in one currency.
type amount struct {
	currency string
	sum      int64
}

// sums are the amounts by currency; nil where there are none.
func (s *stats) sums() map[string]int64 {
	if len(s.amounts) == 0 {
		return nil
	}
	sums := make(map[string]int64, len(s.amounts))
	for _, a := range s.amounts {
		sums[a.currency] = a.sum
	}
	return sums
}

// statsOf are the stats of a table's totals.
func statsOf(t mirror.TableTotals) (s stats) {
	s.rows = t.Rows
	for currency, sum := range t.Sums {
		s.amounts = append(s.amounts, amount{currency, sum})
	}
	return s
}

func (s *stats) totals() mirror.TableTotals {
	return mirror.TableTotals{Rows: s.rows, Sums: s.sums()}
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
	return s.sum(row[t.currency].Text, row[t.amount].Int)
}

// sum adds n to the amount in a currency.
func (s *stats) sum(currency []byte, n int64) error {
	for i := range s.amounts {
		a := &s.amounts[i]
		if a.currency != string(currency) {
			continue
		}
		sum := a.sum + n
		if (sum > a.sum) != (n > 0) && n != 0 {
			return fmt.Errorf("%s: %w", a.currency, errSumOverflow)
		}
		a.sum = sum
		return nil
	}
	s.amounts = append(s.amounts, amount{string(currency), n})
	return nil
}

// merge adds the rows and amounts of other.
func (s *stats) merge(other stats) error {
	s.rows += other.rows
	for _, a := range other.amounts {
		if err := s.sum([]byte(a.currency), a.sum); err != nil {
			return err
		}
	}
	return nil
}

// without takes the rows and amounts of other off.
func (s stats) without(other stats) (stats, error) {
	s.rows -= other.rows
	s.amounts = slices.Clone(s.amounts)
	for _, a := range other.amounts {
		if err := s.sum([]byte(a.currency), -a.sum); err != nil {
			return s, err
		}
	}
	return s, nil
}

func newSpool(dir string, t table, position int64) *spool {
	return &spool{
		dir: dir, table: t, columns: t.columns(), position: position, synced: t.index("synced_at"),
		months: map[string]*spoolFile{}, byNumber: map[int]*spoolFile{},
	}
}

// monthNumber counts months from the year 0 on to that of a time in microseconds
// since 1970, UTC. It is asked for each row: time.Time takes many times as long.
func monthNumber(micros int64) int {
	const day = 24 * 60 * 60 * 1_000_000
	days := micros / day
	if micros%day < 0 {
		days--
	}
	// Years that begin in March, in cycles of 400: the day that leap years have is the last.
	days += 719468
	cycle := days / 146097
	if days%146097 < 0 {
		cycle--
	}
	days -= cycle * 146097
	year := (days - days/1460 + days/36524 - days/146096) / 365
	month := (5*(days-(365*year+year/4-year/100)) + 2) / 153 // 0 is March
	return int((cycle*400+year)*12 + month + 2)
}

func monthName(number int) string { return fmt.Sprintf("%04d-%02d", number/12, number%12+1) }

// month is the file of a month, made where there is none.
func (s *spool) month(number int) (*spoolFile, error) {
	f, ok := s.byNumber[number]
	if !ok {
		name := monthName(number)
		file, err := os.OpenFile(filepath.Join(s.dir, s.table.Name+"-"+name), os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600) // #nosec G304 -- names of our tables and months
		if err != nil {
			return nil, err
		}
		f = &spoolFile{f: file}
		s.months[name], s.byNumber[number] = f, f
	}
	return f, nil
}

// add keeps a row of the table's own columns for a month; deletedAt is that of a row
// that is gone, in microseconds.
func (s *spool) add(month int, row []mirror.Value, deleted bool, deletedAt int64) error {
	f, err := s.month(month)
	if err != nil {
		return err
	}
	f.rows = appendRow(f.rows, s.table.Columns, row)
	if deleted {
		f.rows = binary.AppendVarint(append(f.rows, spooledDelete), deletedAt)
	} else {
		f.rows = append(f.rows, spooledUpsert)
	}
	if len(f.rows) >= blockSize {
		if err := s.pass(f); err != nil {
			return err
		}
	}
	return f.stat.add(s.table, row, deleted)
}

// pass gives the rows of a file to the goroutine that writes them.
func (s *spool) pass(f *spoolFile) error {
	if s.blocks == nil {
		blocks, written, free := make(chan block, blocksWaiting), make(chan error, 1), make(chan []byte, blocksWaiting)
		s.blocks, s.written, s.free = blocks, written, free
		go func() { written <- writeBlocks(blocks, free) }()
	}
	select {
	case s.blocks <- block{f.f, f.rows}:
	case err := <-s.written:
		s.blocks = nil
		return err
	}
	select {
	case f.rows = <-s.free:
	default:
		f.rows = nil
	}
	return nil
}

// writeBlocks compresses and writes blocks until there are no more, or one cannot be
// written.
func writeBlocks(blocks <-chan block, free chan<- []byte) error {
	var out []byte
	for b := range blocks {
		out = slices.Grow(out[:0], blockHead+s2.MaxEncodedLen(len(b.rows)))[:blockHead]
		body := s2.Encode(out[blockHead:cap(out)], b.rows)
		binary.LittleEndian.PutUint32(out, uint32(len(body))) // #nosec G115 -- the length of a block
		if _, err := b.f.Write(out[:blockHead+len(body)]); err != nil {
			return err
		}
		select {
		case free <- b.rows[:0]:
		default:
		}
	}
	return nil
}

// What is spooled behind the table's own columns: the rest follows from it.
const (
	spooledUpsert byte = iota
	spooledDelete      // and when, as a varint
)

// blockHead is the length of what says how long a block is.
const blockHead = 4

// finish writes what is left and makes the files readable. It may be called again.
func (s *spool) finish() error {
	for _, f := range s.months {
		if len(f.rows) == 0 {
			continue
		}
		if err := s.pass(f); err != nil {
			return err
		}
		f.rows = nil
	}
	return s.settle()
}

// settle ends the goroutine that writes, if it runs.
func (s *spool) settle() error {
	if s.blocks == nil {
		return nil
	}
	close(s.blocks)
	s.blocks, s.free = nil, nil
	return <-s.written
}

func (s *spool) close() error {
	errs := []error{s.settle()}
	for _, f := range s.months {
		errs = append(errs, f.f.Close(), os.Remove(f.f.Name()))
	}
	return errors.Join(errs...)
}

func (s *spool) sortedMonths() []string { return slices.Sorted(maps.Keys(s.months)) }

// each reads a month's rows in the order in which they were added, and calls settle
// before the texts of rows are overwritten: those are valid until then.
func (s *spool) each(month string, fn func(row []mirror.Value) error, settle func() error) error {
	f := s.months[month]
	if _, err := f.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReaderSize(f.f, blockSize)
	row := make([]mirror.Value, len(s.columns))
	own := len(s.table.Columns)
	row[own+1] = mirror.Value{Int: s.position}
	var packed, rows []byte
	for left := f.stat.rows; left > 0; {
		var err error
		if packed, rows, err = readBlock(r, packed, rows); err != nil {
			return fmt.Errorf("read the spooled rows of %s: %w", s.table.Name, err)
		}
		for rest := rows; len(rest) > 0; left-- {
			if rest, err = readRow(rest, s.table.Columns, row); err == nil {
				rest, err = s.readMeta(rest, row)
			}
			if err != nil {
				return fmt.Errorf("read the spooled rows of %s: %w", s.table.Name, err)
			}
			if err := fn(row); err != nil {
				return err
			}
		}
		if err := settle(); err != nil {
			return err
		}
	}
	return nil
}

var (
	upsertText = []byte(opUpsert)
	deleteText = []byte(opDelete)
)

// readMeta reads what add wrote behind a row and fills in the added columns.
func (s *spool) readMeta(b []byte, row []mirror.Value) ([]byte, error) {
	own := len(s.table.Columns)
	switch {
	case len(b) > 0 && b[0] == spooledUpsert:
		row[own], row[own+2] = mirror.Value{Text: upsertText}, row[s.synced]
		return b[1:], nil
	case len(b) > 0 && b[0] == spooledDelete:
		at, size := binary.Varint(b[1:])
		if size <= 0 {
			return nil, errSpool
		}
		row[own], row[own+2] = mirror.Value{Text: deleteText}, mirror.Value{Int: at}
		return b[1+size:], nil
	}
	return nil, errSpool
}

// readBlock reads the next block into memory that is used again.
func readBlock(r io.Reader, packed, rows []byte) (_, _ []byte, err error) {
	var head [blockHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return packed, rows, err
	}
	n := int(binary.LittleEndian.Uint32(head[:]))
	packed = slices.Grow(packed[:0], n)[:n]
	if _, err := io.ReadFull(r, packed); err != nil {
		return packed, rows, err
	}
	rows, err = s2.Decode(rows[:cap(rows)], packed)
	return packed, rows, err
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

var errSpool = errors.New("it is damaged")

// readRow reads what appendRow wrote and returns what is behind it. The texts lie in b.
func readRow(b []byte, columns []mirror.Column, row []mirror.Value) ([]byte, error) {
	for i, c := range columns {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return nil, errSpool
		}
		b = b[size:]
		switch {
		case n == 0:
			row[i] = mirror.Value{Null: true}
		case isText(c.Kind):
			if n-1 > uint64(len(b)) {
				return nil, errSpool
			}
			row[i] = mirror.Value{Text: b[: n-1 : n-1]}
			b = b[n-1:]
		default:
			number, size := binary.Varint(b)
			if size <= 0 {
				return nil, errSpool
			}
			row[i] = mirror.Value{Int: number}
			b = b[size:]
		}
	}
	return b, nil
}
