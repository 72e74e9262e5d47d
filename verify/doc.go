// Package verify proves the ledgers of a mirror from its tables alone: it makes no
// calls, reads through queries of its own ([mirror.Auditor]) and trusts nothing
// that the writer computed.
//
// It checks, per account, customer and currency, that
//
//   - the chain closes from zero, at positions 1 … n without a gap, each row no
//     older than the one before, and ends at the balance in customer_balances and
//     in the customer's own row;
//   - no row lacks its position;
//   - the rows of every grant sum up to 0 … its amount, in its currency, and those
//     of a customer to the ledger_balance of its summary;
//   - every row has its customer and every credit transaction its grant;
//   - every column of customers, transactions and grants agrees with the JSON that
//     Stripe sent, and the JSON has all members that Stripe always sends;
//   - no commit is ahead of its fence.
//
// If a column that makes up the ledger (an amount, a currency, an id, the time
// of a balance transaction) differs from the JSON, the finding has both values. For
// any other column it has the name only, because the value is a customer's data.
//
// These are not proven: digest, synced_at and the time in deleted_at, which are not in
// the JSON, and credit_balance_summaries.available_balance, for which there is nothing
// to compare with. A column and its JSON that were changed alike agree.
//
// Three states are not differences. A history that is not complete, or is
// being read in pieces, is counted as incomplete: its placed rows must close,
// but its end is not known yet. The history of a deleted customer is kept as
// it was when Stripe stopped returning it: its chain must close in itself, and its sums
// are compared with nothing. A row without sync_state counts as complete.
//
// One fault is one finding, as far as faults can be distinguished: if a column differs
// from the row's JSON, and the chain or a sum does not close because of it, the finding
// is that of the chain or of the sum, and its cause names the row. All columns of
// an object whose values are not shown are one finding.
package verify
