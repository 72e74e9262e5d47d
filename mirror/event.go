package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// Event is the envelope of a Stripe event: which thing changed, never what it
// changed to. Nothing of an event's payload is written to the mirror. A thin event
// (v2) that has a twin among the v1 events has the twin's ID and Type, since both are
// one event.
type Event struct {
	ID         string
	Type       string
	Account    string
	APIVersion string
	Livemode   bool
	Created    time.Time
	// Customer, Grant and Clock are ids found in the payload; empty where the
	// type names none.
	Customer string
	Grant    string
	Clock    string
	// Asks is the question to which of a thin event's Object leads, where that is not
	// a customer; empty where it is, and for v1 events, which name the customer.
	Asks Scope
	// Object is the id of data.object: after the event it must be visible in Stripe.
	Object string
	// Updated is the update time of data.object where that is a grant; otherwise
	// zero. A copy of the grant that is older does not answer the event.
	Updated time.Time
	// Moved reports, for a customer.updated, whether its balance changed.
	Moved BalanceMoved
	// Ledgers are those that are mirrored: of others the event has no target.
	Ledgers Ledgers
}

// BalanceMoved reports whether an event says that a balance changed.
type BalanceMoved uint8

// What an event can say of a balance.
const (
	MovedUnknown BalanceMoved = iota
	MovedYes
	MovedNo
)

// ErrThinEvent reports a thin event (v2) that names nothing of interest.
var ErrThinEvent = errors.New("a v2 thin event of no interest")

// eventScopes maps the event types that can move credit to what must be read
// again. There is no event for a customer balance transaction, so everything
// that makes one is listed: those of credit notes and invoices also catch a balance in
// a currency other than the customer's default, for which Stripe promises no
// customer.updated. Since 2026-11-18.preview balance can be applied to an open invoice by
// hand, which invoice.paid and invoice.updated announce; they come for much else, and
// name nobody where the invoice itself shows that no balance has to do with it.
var eventScopes = map[string][]Scope{
	"customer.created":                           {ScopeBalance},
	"customer.updated":                           {ScopeBalance},
	"customer.deleted":                           {ScopeBalance, ScopeCredits},
	"billing.credit_grant.created":               {ScopeCredits},
	"billing.credit_grant.updated":               {ScopeCredits},
	"billing.credit_balance_transaction.created": {ScopeGrantOwner},
	"test_helpers.test_clock.ready":              {ScopeClockCustomers},
	"credit_note.created":                        {ScopeBalance},
	"credit_note.voided":                         {ScopeBalance},
	"invoice.finalized":                          {ScopeBalance},
	"invoice.overpaid":                           {ScopeBalance},
	"invoice.paid":                               {ScopeBalance},
	"invoice.updated":                            {ScopeBalance},
	"invoice.voided":                             {ScopeBalance},
}

// EventTypes lists, sorted, the event types that creditmirror needs from Stripe.
func EventTypes() []string {
	types := make([]string, 0, len(eventScopes))
	for t := range eventScopes {
		types = append(types, t)
	}
	slices.Sort(types)
	return types
}

// Interesting reports whether events of this type can move credit.
func Interesting(eventType string) bool {
	_, ok := eventScopes[eventType]
	return ok
}

// Targets returns what must be read from Stripe because of the event; none when
// its type is not of interest.
func (e Event) Targets() []Target {
	if e.Asks != "" {
		t := Target{Account: e.Account, Scope: e.Asks, ID: e.Object}
		if t.Scope == ScopeGrantOwner {
			t.ID = e.Grant
		}
		return []Target{t}
	}
	scopes := eventScopes[e.Type]
	targets := make([]Target, 0, len(scopes))
	for _, s := range scopes {
		t := Target{Account: e.Account, Scope: s, ID: e.Customer}
		switch s {
		case ScopeGrantOwner:
			t.ID = e.Grant
		case ScopeClockCustomers:
			t.ID = e.Clock
		}
		if t.ID != "" && e.Ledgers.Has(s) { // an invoice without a customer moves nobody's credit
			targets = append(targets, t)
		}
	}
	return targets
}

// Others are the ledgers, besides the one of scope s, for which an event of this type
// waits too.
func (r EventRef) Others(s Scope) []Scope {
	scopes := eventScopes[r.Type]
	if !slices.Contains(scopes, s) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(scopes), func(o Scope) bool { return o == s })
}

// DecodeEvent reads the envelope of an event, of a v1 event or of a thin one. Keys are
// matched in their exact case, and of a doubled key the last counts, so that every
// reader of the same bytes sees the same ids. It returns ErrThinEvent for a thin event
// that is of no interest; any other error means that the event cannot be understood
// and names the field. An event whose type is not of interest needs no more than an id
// and a type.
func DecodeEvent(raw []byte) (Event, error) {
	if !utf8.Valid(raw) {
		return Event{}, errors.New("the event is not valid UTF-8")
	}
	if !json.Valid(raw) {
		return Event{}, errors.New("the event is not valid JSON")
	}
	var id, object, kind, account, version, livemode, created, data jsonText
	err := members(raw, "event", map[string]*jsonText{
		"id": &id, "object": &object, "type": &kind, "account": &account,
		"api_version": &version, "livemode": &livemode, "created": &created, "data": &data,
	})
	if err != nil {
		return Event{}, err
	}
	switch is, err := object.text("object"); {
	case err != nil:
		return Event{}, err
	case is == "v2.core.event":
		return decodeThin(raw)
	case is != "event":
		return Event{}, fmt.Errorf("object is %.40q, want \"event\"", is)
	}
	var e Event
	var seconds int64
	var errs [6]error
	e.ID, errs[0] = id.text("id")
	e.Type, errs[1] = kind.text("type")
	e.Account, errs[2] = account.optionalText("account")
	e.APIVersion, errs[3] = version.optionalText("api_version")
	errs[4] = livemode.into("livemode", &e.Livemode)
	errs[5] = created.into("created", &seconds)
	if err := errors.Join(errs[:]...); err != nil {
		return Event{}, err
	}
	if !validEvent.MatchString(e.ID) {
		return Event{}, fmt.Errorf("id %.40q is not an event id", e.ID)
	}
	if e.Account != "" && !ValidAccountID(e.Account) {
		return Event{}, fmt.Errorf("account %.40q is not an account id", e.Account)
	}
	if seconds <= 0 || seconds > maxUnix {
		return Event{}, fmt.Errorf("created %d is not a time", seconds)
	}
	e.Created = time.Unix(seconds, 0).UTC()
	if !Interesting(e.Type) {
		return e, nil
	}
	if err := e.decodePayload(data); err != nil {
		return Event{}, fmt.Errorf("%s %s: %w", e.Type, e.ID, err)
	}
	return e, nil
}

// moved reports from the attributes that an update changed whether the balance is
// among them. Nothing of their values is looked at.
func moved(previous jsonText) BalanceMoved {
	var balance, credit jsonText
	err := members(previous, "data.previous_attributes", map[string]*jsonText{"balance": &balance, "invoice_credit_balance": &credit})
	switch {
	case err != nil: // not there
		return MovedUnknown
	case balance != nil, credit != nil:
		return MovedYes
	}
	return MovedNo
}

// billed reports whether an update of an invoice is one of its figures or its status; also
// where that is not known. A new file, link or text is none.
func billed(previous jsonText) bool {
	if previous.null() {
		return true
	}
	figures := []string{
		"amount_due", "amount_overpaid", "amount_paid", "amount_remaining", "customer_balance", "ending_balance", "paid", "starting_balance", "status", "total",
	}
	found := make([]jsonText, len(figures))
	want := map[string]*jsonText{}
	for i, name := range figures {
		want[name] = &found[i]
	}
	if members(previous, "data.previous_attributes", want) != nil {
		return true
	}
	return slices.ContainsFunc(found, func(j jsonText) bool { return j != nil })
}

// maxUnix is the year 9999: later times fit no database's timestamp.
const maxUnix = 253402300799

// decodePayload finds the ids in data.object that name the targets.
func (e *Event) decodePayload(data jsonText) error {
	var payload, previous, id, customer, grant, updated jsonText
	err := members(data, "data", map[string]*jsonText{"object": &payload, "previous_attributes": &previous})
	if err == nil {
		err = members(payload, "data.object", map[string]*jsonText{"id": &id, "customer": &customer, "credit_grant": &grant, "updated": &updated})
	}
	if err == nil {
		e.Object, err = id.text("data.object.id")
	}
	if err != nil {
		return err
	}
	if !ValidID(e.Object) {
		return fmt.Errorf("data.object.id %.40q is not an id", e.Object)
	}
	switch e.Type {
	case "customer.created", "customer.deleted":
		e.Customer = e.Object
	case "customer.updated":
		e.Customer = e.Object
		e.Moved = moved(previous)
	case "billing.credit_balance_transaction.created":
		e.Grant, err = grant.reference("data.object.credit_grant")
	case "test_helpers.test_clock.ready":
		e.Clock = e.Object
	case "billing.credit_grant.created", "billing.credit_grant.updated":
		if !customer.null() {
			e.Customer, err = customer.reference("data.object.customer")
		}
		e.Updated = updated.moment()
	case "invoice.paid", "invoice.updated":
		if !customer.null() && InvoiceMovesBalance(payload) && billed(previous) {
			e.Customer, err = customer.reference("data.object.customer")
		}
	default: // of invoices and credit notes, which may have no customer
		if !customer.null() {
			e.Customer, err = customer.reference("data.object.customer")
		}
	}
	if err != nil {
		return err
	}
	for _, t := range e.Targets() {
		if !t.Valid() {
			return fmt.Errorf("data.object names %.60q, which is not an id for %s", t.ID, t.Scope)
		}
	}
	return nil
}
