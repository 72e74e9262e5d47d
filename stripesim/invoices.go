package stripesim

// invoice is what the ledgers need to know of an invoice: what it used.
type invoice struct {
	id       string
	customer *customer
	currency string
	created  int64
	total    int64
	starting int64 // customer balance before any of it was applied
	ending   int64 // and after
	balance  int64 // net balance applied: + credit used up, − debt taken over
	applied  []*creditTxn
	voided   bool
	numbered bool
}

// invoiceFor returns the invoice of that id, made on first use. An empty id
// makes a new one.
func (a *account) invoiceFor(cz cause, c *customer, id, currency string, total int64) (*invoice, *apiError) {
	if id == "" {
		id = a.ids.invoice()
	}
	if inv := a.invoices[id]; inv != nil {
		switch {
		case inv.customer != c:
			return nil, errRefused("invoice", "Invoice %s belongs to another customer.", id)
		case inv.currency != currency:
			return nil, errRefused("currency", "Invoice %s is in %s.", id, inv.currency)
		case inv.voided:
			return nil, errRefused("invoice", "Invoice %s is void.", id)
		}
		inv.total += total
		return inv, nil
	}
	inv := &invoice{
		id: id, customer: c, currency: currency, created: cz.now, total: total,
		starting: c.end(currency), ending: c.end(currency),
	}
	a.invoices[id] = inv
	return inv, nil
}

// applyBalanceToInvoice does what finalizing does to the customer balance: credit
// is used up, as much as due can take, and debt is moved onto the invoice. It
// returns nil if there is no balance to move.
func (a *account) applyBalanceToInvoice(cz cause, c *customer, inv *invoice, due int64) *balanceTxn {
	before := c.profile
	if !inv.numbered { // finalizing takes the customer's next invoice number
		inv.numbered = true
		c.nextInvoice++
	}
	var t *balanceTxn
	end := c.end(inv.currency)
	amount := min(-end, due) // + uses credit; − takes over debt
	if amount != 0 {
		t = a.addBalance(cz, c, BalanceChange{Amount: amount, Currency: inv.currency, Type: "applied_to_invoice", Invoice: inv.id})
		inv.balance += amount
		inv.ending = t.ending
	}
	a.emitCustomerUpdated(cz, c, before, t != nil && inv.currency != c.currency && a.s.opts.Switches.NonDefaultCurrencyEvent)
	return t
}

// applyCreditsToInvoice takes from the customer's usable grants, in Stripe's
// order, until due is met; one row per grant. price "" stands for a metered price
// that no grant names.
func (a *account) applyCreditsToInvoice(cz cause, c *customer, inv *invoice, line, price string, due, periodEnd int64) []*creditTxn {
	var usable []*grant
	for _, g := range c.grants.rows {
		if g.currency == inv.currency && g.usable(periodEnd) && g.covers(price) {
			usable = append(usable, g)
		}
	}
	inOrderOfUse(usable)
	if line == "" {
		line = a.ids.lineItem()
	}
	var rows []*creditTxn
	for _, g := range usable {
		if due <= 0 {
			break
		}
		take := min(due, g.remaining)
		due -= take
		g.applied = true
		t := a.addCredit(cz, g, creditTxn{typ: "credits_applied", value: take, effectiveAt: c.ledgerNow(cz), invoice: inv.id, lineItem: line})
		rows = append(rows, t)
	}
	inv.applied = append(inv.applied, rows...)
	return rows
}

// covers tells whether the scope of g takes in a price.
func (g *grant) covers(price string) bool {
	if g.priceType != "" {
		return true
	}
	for _, p := range g.prices {
		if p == price {
			return true
		}
	}
	return false
}

// unapplyBalance gives back the customer balance that an invoice used.
func (a *account) unapplyBalance(cz cause, inv *invoice) *balanceTxn {
	if inv.balance == 0 {
		return nil
	}
	t := a.changeBalance(cz, inv.customer, BalanceChange{
		Amount: -inv.balance, Currency: inv.currency, Type: "unapplied_from_invoice", Invoice: inv.id,
	})
	inv.balance = 0
	return t
}

// returnFromVoidedInvoice gives back balance and credits. Credits of a grant whose
// time has passed expire again at once.
func (a *account) returnFromVoidedInvoice(cz cause, inv *invoice) (*balanceTxn, []*creditTxn) {
	inv.voided = true
	t := a.unapplyBalance(cz, inv)
	var rows []*creditTxn
	for _, used := range inv.applied {
		g, now := used.grant, inv.customer.ledgerNow(cz)
		rows = append(rows, a.addCredit(cz, g, creditTxn{
			credit: true, typ: "credits_application_invoice_voided", value: used.value, effectiveAt: now,
			invoice: inv.id, lineItem: used.lineItem,
		}))
		if g.expired {
			a.expireCredits(cz, g, now)
		}
	}
	return t, rows
}

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

// InvoiceResult tells what was moved; amounts in the currency's smallest unit.
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
	return s.applyToInvoice(u, func(a *account, cz cause, c *customer, inv *invoice, r *InvoiceResult) {
		r.add(a.applyBalanceToInvoice(cz, c, inv, u.Amount), nil)
	})
}

// ApplyCredits uses up billing credits as a finalized invoice would.
func (s *Server) ApplyCredits(u InvoiceUse) (InvoiceResult, error) {
	return s.applyToInvoice(u, func(a *account, cz cause, c *customer, inv *invoice, r *InvoiceResult) {
		at := u.PeriodEnd
		if at == 0 {
			at = c.ledgerNow(cz)
		}
		r.add(nil, a.applyCreditsToInvoice(cz, c, inv, u.LineItem, u.Price, u.Amount, at))
	})
}

func (s *Server) applyToInvoice(u InvoiceUse, do func(*account, cause, *customer, *invoice, *InvoiceResult)) (InvoiceResult, error) {
	var r InvoiceResult
	err := s.change(u.Account, func(a *account, cz cause) *apiError {
		c, err := a.live(u.Customer, "customer", 400)
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
		inv, err := a.invoiceFor(cz, c, u.Invoice, internCurrency(u.Currency), u.Amount)
		if err != nil {
			return err
		}
		r.Invoice = inv.id
		do(a, cz, c, inv, &r)
		return nil
	})
	return r, err
}

// UnapplyBalance gives back the balance that an invoice used, and leaves its credits.
func (s *Server) UnapplyBalance(acct, invoiceID string) (InvoiceResult, error) {
	return s.withInvoice(acct, invoiceID, func(a *account, cz cause, inv *invoice, r *InvoiceResult) {
		r.add(a.unapplyBalance(cz, inv), nil)
	})
}

// VoidInvoice gives back the balance and the credits that an invoice used. An
// invoice can be voided once.
func (s *Server) VoidInvoice(acct, invoiceID string) (InvoiceResult, error) {
	return s.withInvoice(acct, invoiceID, func(a *account, cz cause, inv *invoice, r *InvoiceResult) {
		r.add(a.returnFromVoidedInvoice(cz, inv))
	})
}

func (s *Server) withInvoice(acct, id string, do func(*account, cause, *invoice, *InvoiceResult)) (InvoiceResult, error) {
	r := InvoiceResult{Invoice: id}
	err := s.change(acct, func(a *account, cz cause) *apiError {
		inv := a.invoices[id]
		if inv == nil {
			return errNone(400, "invoice", id, "invoice")
		}
		if inv.voided {
			return errRefused("invoice", "Invoice %s is void.", id)
		}
		if inv.customer.gone {
			return errNone(400, "customer", inv.customer.id, "customer")
		}
		do(a, cz, inv, &r)
		return nil
	})
	return r, err
}

// AddBalanceTransaction makes a customer balance transaction of any type, also
// those that only Stripe itself makes, and returns its id.
func (s *Server) AddBalanceTransaction(acct, customerID string, ch BalanceChange) (string, error) {
	var id string
	err := s.change(acct, func(a *account, cz cause) *apiError {
		c, err := a.live(customerID, "customer", 400)
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
