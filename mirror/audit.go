package mirror

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"time"
)

// AuditFilter narrows an audit.
type AuditFilter struct {
	// Account is the only account to read; nil reads all, the empty string is the
	// platform's own.
	Account *string
	// Customer is the only customer to read; empty reads all.
	Customer string
}

// Auditor reads the ledgers as they lie in the tables, for a proof that trusts
// nothing the writer computed: every query is its own, and none of the code that
// plans or writes a commit is used.
type Auditor interface {
	// Audit takes one snapshot of the database. At most readers ranges can be read
	// from it at once; a store may allow fewer. Close ends the snapshot.
	Audit(ctx context.Context, f AuditFilter, readers int) (Audit, error)
}

// Audit is one snapshot, cut into ranges of keys so that several can be read at
// once. Every customer of every account lies wholly in one range.
type Audit interface {
	// Ranges counts the ranges; range i lies before range i+1 in the order of
	// (account, customer), by bytes.
	Ranges() int
	// Readers is how many ranges can be read at once.
	Readers() int
	// Range reads one range: fn may use the ledgers until it returns. Calls beyond
	// Readers wait.
	Range(ctx context.Context, i int, fn func(AuditLedgers) error) error
	Close() error
}

// AuditKey is whose row it is.
type AuditKey struct{ Account, Customer string }

// AuditLedgers are the rows of one range, each stream in the order that its comment names,
// all of one snapshot. The streams may be read side by side, from one goroutine,
// each once; an error ends its stream. Memory does not grow with the rows.
type AuditLedgers struct {
	// Placed are the balance transactions with a chain position, by account,
	// customer, currency, position.
	Placed iter.Seq2[AuditTransaction, error]
	// Unplaced are those without, by account, customer, currency, id.
	Unplaced iter.Seq2[AuditTransaction, error]
	// Customers by account, id.
	Customers iter.Seq2[AuditCustomer, error]
	// Balances (customer_balances) by account, customer, currency.
	Balances iter.Seq2[AuditBalance, error]
	// Grants by account, customer, id.
	Grants iter.Seq2[AuditGrant, error]
	// Credits by account, customer, grant.
	Credits iter.Seq2[AuditCredit, error]
	// Summaries (ledger_balance) by account, customer, currency.
	Summaries iter.Seq2[AuditBalance, error]
	// States of both ledgers by account, customer, scope.
	States iter.Seq2[AuditState, error]
	// Grant looks one grant up, whoever holds it; ErrNotFound where it is not held.
	Grant func(account, id string) (AuditGrant, error)
}

// AuditJSON is the JSON that a row keeps, and whether it must be looked at. The
// fields of a row that come after it are the columns that only the JSON explains:
// texts as they are held; times in RFC 3339; truths as true or false; JSON as its
// text; anything that is NULL as the empty text. What a column holds that cannot be
// of its kind comes as it is.
type AuditJSON struct {
	// Same reports that the database itself compared every column with the JSON and
	// found none that differs. Then Raw and the fields that come after it are empty.
	Same bool
	// Raw is the JSON; empty where the row has none.
	Raw string
}

// AuditTransaction is a row of customer_balance_transactions.
type AuditTransaction struct {
	AuditKey
	ID            string
	Currency      string
	Amount        int64
	EndingBalance int64
	Created       time.Time // zero: no time that can be read
	Position      int64     // 0: unplaced
	AuditJSON
	Type            string
	Invoice         string
	CreditNote      string
	CheckoutSession string
	Description     string
	Metadata        string
	Livemode        string
}

// AuditCustomer is a row of customers.
type AuditCustomer struct {
	AuditKey
	Balance  int64
	Currency string
	// InvoiceCreditBalance is the column's JSON; empty for NULL.
	InvoiceCreditBalance string
	Deleted              bool
	AuditJSON
	Created         string
	Livemode        string
	TestClock       string
	CustomerAccount string
	DeletedAt       string // of this column the JSON knows nothing: it goes with Deleted
}

// AuditBalance is a row of customer_balances or credit_balance_summaries.
type AuditBalance struct {
	AuditKey
	Currency string
	Balance  int64
}

// AuditGrant is a row of credit_grants.
type AuditGrant struct {
	AuditKey
	ID string
	// Currency is empty and Amount 0 for a grant that is not monetary.
	Currency string
	Amount   int64
	AuditJSON
	Name                string
	Category            string
	AmountType          string
	ApplicabilityConfig string
	Priority            string // a number
	EffectiveAt         string
	ExpiresAt           string
	VoidedAt            string
	Created             string
	Updated             string
	Livemode            string
	TestClock           string
	Metadata            string
}

// AuditCredit is a row of credit_balance_transactions.
type AuditCredit struct {
	AuditKey
	ID       string
	Grant    string
	Currency string
	Amount   int64 // signed
	AuditJSON
	Type            string
	CreditType      string
	DebitType       string
	Invoice         string
	InvoiceLineItem string
	EffectiveAt     string
	Created         string
	Livemode        string
	TestClock       string
}

// AuditState is a row of sync_state.
type AuditState struct {
	AuditKey
	Scope           Scope
	Epoch           int64
	AppliedEpoch    int64
	HistoryComplete bool
	WalkCursor      string
	Disproved       bool
}

// Key is the key itself: it names the owner of every row.
func (k AuditKey) Key() AuditKey { return k }

// Compare orders keys by account, then customer.
func (k AuditKey) Compare(other AuditKey) int {
	return cmp.Or(cmp.Compare(k.Account, other.Account), cmp.Compare(k.Customer, other.Customer))
}

// AuditRange is the keys from the first (included) to the second (excluded).
type AuditRange struct{ From, To AuditKey }

// What sorts after every id, which is ASCII, and right after an id.
const (
	afterAll  = "\U0010FFFF"
	justAfter = "\x01"
)

// CustomerRanges are the ranges of the filter's one customer in each of the accounts.
func (f AuditFilter) CustomerRanges(accounts []string) []AuditRange {
	list := make([]AuditRange, len(accounts))
	for i, account := range accounts {
		list[i] = AuditRange{AuditKey{account, f.Customer}, AuditKey{account, f.Customer + justAfter}}
	}
	return list
}

// Cut makes up to so many ranges of about the same size of all that the filter, which
// names no customer, lets through. samples are keys of rows, drawn at random.
func (f AuditFilter) Cut(samples []AuditKey, ranges int) []AuditRange {
	rest := AuditRange{To: AuditKey{Account: afterAll}}
	if f.Account != nil {
		rest = AuditRange{AuditKey{Account: *f.Account}, AuditKey{Account: *f.Account + justAfter}}
	}
	samples = slices.DeleteFunc(samples, func(k AuditKey) bool {
		return k.Compare(rest.From) <= 0 || k.Compare(rest.To) >= 0
	})
	slices.SortFunc(samples, AuditKey.Compare)
	var list []AuditRange
	for i := 1; i < ranges && len(samples) > 0; i++ {
		at := samples[i*len(samples)/ranges]
		if at.Compare(rest.From) > 0 {
			list = append(list, AuditRange{rest.From, at})
			rest.From = at
		}
	}
	return append(list, rest)
}
