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

// Checkpoints keep how far a sweep got. Every mirror.Store has this interface and those
// below: each part of this package names the methods that it uses.
type Checkpoints interface {
	Sweep(ctx context.Context, account, name string) (mirror.Sweep, error)
	SaveSweep(ctx context.Context, s mirror.Sweep) error
}

// AllCheckpoints lists those of all sweeps.
type AllCheckpoints interface {
	Sweeps(ctx context.Context) ([]mirror.Sweep, error)
}

// findings record differences.
type findings interface {
	OpenFindings(ctx context.Context, list []mirror.Finding) ([]mirror.Finding, error)
}

// letterbox keeps what cannot be read.
type letterbox interface {
	SaveDeadLetter(ctx context.Context, d mirror.DeadLetter) error
}

// unread lists the histories that are not wholly read.
type unread interface {
	Unsynced(ctx context.Context, account string, scope mirror.Scope, after mirror.Unread, limit int) ([]mirror.Unread, error)
	UnsyncedCount(ctx context.Context, account string) (int64, error)
}

// inserter stores what no sync has met yet.
type inserter interface {
	InsertCustomers(ctx context.Context, account string, page []mirror.Customer) (int, error)
	InsertGrants(ctx context.Context, account string, page []mirror.CreditGrant) (int, error)
}

// incarnations keep the marks by which a lost or exchanged Redis or database is noticed.
type incarnations interface {
	Incarnations(ctx context.Context) ([]mirror.Incarnation, error)
	SaveIncarnation(ctx context.Context, i mirror.Incarnation) error
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
