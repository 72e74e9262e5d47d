package mirror

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SyncState is what the mirror knows of a target when a sync begins.
type SyncState struct {
	// Epoch is the fence: raised by BeginSync before the first read from Stripe
	// and checked by equality in the transaction of the write.
	Epoch int64
	// EventSeq is the newest inbox event of this target that was recorded before
	// the sync began; its commit answers all of them up to this one.
	EventSeq int64
	// EventAt is when the newest of these events was created; zero without any.
	EventAt time.Time
	// HistoryComplete means that every row at or before CompleteTo is held.
	HistoryComplete bool
	// CompleteTo is the created time of the newest row of the complete part; zero
	// when there is none (also for a complete but empty history).
	CompleteTo time.Time
	// Walk is the history read in progress, if any.
	Walk Walk
	// Disproved means that the last sync could not prove the ledger: the chain did
	// not close, or the sums did not match the summary.
	Disproved bool
	// CustomerHeld means that the customer has a row. It and Grants come from BeginSync
	// alone.
	CustomerHeld bool
	// Grants are the ids of the grants held for the customer, with what may still
	// change of them; only for ScopeCredits.
	Grants []HeldGrant
	// ObservedAt is when the reads of the last sync that joined began; zero: never.
	ObservedAt time.Time
	// FullReadAt is when the last sync began that read every row; zero where there
	// is nothing to read again: the history is not complete, or the customer gone.
	FullReadAt time.Time
	// RefusedAt is when the reads of the last sync began, where it was refused; zero
	// where it was committed.
	RefusedAt time.Time
}

// HeldGrant is a grant as far as a credits sync must know it.
type HeldGrant struct {
	ID string
	// Metered means that the grant's scope is price_type metered; another scope
	// needs a summary call of its own.
	Metered bool
}

// Walk is how far down a history read got that did not finish in one piece.
type Walk struct {
	// Cursor is the id of the oldest row read; the read goes on after it. Empty
	// when no walk is in progress.
	Cursor string
	// Top is the created time of the newest row that the walk covers: from there
	// down to Cursor there is no gap.
	Top time.Time
	// Full means that the walk goes to the end of the list and does not stop at
	// the complete part.
	Full bool
}

// InProgress reports whether a walk has begun and not ended: it is open.
func (w Walk) InProgress() bool { return w.Cursor != "" }

// Joins reports whether a commit that leaves this state ends the reading of the
// ledger. Only such a commit answers events, moves ObservedAt and removes the dead
// letter: while a walk is open, rows that Stripe holds may be missing.
func (s SyncState) Joins() bool { return !s.Walk.InProgress() }

// Window is a run of a ledger without a gap, newest first, as Stripe listed it.
type Window[Row any] struct {
	Rows []Row
	// FromHead: nothing was newer than the first row.
	FromHead bool
	// ToEnd: nothing is older than the last row.
	ToEnd bool
}

// EventRef is an event that a sync answers.
type EventRef struct {
	ID      string
	Created time.Time
	// Object is the id of data.object; empty when unknown.
	Object string
	Type   string
	// Updated and Moved are as in Event. Moved is carried by the queue, and not stored.
	Updated time.Time
	Moved   BalanceMoved
	// Trace names the span of the request that brought it, as a traceparent; empty
	// without one. It is carried by the queue, and not stored.
	Trace string
}

// BalanceSnapshot is what one sync of ScopeBalance read from Stripe.
type BalanceSnapshot struct {
	Target Target
	Epoch  int64
	// EventSeq is SyncState.EventSeq.
	EventSeq int64
	// ObservedAt is when the first read began.
	ObservedAt time.Time
	Customer   Customer
	Windows    []Window[BalanceTransaction]
	// Joined means that the windows, with the rows of earlier pieces, reach the
	// complete part or the end of the list. Only then is the chain checked and
	// rows get their positions. Otherwise Walk says where to continue.
	Joined bool
	// Full means that every row of the history was read in this walk, so that the
	// whole chain is laid anew.
	Full bool
	Walk Walk
	// AcceptDisproof stores the rows even if the chain does not close, and records
	// the drift.
	AcceptDisproof bool
	// Events that are known to be answered by this sync, besides the inbox's.
	Events []EventRef
	// joins: it is the piece of a snapshot that joins, which comes after it; see
	// ApplyBalance. What the walk before covered, it covers too.
	joins bool
	// laid: the rows have got their places before, in slices; see ApplyBalance.
	laid *laid
}

// CreditsSnapshot is what one sync of ScopeCredits read from Stripe.
type CreditsSnapshot struct {
	Target     Target
	Epoch      int64
	EventSeq   int64
	ObservedAt time.Time
	Windows    []Window[CreditTransaction]
	// Grants are the grants that were read, in no order.
	Grants []CreditGrant
	// AllGrants means that Grants are all that Stripe lists of the customer.
	AllGrants bool
	// Clock is the test clock that the customer lives on; zero where it was not read.
	Clock TestClock
	// Summary per currency; nil when it was not read.
	Summary map[string]CreditBalance
	// Joined, Full, Walk, AcceptDisproof and Events are as in BalanceSnapshot.
	Joined         bool
	Full           bool
	Walk           Walk
	AcceptDisproof bool
	// AcceptBehind stores a reply that is older than what is known: the events that
	// it does not answer go on waiting, and no older copy of a grant is written.
	AcceptBehind bool
	// Events may have entries without an id: no events, but what must be shown too.
	Events []EventRef
}

// TestClock is a test clock and the time at which it stands, which never goes back.
type TestClock struct {
	ID     string
	Frozen time.Time
}

// Tombstone says that Stripe no longer has the customer. The history is kept.
type Tombstone struct {
	Target     Target
	Epoch      int64
	EventSeq   int64
	ObservedAt time.Time
	Events     []EventRef
}

// EventCustomerDeleted is the type of the event that announces the deletion of a customer.
const EventCustomerDeleted = "customer.deleted"

// DeletedAt is when the customer was deleted: the time of its event, where there is
// one, among those that the sync answers or, as announced, in the inbox; else when
// the reads that found it gone began.
func (t Tombstone) DeletedAt(announced time.Time) time.Time {
	for _, e := range t.Events {
		if e.Type == EventCustomerDeleted && !e.Created.IsZero() {
			announced = e.Created
		}
	}
	if announced.IsZero() || announced.After(t.ObservedAt) {
		return t.ObservedAt
	}
	return announced
}

// Leaves is the sync state that a tombstone leaves of a ledger: there is nothing that
// could be read any more. held is whether the mirror holds something of the ledger;
// where its history was not complete then, it stays unproven for ever.
func (t Tombstone) Leaves(was SyncState, held bool) SyncState {
	was.Disproved = was.Disproved || held && (!was.HistoryComplete || was.Walk.InProgress())
	was.HistoryComplete, was.Walk, was.FullReadAt = true, Walk{}, time.Time{}
	return was
}

// Refusal says that Stripe's reply contradicts what is held, so that nothing of it
// was stored.
type Refusal struct {
	Target     Target
	Epoch      int64
	ObservedAt time.Time
	// Findings are the differences; none where they are not known one by one.
	Findings []Finding
}

// Applied is what a commit did.
type Applied struct {
	// Inserted and Updated count rows of the two ledgers and of customers.
	Inserted, Updated int
	// Answered are the events that this commit answered, each once; none before the
	// pieces of a history join.
	Answered []EventRef
	// Unanswered are events that were known to the sync and go on waiting, because the
	// reply was behind them.
	Unanswered []EventRef
	// Findings that were opened by this commit.
	Findings []Finding
	// Repaired are differences that this commit found and repaired at once.
	Repaired []Finding
	// Closed are the kinds of the findings that this commit closed, one per finding.
	Closed []DriftKind
}

// Changed reports whether anything but the time of the last look changed.
func (a Applied) Changed() bool { return a.Inserted+a.Updated > 0 }

// DriftKind names a way in which the mirror can differ from Stripe or from itself.
type DriftKind string

// The kinds of drift findings.
const (
	DriftBalanceMismatch       DriftKind = "balance_mismatch"
	DriftChainGap              DriftKind = "chain_gap"
	DriftMissingTransaction    DriftKind = "missing_transaction"
	DriftUnexpectedTransaction DriftKind = "unexpected_transaction"
	DriftFieldMismatch         DriftKind = "field_mismatch"
	DriftSummaryMismatch       DriftKind = "summary_mismatch"
	DriftGrantOutOfBounds      DriftKind = "grant_out_of_bounds"
	DriftMissingCustomer       DriftKind = "missing_customer"
	DriftMissedEvent           DriftKind = "missed_event"
	DriftOrphan                DriftKind = "orphan"
	// DriftBooksMismatch: a sealed period is not what was sealed. Only verify reports it,
	// and it is not recorded.
	DriftBooksMismatch DriftKind = "books_mismatch"
)

// Finding is a difference that was found. It stays open until a sync proves it gone.
type Finding struct {
	// ID is the store's; empty until it is stored.
	ID       string
	Kind     DriftKind
	Account  string
	Customer string
	Scope    Scope
	Currency string
	// Object is the transaction, grant or event concerned; may be empty.
	Object string
	// Expected and Actual are values in words or minor units; Expected is what
	// Stripe or the ledger's own rules say.
	Expected   string
	Actual     string
	Cause      string
	FoundAt    time.Time
	RepairedAt time.Time
}

// String writes the reference in one line, as the queue carries it.
func (r EventRef) String() string {
	text := r.ID + " " + strconv.FormatInt(r.Created.Unix(), 10) + " " + r.Type + " " + r.Object
	if !r.Updated.IsZero() {
		text += " " + strconv.FormatInt(r.Updated.Unix(), 10)
	}
	if r.Moved != MovedUnknown {
		text += " " + movedTexts[r.Moved]
	}
	if r.Trace != "" {
		text += " " + r.Trace
	}
	return text
}

// movedTexts are how a reference says whether a balance changed.
var movedTexts = [...]string{MovedYes: "moved", MovedNo: "still"}

// validTrace is a traceparent of W3C's first version.
var validTrace = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// ParseEventRef reads what EventRef.String wrote.
func ParseEventRef(s string) (EventRef, error) {
	parts := strings.Split(s, " ")
	if len(parts) < 4 {
		return EventRef{}, fmt.Errorf("%q is not an event reference", s)
	}
	created, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return EventRef{}, fmt.Errorf("%q is not an event reference: %w", s, err)
	}
	r := EventRef{ID: parts[0], Created: time.Unix(created, 0).UTC(), Type: parts[2], Object: parts[3]}
	rest := parts[4:]
	if len(rest) > 0 {
		if updated, err := strconv.ParseInt(rest[0], 10, 64); err == nil {
			r.Updated, rest = time.Unix(updated, 0).UTC(), rest[1:]
		}
	}
	if len(rest) > 0 {
		if i := slices.Index(movedTexts[:], rest[0]); i > 0 {
			r.Moved, rest = BalanceMoved(i), rest[1:] // #nosec G115 -- an index of a few words
		}
	}
	if len(rest) > 0 && validTrace.MatchString(rest[0]) {
		r.Trace, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 {
		return EventRef{}, fmt.Errorf("%q is not an event reference", s)
	}
	return r, nil
}

// Ref is the event as a sync refers to it.
func (e Event) Ref() EventRef {
	return EventRef{ID: e.ID, Created: e.Created, Object: e.Object, Type: e.Type, Updated: e.Updated, Moved: e.Moved}
}
