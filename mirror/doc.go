// Package mirror is the vocabulary of creditmirror: the objects of Stripe's two
// credit ledgers, the targets that are synced, the rules that a ledger obeys,
// and the contract of the Store that keeps the local copy.
//
// Everything in it is either a plain value or a pure function of values; the
// drivers that keep them are in mirror/sqlite and mirror/postgres, and both
// pass mirror/mirrortest. Amounts are integers in the currency's minor unit and
// always travel with a lower-case ISO 4217 code; they are never scaled and
// never added across currencies. A zero time.Time stands for Stripe's null.
package mirror
