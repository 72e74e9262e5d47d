package mirrortest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func sweepCases() []testCase {
	return []testCase{
		{"FindingsAreListed", findingsListed},
		{"MissedEventEndsWithItsAnswer", missedAnswered},
		{"MissedEventEndsWithALaterSync", missedBySync},
		{"FieldMismatchEndsWithItsObject", mismatchOfObject},
		{"TombstoneCloses", tombstoneCloses},
		{"HeldCustomers", heldCustomers},
		{"HeldGrants", heldGrants},
		{"LivingCustomers", livingCustomers},
		{"GrantHolders", grantHolders},
		{"FullReads", fullReads},
		{"FullReadsOfALedger", fullReadsOfALedger},
		{"FullReadTellsWhatItRepairs", fullReadRepairs},
		{"I18_FullReadOfTheSameTellsNothing", fullReadOfTheSame},
	}
}

func missed(customer, event string, at time.Time) mirror.Finding {
	return mirror.Finding{
		Kind: mirror.DriftMissedEvent, Customer: customer, Scope: mirror.ScopeBalance, Object: event,
		Expected: "customer.updated", Cause: mirror.CauseMissedEvent, FoundAt: at,
	}
}

// open lists the open findings as kind/customer/object, read two at a time.
func openList(t *testing.T, s mirror.Store, q mirror.FindingsQuery) []string {
	t.Helper()
	var list []string
	for q.Limit = 2; ; {
		page, err := s.Findings(t.Context(), q)
		noErr(t, err)
		for _, f := range page {
			list = append(list, fmt.Sprintf("%s/%s/%s/%v", f.Kind, f.Customer, f.Object, !f.RepairedAt.IsZero()))
			q.After = f.ID
		}
		if len(page) < q.Limit {
			slices.Sort(list)
			return list
		}
	}
}

func requireOpen(t *testing.T, s mirror.Store, want ...string) {
	t.Helper()
	if got := openList(t, s, mirror.FindingsQuery{}); !slices.Equal(got, want) {
		t.Fatalf("open %q, want %q", got, want)
	}
}

func findingsListed(t *testing.T, h *Harness) {
	a, b := missed("cus_A", "evt_1", epoch0), missed("cus_B", "evt_2", epoch0)
	other := missed("cus_A", "evt_1", epoch0)
	other.Account = "acct_1"
	gap := mirror.Finding{Kind: mirror.DriftChainGap, Customer: "cus_A", Scope: mirror.ScopeBalance, Currency: "eur", Expected: "-5", Actual: "0", Cause: "x"}
	opened, err := h.OpenFindings(t.Context(), []mirror.Finding{a, b, other, gap})
	if err != nil || len(opened) != 4 {
		t.Fatalf("opened %+v, %v", opened, err)
	}
	if opened, err = h.OpenFindings(t.Context(), []mirror.Finding{a, gap}); err != nil || len(opened) != 0 {
		t.Fatalf("once more: %+v, %v", opened, err)
	}
	if opened, err = h.OpenFindings(t.Context(), nil); err != nil || opened != nil {
		t.Fatalf("none: %+v, %v", opened, err)
	}
	requireOpen(t, h, "chain_gap/cus_A//false", "missed_event/cus_A/evt_1/false", "missed_event/cus_A/evt_1/false", "missed_event/cus_B/evt_2/false")
	platform := ""
	for _, tt := range []struct {
		q    mirror.FindingsQuery
		want int
	}{
		{mirror.FindingsQuery{Account: &platform}, 3},
		{mirror.FindingsQuery{Account: &other.Account}, 1},
		{mirror.FindingsQuery{Customer: "cus_A"}, 3},
		{mirror.FindingsQuery{Kind: mirror.DriftMissedEvent}, 3},
		{mirror.FindingsQuery{Kind: mirror.DriftMissedEvent, Customer: "cus_B"}, 1},
		{mirror.FindingsQuery{Customer: "cus_C"}, 0},
	} {
		if got := openList(t, h, tt.q); len(got) != tt.want {
			t.Errorf("%+v: %q, want %d", tt.q, got, tt.want)
		}
	}
	before := time.Now().Add(-time.Minute)
	newLedger("", "cus_A").sync(t, h)
	requireOpen(t, h, "missed_event/cus_A/evt_1/false", "missed_event/cus_B/evt_2/false")
	all := openList(t, h, mirror.FindingsQuery{RepairedSince: before})
	if len(all) != 4 || all[0] != "chain_gap/cus_A//true" {
		t.Fatalf("with those repaired: %q", all)
	}
	if late := openList(t, h, mirror.FindingsQuery{RepairedSince: time.Now().Add(time.Hour)}); len(late) != 2 {
		t.Fatalf("repaired in an hour: %q", late)
	}
	got, err := h.Findings(t.Context(), mirror.FindingsQuery{Customer: "cus_B", Limit: 10})
	want := b
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if want.ID = got[0].ID; want.ID == "" || got[0] != want {
		t.Fatalf("got %+v, want %+v", got[0], want)
	}
}

func missedAnswered(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -1)
	late := time.Now().Add(24 * time.Hour) // so that only the answer can close them
	e := updated("", "evt_1", "cus_A")
	_, err := h.RecordEvents(t.Context(), []mirror.Event{e, updated("", "evt_2", "cus_B")})
	noErr(t, err)
	unknown := missed("", "evt_3", late) // its customer was not known
	_, err = h.OpenFindings(t.Context(), []mirror.Finding{missed("cus_A", "evt_1", late), missed("cus_B", "evt_2", late), unknown})
	noErr(t, err)
	if a := l.sync(t, h); !slices.Equal(a.Closed, []mirror.DriftKind{mirror.DriftMissedEvent}) {
		t.Fatalf("closed %v", a.Closed)
	}
	requireOpen(t, h, "missed_event//evt_3/false", "missed_event/cus_B/evt_2/false")
	b := newLedger("", "cus_B")
	snap := b.whole(begin(t, h, b.target()))
	snap.Events = []mirror.EventRef{{ID: "evt_3", Type: "customer.updated", Created: epoch0}} // the inbox never had it
	applyBalance(t, h, snap)
	requireOpen(t, h)
}

func missedBySync(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	snap := l.whole(begin(t, h, l.target()))
	_, err := h.OpenFindings(t.Context(), []mirror.Finding{missed("cus_A", "evt_1", snap.ObservedAt.Add(time.Millisecond))})
	noErr(t, err)
	applyBalance(t, h, snap) // its reads began before
	requireOpen(t, h, "missed_event/cus_A/evt_1/false")
	l.now = l.now.Add(time.Minute)
	newCredits("", "cus_A").sync(t, h) // another ledger
	requireOpen(t, h, "missed_event/cus_A/evt_1/false")
	l.sync(t, h)
	requireOpen(t, h)
}

func mismatchOfObject(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 10)
	c.sync(t, h)
	f := mirror.Finding{Kind: mirror.DriftFieldMismatch, Customer: "cus_A", Scope: mirror.ScopeCredits, Object: c.grants[0].ID}
	other := f
	other.Object = "credgr_other"
	_, err := h.OpenFindings(t.Context(), []mirror.Finding{f, other})
	noErr(t, err)
	snap := c.snapshot(begin(t, h, c.target()), 1)
	snap.Full = false
	applyCredits(t, h, snap)
	requireOpen(t, h, "field_mismatch/cus_A/credgr_other/false")
	c.sync(t, h) // everything
	requireOpen(t, h)
}

func tombstoneCloses(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -1)
	l.sync(t, h)
	kinds := append(mirror.TombstoneCloses(epoch0).Kinds, mirror.DriftMissedEvent, mirror.DriftChainGap)
	for _, k := range kinds {
		h.open(t, mirror.Finding{Kind: k, Customer: "cus_A", Scope: mirror.ScopeBalance, FoundAt: epoch0})
	}
	st := begin(t, h, l.target())
	a, err := h.ApplyTombstone(t.Context(), mirror.Tombstone{Target: l.target(), Epoch: st.Epoch, ObservedAt: epoch0.Add(time.Hour)})
	if err != nil || len(a.Closed) != len(kinds)-1 {
		t.Fatalf("closed %v, %v", a.Closed, err)
	}
	requireOpen(t, h, "chain_gap/cus_A//false")
}

func heldCustomers(t *testing.T, h *Harness) {
	a, b := newLedger("", "cus_A"), newLedger("", "cus_B")
	a.add("eur", -7)
	a.add("usd", 3)
	a.sync(t, h)
	b.sync(t, h)
	bury(t, h, b.target())
	newLedger("acct_1", "cus_A").sync(t, h)
	got, err := h.HeldCustomers(t.Context(), "", []string{"cus_B", "cus_A", "cus_C", "cus_A"})
	if err != nil || len(got) != 2 || !got["cus_B"].Deleted {
		t.Fatalf("%+v, %v", got, err)
	}
	if c := got["cus_A"]; c.Balance != -7 || c.Balances["eur"] != -7 || c.Balances["usd"] != 3 || c.InvoiceCreditBalance["usd"] != -3 || c.SyncedAt.IsZero() || c.Deleted {
		t.Fatalf("cus_A: %+v", c)
	}
	if got, err = h.HeldCustomers(t.Context(), "", nil); err != nil || len(got) != 0 {
		t.Fatalf("nobody: %+v, %v", got, err)
	}
}

func heldGrants(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 10)
	c.sync(t, h)
	g := c.grants[0]
	got, err := h.HeldGrants(t.Context(), "", []string{g.ID, "credgr_none"})
	want := mirror.HeldGrantRow{Customer: "cus_A", Amount: 10, Currency: "eur", Updated: g.Updated, Digest: mirror.Digest(g.Raw)}
	if err != nil || len(got) != 1 || got[g.ID] != want {
		t.Fatalf("%+v, %v, want %+v", got, err, want)
	}
}

func livingCustomers(t *testing.T, h *Harness) {
	var page []mirror.Customer
	for i := range 5 {
		c := newLedger("", fmt.Sprintf("cus_%d", i)).object()
		c.Created = epoch0.Add(time.Duration(i/2) * time.Second) // two a second
		page = append(page, c)
	}
	clocked := newLedger("", "cus_clock").object()
	clocked.TestClock = "clock_1"
	page = append(page, clocked, newLedger("", "cus_gone").object())
	_, err := h.InsertCustomers(t.Context(), "", page)
	noErr(t, err)
	bury(t, h, newLedger("", "cus_gone").target())
	for _, limit := range []int{1, 2, 100} {
		for from, want := range map[int]string{0: "[cus_4 cus_3 cus_2 cus_1 cus_0]", 1: "[cus_4 cus_3 cus_2]", 3: "[]"} {
			got := []string{}
			for at := (mirror.Place{Created: epoch0.Add(time.Hour)}); ; {
				list, err := h.LivingCustomers(t.Context(), "", at, epoch0.Add(time.Duration(from)*time.Second), limit)
				noErr(t, err)
				for _, p := range list {
					got = append(got, p.ID)
					at = p
				}
				if len(list) < limit {
					break
				}
			}
			if fmt.Sprint(got) != want {
				t.Fatalf("from second %d, %d at a time: %v, want %s", from, limit, got, want)
			}
		}
	}
	clocks, err := h.HeldClocks(t.Context(), "")
	if err != nil || !slices.Equal(clocks, []string{"clock_1"}) {
		t.Fatalf("clocks %q, %v", clocks, err)
	}
}

func grantHolders(t *testing.T, h *Harness) {
	for _, id := range []string{"cus_B", "cus_A", "cus_C"} {
		c := newCredits("", id)
		c.grant("eur", 10)
		c.grant("eur", 10)
		c.sync(t, h)
	}
	newLedger("", "cus_C").sync(t, h)
	bury(t, h, newLedger("", "cus_C").target())
	got, err := h.GrantHolders(t.Context(), "", "", 10)
	if err != nil || !slices.Equal(got, []string{"cus_A", "cus_B"}) {
		t.Fatalf("%q, %v", got, err)
	}
	if got, err = h.GrantHolders(t.Context(), "", "cus_A", 1); err != nil || !slices.Equal(got, []string{"cus_B"}) {
		t.Fatalf("after cus_A: %q, %v", got, err)
	}
}

func fullReads(t *testing.T, h *Harness) {
	far := epoch0.Add(1000 * time.Hour)
	list := func(before time.Time) []string {
		got, err := h.FullReads(t.Context(), "", mirror.Ledgers{}, before, 100)
		noErr(t, err)
		out := []string{}
		for _, f := range got {
			out = append(out, fmt.Sprintf("%s %v", f.Target.ID, f.Requested))
		}
		return out
	}
	var ledgers []*ledger
	for i, id := range []string{"cus_C", "cus_A", "cus_B"} {
		l := newLedger("", id)
		l.now = epoch0.Add(time.Duration(i) * time.Hour)
		l.add("eur", -1)
		l.add("eur", -1)
		l.sync(t, h)
		ledgers = append(ledgers, l)
	}
	if got := list(far); fmt.Sprint(got) != "[cus_C false cus_A false cus_B false]" {
		t.Fatalf("oldest first: %q", got)
	}
	if got := list(epoch0.Add(30 * time.Minute)); fmt.Sprint(got) != "[cus_C false]" {
		t.Fatalf("before: %q", got)
	}
	c := ledgers[0]
	noErr(t, h.RequestFullRead(t.Context(), []mirror.Target{c.target(), {Scope: mirror.ScopeBalance, ID: "cus_never"}}))
	noErr(t, h.RequestFullRead(t.Context(), nil))
	if got := list(far); got[0] != "cus_C true" {
		t.Fatalf("requested: %q", got)
	}
	c.now = c.now.Add(10 * time.Hour)
	st := begin(t, h, c.target())
	if !st.Walk.Full || st.Walk.InProgress() || st.FullReadAt.IsZero() {
		t.Fatalf("state %+v", st)
	}
	snap := c.snapshot(st, 1) // a piece
	snap.Joined, snap.Walk = false, mirror.Walk{Cursor: c.rows[1].ID, Top: c.rows[1].Created, Full: true}
	applyBalance(t, h, snap)
	if got := list(far); got[0] != "cus_C true" {
		t.Fatalf("after a piece: %q", got)
	}
	c.sync(t, h)
	if got := list(far); fmt.Sprint(got) != "[cus_A false cus_B false cus_C false]" {
		t.Fatalf("after a full read: %q", got)
	}
	a := ledgers[1]
	a.now = a.now.Add(20 * time.Hour)
	applyBalance(t, h, a.snapshot(begin(t, h, a.target()), 1)) // not full
	bury(t, h, ledgers[2].target())
	if got := list(far); fmt.Sprint(got) != "[cus_A false cus_C false]" {
		t.Fatalf("after a sync of the newest and a deletion: %q", got)
	}
	if n, err := h.FullReadCount(t.Context(), "", mirror.Ledgers{}); err != nil || n != 2 {
		t.Fatalf("count %d, %v", n, err)
	}
}

func fullReadRepairs(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for range 3 {
		l.add("eur", -1)
	}
	l.sync(t, h)
	l.rows[0].Description = "edited"
	l.render(0)
	l.add("eur", -5)
	l.add("eur", 5) // the balance is what it was
	l.now = l.now.Add(time.Hour)
	a := l.sync(t, h)
	if len(a.Repaired) != 3 || len(a.Findings) != 0 {
		t.Fatalf("repaired %+v, opened %+v", a.Repaired, a.Findings)
	}
	requireOpen(t, h)
	got := openList(t, h, mirror.FindingsQuery{RepairedSince: time.Now().Add(-time.Hour)})
	want := []string{"field_mismatch/cus_A/" + l.rows[0].ID + "/true", "missing_transaction/cus_A/" + l.rows[3].ID + "/true", "missing_transaction/cus_A/" + l.rows[4].ID + "/true"}
	if !slices.Equal(got, want) {
		t.Fatalf("recorded %q, want %q", got, want)
	}
	if a = l.sync(t, h); len(a.Repaired) != 0 {
		t.Fatalf("repaired once more: %+v", a.Repaired)
	}
	l.add("eur", -2)
	l.now = l.now.Add(time.Hour)
	snap := l.whole(begin(t, h, l.target()))
	snap.Events = []mirror.EventRef{{ID: "evt_1", Type: "customer.updated", Created: l.now}}
	if a = applyBalance(t, h, snap); len(a.Repaired) != 0 || a.Inserted != 1 {
		t.Fatalf("an event told of it: %+v", a)
	}
}

func fullReadOfTheSame(t *testing.T, h *Harness) {
	l, c := newLedger("", "cus_A"), newCredits("", "cus_A")
	l.add("eur", -1)
	c.grant("eur", 10)
	l.sync(t, h)
	c.sync(t, h)
	before := h.changes(t)
	noErr(t, h.RequestFullRead(t.Context(), []mirror.Target{l.target(), c.target()}))
	l.now, c.now = l.now.Add(time.Hour), c.now.Add(time.Hour)
	if a := l.sync(t, h); a.Changed() || len(a.Repaired) != 0 || len(a.Closed) != 0 {
		t.Fatalf("balance: %+v", a)
	}
	if a := c.sync(t, h); a.Changed() || len(a.Repaired) != 0 || len(a.Closed) != 0 {
		t.Fatalf("credits: %+v", a)
	}
	if after := h.changes(t); after != before {
		t.Fatalf("%d changes", after-before)
	}
}
