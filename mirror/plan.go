package mirror

import (
	"time"
)

// HeldRow is a held customer balance transaction, as far as planning needs it.
type HeldRow struct {
	ID            string
	Currency      string
	Amount        int64
	EndingBalance int64
	Type          string
	Created       time.Time
	Position      int64 // 0: not placed
	// Digest is the Digest of the raw JSON that was stored.
	Digest string
}

// Span is a closed range of created times; a zero bound is open.
type Span struct{ From, To time.Time }

// BalanceHeld is what a store read, in the transaction of the write, for
// PlanBalance.
type BalanceHeld struct {
	State SyncState
	// Customer is nil when none is held.
	Customer *CustomerView
	// CustomerDigest is the Digest of the held customer's raw JSON.
	CustomerDigest string
	// Balances are the held customer_balances per currency.
	Balances map[string]int64
	// Rows are the held rows whose created lies in one of the snapshot's Spans; all
	// rows when the snapshot is Full and Joined, and not too long.
	Rows []HeldRow
	// Unplaced are the held rows without a position; read when the snapshot is Joined.
	Unplaced []HeldRow
	// Tops are, per currency, the placed rows with the highest position; read when
	// the snapshot is Joined.
	Tops map[string]HeldRow
	// Stored are, by id, rows as they lie in the table: when the snapshot is Whole,
	// those that it lists and those held in its windows; otherwise those that it
	// lists and that an open field_mismatch finding of the target names, so that
	// their findings are closed by proof.
	Stored map[string]Stored[BalanceTransaction]
}

// Placement gives a held row its place in the chain.
type Placement struct {
	ID       string
	Position int64 // 0: take its place away
	// Moved: it had another place before. Only then is there a change record of it: that
	// of the row's insertion covers the others.
	Moved bool
}

// BalancePlan is what a store has to write.
type BalancePlan struct {
	// Insert are new rows, with their positions (0 where not placed).
	Insert []BalanceTransaction
	// Update are held rows whose mutable fields or raw JSON changed; their
	// immutable columns and Position are not to be written.
	Update []BalanceTransaction
	// Restore are held rows that were changed here: every column but Position is to
	// be written as Stripe has it.
	Restore []BalanceTransaction
	// Place are held rows whose position changes.
	Place []Placement
	// Customer is nil when the held row stays as it is.
	Customer *Customer
	// Balances to write, per currency; others stay.
	Balances map[string]int64
	// State has the fields HistoryComplete, CompleteTo, Walk, Disproved and
	// FullReadAt to write.
	State SyncState
	// Open are findings to record, Repaired those that this commit itself repairs;
	// Close is what it proves gone.
	Open     []Finding
	Repaired []Finding
	Close    Closing
}

// CreditsHeld is what a store read for PlanCredits.
type CreditsHeld struct {
	State SyncState
	// Rows are the held rows whose created lies in one of the snapshot's Spans.
	Rows []HeldCredit
	// Sums are, per grant, over all held rows of the customer; read when the snapshot is
	// Joined.
	Sums map[string]GrantSum
	// Grants are all held grants of the customer, and those held elsewhere whose
	// ids are in the snapshot.
	Grants map[string]HeldGrantRow
	// Summary is the held summary per currency.
	Summary map[string]CreditBalance
	// Waiting are the events of the target that the inbox held when the sync began and
	// that name an object (NamingTypes).
	Waiting []EventRef
	// Owners are, by id, the rows that these events and those of the snapshot name,
	// where they are held, of whichever customer.
	Owners map[string]RowOwner
	// Stored are as in BalanceHeld.
	Stored map[string]Stored[CreditTransaction]
	// StoredGrants are, by id, grants as they lie in the table: when the snapshot is
	// Whole or has AllGrants, those of Grants; otherwise as Stored.
	StoredGrants map[string]Stored[CreditGrant]
}

// HeldCredit is a held credit balance transaction, as far as planning needs it.
type HeldCredit struct {
	ID       string
	Grant    string
	Currency string
	Amount   int64
	Created  time.Time
	Digest   string
}

// RowOwner is the customer and currency of a stored credit balance transaction.
type RowOwner struct{ Customer, Currency string }

// GrantSum is the sum of a grant's rows in minor units of its currency.
type GrantSum struct {
	Currency string
	Sum      int64
	// Rows counts them.
	Rows int64
}

// HeldGrantRow is a held grant, as far as planning needs it.
type HeldGrantRow struct {
	Customer string
	Amount   int64
	Currency string
	Updated  time.Time
	VoidedAt time.Time
	Digest   string
}

// CreditsPlan is what a store has to write.
type CreditsPlan struct {
	Insert []CreditTransaction
	// Update are held rows whose raw JSON gained a field; amounts never change.
	Update []CreditTransaction
	// Restore are as in BalancePlan.
	Restore []CreditTransaction
	// Grants are new or changed ones.
	Grants []CreditGrant
	// Summary entries to write, per currency; nil leaves the held ones.
	Summary map[string]CreditBalance
	State   SyncState
	// Clock is the time of a test clock, to be kept unless a later one is held; zero
	// where it is not known.
	Clock TestClock
	// Unanswered are the events, of the inbox and of the snapshot, that go on waiting.
	Unanswered []EventRef
	// Behind reports that the reply is older than what is known: the time of the last
	// look stays as it is.
	Behind bool
	// Open, Repaired and Close are as in BalancePlan.
	Open     []Finding
	Repaired []Finding
	Close    Closing
}
