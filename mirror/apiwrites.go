package mirror

import (
	"context"
	"errors"
	"math"
	"time"
)

// APIWrite is a row of api_writes: what somebody asked the API to change at Stripe,
// and what became of it. It holds ids and no personal data.
type APIWrite struct {
	Account string
	// ID is the Request-Id of the API's answer.
	ID      string
	Created time.Time
	// Key is the name of the API key; empty where none was accepted.
	Key string
	// Operation is one of adjust, edit, grant, expire, void; empty where what was asked
	// for is none of them.
	Operation string
	// Customer is empty where it is not known: of a grant that is not held, say.
	Customer string
	// Object is the transaction or grant that was made or changed.
	Object string
	// Amount is signed and in minor units; it counts only with a Currency.
	Amount   int64
	Currency string
	// IdempotencyDigest is the SHA-256 of the Idempotency-Key in hex.
	IdempotencyDigest string
	RemoteAddr        string
	// StripeRequestID is the Request-Id of Stripe's answer.
	StripeRequestID string
	// Status is the HTTP status that the caller got; 0 where it got none.
	Status  int
	Outcome APIOutcome
	// Reason is a word for a refusal, or Stripe's error code.
	Reason string
	// Repeated counts refusals of the same key just before, which were too many to have
	// rows of their own.
	Repeated int64
}

// APIOutcome is what became of a write.
type APIOutcome string

// The outcomes.
const (
	APIDone    APIOutcome = "done"
	APINotDone APIOutcome = "not-done" // Stripe refused it, or it was not sent
	APIUnknown APIOutcome = "unknown"  // it may have happened
	APIRefused APIOutcome = "refused"  // by creditmirror itself; nothing was sent
)

// ErrDayLimit says that a write would move more than its key may move in a day.
var ErrDayLimit = errors.New("the key's limit per day is reached")

// APIWriteFilter chooses rows of api_writes. The zero value chooses all.
type APIWriteFilter struct {
	// Account is nil for all accounts.
	Account *string
	// Key, Customer and Outcome are empty for all.
	Key, Customer string
	Outcome       APIOutcome
	// From is included and To is not; the zero time is no bound.
	From, To time.Time
}

// APIKeyUse records when a key was last accepted.
type APIKeyUse struct {
	Name     string
	LastUsed time.Time
}

// APIJournal keeps who wrote what through the API. Rows are never changed, and deleted
// only by PruneAPIWrites.
type APIJournal interface {
	// BeginAPIWrite notes a write that is about to be sent, so that it is known of
	// however the process ends. With perDay not nil it is ErrDayLimit when the key would
	// have moved more than that of w.Currency on the UTC day of w.Created, in absolute
	// amounts and counting each Idempotency-Key once.
	BeginAPIWrite(ctx context.Context, w APIWrite, perDay *int64) error
	// EndAPIWrite records a write, begun or not. The same one again changes nothing.
	EndAPIWrite(ctx context.Context, w APIWrite) error
	// SettleAPIWrites records writes begun before that time and never ended as
	// APIUnknown, and returns them.
	SettleAPIWrites(ctx context.Context, before time.Time) ([]APIWrite, error)
	// APIWrites lists rows by time, at most limit, after the given one.
	APIWrites(ctx context.Context, f APIWriteFilter, after APIWrite, limit int) ([]APIWrite, error)
	// PruneAPIWrites deletes rows from before that time. Rows younger than
	// APIWritesKept are never deleted.
	PruneAPIWrites(ctx context.Context, before time.Time) (int64, error)
	// UseAPIKeys remembers uses, of each key the latest.
	UseAPIKeys(ctx context.Context, uses []APIKeyUse) error
	// APIKeyUses lists them by name.
	APIKeyUses(ctx context.Context) ([]APIKeyUse, error)
}

// APIWritesKept is how long the database itself refuses to delete a row of api_writes.
const APIWritesKept = 30 * 24 * time.Hour

// DayOf returns the bounds of the UTC day of t.
func DayOf(t time.Time) (from, to time.Time) {
	from = t.UTC().Truncate(24 * time.Hour)
	return from, from.AddDate(0, 0, 1)
}

// Magnitude is the absolute value of an amount; of the least one, which has none, the
// greatest.
func Magnitude(amount int64) int64 {
	switch {
	case amount == math.MinInt64:
		return math.MaxInt64
	case amount < 0:
		return -amount
	}
	return amount
}

// WithinDay reports whether a key that has moved spent may move more, with limit for the
// day. None of the three is negative.
func WithinDay(spent, more, limit int64) bool { return spent <= limit && more <= limit-spent }
