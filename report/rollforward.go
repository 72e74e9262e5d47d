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
type flows map[book]map[movement]Wide

func (f flows) add(b book, m movement, amount Wide) {
	if f[b] == nil {
		f[b] = map[movement]Wide{}
	}
	f[b][m] = f[b][m].Plus(amount)
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
	list, err := moved.lines(q.Ledgers, bounds)
	return list, out, err
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
					f.add(book{r.Account, ledger, r.Currency}, movement{spanOf(bounds, r.Dated), r.Type, r.Split}, Wide{}.Minus(Of(r.Amount)))
				}
				if !yield(r, err) {
					return
				}
			}
		}
		for r, err := range Entries(l, s, ByLedger, q.Until, plain) {
			if err != nil {
				return err
			}
			if counts {
				f.add(book{r.Account, ledger, r.Currency}, movement{spanOf(bounds, r.Dated), r.Type, r.Split}, Of(r.Amount))
			}
		}
	}
}

// lines puts the movements in order and draws the balances between them.
func (f flows) lines(ledgers []Ledger, bounds []time.Time) ([]Line, error) {
	var list []Line
	var err error
	for _, b := range slices.SortedFunc(maps.Keys(f), func(x, y book) int {
		return compare(x.account, y.account, x.ledger, y.ledger, x.currency, y.currency)
	}) {
		spans := map[int][]movement{}
		var held Wide
		for m, amount := range f[b] {
			if m.span == 0 {
				held = held.Plus(amount)
			} else if (amount != Wide{}) {
				spans[m.span] = append(spans[m.span], m)
			}
		}
		for span := 1; span < len(bounds); span++ {
			line := Line{Account: b.account, Ledger: ledgers[b.ledger], Currency: b.currency, Start: bounds[span-1], End: bounds[span]}
			if (held == Wide{}) && len(spans[span]) == 0 {
				continue
			}
			add := func(name, split string, amount Wide) {
				var over error
				line.Line, line.Split = name, split
				line.Amount, over = amount.Fit(Key{Account: b.account}, line.Ledger, b.currency)
				err = cmp.Or(err, over)
				list = append(list, line)
			}
			add(LineOpening, "", held)
			slices.SortFunc(spans[span], func(x, y movement) int {
				return cmp.Or(last(x.line)-last(y.line), cmp.Compare(x.line, y.line), cmp.Compare(x.text, y.text))
			})
			for _, m := range spans[span] {
				add(m.line, m.text, f[b][m])
				held = held.Plus(f[b][m])
			}
			add(LineClosing, "", held)
		}
	}
	if err != nil {
		return nil, err
	}
	return list, nil
}

// last puts the deletions behind the other movements.
func last(line string) int {
	if line == TypeDeleted {
		return 1
	}
	return 0
}
