package mirror

import (
	"context"
	"encoding/json"
	"time"
)

// Coordination keeps what processes share with each other and across restarts. None of it
// is Stripe's: a mirror that loses it is right again after its sweeps.
type Coordination interface {
	Checkpoints
	Leases
	Accounts
	Incarnations
	DeadLetters
	Notices
}

// Sweep is the durable progress of a loop that runs over a whole account.
type Sweep struct {
	Account string
	Name    string
	// State is the sweep's own checkpoint; nil at first.
	State json.RawMessage
	// Watermark is the time up to which everything has been seen.
	Watermark   time.Time
	StartedAt   time.Time
	LastSuccess time.Time
	LastFound   int64
}

// DatabasePartition is the partition under which Incarnations keeps the mark of the
// database itself: HighWater counts the looks at it, and ID is the name of its history,
// empty until it was found rewound or exchanged for the first time. Positions in the
// change feed carry it (FeedPosition).
const DatabasePartition = -1

// Incarnation is the mark by which a lost, rewound or exchanged Redis is noticed, or,
// of DatabasePartition, a database.
type Incarnation struct {
	Partition int
	ID        string
	HighWater int64
}

// Checkpoints keep how far the sweeps got.
type Checkpoints interface {
	// Sweep loads one; a sweep that never ran comes back zero but for its names.
	Sweep(ctx context.Context, account, name string) (Sweep, error)
	SaveSweep(ctx context.Context, s Sweep) error
	Sweeps(ctx context.Context) ([]Sweep, error)
}

// Leases make one process at a time do what several must not.
type Leases interface {
	// AcquireLease takes or renews a named lease by the database's clock and reports
	// whether owner holds it now.
	AcquireLease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error)
	ReleaseLease(ctx context.Context, name, owner string) error
}

// Accounts remembers the connected accounts.
type Accounts interface {
	// SeeAccount remembers a connected account, and Accounts lists them, without the
	// platform's own. AccountSeen reports whether one is remembered, or has customers
	// here from a time when accounts were named.
	SeeAccount(ctx context.Context, account string) error
	AccountSeen(ctx context.Context, account string) (bool, error)
	Accounts(ctx context.Context) ([]string, error)
}

// Incarnations keeps the marks by which a lost or exchanged Redis or database is noticed.
type Incarnations interface {
	Incarnations(ctx context.Context) ([]Incarnation, error)
	// SaveIncarnation stores one. Under one ID its HighWater never falls.
	SaveIncarnation(ctx context.Context, i Incarnation) error
	// DatabaseSystem names the database's server and the timeline of its log, which a
	// standby that is promoted and a backup that is restored up to a moment leave; empty
	// where the database has none, or does not say.
	DatabaseSystem(ctx context.Context) (string, error)
}

// DeadLetter is work that failed for good.
type DeadLetter struct {
	// ID is stable: the same target, or the same unreadable body, has one letter.
	ID     string
	Target Target // zero Scope for an unreadable body
	Reason string
	// Attempts counts tries in all, retries of the letter included.
	Attempts int
	EventIDs []string
	// Payload is the raw body of an event that could not be read, up to 1 MiB. Only
	// DeadLetter reads it.
	Payload       []byte
	FirstFailedAt time.Time
	LastFailedAt  time.Time
	// RetryAt is when it is tried again by itself; zero: never (unreadable bodies).
	RetryAt time.Time
}

// DeadLetterAges counts letters by how long ago they first failed.
type DeadLetterAges struct {
	UnderHour, UnderDay, UnderWeek, Older int64
	// Unreadable is how many of all are bodies that could not be read, which are
	// never tried again by themselves.
	Unreadable int64
	// Oldest is the first failure of all; zero without letters.
	Oldest time.Time
}

// DeadLetters keeps failed work until somebody or a later sync resolves it. A
// committed sync of the same target removes its letter.
type DeadLetters interface {
	// SaveDeadLetter stores or renews a letter. Of a held one FirstFailedAt stays,
	// Attempts are added to those it has, unless LastFailedAt says that they are the
	// same ones, EventIDs are merged, newest 64 kept, and the Payload stays where the
	// new one has none.
	SaveDeadLetter(ctx context.Context, d DeadLetter) error
	// DeadLetters lists letters by ID after the given one, at most limit, without
	// their payloads.
	DeadLetters(ctx context.Context, after string, limit int) ([]DeadLetter, error)
	// DeadLetter reads one by its ID, payload included; ErrNotFound when there is none.
	DeadLetter(ctx context.Context, id string) (DeadLetter, error)
	// DeadLetterAges counts the letters by the age of their first failure.
	DeadLetterAges(ctx context.Context, now time.Time) (DeadLetterAges, error)
	// DueDeadLetters claims letters whose RetryAt has come: it moves their RetryAt
	// to next and returns them, without payloads, so that replicas do not all retry
	// the same one.
	DueDeadLetters(ctx context.Context, now, next time.Time, limit int) ([]DeadLetter, error)
	// DropDeadLetter deletes one; ErrNotFound when there is none.
	DropDeadLetter(ctx context.Context, id string) error
}
