package mirrortest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// RunConsole runs the suite of mirror.Operations and mirror.Lookout. open is that of
// Run.
func RunConsole(t *testing.T, open func(t *testing.T) mirror.Store) {
	runCases(t, open, []testCase{
		{"ActionsBegunAndEnded", actionsEnded},
		{"ActionsNeverChange", actionsNeverChange},
		{"ActionsListedNewestFirst", actionsListed},
		{"FindingsAccepted", findingsAccepted},
		{"Sessions", sessions},
		{"CustomersInEveryOrder", customersInOrder},
		{"CustomersUnprovenAndDeleted", customersInSets},
		{"WhoHas", whoHas},
		{"Timeline", timeline},
		{"FindingsNewestFirst", findingsNewest},
		{"LettersGroupedAndFiltered", lettersGrouped},
		{"WritesNewestFirst", writesNewest},
		{"Events", inboxListed},
	})
}

func operations(t *testing.T, h *Harness) mirror.Operations {
	t.Helper()
	o, ok := h.Store.(mirror.Operations)
	if !ok {
		t.Fatalf("%T is no mirror.Operations", h.Store)
	}
	return o
}

func lookout(t *testing.T, h *Harness) mirror.Lookout {
	t.Helper()
	l, ok := h.Store.(mirror.Lookout)
	if !ok {
		t.Fatalf("%T is no mirror.Lookout", h.Store)
	}
	return l
}

func operatorAction(n int, kind mirror.ActionKind, object string) mirror.OperatorAction {
	return mirror.OperatorAction{
		Account: "acct_1", ID: fmt.Sprintf("act_%03d", n), Created: writeNow().Add(time.Duration(n) * time.Second), Actor: "on-call",
		RemoteAddr: "192.0.2.1", Action: kind, Customer: "cus_a", Object: object, Reason: "because",
	}
}

func done(a mirror.OperatorAction) mirror.OperatorAction {
	a.Outcome, a.Count, a.Detail = mirror.ActionDone, 12, "marked"
	return a
}

func actionsEnded(t *testing.T, h *Harness) {
	o, a := operations(t, h), operatorAction(1, mirror.ActionSync, "cus_a")
	noErr(t, o.BeginAction(t.Context(), a))
	noErr(t, o.BeginAction(t.Context(), a)) // its answer was lost
	got, err := o.Actions(t.Context(), mirror.ActionFilter{}, 10)
	if err != nil || len(got) != 1 || got[0] != a {
		t.Fatalf("begun: %+v, %v", got, err)
	}
	failed := a
	failed.Outcome = mirror.ActionFailed
	for _, end := range []mirror.OperatorAction{done(a), failed} { // the second changes nothing
		noErr(t, o.EndAction(t.Context(), end))
	}
	got, err = o.Actions(t.Context(), mirror.ActionFilter{}, 10)
	if err != nil || len(got) != 1 || got[0] != done(a) {
		t.Fatalf("ended: %+v, %v", got, err)
	}
}

func actionsNeverChange(t *testing.T, h *Harness) {
	o := operations(t, h)
	young, old := done(operatorAction(1, mirror.ActionDrop, "dead_1")), done(operatorAction(2, mirror.ActionDrop, "dead_2"))
	old.Created = time.Now().Add(-40 * 24 * time.Hour).UTC().Truncate(time.Microsecond)
	for _, a := range []mirror.OperatorAction{young, old} {
		noErr(t, o.BeginAction(t.Context(), a))
	}
	if h.Exec != nil {
		for _, change := range []string{
			`UPDATE operator_actions SET reason = 'another'`, `UPDATE operator_actions SET outcome = ''`, `DELETE FROM operator_actions WHERE id = 'act_001'`,
		} {
			if err := h.Exec(t.Context(), change); err == nil {
				t.Errorf("done: %s", change)
			}
		}
	}
	n, err := o.PruneActions(t.Context(), time.Now().Add(time.Hour))
	if err != nil || n != 1 {
		t.Fatalf("pruned %d, %v", n, err)
	}
	if got, err := o.Actions(t.Context(), mirror.ActionFilter{}, 10); err != nil || len(got) != 1 || got[0] != young {
		t.Fatalf("%+v, %v", got, err)
	}
}

func actionsListed(t *testing.T, h *Harness) {
	o := operations(t, h)
	for n := range 7 {
		a := operatorAction(n/2, mirror.ActionSync, fmt.Sprintf("obj_%d", n)) // two of each time
		a.ID = fmt.Sprintf("act_%d", n)
		if n == 3 {
			a.Account, a.Actor, a.Action, a.Customer = "", "other", mirror.ActionDrop, ""
		}
		noErr(t, o.BeginAction(t.Context(), a))
	}
	var all []string
	f := mirror.ActionFilter{}
	for {
		page, err := o.Actions(t.Context(), f, 2)
		noErr(t, err)
		for _, a := range page {
			all = append(all, a.ID)
			f.Before, f.BeforeID = a.Created, a.ID
		}
		if len(page) < 2 {
			break
		}
	}
	if want := []string{"act_6", "act_5", "act_4", "act_3", "act_2", "act_1", "act_0"}; !slices.Equal(all, want) {
		t.Errorf("in pages: %q", all)
	}
	for _, c := range []struct {
		f    mirror.ActionFilter
		want int
	}{
		{mirror.ActionFilter{Accounts: []string{""}}, 1},
		{mirror.ActionFilter{Accounts: []string{}}, 0},
		{mirror.ActionFilter{Accounts: []string{"", "acct_1"}}, 7},
		{mirror.ActionFilter{Customer: "cus_a"}, 6},
		{mirror.ActionFilter{Object: "obj_2"}, 1},
		{mirror.ActionFilter{Actor: "other"}, 1},
		{mirror.ActionFilter{Action: mirror.ActionDrop}, 1},
	} {
		if got, err := o.Actions(t.Context(), c.f, 10); err != nil || len(got) != c.want {
			t.Errorf("%+v: %d, %v; want %d", c.f, len(got), err, c.want)
		}
	}
}

func findingsAccepted(t *testing.T, h *Harness) {
	o := operations(t, h)
	n := 0
	act := func(kind mirror.ActionKind, finding string, end func(mirror.OperatorAction) mirror.OperatorAction) {
		n++
		a := operatorAction(n, kind, finding)
		noErr(t, o.BeginAction(t.Context(), a))
		if end != nil {
			noErr(t, o.EndAction(t.Context(), end(a)))
		}
	}
	act(mirror.ActionAccept, "drift_1", done)
	act(mirror.ActionAccept, "drift_2", done)
	act(mirror.ActionWithdraw, "drift_2", done)
	act(mirror.ActionAccept, "drift_3", nil) // never done
	act(mirror.ActionAccept, "drift_4", done)
	act(mirror.ActionWithdraw, "drift_4", done)
	act(mirror.ActionAccept, "drift_4", done)
	act(mirror.ActionSync, "drift_5", done)
	got, err := o.Accepted(t.Context(), []string{"drift_1", "drift_2", "drift_3", "drift_4", "drift_5", "drift_6"})
	noErr(t, err)
	if len(got) != 2 || got["drift_1"].ID != "act_001" || got["drift_4"].ID != "act_007" || got["drift_4"].Reason != "because" {
		t.Errorf("%+v", got)
	}
	if none, err := o.Accepted(t.Context(), nil); err != nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
}

func sessions(t *testing.T, h *Harness) {
	o := operations(t, h)
	v := mirror.Session{ID: "abc", Key: "on-call", Bond: "b", Created: writeNow(), Expires: writeNow().Add(time.Hour)}
	old := v
	old.ID, old.Expires = "old", v.Created
	for _, v := range []mirror.Session{v, old} {
		noErr(t, o.SaveSession(t.Context(), v))
	}
	if got, err := o.Session(t.Context(), "abc"); err != nil || got != v {
		t.Errorf("%+v, %v", got, err)
	}
	noErr(t, o.PruneSessions(t.Context(), v.Created.Add(time.Second)))
	if _, err := o.Session(t.Context(), "old"); !errors.Is(err, mirror.ErrNotFound) {
		t.Errorf("after pruning: %v", err)
	}
	for range 2 {
		noErr(t, o.DropSession(t.Context(), "abc"))
	}
	if _, err := o.Session(t.Context(), "abc"); !errors.Is(err, mirror.ErrNotFound) {
		t.Errorf("after its end: %v", err)
	}
}

// inPages follows a list of customers to its end, two at a time.
func inPages(t *testing.T, l mirror.Lookout, q mirror.CustomerQuery) []mirror.FoundCustomer {
	t.Helper()
	var all []mirror.FoundCustomer
	q.Limit = 2
	for range 100 {
		page, err := l.FindCustomers(t.Context(), q)
		noErr(t, err)
		all = append(all, page...)
		if len(page) < q.Limit {
			return all
		}
		place := page[len(page)-1].Place
		q.After = &place
	}
	t.Fatal("the list does not end")
	return nil
}

func idsOf(list []mirror.FoundCustomer) (ids []string) {
	for _, f := range list {
		ids = append(ids, f.Customer)
	}
	return ids
}

func customersInOrder(t *testing.T, h *Harness) {
	l := lookout(t, h)
	for n, amount := range []int64{-500, 0, 300, -500, 7} {
		c := newLedger("", fmt.Sprintf("cus_%d", n))
		c.now = c.now.Add(time.Duration(n) * time.Minute)
		c.add("usd", amount)
		c.sync(t, h)
	}
	other := newLedger("", "cus_eur")
	other.add("eur", -1)
	other.sync(t, h)
	elsewhere := newLedger("acct_1", "cus_9")
	elsewhere.add("usd", -9)
	elsewhere.sync(t, h)
	credit := newCredits("", "cus_2")
	credit.grant("usd", 900)
	credit.sync(t, h)

	usd := mirror.CustomerQuery{Ledger: mirror.ScopeBalance, Currency: "usd"}
	for _, c := range []struct {
		order mirror.CustomerOrder
		want  []string
	}{
		{mirror.ByID, []string{"cus_0", "cus_1", "cus_2", "cus_3", "cus_4", "cus_eur"}},
		{mirror.ByAmount, []string{"cus_0", "cus_3", "cus_1", "cus_4", "cus_2"}},
		{mirror.ByAmountDn, []string{"cus_2", "cus_4", "cus_1", "cus_3", "cus_0"}},
	} {
		q := usd
		q.Order = c.order
		got := inPages(t, l, q)
		if !slices.Equal(idsOf(got), c.want) {
			t.Errorf("%s: %q, want %q", c.order, idsOf(got), c.want)
		}
		for _, f := range got {
			if !f.Proven || !f.BalanceComplete || f.BalanceSyncedAt.IsZero() || f.Customer == "cus_0" && f.Balance["usd"] != -500 {
				t.Errorf("%s: %+v", c.order, f)
			}
		}
	}
	q := mirror.CustomerQuery{Ledger: mirror.ScopeCredits, Currency: "usd", Order: mirror.ByAmountDn}
	if got := inPages(t, l, q); len(got) != 1 || got[0].Customer != "cus_2" || got[0].Credits["usd"] != 900 || got[0].Place.Amount != 900 {
		t.Errorf("by credits: %+v", got)
	}
	for order, want := range map[mirror.CustomerOrder]string{mirror.ByFresh: "cus_4", mirror.ByStale: "cus_0"} {
		got := inPages(t, l, mirror.CustomerQuery{Ledger: mirror.ScopeBalance, Order: order})
		sorted := slices.IsSortedFunc(got, func(a, b mirror.FoundCustomer) int { return a.Place.At.Compare(b.Place.At) })
		if order == mirror.ByFresh {
			sorted = slices.IsSortedFunc(got, func(a, b mirror.FoundCustomer) int { return b.Place.At.Compare(a.Place.At) })
		}
		if len(got) != 6 || !sorted || order == mirror.ByFresh && got[0].Customer != want {
			t.Errorf("%s: %q", order, idsOf(got))
		}
	}
	all := inPages(t, l, mirror.CustomerQuery{Ledger: mirror.ScopeBalance, Order: mirror.ByFresh})
	since := all[1].Place.At
	if got := inPages(t, l, mirror.CustomerQuery{Ledger: mirror.ScopeBalance, Order: mirror.ByFresh, Since: since}); len(got) != 2 {
		t.Errorf("since %v: %q", since, idsOf(got))
	}
	if got := inPages(t, l, mirror.CustomerQuery{Account: "acct_none"}); len(got) != 0 {
		t.Errorf("of no account: %q", idsOf(got))
	}
}

func customersInSets(t *testing.T, h *Harness) {
	l := lookout(t, h)
	for n := range 3 {
		c := newLedger("", fmt.Sprintf("cus_%d", n))
		c.add("usd", -5)
		c.sync(t, h)
	}
	stored(t, h, "", made("", "cus_unread1", 1), made("", "cus_unread2", 1), made("", "cus_unread3", 1))
	gone := newLedger("", "cus_gone")
	gone.add("usd", -5)
	gone.sync(t, h)
	_, err := h.ApplyTombstone(t.Context(), mirror.Tombstone{Target: gone.target(), Epoch: begin(t, h, gone.target()).Epoch, ObservedAt: gone.now})
	noErr(t, err)
	unproven := inPages(t, l, mirror.CustomerQuery{Set: mirror.SetUnproven})
	if want := []string{"cus_unread1", "cus_unread2", "cus_unread3"}; !slices.Equal(idsOf(unproven), want) {
		t.Errorf("unproven: %q", idsOf(unproven))
	}
	for _, f := range unproven {
		if f.Proven || f.BalanceComplete {
			t.Errorf("%+v", f)
		}
	}
	if got := inPages(t, l, mirror.CustomerQuery{Set: mirror.SetDeleted}); len(got) != 1 || !got[0].Deleted || got[0].Customer != "cus_gone" {
		t.Errorf("deleted: %+v", got)
	}
}

func whoHas(t *testing.T, h *Harness) {
	l := lookout(t, h)
	c := newLedger("", "cus_a")
	for n, set := range []func(*mirror.BalanceTransaction){
		func(b *mirror.BalanceTransaction) { b.Invoice = "in_1" },
		func(b *mirror.BalanceTransaction) { b.Invoice = "in_1" },
		func(b *mirror.BalanceTransaction) { b.CreditNote = "cn_1" },
	} {
		set(c.add("usd", int64(-n-1)))
		c.render(n)
	}
	c.sync(t, h)
	credit := newCredits("acct_1", "cus_b")
	grant := credit.grant("usd", 900)
	id := grant.ID
	credit.move(id, "usd", -5).Invoice = "in_2"
	credit.renderRow(len(credit.rows) - 1)
	credit.sync(t, h)
	both := []string{"", "acct_1"}
	for _, q := range []struct {
		accounts []string
		id       string
		want     []mirror.Holder
	}{
		{both, "cus_a", []mirror.Holder{{Account: "", Customer: "cus_a", What: "customer"}}},
		{both, "in_1", []mirror.Holder{{Account: "", Customer: "cus_a", What: "invoice"}}},
		{both, "cn_1", []mirror.Holder{{Account: "", Customer: "cus_a", What: "credit_note"}}},
		{both, id, []mirror.Holder{{Account: "acct_1", Customer: "cus_b", What: "grant"}}},
		{both, "in_2", []mirror.Holder{{Account: "acct_1", Customer: "cus_b", What: "invoice"}}},
		{[]string{""}, "in_2", nil},
		{[]string{}, "in_1", nil},
		{both, "in_none", nil},
	} {
		if got, err := l.WhoHas(t.Context(), q.accounts, q.id); err != nil || !slices.Equal(got, q.want) {
			t.Errorf("%q of %q: %+v, %v", q.id, q.accounts, got, err)
		}
	}
}

func timeline(t *testing.T, h *Harness) {
	l, o := lookout(t, h), operations(t, h)
	at := writeNow()
	target := mirror.Target{Account: "acct_1", Scope: mirror.ScopeBalance, ID: "cus_a"}
	for n := range 3 {
		when := at.Add(time.Duration(n) * time.Second)
		_, err := h.RecordEvents(t.Context(), []mirror.Event{{
			ID: fmt.Sprintf("evt_%d", n), Type: "customer.updated", Account: "acct_1", Created: when, Object: "cus_a", Customer: "cus_a",
		}})
		noErr(t, err)
		_, err = h.OpenFindings(t.Context(), []mirror.Finding{{
			Kind: mirror.DriftFieldMismatch, Account: "acct_1", Customer: "cus_a", Scope: mirror.ScopeBalance, Object: fmt.Sprint(n), Expected: "a", Actual: "b", FoundAt: when,
		}})
		noErr(t, err)
		w := apiWrite(n, -1, mirror.APIDone)
		noErr(t, journal(t, h).EndAPIWrite(t.Context(), w))
		noErr(t, o.BeginAction(t.Context(), operatorAction(n, mirror.ActionSync, "cus_a")))
	}
	noErr(t, h.SaveDeadLetter(t.Context(), mirror.DeadLetter{ID: mirror.DeadLetterID(target), Target: target, Reason: "no", FirstFailedAt: at, LastFailedAt: at}))
	got, err := l.Timeline(t.Context(), "acct_1", "cus_a", at.Add(time.Hour), 2)
	noErr(t, err)
	if len(got.Events) != 2 || got.Events[0].ID != "evt_2" || !got.Events[0].Pending || got.Events[0].Received.IsZero() || got.Events[0].Type != "customer.updated" {
		t.Errorf("events %+v", got.Events)
	}
	if len(got.Findings) != 2 || got.Findings[0].Object != "2" || len(got.Writes) != 2 || got.Writes[0].ID != "req_002" ||
		len(got.Actions) != 2 || got.Actions[0].ID != "act_002" || len(got.Letters) != 1 {
		t.Errorf("%+v", got)
	}
	got, err = l.Timeline(t.Context(), "acct_1", "cus_a", at.Add(time.Second), 10)
	if err != nil || len(got.Events) != 1 || len(got.Findings) != 1 || len(got.Writes) != 1 || len(got.Actions) != 1 {
		t.Errorf("before the second one: %+v, %v", got, err)
	}
	if got, err := l.Timeline(t.Context(), "", "cus_a", at.Add(time.Hour), 10); err != nil || len(got.Events)+len(got.Findings)+len(got.Writes)+len(got.Actions)+len(got.Letters) > 0 {
		t.Errorf("of another account: %+v, %v", got, err)
	}
	c := newLedger("", "cus_c")
	c.add("usd", 5)
	c.sync(t, h)
	states, err := l.LedgerStates(t.Context(), "", "cus_c")
	if err != nil || len(states) != 1 || states[0].Scope != mirror.ScopeBalance || !states[0].Complete || states[0].ObservedAt.IsZero() || states[0].Walking {
		t.Errorf("%+v, %v", states, err)
	}
}

func findingsNewest(t *testing.T, h *Harness) {
	l := lookout(t, h)
	at := writeNow()
	for n := range 5 {
		f := mirror.Finding{
			Kind: mirror.DriftFieldMismatch, Customer: "cus_a", Scope: mirror.ScopeBalance, Object: fmt.Sprint(n), Expected: "a", Actual: "b", FoundAt: at.Add(time.Duration(n/2) * time.Second),
		}
		if n == 4 {
			f.Account, f.Kind, f.Scope, f.Customer = "acct_1", mirror.DriftSummaryMismatch, mirror.ScopeCredits, "cus_b"
		}
		_, err := h.OpenFindings(t.Context(), []mirror.Finding{f})
		noErr(t, err)
	}
	seen := map[string]bool{}
	q := mirror.FindingList{Limit: 2}
	last := time.Now().Add(time.Hour)
	for {
		page, err := l.FindingList(t.Context(), q)
		noErr(t, err)
		for _, f := range page {
			if f.FoundAt.After(last) || seen[f.ID] {
				t.Errorf("out of order or twice: %+v", f)
			}
			last, seen[f.ID] = f.FoundAt, true
			q.Before, q.BeforeID = f.FoundAt, f.ID
			if one, err := l.FindingByID(t.Context(), f.ID); err != nil || one != f {
				t.Errorf("by id: %+v, %v", one, err)
			}
		}
		if len(page) < 2 {
			break
		}
	}
	if len(seen) != 5 {
		t.Errorf("%d findings in pages", len(seen))
	}
	for _, c := range []struct {
		q    mirror.FindingList
		want int
	}{
		{mirror.FindingList{Accounts: []string{"acct_1"}}, 1},
		{mirror.FindingList{Accounts: []string{}}, 0},
		{mirror.FindingList{Kind: mirror.DriftFieldMismatch}, 4},
		{mirror.FindingList{Customer: "cus_b"}, 1},
		{mirror.FindingList{Scope: mirror.ScopeBalance}, 4},
		{mirror.FindingList{Closed: true}, 0},
	} {
		c.q.Limit = 10
		if got, err := l.FindingList(t.Context(), c.q); err != nil || len(got) != c.want {
			t.Errorf("%+v: %d, %v", c.q, len(got), err)
		}
	}
	if _, err := l.FindingByID(t.Context(), "drift_none"); !errors.Is(err, mirror.ErrNotFound) {
		t.Errorf("none: %v", err)
	}
}

func lettersGrouped(t *testing.T, h *Harness) {
	l := lookout(t, h)
	at := writeNow()
	for n := range 9 {
		target := mirror.Target{Account: "acct_1", Scope: mirror.ScopeBalance, ID: fmt.Sprintf("cus_%08d", n)}
		reason := fmt.Sprintf("stripe GET /v1/customers: status 404: no such customer: cus_%08d", n)
		switch {
		case n == 7:
			target.Account = ""
		case n == 8:
			target.Scope, reason = mirror.ScopeCredits, "stripe GET /v1/x: status 500"
		}
		when := at.Add(time.Duration(n) * time.Second)
		noErr(t, h.SaveDeadLetter(t.Context(), mirror.DeadLetter{
			ID: mirror.DeadLetterID(target), Target: target, Reason: reason, Attempts: 12, FirstFailedAt: when, LastFailedAt: when.Add(time.Minute),
		}))
	}
	groups, err := l.LetterGroups(t.Context(), mirror.LetterFilter{}, 10)
	noErr(t, err)
	if len(groups) != 2 || groups[0].Count != 8 || groups[0].Class != "stripe GET /v1/customers: status 404: no such customer: cus_…" ||
		!groups[0].First.Equal(at) || !groups[0].Newest.Equal(at.Add(7*time.Second+time.Minute)) || groups[0].Reason == "" || groups[1].Scope != mirror.ScopeCredits {
		t.Fatalf("%+v", groups)
	}
	for _, c := range []struct {
		f    mirror.LetterFilter
		want int
	}{
		{mirror.LetterFilter{}, 9},
		{mirror.LetterFilter{Class: groups[0].Class}, 8},
		{mirror.LetterFilter{Class: groups[0].Class, Accounts: []string{"acct_1"}}, 7},
		{mirror.LetterFilter{Accounts: []string{}}, 0},
		{mirror.LetterFilter{Customer: "cus_00000003"}, 1},
		{mirror.LetterFilter{Scope: mirror.ScopeCredits}, 1},
	} {
		n, err := l.CountLetters(t.Context(), c.f)
		if err != nil || n != int64(c.want) {
			t.Errorf("%+v: %d, %v", c.f, n, err)
		}
		seen, after := 0, ""
		for {
			page, err := l.FindLetters(t.Context(), c.f, after, 2)
			noErr(t, err)
			for _, d := range page {
				if d.ID <= after {
					t.Errorf("%s after %s", d.ID, after)
				}
				after = d.ID
				seen++
			}
			if len(page) < 2 {
				break
			}
		}
		if seen != c.want {
			t.Errorf("%+v: %d in pages, want %d", c.f, seen, c.want)
		}
	}
}

func writesNewest(t *testing.T, h *Harness) {
	l, j := lookout(t, h), journal(t, h)
	for n := range 5 {
		w := apiWrite(n, -1, mirror.APIDone)
		if n == 4 {
			w.Account, w.Outcome, w.Key = "", mirror.APIRefused, "other"
		}
		noErr(t, j.EndAPIWrite(t.Context(), w))
	}
	var ids []string
	for before := (mirror.APIWrite{}); ; {
		page, err := l.NewestAPIWrites(t.Context(), nil, mirror.APIWriteFilter{}, before, 2)
		noErr(t, err)
		for _, w := range page {
			ids = append(ids, w.ID)
			before = w
		}
		if len(page) < 2 {
			break
		}
	}
	if want := []string{"req_004", "req_003", "req_002", "req_001", "req_000"}; !slices.Equal(ids, want) {
		t.Errorf("%q", ids)
	}
	for _, c := range []struct {
		accounts []string
		f        mirror.APIWriteFilter
		want     int
	}{
		{[]string{""}, mirror.APIWriteFilter{}, 1},
		{[]string{}, mirror.APIWriteFilter{}, 0},
		{nil, mirror.APIWriteFilter{Key: "other"}, 1},
		{nil, mirror.APIWriteFilter{Customer: "cus_a"}, 5},
		{nil, mirror.APIWriteFilter{Outcome: mirror.APIRefused}, 1},
		{nil, mirror.APIWriteFilter{From: writeNow().Add(2 * time.Second)}, 3},
		{nil, mirror.APIWriteFilter{To: writeNow().Add(2 * time.Second)}, 2},
	} {
		if got, err := l.NewestAPIWrites(t.Context(), c.accounts, c.f, mirror.APIWrite{}, 10); err != nil || len(got) != c.want {
			t.Errorf("%q %+v: %d, %v", c.accounts, c.f, len(got), err)
		}
	}
}

func inboxListed(t *testing.T, h *Harness) {
	l := lookout(t, h)
	for n := range 3 {
		e := mirror.Event{ID: fmt.Sprintf("evt_%d", n), Type: "customer.updated", Created: epoch0, Object: "cus_a", Customer: "cus_a"}
		if n == 1 {
			e.Account = "acct_1"
		}
		_, err := h.RecordEvents(t.Context(), []mirror.Event{e})
		noErr(t, err)
	}
	if got, err := l.NewestEvents(t.Context(), nil, 2); err != nil || len(got) != 2 || got[0].ID != "evt_2" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := l.NewestEvents(t.Context(), []string{"acct_1"}, 9); err != nil || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if e, err := l.InboxEvent(t.Context(), []string{"", "acct_1"}, "evt_1"); err != nil || e.Account != "acct_1" || !e.Created.Equal(epoch0) || !e.Applied.IsZero() {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := l.InboxEvent(t.Context(), []string{""}, "evt_1"); !errors.Is(err, mirror.ErrNotFound) {
		t.Errorf("of another account: %v", err)
	}
}
