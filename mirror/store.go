package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// What callers of a Store branch on.
var (
	// ErrFenced: another sync of the target began after this one, or a sync of the
	// customer's other ledger has found it deleted. Nothing was written, and the caller
	// must not complete its work: the newer one will, or it is done again.
	ErrFenced = errors.New("fenced off by a newer sync")
	// ErrDisproved: the rows do not explain the balance. Nothing was written; read
	// again, or accept the disproof.
	ErrDisproved = errors.New("the ledger does not prove the balance")
	// ErrLedgerRewritten: Stripe's reply lacks a row that was seen before, or
	// changes an immutable field. Ledgers are append-only, so the reply is wrong or
	// stale, or what is held was changed here: nothing was written. The error may be a
	// RewrittenError, which lists the differences.
	ErrLedgerRewritten = errors.New("the reply rewrites history")
	// ErrUnstorable: the database refuses these very values, or holds some that
	// cannot be read, and would do so again. It is no outage.
	ErrUnstorable = errors.New("the database refuses the values")
	// ErrNotFound: the mirror does not hold it.
	ErrNotFound = errors.New("not in the mirror")
	// ErrSchema: the database's schema is not one this program can work on.
	ErrSchema = errors.New("unsuitable schema")
	// ErrForeign: the database is another program's. Nothing in it was changed.
	ErrForeign = errors.New("not creditmirror's database")
	// ErrDamaged: the database's file is damaged. It will not mend by itself.
	ErrDamaged = errors.New("the file is damaged: stop serve, then restore a backup, or move the file away and let serve copy everything again from Stripe")
	// ErrServed: another serve works on the database's file.
	ErrServed = errors.New("another serve works on it")
)

// Store keeps the mirror: everything that both databases do. Every method is safe for
// concurrent use by any number of goroutines and processes; every write is one
// transaction, and repeating a write that succeeded changes nothing.
//
// Whoever opens a database names it; everybody else declares the few methods that it
// uses.
type Store interface {
	Ledger
	Reader
	Histories
	Comparer
	Coordination
	Schema
}

// Ledger is what is written of Stripe's objects, and of the events that announce them.
type Ledger interface {
	Fence
	Inbox
	Findings
	// SetAside ends what waits for a ledger of an account that is not mirrored: events
	// wait for it no longer, its dead letters go, its open findings are closed. What is
	// held of it stays.
	SetAside(ctx context.Context, account string, ledger Scope) error
}

// Schema is the database itself.
type Schema interface {
	// Migrate brings the schema to this program's version, under a lock so that
	// several replicas may start at once. A database that holds another program's
	// tables where this one's would be is left as it is: ErrForeign.
	Migrate(ctx context.Context) error
	// CheckSchema returns ErrSchema when the schema is older than this program
	// needs, or so new that it cannot work on it, and ErrForeign when it is
	// another program's.
	CheckSchema(ctx context.Context) error
	// Ping reports whether the database can read and write.
	Ping(ctx context.Context) error
	Close() error
}

// Fence is the write path of synced state: old never overwrites new.
type Fence interface {
	// BeginSync raises the target's epoch and returns what is held. It must commit
	// before the first read from Stripe.
	BeginSync(ctx context.Context, t Target) (SyncState, error)
	// ApplyBalance commits rows, customer, event marks, change records and the
	// sync state, all or nothing. A piece that does not join answers no events and
	// makes nothing fresher (SyncState.Joins). ErrFenced, ErrDisproved or
	// ErrLedgerRewritten when it may not.
	ApplyBalance(ctx context.Context, s BalanceSnapshot) (Applied, error)
	// ApplyCredits is ApplyBalance for the other ledger.
	ApplyCredits(ctx context.Context, s CreditsSnapshot) (Applied, error)
	// ApplyTombstone marks a customer deleted and keeps its history. A customer
	// that was never held leaves only the sync state. A sync of the customer's other
	// ledger that has begun is fenced off, since it may have read the customer alive.
	// ErrFenced as above.
	ApplyTombstone(ctx context.Context, s Tombstone) (Applied, error)
	// Damaged reports whether any of the target's rows and grants of these ids does not
	// lie there as it was written (Stored.Intact): what contradicts Stripe then is not
	// its reply, and a read of the whole history repairs it.
	Damaged(ctx context.Context, t Target, ids []string) (bool, error)
	// Refuse records that the sync of an epoch is given up as ErrLedgerRewritten, and
	// why: its findings, each once while it is open. It returns those that were not
	// open before. ErrFenced when a newer sync began, which will report for itself.
	Refuse(ctx context.Context, r Refusal) ([]Finding, error)
	// ApplyWrite commits what Stripe answered to a write of ours, without reading
	// anything from Stripe, where that is provably right; see Write. ErrFenced or
	// ErrDisproved when it may not: sync the target then.
	ApplyWrite(ctx context.Context, w Write) (Applied, error)
	// InsertCustomers stores customers of the first copy that no sync has touched
	// yet; all others are left alone, so that an old page cannot overwrite newer
	// state. It returns how many were stored.
	InsertCustomers(ctx context.Context, account string, page []Customer) (int, error)
	// InsertGrants stores grants that are not held yet and leaves all others alone.
	InsertGrants(ctx context.Context, account string, page []CreditGrant) (int, error)
}

// Receipt is what the inbox knew of an event before it was recorded.
type Receipt uint8

const (
	// ReceiptNew: never seen.
	ReceiptNew Receipt = iota
	// ReceiptPending: seen, but no sync has answered it yet; mark it again, since
	// the first mark may never have reached the queue.
	ReceiptPending
	// ReceiptApplied: seen and answered.
	ReceiptApplied
)

// PendingEvent is an inbox event with a target that no sync has answered yet.
type PendingEvent struct {
	Seq    int64
	Event  Event
	Target Target
}

// AnsweredEvent is an event with the time of the commit that answered it.
type AnsweredEvent struct {
	Account          string
	Created, Applied time.Time
}

// Inbox is the durable list of verified events (table stripe_events).
type Inbox interface {
	// RecordEvents stores events that are new, in one transaction, and returns for
	// each what was known before.
	RecordEvents(ctx context.Context, events []Event) ([]Receipt, error)
	// EventReceipts returns what is known of each event without recording it.
	// Unknown ids get ReceiptNew.
	EventReceipts(ctx context.Context, account string, ids []string) ([]Receipt, error)
	// PendingEvents lists events with seq > after that wait for a sync, oldest
	// first, one entry per target, at most limit.
	PendingEvents(ctx context.Context, after int64, limit int) ([]PendingEvent, error)
	// ResolveEvents answers a question target (ScopeGrantOwner,
	// ScopeClockCustomers): its waiting events now wait for the syncs of targets
	// instead. Where these name one customer, the events carry it from then on. Where
	// they name several, only events are answered since whose receipt a sync of each
	// target began that joined; ErrUnsynced means that some still wait for the
	// question, ErrNotFound that none waited. But for the former the question's dead letter
	// is removed.
	ResolveEvents(ctx context.Context, question Target, targets []Target) error
	// ObservedAt returns for each target when the reads of the last sync that joined
	// began; zero for one without any.
	ObservedAt(ctx context.Context, targets []Target) ([]time.Time, error)
	// Freshness lists the last answered events, newest first; at most last of them.
	Freshness(ctx context.Context, last int) ([]AnsweredEvent, error)
	// PruneEvents deletes answered events created before t and returns how many.
	PruneEvents(ctx context.Context, before time.Time) (int64, error)
}

// Page asks for a part of a list, newest first. After and Before are ids and
// exclude each other; both empty asks for the newest.
type Page struct {
	Limit  int
	After  string // rows older than this one
	Before string // the rows just newer than this one
	// Created bounds the rows' created times, bounds included; a cursor may lie
	// outside. Only customers and balance transactions are listed by it.
	Created Span
	// Invoice is the one that balance transactions must name; empty: any.
	Invoice string
}

// CustomerFilter picks customers as Stripe's list does. The zero value takes all
// that live on no test clock; deleted ones are never listed.
type CustomerFilter struct {
	TestClock string
	// Email is compared as it is written. It is held only where whole customers
	// are kept.
	Email string
}

// CustomerBalances are the balances of one customer, per currency, in minor units.
type CustomerBalances struct {
	Customer string
	Deleted  bool
	// Balance has Stripe's sign: negative is credit.
	Balance map[string]int64
	// Credits are ledger balances: positive is credit left.
	Credits map[string]int64
	// BalanceSyncedAt and CreditsSyncedAt are as in Slice.
	BalanceSyncedAt, CreditsSyncedAt time.Time
	// BalanceComplete and CreditsComplete mean that the whole history is held and no
	// walk is open, so that balances of the past are known. A ledger never met is
	// complete.
	BalanceComplete, CreditsComplete bool
}

// Change is one record of the change feed: a row that a commit wrote.
type Change struct {
	// Cursor is the record's place in the feed, for Changes to go on after.
	Cursor   string
	Account  string
	Table    string
	Customer string
	// ID is the row's: of customer_balances and credit_balance_summaries the currency.
	ID string
	// Op is "insert" or "update".
	Op        string
	ChangedAt time.Time
}

// Slice is one page as it stands at SyncedAt.
type Slice[Row any] struct {
	Rows []Row
	// HasMore means that there are more rows in the direction of travel.
	HasMore bool
	// SyncedAt is when the reads of the last sync of the ledger that joined began;
	// zero: none did.
	SyncedAt time.Time
	// Unfinished reports that the ledger's history is not wholly held: it was never
	// read to its end, or a walk is open.
	Unfinished bool
}

// CustomerView is a customer as the mirror holds it.
type CustomerView struct {
	Customer
	// CreditUnreadable means that InvoiceCreditBalance is nil because the column holds
	// what no value of Stripe's can be. Only SQL can have put it there.
	CreditUnreadable bool
	Deleted          bool
	// ClockTime is when the customer's test clock stood at the last sync of billing
	// credits on it; zero without one, or where it is not known.
	ClockTime time.Time
	// SyncedAt and Unfinished are as in Slice, of the customer balance.
	SyncedAt   time.Time
	Unfinished bool
}

// Print is that of the customer; what cannot be read differs from none.
func (v CustomerView) Print(raw json.RawMessage) Print {
	c := v.Customer
	if v.CreditUnreadable {
		c.InvoiceCreditBalance = map[string]int64{"unreadable": 0}
	}
	return c.Print(raw)
}

// CreditSummary is a customer's billing credits per currency.
type CreditSummary struct {
	// Balances per currency: Ledger is the sum of the rows held; Available is
	// Stripe's own figure when the summary was last read, moved by the rows since.
	Balances map[string]CreditBalance
	// Left is, per grant, the sum of its rows.
	Left map[string]int64
	// Clocks are the test clocks of the rows, each with the newest time at which one of
	// its rows takes effect.
	Clocks   map[string]time.Time
	Livemode bool
	// SyncedAt and Unfinished are as in Slice.
	SyncedAt   time.Time
	Unfinished bool
}

// Totals are the figures of status and metrics.
type Totals struct {
	Customers           int64 // not deleted
	BalanceTransactions int64
	CreditTransactions  int64
	DeadLetters         int64
	PendingEvents       int64
	OldestPendingEvent  time.Time
	// Rows per table name.
	Rows map[string]int64
	// Balances and Credits per currency, in minor units, deleted customers left out.
	Balances map[string]int64
	Credits  map[string]int64
	// DriftOpen per kind; DriftAmount per currency: sum of absolute differences of
	// open findings whose expected and actual are amounts.
	DriftOpen   map[DriftKind]int64
	DriftAmount map[string]int64
}

// Reader serves what is held. Each call reads one snapshot of the database. An
// unknown customer, row or cursor is ErrNotFound.
type Reader interface {
	// Customer reads one customer. A customer deleted before its first sync has no row.
	// If one of its grants is stored, it is returned with Deleted set.
	Customer(ctx context.Context, account, id string) (CustomerView, error)
	// Snapshot runs fn with a Reader whose calls all see one state of the database.
	// It must not be used after fn returns, nor by two goroutines at once.
	Snapshot(ctx context.Context, fn func(Reader) error) error
	// CustomerPage lists living customers newest first, by created and id. Each row
	// has a freshness of its own; the page has none.
	CustomerPage(ctx context.Context, account string, f CustomerFilter, p Page) (Slice[CustomerView], error)
	// CustomerOfAccount returns the customer that an Accounts v2 account backs.
	CustomerOfAccount(ctx context.Context, account, customerAccount string) (string, error)
	// Customers lists customers by id, ascending, after the given one.
	Customers(ctx context.Context, account, after string, limit int) ([]CustomerView, error)
	// BalanceTransactions lists newest first: by created, then chain position.
	BalanceTransactions(ctx context.Context, account, customer string, p Page) (Slice[BalanceTransaction], error)
	BalanceTransaction(ctx context.Context, account, customer, id string) (BalanceTransaction, error)
	Grant(ctx context.Context, account, id string) (CreditGrant, error)
	// Grants lists newest first, of one customer or (empty) of the account.
	Grants(ctx context.Context, account, customer string, p Page) (Slice[CreditGrant], error)
	// GrantOwner returns the customer of a grant.
	GrantOwner(ctx context.Context, account, grant string) (string, error)
	// ClockCustomers lists the customers held that live on the test clock.
	ClockCustomers(ctx context.Context, account, clock string) ([]string, error)
	// CreditTransactions lists newest first, of one customer and, when grant is
	// not empty, of one grant; with both empty of the account, then without SyncedAt.
	CreditTransactions(ctx context.Context, account, customer, grant string, p Page) (Slice[CreditTransaction], error)
	CreditTransaction(ctx context.Context, account, id string) (CreditTransaction, error)
	CreditSummary(ctx context.Context, account, customer string) (CreditSummary, error)
	// Balances lists the balances of customers by id, ascending, after the given one,
	// deleted ones too, who hold nothing from their deletion on. With a time they are
	// those of the rows created (credits: effective, and of grants effective) at that
	// time or before; zero means now, with credits that become effective later.
	Balances(ctx context.Context, account, after string, limit int, asOf time.Time) ([]CustomerBalances, error)
	// Changes lists the change feed of an account after a cursor; empty is its
	// beginning, and one that no Change can have is ErrNotFound. A record is returned
	// only once none can come before it any more.
	Changes(ctx context.Context, account, after string, limit int) ([]Change, error)
	Totals(ctx context.Context) (Totals, error)
}
