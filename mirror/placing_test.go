package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// sliceDriver keeps one balance ledger in memory, and dies where the test says.
type sliceDriver struct {
	rows  map[string]HeldRow
	state SyncState
	// balances are customer_balances; writes counts transactions that place rows.
	balances map[string]int64
	writes   int
	dieAt    int
	// largest is the largest transaction, in rows; moved counts rows that had a place.
	largest, moved int
	slice          int
}

var errDied = errors.New("died")

func (d *sliceDriver) held(s BalanceSnapshot) BalanceHeld {
	h := BalanceHeld{State: d.state, Balances: d.balances, Tops: map[string]HeldRow{}}
	for _, r := range d.rows {
		if r.Position == 0 {
			h.Unplaced = append(h.Unplaced, r)
		} else if r.Position > h.Tops[r.Currency].Position {
			h.Tops[r.Currency] = r
		}
		if slices.ContainsFunc(s.Spans(), func(sp Span) bool {
			return (sp.From.IsZero() || !r.Created.Before(sp.From)) && (sp.To.IsZero() || !r.Created.After(sp.To))
		}) {
			h.Rows = append(h.Rows, r)
		}
	}
	return h
}

func (d *sliceDriver) CommitBalance(_ context.Context, s BalanceSnapshot) (Applied, error) {
	h := d.held(s)
	waiting := len(h.Unplaced)
	if s.Full {
		waiting = len(h.Rows)
	}
	if s.TooLong(waiting, d.slice) {
		return Applied{}, ErrLong
	}
	plan, err := PlanBalance(s, h)
	if err != nil {
		return Applied{}, err
	}
	for _, r := range plan.Insert {
		d.rows[r.ID] = HeldRow{r.ID, r.Currency, r.Amount, r.EndingBalance, r.Type, r.Created, r.Position, Digest(r.Raw)}
	}
	d.put(plan.Place)
	for currency, balance := range plan.Balances {
		d.balances[currency] = balance
	}
	d.state = plan.State
	return Applied{Inserted: len(plan.Insert), Findings: plan.Open, Repaired: plan.Repaired}, nil
}

func (d *sliceDriver) put(places []Placement) {
	for _, p := range places {
		r := d.rows[p.ID]
		if r.Position != 0 {
			d.moved++
		}
		r.Position = p.Position
		d.rows[p.ID] = r
	}
}

func (d *sliceDriver) Tops(context.Context, Target) (map[string]HeldRow, error) {
	return d.held(BalanceSnapshot{}).Tops, nil
}

func (d *sliceDriver) RowsToPlace(_ context.Context, _ Target, all bool, after time.Time, limit int) ([]HeldRow, error) {
	var list []HeldRow
	for _, r := range d.rows {
		if (all || r.Position == 0) && r.Created.After(after) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b HeldRow) int { return a.Created.Compare(b.Created) })
	return list[:min(limit, len(list))], nil
}

func (d *sliceDriver) Place(_ context.Context, _ Target, _ int64, places []Placement) error {
	if d.writes++; d.writes == d.dieAt {
		return errDied
	}
	d.largest = max(d.largest, len(places))
	d.put(places)
	return nil
}

// requireProven asks that placed rows are the beginning of closed chains; whole, that
// all rows are.
func (d *sliceDriver) requireProven(t *rapid.T, whole bool) {
	chains := map[string][]HeldRow{}
	for _, r := range d.rows {
		if r.Position > 0 {
			chains[r.Currency] = append(chains[r.Currency], r)
		} else if whole {
			t.Fatalf("%s has no place", r.ID)
		}
	}
	for currency, rows := range chains {
		slices.SortFunc(rows, func(a, b HeldRow) int { return int(a.Position - b.Position) })
		var balance int64
		for i, r := range rows {
			if balance += r.Amount; r.Position != int64(i)+1 || balance != r.EndingBalance {
				t.Fatalf("%s of %s in place %d, want %d; it ends at %d, want %d", r.ID, currency, r.Position, i+1, r.EndingBalance, balance)
			}
		}
		if whole && d.balances[currency] != balance {
			t.Fatalf("%s ends at %d, the balance held is %d", currency, balance, d.balances[currency])
		}
	}
}

// A history of any shape, in pieces and slices of any size, whose process dies at any
// of its writes, is never reported as complete before it is, and is at the end; the rows
// placed on the way are a proven beginning of it.
func TestI2_SlicesAnyCrash(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := &sliceDriver{rows: map[string]HeldRow{}, balances: map[string]int64{}, slice: rapid.IntRange(1, 5).Draw(t, "slice")}
		target := Target{Scope: ScopeBalance, ID: "cus_1"}
		var rows []BalanceTransaction // oldest first
		ends := map[string]int64{}
		second := int64(1)
		grow := func(label string, least int) {
			for range rapid.IntRange(least, 25).Draw(t, label) {
				if rapid.IntRange(0, 2).Draw(t, "new second") > 0 {
					second++
				}
				currency := rapid.SampledFrom([]string{"usd", "eur"}).Draw(t, "currency")
				amount := rapid.Int64Range(-3, 3).Draw(t, "amount")
				ends[currency] += amount
				id := fmt.Sprintf("r%04d", len(rows))
				rows = append(rows, BalanceTransaction{
					ID: id, Customer: "cus_1", Amount: amount, Currency: currency, EndingBalance: ends[currency], Type: "adjustment",
					Created: time.Unix(second, 0).UTC(), Raw: fmt.Appendf(nil, `{"id":%q}`, id),
				})
			}
		}
		// sync reads all rows from a place on, in pieces, and dies now and then.
		sync := func(from int, full bool) {
			for tries := 0; ; tries++ {
				piece := rapid.IntRange(1, 12).Draw(t, "piece")
				d.dieAt = 0
				if tries < 4 {
					d.dieAt = d.writes + rapid.IntRange(1, 4).Draw(t, "dies after")
				}
				credit := map[string]int64{}
				for currency, end := range ends {
					credit[currency] = -end
				}
				customer := Customer{ID: "cus_1", Currency: "usd", Balance: ends["usd"], InvoiceCreditBalance: credit, Raw: []byte(`{}`)}
				for top := len(rows); top > from; {
					bottom := max(from, top-piece)
					list := slices.Clone(rows[bottom:top])
					slices.Reverse(list)
					s := BalanceSnapshot{
						Target: target, ObservedAt: time.Unix(second, 0), Customer: customer, Joined: bottom == from, Full: full && bottom == from,
						Windows: []Window[BalanceTransaction]{{Rows: list, FromHead: top == len(rows), ToEnd: full && bottom == from}},
					}
					if !s.Joined {
						s.Walk = Walk{Cursor: list[len(list)-1].ID, Top: rows[len(rows)-1].Created, Full: full}
					}
					_, err := ApplyBalance(t.Context(), d, s, d.slice)
					if err == nil && s.Joined {
						d.requireProven(t, true)
						if !d.state.HistoryComplete || d.state.Walk.InProgress() || d.state.Disproved {
							t.Fatalf("joined, and %+v", d.state)
						}
						return
					}
					if err != nil && !errors.Is(err, errDied) {
						t.Fatal(err)
					}
					if !d.state.Walk.InProgress() {
						t.Fatalf("not joined, and no walk is open: %+v", d.state)
					}
					d.requireProven(t, false)
					if err != nil {
						break
					}
					top = bottom
				}
			}
		}
		grow("rows", 1)
		sync(0, true)
		for range rapid.IntRange(0, 3).Draw(t, "catch-ups") {
			known := len(rows)
			grow("more", 0)
			if len(rows) == known {
				continue
			}
			for known > 0 && !rows[known-1].Created.Before(d.state.CompleteTo) {
				known-- // as the worker reads: past the second of the complete part
			}
			sync(max(known-1, 0), false)
		}
		sync(0, true)
		if d.moved > 0 {
			t.Fatalf("%d rows moved in a sound ledger", d.moved)
		}
		if d.largest > d.slice {
			t.Fatalf("a transaction placed %d rows, want at most %d", d.largest, d.slice)
		}
	})
}
