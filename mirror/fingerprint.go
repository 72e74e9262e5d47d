package mirror

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Print is what an object says, field by field, as short hashes: small enough to
// keep those of a long history, and two of them show which fields differ. Texts,
// times and JSON count in the form in which both databases keep them. What no API
// tells (a chain position, the time of a write) is no part of it.
type Print struct {
	// Amount is the object's own, in minor units; 0 where it has none.
	Amount int64
	fields []string
	sums   [maxPrinted]uint64
}

// maxPrinted is the number of fields of a grant, which has the most.
const maxPrinted = 17

var (
	balanceFields = []string{
		"amount", "currency", "ending_balance", "type", "invoice", "credit_note", "checkout_session", "description",
		"metadata", "created", "livemode", "raw",
	}
	creditFields = []string{
		"grant", "type", "credit_type", "debit_type", "amount", "currency", "invoice", "invoice_line_item", "effective_at",
		"created", "livemode", "test_clock", "raw",
	}
	grantFields = []string{
		"customer", "name", "category", "amount_type", "amount", "currency", "applicability_config", "priority",
		"effective_at", "expires_at", "voided_at", "created", "updated", "livemode", "test_clock", "metadata", "raw",
	}
	customerFields = []string{
		"balance", "currency", "invoice_credit_balance", "created", "livemode", "test_clock", "customer_account", "raw",
	}
)

// Print is the row's.
func (t BalanceTransaction) Print() Print {
	return newFingerprint(balanceFields, t.Amount, t.Amount, t.Currency, t.EndingBalance, t.Type, t.Invoice, t.CreditNote, t.CheckoutSession,
		t.Description, t.Metadata, t.Created, t.Livemode, t.Raw)
}

// Print is the row's.
func (t CreditTransaction) Print() Print {
	return newFingerprint(creditFields, t.Amount, t.Grant, t.Type, t.CreditType, t.DebitType, t.Amount, t.Currency, t.Invoice,
		t.InvoiceLineItem, t.EffectiveAt, t.Created, t.Livemode, t.TestClock, t.Raw)
}

// Print is the grant's.
func (g CreditGrant) Print() Print {
	return newFingerprint(grantFields, g.Amount, g.Customer, g.Name, g.Category, g.AmountType, g.Amount, g.Currency, g.ApplicabilityConfig,
		g.Priority, g.EffectiveAt, g.ExpiresAt, g.VoidedAt, g.Created, g.Updated, g.Livemode, g.TestClock, g.Metadata, g.Raw)
}

// Print is the customer's, with raw in the place of its own JSON: how much of a
// customer is kept is a matter of configuration.
func (c Customer) Print(raw json.RawMessage) Print {
	credit, _ := json.Marshal(c.InvoiceCreditBalance) //nolint:errcheck // a map of integers
	return newFingerprint(customerFields, c.Balance, c.Balance, c.Currency, json.RawMessage(credit), c.Created, c.Livemode, c.TestClock,
		c.CustomerAccount, raw)
}

func newFingerprint(fields []string, amount int64, values ...any) Print {
	p := Print{Amount: amount, fields: fields}
	for i, v := range values {
		p.sums[i] = shortHash(printed(v))
	}
	return p
}

// printed is a value as both databases keep it.
func printed(v any) []byte {
	switch v := v.(type) {
	case string:
		return []byte(strings.ReplaceAll(strings.ToValidUTF8(v, "\uFFFD"), "\x00", ""))
	case int64:
		return strconv.AppendInt(nil, v, 10)
	case bool:
		return strconv.AppendBool(nil, v)
	case time.Time:
		if v.IsZero() {
			return nil
		}
		return strconv.AppendInt(nil, v.UnixMicro(), 10)
	case json.RawMessage:
		text := bytes.TrimSpace(v)
		if len(text) == 0 || string(text) == "null" {
			text = []byte("{}")
		}
		return portableJSON(string(text))
	}
	panic("no such value in a print")
}

func shortHash(text []byte) uint64 {
	sum := sha256.Sum256(text)
	return binary.BigEndian.Uint64(sum[:8])
}

// Differing names the fields in which two objects of one type differ.
func (p Print) Differing(q Print) []string {
	var names []string
	for i, name := range p.fields {
		if p.sums[i] != q.sums[i] {
			names = append(names, name)
		}
	}
	return names
}

// Equal reports whether two objects of one type say the same.
func (p Print) Equal(q Print) bool { return p.sums == q.sums }

// digest names all that an object says.
func (p Print) digest() string {
	h := sha256.New()
	for _, sum := range p.sums {
		_ = binary.Write(h, binary.BigEndian, sum) //nolint:errcheck // a hash takes everything
	}
	return "digest " + hex.EncodeToString(h.Sum(nil)[:8])
}

// Describe states a difference in a finding's words: the amounts where these differ,
// since open findings are summed up by them, and otherwise digests, with the names
// of the fields that differ behind the actual one. What the fields hold is the
// customer's affair.
func Describe(expected, actual Print) (want, have string) {
	if expected.Amount != actual.Amount {
		return strconv.FormatInt(expected.Amount, 10), strconv.FormatInt(actual.Amount, 10)
	}
	names := actual.Differing(expected)
	if len(names) == 0 {
		names = []string{"digest"} // the column, which is no part of the print
	}
	return expected.digest(), actual.digest() + ": " + strings.Join(names, ", ")
}

// Absent describes an object that only one side has.
func (p Print) Absent() string { return strconv.FormatInt(p.Amount, 10) }
