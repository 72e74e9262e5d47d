package verify

import (
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"

	"github.com/creditmirror/creditmirror/mirror"
)

// oddRow is a credit transaction whose columns are not what its JSON says.
type oddRow struct {
	id, grant, currency string
	saidCurrency        string
	amount, saidAmount  int64
	said                []contradiction
}

// maxOdd bounds how many odd rows of one customer are kept to explain a sum.
const maxOdd = 1000

// sum is a sum that no number of 64-bit amounts can overflow.
type sum struct{ n big.Int }

func (s *sum) add(amount int64) {
	var b big.Int
	s.n.Add(&s.n, b.SetInt64(amount))
}

func (s *sum) String() string { return s.n.String() }

// total is one currency of a customer's credits.
type total struct {
	rows sum
	// unknown is the part of it that is in rows of grants that are not held.
	unknown sum
	// odd is by how much the rows' JSON says something else.
	odd     sum
	summary *int64
}

// grantSum is what the rows of one grant come to.
type grantSum struct {
	id       string
	rows     int64
	sum      sum
	odd      sum
	currency string // of the first row
	other    string // another one, if any
}

// credits judges the billing-credit ledger of one customer. Grants come first,
// then rows, by grant.
type credits struct {
	key mirror.AuditKey
	// sums reports that every row is held, so that sums count.
	sums   bool
	totals map[string]*total
	// grant looks up a grant that is not the customer's.
	grant  func(account, id string) (mirror.AuditGrant, error)
	report func(mirror.Finding)

	odd   []oddRow
	named map[string]bool // ids of odd rows that a finding has named
}

func (c *credits) find(kind mirror.DriftKind, currency, object, expected, actual, cause string) {
	f := c.finding(currency, object)
	f.Kind, f.Expected, f.Actual, f.Cause = kind, expected, actual, cause
	c.report(f)
}

// finding is one of this ledger that says nothing yet.
func (c *credits) finding(currency, object string) mirror.Finding {
	return mirror.Finding{
		Account: c.key.Account, Customer: c.key.Customer, Scope: mirror.ScopeCredits, Currency: currency, Object: object,
	}
}

func (c *credits) total(currency string) *total {
	t := c.totals[currency]
	if t == nil {
		t = &total{}
		c.totals[currency] = t
	}
	return t
}

// row adds a row to the sums of its grant and its customer.
func (c *credits) row(g *grantSum, r *mirror.AuditCredit) {
	if g.rows == 0 {
		g.id, g.currency = r.Grant, r.Currency
	} else if r.Currency != g.currency {
		g.other = r.Currency
	}
	g.rows++
	g.sum.add(r.Amount)
	c.total(r.Currency).rows.add(r.Amount)
	row := creditJSON(r)
	if row.hasRest() {
		row.reportRest(c.finding(r.Currency, r.ID), c.report)
	}
	said := row.said
	if len(said) == 0 {
		return
	}
	o := oddRow{
		id: r.ID, grant: r.Grant, currency: r.Currency, saidCurrency: r.Currency,
		amount: r.Amount, saidAmount: number(said, "amount", r.Amount), said: said,
	}
	for _, s := range said {
		if s.column == "currency" {
			o.saidCurrency = s.json
		}
	}
	if len(c.odd) == maxOdd {
		c.oddFields(o)
		return
	}
	c.odd = append(c.odd, o)
	g.odd.add(o.saidAmount)
	g.odd.n.Sub(&g.odd.n, big.NewInt(o.amount))
	c.total(o.currency).odd.n.Sub(&c.total(o.currency).odd.n, big.NewInt(o.amount))
	c.total(o.saidCurrency).odd.add(o.saidAmount)
}

func (c *credits) oddFields(o oddRow) {
	for _, s := range o.said {
		c.report(s.finding(c.finding(o.currency, o.id)))
	}
}

// because adds to a cause which rows' JSON says something else, and takes note
// that they have been named.
func (c *credits) because(cause string, concerns func(oddRow) bool) string {
	for _, o := range c.odd {
		if concerns(o) {
			c.named[o.id] = true
			cause += "; of " + o.id + " " + texts(o.said)
		}
	}
	return cause
}

// close judges a grant and its rows; g is nil where the customer holds no such
// grant, s where the grant has no rows.
func (c *credits) close(g *mirror.AuditGrant, s *grantSum) error {
	if g == nil {
		return c.stray(s)
	}
	row := grantJSON(g)
	said := row.said
	grantTold := false
	if s != nil && g.Currency != "" {
		expected, actual, cause := "", "", ""
		switch {
		case s.currency != g.Currency || s.other != "":
			other := s.currency
			if other == g.Currency {
				other = s.other
			}
			expected, actual = g.Currency, other
			cause = fmt.Sprintf("rows of grant %s are in %s, the grant in %s", g.ID, other, g.Currency)
		case c.sums && (s.sum.n.Sign() < 0 || s.sum.n.Cmp(big.NewInt(g.Amount)) > 0):
			expected, actual = fmt.Sprintf("0..%d", g.Amount), s.sum.String()
			cause = fmt.Sprintf("%d rows of grant %s sum up to %s, outside 0..%d", s.rows, g.ID, actual, g.Amount)
		}
		if cause != "" {
			grantTold = len(said) > 0
			if grantTold {
				cause += "; of the grant " + texts(said)
			}
			cause = c.because(cause, func(o oddRow) bool { return o.grant == g.ID })
			c.find(mirror.DriftGrantOutOfBounds, g.Currency, g.ID, expected, actual, cause)
		}
	}
	if f := c.finding(g.Currency, g.ID); grantTold {
		row.reportRest(f, c.report)
	} else {
		row.reportAll(f, c.report)
	}
	return nil
}

// stray judges rows whose grant is not among the customer's.
func (c *credits) stray(s *grantSum) error {
	other, err := c.grant(c.key.Account, s.id)
	switch {
	case errors.Is(err, mirror.ErrNotFound):
		if !c.sums {
			return nil // the grants of a history that is still being read may be to come
		}
		cause := c.because(fmt.Sprintf("%d rows of grant %s are held but not the grant", s.rows, s.id),
			func(o oddRow) bool { return o.grant == s.id })
		c.find(mirror.DriftOrphan, s.currency, s.id, "a grant", s.sum.String(), cause)
		c.total(s.currency).unknown.n.Add(&c.total(s.currency).unknown.n, &s.sum.n)
	case err != nil:
		return fmt.Errorf("look up grant %s: %w", s.id, err)
	default:
		for _, said := range grantJSON(&other).said {
			if said.column == "customer" && said.json == c.key.Customer {
				return nil // the grant's own row is wrong, and reported as such
			}
		}
		c.find(mirror.DriftFieldMismatch, s.currency, s.id, other.Customer, c.key.Customer,
			fmt.Sprintf("%d rows of grant %s are held for another customer than the grant's", s.rows, s.id))
	}
	return nil
}

// finish compares the sums of all rows with the summary.
func (c *credits) finish() {
	if c.sums {
		for _, currency := range slices.Sorted(maps.Keys(c.totals)) {
			c.compare(currency, c.totals[currency])
		}
	}
	for _, o := range c.odd {
		if !c.named[o.id] {
			c.oddFields(o)
		}
	}
}

func (c *credits) compare(currency string, t *total) {
	want := new(big.Int)
	expected := "0"
	if t.summary != nil {
		want.SetInt64(*t.summary)
		expected = text(*t.summary)
	}
	known := new(big.Int).Sub(&t.rows.n, &t.unknown.n)
	if t.rows.n.Cmp(want) == 0 || t.unknown.n.Sign() != 0 && known.Cmp(want) == 0 {
		return
	}
	concerns := func(o oddRow) bool { return o.currency == currency || o.saidCurrency == currency }
	if new(big.Int).Add(&t.rows.n, &t.odd.n).Cmp(want) == 0 && slices.ContainsFunc(c.odd, func(o oddRow) bool {
		return concerns(o) && c.named[o.id]
	}) {
		return // a finding of a grant has named the row that is off
	}
	cause := fmt.Sprintf("the rows sum up to %s, the summary has a ledger balance of %s", &t.rows, expected)
	if t.summary == nil {
		cause = fmt.Sprintf("the rows sum up to %s, and there is no summary", &t.rows)
	}
	c.find(mirror.DriftSummaryMismatch, currency, "", expected, t.rows.String(), c.because(cause, concerns))
}
