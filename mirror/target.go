package mirror

import (
	"fmt"
	"regexp"
	"strings"
)

// Scope is the part of a customer's credit that one sync reads.
type Scope string

const (
	// ScopeBalance is the customer balance: the customer object and its chain of
	// customer balance transactions.
	ScopeBalance Scope = "balance"
	// ScopeCredits is the billing-credit ledger: grants, credit balance
	// transactions and the summary.
	ScopeCredits Scope = "credits"
	// ScopeGrantOwner is a question, not a ledger: which customer holds the
	// grant that an event named? Stripe's credit balance transactions carry no
	// customer.
	ScopeGrantOwner Scope = "grant_owner"
	// ScopeClockCustomers is a question too: which customers live on the test
	// clock that an event named?
	ScopeClockCustomers Scope = "clock_customers"
)

// Target is one unit of work: the thing that is marked, leased, fenced and synced.
type Target struct {
	// Account is the connected account (acct_…); empty for the platform's own.
	Account string
	Scope   Scope
	// ID is the customer (cus_…) for ScopeBalance and ScopeCredits, the grant
	// (credgr_…) for ScopeGrantOwner, the clock (clock_…) for ScopeClockCustomers.
	ID string
}

// Key is the target's name in the queue. ParseTarget reads it back.
func (t Target) Key() string {
	return string(t.Scope) + ":" + t.Account + ":" + t.ID
}

func (t Target) String() string { return t.Key() }

// ParseTarget reads what Target.Key wrote.
func ParseTarget(key string) (Target, error) {
	scope, rest, ok := strings.Cut(key, ":")
	account, id, ok2 := strings.Cut(rest, ":")
	t := Target{Account: account, Scope: Scope(scope), ID: id}
	if !ok || !ok2 || !t.Valid() {
		return Target{}, fmt.Errorf("%q is not a target: want scope:account:id", key)
	}
	return t, nil
}

// Valid tells whether every part has the form that Stripe's ids have, so that
// it can go into a URL path, a Redis key or a query without a surprise.
func (t Target) Valid() bool {
	if t.Account != "" && !ValidAccountID(t.Account) {
		return false
	}
	switch t.Scope {
	case ScopeBalance, ScopeCredits:
		return ValidCustomerID(t.ID)
	case ScopeGrantOwner:
		return ValidGrantID(t.ID)
	case ScopeClockCustomers:
		return validClock.MatchString(t.ID)
	}
	return false
}

var (
	// Accounts of Stripe's early years could choose the ids of their customers.
	validCustomer = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`)
	validAccount  = regexp.MustCompile(`^acct_[A-Za-z0-9]{1,64}$`)
	validGrant    = regexp.MustCompile(`^credgr_[A-Za-z0-9_]{1,96}$`)
	validClock    = regexp.MustCompile(`^clock_[A-Za-z0-9_]{1,64}$`)
	validEvent    = regexp.MustCompile(`^evt_[A-Za-z0-9_]{1,128}$`)
	validObject   = regexp.MustCompile(`^[A-Za-z0-9_]{1,160}$`)
)

// ValidCustomerID tells whether id has the form of a customer's id.
func ValidCustomerID(id string) bool { return validCustomer.MatchString(id) }

// ValidAccountID tells whether id has the form of a connected account's id.
func ValidAccountID(id string) bool { return validAccount.MatchString(id) }

// ValidGrantID tells whether id has the form of a credit grant's id.
func ValidGrantID(id string) bool { return validGrant.MatchString(id) }
