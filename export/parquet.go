package export

import (
	"io"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	// rowGroup bounds the memory of a writer: its rows are kept until it is full.
	rowGroup = 131072
	// rowBatch is how many rows go to the writer at once.
	rowBatch = 256
)

// repetitive lists the columns that hold few different values, or the same value
// in many rows one after the other: a dictionary makes them small.
var repetitive = []string{
	"account", "customer", "currency", "type", "credit_type", "debit_type", "category", "kind", "scope",
	"amount_type", "metadata", "description", "test_clock", "applicability_config", "_op", "cause", "ledger", "outcome", "operation",
}

// orderedGroup is a group whose fields keep the order of the table: parquet.Group
// sorts them by name.
type orderedGroup struct {
	parquet.Group
	fields []parquet.Field
}

func (g orderedGroup) Fields() []parquet.Field { return g.fields }

func parquetSchema(columns []mirror.Column) *parquet.Schema {
	group := parquet.Group{}
	for _, c := range columns {
		group[c.Name] = parquet.Optional(parquetNode(c))
	}
	ordered := orderedGroup{Group: group}
	sorted := group.Fields()
	for _, c := range columns {
		i, _ := slices.BinarySearchFunc(sorted, c.Name, func(f parquet.Field, name string) int { return strings.Compare(f.Name(), name) })
		ordered.fields = append(ordered.fields, sorted[i])
	}
	return parquet.NewSchema("row", ordered)
}

func parquetNode(c mirror.Column) parquet.Node {
	switch {
	case c.Kind == mirror.KindInt:
		return parquet.Encoded(parquet.Int(64), &parquet.DeltaBinaryPacked)
	case c.Kind == mirror.KindBool:
		return parquet.Leaf(parquet.BooleanType)
	case c.Kind == mirror.KindTime:
		return parquet.Encoded(parquet.Timestamp(parquet.Microsecond), &parquet.DeltaBinaryPacked)
	case slices.Contains(repetitive, c.Name):
		return parquet.Encoded(parquet.String(), &parquet.RLEDictionary)
	default:
		return parquet.String()
	}
}

type parquetWriter struct {
	columns []mirror.Column
	w       *parquet.GenericWriter[any]
	rows    []parquet.Row
	texts   [][]byte // what the rows' texts lie in, one per row
	n       int      // rows of the batch
	grouped int      // rows of the row group
}

func newParquetWriter(columns []mirror.Column, w io.Writer) *parquetWriter {
	p := &parquetWriter{
		columns: columns,
		w: parquet.NewGenericWriter[any](w, parquetSchema(columns), parquet.Compression(&zstd.Codec{Level: zstd.SpeedFastest}),
			parquet.CreatedBy("creditmirror", "", "")),
		rows: make([]parquet.Row, rowBatch), texts: make([][]byte, rowBatch),
	}
	for i := range p.rows {
		p.rows[i] = make(parquet.Row, len(columns))
	}
	return p
}

func (p *parquetWriter) write(row []mirror.Value) error {
	into, text := p.rows[p.n], p.texts[p.n][:0]
	size := 0
	for _, v := range row {
		size += len(v.Text)
	}
	text = slices.Grow(text, size) // never moves below
	for i, v := range row {
		var value parquet.Value
		switch {
		case v.Null:
			into[i] = parquet.NullValue().Level(0, 0, i)
			continue
		case p.columns[i].Kind == mirror.KindInt, p.columns[i].Kind == mirror.KindTime:
			value = parquet.Int64Value(v.Int)
		case p.columns[i].Kind == mirror.KindBool:
			value = parquet.BooleanValue(v.Int != 0)
		default:
			from := len(text)
			text = append(text, v.Text...)
			value = parquet.ByteArrayValue(text[from:])
		}
		into[i] = value.Level(0, 1, i)
	}
	p.texts[p.n] = text
	p.n++
	if p.n == rowBatch {
		return p.flush()
	}
	return nil
}

func (p *parquetWriter) flush() error {
	_, err := p.w.WriteRows(p.rows[:p.n])
	p.grouped += p.n
	p.n = 0
	if err == nil && p.grouped >= rowGroup {
		p.grouped = 0
		err = p.w.Flush()
	}
	return err
}

func (p *parquetWriter) close() error {
	if err := p.flush(); err != nil {
		return err
	}
	return p.w.Close()
}
