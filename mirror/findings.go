package mirror

import (
	"context"
	"time"
)

// Causes of findings, as far as they are known.
const (
	// CauseMissedEvent: no event announced the change, or none arrived.
	CauseMissedEvent = "missed event"
	// CauseSilentEdit: Stripe sends no event for what was edited.
	CauseSilentEdit = "edit without event"
	// CauseApplied: balance was applied to an invoice or given back by one, of which no
	// event that names the balance announced it.
	CauseApplied = "balance applied to an invoice"
	// CauseTornRead: Stripe's replies did not fit each other.
	CauseTornRead = "torn read"
	// CauseAway: no receiver of ours ran when Stripe delivered the event; it delivers it
	// again.
	CauseAway = "we were away"
	// CauseLostRedis: the mark of a received event was lost with Redis.
	CauseLostRedis = "lost Redis"
	// CauseRewound: the event was received, and the database has lost that since: a
	// standby that lagged was promoted, a backup restored, or another database put in
	// its place.
	CauseRewound = "rewound database"
	// CauseRewritten: Stripe's reply contradicts a row that lies here as it was
	// written. The reply is refused while it does.
	CauseRewritten = "rewritten history"
	// CauseUnknown: none of the above explains it; what is held contradicts itself.
	CauseUnknown = "unknown"
)

// FindingsQuery asks for a part of the findings. The zero value asks for all
// that are open.
type FindingsQuery struct {
	// Account is nil for all of them.
	Account  *string
	Customer string
	Kind     DriftKind
	// RepairedSince asks also for those repaired at that time or later.
	RepairedSince time.Time
	// After is the ID of the last finding of the page before.
	After string
	Limit int
}

// Findings keeps the differences that were found. One that is open is recorded
// once, and it stays open until a commit proves it gone: a sync of its target
// whose reads show that it is, or the answer to the event that it names.
type Findings interface {
	// OpenFindings records differences in one transaction and returns those that
	// were not open before: the same open difference (kind, account, customer, currency,
	// object) is recorded once.
	OpenFindings(ctx context.Context, list []Finding) ([]Finding, error)
	// Findings lists them by ID, at most Limit.
	Findings(ctx context.Context, q FindingsQuery) ([]Finding, error)
}

// Closing is what a commit proves gone: the rule that both databases follow.
// Only findings of the commit's own target are closed, except that a missed_event
// finding is closed wherever its event is answered.
type Closing struct {
	// Kinds are closed whatever object they name.
	Kinds []DriftKind
	// Objects are rows and grants that the sync listed: their unexpected_transaction
	// findings are closed. So are those of what is not held any more, and
	// missing_transaction findings of what is held now.
	Objects []string
	// Compared are the objects that the sync wrote anew or compared in every column, so
	// that what is held equals Stripe: their field_mismatch findings are closed. One
	// that is opened while the sync commits names none of them, unless all are.
	Compared []string
	// MissedBefore closes missed_event findings made before this time: everything
	// that was to be read because of them has been read. Zero closes none.
	MissedBefore time.Time
}

// TombstoneCloses is what ends with a customer: there is nothing left at Stripe
// to compare with. What the kept rows say about themselves stays open.
func TombstoneCloses(observed time.Time) Closing {
	return Closing{
		Kinds: []DriftKind{
			DriftBalanceMismatch, DriftSummaryMismatch, DriftMissingTransaction, DriftUnexpectedTransaction,
			DriftFieldMismatch, DriftMissingCustomer,
		},
		MissedBefore: observed,
	}
}

// closeKinds are what a proven ledger closes; full is whether every row was read.
func closeKinds(full bool, kinds ...DriftKind) []DriftKind {
	kinds = append(kinds, DriftMissingCustomer)
	if full {
		kinds = append(kinds, DriftMissingTransaction, DriftUnexpectedTransaction, DriftFieldMismatch, DriftOrphan)
	}
	return kinds
}

// findingsPerCommit bounds the findings that one sync records: a new version of
// Stripe's API may show a field more in every row.
const findingsPerCommit = 20

// untold is how long an event may be on its way until a row without one counts
// as missed.
const untold = time.Minute

// HeldCustomer is a customer with its rows of customer_balances.
type HeldCustomer struct {
	CustomerView
	Balances map[string]int64
}

// Place is where a list that is ordered by created and id goes on: before it.
type Place struct {
	Created time.Time
	ID      string
}

// Comparer reads what is held in the batches that a comparison with Stripe's
// lists needs; each call is one query's worth of work.
type Comparer interface {
	// HeldCustomers returns those of the customers that are held, by id, without
	// their raw JSON.
	HeldCustomers(ctx context.Context, account string, ids []string) (map[string]HeldCustomer, error)
	// HeldGrants returns those of the grants that are held, by id.
	HeldGrants(ctx context.Context, account string, ids []string) (map[string]HeldGrantRow, error)
	// LivingCustomers lists customers held, not deleted and on no test clock,
	// newest first, from just before a place down to (and with) the time from.
	LivingCustomers(ctx context.Context, account string, before Place, from time.Time, limit int) ([]Place, error)
	// HeldClocks lists the test clocks that customers held and not deleted live on.
	HeldClocks(ctx context.Context, account string) ([]string, error)
	// GrantHolders lists the customers of held grants with id > after, by id;
	// deleted ones do not count.
	GrantHolders(ctx context.Context, account, after string, limit int) ([]string, error)
}

// FullRead is a complete history and when every row of it was last read.
type FullRead struct {
	Target Target
	At     time.Time
	// Requested means that RequestFullRead asked for the next one.
	Requested bool
}

// Histories says which histories are not wholly read, and orders the reading anew of
// those that are.
type Histories interface {
	// Unsynced lists customers after the given one whose history of the scope is
	// unfinished (never read, or a walk is open, also over a history that was
	// complete before) and that have no dead letter, those with the largest balance
	// (or grant) first. For ScopeCredits only customers with a grant count. Deleted
	// customers do not.
	Unsynced(ctx context.Context, account string, scope Scope, after Unread, limit int) ([]Unread, error)
	// UnsyncedCount counts the histories of an account, of both scopes, that are
	// unfinished, those with a dead letter included.
	UnsyncedCount(ctx context.Context, account string) (int64, error)
	// RequestFullRead makes the next sync of each target read its whole history.
	// The targets still have to be marked. Targets never synced are left alone.
	RequestFullRead(ctx context.Context, targets []Target) error
	// FullReads lists complete histories, the longest unread first, that were last
	// read before the given time. Deleted customers do not count.
	FullReads(ctx context.Context, account string, ledgers Ledgers, before time.Time, limit int) ([]FullRead, error)
	// FullReadCount counts the histories that FullReads can list.
	FullReadCount(ctx context.Context, account string, ledgers Ledgers) (int64, error)
	// Refused lists the targets whose last sync was refused and began its reads at
	// that time or later.
	Refused(ctx context.Context, account string, since time.Time) ([]Target, error)
}
