package reconcile

import (
	"context"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// Stripe is what the sweeps read. *stripeapi.Client is one.
type Stripe interface {
	CustomersPage(ctx context.Context, account string, q stripeapi.CustomersQuery) (stripeapi.CustomersPage, error)
	GrantsPage(ctx context.Context, account, customer, after string, limit int) (stripeapi.GrantsPage, error)
	EventsPage(ctx context.Context, account string, q stripeapi.EventsQuery) (stripeapi.EventsPage, error)
	TestClocks(ctx context.Context, account, after string, limit int) (ids []string, more bool, err error)
}

// Store is what the sweeps keep. Every mirror.Store is one.
type Store interface {
	mirror.Progress
	mirror.Findings
	InsertCustomers(ctx context.Context, account string, page []mirror.Customer) (int, error)
	InsertGrants(ctx context.Context, account string, page []mirror.CreditGrant) (int, error)
	RecordEvents(ctx context.Context, events []mirror.Event) ([]mirror.Receipt, error)
	EventReceipts(ctx context.Context, account string, ids []string) ([]mirror.Receipt, error)
	PendingEvents(ctx context.Context, after int64, limit int) ([]mirror.PendingEvent, error)
	ObservedAt(ctx context.Context, targets []mirror.Target) ([]time.Time, error)
	PruneEvents(ctx context.Context, before time.Time) (int64, error)
	DueDeadLetters(ctx context.Context, now, next time.Time, limit int) ([]mirror.DeadLetter, error)
	SaveDeadLetter(ctx context.Context, d mirror.DeadLetter) error
	DeadLetters(ctx context.Context, after string, limit int) ([]mirror.DeadLetter, error)
	GrantOwner(ctx context.Context, account, grant string) (string, error)
}

// Queue is where the sweeps leave work.
type Queue interface {
	// MarkLive and MarkSwept mark targets of the two classes; durable when they
	// return. Each mark carries its event where there is one.
	MarkLive(ctx context.Context, marks []Mark) error
	MarkSwept(ctx context.Context, targets []mirror.Target) error
	// Queued reports for each target whether it waits or is in work.
	Queued(ctx context.Context, targets []mirror.Target) ([]bool, error)
	// Backlog is how many targets of the swept class wait.
	Backlog(ctx context.Context) (int, error)
	// Incarnations and Stamp read and write the marks by which a lost, rewound or
	// exchanged Redis is noticed.
	// Stamp reports whether Redis still had what was read, and writes nothing where it
	// had not.
	Incarnations(ctx context.Context) ([]mirror.Incarnation, error)
	Stamp(ctx context.Context, was, is mirror.Incarnation) (bool, error)
	// DatabaseMark and KeepDatabaseMark read and write how the database was seen last;
	// "" where Redis does not know.
	DatabaseMark(ctx context.Context) (string, error)
	KeepDatabaseMark(ctx context.Context, mark string) error
}

// Mark is a target and the event that asks for it.
type Mark struct {
	Target mirror.Target
	Event  mirror.EventRef
}

// Gate stops calls for accounts whose key Stripe refuses; the worker's is shared,
// so that one refusal is known to all. A target's scope names what was called.
type Gate interface {
	// Closed returns how long calls have to wait; zero lets this one pass.
	Closed(t mirror.Target) time.Duration
	// Refused notes a 401 or 403, and returns the time until the next call and whether this is the
	// first one.
	Refused(t mirror.Target, err error) (wait time.Duration, first bool)
	// Answered notes that Stripe took the key.
	Answered(t mirror.Target)
}
