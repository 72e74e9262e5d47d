package report

import (
	"strings"

	"github.com/creditmirror/creditmirror/money"
)

// KnownCurrency reports whether there is a currency of this code, in lower case.
func KnownCurrency(code string) bool { return money.Known(code) }

// Money writes an amount for people, with its currency: "-1,234.50 USD".
func Money(amount int64, currency string) string { return money.Format(amount, currency) }

// Words says what a balance is: in the balance ledger a negative one is credit that
// the customer has, a positive one is owed; in the credits ledger a positive one is
// credit left.
func Words(l Ledger, amount int64) string {
	switch {
	case amount == 0:
		return "nothing"
	case l == LedgerBalance && amount > 0:
		return "owed"
	case l == LedgerCredits && amount < 0:
		return "overdrawn"
	}
	return "credit"
}

// Human writes a balance in words: "12.50 USD credit".
func Human(l Ledger, amount int64, currency string) string {
	word := Words(l, amount)
	if l == LedgerBalance || amount < 0 {
		// The word says what the sign did.
		return strings.TrimPrefix(Money(amount, currency), "-") + " " + word
	}
	return Money(amount, currency) + " " + word
}
