package main

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	books "github.com/creditmirror/creditmirror/report"
)

// report prints rows in the report formats, as they come: a report may be longer
// than memory. A value is a string, an integer, a time.Time, of which the zero one is
// null in JSON and empty elsewhere, or nil, which is too.
type report struct {
	columns []string
	format  string
	rows    int
	headed  bool // the table has its first header

	out   *bufio.Writer // a table writes cell by cell
	table *tabwriter.Writer
	csv   *csv.Writer
}

// newReport chooses the format; empty is a table on a terminal, else CSV.
func newReport(out io.Writer, format string, columns ...string) (*report, error) {
	if format == "" {
		format = "csv"
		if terminal(out) {
			format = "table"
		}
	}
	r := &report{columns: columns, format: format, out: bufio.NewWriter(out)}
	switch format {
	case "table":
		r.table = tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	case "csv":
		r.csv = csv.NewWriter(r.out)
	case "json":
	default:
		return nil, fmt.Errorf("%w: --format %q: want table, csv or json", errUsage, format)
	}
	return r, nil
}

// tableBlock is after how many lines a table is printed, and its columns may
// find another width.
const tableBlock = 1000

// write prints one row, with a value for each column.
func (r *report) write(values ...any) error {
	r.rows++
	switch r.format {
	case "table":
		return r.writeTable(values)
	case "csv":
		return r.writeCSV(values)
	}
	return r.writeJSON(values)
}

// head prints the header of a table even where no row will follow. CSV has its
// header anyway.
func (r *report) head() {
	if r.format == "table" {
		r.headed = true
		fmt.Fprintln(r.table, strings.ToUpper(strings.Join(r.columns, "\t")))
	}
}

func (r *report) writeTable(values []any) error {
	if r.rows%tableBlock == 1 && !(r.headed && r.rows == 1) {
		if err := r.table.Flush(); err != nil {
			return err
		}
		r.head()
	}
	cells := texts(values)
	for i, v := range cells {
		if cells[i] = cell(v); v == "" {
			cells[i] = "-"
		}
	}
	_, err := fmt.Fprintln(r.table, strings.Join(cells, "\t"))
	return err
}

func (r *report) writeCSV(values []any) error {
	if r.rows == 1 {
		if err := r.csv.Write(r.columns); err != nil {
			return err
		}
	}
	return r.csv.Write(books.NoFormulas(texts(values)))
}

// writeJSON writes the keys in the order of the columns, which a map would not keep.
func (r *report) writeJSON(values []any) error {
	var line strings.Builder
	if r.rows == 1 {
		line.WriteString("[\n{")
	} else {
		line.WriteString(",\n{")
	}
	for i, v := range values {
		if t, ok := v.(time.Time); ok {
			if v = any(rfc3339(t)); t.IsZero() {
				v = nil
			}
		}
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if i > 0 {
			line.WriteString(", ")
		}
		fmt.Fprintf(&line, "%q: %s", r.columns[i], text)
	}
	line.WriteString("}")
	_, err := r.out.WriteString(line.String())
	return err
}

// end prints what is left; a report without rows still has its header.
func (r *report) end() error {
	switch r.format {
	case "table":
		if err := r.table.Flush(); err != nil {
			return err
		}
	case "csv":
		if r.rows == 0 {
			if err := r.csv.Write(r.columns); err != nil {
				return err
			}
		}
		r.csv.Flush()
		if err := r.csv.Error(); err != nil {
			return err
		}
	default:
		text := "\n]\n"
		if r.rows == 0 {
			text = "[]\n"
		}
		if _, err := r.out.WriteString(text); err != nil {
			return err
		}
	}
	return r.out.Flush()
}

func texts(values []any) []string {
	list := make([]string, len(values))
	for i, v := range values {
		switch t := v.(type) {
		case time.Time:
			v = rfc3339(t)
		case nil:
			v = ""
		}
		list[i] = fmt.Sprint(v)
	}
	return list
}

// rfc3339 writes a time in UTC; the zero time is empty.
func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// cell keeps a value of somebody else's making within its line and column.
func cell(v string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r <= 0x9f {
			return ' '
		}
		return r
	}, v)
}
