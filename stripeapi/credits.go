package stripeapi

import (
	"context"
	"errors"
	"fmt"

	"github.com/stripe/stripe-go/v79/form"

	"github.com/creditmirror/creditmirror/mirror"
)

// CreditPage is a page of a customer's credit balance transactions, newest
// first by created.
type CreditPage struct {
	Rows []mirror.CreditTransaction
	// Grants are the grants of the rows, each once, in the order of the rows.
	Grants  []mirror.CreditGrant
	HasMore bool
}

// SummaryFilter says which credits a summary adds up.
type SummaryFilter struct {
	// Grant is the only grant that counts. Empty: all grants whose scope is
	// metered prices.
	Grant string
}

// CreditPage lists the rows older than the row after (empty: the newest), with
// their grants in the same call. Limit is 1 to 100; 0 means 100.
func (c *Client) CreditPage(ctx context.Context, account, customer, after string, limit int) (CreditPage, error) {
	const endpoint = EndpointCreditTransactionsList
	if err := checkIDs(endpoint, "customer", customer, "starting_after?", after); err != nil {
		return CreditPage{}, err
	}
	v, err := pageValues(endpoint, after, limit)
	if err != nil {
		return CreditPage{}, err
	}
	v.Add("customer", customer)
	v.Add("expand[]", "data.credit_grant")
	r := request{endpoint: endpoint, path: "/v1/billing/credit_balance_transactions", account: account, values: v}
	return read(ctx, c, r, func(body []byte) (CreditPage, error) {
		return decodeCreditPage(body, account, customer, after)
	})
}

// CreditSummary returns the customer's credits per currency, in minor units, at
// this moment. Credits that are not money are left out.
func (c *Client) CreditSummary(ctx context.Context, account, customer string, filter SummaryFilter) (map[string]mirror.CreditBalance, error) {
	const endpoint = EndpointCreditSummary
	if err := checkIDs(endpoint, "customer", customer, "credit_grant?", filter.Grant); err != nil {
		return nil, err
	}
	v := &form.Values{}
	v.Add("customer", customer)
	if filter.Grant != "" {
		v.Add("filter[type]", "credit_grant")
		v.Add("filter[credit_grant]", filter.Grant)
	} else {
		v.Add("filter[type]", "applicability_scope")
		v.Add("filter[applicability_scope][price_type]", "metered")
	}
	r := request{endpoint: endpoint, path: "/v1/billing/credit_balance_summary", account: account, values: v}
	return read(ctx, c, r, func(body []byte) (map[string]mirror.CreditBalance, error) {
		return decodeSummary(body, customer)
	})
}

func decodeCreditPage(body []byte, account, customer, after string) (CreditPage, error) {
	l, err := decodeList(body, after)
	if err != nil {
		return CreditPage{}, err
	}
	page := CreditPage{HasMore: l.hasMore}
	page.Rows, err = decodeRows(l, func(r row) (mirror.CreditTransaction, error) {
		return decodeCreditTransaction(r, account, customer)
	})
	if err != nil {
		return CreditPage{}, err
	}
	decoded := make(map[string]bool)
	for i, r := range l.rows {
		raw, id := r.raw("credit_grant"), page.Rows[i].Grant
		if raw[0] != '{' || decoded[id] {
			continue
		}
		decoded[id] = true
		o, err := parseObject(raw)
		if err != nil {
			return CreditPage{}, fmt.Errorf("credit_grant of %.60q: %w", r.id, err)
		}
		g, err := decodeGrant(row{fields: fields{object: o}, json: raw, id: id}, account, customer)
		if err != nil {
			return CreditPage{}, fmt.Errorf("credit_grant of %.60q: %w", r.id, err)
		}
		page.Grants = append(page.Grants, g)
	}
	return page, nil
}

// decodeCreditTransaction reads a row of the list of customer, which the row
// itself does not name.
func decodeCreditTransaction(r row, account, customer string) (mirror.CreditTransaction, error) {
	r.word("object", "billing.credit_balance_transaction")
	t := mirror.CreditTransaction{
		Account: account, ID: r.id,
		Customer:    customer,
		Grant:       r.ref("credit_grant"),
		Type:        r.text("type"),
		EffectiveAt: r.time("effective_at"),
		Created:     r.time("created"),
		Livemode:    r.boolean("livemode"),
		TestClock:   r.optRef("test_clock"),
	}
	if r.err != nil {
		return mirror.CreditTransaction{}, r.err
	}
	if r.has("credit") == r.has("debit") {
		return mirror.CreditTransaction{}, errors.New("needs either credit or debit")
	}
	if t.Type != "credit" && t.Type != "debit" {
		// Without a direction the amount has no sign.
		return mirror.CreditTransaction{}, fmt.Errorf("type %.40q is neither credit nor debit", t.Type)
	}
	side := r.sub(t.Type)
	kind := side.text("type")
	_, t.Currency, t.Amount = side.amount("amount")
	if t.Amount < 0 {
		side.fail("amount", "is negative")
	}
	cause := "credits_applied"
	if t.Type == "credit" {
		t.CreditType, cause = kind, "credits_application_invoice_voided"
	} else {
		t.DebitType, t.Amount = kind, -t.Amount
	}
	if side.has(cause) {
		link := side.sub(cause)
		t.Invoice, t.InvoiceLineItem = link.optRef("invoice"), link.optRef("invoice_line_item")
		side.join(cause, link)
	}
	r.join(t.Type, side)
	if r.err != nil {
		return mirror.CreditTransaction{}, r.err
	}
	t.Raw = r.with("credit_grant", t.Grant)
	return t, nil
}

func decodeSummary(body []byte, customer string) (map[string]mirror.CreditBalance, error) {
	top, err := decodeTop(body)
	if err != nil {
		return nil, err
	}
	top.word("object", "billing.credit_balance_summary")
	if owner := top.ref("customer"); top.err == nil && owner != customer {
		top.fail("customer", fmt.Sprintf("is %.60q, asked was %q", owner, customer))
	}
	data := top.need("balances")
	if top.err != nil {
		return nil, top.err
	}
	elements, err := parseArray(data)
	if err != nil {
		return nil, fmt.Errorf("balances is %w", err)
	}
	balances := make(map[string]mirror.CreditBalance, len(elements))
	for i, raw := range elements {
		o, err := parseObject(raw)
		if err != nil {
			return nil, fmt.Errorf("balances %d is %w", i, err)
		}
		f := fields{object: o}
		ledgerType, ledgerCur, ledger := f.amount("ledger_balance")
		availableType, availableCur, available := f.amount("available_balance")
		_, twice := balances[ledgerCur]
		switch {
		case f.err != nil:
		case ledgerType != availableType || ledgerCur != availableCur:
			f.err = errors.New("ledger and available balance are of different currencies")
		case ledgerType != monetary:
			continue
		case twice:
			f.err = errors.New("a currency that came before")
		}
		if f.err != nil {
			return nil, fmt.Errorf("balances %d: %w", i, f.err)
		}
		balances[ledgerCur] = mirror.CreditBalance{Ledger: ledger, Available: available}
	}
	return balances, nil
}
