package mirrortest

import (
	"errors"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
)

// RunEraser runs the suite of mirror.Eraser.
func RunEraser(t *testing.T, open func(t *testing.T) mirror.Store) {
	t.Helper()
	h := harnessOf(open(t))
	e, ok := h.Store.(mirror.Eraser)
	if !ok {
		t.Fatalf("%T is no mirror.Eraser", h.Store)
	}
	Populate(t, h)
	const mark = "Hedy Lamarr"
	for _, sql := range []string{
		`UPDATE customer_balance_transactions SET description = '` + mark + `'`,
		`UPDATE credit_grants SET name = '` + mark + `'`,
	} {
		if h.Exec == nil {
			t.Skip("this driver's test offers no SQL")
		}
		noErr(t, h.Exec(t.Context(), sql))
	}
	if _, err := e.EraseCustomer(t.Context(), "", "cus_a"); !errors.Is(err, mirror.ErrNotDeleted) {
		t.Errorf("a customer that lives: %v", err)
	}
	if _, err := e.EraseCustomer(t.Context(), "", "cus_none"); !errors.Is(err, mirror.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	sums := `SELECT count(*), sum(amount), sum(ending_balance), max(chain_position) FROM customer_balance_transactions WHERE customer = 'cus_gone'`
	before := h.rows(t, sums)
	feed := h.changes(t)
	first, err := e.EraseCustomer(t.Context(), "", "cus_gone")
	noErr(t, err)
	if first.Transactions == 0 {
		t.Errorf("nothing was erased: %+v", first)
	}
	if n := h.changes(t) - feed; n != first.Customers+first.Transactions+first.Grants+first.CreditTransactions {
		t.Errorf("%d change records for %+v", n, first)
	}
	again, err := e.EraseCustomer(t.Context(), "", "cus_gone")
	if noErr(t, err); again != (mirror.Erased{}) {
		t.Errorf("a second time changed %+v", again)
	}
	if after := h.rows(t, sums); strings.Join(after[0], " ") != strings.Join(before[0], " ") {
		t.Errorf("amounts are %v and were %v", after, before)
	}
	for table, want := range map[string]int64{"account = '' AND customer = 'cus_gone'": 0, "account = 'acct_1' AND customer = 'cus_gone'": 2} {
		if n := h.number(t, `SELECT count(*) FROM customer_balance_transactions WHERE description IS NOT NULL AND `+table); n != want {
			t.Errorf("%s: %d descriptions, want %d", table, n, want)
		}
	}
}
