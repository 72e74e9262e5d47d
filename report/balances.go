package report

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// Query asks for a report.
type Query struct {
	Filter
	// Ledgers are those to report, in the order of reports.
	Ledgers []Ledger
	// Until is the moment: rows count that are dated before it.
	Until time.Time
	// All reports what is zero too.
	All bool
	// Pending counts grants from their creation on, before they are effective.
	Pending bool
	// Check is how a roll-forward looks whether rows add up to their ending balances.
	Check Check
}

// Check is which chains of the balance ledger are looked at.
type Check uint8

const (
	// CheckDoubted looks at those that were not proven, or may have changed since, by what
	// the day table keeps; where that does not tell, at all.
	CheckDoubted Check = iota
	// CheckAll looks at all.
	CheckAll
)

// Ledgers lists both, or the one that is named.
func Ledgers(only Ledger) []Ledger {
	if only != "" {
		return []Ledger{only}
	}
	return []Ledger{LedgerBalance, LedgerCredits}
}

func (q Query) dating() Dating {
	if q.Pending {
		return ByCreated
	}
	return ByLedger
}

// named is how many customers an Outcome names.
const named = 20

// Outcome is what a report could not say.
type Outcome struct {
	// Unproven counts the customers without a figure, since their history is not wholly
	// held and proven; Names are the first of them.
	Unproven int64
	Names    []Unproven
	// Differing counts balances whose rows do not add up to the ending balance of the
	// last one; Differences are the first of them.
	Differing   int64
	Differences []Difference

	last Key
	seen map[Key]bool
}

// Unproven is a customer without a figure, and why.
type Unproven struct {
	Key
	Ledger Ledger
	Why    string
}

// Difference is a balance that its rows do not add up to.
type Difference struct {
	Key
	Currency           string
	Amount, LastEnding int64
}

// Whole reports whether nothing is left out and nothing differs.
func (o *Outcome) Whole() bool { return o.Unproven == 0 && o.Differing == 0 }

// unproven counts a customer once, though both ledgers lack something. Ledgers that
// are not looked at side by side need seen.
func (o *Outcome) unproven(s Standing, l Ledger) {
	if o.Unproven > 0 && o.last == s.Key || o.seen[s.Key] {
		return
	}
	o.last = s.Key
	if o.seen != nil {
		o.seen[s.Key] = true
	}
	if o.Unproven++; len(o.Names) < named {
		o.Names = append(o.Names, Unproven{s.Key, l, s.Why()})
	}
}

func (o *Outcome) differs(d Difference) {
	if o.Differing++; len(o.Differences) < named {
		o.Differences = append(o.Differences, d)
	}
}

// Balance is what a customer holds in one ledger and currency.
type Balance struct {
	Key
	Ledger   Ledger
	Currency string
	Amount   int64
}

// reading is one ledger, read by customers.
type reading struct {
	ledger  Ledger
	apart   *puller[Standing]
	sums    *puller[Sum]
	pending *puller[Sum]
}

func (r *reading) stop() {
	r.apart.stop()
	r.sums.stop()
	r.pending.stop()
}

func read(ctx context.Context, from Reader, q Query, l Ledger, onlyApart bool) *reading {
	r := &reading{
		ledger: l, apart: pull(from.Standings(ctx, l, q.Filter)),
		sums: pull(from.Sums(ctx, l, q.Filter, q.dating(), q.Until, onlyApart)),
	}
	pending := func(func(Sum, error) bool) {}
	if l == LedgerCredits && !q.Pending {
		pending = from.Pending(ctx, q.Filter, q.Until)
	}
	r.pending = pull(pending)
	return r
}

func (r *reading) err() error { return errors.Join(r.apart.err, r.sums.err, r.pending.err) }

// customer reads what one customer has, by the rules: nothing where there is no figure.
func (r *reading) customer(k Key, until time.Time, out *Outcome) ([]Balance, error) {
	standing := Standing{Key: k, Complete: true}
	if r.apart.at(k) {
		standing = r.apart.head
		r.apart.step()
	}
	pending := map[string]Wide{}
	for s := range r.pending.of(k) {
		pending[s.Currency] = s.Amount
	}
	released := standing.Released(until)
	known := released || standing.Proven()
	if !known {
		out.unproven(standing, r.ledger)
	}
	var list []Balance
	var failed error
	for s := range r.sums.of(k) {
		if !known || failed != nil {
			continue // the stream must stand at the next customer
		}
		b := Balance{Key: k, Ledger: r.ledger, Currency: s.Currency}
		if !released {
			b.Amount, failed = s.held(r.ledger, pending[s.Currency], out)
		}
		list = append(list, b)
	}
	return list, errors.Join(failed, r.err())
}

// held is what a customer whose ledger is proven holds by its plain sum, less what is
// pending. Where the sum is not the ending balance, out tells it.
func (s Sum) held(l Ledger, pending Wide, out *Outcome) (int64, error) {
	amount, err := s.Amount.Fit(s.Key, l, s.Currency)
	if err != nil {
		return 0, err
	}
	if amount != s.End {
		out.differs(Difference{s.Key, s.Currency, amount, s.End})
	}
	return s.Amount.Minus(pending).Fit(s.Key, l, s.Currency)
}

// Balances yields what every customer holds, by account, customer, ledger, currency.
func Balances(ctx context.Context, from Reader, q Query, yield func(Balance) error) (Outcome, error) {
	var out Outcome
	var ledgers []*reading
	for _, l := range q.Ledgers {
		r := read(ctx, from, q, l, false)
		defer r.stop()
		ledgers = append(ledgers, r)
	}
	for {
		var k Key
		some := false
		for _, r := range ledgers {
			if err := r.err(); err != nil {
				return out, err
			}
			r.apart.least(&k, &some)
			r.sums.least(&k, &some)
		}
		if !some {
			return out, nil
		}
		for _, r := range ledgers {
			list, err := r.customer(k, q.Until, &out)
			if err != nil {
				return out, err
			}
			for _, b := range list {
				if b.Amount == 0 && !q.All {
					continue
				}
				if err := yield(b); err != nil {
					return out, err
				}
			}
		}
	}
}

// LedgerTotal is what all customers of an account hold in one ledger and currency.
type LedgerTotal struct {
	Account   string
	Ledger    Ledger
	Currency  string
	Customers int64
	Amount    int64
}

// Totals adds balances up, by account, ledger, currency.
func Totals(ctx context.Context, from Reader, q Query) ([]LedgerTotal, Outcome, error) {
	out := Outcome{seen: map[Key]bool{}}
	type key struct {
		account  string
		ledger   int
		currency string
	}
	type total struct {
		customers int64
		amount    Wide
	}
	totals := map[key]total{}
	differing := false
	for i, l := range q.Ledgers {
		add := func(account, currency string, customers int64, amount Wide) {
			k := key{account, i, currency}
			t := totals[k]
			totals[k] = total{t.customers + customers, t.amount.Plus(amount)}
		}
		all, err := from.Totals(ctx, l, q.Filter, q.dating(), q.Until)
		if err != nil {
			return nil, out, err
		}
		for _, t := range all {
			add(t.Account, t.Currency, t.Customers, t.Amount)
			differing = differing || t.Differing > 0
		}
		if err := correct(ctx, from, q, l, &out, func(s Sum, sign int64) {
			switch {
			case s.Amount == Wide{}:
			case sign < 0:
				add(s.Account, s.Currency, sign, Wide{}.Minus(s.Amount))
			default:
				add(s.Account, s.Currency, sign, s.Amount)
			}
		}); err != nil {
			return nil, out, err
		}
	}
	if differing {
		if err := differences(ctx, from, q, &out); err != nil {
			return nil, out, err
		}
	}
	var list []LedgerTotal
	for _, k := range slices.SortedFunc(maps.Keys(totals), func(a, b key) int {
		return compare(a.account, b.account, a.ledger, b.ledger, a.currency, b.currency)
	}) {
		l := q.Ledgers[k.ledger]
		amount, err := totals[k].amount.Fit(Key{Account: k.account}, l, k.currency)
		if err != nil {
			return nil, out, err
		}
		if t := (LedgerTotal{k.account, l, k.currency, totals[k].customers, amount}); t.Amount != 0 || t.Customers != 0 || q.All {
			list = append(list, t)
		}
	}
	return list, out, nil
}

// correct takes what customers that stand apart have in the plain sums from a total,
// and adds what the rules say that they hold.
func correct(ctx context.Context, from Reader, q Query, l Ledger, out *Outcome, add func(s Sum, sign int64)) error {
	r := read(ctx, from, q, l, true)
	defer r.stop()
	for {
		var k Key
		some := false
		r.apart.least(&k, &some)
		r.sums.least(&k, &some)
		if err := r.err(); err != nil || !some {
			return err
		}
		standing := Standing{Key: k, Complete: true}
		if r.apart.at(k) {
			standing = r.apart.head
			r.apart.step()
		}
		pending := map[string]Wide{}
		for s := range r.pending.of(k) {
			pending[s.Currency] = s.Amount
		}
		released := standing.Released(q.Until)
		if !released && !standing.Proven() {
			out.unproven(standing, l)
		}
		for s := range r.sums.of(k) {
			add(s, -1)
			if !released && standing.Proven() {
				s.Amount = s.Amount.Minus(pending[s.Currency])
				add(s, 1)
			}
		}
	}
}

// differences looks for balances that their rows do not add up to.
func differences(ctx context.Context, from Reader, q Query, out *Outcome) error {
	q.Ledgers = []Ledger{LedgerBalance}
	found, err := Balances(ctx, from, q, func(Balance) error { return nil })
	out.Differing, out.Differences = found.Differing, found.Differences
	return err
}
