package stripesim

import "fmt"

// creditNote lowers what an open invoice asks for, or gives back what a paid one
// has taken. Amounts are in the currency's smallest unit.
type creditNote struct {
	node
	invoice     *invoice
	number      string
	amount      int64
	pre         int64 // against what was still to be paid
	credit      int64 // to the customer balance
	refund      int64 // to the payment method
	outOfBand   int64
	refundID    string
	lines       []noteLine
	memo        *string
	reason      string
	metadata    map[string]string
	effectiveAt int64
	txn         string // the customer balance transaction of the credit
	voidedAt    *int64
}

type noteLine struct {
	id          string
	invoiceLine string // "" for a custom line
	description *string
	amount      int64
	unit        int64
	quantity    int64
}

func (n *creditNote) post() int64 { return n.amount - n.pre }

func (n *creditNote) kind() string {
	switch {
	case n.pre == n.amount:
		return "pre_payment"
	case n.pre == 0:
		return "post_payment"
	}
	return "mixed"
}

// creditable is how much of an invoice no credit note has taken yet.
func (inv *invoice) creditable() int64 {
	return inv.total() - inv.prePayment - inv.postPayment
}

// createNote issues a credit note; its amounts have been checked.
func (a *account) createNote(cz cause, n *creditNote) {
	inv := n.invoice
	c := inv.customer
	n.node = node{id: a.ids.note(), created: cz.now}
	n.number = inv.nextNote()
	for i := range n.lines {
		n.lines[i].id = a.ids.noteLine()
	}
	if n.refund > 0 {
		n.refundID = a.ids.refund()
	}
	n.lag = a.lagFor(listNotes, c.id)
	a.notes[n.id] = n
	addTo(a, &a.noteList, n)
	inv.notes = append(inv.notes, n)
	before := inv.prePayment
	inv.prePayment += n.pre
	inv.postPayment += n.post()
	if n.credit > 0 {
		n.txn = a.changeBalance(cz, c, BalanceChange{
			Amount: -n.credit, Currency: inv.currency, Type: "credit_note", Invoice: inv.id, CreditNote: n.id,
		}).id
	}
	a.emit(cz, "credit_note.created", c.id, a.renderNote(n, nil), nil)
	if n.pre > 0 {
		a.emit(cz, "invoice.updated", c.id, a.renderInvoice(inv, nil), map[string]any{"pre_payment_credit_notes_amount": before})
		if inv.status == statusOpen && inv.remaining() == 0 {
			a.settleInvoice(cz, inv)
		}
	}
}

// nextNote is the number of the invoice's next credit note.
func (inv *invoice) nextNote() string {
	of := inv.id // a stand-in that only used credits has no number
	if inv.number != nil {
		of = *inv.number
	}
	return fmt.Sprintf("%s-CN-%02d", of, len(inv.notes)+1)
}

func (a *account) voidNote(cz cause, n *creditNote) {
	now := n.invoice.customer.ledgerNow(cz)
	n.voidedAt = &now
	before := n.invoice.prePayment
	n.invoice.prePayment -= n.pre
	a.emit(cz, "credit_note.voided", n.invoice.customer.id, a.renderNote(n, nil), nil)
	a.emit(cz, "invoice.updated", n.invoice.customer.id, a.renderInvoice(n.invoice, nil), map[string]any{"pre_payment_credit_notes_amount": before})
}
