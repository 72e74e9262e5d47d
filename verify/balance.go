package verify

import (
	"fmt"
	"maps"
	"slices"

	"github.com/creditmirror/creditmirror/mirror"
)

// unplaced counts the rows of one currency that have no place.
type unplaced struct {
	first string
	rows  int64
}

// balances is what is known of the balance ledger of one customer.
type balances struct {
	key      mirror.AuditKey
	customer mirror.AuditCustomer
	// complete reports that every row is held and placed, so that the ends count.
	complete bool
	chains   map[string]*chain
	unplaced map[string]unplaced
	held     map[string]int64 // customer_balances
	report   func(mirror.Finding)
}

// judge reports what is off of the customer's row and of where its chains end.
func (b *balances) judge() {
	c := b.customer
	credit, err := creditBalance(c.InvoiceCreditBalance)
	named := map[string]bool{} // columns that a finding has named
	if err != nil {
		named["invoice_credit_balance"] = true
		b.find(mirror.DriftFieldMismatch, "", "", "one integer per currency", c.InvoiceCreditBalance, "invoice_credit_balance of the customer cannot be read")
	}
	row := customerJSON(&c, credit)
	switch {
	case !c.Deleted:
		b.ends(credit, row.said, named)
	case c.Same || c.DeletedAt != "": // the two marks go together
		b.released()
	}
	for _, s := range row.said {
		currency := c.Currency
		if s.column == "invoice_credit_balance" {
			// The default currency is held twice, and judged by the other column.
			currency = ""
		}
		if !named[s.column] {
			b.report(s.finding(b.finding(currency, c.Customer)))
		}
	}
	row.reportRest(b.finding(c.Currency, c.Customer), b.report)
}

// released reports what a deleted customer still holds.
func (b *balances) released() {
	for _, currency := range slices.Sorted(maps.Keys(b.held)) {
		if n := b.held[currency]; n != 0 {
			b.find(mirror.DriftBalanceMismatch, currency, "", "0", text(n), "customer_balances of a customer that was deleted")
		}
	}
}

// ends compares where the chains end with what the customer's rows say; credit is
// its invoice_credit_balance. Columns of the customer that it covers are named.
func (b *balances) ends(credit map[string]int64, said []contradiction, named map[string]bool) {
	c := b.customer
	if b.complete {
		for _, currency := range slices.Sorted(maps.Keys(b.unplaced)) {
			u := b.unplaced[currency]
			b.find(mirror.DriftChainGap, currency, u.first, "a place in the chain", "none",
				fmt.Sprintf("the history is complete, but %d of its rows have no place in the chain, the first of them %s", u.rows, u.first))
		}
	}
	remote := make(map[string]int64, len(credit)+1)
	for currency, amount := range credit {
		remote[currency] = -amount
	}
	if c.Currency != "" {
		remote[c.Currency] = c.Balance
	}
	mismatch := func(currency, expected, actual, cause string) {
		for _, s := range said {
			if s.column == "currency" || (s.column == "balance") == (currency == c.Currency) {
				named[s.column] = true
				cause += "; of the customer " + s.String()
			}
		}
		b.find(mirror.DriftBalanceMismatch, currency, "", expected, actual, cause)
	}
	if c.Currency == "" && c.Balance != 0 {
		mismatch("", "0", text(c.Balance), "the customer has a balance but no currency")
	}
	for _, currency := range b.currencies(remote) {
		says, known := remote[currency]
		held, holding := b.held[currency]
		ch := b.chains[currency]
		if ch == nil {
			ch = newChain(b.key, currency, b.report)
		}
		column := "invoice_credit_balance of the customer"
		if currency == c.Currency {
			column = "balance of the customer"
		}
		heldText := text(held)
		if !holding {
			heldText = "none"
		}
		heldFits := ch.reaches(held) && (holding || held == ch.end())
		switch {
		case !b.complete:
			// Where the chain ends is not known yet; both columns came in one commit.
			if known && says != held {
				mismatch(currency, text(says), heldText, fmt.Sprintf("customer_balances has %s, %s says %d", heldText, column, says))
			}
		case heldFits && (!known || ch.reaches(says)):
		case heldFits:
			mismatch(currency, text(ch.end()), text(says),
				fmt.Sprintf("%s says %d; its %d transactions and customer_balances %d", column, says, ch.rows, ch.end()))
		case !known || ch.reaches(says):
			mismatch(currency, text(ch.end()), heldText,
				fmt.Sprintf("customer_balances has %s; the chain of %d transactions ends at %d", heldText, ch.rows, ch.end()))
		default:
			mismatch(currency, text(says), text(ch.end()),
				fmt.Sprintf("the chain of %d transactions ends at %d; %s says %d", ch.rows, ch.end(), column, says))
			if held != says {
				mismatch(currency, text(says), heldText, fmt.Sprintf("customer_balances has %s; %s says %d", heldText, column, says))
			}
		}
	}
}

func (b *balances) find(kind mirror.DriftKind, currency, object, expected, actual, cause string) {
	f := b.finding(currency, object)
	f.Kind, f.Expected, f.Actual, f.Cause = kind, expected, actual, cause
	b.report(f)
}

// finding is one of this ledger that says nothing yet.
func (b *balances) finding(currency, object string) mirror.Finding {
	return mirror.Finding{
		Account: b.key.Account, Customer: b.key.Customer, Scope: mirror.ScopeBalance, Currency: currency, Object: object,
	}
}

// currencies lists all that anything is known of.
func (b *balances) currencies(remote map[string]int64) []string {
	all := map[string]bool{}
	for currency := range b.chains {
		all[currency] = true
	}
	for currency := range b.held {
		all[currency] = true
	}
	for currency := range remote {
		all[currency] = true
	}
	return slices.Sorted(maps.Keys(all))
}
