package mirrortest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func listCases() []testCase {
	return []testCase{
		{"CustomerPages", customerListPages},
		{"CustomersByEmail", customersByEmail},
		{"CustomerOfAccount", customerOfAccount},
		{"BalanceTransactionsByTimeAndInvoice", filteredRows},
		{"CreditTransactionsOfTheAccount", accountCredits},
		{"I12_SnapshotSeesOneState", snapshotOneState},
		{"Balances", balancesNowAndThen},
		{"ChangesInOrder", changesInOrder},
	}
}

// stored puts customers into the mirror as a first copy does.
func stored(t *testing.T, h *Harness, account string, list ...mirror.Customer) {
	t.Helper()
	_, err := h.InsertCustomers(t.Context(), account, list)
	noErr(t, err)
}

func made(account, id string, second int) mirror.Customer {
	c := newLedger(account, id).object()
	c.Created = epoch0.Add(time.Duration(second) * time.Second)
	return c
}

func viewID(v mirror.CustomerView) string { return v.ID }

func customerListPages(t *testing.T, h *Harness) {
	var page []mirror.Customer
	for i := range 8 {
		page = append(page, made("", fmt.Sprintf("cus_%d", (i*5)%8), i/3)) // some in the same second
	}
	clock := []mirror.Customer{made("", "cus_k1", 1), made("", "cus_k2", 2), made("", "cus_k3", 2)}
	for i := range clock {
		clock[i].TestClock = "clock_1"
	}
	stored(t, h, "", append(page, clock...)...)
	stored(t, h, "acct_1", made("acct_1", "cus_other", 1))
	gone := newLedger("", "cus_gone")
	gone.sync(t, h)
	_, err := h.ApplyTombstone(t.Context(), mirror.Tombstone{Target: gone.target(), Epoch: begin(t, h, gone.target()).Epoch, ObservedAt: gone.now})
	noErr(t, err)

	living := requirePages(t, func(p mirror.Page) (mirror.Slice[mirror.CustomerView], error) {
		return h.CustomerPage(t.Context(), "", mirror.CustomerFilter{}, p)
	}, viewID, len(page))
	at := map[string]time.Time{}
	for _, c := range page {
		at[c.ID] = c.Created
	}
	for i := 1; i < len(living); i++ {
		if at[living[i]].After(at[living[i-1]]) {
			t.Fatalf("%q: not newest first", living)
		}
	}
	requirePages(t, func(p mirror.Page) (mirror.Slice[mirror.CustomerView], error) {
		return h.CustomerPage(t.Context(), "", mirror.CustomerFilter{TestClock: "clock_1"}, p)
	}, viewID, len(clock))
	for _, cursor := range []string{"cus_gone", "cus_k1", "cus_other"} {
		if _, err := h.CustomerPage(t.Context(), "", mirror.CustomerFilter{}, mirror.Page{Limit: 1, After: cursor}); !errors.Is(err, mirror.ErrNotFound) {
			t.Errorf("cursor %s, which is not in the list: %v", cursor, err)
		}
	}
	second := mirror.Span{From: epoch0.Add(time.Second), To: epoch0.Add(time.Second)}
	got, err := h.CustomerPage(t.Context(), "", mirror.CustomerFilter{}, mirror.Page{Limit: 9, Created: second})
	if err != nil || len(got.Rows) != 3 {
		t.Fatalf("of one second: %d rows, %v", len(got.Rows), err)
	}
	// The cursor may lie outside the time that is asked for.
	after, err := h.CustomerPage(t.Context(), "", mirror.CustomerFilter{}, mirror.Page{Limit: 2, Created: second, After: living[0]})
	if err != nil || len(after.Rows) != 2 || !after.HasMore || after.Rows[0].ID != got.Rows[0].ID {
		t.Fatalf("%+v, %v", after, err)
	}
}

func customersByEmail(t *testing.T, h *Harness) {
	var page []mirror.Customer
	for i := range 6 {
		l := newLedger("", fmt.Sprintf("cus_%d", i))
		l.extra = map[string]any{"email": "a@example.com"}
		if i%3 == 0 {
			l.extra["email"] = "A@example.com"
		}
		c := l.object()
		c.Created = epoch0.Add(time.Duration(i) * time.Second)
		if i == 5 {
			c.TestClock = "clock_1"
		}
		page = append(page, c)
	}
	stored(t, h, "", page...)
	requirePages(t, func(p mirror.Page) (mirror.Slice[mirror.CustomerView], error) {
		return h.CustomerPage(t.Context(), "", mirror.CustomerFilter{Email: "a@example.com"}, p)
	}, viewID, 3)
	got, err := h.CustomerPage(t.Context(), "", mirror.CustomerFilter{Email: "a@example.com", TestClock: "clock_1"}, mirror.Page{Limit: 5})
	if err != nil || len(got.Rows) != 1 || got.Rows[0].ID != "cus_5" {
		t.Fatalf("%+v, %v", got, err)
	}
}

func customerOfAccount(t *testing.T, h *Harness) {
	c := made("", "cus_A", 0)
	c.CustomerAccount = "acct_v2"
	stored(t, h, "", c, made("", "cus_B", 0))
	if id, err := h.CustomerOfAccount(t.Context(), "", "acct_v2"); err != nil || id != "cus_A" {
		t.Fatalf("%q, %v", id, err)
	}
	for _, q := range [][2]string{{"", "acct_x"}, {"acct_1", "acct_v2"}} {
		if _, err := h.CustomerOfAccount(t.Context(), q[0], q[1]); !errors.Is(err, mirror.ErrNotFound) {
			t.Errorf("%q: %v, want ErrNotFound", q, err)
		}
	}
}

func filteredRows(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for i := range 12 {
		l.add("eur", int64(i+1))
		if i%3 == 0 {
			l.rows[i].Invoice = "in_1"
			l.render(i)
		}
	}
	l.sync(t, h)
	read := func(p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error) {
		return h.BalanceTransactions(t.Context(), "", "cus_A", p)
	}
	requirePages(t, func(p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error) {
		p.Invoice = "in_1"
		return read(p)
	}, balanceID, 4)
	between := mirror.Span{From: l.rows[3].Created, To: l.rows[8].Created}
	requirePages(t, func(p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error) {
		p.Created = between
		return read(p)
	}, balanceID, 6)
	got, err := read(mirror.Page{Limit: 2, Created: between, Invoice: "in_1", After: l.rows[11].ID}) // a cursor outside
	if err != nil || len(got.Rows) != 2 || got.HasMore || got.Rows[0].ID != l.rows[6].ID || got.Rows[1].ID != l.rows[3].ID {
		t.Fatalf("%+v, %v", got, err)
	}
	got, err = read(mirror.Page{Limit: 2, Created: mirror.Span{From: l.now.Add(time.Hour)}})
	if err != nil || len(got.Rows) != 0 || got.HasMore {
		t.Fatalf("rows of the future: %+v, %v", got, err)
	}
}

func accountCredits(t *testing.T, h *Harness) {
	for _, id := range []string{"cus_A", "cus_B"} {
		c := newCredits("", id) // both in the same seconds
		grant := c.grant("eur", 100).ID
		for range 3 {
			c.now = c.now.Add(time.Second)
			c.move(grant, "eur", -1)
		}
		c.sync(t, h)
	}
	other := newCredits("acct_1", "cus_C")
	other.grant("eur", 1)
	other.sync(t, h)
	requirePages(t, func(p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error) {
		return h.CreditTransactions(t.Context(), "", "", "", p)
	}, func(r mirror.CreditTransaction) string { return r.ID }, 8)
}

func snapshotOneState(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	l.sync(t, h)
	err := h.Snapshot(t.Context(), func(r mirror.Reader) error {
		first, err := r.Customer(t.Context(), "", "cus_A")
		noErr(t, err)
		l.add("eur", -5)
		l.sync(t, h)
		c, err := r.Customer(t.Context(), "", "cus_A")
		noErr(t, err)
		page, err := r.BalanceTransactions(t.Context(), "", "cus_A", mirror.Page{Limit: 5})
		noErr(t, err)
		if c.Balance != -100 || !c.SyncedAt.Equal(first.SyncedAt) || len(page.Rows) != 1 || !page.SyncedAt.Equal(first.SyncedAt) {
			t.Errorf("a commit showed in the snapshot: %+v, %+v", c, page)
		}
		if _, err := r.Grant(t.Context(), "", "credgr_x"); !errors.Is(err, mirror.ErrNotFound) {
			t.Errorf("%v, want ErrNotFound", err)
		}
		// What is not found does not end the snapshot.
		if c, err := r.Customer(t.Context(), "", "cus_A"); err != nil || c.Balance != -100 {
			t.Errorf("%+v, %v", c, err)
		}
		return nil
	})
	noErr(t, err)
	if c, err := h.Customer(t.Context(), "", "cus_A"); err != nil || c.Balance != -105 {
		t.Fatalf("%+v, %v", c, err)
	}
	mine := errors.New("mine")
	if err := h.Snapshot(t.Context(), func(mirror.Reader) error { return mine }); !errors.Is(err, mine) {
		t.Fatalf("%v, want the function's error", err)
	}
}

func balancesNowAndThen(t *testing.T, h *Harness) {
	a, b := newLedger("", "cus_A"), newLedger("", "cus_B")
	a.add("eur", -100)
	a.addNow("usd", 7)
	a.add("eur", 40)
	a.sync(t, h)
	b.sync(t, h)
	c := newCredits("", "cus_A")
	grant := c.grant("eur", 1000).ID
	c.now = c.now.Add(time.Second)
	c.move(grant, "eur", -300)
	c.sync(t, h)
	stored(t, h, "", made("", "cus_C", 0))

	read := func(after string, limit int, asOf time.Time) []mirror.CustomerBalances {
		t.Helper()
		list, err := h.Balances(t.Context(), "", after, limit, asOf)
		noErr(t, err)
		return list
	}
	all := read("", 10, time.Time{})
	if len(all) != 3 || all[0].Customer != "cus_A" || all[2].Customer != "cus_C" {
		t.Fatalf("%+v", all)
	}
	first := all[0]
	if first.Balance["eur"] != -60 || first.Balance["usd"] != 7 || first.Credits["eur"] != 700 ||
		!first.BalanceComplete || !first.CreditsComplete || first.BalanceSyncedAt.IsZero() || first.CreditsSyncedAt.IsZero() {
		t.Fatalf("%+v", first)
	}
	if all[2].BalanceComplete || !all[2].BalanceSyncedAt.IsZero() {
		t.Fatalf("a history that was never read: %+v", all[2])
	}
	then := read("", 1, epoch0.Add(time.Second))
	if len(then) != 1 || then[0].Balance["eur"] != -100 || then[0].Balance["usd"] != 7 || then[0].Credits["eur"] != 1000 {
		t.Fatalf("then: %+v", then)
	}
	before := read("", 1, epoch0)
	if len(before[0].Balance) != 0 || len(before[0].Credits) != 0 {
		t.Fatalf("before anything: %+v", before)
	}
	if rest := read("cus_A", 1, time.Time{}); len(rest) != 1 || rest[0].Customer != "cus_B" {
		t.Fatalf("%+v", rest)
	}
	if none, err := h.Balances(t.Context(), "acct_1", "", 5, time.Time{}); err != nil || len(none) != 0 {
		t.Fatalf("%+v, %v", none, err)
	}
}

func changesInOrder(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for range 3 {
		l.add("eur", -1)
		l.sync(t, h)
	}
	other := newLedger("acct_1", "cus_B")
	other.add("eur", -1)
	other.sync(t, h)
	read := func(after string, limit int) []mirror.Change {
		t.Helper()
		list, err := h.Changes(t.Context(), "", after, limit)
		noErr(t, err)
		return list
	}
	all := h.feed(t, "", 9)
	if len(all) != 9 { // customer, balance and row, three times
		t.Fatalf("%d changes: %+v", len(all), all)
	}
	var rows []string
	for _, c := range all {
		if c.Account != "" || c.Customer != "cus_A" || c.ChangedAt.IsZero() {
			t.Fatalf("%+v", c)
		}
		if c.Table == "customer_balance_transactions" {
			rows = append(rows, c.ID)
			if c.Op != "insert" {
				t.Fatalf("%+v", c)
			}
		}
	}
	if want := []string{l.rows[0].ID, l.rows[1].ID, l.rows[2].ID}; !slices.Equal(rows, want) {
		t.Fatalf("%q, want %q", rows, want)
	}
	for limit := 1; limit < 4; limit++ {
		var got []mirror.Change
		for after := ""; ; after = got[len(got)-1].Cursor {
			page := read(after, limit)
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
		}
		if !slices.Equal(got, all) {
			t.Fatalf("%d at a time: %+v", limit, got)
		}
	}
	// The last ones are well-formed on one of the databases, and beyond its end.
	for _, cursor := range []string{"x", "-1", "1.x", "99999999999999999999999999", "9223372036854775807", "18446744073709551615.1"} {
		if _, err := h.Changes(t.Context(), "", cursor, 1); !errors.Is(err, mirror.ErrNotFound) {
			t.Errorf("cursor %q: %v, want ErrNotFound", cursor, err)
		}
	}
}
