package mirrortest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func creditsCases() []testCase {
	return []testCase{
		{"GrantAndRows", grantAndRows},
		{"ApplyTwiceChangesOnce", creditsTwice},
		{"I18_NoChangeWritesNothing", creditsNoChange},
		{"SumOutOfBoundsIsDisproved", creditsBounds},
		{"SummaryMismatchIsDisproved", creditsSummaryOff},
		{"LedgerFollowsRowsWithoutSummary", creditsWithoutSummary},
		{"I5_MissingRowIsRefused", creditsMissingRow},
		{"I5_ChangedAmountIsRefused", creditsChangedAmount},
		{"I5_GrantsAmountAndOwnerAreImmutable", grantImmutable},
		{"GrantUpdate", grantUpdate},
		{"UnknownAmountTypeAndNoPriority", unknownAmountType},
		{"HistoryInPieces", creditsInPieces},
		{"I6_OlderEpochWritesNothing", creditsFenced},
		{"TombstoneKeepsTheLedger", creditsTombstone},
	}
}

// requireCredits compares everything that is held with the model.
func requireCredits(t *testing.T, s mirror.Store, c *credits) {
	t.Helper()
	page, err := s.CreditTransactions(t.Context(), c.account, c.customer, "", mirror.Page{Limit: 1000})
	noErr(t, err)
	if len(page.Rows) != len(c.rows) {
		t.Fatalf("%d rows are held, want %d", len(page.Rows), len(c.rows))
	}
	want := map[string]mirror.CreditTransaction{}
	for _, r := range c.rows {
		want[r.ID] = r
	}
	for _, r := range page.Rows {
		w := want[r.ID]
		if mirror.Digest(r.Raw) != mirror.Digest(w.Raw) {
			t.Fatalf("%s: raw %s, want %s", r.ID, r.Raw, w.Raw)
		}
		r.Raw = w.Raw
		if fmt.Sprintf("%+v", r) != fmt.Sprintf("%+v", w) {
			t.Fatalf("got %+v\nwant %+v", r, w)
		}
		one, err := s.CreditTransaction(t.Context(), c.account, r.ID)
		if err != nil || one.ID != r.ID || one.Amount != r.Amount {
			t.Fatalf("read alone: %+v, %v", one, err)
		}
	}
	for _, w := range c.grants {
		g, err := s.Grant(t.Context(), c.account, w.ID)
		noErr(t, err)
		if mirror.Digest(g.Raw) != mirror.Digest(w.Raw) || mirror.Digest(g.Metadata) != mirror.Digest(w.Metadata) ||
			mirror.Digest(g.ApplicabilityConfig) != mirror.Digest(w.ApplicabilityConfig) {
			t.Fatalf("grant %+v, want %+v", g, w)
		}
		g.Raw, g.Metadata, g.ApplicabilityConfig = w.Raw, w.Metadata, w.ApplicabilityConfig
		if fmt.Sprintf("%+v", g) != fmt.Sprintf("%+v", w) {
			t.Fatalf("grant %+v\nwant %+v", g, w)
		}
		owner, err := s.GrantOwner(t.Context(), c.account, w.ID)
		if err != nil || owner != c.customer {
			t.Fatalf("owner %q, %v", owner, err)
		}
	}
	summary, err := s.CreditSummary(t.Context(), c.account, c.customer)
	noErr(t, err)
	for currency, sum := range c.sums() {
		if got := summary.Balances[currency].Ledger; got != sum {
			t.Fatalf("%s: ledger balance %d, want %d", currency, got, sum)
		}
	}
}

func grantAndRows(t *testing.T, h *Harness) {
	c := newCredits("acct_1", "cus_A")
	eur, usd := c.grant("eur", 1000).ID, c.grant("usd", 500).ID
	c.move(eur, "eur", -300)
	c.move(usd, "usd", -500)
	if a := c.sync(t, h); a.Inserted != 4 || a.Updated != 0 {
		t.Fatalf("%+v, want 4 rows inserted", a)
	}
	requireCredits(t, h, c)
	st := begin(t, h, c.target())
	if len(st.Grants) != 2 || st.Grants[0].ID != eur || !st.Grants[0].Metered || !st.HistoryComplete {
		t.Fatalf("state %+v", st)
	}
	summary, err := h.CreditSummary(t.Context(), "acct_1", "cus_A")
	if err != nil || summary.Balances["eur"] != (mirror.CreditBalance{Ledger: 700, Available: 700}) || summary.SyncedAt.IsZero() {
		t.Fatalf("summary %+v, %v", summary, err)
	}
	totals, err := h.Totals(t.Context())
	if err != nil || totals.Credits["eur"] != 700 || totals.Credits["usd"] != 0 || totals.CreditTransactions != 4 {
		t.Fatalf("totals %+v, %v", totals, err)
	}
}

func creditsTwice(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	snap := c.snapshot(begin(t, h, c.target()), 10)
	for i, want := range []bool{true, false} {
		if a := applyCredits(t, h, snap); a.Changed() != want {
			t.Fatalf("apply %d: %+v, want changed=%v", i, a, want)
		}
		if n := h.changes(t); n != 3 && n != -1 { // grant, row, summary
			t.Fatalf("apply %d: %d change records, want 3", i, n)
		}
	}
}

func creditsNoChange(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.move(c.grant("eur", 1000).ID, "eur", -1)
	c.sync(t, h)
	changes, stamps := h.changes(t), h.stamps(t)
	for range 3 {
		if a := c.sync(t, h); a.Changed() {
			t.Fatalf("a sync without news: %+v", a)
		}
	}
	if h.changes(t) != changes || h.stamps(t) != stamps {
		t.Fatal("a sync without news wrote rows")
	}
}

// refuseCredits applies a snapshot that must be refused.
func refuseCredits(t *testing.T, h *Harness, snap mirror.CreditsSnapshot, want error) {
	t.Helper()
	changes, stamps, state := h.changes(t), h.stamps(t), h.syncState(t)
	if _, err := h.ApplyCredits(t.Context(), snap); !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	if h.changes(t) != changes || h.stamps(t) != stamps || h.syncState(t) != state {
		t.Fatal("a refused snapshot wrote something")
	}
}

func creditsBounds(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	id := c.grant("eur", 1000).ID
	c.sync(t, h)
	c.move(id, "eur", -1001)
	snap := c.snapshot(begin(t, h, c.target()), 10)
	refuseCredits(t, h, snap, mirror.ErrDisproved)
	snap.AcceptDisproof = true
	a := applyCredits(t, h, snap)
	if len(a.Findings) == 0 || a.Findings[0].Kind != mirror.DriftGrantOutOfBounds || a.Findings[0].Object != id {
		t.Fatalf("findings %+v", a.Findings)
	}
	c.move(id, "eur", 1)
	if a := c.sync(t, h); len(a.Findings) != 0 || a.Inserted != 1 {
		t.Fatalf("the row that heals it: %+v", a)
	}
	totals, err := h.Totals(t.Context())
	if err != nil || len(totals.DriftOpen) != 0 {
		t.Fatalf("open drift %v, %v", totals.DriftOpen, err)
	}
}

func creditsSummaryOff(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	snap := c.snapshot(begin(t, h, c.target()), 10)
	snap.Summary["eur"] = mirror.CreditBalance{Ledger: 900, Available: 900}
	refuseCredits(t, h, snap, mirror.ErrDisproved)
	snap.AcceptDisproof = true
	if a := applyCredits(t, h, snap); len(a.Findings) != 1 || a.Findings[0].Kind != mirror.DriftSummaryMismatch {
		t.Fatalf("findings %+v", a.Findings)
	}
	totals, err := h.Totals(t.Context())
	if err != nil || totals.DriftAmount["eur"] != 100 {
		t.Fatalf("drift amount %v, %v, want 100", totals.DriftAmount, err)
	}
	c.sync(t, h)
	if totals, err = h.Totals(t.Context()); err != nil || len(totals.DriftOpen) != 0 {
		t.Fatalf("open drift %v, %v", totals.DriftOpen, err)
	}
}

func creditsWithoutSummary(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	id := c.grant("eur", 1000).ID
	c.sync(t, h)
	c.move(id, "eur", -400)
	snap := c.snapshot(begin(t, h, c.target()), 10)
	snap.Summary = nil
	applyCredits(t, h, snap)
	requireCredits(t, h, c)
	summary, err := h.CreditSummary(t.Context(), "", "cus_A")
	if err != nil || summary.Balances["eur"] != (mirror.CreditBalance{Ledger: 600, Available: 600}) {
		t.Fatalf("summary %+v, %v", summary.Balances, err)
	}
}

func creditsMissingRow(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	id := c.grant("eur", 1000).ID
	c.move(id, "eur", -1)
	c.sync(t, h)
	snap := c.snapshot(begin(t, h, c.target()), 10)
	snap.Windows[0].Rows = snap.Windows[0].Rows[1:]
	snap.AcceptDisproof = true
	refuseCredits(t, h, snap, mirror.ErrLedgerRewritten)
}

func creditsChangedAmount(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	c.sync(t, h)
	snap := c.snapshot(begin(t, h, c.target()), 10)
	snap.Windows[0].Rows[0].Amount = 999
	snap.AcceptDisproof = true
	refuseCredits(t, h, snap, mirror.ErrLedgerRewritten)
}

func grantImmutable(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	c.sync(t, h)
	snap := c.snapshot(begin(t, h, c.target()), 10)
	snap.Grants[0].Amount = 2000
	refuseCredits(t, h, snap, mirror.ErrLedgerRewritten)

	thief := newCredits("", "cus_B")
	snap = thief.snapshot(begin(t, h, thief.target()), 10)
	stolen := c.grants[0]
	stolen.Customer = "cus_B"
	snap.Grants = []mirror.CreditGrant{stolen}
	refuseCredits(t, h, snap, mirror.ErrLedgerRewritten)
}

func grantUpdate(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	c.grant("eur", 10)
	c.sync(t, h)
	before := h.changes(t)
	g := &c.grants[0]
	g.VoidedAt, g.Updated, g.Metadata, g.Name = c.now.Add(time.Minute), c.now.Add(time.Minute), []byte(`{"a":"b"}`), ""
	c.render(0)
	c.sync(t, h)
	requireCredits(t, h, c)
	if got := h.changes(t); got != before+1 && got != -1 {
		t.Fatalf("%d change records, want one more than %d", got, before)
	}
}

func unknownAmountType(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	g := c.grant("eur", 0)
	g.AmountType, g.Amount, g.Currency, g.Priority, g.Name = "seconds", 0, "", -1, ""
	g.ApplicabilityConfig = []byte(`{"scope":{"prices":[{"id":"price_1"}]}}`)
	g.EffectiveAt, g.ExpiresAt = time.Time{}, time.Time{}
	c.render(0)
	c.rows = nil
	c.sync(t, h)
	requireCredits(t, h, c)
	if st := begin(t, h, c.target()); len(st.Grants) != 1 || st.Grants[0].Metered {
		t.Fatalf("grants %+v, want one that is not metered", st.Grants)
	}
}

func creditsInPieces(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	id := c.grant("eur", 1000).ID
	for range 5 {
		c.now = c.now.Add(time.Second)
		c.move(id, "eur", -10)
	}
	all := c.newest(6)
	snap := c.snapshot(begin(t, h, c.target()), 6)
	snap.Windows = []mirror.Window[mirror.CreditTransaction]{{Rows: all[:3], FromHead: true}}
	snap.Joined, snap.Full = false, false
	snap.Walk = mirror.Walk{Cursor: all[2].ID, Top: all[0].Created}
	applyCredits(t, h, snap)
	st := begin(t, h, c.target())
	if st.HistoryComplete || st.Walk != snap.Walk {
		t.Fatalf("state %+v", st)
	}
	snap = c.snapshot(st, 6)
	snap.Windows = []mirror.Window[mirror.CreditTransaction]{{Rows: all[3:], ToEnd: true}}
	snap.Full = false
	applyCredits(t, h, snap)
	if st := begin(t, h, c.target()); !st.HistoryComplete || st.Walk.InProgress() {
		t.Fatalf("state %+v", st)
	}
	requireCredits(t, h, c)
}

func creditsFenced(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	old := c.snapshot(begin(t, h, c.target()), 10)
	begin(t, h, c.target())
	refuseCredits(t, h, old, mirror.ErrFenced)
}

func creditsTombstone(t *testing.T, h *Harness) {
	newLedger("", "cus_A").sync(t, h)
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	c.sync(t, h)
	bury(t, h, c.target())
	requireCredits(t, h, c)
	v, err := h.Customer(t.Context(), "", "cus_A")
	if err != nil || !v.Deleted {
		t.Fatalf("customer %+v, %v", v, err)
	}
	totals, err := h.Totals(t.Context())
	if err != nil || totals.Credits["eur"] != 0 {
		t.Fatalf("a deleted customer's credits count: %v, %v", totals.Credits, err)
	}
	ids, err := h.Unsynced(t.Context(), "", mirror.ScopeCredits, mirror.Unread{}, 10)
	if err != nil || slices.ContainsFunc(ids, func(u mirror.Unread) bool { return u.Customer == "cus_A" }) {
		t.Fatalf("unsynced %v, %v", ids, err)
	}
}
