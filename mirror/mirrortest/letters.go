package mirrortest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func letterCases() []testCase {
	return []testCase{
		{"SaveAndRenew", saveAndRenew},
		{"UnreadableBody", unreadableBody},
		{"NewestEventsAreKept", newestEventsKept},
		{"CommitRemovesTheLetter", commitRemovesLetter},
		{"I10_ListInPagesAndDrop", listAndDrop},
		{"DueAreClaimedOnce", dueClaimedOnce},
		{"OneByID", oneLetter},
		{"CountedByAge", countedByAge},
	}
}

func letter(target mirror.Target) mirror.DeadLetter {
	return mirror.DeadLetter{
		ID: mirror.DeadLetterID(target), Target: target, Reason: "it broke", Attempts: 12,
		EventIDs: []string{"evt_1", "evt_2"}, FirstFailedAt: epoch0, LastFailedAt: epoch0.Add(time.Hour),
		RetryAt: epoch0.Add(2 * time.Hour),
	}
}

func letters(t *testing.T, s mirror.Store) []mirror.DeadLetter {
	t.Helper()
	list, err := s.DeadLetters(t.Context(), "", 1000)
	noErr(t, err)
	return list
}

func saveAndRenew(t *testing.T, h *Harness) {
	d := letter(mirror.Target{Account: "acct_1", Scope: mirror.ScopeBalance, ID: "cus_A"})
	noErr(t, h.SaveDeadLetter(t.Context(), d))
	if got := letters(t, h); len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(d) {
		t.Fatalf("got %+v\nwant %+v", got, d)
	}
	again := d
	again.Reason, again.Attempts = "it broke differently", 11
	again.EventIDs = []string{"evt_2", "evt_3"}
	again.FirstFailedAt, again.LastFailedAt = epoch0.Add(3*time.Hour), epoch0.Add(3*time.Hour)
	noErr(t, h.SaveDeadLetter(t.Context(), again))
	want := again
	want.Attempts = 12 + 11
	want.FirstFailedAt, want.EventIDs = d.FirstFailedAt, []string{"evt_1", "evt_2", "evt_3"}
	if got := letters(t, h); len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Fatalf("got %+v\nwant %+v", got, want)
	}
	noErr(t, h.SaveDeadLetter(t.Context(), again)) // its answer was lost, and it is repeated
	if got := letters(t, h)[0].Attempts; got != want.Attempts {
		t.Fatalf("%d attempts after a repeated save, want %d", got, want.Attempts)
	}
	third := again
	third.Attempts, third.LastFailedAt = 1, again.LastFailedAt.Add(time.Microsecond)
	noErr(t, h.SaveDeadLetter(t.Context(), third))
	if got := letters(t, h)[0]; got.Attempts != want.Attempts+1 || !got.FirstFailedAt.Equal(d.FirstFailedAt) {
		t.Fatalf("%d attempts since %v after a third round, want %d since %v", got.Attempts, got.FirstFailedAt, want.Attempts+1, d.FirstFailedAt)
	}
	totals, err := h.Totals(t.Context())
	if err != nil || totals.DeadLetters != 1 {
		t.Fatalf("totals %+v, %v", totals, err)
	}
}

func unreadableBody(t *testing.T, h *Harness) {
	body := []byte("{\x00\xff not JSON")
	d := mirror.DeadLetter{
		ID: mirror.UnreadableID(body), Reason: "not JSON", Attempts: 1, Payload: body,
		FirstFailedAt: epoch0, LastFailedAt: epoch0,
	}
	noErr(t, h.SaveDeadLetter(t.Context(), d))
	got := letters(t, h)
	if len(got) != 1 || !got[0].RetryAt.IsZero() || got[0].Target != (mirror.Target{}) {
		t.Fatalf("got %+v", got)
	}
	if got[0].Payload != nil {
		t.Fatalf("a list brings a payload of %d bytes", len(got[0].Payload))
	}
	one, err := h.DeadLetter(t.Context(), d.ID)
	if err != nil || !bytes.Equal(one.Payload, body) {
		t.Fatalf("payload %q, %v, want %q", one.Payload, err, body)
	}
	// Bodies have no time of their own; one with a payload is claimed without it.
	d.RetryAt = epoch0
	noErr(t, h.SaveDeadLetter(t.Context(), d))
	if due, err := h.DueDeadLetters(t.Context(), epoch0, epoch0.Add(time.Hour), 10); err != nil || len(due) != 1 || due[0].Payload != nil {
		t.Fatalf("claimed %+v, %v", due, err)
	}
	d.RetryAt = time.Time{}
	noErr(t, h.SaveDeadLetter(t.Context(), d))
	due, err := h.DueDeadLetters(t.Context(), epoch0.Add(1000*time.Hour), epoch0, 10)
	if err != nil || len(due) != 0 {
		t.Fatalf("an unreadable body is due: %v, %v", due, err)
	}
}

func newestEventsKept(t *testing.T, h *Harness) {
	d := letter(mirror.Target{Scope: mirror.ScopeCredits, ID: "cus_A"})
	for i := range 3 {
		d.EventIDs = nil
		for n := range 40 {
			d.EventIDs = append(d.EventIDs, fmt.Sprintf("evt_%d_%02d", i, n))
		}
		noErr(t, h.SaveDeadLetter(t.Context(), d))
	}
	got := letters(t, h)[0].EventIDs
	if len(got) != 64 || got[63] != "evt_2_39" || got[0] != "evt_1_16" {
		t.Fatalf("%d ids from %s to %s, want the newest 64", len(got), got[0], got[len(got)-1])
	}
}

func commitRemovesLetter(t *testing.T, h *Harness) {
	l, c := newLedger("", "cus_A"), newCredits("", "cus_A")
	noErr(t, h.SaveDeadLetter(t.Context(), letter(l.target())))
	noErr(t, h.SaveDeadLetter(t.Context(), letter(c.target())))
	other := l.target()
	other.Account = "acct_1"
	noErr(t, h.SaveDeadLetter(t.Context(), letter(other)))

	fenced := l.whole(begin(t, h, l.target()))
	snap := l.whole(begin(t, h, l.target()))
	if _, err := h.ApplyBalance(t.Context(), fenced); !errors.Is(err, mirror.ErrFenced) {
		t.Fatal(err)
	}
	if n := len(letters(t, h)); n != 3 {
		t.Fatalf("%d letters after a fenced commit, want 3", n)
	}
	applyBalance(t, h, snap)
	c.sync(t, h)
	if got := letters(t, h); len(got) != 1 || got[0].Target != other {
		t.Fatalf("letters %+v, want that of the other account", got)
	}
	noErr(t, h.SaveDeadLetter(t.Context(), letter(l.target())))
	bury(t, h, l.target())
	if n := len(letters(t, h)); n != 1 {
		t.Fatalf("%d letters after the tombstone, want 1", n)
	}
}

func listAndDrop(t *testing.T, h *Harness) {
	var want []string
	for i := range 7 {
		d := letter(mirror.Target{Account: []string{"", "acct_1"}[i%2], Scope: mirror.ScopeBalance, ID: fmt.Sprintf("cus_%d", i)})
		want = append(want, d.ID)
		noErr(t, h.SaveDeadLetter(t.Context(), d))
	}
	slices.Sort(want)
	for limit := 1; limit <= 8; limit++ {
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			page, err := h.DeadLetters(t.Context(), after, limit)
			noErr(t, err)
			for _, d := range page {
				got = append(got, d.ID)
			}
			if len(page) < limit {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("limit %d: %q, want %q", limit, got, want)
		}
	}
	noErr(t, h.DropDeadLetter(t.Context(), want[3]))
	if err := h.DropDeadLetter(t.Context(), want[3]); !errors.Is(err, mirror.ErrNotFound) {
		t.Fatalf("dropped twice: %v, want ErrNotFound", err)
	}
	if n := len(letters(t, h)); n != 6 {
		t.Fatalf("%d letters are left, want 6", n)
	}
}

func dueClaimedOnce(t *testing.T, h *Harness) {
	for i := range 40 {
		d := letter(mirror.Target{Scope: mirror.ScopeBalance, ID: fmt.Sprintf("cus_%d", i)})
		d.RetryAt = epoch0.Add(time.Duration(i) * time.Minute)
		noErr(t, h.SaveDeadLetter(t.Context(), d))
	}
	now, next := epoch0.Add(29*time.Minute), epoch0.Add(time.Hour)
	var mu sync.Mutex
	claimed := map[string]int{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				due, err := h.DueDeadLetters(t.Context(), now, next, 3)
				if err != nil {
					t.Error(err)
					return
				}
				if len(due) == 0 {
					return
				}
				mu.Lock()
				for _, d := range due {
					claimed[d.ID]++
					if !d.RetryAt.Equal(next) {
						t.Errorf("claimed with retry at %v, want %v", d.RetryAt, next)
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(claimed) != 30 {
		t.Fatalf("%d letters were claimed, want 30", len(claimed))
	}
	for id, n := range claimed {
		if n != 1 {
			t.Fatalf("%s was claimed %d times", id, n)
		}
	}
}

func oneLetter(t *testing.T, h *Harness) {
	body := []byte("{\x00\xff not JSON")
	for _, d := range []mirror.DeadLetter{
		letter(mirror.Target{Account: "acct_1", Scope: mirror.ScopeBalance, ID: "cus_A"}),
		letter(mirror.Target{Scope: mirror.ScopeCredits, ID: "cus_A"}),
		{
			ID: mirror.UnreadableID(body), Target: mirror.Target{Account: "acct_1"}, Reason: "not JSON", Attempts: 1,
			EventIDs: []string{}, Payload: body, FirstFailedAt: epoch0, LastFailedAt: epoch0,
		},
	} {
		if _, err := h.DeadLetter(t.Context(), d.ID); !errors.Is(err, mirror.ErrNotFound) {
			t.Fatalf("before it is saved: %v, want ErrNotFound", err)
		}
		noErr(t, h.SaveDeadLetter(t.Context(), d))
		if got, err := h.DeadLetter(t.Context(), d.ID); err != nil || fmt.Sprint(got) != fmt.Sprint(d) {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, d)
		}
	}
	for _, id := range []string{"", "dead_", "dead_' OR 1=1 --"} {
		if _, err := h.DeadLetter(t.Context(), id); !errors.Is(err, mirror.ErrNotFound) {
			t.Fatalf("%q: %v, want ErrNotFound", id, err)
		}
	}
}

func countedByAge(t *testing.T, h *Harness) {
	if got, err := h.DeadLetterAges(t.Context(), epoch0); err != nil || got != (mirror.DeadLetterAges{}) {
		t.Fatalf("without letters: %+v, %v", got, err)
	}
	const day = 24 * time.Hour
	for i, age := range []time.Duration{0, time.Hour - time.Second, time.Hour, 23 * time.Hour, day, 6 * day, 7 * day, 400 * day} {
		d := letter(mirror.Target{Scope: mirror.ScopeBalance, ID: fmt.Sprintf("cus_%d", i)})
		d.FirstFailedAt = epoch0.Add(-age)
		noErr(t, h.SaveDeadLetter(t.Context(), d))
	}
	noErr(t, h.SaveDeadLetter(t.Context(), mirror.DeadLetter{
		ID: mirror.UnreadableID([]byte("x")), Reason: "unreadable", Attempts: 1, Payload: []byte("x"), FirstFailedAt: epoch0, LastFailedAt: epoch0,
	}))
	got, err := h.DeadLetterAges(t.Context(), epoch0)
	noErr(t, err)
	oldest := got.Oldest
	got.Oldest = time.Time{}
	if want := (mirror.DeadLetterAges{UnderHour: 3, UnderDay: 2, UnderWeek: 2, Older: 2, Unreadable: 1}); got != want || !oldest.Equal(epoch0.Add(-400*day)) {
		t.Fatalf("got %+v since %v, want %+v", got, oldest, want)
	}
}
