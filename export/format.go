package export

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"

	"github.com/creditmirror/creditmirror/mirror"
)

// Format is how the rows of a file are written.
type Format string

// The formats.
const (
	Parquet   Format = "parquet"
	CSV       Format = "csv"
	JSONLines Format = "jsonl"
)

// ParseFormat reads a format's name.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Parquet, CSV, JSONLines:
		return f, nil
	}
	return "", fmt.Errorf("%q is no format; want parquet, csv or jsonl", s)
}

func (f Format) extension() string {
	switch f {
	case CSV:
		return "csv.gz"
	case JSONLines:
		return "jsonl.gz"
	default:
		return "parquet"
	}
}

// rowWriter writes rows into one file after the other. A file is between begin and
// close, which does not close what it is written to. The texts of a row must stay as
// they are until settle.
type rowWriter interface {
	begin(w io.Writer) error
	write(row []mirror.Value) error
	settle() error
	close() error
}

func newRowWriter(f Format, columns []mirror.Column) rowWriter {
	switch f {
	case CSV:
		return newTextWriter(columns, csvHeader(columns), appendCSV)
	case JSONLines:
		return newTextWriter(columns, nil, appendJSON)
	default:
		return newParquetWriter(columns)
	}
}

// timeLayout is RFC 3339 in UTC with microseconds, the precision of the mirror.
const timeLayout = "2006-01-02T15:04:05.000000Z"

func timeOf(v mirror.Value) time.Time { return time.UnixMicro(v.Int).UTC() }

// textWriter is what the two text formats share: a line per row, compressed.
type textWriter struct {
	columns []mirror.Column
	header  []byte
	gz      *gzip.Writer
	buf     *bufio.Writer
	line    []byte
	add     func(line []byte, columns []mirror.Column, row []mirror.Value) []byte
}

func newTextWriter(columns []mirror.Column, header []byte, add func([]byte, []mirror.Column, []mirror.Value) []byte) *textWriter {
	gz, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // fails for a level that is none
	return &textWriter{columns: columns, header: header, gz: gz, buf: bufio.NewWriterSize(gz, 64<<10), add: add}
}

func (w *textWriter) begin(out io.Writer) error {
	w.gz.Reset(out)
	w.buf.Reset(w.gz)
	_, err := w.buf.Write(w.header)
	return err
}

func (w *textWriter) write(row []mirror.Value) error {
	w.line = w.add(w.line[:0], w.columns, row)
	_, err := w.buf.Write(w.line)
	return err
}

func (w *textWriter) settle() error { return nil }

func (w *textWriter) close() error {
	if err := w.buf.Flush(); err != nil {
		return err
	}
	return w.gz.Close()
}

// csvNull stands for NULL. A text that reads the same is quoted.
const csvNull = `\N`

func csvHeader(columns []mirror.Column) []byte {
	var header []byte
	for i, c := range columns {
		if i > 0 {
			header = append(header, ',')
		}
		header = append(header, c.Name...)
	}
	return append(header, '\n')
}

func appendCSV(line []byte, columns []mirror.Column, row []mirror.Value) []byte {
	for i, v := range row {
		if i > 0 {
			line = append(line, ',')
		}
		switch {
		case v.Null:
			line = append(line, csvNull...)
		case columns[i].Kind == mirror.KindInt:
			line = strconv.AppendInt(line, v.Int, 10)
		case columns[i].Kind == mirror.KindBool:
			line = strconv.AppendBool(line, v.Int != 0)
		case columns[i].Kind == mirror.KindTime:
			line = timeOf(v).AppendFormat(line, timeLayout)
		default:
			line = appendCSVText(line, v.Text)
		}
	}
	return append(line, '\n')
}

// appendCSVText quotes every text that is not plain: encoding/csv would write the
// text \N as NULL is written.
func appendCSVText(line, text []byte) []byte {
	plain := len(text) > 0
	for _, b := range text {
		if b == ',' || b == '"' || b == '\\' || b < ' ' || b == ' ' {
			plain = false
			break
		}
	}
	if plain {
		return append(line, text...)
	}
	line = append(line, '"')
	for _, b := range text {
		if b == '"' {
			line = append(line, '"')
		}
		line = append(line, b)
	}
	return append(line, '"')
}

func appendJSON(line []byte, columns []mirror.Column, row []mirror.Value) []byte {
	line = append(line, '{')
	for i, v := range row {
		if i > 0 {
			line = append(line, ',')
		}
		line = append(line, '"')
		line = append(line, columns[i].Name...)
		line = append(line, '"', ':')
		switch {
		case v.Null:
			line = append(line, "null"...)
		case columns[i].Kind == mirror.KindInt:
			line = strconv.AppendInt(line, v.Int, 10)
		case columns[i].Kind == mirror.KindBool:
			line = strconv.AppendBool(line, v.Int != 0)
		case columns[i].Kind == mirror.KindTime:
			line = append(line, '"')
			line = timeOf(v).AppendFormat(line, timeLayout)
			line = append(line, '"')
		default:
			// JSON too is a text here: its own numbers must survive readers that make
			// doubles of them.
			line = appendJSONText(line, v.Text)
		}
	}
	return append(line, '}', '\n')
}

const hexDigits = "0123456789abcdef"

// appendJSONText writes a JSON string; bytes that are no UTF-8 become U+FFFD.
func appendJSONText(line, text []byte) []byte {
	line = append(line, '"')
	for i := 0; i < len(text); {
		b := text[i]
		if b >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(text[i:])
			line = utf8.AppendRune(line, r)
			i += size
			continue
		}
		switch {
		case b == '"' || b == '\\':
			line = append(line, '\\', b)
		case b < ' ' || b == 0x7f:
			line = append(line, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
		default:
			line = append(line, b)
		}
		i++
	}
	return append(line, '"')
}
