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
	// ScopeCreditOwner, ScopeInvoiceOwner and ScopeNoteOwner are the questions of thin
	// events, which name a thing and no customer: whose is the credit balance
	// transaction, the invoice, the credit note?
	ScopeCreditOwner  Scope = "credit_owner"
	ScopeInvoiceOwner Scope = "invoice_owner"
	ScopeNoteOwner    Scope = "note_owner"
)

// Target is one unit of work: the thing that is marked, leased, fenced and synced.
type Target struct {
	// Account is the connected account (acct_…); empty for the platform's own.
	Account string
	Scope   Scope
	// ID is the customer (cus_…) for ScopeBalance and ScopeCredits, the grant
	// (credgr_…) for ScopeGrantOwner, the clock (clock_…) for ScopeClockCustomers, and
	// what its name says (cbtxn_…, in_…, cn_…) for the owner of anything else.
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

// Valid reports whether every part has the form that Stripe's ids have, so that
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
	case ScopeCreditOwner:
		return validCredit.MatchString(t.ID)
	case ScopeInvoiceOwner:
		return validInvoice.MatchString(t.ID)
	case ScopeNoteOwner:
		return validNote.MatchString(t.ID)
	}
	return false
}

var (
	validAccount = regexp.MustCompile(`^acct_[A-Za-z0-9]{1,64}$`)
	validGrant   = regexp.MustCompile(`^credgr_[A-Za-z0-9_]{1,96}$`)
	validClock   = regexp.MustCompile(`^clock_[A-Za-z0-9_]{1,64}$`)
	validCredit  = regexp.MustCompile(`^cbtxn_[A-Za-z0-9_]{1,96}$`)
	validInvoice = regexp.MustCompile(`^in_[A-Za-z0-9_]{1,96}$`)
	validNote    = regexp.MustCompile(`^cn_[A-Za-z0-9_]{1,96}$`)
	validEvent   = regexp.MustCompile(`^evt_[A-Za-z0-9_]{1,128}$`)
)

// maxID is how long an id may be, in bytes.
const maxID = 255

// marks are the characters that an id may have besides letters and digits: those that
// e-mail addresses, uuids and the like are made of, and none that means something in a
// path, a query or an escape.
const marks = "_-.@+~:=!$&*,;|()'"

// ValidID reports whether id can be that of an object of Stripe's, which all packages
// judge by this rule: 1 to 255 ASCII letters, digits and marks, one letter or digit at
// least. Accounts of Stripe's early years could choose the ids of their customers
// (numbers, uuids, e-mail addresses), so that an id is escaped wherever it goes into a
// path all the same.
func ValidID(id string) bool {
	named := false
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			named = true
		case strings.IndexByte(marks, c) < 0:
			return false
		}
	}
	return named && len(id) <= maxID
}

// ValidCustomerID reports whether id can be a customer's id.
func ValidCustomerID(id string) bool { return ValidID(id) }

// ValidAccountID reports whether id has the form of a connected account's id.
func ValidAccountID(id string) bool { return validAccount.MatchString(id) }

// ValidGrantID reports whether id has the form of a credit grant's id.
func ValidGrantID(id string) bool { return validGrant.MatchString(id) }
