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
}

func newCredits(account, customer string) *credits {
	return &credits{account: account, customer: customer, now: epoch0}
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
		"amount":               map[string]any{"type": g.AmountType, "monetary": map[string]any{"value": g.Amount, "currency": g.Currency}},
		"applicability_config": g.ApplicabilityConfig, "priority": g.Priority, "metadata": g.Metadata,
		"created": g.Created.Unix(), "updated": g.Updated.Unix(), "voided_at": g.VoidedAt.Unix(),
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
	r.Raw = mustJSON(map[string]any{
		"id": r.ID, "object": "billing.credit_balance_transaction", "credit_grant": grant, "type": r.Type,
		"credit": nil, "debit": nil, "created": r.Created.Unix(), "effective_at": r.EffectiveAt.Unix(),
		r.Type: map[string]any{
			"amount": map[string]any{"type": "monetary", "monetary": map[string]any{"value": max(amount, -amount), "currency": currency}},
			"type":   r.CreditType + r.DebitType,
		},
	})
	c.rows = append(c.rows, r)
	return &c.rows[len(c.rows)-1]
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
		ObservedAt: c.now.Add(time.Duration(st.Epoch) * time.Millisecond),
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
