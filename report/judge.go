package report

import (
	"iter"
	"time"
)

// The rules of the books:
//
//   - A row counts from its date on: created in the balance ledger, effective_at in the
//     credits ledger, there not before its grant is effective.
//   - A customer that was deleted holds nothing from the deletion on. What it held is
//     released then, by a movement of its own; later rows do not count.
//   - A history that is not wholly held and proven has no figure. That of a deleted
//     customer has none before the deletion, and zero after it.

// TypeDeleted is the movement that a deletion makes.
const TypeDeleted = "customer_deleted"

// Proven reports whether the history is wholly held and proven.
func (s Standing) Proven() bool {
	return s.Complete && !s.Walking && !s.Disproved && !s.Unplaced
}

// Released reports whether the customer was deleted before a moment.
func (s Standing) Released(until time.Time) bool {
	return !s.DeletedAt.IsZero() && s.DeletedAt.Before(until)
}

// Why names what an unproven history lacks.
func (s Standing) Why() string {
	switch {
	case !s.Complete:
		return "the history is not wholly held"
	case s.Walking:
		return "the history is being read again"
	case s.Disproved:
		return "the rows did not explain Stripe's balance when they were last read"
	case s.Unplaced:
		return "rows have no place in the chain"
	}
	return ""
}

// Date is from when on the row counts.
func (r Row) Date(d Dating) time.Time {
	if d == ByLedger && r.EffectiveFrom.After(r.Dated) {
		return r.EffectiveFrom
	}
	return r.Dated
}

// Entries are the movements of one ledger of one customer before until, by the rules:
// per currency in the order of their dates, each with Dated as it counts. rows come as
// Reader.Rows lists them; only those that count later than they are dated are kept.
func Entries(l Ledger, s Standing, d Dating, until time.Time, rows iter.Seq2[Row, error]) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		e := entries{ledger: l, standing: s, until: until, yield: yield}
		for r, err := range rows {
			if err != nil {
				yield(r, err)
				return
			}
			if r.Currency != e.currency && !e.end() {
				return
			}
			e.currency, e.key = r.Currency, r.Key
			date := r.Date(d)
			if date.After(r.Dated) {
				r.Dated = date
				e.later = insert(e.later, r)
				continue
			}
			if !e.release(r.Dated) || !e.entry(r) {
				return
			}
		}
		e.end()
	}
}

type entries struct {
	ledger   Ledger
	standing Standing
	until    time.Time
	yield    func(Row, error) bool
	key      Key
	currency string
	held     Wide
	later    []Row // rows that count later, by their dates
}

// insert keeps the order of dates; few rows are kept.
func insert(list []Row, r Row) []Row {
	i := len(list)
	for i > 0 && list[i-1].Dated.After(r.Dated) {
		i--
	}
	list = append(list, r)
	copy(list[i+1:], list[i:])
	list[i] = r
	return list
}

// release yields the kept rows that count before a moment.
func (e *entries) release(before time.Time) bool {
	for len(e.later) > 0 && e.later[0].Dated.Before(before) {
		r := e.later[0]
		e.later = e.later[1:]
		if !e.entry(r) {
			return false
		}
	}
	return true
}

func (e *entries) entry(r Row) bool {
	if !r.Dated.Before(e.until) || !e.standing.DeletedAt.IsZero() && r.Dated.After(e.standing.DeletedAt) {
		return true
	}
	e.held.Add(r.Amount)
	return e.yield(r, nil)
}

// end finishes a currency.
func (e *entries) end() bool {
	defer func() { e.held, e.later = Wide{}, nil }()
	if !e.release(e.until) {
		return false
	}
	if (e.held == Wide{}) || !e.standing.Released(e.until) {
		return true
	}
	released, err := Wide{}.Minus(e.held).Fit(e.key, e.ledger, e.currency)
	return e.yield(Row{
		Key: e.key, Currency: e.currency, Type: TypeDeleted, Amount: released, Dated: e.standing.DeletedAt,
		Created: e.standing.DeletedAt,
	}, err) && err == nil
}
