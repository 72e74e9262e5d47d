package report

import (
	"context"
	"iter"
	"time"
)

// Ledger names one of Stripe's two ledgers.
type Ledger string

// The ledgers, in the order of reports.
const (
	LedgerBalance Ledger = "balance"
	LedgerCredits Ledger = "credits"
)

// Filter narrows what is read. The zero value takes everything.
type Filter struct {
	// Account is the only account; nil takes all, the empty string is the platform's own.
	Account *string
	// Customer and Currency are the only ones; empty takes all.
	Customer, Currency string
}

// Dating is what a row of the credits ledger is dated by.
type Dating uint8

const (
	// ByLedger dates rows by created in the balance ledger, by effective_at in the other.
	ByLedger Dating = iota
	// ByCreated dates rows by created in both: grants count before they are effective.
	ByCreated
)

// Key is whose row it is.
type Key struct{ Account, Customer string }

// Standing is what is known of one ledger of one customer that stands apart: its plain
// sums cannot be taken as they are.
type Standing struct {
	Key
	// Complete, Walking, Disproved and Unplaced are what the syncs left: whether every
	// row is held, whether a read of the history is under way, whether the last sync
	// could not prove the ledger, whether rows have no place in their chain.
	Complete, Walking, Disproved, Unplaced bool
	// DeletedAt is when the customer was deleted; zero: it lives.
	DeletedAt time.Time
}

// Sum is the plain sum of the rows of one customer and currency.
type Sum struct {
	Key
	Currency string
	Amount   Wide
	// End is the ending balance of the last placed row, in the balance ledger. In the
	// other it is the amount, or the nearest number that 64 bits hold.
	End int64
}

// Total is the sum of all customers of one account and currency.
type Total struct {
	Account, Currency string
	// Customers counts those whose sum is not zero, Differing those whose sum is not
	// the ending balance of their last row.
	Customers, Differing int64
	Amount               Wide
}

// Whose are the customers of a driver's query for sums.
type Whose uint8

const (
	// OfAll takes all customers.
	OfAll Whose = iota
	// OfApart takes those that stand apart.
	OfApart
	// OfDoubted takes those that the query lists itself, as k.
	OfDoubted
)

// Among is OfApart where only those that stand apart are asked for.
func Among(apart bool) Whose {
	if apart {
		return OfApart
	}
	return OfAll
}

// Split is what separates movements beside their type. The zero value: by
// nothing.
type Split struct {
	// Metadata is a key of the metadata; Description takes the description (in the
	// credits ledger the grant's metadata and name).
	Metadata    string
	Description bool
}

// Cell is the sum of the rows of one type within one span of time.
type Cell struct {
	Account, Currency string
	// Span counts the bounds at or before the rows: 0 is before the first.
	Span   int
	Type   string
	Split  string
	Amount Wide
}

// Row is a movement as the table holds it.
type Row struct {
	Key
	Currency string
	ID       string
	// Type is the type; in the credits ledger credit_type or debit_type.
	Type   string
	Amount int64
	// Dated is what the ledger dates it by. EffectiveFrom is when its grant becomes
	// effective, in the credits ledger; zero where that is not known.
	Dated, EffectiveFrom time.Time
	Created, SyncedAt    time.Time
	// EndingBalance and Position (0: none) are of the balance ledger.
	EndingBalance, Position                 int64
	Invoice, CreditNote, Grant, Description string
	Split                                   string
}

// RowQuery asks for rows.
type RowQuery struct {
	Filter
	Ledger Ledger
	// From and Until bound what the ledger dates a row by; zero: no bound.
	From, Until time.Time
	Dating      Dating
	Split       Split
	// Apart takes only rows of customers that Standings lists.
	Apart bool
}

// Grant is a credit grant with what its rows sum up to.
type Grant struct {
	Key
	ID, Category, Currency string
	Amount                 int64
	Left                   Wide
	EffectiveAt, ExpiresAt time.Time // zero: at once; never
}

// Books is what reports read. A store implements it beside its other contracts.
type Books interface {
	// Books runs fn on one snapshot, over a connection of its own: a report neither
	// waits for writers nor holds them up. The Reader must not be used after fn returns,
	// nor by two goroutines at once; its streams may be read side by side.
	Books(ctx context.Context, fn func(Reader) error) error
}

// Reader reads one snapshot. Memory does not grow with the rows. Streams come in the
// order of account, customer and currency, by bytes; an error ends a stream.
type Reader interface {
	DayReader
	// Standings lists the customers of a ledger that stand apart.
	Standings(ctx context.Context, l Ledger, f Filter) iter.Seq2[Standing, error]
	// Sums lists the plain sums of rows dated before until. With apart it lists them
	// only of the customers that Standings lists.
	Sums(ctx context.Context, l Ledger, f Filter, d Dating, until time.Time, apart bool) iter.Seq2[Sum, error]
	// Pending lists what is in those sums of grants that are effective at until or later.
	Pending(ctx context.Context, f Filter, until time.Time) iter.Seq2[Sum, error]
	// Totals adds the plain sums up.
	Totals(ctx context.Context, l Ledger, f Filter, d Dating, until time.Time) ([]Total, error)
	// Cells adds the rows dated before the last of bounds up, by spans of time and types.
	Cells(ctx context.Context, l Ledger, f Filter, bounds []time.Time, s Split) ([]Cell, error)
	// Rows lists rows, within a currency by the date, then the place in the chain (the
	// creation in the other ledger), then the id.
	Rows(ctx context.Context, q RowQuery) iter.Seq2[Row, error]
	// Grants lists grants with the sum of their rows dated before until.
	Grants(ctx context.Context, f Filter, until time.Time) iter.Seq2[Grant, error]
	// Knows reports in which accounts the customer is known.
	Knows(ctx context.Context, f Filter) ([]string, error)
	// SyncState returns how both ledgers of a customer were last proven.
	SyncState(ctx context.Context, k Key) ([]Sync, error)
	// Position is the place of the snapshot in the change feed.
	Position(ctx context.Context) (string, error)
	// Since lists what came into a ledger of an account after a position of the feed and
	// is dated before until: rows that were inserted or rewritten, and deletions. Findings
	// that were open at a time or later say why.
	Since(ctx context.Context, l Ledger, account, position string, sealed, until time.Time) iter.Seq2[Arrival, error]
	// Seals lists the seals of a period, or (empty) of all, by account, period, seal,
	// ledger, currency; reopened ones too.
	Seals(ctx context.Context, period string) ([]Seal, error)
}

// Sync is how one ledger of a customer was last proven.
type Sync struct {
	Ledger     Ledger
	Standing   Standing
	ObservedAt time.Time // when the reads of the last sync that joined began
	FullReadAt time.Time
	CompleteTo time.Time
	// Told is what Stripe itself says of each currency: the customer's balance, or the
	// ledger balance of the summary.
	Told map[string]int64
}

// Seal is one account, ledger and currency of a closed period.
type Seal struct {
	Account, Period string
	Number          int64
	Ledger          Ledger
	Currency        string
	Start, End      time.Time
	Closing         int64
	Rows            int64
	Digest          string
	Unproven        int64
	Position        string
	SealedAt        time.Time
	ReopenedAt      time.Time
	ReopenReason    string
}

// Arrival is a row that came into the books, or was rewritten, after a seal.
type Arrival struct {
	Key
	Currency string // empty for a deletion, which is of all
	ID, Type string
	Amount   int64
	Dated    time.Time
	Arrived  time.Time
	// Inserted is false for a row that was rewritten.
	Inserted bool
	// Cause is why the row was missing or wrong, where a finding says it; Was is the
	// amount that the finding saw, where WasKnown.
	Cause    string
	Was      int64
	WasKnown bool
}

// Sealer keeps seals.
type Sealer interface {
	// SaveSeals stores the seals of a period; ErrSealed where one of its accounts has
	// a seal that was not reopened.
	SaveSeals(ctx context.Context, seals []Seal) error
	// Reopen marks the seals of a period as reopened, with a reason, and reports how many
	// there were.
	Reopen(ctx context.Context, account *string, period, reason string) (int64, error)
}
