package mirrortest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func noticeCases() []testCase {
	return []testCase{
		{"I15_OpenedAndClosedAreToldOnce", noticesOfAFinding},
		{"InTheOrderOfTheirTimes", noticesInOrder},
		{"NoClosingBeforeItsOpening", noticesOfOneTime},
		{"HistoryIsNotTold", noticesSince},
		{"I20_OfEveryAccount", noticesOfAccounts},
		{"MarksOutliveWhatHappensToTheRow", noticesAndCommits},
	}
}

// untold lists what waits to be sent as step/customer, a page of the given size.
func untold(t *testing.T, h *Harness, since time.Time, limit int) ([]string, []mirror.Notice) {
	t.Helper()
	list, err := h.PendingNotices(t.Context(), since, limit)
	noErr(t, err)
	var texts []string
	for _, n := range list {
		step := "opened"
		if n.Closed {
			step = "closed"
		}
		texts = append(texts, step+"/"+n.Finding.Customer)
	}
	return texts, list
}

func requireUntold(t *testing.T, h *Harness, since time.Time, want ...string) []mirror.Notice {
	t.Helper()
	got, list := untold(t, h, since, 1000)
	if !slices.Equal(got, want) {
		t.Fatalf("untold %q, want %q", got, want)
	}
	if n, err := h.CountNotices(t.Context(), since); err != nil || n != int64(len(want)) {
		t.Fatalf("%d count as untold, %v, want %d", n, err, len(want))
	}
	return list
}

// find opens a finding of a customer at a time.
func find(t *testing.T, h *Harness, account, customer string, at time.Time) {
	t.Helper()
	h.open(t, mirror.Finding{
		Kind: mirror.DriftChainGap, Account: account, Customer: customer, Scope: mirror.ScopeBalance, Currency: "usd",
		Object: "evt_" + customer, Expected: "-5", Actual: "7", Cause: mirror.CauseMissedEvent, FoundAt: at,
	})
}

func noticesOfAFinding(t *testing.T, h *Harness) {
	requireUntold(t, h, epoch0)
	find(t, h, "", "cus_A", epoch0)
	n := requireUntold(t, h, epoch0, "opened/cus_A")[0]
	want := mirror.Finding{
		ID: n.Finding.ID, Kind: mirror.DriftChainGap, Customer: "cus_A", Scope: mirror.ScopeBalance, Currency: "usd",
		Object: "evt_cus_A", Expected: "-5", Actual: "7", Cause: mirror.CauseMissedEvent, FoundAt: epoch0,
	}
	if n.Finding != want || want.ID == "" || !n.At.Equal(epoch0) {
		t.Fatalf("%+v, want %+v", n, want)
	}
	requireUntold(t, h, epoch0, "opened/cus_A") // listing is not sending
	noErr(t, h.MarkNotice(t.Context(), n))
	requireUntold(t, h, epoch0)

	newLedger("", "cus_A").sync(t, h)
	n = requireUntold(t, h, epoch0, "closed/cus_A")[0]
	if n.Finding.RepairedAt.IsZero() || !n.At.Equal(n.Finding.RepairedAt) || n.Finding.ID != want.ID {
		t.Fatalf("%+v", n)
	}
	noErr(t, h.MarkNotice(t.Context(), n))
	n.Closed = false
	noErr(t, h.MarkNotice(t.Context(), n)) // late, and once more
	requireUntold(t, h, epoch0)

	find(t, h, "", "cus_A", epoch0.Add(time.Hour)) // again
	requireUntold(t, h, epoch0, "opened/cus_A")
}

func noticesInOrder(t *testing.T, h *Harness) {
	for i, id := range []string{"cus_C", "cus_A", "cus_B", "cus_D"} {
		find(t, h, "", id, epoch0.Add(time.Duration(i)*time.Second))
	}
	newLedger("", "cus_B").sync(t, h)
	newLedger("", "cus_C").sync(t, h)
	all := []string{"opened/cus_C", "opened/cus_A", "opened/cus_B", "opened/cus_D", "closed/cus_B", "closed/cus_C"}
	requireUntold(t, h, epoch0, all...)
	for limit := 1; limit <= len(all); limit++ {
		if got, _ := untold(t, h, epoch0, limit); !slices.Equal(got, all[:limit]) {
			t.Fatalf("the first %d: %q", limit, got)
		}
	}
	for len(all) > 0 { // one after the other, as they are sent
		_, list := untold(t, h, epoch0, 1)
		noErr(t, h.MarkNotice(t.Context(), list[0]))
		all = all[1:]
		requireUntold(t, h, epoch0, all...)
	}
}

// Clocks of several machines differ: a finding may be closed before it was found.
func noticesOfOneTime(t *testing.T, h *Harness) {
	late := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Microsecond)
	for i := range 20 {
		id := fmt.Sprintf("cus_%02d", i)
		h.open(t, mirror.Finding{Kind: mirror.DriftChainGap, Customer: id, Scope: mirror.ScopeBalance, FoundAt: late})
		newLedger("", id).sync(t, h)
	}
	for limit := 1; limit <= 40; limit++ {
		list, _ := untold(t, h, epoch0, limit)
		if len(list) != limit {
			t.Fatalf("%d of %d", len(list), limit)
		}
		for i, what := range list {
			if closed, ok := cutClosed(what); ok && !slices.Contains(list[:i], "opened/"+closed) {
				t.Fatalf("of the first %d: %q before its opening in %q", limit, what, list)
			}
		}
	}
	_, list := untold(t, h, epoch0, 40)
	if last := list[len(list)-1]; !last.At.Equal(late) {
		t.Fatalf("closed at %v, which is before it was found at %v", last.At, late)
	}
}

func cutClosed(what string) (customer string, ok bool) {
	if len(what) > 7 && what[:7] == "closed/" {
		return what[7:], true
	}
	return "", false
}

func noticesSince(t *testing.T, h *Harness) {
	at := time.Now().Add(time.Hour)
	find(t, h, "", "cus_old", epoch0)
	find(t, h, "", "cus_open", epoch0)
	newLedger("", "cus_old").sync(t, h)
	find(t, h, "", "cus_new", at)
	requireUntold(t, h, at, "opened/cus_new")
	// Nobody heard of its opening, so nobody hears of its end.
	requireUntold(t, h, epoch0.Add(time.Second), "opened/cus_new")
	newLedger("", "cus_open").sync(t, h)
	requireUntold(t, h, epoch0.Add(time.Second), "opened/cus_new")
	requireUntold(t, h, at.Add(time.Second))
}

func noticesOfAccounts(t *testing.T, h *Harness) {
	find(t, h, "", "cus_A", epoch0)
	find(t, h, "acct_1", "cus_A", epoch0.Add(time.Second))
	list := requireUntold(t, h, epoch0, "opened/cus_A", "opened/cus_A")
	if list[0].Finding.Account != "" || list[1].Finding.Account != "acct_1" {
		t.Fatalf("%+v", list)
	}
	noErr(t, h.MarkNotice(t.Context(), list[1]))
	if list = requireUntold(t, h, epoch0, "opened/cus_A"); list[0].Finding.Account != "" {
		t.Fatalf("%+v", list)
	}
	list[0].Finding.Account = "acct_2" // of which there is none
	noErr(t, h.MarkNotice(t.Context(), list[0]))
	requireUntold(t, h, epoch0, "opened/cus_A")
}

// What a full read finds and repairs at once is sent as opened and closed; a mark
// stands, whatever a sync writes to the row meanwhile.
func noticesAndCommits(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for range 2 {
		l.add("eur", -1)
	}
	l.sync(t, h)
	l.rows[0].Description = "edited"
	l.render(0)
	l.now = l.now.Add(time.Hour)
	since := l.now
	if a := l.sync(t, h); len(a.Repaired) != 1 {
		t.Fatalf("repaired %+v", a.Repaired)
	}
	list := requireUntold(t, h, since, "opened/cus_A", "closed/cus_A")
	noErr(t, h.MarkNotice(t.Context(), list[1])) // with its closing the opening is sent
	requireUntold(t, h, since)

	find(t, h, "", "cus_A", since)
	opening := requireUntold(t, h, since, "opened/cus_A")[0]
	l.now = l.now.Add(time.Hour)
	l.sync(t, h) // closes it before the mark is made
	noErr(t, h.MarkNotice(t.Context(), opening))
	requireUntold(t, h, since, "closed/cus_A")
}
