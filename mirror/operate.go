package mirror

import (
	"context"
	"regexp"
	"time"
)

// Session is somebody signed in to the console.
type Session struct {
	// ID is the SHA-256 of the cookie's value, in hex: whoever reads the table can
	// sign in as nobody.
	ID string
	// Key is the name of the API key, and Bond what the key was when it signed in: a
	// key of the same name that is another one has another bond.
	Key, Bond        string
	Created, Expires time.Time
}

// OperatorAction is a row of operator_actions: what somebody did to the mirror, by the
// console or by a command, and why. It holds ids and no personal data.
type OperatorAction struct {
	Account, ID string
	Created     time.Time
	// Actor is the name of an API key, or command:USER.
	Actor      string
	RemoteAddr string
	Action     ActionKind
	// Customer and Object are what it was done to; empty where it was many or none.
	Customer, Object string
	// Reason is why, in the words of who did it.
	Reason string
	// Outcome is empty until EndAction sets it. Count is how many it was done to.
	Outcome ActionOutcome
	Count   int64
	Detail  string
}

// ActionKind is what was done.
type ActionKind string

// The actions.
const (
	ActionSignIn     ActionKind = "sign-in"
	ActionSync       ActionKind = "sync"        // a customer is read from Stripe now
	ActionAccept     ActionKind = "accept"      // an open finding is known and explained
	ActionWithdraw   ActionKind = "withdraw"    // it is not accepted any more
	ActionRetry      ActionKind = "dead-retry"  // dead letters are tried again
	ActionDrop       ActionKind = "dead-drop"   // dead letters are deleted
	ActionSweepStart ActionKind = "sweep-start" // a sweep runs now
	ActionSweepPause ActionKind = "sweep-pause" // a sweep waits until it is resumed
	ActionSweepGoOn  ActionKind = "sweep-resume"
	ActionCheck      ActionKind = "endpoint-check" // Stripe is asked for our webhook endpoints
	ActionVerifyCopy ActionKind = "export-verify"  // a copy is read again and compared
)

// ActionOutcome is what became of an action.
type ActionOutcome string

// The outcomes.
const (
	ActionDone    ActionOutcome = "done"
	ActionFailed  ActionOutcome = "failed"
	ActionRefused ActionOutcome = "refused" // who asked may not
)

// ActionFilter chooses rows of operator_actions. The zero value chooses all.
type ActionFilter struct {
	// Accounts is nil for all.
	Accounts         []string
	Customer, Object string
	Actor            string
	Action           ActionKind
	// Before are the time and the ID of the last row of the page before.
	Before   time.Time
	BeforeID string
}

// Operations keeps what people do to a mirror and who is signed in.
type Operations interface {
	// BeginAction records an action before it is done. The same one again changes
	// nothing.
	BeginAction(ctx context.Context, a OperatorAction) error
	// EndAction records the outcome, count and detail of one that was begun, once.
	EndAction(ctx context.Context, a OperatorAction) error
	// Actions lists rows, the newest first.
	Actions(ctx context.Context, f ActionFilter, limit int) ([]OperatorAction, error)
	// Accepted returns, for those of the findings that are accepted, the action that
	// did it.
	Accepted(ctx context.Context, findings []string) (map[string]OperatorAction, error)
	// PruneActions deletes rows from before that time, at most 1000, and never those
	// younger than APIWritesKept.
	PruneActions(ctx context.Context, before time.Time) (int64, error)

	SaveSession(ctx context.Context, s Session) error
	// Session reads one; ErrNotFound where there is none.
	Session(ctx context.Context, id string) (Session, error)
	// DropSession ends one. One that is not there is no error.
	DropSession(ctx context.Context, id string) error
	// PruneSessions deletes those that ended before that time.
	PruneSessions(ctx context.Context, before time.Time) error
}

// CustomerSet narrows a list of customers.
type CustomerSet string

// The sets.
const (
	SetAll      CustomerSet = ""
	SetUnproven CustomerSet = "unproven" // a history is not wholly held or not proven
	SetDeleted  CustomerSet = "deleted"
)

// CustomerOrder is the order of a list of customers.
type CustomerOrder string

// The orders. With a set other than all the order is that of ids.
const (
	ByID       CustomerOrder = ""
	ByAmount   CustomerOrder = "amount"   // of a ledger and currency, ascending
	ByAmountDn CustomerOrder = "amount_d" // descending
	ByFresh    CustomerOrder = "fresh"    // the last synced first
	ByStale    CustomerOrder = "stale"
)

// CustomerPlace is where a list of customers goes on: after it.
type CustomerPlace struct {
	ID     string
	Amount int64
	At     time.Time
}

// CustomerQuery asks for a page of customers.
type CustomerQuery struct {
	Account string
	Set     CustomerSet
	Order   CustomerOrder
	// Ledger and Currency are what ByAmount, ByFresh and ByStale go by (of the latter
	// two the ledger alone).
	Ledger   Scope
	Currency string
	// Since bounds ByFresh: only customers that were synced at that time or later.
	Since time.Time
	// After is the place of the last one of the page before; nil: the beginning.
	After *CustomerPlace
	Limit int
}

// FoundCustomer is a customer in a list, with its place.
type FoundCustomer struct {
	CustomerBalances
	// Proven reports that nothing of either ledger is missing or disproved.
	Proven bool
	Place  CustomerPlace
}

// Holder is the customer with whom something was found, and as what.
type Holder struct {
	Account, Customer string
	// What is customer, grant, invoice or credit_note.
	What string
}

// InboxEvent is an event as the inbox has it.
type InboxEvent struct {
	Account, ID, Type, Customer, Object string
	// Pending reports that a sync has yet to answer it.
	Pending           bool
	Created, Received time.Time
	Applied           time.Time // zero: not yet
}

// Timeline is what happened to a customer, each list newest first.
type Timeline struct {
	Events   []InboxEvent
	Findings []Finding
	Writes   []APIWrite
	Actions  []OperatorAction
	Letters  []DeadLetter
}

// LedgerState is how far one ledger of a customer is synced.
type LedgerState struct {
	Scope                                Scope
	ObservedAt, FullReadAt, RefusedAt    time.Time
	Complete, Walking, Disproved, Queued bool
}

// FindingList asks for findings, the newest first.
type FindingList struct {
	// Accounts is nil for all.
	Accounts []string
	Kind     DriftKind
	Customer string
	// Scope is the only ledger; empty: both, and findings of neither.
	Scope Scope
	// Closed asks for those that are repaired, instead of those that are open.
	Closed bool
	// Before are the time and ID of the last one of the page before.
	Before   time.Time
	BeforeID string
	Limit    int
}

// LetterFilter chooses dead letters. The zero value chooses all.
type LetterFilter struct {
	// Accounts is nil for all.
	Accounts []string
	Customer string
	Scope    Scope
	// Class is what ClassOf makes of a reason; empty: any.
	Class string
}

// LetterGroup counts dead letters of one class of reasons.
type LetterGroup struct {
	Class         string
	Scope         Scope
	Count         int64
	First, Newest time.Time
	// Reason is one of them, in full.
	Reason string
}

// Lookout reads what people look at, a page at a time: the cost of a call does not
// grow with the mirror.
type Lookout interface {
	// FindCustomers lists customers.
	FindCustomers(ctx context.Context, q CustomerQuery) ([]FoundCustomer, error)
	// WhoHas lists the customers of the accounts that have this id, grant, invoice or credit
	// note; at most 20.
	WhoHas(ctx context.Context, accounts []string, id string) ([]Holder, error)
	// Timeline lists what happened to a customer before a time, at most limit of each.
	Timeline(ctx context.Context, account, customer string, before time.Time, limit int) (Timeline, error)
	// LedgerStates returns how far both ledgers of a customer are synced.
	LedgerStates(ctx context.Context, account, customer string) ([]LedgerState, error)
	// NewestEvents lists the newest events of the inbox; accounts nil is all.
	NewestEvents(ctx context.Context, accounts []string, limit int) ([]InboxEvent, error)
	// InboxEvent finds an event; ErrNotFound where it is in none of the accounts.
	InboxEvent(ctx context.Context, accounts []string, id string) (InboxEvent, error)
	// FindingList lists findings, the newest first.
	FindingList(ctx context.Context, q FindingList) ([]Finding, error)
	// FindingByID reads one; ErrNotFound where there is none.
	FindingByID(ctx context.Context, id string) (Finding, error)
	// LetterGroups counts the letters that f chooses by class, the most first, at most
	// limit groups.
	LetterGroups(ctx context.Context, f LetterFilter, limit int) ([]LetterGroup, error)
	// FindLetters lists letters by id after one, without their payloads.
	FindLetters(ctx context.Context, f LetterFilter, after string, limit int) ([]DeadLetter, error)
	// CountLetters counts them.
	CountLetters(ctx context.Context, f LetterFilter) (int64, error)
	// NewestAPIWrites lists rows of api_writes from before a row (the zero one: from the
	// newest), newest first. Accounts nil is all; f.Account is not looked at.
	NewestAPIWrites(ctx context.Context, accounts []string, f APIWriteFilter, before APIWrite, limit int) ([]APIWrite, error)
}

var (
	idsInReason     = regexp.MustCompile(`\b([a-z]{2,12})_[A-Za-z0-9_]{6,}`)
	numbersInReason = regexp.MustCompile(`[0-9]{4,}`)
)

// maxClass bounds a class, in bytes: it has an index.
const maxClass = 160

// ClassOf makes reasons that differ in ids and numbers alone the same.
func ClassOf(reason string) string {
	class := idsInReason.ReplaceAllString(reason, "${1}_…")
	class = numbersInReason.ReplaceAllString(class, "…")
	if len(class) > maxClass {
		cut := maxClass
		for cut > 0 && class[cut]&0xC0 == 0x80 { // within a character
			cut--
		}
		class = class[:cut]
	}
	return class
}
