package report

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"time"
)

// Day is the plain sum of the rows of one account, ledger and currency with one date in
// UTC and one line (the type of Row).
type Day struct {
	Account  string
	Ledger   Ledger
	Currency string
	Day      time.Time // its midnight
	Line     string
	// Amount is in minor units, with the ledger's sign. Where the sum does not fit 64
	// bits Over is set, and Amount is the nearest number that does. It also is set where
	// the rows have no date that can be read.
	Amount int64
	Over   bool
	Rows   int64
}

// ErrFeedGone says that the change feed does not hold all that came after a position.
var ErrFeedGone = errors.New("the change feed does not reach back to this position")

// DayState is which days count and what is in them. The zero value: none.
type DayState struct {
	// Generation names the days that count; 0: none have been made yet.
	Generation int64
	// Position is the place in the change feed (Reader.Position): rows inserted after it
	// are not in the days.
	Position string
	// Usable is false where a sum does not fit 64 bits.
	Usable bool
	// Doubted reports that rows were changed or deleted since the days were made. Doubts
	// names these changes, for UseDays.
	Doubted bool
	Doubts  string
	// Proven is the place in the change feed up to which every chain of the balance ledger
	// is known to close at any moment, except those of the customers in doubt. It is empty
	// if no such place is known. Tried reports whether one was looked for. InDoubt is the
	// number of customers in doubt.
	Proven            string
	Tried             bool
	InDoubt           int
	BuiltAt, FoldedAt time.Time
}

// Proof lists the customers of whom a chain of the balance ledger does not close.
type Proof struct {
	// Held is false where that is not known, or of too many to keep.
	Held bool
	Open []Key
}

// DayReader reads the day table and what it is made of.
type DayReader interface {
	// DayState returns the state of the table.
	DayState(ctx context.Context) (DayState, error)
	// DaysSince adds up the rows that were inserted after a position, in no order; of
	// more than limit rows it adds up none and reports complete = false.
	// ErrFeedGone where the feed does not reach back.
	DaysSince(ctx context.Context, position string, limit int) (days []Day, complete bool, err error)
	// OpenChains lists the customers of whom a chain of the balance ledger does not close
	// at every moment: each link in the order of places, which is that of dates, and no
	// row without a place. With since it looks only at those who have records in the feed
	// after that position. It reports complete = false where there are more than limit of
	// them, or were to be looked at. ErrFeedGone as for DaysSince.
	OpenChains(ctx context.Context, since string, limit int) (open []Key, complete bool, err error)
	// DoubtedSums lists what Sums lists of the balance ledger and is not the ending balance,
	// in its order, of the customers in doubt and those who have records in the feed after
	// a position; complete is false where these are more than limit. ErrFeedGone as for
	// DaysSince.
	DoubtedSums(ctx context.Context, f Filter, until time.Time, position string, limit int) (sums []Sum, complete bool, err error)
	// SumDays adds up all rows, of one account or (nil) of all, by account, ledger,
	// currency, day, line.
	SumDays(ctx context.Context, account *string) iter.Seq2[Day, error]
	// Days lists what the table holds of a generation, in the same order.
	Days(ctx context.Context, generation int64, account *string) iter.Seq2[Day, error]
}

// DayTable is a store that keeps the day table. Every call is one short transaction.
type DayTable interface {
	Books
	// BeginDays begins a generation and returns its number. No other one that was begun
	// before can be used any more.
	BeginDays(ctx context.Context) (int64, error)
	// PutDays stores days of a generation that was begun. None is there already.
	PutDays(ctx context.Context, generation int64, days []Day) error
	// UseDays makes a generation the one that counts, in place of was, forgets the doubts
	// that its state names, and keeps the proof, of the same snapshot, with new ones for
	// those whose chains are open. It reports false where was does not count any more,
	// or a newer one was begun.
	UseDays(ctx context.Context, was int64, now DayState, proof Proof) (bool, error)
	// FoldDays adds to the days that count and moves their position, and records how far
	// the feed was read under DaysCursor. The proof is of the chains that changed since
	// the state's, which it carries forward, or without it ends. It reports false, and does
	// nothing, where the state is not was any more. A sum that does not fit 64 bits makes
	// the days unusable.
	FoldDays(ctx context.Context, was DayState, position string, add []Day, proof Proof) (bool, error)
	// DropDays deletes up to limit days of generations that can not be used any more.
	DropDays(ctx context.Context, limit int) (int64, error)
}

// DaysCursor is the name under which the folding of the days is a reader of the feed.
const DaysCursor = "ledger_days"

// MaxTail is how many rows that are not in the days yet a report adds up itself.
const MaxTail = 20_000

// MaxOpen is of how many customers it is kept that a chain is open or in doubt.
const MaxOpen = 10_000

// UsableDays returns the state of the days and what has to be added to them, where both
// together are the sums of all rows of the snapshot.
func UsableDays(ctx context.Context, from DayReader) (state DayState, tail []Day, usable bool, err error) {
	if state, err = from.DayState(ctx); err != nil || state.Generation == 0 || !state.Usable || state.Doubted {
		return state, nil, false, err
	}
	tail, usable, err = from.DaysSince(ctx, state.Position, MaxTail)
	if errors.Is(err, ErrFeedGone) {
		return state, nil, false, nil
	}
	for _, d := range tail {
		usable = usable && !d.Over
	}
	return state, tail, usable, err
}

// ByDays reports whether days in UTC can answer what a roll-forward asks for.
func ByDays(f Filter, bounds []time.Time, s Split) bool {
	return f.Customer == "" && s == (Split{}) && !slices.ContainsFunc(bounds, func(t time.Time) bool { return !t.Equal(t.UTC().Truncate(24 * time.Hour)) })
}

// SnapshotDays are the days that count in one snapshot, which looks at them once. The
// zero value has not looked.
type SnapshotDays struct {
	looked, usable bool
	state          DayState
	tail           []Day
}

// Cells returns the cells that Reader.Cells asks for, where the days have them; sum
// adds the days of a generation up.
func (d *SnapshotDays) Cells(ctx context.Context, from DayReader, l Ledger, f Filter, bounds []time.Time, s Split,
	sum func(generation int64) ([]Cell, error),
) (cells []Cell, ok bool, err error) {
	if !ByDays(f, bounds, s) {
		return nil, false, nil
	}
	if !d.looked {
		if d.state, d.tail, d.usable, err = UsableDays(ctx, from); err != nil {
			return nil, false, err
		}
		d.looked = true
	}
	if !d.usable {
		return nil, false, nil
	}
	cells, err = sum(d.state.Generation)
	if err != nil {
		return nil, false, err
	}
	return AddTail(cells, d.tail, l, f, bounds), true, nil
}

// AddTail adds days to the cells of a ledger, as Cells would have them.
func AddTail(cells []Cell, tail []Day, l Ledger, f Filter, bounds []time.Time) []Cell {
	type key struct {
		account, currency string
		span              int
		line              string
	}
	at := make(map[key]int, len(cells))
	for i, c := range cells {
		at[key{c.Account, c.Currency, c.Span, c.Type}] = i
	}
	for _, d := range tail {
		if d.Ledger != l || f.Account != nil && d.Account != *f.Account || f.Currency != "" && d.Currency != f.Currency ||
			!d.Day.Before(bounds[len(bounds)-1]) {
			continue
		}
		k := key{d.Account, d.Currency, spanOf(bounds, d.Day), d.Line}
		i, known := at[k]
		if !known {
			i = len(cells)
			at[k] = i
			cells = append(cells, Cell{Account: k.account, Currency: k.currency, Span: k.span, Type: k.line})
		}
		cells[i].Amount.Add(d.Amount)
	}
	slices.SortFunc(cells, func(a, b Cell) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Currency, b.Currency), cmp.Compare(a.Span, b.Span), cmp.Compare(a.Type, b.Type))
	})
	return cells
}

// Compare orders days by account, ledger, currency, day, line.
func (d Day) Compare(o Day) int {
	return cmp.Or(cmp.Compare(d.Account, o.Account), cmp.Compare(d.Ledger, o.Ledger), cmp.Compare(d.Currency, o.Currency),
		d.Day.Compare(o.Day), cmp.Compare(d.Line, o.Line))
}
