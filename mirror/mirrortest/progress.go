package mirrortest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/mirror"
)

func progressCases() []testCase {
	return []testCase{
		{"Sweeps", sweeps},
		{"LeaseHasOneOwner", leaseOneOwner},
		{"LeaseExpires", leaseExpires},
		{"I6_PausedLeaderSavesNoSweep", leasedSweep},
		{"Accounts", accounts},
		{"Incarnations", incarnations},
		{"I4_FeedPositionsOfALostTime", lostPositions},
		{"FirstCopyNeverOverwrites", firstCopy},
		{"FirstCopyOfGrants", firstGrants},
		{"UnsyncedBalances", unsyncedBalances},
		{"UnsyncedCredits", unsyncedCredits},
		{"UnsyncedLargestFirst", unsyncedLargestFirst},
		{"FindingIsOpenOnce", findingOnce},
		{"SchemaAndPing", schemaAndPing},
	}
}

func sweeps(t *testing.T, h *Harness) {
	got, err := h.Sweep(t.Context(), "acct_1", "events")
	if err != nil || fmt.Sprint(got) != fmt.Sprint(mirror.Sweep{Account: "acct_1", Name: "events"}) {
		t.Fatalf("a sweep that never ran: %+v, %v", got, err)
	}
	w := mirror.Sweep{
		Account: "acct_1", Name: "events", State: []byte(`{"cursor": "evt_1"}`), Watermark: epoch0,
		StartedAt: epoch0.Add(time.Second), LastSuccess: epoch0.Add(time.Minute), LastFound: 7,
	}
	for range 2 {
		noErr(t, h.SaveSweep(t.Context(), w))
		got, err = h.Sweep(t.Context(), "acct_1", "events")
		noErr(t, err)
		if mirror.Digest(got.State) != mirror.Digest(w.State) {
			t.Fatalf("state %s, want %s", got.State, w.State)
		}
		got.State = w.State
		if fmt.Sprint(got) != fmt.Sprint(w) {
			t.Fatalf("got %+v, want %+v", got, w)
		}
		w.LastFound, w.Watermark = 8, epoch0.Add(time.Hour+time.Microsecond)
	}
	noErr(t, h.SaveSweep(t.Context(), mirror.Sweep{Name: "balances"}))
	all, err := h.Sweeps(t.Context())
	if err != nil || len(all) != 2 || all[0].Name != "balances" || all[0].State != nil || !all[0].Watermark.IsZero() {
		t.Fatalf("sweeps %+v, %v", all, err)
	}
}

func lease(t *testing.T, s mirror.Store, name, owner string, ttl time.Duration) bool {
	t.Helper()
	ok, err := s.AcquireLease(t.Context(), name, owner, ttl)
	noErr(t, err)
	return ok
}

func leaseOneOwner(t *testing.T, h *Harness) {
	for _, step := range []string{"take", "renew"} {
		if !lease(t, h, "sweep", "a", time.Hour) {
			t.Fatalf("the first owner cannot %s the lease", step)
		}
	}
	if lease(t, h, "sweep", "b", time.Hour) {
		t.Fatal("two owners hold one lease")
	}
	if !lease(t, h, "other", "b", time.Hour) {
		t.Fatal("another lease is not free")
	}
	noErr(t, h.ReleaseLease(t.Context(), "sweep", "b")) // not its own
	if lease(t, h, "sweep", "b", time.Hour) {
		t.Fatal("who is not the owner gave the lease back")
	}
	noErr(t, h.ReleaseLease(t.Context(), "sweep", "a"))
	noErr(t, h.ReleaseLease(t.Context(), "sweep", "a"))
	if !lease(t, h, "sweep", "b", time.Hour) {
		t.Fatal("a lease given back is not free")
	}
}

func leaseExpires(t *testing.T, h *Harness) {
	if !lease(t, h, "sweep", "a", time.Millisecond) {
		t.Fatal("not free at first")
	}
	// The database's clock decides, so there is nothing to wait on but the answer.
	for deadline := time.Now().Add(patience.Of(5 * time.Second)); !lease(t, h, "sweep", "b", time.Hour); {
		if time.Now().After(deadline) {
			t.Fatal("the lease never expires")
		}
	}
	if lease(t, h, "sweep", "a", time.Hour) {
		t.Fatal("the owner that lost the lease still has it")
	}
}

func accounts(t *testing.T, h *Harness) {
	for _, a := range []string{"acct_B", "", "acct_A", "acct_B"} {
		noErr(t, h.SeeAccount(t.Context(), a))
	}
	if _, err := h.InsertCustomers(t.Context(), "acct_held", []mirror.Customer{made("acct_held", "cus_A", 0)}); err != nil {
		t.Fatal(err)
	}
	for a, want := range map[string]bool{"acct_A": true, "acct_B": true, "acct_held": true, "acct_C": false} {
		if seen, err := h.AccountSeen(t.Context(), a); err != nil || seen != want {
			t.Errorf("%s: %v, %v", a, seen, err)
		}
	}
	got, err := h.Accounts(t.Context())
	if err != nil || !slices.Equal(got, []string{"acct_A", "acct_B"}) {
		t.Fatalf("accounts %q, %v", got, err)
	}
}

func incarnations(t *testing.T, h *Harness) {
	if got, err := h.Incarnations(t.Context()); err != nil || len(got) != 0 {
		t.Fatalf("at first: %v, %v", got, err)
	}
	for _, i := range []mirror.Incarnation{{Partition: 1, ID: "b", HighWater: 5}, {Partition: 0, ID: "a", HighWater: 1}, {Partition: 1, ID: "c", HighWater: 1 << 62}} {
		noErr(t, h.SaveIncarnation(t.Context(), i))
	}
	got, err := h.Incarnations(t.Context())
	if err != nil || !slices.Equal(got, []mirror.Incarnation{{Partition: 0, ID: "a", HighWater: 1}, {Partition: 1, ID: "c", HighWater: 1 << 62}}) {
		t.Fatalf("incarnations %+v, %v", got, err)
	}
}

func firstCopy(t *testing.T, h *Harness) {
	l := newLedger("", "cus_B")
	l.add("eur", -100)
	l.sync(t, h)
	stale := l.object()
	stale.Balance, stale.Raw = 999, []byte(`{"id":"cus_B","balance":999}`)
	a := newLedger("", "cus_A")
	a.add("eur", -7)
	a.add("usd", 3)
	page := []mirror.Customer{a.object(), stale, newLedger("", "cus_C").object()}
	for i, want := range []int{2, 0} {
		n, err := h.InsertCustomers(t.Context(), "", page)
		if err != nil || n != want {
			t.Fatalf("copy %d: %d stored, %v, want %d", i, n, err, want)
		}
	}
	got, err := h.Customer(t.Context(), "", "cus_B")
	if err != nil || got.Balance != -100 || got.SyncedAt.IsZero() {
		t.Fatalf("cus_B: %+v, %v", got, err)
	}
	got, err = h.Customer(t.Context(), "", "cus_A")
	if err != nil || got.Balance != -7 || got.InvoiceCreditBalance["usd"] != -3 || !got.SyncedAt.IsZero() {
		t.Fatalf("cus_A: %+v, %v: want it as copied, and not synced", got, err)
	}
	totals, err := h.Totals(t.Context())
	if err != nil || totals.Customers != 3 || totals.Balances["eur"] != -107 || totals.Balances["usd"] != 3 {
		t.Fatalf("totals %+v, %v", totals, err)
	}
	if s := a.sync(t, h); s.Inserted != 2 || s.Updated != 0 {
		t.Fatalf("the first sync after the copy: %+v, want 2 rows", s)
	}
	requireChain(t, h, a)
	if n, err := h.InsertCustomers(t.Context(), "", nil); err != nil || n != 0 {
		t.Fatalf("an empty page: %d, %v", n, err)
	}
}

func firstGrants(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	c.sync(t, h)
	stale := c.grants[0]
	stale.Name, stale.Raw = "stale", []byte(`{"id":"stale"}`)
	b := newCredits("", "cus_B")
	b.grant("eur", 5)
	for i, want := range []int{1, 0} {
		n, err := h.InsertGrants(t.Context(), "", []mirror.CreditGrant{stale, b.grants[0]})
		if err != nil || n != want {
			t.Fatalf("copy %d: %d stored, %v, want %d", i, n, err, want)
		}
	}
	requireCredits(t, h, c)
	b.sync(t, h)
	requireCredits(t, h, b)
}

// requireUnsynced reads the list with several page sizes.
func requireUnsynced(t *testing.T, s mirror.Store, scope mirror.Scope, want ...string) {
	t.Helper()
	for _, limit := range []int{1, 2, 100} {
		var got []string
		for after := (mirror.Unread{}); ; {
			page, err := s.Unsynced(t.Context(), "", scope, after, limit)
			noErr(t, err)
			if len(page) == 0 {
				break
			}
			if len(page) > limit {
				t.Fatalf("%d ids, want at most %d", len(page), limit)
			}
			for _, after = range page {
				got = append(got, after.Customer)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("unsynced %s, %d at a time: %q, want %q", scope, limit, got, want)
		}
	}
}

func unsyncedBalances(t *testing.T, h *Harness) {
	var page []mirror.Customer
	for _, id := range []string{"cus_A", "cus_B", "cus_C", "cus_D", "cus_E"} {
		page = append(page, newLedger("", id).object())
	}
	_, err := h.InsertCustomers(t.Context(), "", page)
	noErr(t, err)
	_, err = h.InsertCustomers(t.Context(), "acct_1", page)
	noErr(t, err)
	requireUnsynced(t, h, mirror.ScopeBalance, "cus_A", "cus_B", "cus_C", "cus_D", "cus_E")
	newLedger("", "cus_B").sync(t, h)                     // complete
	bury(t, h, newLedger("", "cus_C").target())           // deleted
	begin(t, h, newLedger("", "cus_D").target())          // begun, not ended
	dead := newLedger("", "cus_E").target()               // given up
	noErr(t, h.SaveDeadLetter(t.Context(), letter(dead))) //
	begin(t, h, newLedger("", "cus_Z").target())          // begun, but no customer
	otherScope := mirror.Target{Scope: mirror.ScopeCredits, ID: "cus_A"}
	noErr(t, h.SaveDeadLetter(t.Context(), letter(otherScope)))
	requireUnsynced(t, h, mirror.ScopeBalance, "cus_A", "cus_D")

	l := newLedger("", "cus_A") // in pieces
	l.add("eur", -1)
	l.add("eur", -1)
	snap := l.snapshot(begin(t, h, l.target()), 1)
	snap.Joined, snap.Walk = false, mirror.Walk{Cursor: l.rows[1].ID, Top: l.rows[1].Created}
	applyBalance(t, h, snap)
	requireUnsynced(t, h, mirror.ScopeBalance, "cus_A", "cus_D")
	l.sync(t, h)
	requireUnsynced(t, h, mirror.ScopeBalance, "cus_D")
}

func unsyncedCredits(t *testing.T, h *Harness) {
	var page []mirror.CreditGrant
	ledgers := map[string]*credits{}
	for _, id := range []string{"cus_A", "cus_B", "cus_C"} {
		c := newCredits("", id)
		c.grant("eur", 10)
		c.grant("eur", 20)
		ledgers[id] = c
		page = append(page, c.grants...)
	}
	_, err := h.InsertGrants(t.Context(), "", page)
	noErr(t, err)
	_, err = h.InsertCustomers(t.Context(), "", []mirror.Customer{newLedger("", "cus_NoGrant").object(), newLedger("", "cus_C").object()})
	noErr(t, err)
	begin(t, h, newCredits("", "cus_NoGrant").target())
	requireUnsynced(t, h, mirror.ScopeCredits, "cus_A", "cus_B", "cus_C")
	ledgers["cus_B"].sync(t, h)
	requireUnsynced(t, h, mirror.ScopeCredits, "cus_A", "cus_C")
	bury(t, h, newLedger("", "cus_C").target()) // deleted, as the other scope found out
	requireUnsynced(t, h, mirror.ScopeCredits, "cus_A")
	noErr(t, h.SaveDeadLetter(t.Context(), letter(ledgers["cus_A"].target())))
	requireUnsynced(t, h, mirror.ScopeCredits)
}

// unsyncedLargestFirst: what most is at stake for is read first, whatever its sign
// and currency; equal ones are read by id.
func unsyncedLargestFirst(t *testing.T, h *Harness) {
	var page []mirror.Customer
	for id, amounts := range map[string]map[string]int64{
		"cus_A": {"eur": -5}, "cus_B": {"eur": 700}, "cus_C": {"eur": -700}, "cus_D": nil,
		"cus_E": {"eur": 1, "jpy": -90_000}, "cus_F": {"eur": math.MinInt64}, "cus_G": {"eur": math.MaxInt64},
	} {
		c := newLedger("", id).object()
		for currency, amount := range amounts {
			if currency == "eur" {
				c.Currency, c.Balance = currency, amount
				continue
			}
			c.InvoiceCreditBalance = map[string]int64{currency: -amount}
		}
		page = append(page, c)
	}
	_, err := h.InsertCustomers(t.Context(), "", page)
	noErr(t, err)
	requireUnsynced(t, h, mirror.ScopeBalance, "cus_F", "cus_G", "cus_E", "cus_B", "cus_C", "cus_A", "cus_D")

	// A customer ranks by its largest grant, whatever page that came in.
	var small, large []mirror.CreditGrant
	for id, amounts := range map[string][2]int64{"cus_A": {10, 20}, "cus_B": {5, 500}, "cus_C": {30, 1}} {
		c := newCredits("", id)
		c.grant("eur", amounts[0])
		c.grant("eur", amounts[1])
		small, large = append(small, c.grants[0]), append(large, c.grants[1])
	}
	for _, page := range [][]mirror.CreditGrant{small, large, small} {
		_, err := h.InsertGrants(t.Context(), "", page)
		noErr(t, err)
	}
	requireUnsynced(t, h, mirror.ScopeCredits, "cus_B", "cus_C", "cus_A")
}

// open records a difference.
func (h *Harness) open(t *testing.T, f mirror.Finding) {
	t.Helper()
	_, err := h.OpenFindings(t.Context(), []mirror.Finding{f})
	noErr(t, err)
}

func findingOnce(t *testing.T, h *Harness) {
	f := mirror.Finding{
		Kind: mirror.DriftBalanceMismatch, Customer: "cus_A", Scope: mirror.ScopeBalance, Currency: "eur",
		Expected: "-600", Actual: "-500", Cause: "lost webhook", FoundAt: epoch0,
	}
	h.open(t, f)
	h.open(t, f)
	words := f
	words.Currency, words.Expected = "usd", "a customer"
	h.open(t, words)
	totals, err := h.Totals(t.Context())
	if err != nil || totals.DriftOpen[mirror.DriftBalanceMismatch] != 2 || totals.DriftAmount["eur"] != 100 || totals.DriftAmount["usd"] != 0 {
		t.Fatalf("drift %v, %v, %v", totals.DriftOpen, totals.DriftAmount, err)
	}
	newLedger("", "cus_A").sync(t, h)
	totals, err = h.Totals(t.Context())
	if err != nil || len(totals.DriftOpen) != 0 || len(totals.DriftAmount) != 0 {
		t.Fatalf("after a sync: %v, %v, %v", totals.DriftOpen, totals.DriftAmount, err)
	}
	h.open(t, f) // found anew
	if totals, err = h.Totals(t.Context()); err != nil || totals.DriftOpen[mirror.DriftBalanceMismatch] != 1 {
		t.Fatalf("found anew: %v, %v", totals.DriftOpen, err)
	}
}

func schemaAndPing(t *testing.T, h *Harness) {
	noErr(t, h.Ping(t.Context()))
	noErr(t, h.CheckSchema(t.Context()))
	noErr(t, h.Migrate(t.Context())) // once more
	noErr(t, h.CheckSchema(t.Context()))
	newLedger("", "cus_A").sync(t, h)
	noErr(t, h.Migrate(t.Context()))
	if _, err := h.Customer(t.Context(), "", "cus_A"); err != nil {
		t.Fatalf("after another migration: %v", err)
	}
}

// lostPositions: once the database's history has a new name, since it was found to be
// put back, no position is taken that was given before, also where the feed has come
// as far again; and those given since go on.
func lostPositions(t *testing.T, h *Harness) {
	feed, ok := h.Store.(mirror.Feed)
	if !ok {
		t.Fatal("the store has no change feed")
	}
	tables := []string{"customers", "customer_balance_transactions"}
	position := func() string {
		t.Helper()
		var p mirror.FeedPosition
		noErr(t, feed.ReadFeed(t.Context(), func(r mirror.FeedReader) (err error) {
			p, err = r.Position(t.Context())
			return err
		}))
		return p.Text
	}
	changed := func(since string) error {
		return feed.ReadFeed(t.Context(), func(r mirror.FeedReader) error {
			_, _, err := r.Changed(t.Context(), since, tables, 100)
			return err
		})
	}
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	l.sync(t, h)
	want := 3 // changes of a sync: the customer, its balance and a row
	for _, name := range []string{"h1", "h2"} {
		before := h.feed(t, "", want)
		export := position()
		l.add("eur", -1)
		l.sync(t, h)
		if _, err := h.Changes(t.Context(), "", before[0].Cursor, 100); err != nil {
			t.Fatalf("a cursor of this history: %v", err)
		}
		noErr(t, changed(export))
		noErr(t, h.SaveIncarnation(t.Context(), mirror.Incarnation{Partition: mirror.DatabasePartition, ID: name, HighWater: 3}))
		for _, c := range before {
			if _, err := h.Changes(t.Context(), "", c.Cursor, 100); !errors.Is(err, mirror.ErrNotFound) {
				t.Errorf("%s: the cursor %q of a lost time: %v, want ErrNotFound", name, c.Cursor, err)
			}
		}
		if err := changed(export); !errors.Is(err, mirror.ErrFeedGone) {
			t.Errorf("%s: the position %q of a lost time: %v, want ErrFeedGone", name, export, err)
		}
		if _, err := h.Changes(t.Context(), "", "0", 100); err != nil {
			t.Errorf("%s: from the beginning: %v", name, err)
		}
		want += 3
		h.feed(t, "", want) // all of it is there
	}
	// A mark never falls under one name, so that a leader that was paused says nothing old.
	noErr(t, h.SaveIncarnation(t.Context(), mirror.Incarnation{Partition: mirror.DatabasePartition, ID: "h2", HighWater: 9}))
	noErr(t, h.SaveIncarnation(t.Context(), mirror.Incarnation{Partition: mirror.DatabasePartition, ID: "h2", HighWater: 4}))
	got, err := h.Incarnations(t.Context())
	if want := (mirror.Incarnation{Partition: mirror.DatabasePartition, ID: "h2", HighWater: 9}); err != nil || !slices.Contains(got, want) {
		t.Errorf("incarnations %+v, %v, want %+v among them", got, err, want)
	}
}
