package mirrortest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func readerCases() []testCase {
	return []testCase{
		{"BalanceTransactionsInPages", balancePages},
		{"UnplacedRowsInPages", unplacedPages},
		{"CreditTransactionsInPages", creditPages},
		{"GrantsInPages", grantPages},
		{"CustomersInPages", customerPages},
		{"I20_UnknownIsNotFound", unknownNotFound},
		{"EmptyLedger", emptyLedger},
		{"CustomerDeletedBeforeItWasRead", deletedUnread},
		{"ClockCustomers", clockCustomers},
		{"I12_FreshnessNeverGoesBack", freshness},
		{"Totals", totals},
	}
}

// requirePages reads a list with every page size and from every cursor in both
// directions, and compares each page with the whole list.
func requirePages[Row any](t *testing.T, read func(mirror.Page) (mirror.Slice[Row], error), id func(Row) string, total int) []string {
	t.Helper()
	ids := func(p mirror.Page) ([]string, bool) {
		t.Helper()
		page, err := read(p)
		if err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		out := make([]string, 0, len(page.Rows))
		for _, r := range page.Rows {
			out = append(out, id(r))
		}
		return out, page.HasMore
	}
	whole, more := ids(mirror.Page{Limit: total + 1})
	if len(whole) != total || more {
		t.Fatalf("%d rows, more %v, want %d", len(whole), more, total)
	}
	for limit := 1; limit <= total+1; limit++ {
		if got, more := ids(mirror.Page{Limit: limit}); !slices.Equal(got, whole[:min(limit, total)]) || more != (limit < total) {
			t.Fatalf("the newest %d: %q, more %v", limit, got, more)
		}
		for i, cursor := range whole {
			end := min(i+1+limit, total)
			got, more := ids(mirror.Page{Limit: limit, After: cursor})
			if !slices.Equal(got, whole[i+1:end]) || more != (end < total) {
				t.Fatalf("%d after %s: %q, more %v, want %q", limit, cursor, got, more, whole[i+1:end])
			}
			start := max(0, i-limit)
			got, more = ids(mirror.Page{Limit: limit, Before: cursor})
			if !slices.Equal(got, whole[start:i]) || more != (start > 0) {
				t.Fatalf("%d before %s: %q, more %v, want %q", limit, cursor, got, more, whole[start:i])
			}
		}
	}
	for _, p := range []mirror.Page{{Limit: 1, After: "nothing"}, {Limit: 1, Before: "nothing"}} {
		if _, err := read(p); !errors.Is(err, mirror.ErrNotFound) {
			t.Fatalf("an unknown cursor: %v, want ErrNotFound", err)
		}
	}
	return whole
}

func balanceID(r mirror.BalanceTransaction) string { return r.ID }

func balancePages(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for i := range 9 {
		l.add("eur", int64(i+1))
		l.addNow("eur", int64(-2*i-1))
		if i%3 == 0 {
			l.addNow("usd", 5)
		}
	}
	l.sync(t, h)
	other := newLedger("", "cus_B")
	other.add("eur", 1)
	other.sync(t, h)
	got := requirePages(t, func(p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error) {
		return h.BalanceTransactions(t.Context(), "", "cus_A", p)
	}, balanceID, len(l.rows))
	place := map[string]mirror.BalanceTransaction{}
	for _, r := range list(t, h, "", "cus_A").Rows {
		place[r.ID] = r
	}
	for i := 1; i < len(got); i++ {
		a, b := place[got[i-1]], place[got[i]]
		if a.Created.Before(b.Created) || a.Created.Equal(b.Created) && a.Currency == b.Currency && a.Position < b.Position {
			t.Fatalf("%s stands before %s", a.ID, b.ID)
		}
	}
	if _, err := h.BalanceTransactions(t.Context(), "", "cus_A", mirror.Page{Limit: 1, After: other.rows[0].ID}); !errors.Is(err, mirror.ErrNotFound) {
		t.Fatalf("another customer's row as cursor: %v, want ErrNotFound", err)
	}
	one, err := h.BalanceTransaction(t.Context(), "", "cus_A", got[0])
	if err != nil || one.ID != got[0] || one.Position == 0 {
		t.Fatalf("%+v, %v", one, err)
	}
}

func unplacedPages(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for range 4 {
		l.add("eur", 1)
		l.addNow("eur", 2)
	}
	l.sync(t, h)
	for range 2 { // rows without a place in the second of rows that have one
		l.addNow("eur", 3)
	}
	snap := l.snapshot(begin(t, h, l.target()), 2)
	snap.Windows[0].ToEnd = false
	snap.Joined, snap.Full, snap.Walk = false, false, mirror.Walk{Cursor: l.rows[8].ID, Top: l.now}
	applyBalance(t, h, snap)
	got := requirePages(t, func(p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error) {
		return h.BalanceTransactions(t.Context(), "", "cus_A", p)
	}, balanceID, len(l.rows))
	newest := []string{l.rows[9].ID, l.rows[8].ID}
	if !slices.Equal(got[:2], newest) {
		t.Fatalf("%q come first, want the rows without a place: %q", got[:2], newest)
	}
}

func creditPages(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	a, b := c.grant("eur", 1000).ID, c.grant("usd", 1000).ID
	for i := range 6 {
		c.move(a, "eur", -1)
		if i%2 == 0 {
			c.now = c.now.Add(time.Second)
		}
		c.move(b, "usd", -2)
	}
	c.sync(t, h)
	id := func(r mirror.CreditTransaction) string { return r.ID }
	requirePages(t, func(p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error) {
		return h.CreditTransactions(t.Context(), "", "cus_A", "", p)
	}, id, len(c.rows))
	requirePages(t, func(p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error) {
		return h.CreditTransactions(t.Context(), "", "cus_A", b, p)
	}, id, 7)
}

func grantPages(t *testing.T, h *Harness) {
	for _, id := range []string{"cus_A", "cus_B"} {
		c := newCredits("", id) // both in the same seconds
		for range 5 {
			c.grant("eur", 10)
		}
		c.sync(t, h)
	}
	id := func(g mirror.CreditGrant) string { return g.ID }
	requirePages(t, func(p mirror.Page) (mirror.Slice[mirror.CreditGrant], error) {
		return h.Grants(t.Context(), "", "cus_A", p)
	}, id, 5)
	requirePages(t, func(p mirror.Page) (mirror.Slice[mirror.CreditGrant], error) {
		return h.Grants(t.Context(), "", "", p)
	}, id, 10)
}

func customerPages(t *testing.T, h *Harness) {
	var page []mirror.Customer
	var want []string
	for i := range 7 {
		id := fmt.Sprintf("cus_%c%d", "aZ_0B"[i%5], i)
		want = append(want, id)
		page = append(page, newLedger("", id).object())
	}
	slices.Sort(want) // by bytes, whatever the database's language
	_, err := h.InsertCustomers(t.Context(), "", page)
	noErr(t, err)
	for limit := 1; limit < 9; limit++ {
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			page, err := h.Customers(t.Context(), "", after, limit)
			noErr(t, err)
			for _, c := range page {
				got = append(got, c.ID)
			}
			if len(page) < limit {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%d at a time: %q, want %q", limit, got, want)
		}
	}
}

func unknownNotFound(t *testing.T, h *Harness) {
	l := newLedger("acct_1", "cus_A")
	l.add("eur", 1)
	l.sync(t, h)
	c := newCredits("acct_1", "cus_A")
	c.grant("eur", 1)
	c.sync(t, h)
	grant, row, credit := c.grants[0].ID, l.rows[0].ID, c.rows[0].ID
	ctx, one := t.Context(), mirror.Page{Limit: 1}
	for _, account := range []string{"", "acct_2"} {
		_, e1 := h.Customer(ctx, account, "cus_A")
		_, e2 := h.BalanceTransactions(ctx, account, "cus_A", one)
		_, e3 := h.BalanceTransaction(ctx, account, "cus_A", row)
		_, e4 := h.Grant(ctx, account, grant)
		_, e5 := h.GrantOwner(ctx, account, grant)
		_, e6 := h.Grants(ctx, account, "cus_A", one)
		_, e7 := h.CreditTransactions(ctx, account, "cus_A", "", one)
		_, e8 := h.CreditTransaction(ctx, account, credit)
		_, e9 := h.CreditSummary(ctx, account, "cus_A")
		for i, err := range []error{e1, e2, e3, e4, e5, e6, e7, e8, e9} {
			if !errors.Is(err, mirror.ErrNotFound) {
				t.Errorf("account %q, call %d: %v, want ErrNotFound", account, i+1, err)
			}
		}
		all, err := h.Grants(ctx, account, "", one)
		if err != nil || len(all.Rows) != 0 {
			t.Errorf("grants of account %q: %v, %v", account, all.Rows, err)
		}
	}
	if _, err := h.BalanceTransaction(ctx, "acct_1", "cus_B", row); !errors.Is(err, mirror.ErrNotFound) {
		t.Errorf("another customer's row: %v, want ErrNotFound", err)
	}
}

func emptyLedger(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.currency = ""
	l.sync(t, h)
	page := list(t, h, "", "cus_A")
	if len(page.Rows) != 0 || page.HasMore || page.SyncedAt.IsZero() {
		t.Fatalf("%+v", page)
	}
	c, err := h.Customer(t.Context(), "", "cus_A")
	if err != nil || c.Currency != "" || c.Balance != 0 || c.Deleted {
		t.Fatalf("%+v, %v", c, err)
	}
	if st := begin(t, h, l.target()); !st.HistoryComplete || !st.CompleteTo.IsZero() {
		t.Fatalf("state %+v", st)
	}
	credits, err := h.CreditTransactions(t.Context(), "", "cus_A", "", mirror.Page{Limit: 5})
	if err != nil || len(credits.Rows) != 0 || !credits.SyncedAt.IsZero() {
		t.Fatalf("credits that were never read: %+v, %v", credits, err)
	}
}

// deletedUnread: of a customer who was deleted before it was ever read, its grants and
// its tombstone show that there was one. An id that nobody has is none.
func deletedUnread(t *testing.T, h *Harness) {
	unknown := func(id string) {
		t.Helper()
		if c, err := h.Customer(t.Context(), "", id); !errors.Is(err, mirror.ErrNotFound) {
			t.Fatalf("%s: %+v, %v", id, c, err)
		}
	}
	gone, living := newCredits("", "cus_A"), newCredits("", "cus_B")
	gone.grant("eur", 100)
	living.grant("eur", 100)
	_, err := h.InsertGrants(t.Context(), "", gone.grants)
	noErr(t, err)
	living.sync(t, h)
	unknown("cus_A")
	unknown("cus_B")
	bury(t, h, gone.target())
	bury(t, h, mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_never"})
	unknown("cus_B")
	unknown("cus_never")
	c, err := h.Customer(t.Context(), "", "cus_A")
	if err != nil || !c.Deleted || c.ID != "cus_A" || !c.SyncedAt.Equal(epoch0.Add(time.Hour)) {
		t.Fatalf("%+v, %v", c, err)
	}
	if c, err := h.Customer(t.Context(), "acct_1", "cus_A"); !errors.Is(err, mirror.ErrNotFound) {
		t.Fatalf("another account's: %+v, %v", c, err)
	}
}

func clockCustomers(t *testing.T, h *Harness) {
	for _, id := range []string{"cus_C", "cus_A", "cus_B"} {
		l := newLedger("", id)
		snap := l.whole(begin(t, h, l.target()))
		snap.Customer.TestClock = "clock_1"
		if id == "cus_B" {
			snap.Customer.TestClock = "clock_2"
		}
		applyBalance(t, h, snap)
	}
	got, err := h.ClockCustomers(t.Context(), "", "clock_1")
	if err != nil || !slices.Equal(got, []string{"cus_A", "cus_C"}) {
		t.Fatalf("%q, %v", got, err)
	}
	if got, err := h.ClockCustomers(t.Context(), "acct_1", "clock_1"); err != nil || len(got) != 0 {
		t.Fatalf("another account's clock: %q, %v", got, err)
	}
}

func freshness(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	first := l.whole(begin(t, h, l.target()))
	first.ObservedAt = epoch0.Add(time.Hour)
	applyBalance(t, h, first)
	second := l.whole(begin(t, h, l.target()))
	second.ObservedAt = epoch0 // from a host whose clock is behind
	applyBalance(t, h, second)
	if got := list(t, h, "", "cus_A").SyncedAt; !got.Equal(first.ObservedAt) {
		t.Fatalf("synced at %v, want %v still", got, first.ObservedAt)
	}
	third := l.whole(begin(t, h, l.target()))
	third.ObservedAt = epoch0.Add(2*time.Hour + 123456*time.Microsecond)
	applyBalance(t, h, third)
	if got := list(t, h, "", "cus_A").SyncedAt; !got.Equal(third.ObservedAt) {
		t.Fatalf("synced at %v, want %v", got, third.ObservedAt)
	}
}

func totals(t *testing.T, h *Harness) {
	for i, account := range []string{"", "acct_1"} {
		l := newLedger(account, "cus_A")
		l.add("eur", -100)
		l.add("usd", int64(i))
		l.sync(t, h)
		c := newCredits(account, "cus_A")
		c.grant("eur", 30)
		c.sync(t, h)
	}
	record(t, h, updated("", "evt_1", "cus_B"))
	got, err := h.Totals(t.Context())
	noErr(t, err)
	if got.Customers != 2 || got.BalanceTransactions != 4 || got.CreditTransactions != 2 || got.DeadLetters != 0 ||
		got.PendingEvents != 1 || !got.OldestPendingEvent.Equal(epoch0.Add(time.Minute)) ||
		got.Balances["eur"] != -200 || got.Balances["usd"] != 1 || got.Credits["eur"] != 60 {
		t.Fatalf("%+v", got)
	}
	for table, want := range map[string]int64{
		"customers": 2, "customer_balances": 4, "customer_balance_transactions": 4, "credit_grants": 2,
		"credit_balance_transactions": 2, "credit_balance_summaries": 2, "stripe_events": 1, "sync_state": 4,
	} {
		if got.Rows[table] != want {
			t.Errorf("%s: %d rows, want %d", table, got.Rows[table], want)
		}
	}
}
