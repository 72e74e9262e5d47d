package export

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/parquet-go/parquet-go"

	"github.com/creditmirror/creditmirror/mirror"
)

// readBack reads the rows of a file again and returns their figures. Only the
// columns that figures are made of are looked at; the names of all are compared.
func readBack(f *os.File, format Format, t table, columns []Column) (stats, error) {
	switch format {
	case CSV:
		return readCSV(f, t, columns)
	case JSONLines:
		return readJSONLines(f, t, columns)
	default:
		return readParquet(f, t, columns)
	}
}

// formatOf is the format that a file's name says.
func formatOf(path string) Format {
	switch {
	case strings.HasSuffix(path, "."+CSV.extension()):
		return CSV
	case strings.HasSuffix(path, "."+JSONLines.extension()):
		return JSONLines
	default:
		return Parquet
	}
}

// figures collects what stats are made of, by the place of columns in a file.
type figures struct {
	stats
	table table
	row   []mirror.Value // the table's own columns
}

func newFigures(t table) *figures {
	f := &figures{table: t, row: make([]mirror.Value, len(t.Columns))}
	for i := range f.row {
		f.row[i].Null = true
	}
	return f
}

func sameColumns(got []string, want []Column) error {
	for i, c := range want {
		if i >= len(got) || got[i] != c.Name {
			return fmt.Errorf("it has the columns %v; the manifest says %v", got, want)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("it has %d columns; the manifest says %d", len(got), len(want))
	}
	return nil
}

func readParquet(f *os.File, t table, columns []Column) (stats, error) {
	info, err := f.Stat()
	if err != nil {
		return stats{}, err
	}
	file, err := parquet.OpenFile(f, info.Size())
	if err != nil {
		return stats{}, fmt.Errorf("it is no Parquet file: %w", err)
	}
	at := map[int]int{} // column of the file → of the table
	op := -1
	var names []string
	for i, field := range file.Root().Columns() {
		names = append(names, field.Name())
		if j := t.index(field.Name()); j >= 0 && (j == t.amount || j == t.currency || j == t.created) {
			at[i] = j
		}
		if field.Name() == "_op" {
			op = i
		}
	}
	if err := sameColumns(names, columns); err != nil {
		return stats{}, err
	}
	// The library finds columns by their order, others by their paths.
	for _, group := range file.Metadata().RowGroups {
		for i, c := range group.Columns {
			if path := c.MetaData.PathInSchema; i >= len(names) || len(path) != 1 || path[0] != names[i] {
				return stats{}, fmt.Errorf("column %d has the path %q in a row group", i, path)
			}
		}
	}
	figs := newFigures(t)
	for _, group := range file.RowGroups() {
		if err := figs.readGroup(group, at, op); err != nil {
			return stats{}, err
		}
	}
	return figs.stats, nil
}

func (f *figures) readGroup(group parquet.RowGroup, at map[int]int, op int) error {
	rows := group.Rows()
	defer rows.Close() //nolint:errcheck // it was only read
	batch := make([]parquet.Row, 512)
	for {
		n, err := rows.ReadRows(batch)
		for _, row := range batch[:n] {
			deleted := false
			for _, v := range row {
				if v.Column() == op {
					deleted = string(v.ByteArray()) == opDelete
				}
				i, ok := at[v.Column()]
				if !ok {
					continue
				}
				f.row[i] = mirror.Value{Null: v.IsNull()}
				switch {
				case v.IsNull():
				case i == f.table.currency:
					f.row[i].Text = v.ByteArray()
				default:
					f.row[i].Int = v.Int64()
				}
			}
			if err := f.add(f.table, f.row, deleted); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// addTexts counts a row of a text format; ok is false for NULL.
func (f *figures) addTexts(value func(column string) (string, bool)) error {
	for _, i := range []int{f.table.currency, f.table.amount, f.table.created} {
		if i < 0 {
			continue
		}
		text, ok := value(f.table.Columns[i].Name)
		f.row[i] = mirror.Value{Null: !ok}
		if !ok {
			continue
		}
		var err error
		switch f.table.Columns[i].Kind {
		case mirror.KindInt:
			f.row[i].Int, err = strconv.ParseInt(text, 10, 64)
		case mirror.KindTime:
			var at time.Time
			at, err = time.Parse(timeLayout, text)
			f.row[i].Int = at.UnixMicro()
		default:
			f.row[i].Text = []byte(text)
		}
		if err != nil {
			return fmt.Errorf("row %d, column %s: %w", f.rows+1, f.table.Columns[i].Name, err)
		}
	}
	op, _ := value("_op")
	return f.add(f.table, f.row, op == opDelete)
}

func readCSV(file *os.File, t table, columns []Column) (stats, error) {
	gz, err := gzip.NewReader(file)
	if err != nil {
		return stats{}, err
	}
	r := csv.NewReader(gz)
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil {
		return stats{}, err
	}
	if err := sameColumns(header, columns); err != nil {
		return stats{}, err
	}
	at := map[string]int{}
	for i, name := range header {
		at[name] = i
	}
	f := newFigures(t)
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return f.stats, gz.Close()
		}
		if err == nil {
			err = f.addTexts(func(column string) (string, bool) {
				i, ok := at[column]
				if !ok || record[i] == csvNull {
					return "", false
				}
				return record[i], true
			})
		}
		if err != nil {
			return f.stats, err
		}
	}
}

func readJSONLines(file *os.File, t table, columns []Column) (stats, error) {
	gz, err := gzip.NewReader(file)
	if err != nil {
		return stats{}, err
	}
	dec := json.NewDecoder(bufio.NewReader(gz))
	dec.UseNumber()
	f := newFigures(t)
	for {
		row := map[string]any{}
		err := dec.Decode(&row)
		if errors.Is(err, io.EOF) {
			return f.stats, gz.Close()
		}
		if err == nil && len(row) != len(columns) {
			err = fmt.Errorf("row %d has %d columns; the manifest says %d", f.rows+1, len(row), len(columns))
		}
		if err == nil {
			err = f.addTexts(func(column string) (string, bool) {
				if row[column] == nil {
					return "", false
				}
				return fmt.Sprint(row[column]), true
			})
		}
		if err != nil {
			return f.stats, err
		}
	}
}
