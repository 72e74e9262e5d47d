package mirror

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
)

// Stored is a held row as it lies in its table, with its column digest, for a whole
// read to compare.
type Stored[Row Storable[Row]] struct {
	Row    Row
	Digest string
}

// Storable is a row that can be judged by itself and compared with Stripe's: those of the
// two ledgers and grants are.
type Storable[Row any] interface {
	Print() Print
	// Storable returns why a database would refuse the row.
	Storable() error
	// equals reports whether all columns but the JSON are the same; where they are written
	// otherwise it may be in doubt, and then it says no.
	equals(Row) bool
	json() json.RawMessage
	// agrees reports whether the columns by which a reply is judged say what the JSON
	// says: those that never change, and those that show which copy of a grant is older.
	agrees(testimony) bool
}

// Intact reports whether a row lies there as it was written: its digest is that of its
// JSON, and its columns say what the JSON says. Only such a row can convict a reply
// of rewriting history; any other was changed here.
func (s Stored[Row]) Intact() bool {
	raw := s.Row.json()
	return s.Digest == Digest(raw) && s.Row.agrees(testify(raw))
}

// said is when the row was created according to its JSON; zero where the JSON has
// no time.
func (s Stored[Row]) said() time.Time { return testify(s.Row.json()).time("created") }

// damaged reports whether the row is not what Stripe shows, digest being that of what it
// shows, and that the fault lies here: for an edit, Stripe would have to send other
// JSON.
func (s Stored[Row]) damaged(shown Row, digest string) bool {
	if s.Digest == digest && s.Row.equals(shown) && sameJSON(s.Row.json(), shown.json()) {
		return false
	}
	differs := !s.Row.Print().Equal(shown.Print())
	return differs && s.Digest == digest || !s.Intact() && (differs || s.Digest != digest)
}

// sameJSON compares two JSON texts by what they say, nothing being the empty object.
func sameJSON(a, b json.RawMessage) bool {
	return bytes.Equal(a, b) || Digest(a) == Digest(b) || bytes.Equal(printed(a), printed(b))
}

func (t BalanceTransaction) json() json.RawMessage { return t.Raw }
func (t CreditTransaction) json() json.RawMessage  { return t.Raw }
func (g CreditGrant) json() json.RawMessage        { return g.Raw }

func (t BalanceTransaction) equals(o BalanceTransaction) bool {
	return t.Amount == o.Amount && t.Currency == o.Currency && t.EndingBalance == o.EndingBalance && t.Type == o.Type &&
		t.Invoice == o.Invoice && t.CreditNote == o.CreditNote && t.CheckoutSession == o.CheckoutSession &&
		t.Description == o.Description && t.Created.Equal(o.Created) && t.Livemode == o.Livemode && sameJSON(t.Metadata, o.Metadata)
}

func (t CreditTransaction) equals(o CreditTransaction) bool {
	return t.Grant == o.Grant && t.Type == o.Type && t.CreditType == o.CreditType && t.DebitType == o.DebitType &&
		t.Amount == o.Amount && t.Currency == o.Currency && t.Invoice == o.Invoice && t.InvoiceLineItem == o.InvoiceLineItem &&
		t.EffectiveAt.Equal(o.EffectiveAt) && t.Created.Equal(o.Created) && t.Livemode == o.Livemode && t.TestClock == o.TestClock
}

func (g CreditGrant) equals(o CreditGrant) bool {
	return g.Customer == o.Customer && g.Name == o.Name && g.Category == o.Category && g.AmountType == o.AmountType &&
		g.Amount == o.Amount && g.Currency == o.Currency && g.Priority == o.Priority && g.EffectiveAt.Equal(o.EffectiveAt) &&
		g.ExpiresAt.Equal(o.ExpiresAt) && g.VoidedAt.Equal(o.VoidedAt) && g.Created.Equal(o.Created) && g.Updated.Equal(o.Updated) &&
		g.Livemode == o.Livemode && g.TestClock == o.TestClock && sameJSON(g.Metadata, o.Metadata) &&
		sameJSON(g.ApplicabilityConfig, o.ApplicabilityConfig)
}

func (t BalanceTransaction) agrees(said testimony) bool {
	return said.is("id", t.ID) && said.is("customer", t.Customer) && said.is("currency", t.Currency) && said.is("type", t.Type) &&
		said.is("amount", t.Amount) && said.is("ending_balance", t.EndingBalance) && said.is("created", t.Created) &&
		said.is("livemode", t.Livemode)
}

func (t CreditTransaction) agrees(said testimony) bool {
	amount := t.Amount
	if t.Type == "debit" {
		amount = -amount
	}
	money := said.member(t.Type).member("amount").member("monetary")
	return said.is("id", t.ID) && said.is("credit_grant", t.Grant) && said.is("type", t.Type) && said.is("created", t.Created) &&
		said.is("livemode", t.Livemode) && money.is("currency", t.Currency) && money.is("value", amount)
}

func (g CreditGrant) agrees(said testimony) bool {
	money := said.member("amount").member("monetary")
	return said.is("id", g.ID) && said.is("customer", g.Customer) && said.is("created", g.Created) && said.is("updated", g.Updated) &&
		said.is("voided_at", g.VoidedAt) && (g.VoidedAt.IsZero() || string(said["voided_at"]) != "null") &&
		money.is("currency", g.Currency) && money.is("value", g.Amount)
}

// testimony is what a stored JSON object says of its row; nil of anything else.
type testimony map[string]json.RawMessage

func testify(raw json.RawMessage) testimony {
	var said testimony
	if json.Unmarshal(raw, &said) != nil {
		return nil
	}
	return said
}

func (s testimony) member(name string) testimony { return testify(s[name]) }

// is reports whether a member says what a column holds; one that is not there
// contradicts nothing.
func (s testimony) is(name string, column any) bool {
	raw, ok := s[name]
	if !ok || string(raw) == "null" {
		return true
	}
	switch v := column.(type) {
	case string:
		var text string
		return json.Unmarshal(raw, &text) == nil && bytes.Equal(printed(text), printed(v))
	case int64:
		return bytes.Equal(portableJSON(string(raw)), portableJSON(strconv.FormatInt(v, 10)))
	case bool:
		return string(raw) == strconv.FormatBool(v)
	case time.Time:
		return s.time(name).Equal(v)
	}
	return false
}

// time is a member that holds seconds since 1970; zero for anything else.
func (s testimony) time(name string) time.Time {
	var seconds int64
	if json.Unmarshal(s[name], &seconds) != nil || seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}
