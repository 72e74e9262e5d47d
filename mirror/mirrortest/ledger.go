package mirrortest

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// epoch0 is when all test ledgers begin.
var epoch0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// ledger is a customer's balance at Stripe: the model that the mirror is
// compared with.
type ledger struct {
	account  string
	customer string
	currency string
	now      time.Time
	next     int
	rows     []mirror.BalanceTransaction // oldest first
	balances map[string]int64
	extra    map[string]any // further fields of the customer's JSON
	// testClock and owner are the customer's test_clock and customer_account.
	testClock, owner string
	epochs           *epochs
}

// epochs are those of which snapshots were made.
type epochs struct {
	mu   sync.Mutex
	seen []int64
}

// after is a time that grows with the epoch, a millisecond for each that was seen.
func (e *epochs) after(epoch int64) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	at, found := slices.BinarySearch(e.seen, epoch)
	if !found {
		e.seen = slices.Insert(e.seen, at, epoch)
	}
	return time.Duration(at+1) * time.Millisecond
}

func newLedger(account, customer string) *ledger {
	return &ledger{
		account: account, customer: customer, currency: "eur",
		now: epoch0, balances: map[string]int64{}, epochs: &epochs{},
	}
}

// target is the ledger's unit of work.
func (l *ledger) target() mirror.Target {
	return mirror.Target{Account: l.account, Scope: mirror.ScopeBalance, ID: l.customer}
}

// add makes a transaction one second after the last.
func (l *ledger) add(currency string, amount int64) *mirror.BalanceTransaction {
	l.now = l.now.Add(time.Second)
	return l.addNow(currency, amount)
}

// addNow makes a transaction in the same second as the last.
func (l *ledger) addNow(currency string, amount int64) *mirror.BalanceTransaction {
	l.next++
	l.balances[currency] += amount
	row := mirror.BalanceTransaction{
		Account:  l.account,
		ID:       fmt.Sprintf("cbtxn_%s%05d", l.customer[len("cus_"):], l.next),
		Customer: l.customer, Amount: amount, Currency: currency,
		EndingBalance: l.balances[currency],
		Type:          "adjustment", Description: fmt.Sprintf("row %d", l.next),
		Metadata: json.RawMessage(`{}`), Created: l.now,
	}
	l.rows = append(l.rows, row)
	l.render(len(l.rows) - 1)
	return &l.rows[len(l.rows)-1]
}

// render makes a row's JSON anew after an edit.
func (l *ledger) render(i int) {
	r := &l.rows[i]
	r.Raw = mustJSON(map[string]any{
		"id": r.ID, "object": "customer_balance_transaction", "amount": r.Amount,
		"created": r.Created.Unix(), "currency": r.Currency, "customer": r.Customer,
		"description": r.Description, "ending_balance": r.EndingBalance,
		"livemode": r.Livemode, "metadata": r.Metadata, "type": r.Type,
		"invoice": nullable(r.Invoice), "credit_note": nullable(r.CreditNote),
		"checkout_session": nullable(r.CheckoutSession),
	})
}

// object is the customer as Stripe shows it.
func (l *ledger) object() mirror.Customer {
	credit := make(map[string]int64, len(l.balances))
	for currency, b := range l.balances {
		credit[currency] = -b
	}
	c := mirror.Customer{
		Account: l.account, ID: l.customer, Created: epoch0,
		Balance: l.balances[l.currency], Currency: l.currency, InvoiceCreditBalance: credit,
		TestClock: l.testClock, CustomerAccount: l.owner,
	}
	raw := map[string]any{
		"id": c.ID, "object": "customer", "balance": c.Balance, "currency": c.Currency,
		"created": c.Created.Unix(), "livemode": false, "invoice_credit_balance": credit,
		"test_clock": nullable(c.TestClock), "customer_account": nullable(c.CustomerAccount),
	}
	for k, v := range l.extra {
		raw[k] = v
	}
	c.Raw = mustJSON(raw)
	return c
}

// newest lists the n newest rows, newest first, as Stripe does.
func (l *ledger) newest(n int) []mirror.BalanceTransaction {
	rows := slices.Clone(l.rows[max(0, len(l.rows)-n):])
	slices.Reverse(rows)
	return rows
}

// snapshot is a sync that read the n newest rows in one piece.
func (l *ledger) snapshot(st mirror.SyncState, n int) mirror.BalanceSnapshot {
	all := n >= len(l.rows)
	return mirror.BalanceSnapshot{
		Target: l.target(), Epoch: st.Epoch, EventSeq: st.EventSeq,
		ObservedAt: l.now.Add(l.epochs.after(st.Epoch)),
		Customer:   l.object(),
		Windows: []mirror.Window[mirror.BalanceTransaction]{
			{Rows: l.newest(n), FromHead: true, ToEnd: all},
		},
		Joined: true, Full: all,
	}
}

// whole is a sync that read the whole history in one piece.
func (l *ledger) whole(st mirror.SyncState) mirror.BalanceSnapshot {
	return l.snapshot(st, len(l.rows))
}

// sync reads the whole history and commits it.
func (l *ledger) sync(t *testing.T, s mirror.Store) mirror.Applied {
	t.Helper()
	return applyBalance(t, s, l.whole(begin(t, s, l.target())))
}

func begin(t *testing.T, s mirror.Store, target mirror.Target) mirror.SyncState {
	t.Helper()
	st, err := s.BeginSync(t.Context(), target)
	if err != nil {
		t.Fatalf("begin %s: %v", target, err)
	}
	return st
}

func applyBalance(t *testing.T, s mirror.Store, snap mirror.BalanceSnapshot) mirror.Applied {
	t.Helper()
	a, err := s.ApplyBalance(t.Context(), snap)
	if err != nil {
		t.Fatalf("apply %s, epoch %d: %v", snap.Target, snap.Epoch, err)
	}
	return a
}

// nullable is JSON's null for the empty string.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// mustJSON renders values that are JSON by construction.
func mustJSON(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}
