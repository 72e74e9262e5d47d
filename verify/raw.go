package verify

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// contradiction is a column that does not say what Stripe's JSON says; an empty
// text is none.
type contradiction struct{ column, json, held string }

func (c contradiction) String() string {
	return "its JSON has " + c.column + " " + orNone(c.json) + ", the column " + orNone(c.held)
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

// texts lists contradictions as one cause.
func texts(list []contradiction) string {
	parts := make([]string, len(list))
	for i, c := range list {
		parts[i] = c.String()
	}
	return strings.Join(parts, "; ")
}

// number is what the JSON says of a column, or the column where it agrees.
func number(list []contradiction, column string, held int64) int64 {
	for _, c := range list {
		if n, err := strconv.ParseInt(c.json, 10, 64); c.column == column && err == nil {
			return n
		}
	}
	return held
}

// contradicts reports whether a column is among them.
func contradicts(list []contradiction, column string) bool {
	return slices.ContainsFunc(list, func(c contradiction) bool { return c.column == column })
}

// comparison holds the columns of a row against its JSON.
type comparison struct {
	// said are the columns that the ledger is made of: amounts, currencies, ids, and
	// the time of a balance transaction. They can be why a chain or a sum is off.
	said []contradiction
	// other names all other columns that differ. What they hold is a customer's, and
	// is not shown.
	other []string
	// missing names what Stripe always sends and the JSON does not have.
	missing []string
}

// reportAll reports everything; f says of which object.
func (c *comparison) reportAll(f mirror.Finding, report func(mirror.Finding)) {
	for _, s := range c.said {
		report(s.finding(f))
	}
	c.reportRest(f, report)
}

// hasRest reports whether reportRest has something to report.
func (c *comparison) hasRest() bool { return len(c.other)+len(c.missing) > 0 }

// reportRest reports what no break of a chain or a sum can have reported already.
func (c *comparison) reportRest(f mirror.Finding, report func(mirror.Finding)) {
	var actual, cause []string
	if other := strings.Join(c.other, ", "); other != "" {
		actual = append(actual, "other "+other)
		cause = append(cause, other+" of "+f.Object+": not what Stripe's JSON of it says")
	}
	if missing := strings.Join(c.missing, ", "); missing != "" {
		actual = append(actual, "no "+missing+" in the JSON")
		cause = append(cause, "the JSON kept of "+f.Object+" lacks what Stripe always sends: "+missing)
	}
	if c.hasRest() {
		f.Kind, f.Expected, f.Actual = mirror.DriftFieldMismatch, "as in Stripe's JSON", strings.Join(actual, "; ")
		f.Cause = strings.Join(cause, "; ")
		report(f)
	}
}

// finding makes a finding of the object of f.
func (c contradiction) finding(f mirror.Finding) mirror.Finding {
	f.Kind, f.Expected, f.Actual = mirror.DriftFieldMismatch, orNone(c.json), orNone(c.held)
	f.Cause = c.column + " of " + f.Object + ": not what Stripe's JSON of it says"
	return f
}

// needs notes which of the members that Stripe always sends are not there. It takes
// names and values by turns, and comes before any comparison.
func (c *comparison) needs(members ...string) {
	for i := 0; i < len(members); i += 2 {
		if members[i+1] == "" { // #nosec G602 -- callers give pairs
			c.missing = append(c.missing, members[i])
		}
	}
}

// differs notes that a column whose values are not shown differs.
func (c *comparison) differs(column string) {
	if !slices.Contains(c.missing, column) {
		c.other = append(c.other, column)
	}
}

// contradicted notes that a column that the ledger is made of differs. JSON that is
// not what Stripe sends contradicts only where it says something.
func (c *comparison) contradicted(column, said, held string) {
	if said == "" && len(c.missing) > 0 {
		c.differs(column)
		return
	}
	c.said = append(c.said, contradiction{column, said, held})
}

// ledger compares a column that the ledger is made of.
func (c *comparison) ledger(column, said, held string) {
	if !equalTexts(said, held) {
		c.contradicted(column, said, held)
	}
}

// amount is ledger for an amount; none is 0, as in a grant that is not monetary.
func (c *comparison) amount(column, said string, held int64) {
	if n, err := strconv.ParseInt(said, 10, 64); n != held || err != nil && said != "" {
		c.contradicted(column, said, text(held))
	}
}

// text compares a column whose values are not shown.
func (c *comparison) text(column, said, held string) {
	if !equalTexts(said, held) {
		c.differs(column)
	}
}

// reference is text for an id that Stripe may have expanded.
func (c *comparison) reference(column, said, held string) { c.text(column, reference(said), held) }

func (c *comparison) time(column, said, held string) {
	if said == "" && held == "" {
		return
	}
	at, unreadable := time.Parse(time.RFC3339, held)
	if n, err := strconv.ParseInt(said, 10, 64); err != nil || unreadable != nil || !at.Equal(time.Unix(n, 0)) {
		c.differs(column)
	}
}

// json compares by value; null and absent are the empty object, as they are
// written.
func (c *comparison) json(column, said, held string) {
	if said == "" {
		said = "{}"
	}
	if said != held && !bytes.Equal(mirror.Canonical([]byte(said)), mirror.Canonical([]byte(held))) {
		c.differs(column)
	}
}

// equalTexts compares a text of a JSON object, as members returns it, with a column.
// Columns lose the NUL characters that JSON can hold, and have no text where the
// JSON has an empty one.
func equalTexts(said, held string) bool {
	if strings.IndexByte(said, '\\') < 0 {
		return said == held
	}
	var plain string
	if json.Unmarshal([]byte(`"`+said+`"`), &plain) != nil {
		return false
	}
	return strings.ReplaceAll(plain, "\x00", "") == held
}

// reference is the id of what is an id, or the object when it is expanded.
func reference(said string) string {
	if said == "" || said[0] != '{' {
		return said
	}
	return read(said).id
}

func transactionJSON(r *mirror.AuditTransaction) (c comparison) {
	if r.Same {
		return c
	}
	o := read(r.Raw)
	c.needs("object", o.object, "id", o.id, "customer", o.customer, "currency", o.currency, "amount", o.amount,
		"ending_balance", o.endingBalance, "type", o.kind, "created", o.created, "livemode", o.livemode)
	c.amount("amount", o.amount, r.Amount)
	c.amount("ending_balance", o.endingBalance, r.EndingBalance)
	c.ledger("currency", o.currency, r.Currency)
	c.ledger("customer", reference(o.customer), r.Customer)
	c.ledger("id", o.id, r.ID)
	c.ledger("created", o.created, seconds(r.Created))
	c.text("object", o.object, "customer_balance_transaction")
	c.text("type", o.kind, r.Type)
	c.text("livemode", o.livemode, r.Livemode)
	c.text("description", o.description, r.Description)
	c.reference("invoice", o.invoice, r.Invoice)
	c.reference("credit_note", o.creditNote, r.CreditNote)
	c.reference("checkout_session", o.checkoutSession, r.CheckoutSession)
	c.json("metadata", o.metadata, r.Metadata)
	return c
}

// seconds is a time as Stripe writes it, where it has no fraction.
func seconds(t time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case t.Nanosecond() != 0:
		return t.UTC().Format(time.RFC3339Nano)
	}
	return text(t.Unix())
}

func creditJSON(r *mirror.AuditCredit) (c comparison) {
	if r.Same {
		return c
	}
	o := read(r.Raw)
	// The direction is the JSON's; of one that has none the column says what is missing.
	debit := cmp.Or(o.kind, r.Type) == "debit"
	side, typeColumn := read(o.credit), "credit_type"
	if debit {
		side, typeColumn = read(o.debit), "debit_type"
	}
	amount := money(side.amount)
	creditType, debitType, used := side.kind, "", read(side.applicationVoided)
	if debit {
		creditType, debitType, used = "", side.kind, read(side.applied)
		if amount.value != "" && amount.value != "0" {
			amount.value = strings.TrimPrefix("-"+amount.value, "--")
		}
	}
	c.needs("object", o.object, "id", o.id, "grant", o.creditGrant, "type", o.kind, typeColumn, side.kind, "type of amount", amount.kind,
		"amount", amount.need(amount.value), "currency", amount.need(amount.currency),
		"effective_at", o.effectiveAt, "created", o.created, "livemode", o.livemode)
	c.amount("amount", amount.value, r.Amount)
	c.ledger("currency", amount.currency, r.Currency)
	c.ledger("grant", reference(o.creditGrant), r.Grant)
	c.ledger("id", o.id, r.ID)
	c.text("object", o.object, "billing.credit_balance_transaction")
	c.text("type", o.kind, r.Type)
	c.text("credit_type", creditType, r.CreditType)
	c.text("debit_type", debitType, r.DebitType)
	c.reference("invoice", used.invoice, r.Invoice)
	c.reference("invoice_line_item", used.invoiceLineItem, r.InvoiceLineItem)
	c.time("effective_at", o.effectiveAt, r.EffectiveAt)
	c.time("created", o.created, r.Created)
	c.text("livemode", o.livemode, r.Livemode)
	c.reference("test_clock", o.testClock, r.TestClock)
	return c
}

func grantJSON(g *mirror.AuditGrant) (c comparison) {
	if g.Same {
		return c
	}
	o := read(g.Raw)
	amount := money(o.amount)
	c.needs("object", o.object, "id", o.id, "customer", o.customer, "amount_type", amount.kind, "amount", amount.need(amount.value),
		"currency", amount.need(amount.currency), "category", o.category, "applicability_config", o.applicabilityConfig, "created", o.created, "updated", o.updated, "livemode", o.livemode)
	c.amount("amount", amount.value, g.Amount)
	c.ledger("currency", amount.currency, g.Currency)
	c.ledger("customer", reference(o.customer), g.Customer)
	c.ledger("id", o.id, g.ID)
	c.text("object", o.object, "billing.credit_grant")
	c.text("name", o.name, g.Name)
	c.text("category", o.category, g.Category)
	c.text("amount_type", amount.kind, g.AmountType)
	c.json("applicability_config", o.applicabilityConfig, g.ApplicabilityConfig)
	c.text("priority", o.priority, g.Priority)
	c.time("effective_at", o.effectiveAt, g.EffectiveAt)
	c.time("expires_at", o.expiresAt, g.ExpiresAt)
	c.time("voided_at", o.voidedAt, g.VoidedAt)
	c.time("created", o.created, g.Created)
	c.time("updated", o.updated, g.Updated)
	c.text("livemode", o.livemode, g.Livemode)
	c.reference("test_clock", o.testClock, g.TestClock)
	c.json("metadata", o.metadata, g.Metadata)
	return c
}

// cash is the amount of a grant or of a credit transaction, as its JSON has it.
type cash struct{ kind, value, currency string }

// monetary is the only type of amount that is known. Of any other, which may be
// new, the columns have neither value nor currency.
const monetary = "monetary"

func money(amount string) cash {
	o := read(amount)
	if o.kind != "" && o.kind != monetary {
		return cash{kind: o.kind}
	}
	inner := read(o.monetary)
	return cash{o.kind, inner.value, inner.currency}
}

// need is the value or the currency, or something else where it need not be there.
func (m cash) need(member string) string {
	if m.kind != "" && m.kind != monetary {
		return m.kind
	}
	return member
}

// customerJSON compares the columns of a customer; credit is what its
// invoice_credit_balance holds.
func customerJSON(r *mirror.AuditCustomer, credit map[string]int64) (c comparison) {
	if r.Same {
		return c
	}
	o := read(r.Raw)
	c.needs("object", o.object, "id", o.id, "balance", o.balance, "created", o.created, "livemode", o.livemode)
	// A deletion keeps the JSON of the living customer, who held something; its two
	// columns go together.
	said, err := creditBalance(o.invoiceCreditBalance)
	other := err != nil || !maps.Equal(said, credit)
	switch marked := r.DeletedAt != ""; {
	case r.Deleted != marked:
		c.ledger("currency", o.currency, r.Currency)
	case r.Deleted:
		if r.Balance != 0 {
			c.contradicted("balance", "0", text(r.Balance))
		}
		c.ledger("currency", o.currency, r.Currency)
		if credit != nil {
			c.contradicted("invoice_credit_balance", "none", creditText(credit))
		}
	default:
		c.amount("balance", o.balance, r.Balance)
		c.ledger("currency", o.currency, r.Currency)
		if other {
			c.contradicted("invoice_credit_balance", o.invoiceCreditBalance, creditText(credit))
		}
	}
	c.text("id", o.id, r.Customer)
	c.text("object", o.object, "customer")
	c.time("created", o.created, r.Created)
	c.text("livemode", o.livemode, r.Livemode)
	c.reference("test_clock", o.testClock, r.TestClock)
	c.text("customer_account", o.customerAccount, r.CustomerAccount)
	if r.Deleted != (r.DeletedAt != "") {
		c.differs("deleted")
	}
	return c
}

// creditBalance reads an invoice_credit_balance.
func creditBalance(text string) (map[string]int64, error) {
	if text == "" {
		return nil, nil
	}
	var m map[string]int64
	err := json.Unmarshal([]byte(text), &m)
	for currency, n := range m {
		if err == nil && n == math.MinInt64 {
			err = fmt.Errorf("the opposite of the credit in %s is beyond 64 bits", currency)
		}
	}
	return m, err
}

func creditText(m map[string]int64) string {
	parts := make([]string, 0, len(m))
	for _, currency := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, strconv.Quote(currency)+":"+strconv.FormatInt(m[currency], 10))
	}
	return "{" + strings.Join(parts, ",") + "}"
}
