package worker

import (
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func balanceEvent(at time.Time, moved mirror.BalanceMoved) mirror.EventRef {
	return mirror.EventRef{ID: "evt_" + at.Format("150405"), Type: "customer.updated", Object: cus, Created: at, Moved: moved}
}

// A reply can be old as a whole, list and customer together: nothing in it shows that.
func TestReplyThatLagsAsAWholeIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	b, now := lagging(t)
	a := b.stripe.add(cus)
	b.stripe.adjust(a, -10)
	*now = b.stripe.clock.Add(time.Minute)
	b.sync(t, balanceOf(cus))
	const all = len(looksAfter)
	at := *now
	for _, test := range []struct {
		name string
		ref  mirror.EventRef
		want int
	}{
		{"the balance moved, and no row is of that time", balanceEvent(at, mirror.MovedYes), all},
		{"the row may have been read before", balanceEvent(b.stripe.clock.Add(rowSlack), mirror.MovedYes), 1},
		{"nobody says what changed", balanceEvent(at, mirror.MovedUnknown), 1},
		{"another attribute changed", balanceEvent(at, mirror.MovedNo), 0},
		{"an old event", balanceEvent(at.Add(-time.Hour), mirror.MovedYes), 0},
		{"an invoice need not move it", mirror.EventRef{ID: "evt_in", Type: "invoice.finalized", Object: "in_1", Created: at}, 0},
	} {
		if r := b.sync(t, balanceOf(cus), test.ref); r.Looks != test.want {
			t.Errorf("%s: %d looks, want %d", test.name, r.Looks, test.want)
		}
	}
	if r := b.sync(t, balanceOf(cus)); r.Looks != 0 {
		t.Errorf("without an event: %d looks", r.Looks)
	}
	b.stripe.clock = at
	b.stripe.adjust(a, -10)
	if r := b.sync(t, balanceOf(cus), balanceEvent(b.stripe.clock, mirror.MovedYes)); r.Looks != 0 || r.Inserted != 1 {
		t.Errorf("the row is there: %+v", r)
	}
	// Rows of customers on a test clock have the clock's times.
	a.TestClock = "clock_1"
	b.sync(t, balanceOf(cus))
	if r := b.sync(t, balanceOf(cus), balanceEvent(at.Add(time.Minute), mirror.MovedYes)); r.Looks != 1 {
		t.Errorf("on a test clock: %d looks, want 1", r.Looks)
	}
}

// What was read below the first page is not asked for again when the list lags.
func TestRereadOfALaggingListCostsOneCall(t *testing.T) {
	t.Parallel()
	b, now := lagging(t)
	a := b.stripe.add(cus)
	b.stripe.adjust(a, -10)
	*now = b.stripe.clock.Add(time.Hour)
	b.sync(t, balanceOf(cus))
	b.stripe.clock = *now
	for i := range 105 {
		b.stripe.post(a, "eur", -1, i) // all in one second
	}
	b.stripe.clock = b.stripe.clock.Add(time.Second)
	b.stripe.post(a, "eur", -1, 0)
	a.hidden = 1
	b.stripe.before = func(string) error {
		if len(b.stripe.calls) > 2 {
			a.hidden = 0
		}
		return nil
	}
	*now = b.stripe.clock
	b.stripe.made()
	r := b.sync(t, balanceOf(cus), balanceEvent(*now, mirror.MovedYes))
	got := b.stripe.made()
	if r.Inserted != 106 || strings.Count(got, "balance after= ") != 2 || strings.Count(got, ";") != 2 {
		t.Errorf("%d rows inserted by %s, want 106 by two pages and one more", r.Inserted, got)
	}
	if at, err := b.store.ObservedAt(t.Context(), []mirror.Target{balanceOf(cus)}); err != nil || at[0].After(*now) {
		t.Errorf("observed at %v, %v", at, err)
	}
	// A row that is listed late below the newest ones is found by the last reading.
	late := len(a.rows) - 60
	kept := a.rows
	a.rows = append(append(a.rows[:0:0], kept[:late]...), kept[late+1:]...)
	c := setup(t, SyncOptions{})
	c.stripe = b.stripe
	c.syncer = NewSyncer(b.stripe, c.flaky, c.marks, SyncOptions{RereadDelay: time.Microsecond})
	b.stripe.before = func(string) error {
		if len(b.stripe.calls) > 4 {
			a.rows = kept
		}
		return nil
	}
	if r := c.sync(t, balanceOf(cus)); r.Inserted < 107 || len(r.Findings) != 0 {
		t.Errorf("%+v by %s", r.Applied, b.stripe.made())
	}
}

// Many rows in the second of the newest one that is held cost no second page once that
// second is long past.
func TestDenseSecondLongPastCostsOneCall(t *testing.T) {
	t.Parallel()
	b, now := lagging(t)
	a := b.stripe.add(cus)
	for i := range 150 {
		b.stripe.post(a, "eur", -1, i)
	}
	*now = b.stripe.clock.Add(time.Second)
	b.sync(t, balanceOf(cus))
	b.stripe.made()
	b.sync(t, balanceOf(cus))
	if got := b.stripe.made(); strings.Count(got, ";") != 2 {
		t.Errorf("right after it: %s, want all of its second", got)
	}
	*now = b.stripe.clock.Add(time.Minute)
	b.sync(t, balanceOf(cus))
	b.stripe.made()
	if b.sync(t, balanceOf(cus)); b.stripe.made() != "balance after= limit=10" {
		t.Error("long after it more than one page is read")
	}
	// A row that came into the second all the same is found.
	b.stripe.post(a, "eur", -1, -1)
	if r := b.sync(t, balanceOf(cus)); r.Inserted != 1 || len(r.Findings) != 0 {
		t.Errorf("%+v by %s, want the row", r.Applied, b.stripe.made())
	}
	b.stripe.made()
	b.stripe.clock = now.Add(time.Second)
	b.stripe.adjust(a, -1)
	if r := b.sync(t, balanceOf(cus)); r.Inserted != 1 || strings.Contains(b.stripe.made(), ";") {
		t.Errorf("%+v, want the row by one call", r.Applied)
	}
}
