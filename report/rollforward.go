package report

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"
)

// Lines of a roll-forward that are no movements.
const (
	LineOpening = "opening"
	LineClosing = "closing"
)

// Line is one line of a roll-forward.
type Line struct {
	Account    string
	Ledger     Ledger
	Currency   string
	Start, End time.Time
	Line       string
	Split      string
	Amount     int64
}

func compare(a, b string, m, n int, x, y string) int {
	return cmp.Or(cmp.Compare(a, b), cmp.Compare(m, n), cmp.Compare(x, y))
}

// book is one account, ledger and currency of a roll-forward.
type book struct {
	account  string
	ledger   int
	currency string
}

// movement is a line within a span.
type movement struct {
	span       int
	line, text string
}

// flows are the movements of each book.
type flows map[book]map[movement]int64

func (f flows) add(b book, m movement, amount int64) {
	if f[b] == nil {
		f[b] = map[movement]int64{}
	}
	f[b][m] += amount
}

// Rollforward reports, for each period between bounds, what was held at its beginning,
// what moved it and what was held at its end, by account, ledger, currency, period.
// Periods in which nothing was held and nothing moved are left out.
func Rollforward(ctx context.Context, from Reader, q Query, bounds []time.Time, split Split) ([]Line, Outcome, error) {
	out := Outcome{seen: map[Key]bool{}}
	moved := flows{}
	q.Until = bounds[len(bounds)-1]
	for i, l := range q.Ledgers {
		cells, err := from.Cells(ctx, l, q.Filter, bounds, split)
		if err != nil {
			return nil, out, err
		}
		for _, c := range cells {
			moved.add(book{c.Account, i, c.Currency}, movement{c.Span, c.Type, c.Split}, c.Amount)
		}
		if err := moved.correct(ctx, from, q, i, bounds, split, &out); err != nil {
			return nil, out, err
		}
	}
	if slices.Contains(q.Ledgers, LedgerBalance) {
		if err := check(ctx, from, q, &out); err != nil {
			return nil, out, err
		}
	}
	return moved.lines(q.Ledgers, bounds), out, nil
}

// correct takes the plain rows of customers that stand apart out, and puts their
// movements in as the rules say.
func (f flows) correct(ctx context.Context, from Reader, q Query, ledger int, bounds []time.Time, split Split, out *Outcome) error {
	l := q.Ledgers[ledger]
	apart := pull(from.Standings(ctx, l, q.Filter))
	defer apart.stop()
	rows := pull(from.Rows(ctx, RowQuery{Filter: q.Filter, Ledger: l, Until: q.Until, Split: split, Apart: true}))
	defer rows.stop()
	for {
		if !apart.more {
			return cmp.Or(apart.err, rows.err)
		}
		s := apart.head
		apart.step()
		counts := s.Proven() || s.Released(bounds[0])
		if !counts {
			out.unproven(s, l)
		}
		plain := func(yield func(Row, error) bool) {
			for r, err := range rows.of(s.Key) {
				if err == nil {
					f.add(book{r.Account, ledger, r.Currency}, movement{spanOf(bounds, r.Dated), r.Type, r.Split}, -r.Amount)
				}
				if !yield(r, err) {
					return
				}
			}
		}
		for r, err := range Entries(s, ByLedger, q.Until, plain) {
			if err != nil {
				return err
			}
			if counts {
				f.add(book{r.Account, ledger, r.Currency}, movement{spanOf(bounds, r.Dated), r.Type, r.Split}, r.Amount)
			}
		}
	}
}

// lines puts the movements in order and draws the balances between them.
func (f flows) lines(ledgers []Ledger, bounds []time.Time) []Line {
	var list []Line
	for _, b := range slices.SortedFunc(maps.Keys(f), func(x, y book) int {
		return compare(x.account, y.account, x.ledger, y.ledger, x.currency, y.currency)
	}) {
		spans := map[int][]movement{}
		var held int64
		for m, amount := range f[b] {
			if m.span == 0 {
				held += amount
			} else if amount != 0 {
				spans[m.span] = append(spans[m.span], m)
			}
		}
		for span := 1; span < len(bounds); span++ {
			line := Line{Account: b.account, Ledger: ledgers[b.ledger], Currency: b.currency, Start: bounds[span-1], End: bounds[span]}
			if held == 0 && len(spans[span]) == 0 {
				continue
			}
			line.Line, line.Amount = LineOpening, held
			list = append(list, line)
			slices.SortFunc(spans[span], func(x, y movement) int {
				return cmp.Or(last(x.line)-last(y.line), cmp.Compare(x.line, y.line), cmp.Compare(x.text, y.text))
			})
			for _, m := range spans[span] {
				line.Line, line.Split, line.Amount = m.line, m.text, f[b][m]
				held += line.Amount
				list = append(list, line)
			}
			line.Line, line.Split, line.Amount = LineClosing, "", held
			list = append(list, line)
		}
	}
	return list
}

// last puts the deletions behind the other movements.
func last(line string) int {
	if line == TypeDeleted {
		return 1
	}
	return 0
}
