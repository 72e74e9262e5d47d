package stripesim

// InvoiceUse asks for customer balance or credits to be applied to an invoice.
type InvoiceUse struct {
	Account  string `json:"account"` // "" is the platform
	Customer string `json:"customer"`
	// Invoice is any id; empty makes one. An id can be used again until it is void.
	Invoice string `json:"invoice"`
	// Currency is a lower-case ISO code. Defaults to the customer's.
	Currency string `json:"currency"`
	// Amount is what the invoice can take, in the currency's smallest unit.
	Amount int64 `json:"amount"`
	// LineItem and Price are for credits: the line's id (made if empty) and the
	// price that it bills, which decides between grants scoped to prices.
	LineItem string `json:"invoice_line_item"`
	Price    string `json:"price"`
	// PeriodEnd, Unix seconds, decides which grants are in force. Defaults to now.
	PeriodEnd int64 `json:"period_end"`
}

// InvoiceResult is what was moved; amounts in the currency's smallest unit.
type InvoiceResult struct {
	Invoice            string   `json:"invoice"`
	Balance            int64    `json:"balance"`             // amount of the balance transaction, 0 if none
	BalanceTransaction string   `json:"balance_transaction"` // its id
	Credits            int64    `json:"credits"`             // sum of the credit transactions
	CreditTransactions []string `json:"credit_transactions"` // their ids
}

func (r *InvoiceResult) add(t *balanceTxn, rows []*creditTxn) {
	if t != nil {
		r.Balance, r.BalanceTransaction = t.amount, t.id
	}
	for _, c := range rows {
		r.Credits += c.value
		r.CreditTransactions = append(r.CreditTransactions, c.id)
	}
}

// ApplyBalance uses up customer balance as a finalized invoice would.
func (s *Server) ApplyBalance(u InvoiceUse) (InvoiceResult, error) {
	return s.applyToInvoice(u, func(a *account, cz cause, inv *invoice, r *InvoiceResult) {
		a.standInLine(inv, "", u.Amount)
		r.add(a.applyBalanceToInvoice(cz, inv, u.Amount), nil)
	})
}

// ApplyCredits uses up billing credits as a finalized invoice would.
func (s *Server) ApplyCredits(u InvoiceUse) (InvoiceResult, error) {
	return s.applyToInvoice(u, func(a *account, cz cause, inv *invoice, r *InvoiceResult) {
		at := u.PeriodEnd
		if at == 0 {
			at = inv.customer.ledgerNow(cz)
		}
		l := a.standInLine(inv, u.LineItem, u.Amount)
		l.priceID, l.metered = u.Price, true
		r.add(nil, a.applyCreditsToLine(cz, inv, l, at))
	})
}

func (s *Server) applyToInvoice(u InvoiceUse, do func(*account, cause, *invoice, *InvoiceResult)) (InvoiceResult, error) {
	var r InvoiceResult
	err := s.change(u.Account, func(a *account, cz cause) *apiError {
		c, err := a.living(u.Customer, "customer", 400)
		if err != nil {
			return err
		}
		if u.Currency == "" {
			u.Currency = c.currency
		}
		if !isCurrency(u.Currency) {
			return errInvalid("", "currency", "Invalid currency: %s", u.Currency)
		}
		if u.Amount <= 0 || u.Amount > maxAmount {
			return errInvalid("", "amount", "amount must be positive")
		}
		inv, err := a.standInFor(cz, c, u.Invoice, internCurrency(u.Currency))
		if err != nil {
			return err
		}
		r.Invoice = inv.id
		do(a, cz, inv, &r)
		return nil
	})
	return r, err
}

// UnapplyBalance gives back the balance that an invoice used, and leaves its credits.
func (s *Server) UnapplyBalance(acct, invoiceID string) (InvoiceResult, error) {
	return s.withInvoice(acct, invoiceID, func(a *account, cz cause, inv *invoice, r *InvoiceResult) *apiError {
		r.add(a.unapplyBalance(cz, inv), nil)
		return nil
	})
}

// VoidInvoice gives back the balance and the credits that an invoice used. An
// invoice can be voided once.
func (s *Server) VoidInvoice(acct, invoiceID string) (InvoiceResult, error) {
	return s.withInvoice(acct, invoiceID, func(a *account, cz cause, inv *invoice, r *InvoiceResult) *apiError {
		r.add(a.voidInvoice(cz, inv))
		return nil
	})
}

// PayInvoice pays an amount, in the currency's smallest unit, towards an open or
// paid invoice. Less than what remains leaves it open; what is more becomes
// credit, as when a customer transfers too much.
func (s *Server) PayInvoice(acct, invoiceID string, amount int64) (InvoiceResult, error) {
	return s.withInvoice(acct, invoiceID, func(a *account, cz cause, inv *invoice, r *InvoiceResult) *apiError {
		switch {
		case amount <= 0 || amount > maxAmount:
			return errInvalid("", "amount", "amount must be positive")
		case inv.status == statusDraft:
			return errRefused("invoice", "Invoice %s is a draft.", inv.id)
		}
		before := inv.overpaid
		a.payInvoice(cz, inv, amount, false)
		r.Balance = before - inv.overpaid
		return nil
	})
}

func (s *Server) withInvoice(acct, id string, do func(*account, cause, *invoice, *InvoiceResult) *apiError) (InvoiceResult, error) {
	r := InvoiceResult{Invoice: id}
	err := s.change(acct, func(a *account, cz cause) *apiError {
		inv := a.invoices[id]
		if inv == nil || inv.gone {
			return errNone(400, "invoice", id, "invoice")
		}
		if inv.status == statusVoid {
			return errRefused("invoice", "Invoice %s is void.", id)
		}
		if inv.customer.gone {
			return errNone(400, "customer", inv.customer.id, "customer")
		}
		return do(a, cz, inv, &r)
	})
	return r, err
}

// AddBalanceTransaction makes a customer balance transaction of any type, also
// those that only Stripe itself makes, and returns its id.
func (s *Server) AddBalanceTransaction(acct, customerID string, ch BalanceChange) (string, error) {
	var id string
	err := s.change(acct, func(a *account, cz cause) *apiError {
		c, err := a.living(customerID, "customer", 400)
		if err != nil {
			return err
		}
		if ch.Type == "" {
			ch.Type = "adjustment"
		}
		if ch.Amount == 0 || ch.Amount > maxAmount || ch.Amount < -maxAmount {
			return errInvalid("", "amount", "amount must not be zero")
		}
		if !isCurrency(ch.Currency) {
			return errInvalid("", "currency", "Invalid currency: %s", ch.Currency)
		}
		ch.Currency = internCurrency(ch.Currency)
		id = a.changeBalance(cz, c, ch).id
		return nil
	})
	return id, err
}
