package verify

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// chain judges the placed rows of one (account, customer, currency), one by one
// in the order of their places.
//
// A row that does not fit leaves more than one balance to go on from: what the
// row says it ended at, and what it should have ended at. The next row fits if it
// starts from either, so that one wrong number is one finding and not the end of
// the whole chain.
type chain struct {
	key      mirror.AuditKey
	currency string
	rows     int64
	ends     []int64 // balances that the chain may have reached; one while it closes
	before   []int64 // what ends was before the last row
	place    int64
	last     string // id of the last row
	created  time.Time
	// broken reports that the last row did not fit: the next one that does not belongs
	// to the same break.
	broken bool
	report func(mirror.Finding)
}

// maxEnds bounds what a chain may have reached after many rows in one place.
const maxEnds = 8

func newChain(key mirror.AuditKey, currency string, report func(mirror.Finding)) *chain {
	return &chain{key: key, currency: currency, ends: []int64{0}, report: report}
}

// add judges the next row.
func (c *chain) add(r *mirror.AuditTransaction) {
	c.rows++
	row := transactionJSON(r)
	said := row.said
	twice := c.rows > 1 && r.Position == c.place
	if !twice {
		c.before = append(c.before[:0], c.ends...)
	}
	cause := ""
	expected, actual := text(c.before[0]), difference(r.EndingBalance, r.Amount)
	switch {
	case twice:
		// In which order the two come is the database's choice.
		c.find(mirror.DriftUnexpectedTransaction, max(r.ID, c.last), "one row", "another row",
			c.because(fmt.Sprintf("place %d of the chain is held by %s and %s", r.Position, min(r.ID, c.last), max(r.ID, c.last)), said))
	case !c.fits(r):
		cause = fmt.Sprintf("chain breaks at %s in place %d: it starts from %s, the balance is %s", r.ID, r.Position, actual, expected)
		if r.Position != c.place+1 {
			cause += fmt.Sprintf("; the place before it is %d", c.place)
		}
	case r.Position != c.place+1:
		cause = fmt.Sprintf("no row is in place %d of the chain: %s is in place %d after place %d", c.place+1, r.ID, r.Position, c.place)
		expected, actual = text(c.place+1), text(r.Position)
	case r.Created.Before(c.created):
		cause = fmt.Sprintf("%s in place %d is older than the row before it", r.ID, r.Position)
		expected, actual = "not before "+stamp(c.created), stamp(r.Created)
	}
	switch {
	case cause != "" && !c.broken:
		c.find(mirror.DriftChainGap, r.ID, expected, actual, c.because(cause, said))
	case !twice: // a row of the same break is reported only where its JSON says more
		for _, s := range said {
			c.report(s.finding(c.finding(r.ID)))
		}
	}
	if row.hasRest() {
		row.reportRest(c.finding(r.ID), c.report)
	}
	c.broken = cause != ""
	c.step(r, said, twice)
}

// fits reports whether the row starts from the balance that was reached.
func (c *chain) fits(r *mirror.AuditTransaction) bool {
	return slices.ContainsFunc(c.before, func(end int64) bool {
		sum, ok := add(end, r.Amount)
		return ok && sum == r.EndingBalance
	})
}

// step goes on to the balances after the row.
func (c *chain) step(r *mirror.AuditTransaction, said []contradiction, twice bool) {
	reached := []int64{}
	if !c.broken && !twice && len(said) == 0 {
		c.ends = append(c.ends[:0], r.EndingBalance)
	} else {
		if twice {
			reached = append(reached, c.ends...)
		}
		reached = append(reached, r.EndingBalance, number(said, "ending_balance", r.EndingBalance))
		if sum, ok := add(c.before[0], r.Amount); ok {
			reached = append(reached, sum)
		}
		c.ends = c.ends[:0]
		for _, end := range reached {
			if len(c.ends) < maxEnds && !slices.Contains(c.ends, end) {
				c.ends = append(c.ends, end)
			}
		}
	}
	c.place, c.last = r.Position, r.ID
	if !contradicts(said, "created") {
		c.created = r.Created
	}
}

// because adds to a cause what the row's own JSON says.
func (*chain) because(cause string, said []contradiction) string {
	if len(said) > 0 {
		cause += "; " + texts(said)
	}
	return cause
}

func (c *chain) find(kind mirror.DriftKind, object, expected, actual, cause string) {
	f := c.finding(object)
	f.Kind, f.Expected, f.Actual, f.Cause = kind, expected, actual, cause
	c.report(f)
}

// finding is one of this chain that says nothing yet.
func (c *chain) finding(object string) mirror.Finding {
	return mirror.Finding{
		Account: c.key.Account, Customer: c.key.Customer, Scope: mirror.ScopeBalance, Currency: c.currency, Object: object,
	}
}

// reaches reports whether the chain may end at the balance.
func (c *chain) reaches(balance int64) bool { return slices.Contains(c.ends, balance) }

// end is where the chain ends.
func (c *chain) end() int64 { return c.ends[0] }

// add is a sum, and whether 64 bits hold it.
func add(a, b int64) (int64, bool) {
	sum := a + b
	return sum, (sum > a) == (b > 0)
}

// difference is a - b, which 64 bits need not hold.
func difference(a, b int64) string {
	return new(big.Int).Sub(big.NewInt(a), big.NewInt(b)).String()
}

func text(n int64) string { return strconv.FormatInt(n, 10) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
