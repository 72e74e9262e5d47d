// Package verify proves the ledgers of a mirror from its tables alone: it calls
// nobody, reads through queries of its own ([mirror.Auditor]) and trusts nothing
// that the writer computed.
//
// Per account, customer and currency it asks that the chain closes from zero, in
// places 1 … n without a gap, each row no older than the one before, and that it
// ends at what customer_balances and the customer's own row say; that no row lacks
// its place; that the rows of every grant sum up to 0 … its amount, in its
// currency, and those of a customer to the ledger_balance of its summary; that
// every row has its customer and every credit transaction its grant; that every
// column of customers, transactions and grants says what the JSON says that Stripe
// sent, and that the JSON has all that Stripe always sends; that no commit is ahead
// of its fence.
//
// Where a column that the ledger is made of (an amount, a currency, an id, the time
// of a balance transaction) differs from the JSON, the finding has both values. Of
// any other column it has the name only: what it holds is a customer's.
//
// The JSON knows nothing of digest and synced_at, nor of the time in deleted_at; and
// of credit_balance_summaries.available_balance nothing else is known. These are not
// proven. A column and its JSON that were changed alike agree.
//
// Three states are not differences. A history that is not complete, or is just
// being read in pieces, is counted as incomplete: what is placed of it must close,
// but where it ends is not known yet. The history of a deleted customer is kept as
// it was when Stripe stopped telling: its chain must close in itself, and its sums
// are compared with nothing. A row without sync_state counts as complete.
//
// One fault is one finding, as far as it can be told: where a column differs from
// the row's JSON, and the chain or a sum does not close because of it, the finding
// is the one of the chain or of the sum, and its cause names the row. All columns of
// an object whose values are not told are one finding.
package verify
