package export

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	pzstd "github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	// rowGroup bounds the memory of a writer: its rows are kept until it is full.
	rowGroup = 131072
	// zstdWindow is how far back the compression looks: a page is not much larger, and
	// the encoder holds twice as much.
	zstdWindow = pageSize
	// pageSize is how much of one column is compressed at once.
	pageSize = 1 << 20
	// rowBatch is how many rows go to the writer at once.
	rowBatch = 128
)

// repetitive lists the columns that hold few different values: a dictionary makes them
// small. A customer's rows lie in files of different months, mostly one in each, where
// the compression of ids in their order does better.
var repetitive = []string{
	"account", "currency", "type", "credit_type", "debit_type", "category", "kind", "scope",
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

// codec compresses pages with encoders that all files share. The library's own codec
// makes encoders with a history of megabytes each, for pages that are smaller.
type codec struct {
	pzstd.Codec // decodes
	encoder     *zstd.Encoder
}

func (c *codec) Encode(dst, src []byte) ([]byte, error) {
	return c.encoder.EncodeAll(src, dst[:0]), nil
}

var pages = sync.OnceValue(func() *codec {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(encoders), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(zstdWindow),
		zstd.WithLowerEncoderMem(true), zstd.WithZeroFrames(true), zstd.WithEncoderCRC(false),
		zstd.WithAllLitEntropyCompression(true)) // digests repeat nothing, and use 16 of 256 bytes
	if err != nil {
		panic(err) // an option is out of its bounds
	}
	return &codec{encoder: e}
})

// unbounded lists the columns of whose values a file says no least and largest one:
// nobody looks for a range of them.
var unbounded = []string{"raw", "digest", "metadata", "description", "applicability_config", "invoice_credit_balance"}

// parquetWriter gives values to the library by column: by row it would sort them apart
// itself, at twice the price.
type parquetWriter struct {
	columns []mirror.Column
	w       *parquet.GenericWriter[any]
	values  [][]parquet.Value // of the batch, by column
	n       int               // rows of the batch
	grouped int               // rows of the row group
}

func newParquetWriter(columns []mirror.Column) *parquetWriter {
	options := []parquet.WriterOption{
		parquetSchema(columns), parquet.Compression(pages()), parquet.PageBufferSize(pageSize), parquet.CreatedBy("creditmirror", "", ""),
		parquet.DataPageStatistics(false), // the index of pages has them
	}
	for _, name := range unbounded {
		options = append(options, parquet.SkipPageBounds(name))
	}
	p := &parquetWriter{columns: columns, w: parquet.NewGenericWriter[any](nil, options...), values: make([][]parquet.Value, len(columns))}
	for i := range p.values {
		p.values[i] = make([]parquet.Value, rowBatch)
	}
	return p
}

// begin begins another file.
func (p *parquetWriter) begin(w io.Writer) error {
	// Reset blanks the names in what it takes for the last file's own metadata, but they
	// are the next file's too: engines that look columns up by their paths, as Spark and
	// Athena do, could not read it (parquet-go issue 602).
	for _, group := range p.w.File().Metadata().RowGroups {
		for i := range group.Columns {
			group.Columns[i].MetaData.PathInSchema = nil
		}
	}
	p.w.Reset(w)
	p.n, p.grouped = 0, 0
	return nil
}

func (p *parquetWriter) write(row []mirror.Value) error {
	for i, v := range row {
		into := &p.values[i][p.n]
		switch {
		case v.Null:
			*into = parquet.NullValue().Level(0, 0, i)
		case p.columns[i].Kind == mirror.KindInt, p.columns[i].Kind == mirror.KindTime:
			*into = parquet.Int64Value(v.Int).Level(0, 1, i)
		case p.columns[i].Kind == mirror.KindBool:
			*into = parquet.BooleanValue(v.Int != 0).Level(0, 1, i)
		default:
			*into = parquet.ByteArrayValue(v.Text).Level(0, 1, i)
		}
	}
	p.n++
	if p.n == rowBatch {
		return p.settle()
	}
	return nil
}

// settle passes the rows of the batch on, so that their texts are needed no more.
func (p *parquetWriter) settle() error {
	if p.n == 0 {
		return nil
	}
	for i, c := range p.w.ColumnWriters() {
		if n, err := c.WriteRowValues(p.values[i][:p.n]); err != nil {
			return err
		} else if n != p.n {
			return fmt.Errorf("of %d values of column %s %d were written", p.n, p.columns[i].Name, n)
		}
	}
	p.grouped += p.n
	p.n = 0
	if p.grouped >= rowGroup {
		p.grouped = 0
		return p.w.Flush()
	}
	return nil
}

func (p *parquetWriter) close() error {
	if err := p.settle(); err != nil {
		return err
	}
	return p.w.Close()
}
