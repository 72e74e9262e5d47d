package stripeapi

import (
	"context"
	"fmt"

	"github.com/stripe/stripe-go/v79/form"

	"github.com/creditmirror/creditmirror/mirror"
)

// CreditOwner reads the grant of a credit balance transaction, and by it whose it is:
// the transaction itself names no customer.
func (c *Client) CreditOwner(ctx context.Context, account, id string) (mirror.CreditGrant, error) {
	const endpoint = EndpointCreditTransactionsGet
	v := &form.Values{}
	v.Add("expand[]", "credit_grant")
	return readNamed(ctx, c, endpoint, "/v1/billing/credit_balance_transactions/", account, id, v, func(r row) (mirror.CreditGrant, error) {
		r.word("object", "billing.credit_balance_transaction")
		raw, grant := r.raw("credit_grant"), r.ref("credit_grant")
		if r.err != nil {
			return mirror.CreditGrant{}, r.err
		}
		o, err := parseObject(raw)
		if err != nil {
			return mirror.CreditGrant{}, fmt.Errorf("credit_grant is %w", err)
		}
		return decodeGrant(row{fields: fields{object: o}, json: raw, id: grant}, account, "")
	})
}

// InvoiceOwner reads whose an invoice is; empty where it is nobody's. moves reports
// whether, by its own figures, any customer balance has to do with it.
func (c *Client) InvoiceOwner(ctx context.Context, account, id string) (customer string, moves bool, err error) {
	customer, err = readNamed(ctx, c, EndpointInvoicesRetrieve, "/v1/invoices/", account, id, &form.Values{}, func(r row) (string, error) {
		r.word("object", "invoice")
		moves = mirror.InvoiceMovesBalance(r.json)
		return r.optRef("customer"), r.err
	})
	return customer, moves, err
}

// CreditNoteOwner reads whose a credit note is; empty where it is nobody's.
func (c *Client) CreditNoteOwner(ctx context.Context, account, id string) (customer string, err error) {
	return readNamed(ctx, c, EndpointCreditNotesRetrieve, "/v1/credit_notes/", account, id, &form.Values{}, func(r row) (string, error) {
		r.word("object", "credit_note")
		return r.optRef("customer"), r.err
	})
}

// readNamed reads the object that path and id name.
func readNamed[T any](ctx context.Context, c *Client, endpoint, path, account, id string, v *form.Values, decode func(row) (T, error)) (T, error) {
	if err := checkIDs(endpoint, "id", id); err != nil {
		var zero T
		return zero, err
	}
	r := request{endpoint: endpoint, path: path + id, account: account, values: v}
	return read(ctx, c, r, func(body []byte) (T, error) {
		r, err := decodeOne(body)
		if err == nil && r.id != id {
			err = fmt.Errorf("id is %.60q, asked was %q", r.id, id)
		}
		if err != nil {
			var zero T
			return zero, err
		}
		return decode(r)
	})
}
