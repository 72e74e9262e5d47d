package console

import (
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// Status is how the system is, as the status command shows it too.
type Status struct {
	At    time.Time
	Queue QueueStatus
	// Fresh50 and Fresh99 are seconds from an event to the commit that answered it; nil:
	// none was answered yet.
	Fresh50, Fresh99                                    *float64
	Customers, Transactions, PendingEvents, DeadLetters int64
	// Unproven counts histories that are not wholly held, by account.
	Unproven    map[string]int64
	DriftOpen   map[mirror.DriftKind]int64
	DriftAmount map[string]int64
	Sweeps      []SweepStatus
	Webhooks    []WebhookStatus
	// Refused are accounts whose key Stripe refuses, where RefusedKnown.
	Refused      []RefusedKey
	RefusedKnown bool
	Dead         mirror.DeadLetterAges
	Calls24h     []Calls
	Projection   int64
	// EventsInterval and BalancesInterval are how often those sweeps run.
	EventsInterval, BalancesInterval time.Duration
	Repair                           bool
}

// QueueStatus counts targets.
type QueueStatus struct {
	Ready, Delayed, Leased int
	Oldest                 time.Duration
}

// SweepStatus is one sweep of one account.
type SweepStatus struct {
	Account, Name        string
	Started, LastSuccess time.Time
	LastFound            int64
	// Progress says in words how far it is; Left and Customers are of a first copy.
	Progress            string
	Phase               string
	Customers, Grants   int64
	Left                int64
	Paused              bool
	PausedBy, PausedWhy string
	PausedAt            time.Time
}

// WebhookStatus is one endpoint.
type WebhookStatus struct {
	Endpoint    string
	LastArrival time.Time
	Silent      bool
	SilentSince time.Time
}

// RefusedKey is an account that Stripe does not let us read.
type RefusedKey struct {
	Account, Scope, Reason string
	Since                  time.Time
}

// Calls counts calls to Stripe for one purpose.
type Calls struct {
	Purpose string
	Count   int64
}

// DayCalls are the calls of one UTC day.
type DayCalls struct {
	Day   time.Time
	Calls []Calls
}

// Refusal counts requests on the webhook addresses that were refused for one reason, since
// each of the receivers started.
type Refusal struct {
	Code, Reason string
	Count        int64
	Receivers    int
	Last         time.Time // zero: not known
}

// Retried is what became of one dead letter.
type Retried struct {
	ID, Outcome, Detail string
	Left                bool
}

// Verdict is one line of a check of our webhook endpoints.
type Verdict struct {
	Bad         bool
	About, Text string
}

// Copy is the copy for the warehouse.
type Copy struct {
	Location    string
	Generations []Generation
}

// Generation is one of its generations.
type Generation struct {
	Number            int64
	Kind              string
	Rows, Files       int64
	Bytes, Unproven   int64
	Loaded            time.Time
	ToolVersion       string
	TableRows         []TableRows
	FromNote, ParText string
}

// TableRows counts the rows of one table.
type TableRows struct {
	Table string
	Rows  int64
}

// CopyVerdict is what became of reading the copy again.
type CopyVerdict struct {
	Generations, Files, Rows int64
	Mirror                   string
	Differences              []string
}
