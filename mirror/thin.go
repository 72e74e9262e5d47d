package mirror

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// thinPrefix is what a thin event's type has before the type of its v1 twin.
const thinPrefix = "v1."

// TypeGenerationFailure is the type of the thin event about an event which
// Stripe failed to make, and of what has to be read because of it.
const TypeGenerationFailure = "v2.core.health.event_generation_failure.resolved"

// ThinTypes lists, sorted, the thin events that creditmirror needs from Stripe: the
// twins of EventTypes that Stripe has made since 2026-09-30.endive. The event of a
// failure, which is a preview, is taken where it comes and not among them.
func ThinTypes() []string {
	var types []string
	for t := range eventScopes {
		if thinAsks[t] != "" {
			types = append(types, thinPrefix+t)
		}
	}
	slices.Sort(types)
	return types
}

// thinObject is what a thin event of a type is about, by the type of its related
// object: the customer itself, or what leads to it.
const aboutCustomer Scope = "customer"

// thinAsks are the twins by the type of their v1 event, with what their related object
// asks for.
var thinAsks = map[string]Scope{
	"customer.created":                           aboutCustomer,
	"customer.updated":                           aboutCustomer,
	"customer.deleted":                           aboutCustomer,
	"billing.credit_grant.created":               ScopeGrantOwner,
	"billing.credit_grant.updated":               ScopeGrantOwner,
	"billing.credit_balance_transaction.created": ScopeCreditOwner,
	"test_helpers.test_clock.ready":              ScopeClockCustomers,
	"credit_note.created":                        ScopeNoteOwner,
	"credit_note.voided":                         ScopeNoteOwner,
	"invoice.finalized":                          ScopeInvoiceOwner,
	"invoice.overpaid":                           ScopeInvoiceOwner,
	"invoice.voided":                             ScopeInvoiceOwner,
}

// ContextError reports a thin event of an account that is reached by no more than its
// id: one of an organisation. It is an ErrThinEvent.
type ContextError struct{ Context string }

func (e *ContextError) Error() string {
	return fmt.Sprintf("a thin event of context %.80q, which is not a connected account", e.Context)
}

func (e *ContextError) Unwrap() error { return ErrThinEvent }

// decodeThin reads a thin event, of which raw is valid JSON. One that is of interest
// comes back as its v1 twin would.
func decodeThin(raw []byte) (Event, error) {
	var id, kind, context, livemode, created, related, snapshot, data jsonText
	err := members(raw, "event", map[string]*jsonText{
		"id": &id, "type": &kind, "context": &context, "livemode": &livemode, "created": &created,
		"related_object": &related, "snapshot_event": &snapshot, "data": &data,
	})
	if err != nil {
		return Event{}, err
	}
	var e Event
	if e.Type, err = kind.text("type"); err != nil {
		return Event{}, err
	}
	twinType, isTwin := strings.CutPrefix(e.Type, thinPrefix)
	if e.Type != TypeGenerationFailure && (!isTwin || thinAsks[twinType] == "") {
		return Event{}, ErrThinEvent
	}
	var at, twin, within string
	var errs [5]error
	e.ID, errs[0] = id.text("id")
	within, errs[1] = context.optionalText("context")
	twin, errs[2] = snapshot.optionalText("snapshot_event")
	errs[3] = livemode.into("livemode", &e.Livemode)
	at, errs[4] = created.text("created")
	if err := errors.Join(errs[:]...); err != nil {
		return Event{}, err
	}
	if !validEvent.MatchString(e.ID) {
		return Event{}, fmt.Errorf("id %.40q is not an event id", e.ID)
	}
	if e.Created, err = thinTime(at); err != nil {
		return Event{}, err
	}
	about := related
	if e.Type == TypeGenerationFailure {
		if e.Type, about, err = failedEvent(data); err != nil {
			return Event{}, fmt.Errorf("%s %s: %w", TypeGenerationFailure, e.ID, err)
		}
		twin = "" // the event itself was never made
	}
	e.Type = strings.TrimPrefix(e.Type, thinPrefix)
	asks := thinAsks[e.Type]
	if asks == "" {
		return Event{}, ErrThinEvent
	}
	if e.Account, err = contextAccount(within); err != nil {
		return Event{}, err
	}
	if twin != "" {
		if !validEvent.MatchString(twin) {
			return Event{}, fmt.Errorf("snapshot_event %.40q is not an event id", twin)
		}
		e.ID = twin
	}
	if err := e.about(about, asks); err != nil {
		return Event{}, fmt.Errorf("%s%s %s: %w", thinPrefix, e.Type, e.ID, err)
	}
	return e, nil
}

// about takes the id of the related object, and what it asks for.
func (e *Event) about(related jsonText, asks Scope) error {
	var id jsonText
	err := members(related, "related_object", map[string]*jsonText{"id": &id})
	if err == nil {
		e.Object, err = id.text("related_object.id")
	}
	if err != nil {
		return err
	}
	switch asks {
	case aboutCustomer:
		e.Customer = e.Object
	case ScopeClockCustomers:
		e.Clock = e.Object
	case ScopeGrantOwner:
		e.Grant, e.Asks = e.Object, asks
	default:
		e.Asks = asks
	}
	for _, t := range e.Targets() {
		if !t.Valid() {
			return fmt.Errorf("related_object names %.60q, which is not an id for %s", t.ID, t.Scope)
		}
	}
	return nil
}

// failedEvent reads which event was not made, and what it would have been about.
func failedEvent(data jsonText) (kind string, related jsonText, err error) {
	var impact, name jsonText
	err = members(data, "data", map[string]*jsonText{"impact": &impact})
	if err == nil {
		err = members(impact, "data.impact", map[string]*jsonText{"event_type": &name, "related_object": &related})
	}
	if err == nil {
		kind, err = name.text("data.impact.event_type")
	}
	return kind, related, err
}

// contextAccount is the connected account that a context names; none where there is no
// context.
func contextAccount(context string) (string, error) {
	if context == "" || ValidAccountID(context) {
		return context, nil
	}
	return "", &ContextError{context}
}

// thinTime reads the time of a thin event. It is cut to the whole seconds that its v1
// twin has: the two are one event.
func thinTime(text string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || at.Unix() <= 0 || at.Unix() > maxUnix {
		return time.Time{}, fmt.Errorf("created %.40q is not a time", text)
	}
	return at.Truncate(time.Second).UTC(), nil
}

// DecodeDelivered is DecodeEvent of a body that was delivered, which an event
// destination may have put into an envelope.
func DecodeDelivered(body []byte) (Event, error) {
	e, err := DecodeEvent(body)
	if err == nil || errors.Is(err, ErrThinEvent) {
		return e, err
	}
	// Few bodies come here: no other pays for the look at the envelope.
	if inner := delivered(body); len(inner) < len(body) {
		return DecodeEvent(inner)
	}
	return e, err
}

// delivered is the event in a body that was delivered: the body itself, or what an
// envelope of Amazon EventBridge (detail) or Azure Event Grid (data) holds, by which an
// event destination of these kinds hands events on.
func delivered(body []byte) []byte {
	var object, detail, source, version, data jsonText
	if !validJSON(body) || members(body, "event", map[string]*jsonText{
		"object": &object, "detail": &detail, "source": &source, "specversion": &version, "data": &data,
	}) != nil || object != nil {
		return body
	}
	switch {
	case len(detail) > 0 && detail[0] == '{' && source != nil:
		return detail
	case len(data) > 0 && data[0] == '{' && version != nil:
		return data
	}
	return body
}

// InvoiceMovesBalance reports whether an invoice has to do with the customer balance, by
// its own figures: it was finalized with a balance, left one, was overpaid, or had
// balance applied while it was open (customer_balance, since 2026-11-18.preview). What
// cannot be read counts as yes.
func InvoiceMovesBalance(invoice []byte) bool {
	var starting, ending, overpaid, balance jsonText
	err := members(invoice, "invoice", map[string]*jsonText{
		"starting_balance": &starting, "ending_balance": &ending, "amount_overpaid": &overpaid, "customer_balance": &balance,
	})
	if err != nil || starting == nil {
		return true
	}
	for _, figure := range []jsonText{starting, ending, overpaid, balance} {
		if !figure.null() && string(figure) != "0" {
			return true
		}
	}
	return false
}
