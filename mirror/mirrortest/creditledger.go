package mirrortest

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// credits is a customer's billing-credit ledger at Stripe.
type credits struct {
	account  string
	customer string
	now      time.Time
	next     int
	grants   []mirror.CreditGrant
	rows     []mirror.CreditTransaction // oldest first
	epochs   *epochs
}

func newCredits(account, customer string) *credits {
	return &credits{account: account, customer: customer, now: epoch0, epochs: &epochs{}}
}

func (c *credits) target() mirror.Target {
	return mirror.Target{Account: c.account, Scope: mirror.ScopeCredits, ID: c.customer}
}

// grant makes a grant and its first row.
func (c *credits) grant(currency string, amount int64) *mirror.CreditGrant {
	c.next++
	c.now = c.now.Add(time.Second)
	c.grants = append(c.grants, mirror.CreditGrant{
		Account: c.account, ID: fmt.Sprintf("credgr_%s%03d", c.customer[len("cus_"):], c.next), Customer: c.customer,
		Name: "welcome", Category: "promotional", AmountType: "monetary", Amount: amount, Currency: currency,
		ApplicabilityConfig: json.RawMessage(`{"scope":{"price_type":"metered"}}`), Priority: 50,
		EffectiveAt: c.now, ExpiresAt: c.now.Add(24 * time.Hour), Created: c.now, Updated: c.now,
		Metadata: json.RawMessage(`{}`),
	})
	i := len(c.grants) - 1
	c.render(i)
	c.move(c.grants[i].ID, currency, amount)
	return &c.grants[i]
}

// render makes a grant's JSON anew after an edit.
func (c *credits) render(i int) {
	g := &c.grants[i]
	g.Raw = mustJSON(map[string]any{
		"id": g.ID, "object": "billing.credit_grant", "customer": g.Customer, "name": g.Name, "category": g.Category,
		"amount":               money(g.Amount, g.Currency),
		"applicability_config": g.ApplicabilityConfig, "priority": g.Priority, "metadata": g.Metadata, "livemode": g.Livemode,
		"effective_at": nullTime(g.EffectiveAt), "expires_at": nullTime(g.ExpiresAt), "voided_at": nullTime(g.VoidedAt),
		"created": g.Created.Unix(), "updated": g.Updated.Unix(), "test_clock": nullable(g.TestClock),
	})
}

// move makes a row: credits positive, debits negative.
func (c *credits) move(grant, currency string, amount int64) *mirror.CreditTransaction {
	c.next++
	r := mirror.CreditTransaction{
		Account: c.account, ID: fmt.Sprintf("cbtxn_%s%03d", c.customer[len("cus_"):], c.next), Grant: grant,
		Customer: c.customer, Type: "credit", CreditType: "credits_granted", Amount: amount, Currency: currency,
		EffectiveAt: c.now, Created: c.now,
	}
	if amount < 0 {
		r.Type, r.CreditType, r.DebitType = "debit", "", "credits_applied"
		r.Invoice, r.InvoiceLineItem = "in_1", "il_1"
	}
	c.rows = append(c.rows, r)
	c.renderRow(len(c.rows) - 1)
	return &c.rows[len(c.rows)-1]
}

// renderRow makes a row's JSON anew after an edit.
func (c *credits) renderRow(i int) {
	r := &c.rows[i]
	kind, amount, cause := r.CreditType, r.Amount, "credits_application_invoice_voided"
	if r.Type == "debit" {
		kind, amount, cause = r.DebitType, -r.Amount, "credits_applied"
	}
	var used any
	if r.Invoice != "" {
		used = map[string]any{"invoice": r.Invoice, "invoice_line_item": r.InvoiceLineItem}
	}
	raw := map[string]any{
		"id": r.ID, "object": "billing.credit_balance_transaction", "credit_grant": r.Grant, "type": r.Type,
		"credit": nil, "debit": nil, "effective_at": r.EffectiveAt.Unix(), "created": r.Created.Unix(), "livemode": r.Livemode,
		"test_clock": nullable(r.TestClock),
	}
	raw[r.Type] = map[string]any{"type": kind, "amount": money(amount, r.Currency), cause: used}
	r.Raw = mustJSON(raw)
}

// edited changes the members of a JSON object.
func edited(raw json.RawMessage, change func(map[string]any)) json.RawMessage {
	var object map[string]any
	if err := json.Unmarshal(raw, &object); err != nil {
		panic(err)
	}
	change(object)
	return mustJSON(object)
}

// money is an amount as grants and rows have it.
func money(value int64, currency string) map[string]any {
	return map[string]any{"type": "monetary", "monetary": map[string]any{"value": value, "currency": currency}}
}

// nullTime is JSON's null for the zero time.
func nullTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Unix()
}

// sums is the ledger balance per currency.
func (c *credits) sums() map[string]int64 {
	sums := map[string]int64{}
	for _, r := range c.rows {
		sums[r.Currency] += r.Amount
	}
	return sums
}

func (c *credits) newest(n int) []mirror.CreditTransaction {
	rows := slices.Clone(c.rows[max(0, len(c.rows)-n):])
	slices.Reverse(rows)
	return rows
}

// snapshot is a sync that read the n newest rows, all grants and the summary.
func (c *credits) snapshot(st mirror.SyncState, n int) mirror.CreditsSnapshot {
	all := n >= len(c.rows)
	summary := map[string]mirror.CreditBalance{}
	for currency, sum := range c.sums() {
		summary[currency] = mirror.CreditBalance{Ledger: sum, Available: sum}
	}
	return mirror.CreditsSnapshot{
		Target: c.target(), Epoch: st.Epoch, EventSeq: st.EventSeq,
		ObservedAt: c.now.Add(c.epochs.after(st.Epoch)),
		Windows:    []mirror.Window[mirror.CreditTransaction]{{Rows: c.newest(n), FromHead: true, ToEnd: all}},
		Grants:     slices.Clone(c.grants), Summary: summary, Joined: true, Full: all,
	}
}

func (c *credits) sync(t *testing.T, s mirror.Store) mirror.Applied {
	t.Helper()
	return applyCredits(t, s, c.snapshot(begin(t, s, c.target()), len(c.rows)))
}

func applyCredits(t *testing.T, s mirror.Store, snap mirror.CreditsSnapshot) mirror.Applied {
	t.Helper()
	a, err := s.ApplyCredits(t.Context(), snap)
	if err != nil {
		t.Fatalf("apply %s, epoch %d: %v", snap.Target, snap.Epoch, err)
	}
	return a
}
