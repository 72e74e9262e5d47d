package stripesim

import (
	"encoding/json"
	"slices"
)

// CustomerTruth is all there is about one customer, lag faults or not.
type CustomerTruth struct {
	ID      string `json:"id"`
	Account string `json:"account"` // "" is the platform
	// Livemode is the mode; the other one has objects of its own with Options.BothModes.
	Livemode bool `json:"livemode"`
	Deleted  bool `json:"deleted"`
	// Customer is the customer with invoice_credit_balance, or its stub.
	Customer json.RawMessage `json:"customer"`
	// The rows, newest first, in the order in which lists show them.
	BalanceTransactions []json.RawMessage `json:"balance_transactions"`
	Grants              []json.RawMessage `json:"grants"`
	CreditTransactions  []json.RawMessage `json:"credit_transactions"`
	// LedgerBalances is Σ credits − Σ debits of the billing credits per currency,
	// in its smallest unit; positive is credit left.
	LedgerBalances map[string]int64 `json:"ledger_balances"`
}

// Truth returns the truth of every customer, deleted ones and those on test
// clocks included: by account, then in order of creation.
func (s *Server) Truth() []CustomerTruth {
	var out []CustomerTruth
	s.EachTruth(func(t CustomerTruth) bool {
		out = append(out, t)
		return true
	})
	return out
}

// EachTruth calls f for each customer as Truth lists them, until f returns false.
// Each customer is consistent in itself; changes made meanwhile may or may not
// show in those that follow. f may call the Server.
func (s *Server) EachTruth(f func(CustomerTruth) bool) {
	s.catchUpUnlessOnRead()
	for _, a := range s.allAccounts() {
		for _, c := range a.everyCustomer() {
			if !f(a.truth(c)) {
				return
			}
		}
	}
}

// CustomerTruth returns the truth of one customer.
func (s *Server) CustomerTruth(acct, id string) (CustomerTruth, bool) {
	a := s.account(acct)
	if a == nil {
		return CustomerTruth{}, false
	}
	a.mu.RLock()
	c := a.customers[id]
	a.mu.RUnlock()
	if c == nil {
		return CustomerTruth{}, false
	}
	return a.truth(c), true
}

func (a *account) everyCustomer() []*customer {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.Collect(a.eachCustomer())
}

func (a *account) truth(c *customer) CustomerTruth {
	a.mu.RLock()
	defer a.mu.RUnlock()
	t := CustomerTruth{ID: c.id, Account: a.id, Livemode: a.live, Deleted: c.gone, LedgerBalances: map[string]int64{}}
	if c.gone {
		t.Customer = mustMarshal(deletedJSON{c.id, "customer", true})
	} else {
		t.Customer = mustMarshal(a.renderCustomer(c, expansion{"invoice_credit_balance": nil}))
	}
	t.BalanceTransactions = newestFirst(&c.txns, func(v *balanceTxn) any { return a.renderBalanceTxn(v, nil) })
	t.Grants = newestFirst(&c.grants, func(v *grant) any { return a.renderGrant(v, nil) })
	t.CreditTransactions = newestFirst(&c.credits, func(v *creditTxn) any { return a.renderCreditTxn(v, nil) })
	for _, g := range c.grants.rows {
		t.LedgerBalances[g.currency] += g.remaining
	}
	return t
}

func newestFirst[T listed](l *ordered[T], render func(T) any) []json.RawMessage {
	out := make([]json.RawMessage, 0, len(l.rows))
	for _, v := range slices.Backward(l.rows) {
		out = append(out, mustMarshal(render(v)))
	}
	return out
}

// mustMarshal encodes one of our own structs, which cannot fail.
func mustMarshal(v any) json.RawMessage {
	b, err := marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
