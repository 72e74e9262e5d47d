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
	// complete tells that every row is held and placed, so that the ends count.
	complete bool
	chains   map[string]*chain
	unplaced map[string]unplaced
	held     map[string]int64 // customer_balances
}

// judge compares where the chains end with what the customer's rows say, and
// reports what is off.
func (b *balances) judge(report func(mirror.Finding)) {
	find := func(kind mirror.DriftKind, currency, object, expected, actual, cause string) {
		report(mirror.Finding{
			Kind: kind, Account: b.key.Account, Customer: b.key.Customer, Scope: mirror.ScopeBalance, Currency: currency,
			Object: object, Expected: expected, Actual: actual, Cause: cause,
		})
	}
	c := b.customer
	credit, err := creditBalance(c.InvoiceCreditBalance)
	if err != nil {
		find(mirror.DriftFieldMismatch, "", "", "one integer per currency", c.InvoiceCreditBalance, "invoice_credit_balance of the customer cannot be read")
	}
	said := customerJSON(&c, credit)
	if c.Deleted {
		b.fields(said, nil, find)
		return
	}
	if b.complete {
		for _, currency := range slices.Sorted(maps.Keys(b.unplaced)) {
			u := b.unplaced[currency]
			find(mirror.DriftChainGap, currency, u.first, "a place in the chain", "none",
				fmt.Sprintf("the history is complete, but %d of its rows have no place in the chain, the first of them %s", u.rows, u.first))
		}
	}
	tells := make(map[string]int64, len(credit)+1)
	for currency, amount := range credit {
		tells[currency] = -amount
	}
	if c.Currency != "" {
		tells[c.Currency] = c.Balance
	}
	off := map[string]bool{}
	mismatch := func(currency, expected, actual, cause string) {
		off[currency] = true
		if currency == c.Currency {
			for _, s := range said {
				if s.column == "balance" {
					cause += "; of the customer " + s.String()
				}
			}
		}
		find(mirror.DriftBalanceMismatch, currency, "", expected, actual, cause)
	}
	if c.Currency == "" && c.Balance != 0 {
		mismatch("", "0", text(c.Balance), "the customer has a balance but no currency")
	}
	for _, currency := range b.currencies(tells) {
		told, telling := tells[currency]
		held, holding := b.held[currency]
		ch := b.chains[currency]
		if ch == nil {
			ch = newChain(b.key, currency, report)
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
			if telling && told != held {
				mismatch(currency, text(told), heldText, fmt.Sprintf("customer_balances has %s, %s tells %d", heldText, column, told))
			}
		case heldFits && (!telling || ch.reaches(told)):
		case heldFits:
			mismatch(currency, text(ch.end()), text(told),
				fmt.Sprintf("%s tells %d; its %d transactions and customer_balances %d", column, told, ch.rows, ch.end()))
		case !telling || ch.reaches(told):
			mismatch(currency, text(ch.end()), heldText,
				fmt.Sprintf("customer_balances has %s; the chain of %d transactions ends at %d", heldText, ch.rows, ch.end()))
		default:
			mismatch(currency, text(told), text(ch.end()),
				fmt.Sprintf("the chain of %d transactions ends at %d; %s tells %d", ch.rows, ch.end(), column, told))
			if held != told {
				mismatch(currency, text(told), heldText, fmt.Sprintf("customer_balances has %s; %s tells %d", heldText, column, told))
			}
		}
	}
	b.fields(said, off, find)
}

// fields reports columns of the customer that are not what its JSON says, where
// no mismatch has told it already.
func (b *balances) fields(said []contradiction, off map[string]bool, find func(kind mirror.DriftKind, currency, object, expected, actual, cause string)) {
	for _, s := range said {
		currency := b.customer.Currency
		if s.column == "invoice_credit_balance" {
			// The default currency is told twice, and judged by the other column.
			currency = ""
		}
		if len(off) > 0 && (s.column != "balance" || off[currency]) {
			continue
		}
		find(mirror.DriftFieldMismatch, currency, b.key.Customer, s.json, s.held, s.column+" of the customer is not what Stripe's JSON of it says")
	}
}

// currencies lists all that anything is known of.
func (b *balances) currencies(tells map[string]int64) []string {
	all := map[string]bool{}
	for currency := range b.chains {
		all[currency] = true
	}
	for currency := range b.held {
		all[currency] = true
	}
	for currency := range tells {
		all[currency] = true
	}
	return slices.Sorted(maps.Keys(all))
}
