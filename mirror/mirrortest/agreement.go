package mirrortest

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// agreementCases are what two databases once judged differently.
func agreementCases() []testCase {
	cases := []testCase{
		{"RowOfAGrantHeldElsewhere", rowOfForeignGrant},
		{"WhatCannotBeStored", whatCannotBeStored},
		{"FeedIsInOneOrder", feedInOneOrder},
		{"EditOfAGrantWithoutEpoch", grantEditWithoutEpoch},
		{"FindingsHaveOneFormAndOrder", findingsInOneForm},
		{"DueLettersComeInOneOrder", dueInOneOrder},
		{"I18_RehearsalJudgesAndKeepsNothing", rehearsalKeepsNothing},
		{"WrongPositionIsAChainGap", wrongPosition},
		{"DryRunKnowsEveryKind", everyKindIsRehearsed},
	}
	for _, d := range disagreements() {
		cases = append(cases, testCase{"DryRunFindsWhatTheRealOneFinds/" + d.name, func(t *testing.T, h *Harness) { dryAsReal(t, h, d) }})
	}
	return cases
}

// A row that Stripe lists for one customer, of a grant that is another's.
func rowOfForeignGrant(t *testing.T, h *Harness) {
	b := newCredits("acct_1", "cus_B")
	grant := b.grant("eur", 1000).ID
	b.sync(t, h)
	a := newCredits("acct_1", "cus_A")
	a.move(grant, "eur", 100)
	for _, accept := range []bool{false, true} {
		snap := a.snapshot(begin(t, h, a.target()), 1)
		snap.AcceptDisproof = accept
		got, err := h.ApplyCredits(t.Context(), snap)
		if !accept {
			if !errors.Is(err, mirror.ErrDisproved) {
				t.Fatalf("%+v, %v; want the row disproved", got, err)
			}
			continue
		}
		if err != nil || len(got.Findings) != 1 || got.Findings[0].Kind != mirror.DriftOrphan || got.Findings[0].Object != grant {
			t.Fatalf("%+v, %v; want an orphan of %s", got.Findings, err, grant)
		}
	}
}

// What one of the databases will never take is refused by both, by every way in, and
// distinguished from an outage.
func whatCannotBeStored(t *testing.T, h *Harness) {
	ctx := t.Context()
	number := func(raw json.RawMessage) json.RawMessage {
		return append(raw[:len(raw)-1:len(raw)-1], []byte(`,"n":1e1000000}`)...)
	}
	year := time.Date(300000, 1, 1, 0, 0, 0, 0, time.UTC)
	l := newLedger("acct_1", "cus_A")
	l.add("eur", -1)
	l.sync(t, h)
	for name, spoil := range map[string]func(*mirror.BalanceTransaction){
		"number": func(r *mirror.BalanceTransaction) { r.Raw = number(r.Raw) },
		"year":   func(r *mirror.BalanceTransaction) { r.Created = year },
	} {
		longer := newLedger("acct_1", "cus_A")
		longer.add("eur", -1)
		longer.add("eur", -1)
		spoil(&longer.rows[1])
		_, err := h.ApplyWrite(ctx, written(longer))
		requireUnstorable(t, "a write of a row, "+name, err)
		_, err = h.ApplyBalance(ctx, longer.snapshot(begin(t, h, longer.target()), 2))
		requireUnstorable(t, "a sync, "+name, err)
	}
	c := newCredits("acct_1", "cus_A")
	c.grant("eur", 5)
	c.sync(t, h)
	edit := c.grants[0]
	edit.Raw = number(edit.Raw)
	_, err := h.ApplyWrite(ctx, mirror.Write{Target: c.target(), Epoch: begin(t, h, c.target()).Epoch, Grant: &edit})
	requireUnstorable(t, "a write of a grant", err)
	c.grants[0] = edit
	_, err = h.ApplyCredits(ctx, c.snapshot(begin(t, h, c.target()), 1))
	requireUnstorable(t, "a sync of credits", err)
	edit.ID = "credgr_other"
	_, err = h.InsertGrants(ctx, "acct_1", []mirror.CreditGrant{edit})
	requireUnstorable(t, "a grant of the first copy", err)
	customer := newLedger("acct_1", "cus_B").object()
	customer.Raw = number(customer.Raw)
	_, err = h.InsertCustomers(ctx, "acct_1", []mirror.Customer{customer})
	requireUnstorable(t, "a customer of the first copy", err)
	// Such a text within a string is none of it.
	l.add("eur", -1)
	last := &l.rows[1]
	last.Description = "1e1000000"
	last.Raw = edited(last.Raw, func(o map[string]any) { o["description"] = last.Description })
	l.sync(t, h)
}

func requireUnstorable(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, mirror.ErrUnstorable) {
		t.Errorf("%s: %v, want %v", what, err, mirror.ErrUnstorable)
	}
}

// feed is the change feed of acct_1 as table/id/op.
func feed(t *testing.T, h *Harness) []string {
	t.Helper()
	list := h.rows(t, `SELECT table_name, customer, id, op FROM changes WHERE account = 'acct_1' ORDER BY seq`)
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = strings.Join(c, "/")
	}
	return out
}

func feedInOneOrder(t *testing.T, h *Harness) {
	ctx := t.Context()
	b, a := newLedger("acct_1", "cus_B"), newLedger("acct_1", "cus_A")
	for _, l := range []*ledger{b, a} {
		l.add("usd", -1)
		l.add("eur", -1)
	}
	_, err := h.InsertCustomers(ctx, "acct_1", []mirror.Customer{b.object(), a.object()})
	noErr(t, err)
	c := newCredits("acct_1", "cus_C")
	c.grant("eur", 1)
	c.grant("eur", 2)
	first, second := c.grants[0], c.grants[1]
	_, err = h.InsertGrants(ctx, "acct_1", []mirror.CreditGrant{second, first})
	noErr(t, err)
	want := []string{
		"customers/cus_A/cus_A/insert", "customer_balances/cus_A/eur/insert", "customer_balances/cus_A/usd/insert",
		"customers/cus_B/cus_B/insert", "customer_balances/cus_B/eur/insert", "customer_balances/cus_B/usd/insert",
		"credit_grants/cus_C/" + first.ID + "/insert", "credit_grants/cus_C/" + second.ID + "/insert",
	}
	if got := feed(t, h); !slices.Equal(got, want) {
		t.Fatalf("first copy: %q\nwant %q", got, want)
	}
	// A sync that reads new grants as Stripe lists them, newest first.
	d := newCredits("acct_1", "cus_D")
	d.grant("eur", 1)
	d.grant("usd", 2)
	snap := d.snapshot(begin(t, h, d.target()), 2)
	slices.Reverse(snap.Grants)
	applyCredits(t, h, snap)
	want = []string{
		"credit_grants/cus_D/" + d.grants[0].ID + "/insert", "credit_grants/cus_D/" + d.grants[1].ID + "/insert",
		"credit_balance_transactions/cus_D/" + d.rows[0].ID + "/insert", "credit_balance_transactions/cus_D/" + d.rows[1].ID + "/insert",
		"credit_balance_summaries/cus_D/eur/insert", "credit_balance_summaries/cus_D/usd/insert",
	}
	if got := feed(t, h)[8:]; !slices.Equal(got, want) {
		t.Fatalf("sync: %q\nwant %q", got, want)
	}
}

// Both refuse it for the same reason, whether the grant is held or not.
func grantEditWithoutEpoch(t *testing.T, h *Harness) {
	c := newCredits("acct_1", "cus_A")
	c.grant("eur", 5)
	unknown := c.grants[0]
	for range 2 {
		_, err := h.ApplyWrite(t.Context(), mirror.Write{Target: c.target(), Grant: &unknown})
		if err == nil || errors.Is(err, mirror.ErrDisproved) || errors.Is(err, mirror.ErrFenced) {
			t.Errorf("%v, want it told that the edit of a grant needs an epoch", err)
		}
		c.sync(t, h)
	}
}

var findingID = regexp.MustCompile(`^drift_[0-9a-f]{32}$`)

func findingsInOneForm(t *testing.T, h *Harness) {
	list := []mirror.Finding{
		missed("cus_B", "evt_2", epoch0), missed("cus_A", "evt_1", epoch0), missed("cus_B", "evt_1", time.Time{}),
	}
	list[1].Account = "acct_1"
	opened, err := h.OpenFindings(t.Context(), list)
	noErr(t, err)
	for i, f := range opened {
		if f.Account != list[i].Account || f.Customer != list[i].Customer || f.Object != list[i].Object || f.FoundAt.IsZero() {
			t.Errorf("%d: %+v, want them as they were given, with the time", i, f)
		}
	}
	if len(opened) != len(list) {
		t.Fatalf("%d opened, want %d", len(opened), len(list))
	}
	held, err := h.Findings(t.Context(), mirror.FindingsQuery{Limit: 10})
	noErr(t, err)
	for _, f := range held {
		if !findingID.MatchString(f.ID) {
			t.Errorf("id %q", f.ID)
		}
	}
}

// The one that has waited for longest comes first.
func dueInOneOrder(t *testing.T, h *Harness) {
	var ids []string
	for i, name := range []string{"cus_C", "cus_A", "cus_D", "cus_B"} {
		d := letter(mirror.Target{Account: "acct_1", Scope: mirror.ScopeBalance, ID: name})
		d.RetryAt = epoch0.Add(time.Duration(i/2) * time.Minute)
		noErr(t, h.SaveDeadLetter(t.Context(), d))
		ids = append(ids, d.ID)
	}
	slices.Sort(ids[:2])
	slices.Sort(ids[2:])
	due, err := h.DueDeadLetters(t.Context(), epoch0.Add(time.Hour), epoch0.Add(2*time.Hour), 10)
	noErr(t, err)
	var got []string
	for _, d := range due {
		got = append(got, d.ID)
		if !d.RetryAt.Equal(epoch0.Add(2 * time.Hour)) {
			t.Errorf("%s is due at %v", d.ID, d.RetryAt)
		}
	}
	if !slices.Equal(got, ids) {
		t.Errorf("due %q, want %q", got, ids)
	}
}

// tables are all that a rehearsal must leave as it is.
func (h *Harness) tables(t *testing.T) string {
	t.Helper()
	var all []string
	for _, table := range []string{
		"customers", "customer_balances", "customer_balance_transactions", "credit_grants", "credit_balance_transactions",
		"credit_balance_summaries", "sync_state", "stripe_events", "dead_letters", "changes", "drift_findings",
	} {
		for _, row := range h.rows(t, "SELECT * FROM "+table+" ORDER BY 1, 2, 3") {
			all = append(all, table+" "+strings.Join(row, " "))
		}
	}
	return strings.Join(all, "\n")
}

func rehearsalKeepsNothing(t *testing.T, h *Harness) {
	store := h.rehearser(t)
	ctx := t.Context()
	l, c := newLedger("acct_1", "cus_A"), newCredits("acct_1", "cus_A")
	for range 3 {
		l.add("eur", -1)
	}
	c.grant("eur", 5)
	l.sync(t, h)
	c.sync(t, h)
	list, err := store.Histories(ctx, "acct_1", "", 10)
	if err != nil || len(list) != 2 || list[0] != l.target() || list[1] != c.target() {
		t.Fatalf("%+v, %v", list, err)
	}
	if list, err = store.Histories(ctx, "acct_1", "cus_A", 10); err != nil || len(list) != 0 {
		t.Fatalf("after the last: %+v, %v", list, err)
	}
	open := mirror.Finding{Kind: mirror.DriftFieldMismatch, Account: "acct_1", Customer: "cus_A", Scope: mirror.ScopeBalance, Currency: "eur", Object: l.rows[0].ID, FoundAt: epoch0}
	_, err = h.OpenFindings(ctx, []mirror.Finding{open})
	noErr(t, err)
	noErr(t, h.Exec(ctx, `UPDATE customer_balance_transactions SET amount = amount + 1 WHERE id = '`+l.rows[0].ID+`'`))
	noErr(t, h.Exec(ctx, `DELETE FROM customer_balance_transactions WHERE id = '`+l.rows[1].ID+`'`))
	noErr(t, h.Exec(ctx, `UPDATE credit_balance_summaries SET ledger_balance = 7`))
	before := h.tables(t)
	judged := func(fence mirror.Fence) []string {
		var found []string
		st, err := fence.BeginSync(ctx, l.target())
		noErr(t, err)
		if !st.Walk.Full {
			t.Error("the whole history is not asked for")
		}
		a, err := fence.ApplyBalance(ctx, l.snapshot(st, 3))
		noErr(t, err)
		st, err = fence.BeginSync(ctx, c.target())
		noErr(t, err)
		b, err := fence.ApplyCredits(ctx, c.snapshot(st, 1))
		noErr(t, err)
		for _, f := range slices.Concat(a.Repaired, a.Findings, b.Repaired, b.Findings) {
			found = append(found, string(f.Kind)+"/"+f.Customer+"/"+f.Object)
		}
		slices.Sort(found)
		return found
	}
	rehearsed := judged(store.Rehearsal())
	if h.tables(t) != before {
		t.Fatalf("a rehearsal wrote:\n%s\nbefore:\n%s", h.tables(t), before)
	}
	want := []string{"field_mismatch/cus_A/" + l.rows[0].ID, "missing_transaction/cus_A/" + l.rows[1].ID, "summary_mismatch/cus_A/"}
	if !slices.Equal(rehearsed, want) {
		t.Fatalf("rehearsed %q, want %q", rehearsed, want)
	}
	noErr(t, h.Exec(ctx, `DELETE FROM drift_findings`)) // it would be closed, and not reported again
	noErr(t, h.RequestFullRead(ctx, []mirror.Target{l.target(), c.target()}))
	if real := judged(h.Store); !slices.Equal(real, want) {
		t.Fatalf("the real one found %q, want %q", real, want)
	}
	if again := judged(store.Rehearsal()); len(again) != 0 {
		t.Fatalf("once repaired: %q", again)
	}
	gone := newLedger("acct_1", "cus_A").target()
	fence := store.Rehearsal()
	_, err = fence.BeginSync(ctx, gone)
	noErr(t, err)
	a, err := fence.ApplyTombstone(ctx, mirror.Tombstone{Target: gone, ObservedAt: time.Now()})
	if err != nil || len(a.Repaired) != 1 || a.Repaired[0].Kind != mirror.DriftMissingCustomer {
		t.Fatalf("%+v, %v; want the customer told as gone", a, err)
	}
	if v, err := h.Customer(ctx, "acct_1", "cus_A"); err != nil || v.Deleted {
		t.Fatalf("%+v, %v", v, err)
	}
}

// Rows that lie at a wrong place of the chain are moved by a read of the whole history,
// and reported.
func wrongPosition(t *testing.T, h *Harness) {
	ctx := t.Context()
	l := newLedger("acct_1", "cus_A")
	for range 4 {
		l.add("eur", -1)
	}
	l.sync(t, h)
	noErr(t, h.Exec(ctx, `UPDATE customer_balance_transactions SET chain_position = 100 WHERE id = '`+l.rows[3].ID+`'`))
	a := l.sync(t, h)
	if len(a.Repaired) != 1 || a.Repaired[0].Kind != mirror.DriftChainGap || a.Repaired[0].Object != l.rows[3].ID ||
		a.Repaired[0].Expected != "position 4" || a.Repaired[0].Actual != "position 100" {
		t.Fatalf("%+v", a.Repaired)
	}
	requireHeld(t, h, l)
	if a = l.sync(t, h); len(a.Repaired)+len(a.Findings) != 0 {
		t.Fatalf("once more: %+v", a)
	}
}

func (h *Harness) rehearser(t *testing.T) mirror.Rehearser {
	t.Helper()
	store, ok := h.Store.(mirror.Rehearser)
	if !ok {
		t.Fatal("the store cannot rehearse")
	}
	return store
}

// fullSync reads both ledgers whole behind a fence, accepts what does not prove itself,
// and returns what it found, repaired or refused: what a scrub reports.
func fullSync(t *testing.T, fence mirror.Fence, l *ledger, c *credits, reply func(*mirror.BalanceSnapshot, *mirror.CreditsSnapshot)) []mirror.Finding {
	t.Helper()
	ctx := t.Context()
	var found []mirror.Finding
	note := func(target mirror.Target, epoch int64, a mirror.Applied, err error) {
		t.Helper()
		var rewritten *mirror.RewrittenError
		if errors.As(err, &rewritten) {
			_, err = fence.Refuse(ctx, mirror.Refusal{Target: target, Epoch: epoch, ObservedAt: l.now, Findings: rewritten.Findings})
			a.Findings = rewritten.Findings
		}
		noErr(t, err)
		found = slices.Concat(found, a.Repaired, a.Findings)
	}
	lst, err := fence.BeginSync(ctx, l.target())
	noErr(t, err)
	cst, err := fence.BeginSync(ctx, c.target())
	noErr(t, err)
	balance, credit := l.whole(lst), c.snapshot(cst, len(c.rows))
	balance.AcceptDisproof, credit.AcceptDisproof, credit.AllGrants = true, true, true
	if reply != nil {
		reply(&balance, &credit)
	}
	a, err := fence.ApplyBalance(ctx, balance)
	note(l.target(), balance.Epoch, a, err)
	a, err = fence.ApplyCredits(ctx, credit)
	note(c.target(), credit.Epoch, a, err)
	return found
}

// rehearse is a dry run of both ledgers.
func rehearse(t *testing.T, h *Harness, l *ledger, c *credits) []mirror.Finding {
	t.Helper()
	return fullSync(t, h.rehearser(t).Rehearsal(), l, c, nil)
}

// disagreement is a way in which Stripe's reply and the mirror contradict each other
// that no sync repairs at once, so that damages has none of it.
type disagreement struct {
	name string
	kind mirror.DriftKind
	// sql changes the mirror, and move Stripe; reply changes what Stripe answers.
	sql   []string
	move  func(*ledger, *credits)
	reply func(*mirror.BalanceSnapshot, *mirror.CreditsSnapshot)
}

func disagreements() []disagreement {
	return []disagreement{
		{name: "the chain does not end at the balance", kind: mirror.DriftChainGap, reply: func(s *mirror.BalanceSnapshot, _ *mirror.CreditsSnapshot) {
			s.Customer.Balance++
		}},
		{name: "a row at a wrong place", kind: mirror.DriftChainGap, sql: []string{`UPDATE ` + rowsTable + ` SET chain_position = 100` + damagedRow}},
		{name: "another summary", kind: mirror.DriftSummaryMismatch, reply: func(_ *mirror.BalanceSnapshot, s *mirror.CreditsSnapshot) {
			s.Summary["eur"] = mirror.CreditBalance{Ledger: 1, Available: 1}
		}},
		{name: "more than was granted", kind: mirror.DriftGrantOutOfBounds, move: func(_ *ledger, c *credits) { c.move(c.grants[0].ID, "eur", 5000) }},
		{name: "a row of another's grant", kind: mirror.DriftOrphan, move: func(_ *ledger, c *credits) { c.move("credgr_B001", "eur", 1) }},
		{name: "a row of a grant that nobody knows", kind: mirror.DriftOrphan, move: func(_ *ledger, c *credits) { c.move("credgr_none", "eur", 1) }},
		{name: "a grant that is not listed", kind: mirror.DriftUnexpectedTransaction, reply: func(_ *mirror.BalanceSnapshot, s *mirror.CreditsSnapshot) {
			s.Grants = s.Grants[1:]
		}},
		{name: "a row that is not listed", kind: mirror.DriftUnexpectedTransaction, reply: func(s *mirror.BalanceSnapshot, _ *mirror.CreditsSnapshot) {
			s.Windows[0].Rows = slices.Delete(s.Windows[0].Rows, 1, 2)
		}},
		{name: "an amount that was rewritten", kind: mirror.DriftFieldMismatch, reply: func(s *mirror.BalanceSnapshot, _ *mirror.CreditsSnapshot) {
			s.Windows[0].Rows[1].Amount--
		}},
		{name: "a grant that was rewritten", kind: mirror.DriftFieldMismatch, reply: func(_ *mirror.BalanceSnapshot, s *mirror.CreditsSnapshot) {
			s.Grants[0].Amount++
		}},
		{name: "an edit that no event announced", kind: mirror.DriftFieldMismatch, move: func(l *ledger, _ *credits) {
			l.rows[0].Description = "edited"
			l.render(0)
		}},
		{name: "a row that no event announced", kind: mirror.DriftMissingTransaction, move: func(l *ledger, c *credits) {
			l.add("eur", -5)
			l.now = l.now.Add(time.Hour)
			c.now = l.now
		}},
	}
}

// dryAsReal: a dry run finds what the real one does, and leaves everything as it was.
func dryAsReal(t *testing.T, h *Harness, d disagreement) {
	l, c := damagedLedgers(t, h)
	h.exec(t, d.sql...)
	if d.move != nil {
		d.move(l, c)
	}
	before := h.tables(t)
	dry := toldFindings(fullSync(t, h.rehearser(t).Rehearsal(), l, c, d.reply))
	if h.tables(t) != before {
		t.Error("the dry run wrote")
	}
	noErr(t, h.RequestFullRead(t.Context(), []mirror.Target{l.target(), c.target()}))
	found := fullSync(t, h.Store, l, c, d.reply)
	if real := toldFindings(found); !slices.Equal(dry, real) {
		t.Errorf("the dry run found\n%s\nthe real one\n%s", strings.Join(dry, "\n"), strings.Join(real, "\n"))
	}
	if !slices.ContainsFunc(found, func(f mirror.Finding) bool { return f.Kind == d.kind }) {
		t.Errorf("%+v, want one of kind %s", found, d.kind)
	}
}

// everyKindIsRehearsed: no kind that a sync finds is left out of the comparison of dry
// and real runs. A missed event is found by its list, and the books by their seals.
func everyKindIsRehearsed(t *testing.T, _ *Harness) {
	known := map[mirror.DriftKind]bool{}
	for _, d := range damages() {
		for _, want := range d.want {
			kind, _, _ := strings.Cut(want, "|")
			known[mirror.DriftKind(kind)] = true
		}
	}
	for _, d := range disagreements() {
		known[d.kind] = true
	}
	for _, kind := range []mirror.DriftKind{
		mirror.DriftBalanceMismatch, mirror.DriftChainGap, mirror.DriftMissingTransaction, mirror.DriftUnexpectedTransaction,
		mirror.DriftFieldMismatch, mirror.DriftSummaryMismatch, mirror.DriftGrantOutOfBounds, mirror.DriftMissingCustomer, mirror.DriftOrphan,
	} {
		if !known[kind] {
			t.Errorf("no dry run is compared that finds %s", kind)
		}
	}
}
