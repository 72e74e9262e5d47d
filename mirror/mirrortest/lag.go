package mirrortest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// lagCases are replies that are older than what is known.
func lagCases() []testCase {
	return []testCase{
		{"I4_OlderGrantIsNotWritten", olderGrant},
		{"I4_VoidOfTheSameSecondIsNotTakenBack", voidOfTheSecond},
		{"NewestOfTwoCopiesCounts", twoCopies},
		{"OlderGrantRepairsADamagedOne", olderThanDamaged},
		{"I4_OlderReplyToAWriteIsNotWritten", olderWrite},
		{"I3_EventWaitsForItsRow", eventWaitsForRow},
		{"I3_EventWaitsForItsGrant", eventWaitsForGrant},
		{"I3_EventsOfASnapshotWaitToo", namedEventWaits},
		{"I10_LetterStaysWhileItsEventWaits", letterOfAWaitingEvent},
		{"NewestEventIsToldWhenASyncBegins", newestEventAt},
		{"ClockNeverGoesBack", clockTime},
	}
}

// edited are the grants with the first one edited a while later.
func (c *credits) edit(later time.Duration, name string) {
	g := &c.grants[0]
	g.Updated, g.Name = c.now.Add(later), name
	c.render(0)
}

// behind applies a snapshot that must be refused as being behind, and then accepts it.
func behind(t *testing.T, h *Harness, snap mirror.CreditsSnapshot) mirror.Applied {
	t.Helper()
	refuseCredits(t, h, snap, mirror.ErrBehind)
	snap.AcceptBehind = true
	return applyCredits(t, h, snap)
}

func (h *Harness) observed(t *testing.T, target mirror.Target) time.Time {
	t.Helper()
	at, err := h.ObservedAt(t.Context(), []mirror.Target{target})
	noErr(t, err)
	return at[0]
}

func requireName(t *testing.T, h *Harness, c *credits, name string) {
	t.Helper()
	g, err := h.Grant(t.Context(), c.account, c.grants[0].ID)
	if err != nil || g.Name != name {
		t.Fatalf("the grant is named %q, %v, want %q", g.Name, err, name)
	}
}

func olderGrant(t *testing.T, h *Harness) {
	for _, whole := range []bool{true, false} {
		c := newCredits("", map[bool]string{true: "cus_A", false: "cus_B"}[whole])
		c.grant("eur", 1000)
		for range 3 {
			c.move(c.grants[0].ID, "eur", -1)
		}
		old := c.grants[0]
		c.edit(time.Minute, "newer")
		c.sync(t, h)
		at, changes := h.observed(t, c.target()), h.changes(t)

		c.grants[0] = old
		snap := c.snapshot(begin(t, h, c.target()), map[bool]int{true: 10, false: 2}[whole])
		snap.AllGrants = whole
		var b *mirror.BehindError
		if _, err := h.ApplyCredits(t.Context(), snap); !errors.As(err, &b) || !slices.Equal(b.Older, []string{old.ID}) {
			t.Fatalf("whole %v: %v, want the grant as older", whole, err)
		}
		behind(t, h, snap)
		requireName(t, h, c, "newer")
		if h.changes(t) != changes || !h.observed(t, c.target()).Equal(at) {
			t.Fatalf("whole %v: a reply that is behind changed something, or counts as fresh", whole)
		}
		if n, err := h.InsertGrants(t.Context(), "", []mirror.CreditGrant{old}); n != 0 || err != nil {
			t.Fatalf("%d grants inserted, %v", n, err)
		}
		requireName(t, h, c, "newer")
		c.edit(2*time.Minute, "newest")
		c.sync(t, h)
		requireName(t, h, c, "newest")
		if !h.observed(t, c.target()).After(at) {
			t.Fatal("a newer reply does not count as fresh")
		}
	}
}

func voidOfTheSecond(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	old := c.grants[0]
	c.grants[0].VoidedAt = c.now
	c.render(0)
	c.sync(t, h)
	c.grants[0] = old
	behind(t, h, c.snapshot(begin(t, h, c.target()), 10))
	if g, err := h.Grant(t.Context(), "", old.ID); err != nil || g.VoidedAt.IsZero() {
		t.Fatalf("%+v, %v, want a void that stays", g, err)
	}
}

func twoCopies(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	old := c.grants[0]
	c.edit(time.Minute, "newer")
	newer := c.grants[0]
	if n, err := h.InsertGrants(t.Context(), "", []mirror.CreditGrant{old, newer, old}); n != 1 || err != nil {
		t.Fatalf("%d grants inserted, %v", n, err)
	}
	requireName(t, h, c, "newer")
	for i, name := range []string{"third", "fourth"} {
		older := c.grants[0]
		c.edit(time.Duration(i+2)*time.Minute, name)
		snap := c.snapshot(begin(t, h, c.target()), 10)
		snap.Grants = []mirror.CreditGrant{older, c.grants[0], older}
		applyCredits(t, h, snap)
		requireName(t, h, c, name)
	}
}

// olderThanDamaged: what was changed here by SQL does not count as newer.
func olderThanDamaged(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	c.sync(t, h)
	h.exec(t, `UPDATE credit_grants SET updated = '2031-01-01T00:00:00.000000Z', name = 'forged'`)
	ids := []string{c.grants[0].ID}
	if damaged, err := h.Damaged(t.Context(), c.target(), ids); err != nil || !damaged {
		t.Fatalf("damaged %v, %v", damaged, err)
	}
	c.sync(t, h)
	requireCredits(t, h, c)
	h.exec(t, `UPDATE credit_grants SET voided_at = '2026-01-01T00:00:00.000000Z'`)
	if damaged, err := h.Damaged(t.Context(), c.target(), ids); err != nil || !damaged {
		t.Fatalf("a forged void: damaged %v, %v", damaged, err)
	}
	c.sync(t, h)
	requireCredits(t, h, c)
}

func olderWrite(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 100)
	old := c.grants[0]
	c.edit(time.Minute, "newer")
	c.sync(t, h)
	w := mirror.Write{Target: c.target(), Epoch: begin(t, h, c.target()).Epoch, Grant: &old}
	refuseWrite(t, h, w, mirror.ErrDisproved)
	requireName(t, h, c, "newer")
}

// rowEvent is an event about a row, which its question has passed on.
func rowEvent(t *testing.T, h *Harness, id string, c *credits, row string) {
	t.Helper()
	e := granted(id, c.grants[0].ID)
	e.Object = row
	record(t, h, e)
	noErr(t, h.ResolveEvents(t.Context(), e.Targets()[0], []mirror.Target{c.target()}))
}

func eventWaitsForRow(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	c.sync(t, h)
	at := h.observed(t, c.target())
	late := *c.move(c.grants[0].ID, "eur", -5)
	c.rows = c.rows[:1] // it is not listed yet, and the one after it is
	c.move(c.grants[0].ID, "eur", -7)
	rowEvent(t, h, "evt_late", c, late.ID)
	rowEvent(t, h, "evt_listed", c, c.rows[1].ID)
	snap := c.snapshot(begin(t, h, c.target()), 10)
	var b *mirror.BehindError
	if _, err := h.ApplyCredits(t.Context(), snap); !errors.As(err, &b) || len(b.Unanswered) != 1 || b.Unanswered[0].ID != "evt_late" ||
		b.Unanswered[0].Object != late.ID || !b.Unanswered[0].Created.Equal(epoch0) {
		t.Fatalf("%v, want evt_late unanswered", err)
	}
	snap.Summary["eur"] = mirror.CreditBalance{Ledger: 988, Available: 988} // it knows of the row
	a := behind(t, h, snap)
	if len(a.Answered) != 1 || a.Answered[0].ID != "evt_listed" || a.Inserted != 1 || len(a.Unanswered) != 1 || len(a.Findings) != 0 {
		t.Fatalf("%+v, want one event answered, one left, one row, and lag told as no drift", a)
	}
	requirePending(t, h, "evt_late credits::cus_A")
	st := begin(t, h, c.target())
	if st.HistoryComplete || !h.observed(t, c.target()).Equal(at) {
		t.Fatalf("a history that lacks a row counts as complete (%v) or as fresh", st.HistoryComplete)
	}
	c.rows = append(c.rows, late)
	snap = c.snapshot(begin(t, h, c.target()), 10)
	if a := applyCredits(t, h, snap); len(a.Answered) != 1 || a.Inserted != 1 || len(a.Unanswered) != 0 {
		t.Fatalf("%+v, want the late row and its event", a)
	}
	requirePending(t, h)
	if st := begin(t, h, c.target()); !st.HistoryComplete || !h.observed(t, c.target()).After(at) {
		t.Fatalf("%+v, want a complete history", st)
	}
}

func grantUpdated(id string, c *credits, at time.Time) mirror.Event {
	return mirror.Event{
		ID: id, Type: "billing.credit_grant.updated", Created: at, Customer: c.customer, Object: c.grants[0].ID, Updated: at,
	}
}

func eventWaitsForGrant(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	c.sync(t, h)
	when := c.now.Add(time.Minute)
	record(t, h, grantUpdated("evt_1", c, when), grantUpdated("evt_old", c, c.now))
	if waiting, err := h.PendingEvents(t.Context(), 0, 10); err != nil || !waiting[0].Event.Updated.Equal(when) {
		t.Fatalf("pending %+v, %v, want the time of the update", waiting, err)
	}
	a := behind(t, h, c.snapshot(begin(t, h, c.target()), 10))
	if len(a.Answered) != 1 || a.Answered[0].ID != "evt_old" {
		t.Fatalf("answered %+v, want evt_old", a.Answered)
	}
	requirePending(t, h, "evt_1 credits::cus_A")
	if st := begin(t, h, c.target()); !st.HistoryComplete {
		t.Fatal("all rows are held")
	}
	c.edit(time.Minute, "newer")
	c.sync(t, h)
	requirePending(t, h)

	// A grant that is held nowhere, and an event that has no time.
	unknown := grantUpdated("evt_2", c, when)
	unknown.Object, unknown.Updated = "credgr_unknown", time.Time{}
	timeless := grantUpdated("evt_3", c, when)
	timeless.Updated = time.Time{}
	record(t, h, unknown, timeless)
	behind(t, h, c.snapshot(begin(t, h, c.target()), 10))
	requirePending(t, h, "evt_2 credits::cus_A")
	if _, err := h.ApplyTombstone(t.Context(), mirror.Tombstone{
		Target: c.target(), Epoch: begin(t, h, c.target()).Epoch, EventSeq: 1 << 40, ObservedAt: c.now,
	}); err != nil {
		t.Fatal(err)
	}
	requirePending(t, h) // nothing will be shown of a customer that is gone
}

func namedEventWaits(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	c.sync(t, h)
	snap := c.snapshot(begin(t, h, c.target()), 10)
	snap.Events = []mirror.EventRef{
		{ID: "evt_row", Type: "billing.credit_balance_transaction.created", Object: "cbtxn_none", Created: epoch0},
		{ID: "evt_held", Type: "billing.credit_balance_transaction.created", Object: c.rows[0].ID, Created: epoch0},
		{ID: "evt_grant", Type: "billing.credit_grant.updated", Object: c.grants[0].ID, Created: epoch0, Updated: c.now.Add(time.Hour)},
		{Type: "billing.credit_grant.updated", Object: c.grants[0].ID, Updated: c.now},
	}
	a := behind(t, h, snap)
	if len(a.Answered) != 1 || a.Answered[0].ID != "evt_held" {
		t.Fatalf("answered %+v", a.Answered)
	}
	requireReceipts(t, h, "", []string{"evt_row", "evt_held", "evt_grant"}, mirror.ReceiptNew, mirror.ReceiptApplied, mirror.ReceiptNew)
	snap = c.snapshot(begin(t, h, c.target()), 10)
	snap.Events = []mirror.EventRef{{Type: "billing.credit_grant.updated", Object: c.grants[0].ID, Updated: c.now.Add(time.Hour)}}
	refuseCredits(t, h, snap, mirror.ErrBehind) // of a write of ours, whose event is not known yet
}

func letterOfAWaitingEvent(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	c.sync(t, h)
	rowEvent(t, h, "evt_1", c, "cbtxn_late")
	d := letter(c.target())
	d.EventIDs = []string{"evt_0", "evt_1"}
	noErr(t, h.SaveDeadLetter(t.Context(), d))
	behind(t, h, c.snapshot(begin(t, h, c.target()), 10))
	if n := len(letters(t, h)); n != 1 {
		t.Fatalf("%d letters after a commit that did not answer its event, want 1", n)
	}
	c.rows = append(c.rows, c.rows[0])
	c.rows[1].ID, c.rows[1].Amount = "cbtxn_late", 0
	c.renderRow(1)
	c.sync(t, h)
	if list := letters(t, h); len(list) != 0 {
		t.Fatalf("%s is left", fmt.Sprint(list))
	}
}

func newestEventAt(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	if st := begin(t, h, mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_A"}); !st.EventAt.IsZero() {
		t.Fatalf("%+v, want no time", st)
	}
	e := updated("", "evt_1", "cus_A")
	later := e
	later.ID, later.Created = "evt_2", e.Created.Add(time.Minute)
	record(t, h, later, e)
	if st := begin(t, h, mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_A"}); !st.EventAt.Equal(later.Created) {
		t.Fatalf("%+v, want the time of evt_2", st)
	}
	if st := begin(t, h, c.target()); !st.EventAt.IsZero() {
		t.Fatalf("%+v, want no time for the other ledger", st)
	}
}

func clockTime(t *testing.T, h *Harness) {
	l, c := newLedger("", "cus_A"), newCredits("", "cus_A")
	l.testClock = "clock_1"
	l.sync(t, h)
	c.grant("eur", 1000)
	stands := func(want time.Time) {
		t.Helper()
		v, err := h.Customer(t.Context(), "", "cus_A")
		if err != nil || !v.ClockTime.Equal(want) {
			t.Fatalf("the clock stands at %v, %v, want %v", v.ClockTime, err, want)
		}
	}
	stands(time.Time{})
	for _, step := range []time.Duration{0, time.Hour, time.Minute} {
		snap := c.snapshot(begin(t, h, c.target()), 10)
		snap.Clock = mirror.TestClock{ID: "clock_1", Frozen: epoch0.Add(step)}
		applyCredits(t, h, snap)
		stands(epoch0.Add(max(step, map[time.Duration]time.Duration{time.Minute: time.Hour}[step])))
	}
	c.sync(t, h) // the key may not read clocks any more
	stands(epoch0.Add(time.Hour))
}
