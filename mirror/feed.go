package mirror

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrFeedGone says that the change feed no longer holds, or never held, the
// records after a position: it was pruned past it, or the position is of another
// database, or of this one before it was restored from a backup.
var ErrFeedGone = errors.New("the change feed does not reach back to this position")

// FeedPosition is a place in the change feed of one mirror over all accounts.
// Text is opaque and complete: the records after it are exactly those that a
// snapshot taken at it did not see. It names the database's history (DatabasePartition)
// once that has a name, so that a position from a time that is lost is reported as gone. Number orders positions of one mirror and
// never falls; two positions may share it.
type FeedPosition struct {
	Text   string
	Number int64
}

// historyMark separates a position from the name of the history it is of.
const historyMark = "@"

// MarkPosition adds the name of the database's history to a position in its feed.
func MarkPosition(position, history string) string {
	if history == "" {
		return position
	}
	return position + historyMark + history
}

// CutPosition takes the name of the history off a position; ok is false where that is
// not the database's.
func CutPosition(marked, history string) (position string, ok bool) {
	position, of, _ := strings.Cut(marked, historyMark)
	return position, of == history
}

// RowKey names a row of a table of the change feed. ID is the row's own: of
// customer_balances and credit_balance_summaries the currency.
type RowKey struct {
	Account, Customer, ID string
}

// RowChange is what the feed says of one row between two positions.
type RowChange struct {
	RowKey
	// Inserted reports whether the row was inserted in between.
	Inserted bool
	// ChangedAt is the time of the newest record.
	ChangedAt time.Time
}

// Value is one value of a row, without an allocation of its own. Which field
// holds it follows from the column's Kind: Text for KindText and KindJSON, Int for
// KindInt, for KindBool (0 or 1) and for KindTime (microseconds since 1970, UTC).
// Text is valid until the next row.
type Value struct {
	Text []byte
	Int  int64
	Null bool
}

// FeedReader reads one snapshot of the mirror.
type FeedReader interface {
	// Position is the snapshot's place in the change feed.
	Position(ctx context.Context) (FeedPosition, error)
	// Changed lists the rows of tables that changed after since, each once, by
	// table name. ErrFeedGone when the feed does not hold all that came after since.
	// With more than limit rows in all it stops and reports complete = false.
	Changed(ctx context.Context, since string, tables []string, limit int) (changed map[string][]RowChange, complete bool, err error)
	// Rows calls row for each row of t in the order of its key. The slice is valid
	// until row returns.
	Rows(ctx context.Context, t Table, row func([]Value) error) error
	// RowsOf is Rows for the rows of these keys, in no order. Keys without a row are
	// passed over.
	RowsOf(ctx context.Context, t Table, keys []RowKey, row func([]Value) error) error
	// TableTotals counts t's rows and, when amount is not empty, adds that column up
	// per currency. A sum that does not fit 64 bits is an error.
	TableTotals(ctx context.Context, t Table, amount string) (TableTotals, error)
	// TotalsSince is what changed in the totals of tables after since, by their names,
	// which may be less than nothing; a table that is not in it has not changed. It knows
	// the tables whose amounts change, and known is false where it does not know what
	// changed since then. since must be one that Changed accepts.
	TotalsSince(ctx context.Context, since string) (changed map[string]TableTotals, known bool, err error)
	// Unproven counts customers of whom a history is not wholly held.
	Unproven(ctx context.Context) (int64, error)
}

// TableTotals are the rows of a table and the sums of its amount per currency, in
// minor units.
type TableTotals struct {
	Rows int64            `json:"rows"`
	Sums map[string]int64 `json:"sums,omitempty"`
}

// FeedCursor is how far a reader of the change feed has read.
type FeedCursor struct {
	// Name is the reader's: of an export by where it goes, of the API by its key.
	Name string
	// Account is the one whose records the reader reads; "*" stands for all.
	Account string
	// Generation is the newest one that an export published; 0 for others.
	Generation int64
	Position   FeedPosition
	SeenAt     time.Time
}

// Feed is a mirror whose change feed can be read over all accounts, and pruned
// behind those who read it.
type Feed interface {
	// ReadFeed runs fn on one snapshot of the mirror. The reader must not be used
	// after fn returns, nor by two goroutines at once.
	ReadFeed(ctx context.Context, fn func(FeedReader) error) error
	// FeedCursor returns a reader's cursor; ErrNotFound for one that is not known.
	FeedCursor(ctx context.Context, name, account string) (FeedCursor, error)
	// SaveFeedCursor records how far a reader has read. SeenAt is the database's now.
	SaveFeedCursor(ctx context.Context, c FeedCursor) error
	// FeedCursors lists all readers by name.
	FeedCursors(ctx context.Context) ([]FeedCursor, error)
	// PruneFeed forgets readers that were not seen for longer than age and returns
	// them, then deletes records that are older than age and that every reader left
	// has read. It returns how many it deleted, at most limit.
	PruneFeed(ctx context.Context, age time.Duration, limit int) (deleted int64, forgotten []FeedCursor, err error)
}

// keySeparator joins the columns of a key that make up RowKey.ID, where there are
// several.
const keySeparator = "/"

// Shorten leaves out of a key what does not name a row of t, so that keys can be
// compared.
func (t Table) Shorten(k RowKey) RowKey {
	short := RowKey{Account: k.Account, ID: k.ID}
	if slices.ContainsFunc(t.Columns[:t.Key], func(c Column) bool { return c.Name == "customer" }) {
		short.Customer = k.Customer
	}
	return short
}

// KeyOf is the short key of a row.
func (t Table) KeyOf(row []Value) (k RowKey) {
	own := 0
	for i, c := range t.Columns[:t.Key] {
		text := string(row[i].Text)
		if c.Kind == KindInt {
			text = strconv.FormatInt(row[i].Int, 10)
		}
		switch {
		case c.Name == "account":
			k.Account = text
		case c.Name == "customer":
			k.Customer = text
		default:
			if own++; own > 1 {
				k.ID += keySeparator
			}
			k.ID += text
		}
	}
	return k
}

// KeyValues are the values of the key columns of a row, as texts.
func (t Table) KeyValues(k RowKey) []string {
	own := 0
	for _, c := range t.Columns[:t.Key] {
		if c.Name != "account" && c.Name != "customer" {
			own++
		}
	}
	ids := []string{k.ID}
	if own > 1 {
		ids = strings.SplitN(k.ID, keySeparator, own)
		ids = append(ids, make([]string, own-len(ids))...) // of a key that is none
	}
	values := make([]string, t.Key)
	next := 0
	for i, c := range t.Columns[:t.Key] {
		switch c.Name {
		case "account":
			values[i] = k.Account
		case "customer":
			values[i] = k.Customer
		default:
			values[i] = ids[next]
			next++
		}
	}
	return values
}

// Gone is a row of which only the key is left.
func (t Table) Gone(k RowKey) []Value {
	row := make([]Value, len(t.Columns))
	for i := range row {
		row[i].Null = true
	}
	for i, text := range t.KeyValues(k) {
		row[i] = Value{Text: []byte(text)}
		if t.Columns[i].Kind == KindInt {
			n, err := strconv.ParseInt(text, 10, 64)
			row[i] = Value{Int: n, Null: err != nil}
		}
	}
	return row
}
