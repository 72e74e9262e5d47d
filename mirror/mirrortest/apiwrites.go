package mirrortest

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// RunAPIJournal runs the suite of mirror.APIJournal. open is that of Run.
func RunAPIJournal(t *testing.T, open func(t *testing.T) mirror.Store) {
	runCases(t, open, []testCase{
		{"BegunAndEnded", writeBegunAndEnded},
		{"EveryColumnComesBack", writeColumns},
		{"I15_TheSameTwiceIsOneRow", writeTwice},
		{"BegunAndNeverEnded", writeSettled},
		{"RowsNeverChange", writesNeverChange},
		{"PrunedByAge", writesPruned},
		{"ListedInPagesAndFiltered", writesListed},
		{"LimitPerDay", writesPerDay},
		{"LimitPerDayHoldsAtOnce", writesPerDayAtOnce},
		{"LimitPerDayCountsAKeyOnce", writesPerDayReplays},
		{"LimitPerDayAtTheEndsOfIntegers", writesPerDayExtremes},
		{"I20_FeedHoldsThem", writesFeed},
		{"UsesOfKeys", keyUses},
	})
}

func journal(t *testing.T, h *Harness) mirror.APIJournal {
	t.Helper()
	j, ok := h.Store.(mirror.APIJournal)
	if !ok {
		t.Fatalf("%T is no mirror.APIJournal", h.Store)
	}
	return j
}

// writeNow is within a day, and young enough for the database to keep it.
func writeNow() time.Time {
	from, _ := mirror.DayOf(time.Now())
	return from.Add(time.Hour)
}

func apiWrite(n int, amount int64, outcome mirror.APIOutcome) mirror.APIWrite {
	return mirror.APIWrite{
		Account: "acct_1", ID: fmt.Sprintf("req_%03d", n), Created: writeNow().Add(time.Duration(n) * time.Second), Key: "billing",
		Operation: "adjust", Customer: "cus_a", Amount: amount, Currency: "usd", IdempotencyDigest: fmt.Sprintf("digest%d", n),
		RemoteAddr: "192.0.2.1", Outcome: outcome,
	}
}

func listed(t *testing.T, j mirror.APIJournal, f mirror.APIWriteFilter) []mirror.APIWrite {
	t.Helper()
	list, err := j.APIWrites(t.Context(), f, mirror.APIWrite{}, 1000)
	noErr(t, err)
	return list
}

func writeBegunAndEnded(t *testing.T, h *Harness) {
	j, w := journal(t, h), apiWrite(1, -500, mirror.APIDone)
	noErr(t, j.BeginAPIWrite(t.Context(), w, nil))
	if got := listed(t, j, mirror.APIWriteFilter{}); len(got) != 0 {
		t.Fatalf("a write under way is listed: %+v", got)
	}
	noErr(t, j.EndAPIWrite(t.Context(), w))
	if got := listed(t, j, mirror.APIWriteFilter{}); len(got) != 1 || got[0] != w {
		t.Fatalf("got %+v\nwant %+v", got, w)
	}
	if n := h.number(t, `SELECT count(*) FROM api_write_intents`); n > 0 {
		t.Errorf("%d intents are left", n)
	}
}

func writeColumns(t *testing.T, h *Harness) {
	j := journal(t, h)
	all := mirror.APIWrite{
		Account: "acct_1", ID: "req_1", Created: writeNow(), Key: "k", Operation: "grant", Customer: "cus_a", Object: "credgr_1",
		Amount: math.MinInt64, Currency: "eur", IdempotencyDigest: "d", RemoteAddr: "2001:db8::1", StripeRequestID: "req_s", Status: 402,
		Outcome: mirror.APINotDone, Reason: "card_declined", Repeated: 7,
	}
	least := mirror.APIWrite{ID: "req_2", Created: writeNow().Add(time.Second), Outcome: mirror.APIRefused}
	for _, w := range []mirror.APIWrite{all, least} {
		noErr(t, j.EndAPIWrite(t.Context(), w))
	}
	if got := listed(t, j, mirror.APIWriteFilter{}); len(got) != 2 || got[0] != all || got[1] != least {
		t.Fatalf("got %+v\nwant %+v", got, []mirror.APIWrite{all, least})
	}
}

func writeTwice(t *testing.T, h *Harness) {
	j, w := journal(t, h), apiWrite(1, -500, mirror.APIDone)
	before := h.changes(t)
	other := w
	other.Outcome = mirror.APIUnknown
	for _, w := range []mirror.APIWrite{w, w, other} { // an answer was lost; a late one
		noErr(t, j.EndAPIWrite(t.Context(), w))
	}
	if got := listed(t, j, mirror.APIWriteFilter{}); len(got) != 1 || got[0].Outcome != mirror.APIDone {
		t.Fatalf("got %+v", got)
	}
	if n := h.changes(t) - before; n > 1 {
		t.Errorf("%d change records", n)
	}
}

func writeSettled(t *testing.T, h *Harness) {
	j := journal(t, h)
	old, young := apiWrite(1, -500, ""), apiWrite(100, -500, "")
	for _, w := range []mirror.APIWrite{old, young} {
		noErr(t, j.BeginAPIWrite(t.Context(), w, nil))
		noErr(t, j.BeginAPIWrite(t.Context(), w, nil)) // its answer was lost
	}
	for n := range 2 {
		got, err := j.SettleAPIWrites(t.Context(), young.Created)
		noErr(t, err)
		if want := 1 - n; len(got) != want {
			t.Fatalf("settled %+v, want %d", got, want)
		}
	}
	got := listed(t, j, mirror.APIWriteFilter{})
	if len(got) != 1 || got[0].ID != old.ID || got[0].Outcome != mirror.APIUnknown || got[0].Amount != -500 || got[0].Reason == "" {
		t.Fatalf("got %+v", got)
	}
	noErr(t, j.EndAPIWrite(t.Context(), young))
	if got := listed(t, j, mirror.APIWriteFilter{}); len(got) != 2 {
		t.Fatalf("got %+v", got)
	}
}

func writesNeverChange(t *testing.T, h *Harness) {
	if h.Exec == nil {
		t.Skip("this driver's test offers no SQL")
	}
	j, w := journal(t, h), apiWrite(1, -500, mirror.APIDone)
	noErr(t, j.EndAPIWrite(t.Context(), w))
	for _, sql := range []string{`UPDATE api_writes SET amount = 0`, `DELETE FROM api_writes`, `UPDATE api_writes SET created = synced_at`} {
		if err := h.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s was taken", sql)
		}
	}
	if got := listed(t, j, mirror.APIWriteFilter{}); len(got) != 1 || got[0] != w {
		t.Fatalf("got %+v", got)
	}
}

func writesPruned(t *testing.T, h *Harness) {
	j := journal(t, h)
	for n, age := range []time.Duration{0, 29 * 24 * time.Hour, 31 * 24 * time.Hour, 90 * 24 * time.Hour} {
		w := apiWrite(n, -1, mirror.APIDone)
		w.Created = time.Now().Add(-age).Truncate(time.Microsecond).UTC()
		noErr(t, j.EndAPIWrite(t.Context(), w))
	}
	n, err := j.PruneAPIWrites(t.Context(), time.Now().Add(-60*24*time.Hour))
	if noErr(t, err); n != 1 {
		t.Errorf("%d rows deleted, want 1", n)
	}
	// The database keeps 30 days whatever it is asked.
	n, err = j.PruneAPIWrites(t.Context(), time.Now())
	if noErr(t, err); n != 1 {
		t.Errorf("%d rows deleted, want 1", n)
	}
	if got := listed(t, j, mirror.APIWriteFilter{}); len(got) != 2 {
		t.Errorf("left %+v", got)
	}
}

func writesListed(t *testing.T, h *Harness) {
	j := journal(t, h)
	var all []mirror.APIWrite
	for n := range 7 {
		w := apiWrite(n, -1, mirror.APIDone)
		w.Created = writeNow().Add(time.Duration(n/2) * time.Second) // two of a time
		switch {
		case n == 3:
			w.Account, w.Key, w.Customer, w.Outcome = "", "other", "cus_b", mirror.APIRefused
		case n == 4:
			w.ID = "req_0" // before the one of its own time
		}
		noErr(t, j.EndAPIWrite(t.Context(), w))
		all = append(all, w)
	}
	var got []mirror.APIWrite
	for after := (mirror.APIWrite{}); ; {
		page, err := j.APIWrites(t.Context(), mirror.APIWriteFilter{}, after, 2)
		noErr(t, err)
		if got = append(got, page...); len(page) < 2 {
			break
		}
		after = page[1]
	}
	if fmt.Sprint(got) != fmt.Sprint(all) {
		t.Errorf("got %+v\nwant %+v", got, all)
	}
	platform := ""
	for name, f := range map[string]mirror.APIWriteFilter{
		"account": {Account: &platform}, "key": {Key: "other"}, "customer": {Customer: "cus_b"}, "outcome": {Outcome: mirror.APIRefused},
		"time": {From: all[3].Created, To: all[3].Created.Add(time.Second), Key: "other"},
	} {
		if got := listed(t, j, f); len(got) != 1 || got[0].ID != all[3].ID {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func writesPerDay(t *testing.T, h *Harness) {
	j := journal(t, h)
	limit := int64(1000)
	try := func(n int, amount int64, change func(*mirror.APIWrite)) error {
		w := apiWrite(n, amount, mirror.APIDone)
		if change != nil {
			change(&w)
		}
		return j.BeginAPIWrite(t.Context(), w, &limit)
	}
	noErr(t, try(1, -600, nil))
	noErr(t, try(2, 400, nil)) // both signs count
	if err := try(3, 1, nil); !errors.Is(err, mirror.ErrDayLimit) {
		t.Errorf("over the limit: %v", err)
	}
	noErr(t, try(4, 1000, func(w *mirror.APIWrite) { w.Currency = "eur" }))
	noErr(t, try(5, 1000, func(w *mirror.APIWrite) { w.Key = "other" }))
	noErr(t, try(6, 1000, func(w *mirror.APIWrite) { w.Created = w.Created.AddDate(0, 0, 1) }))
	if err := try(7, 1, func(w *mirror.APIWrite) { w.Account = "" }); !errors.Is(err, mirror.ErrDayLimit) {
		t.Errorf("another account: %v", err)
	}
	// What Stripe refused moved nothing; what may have happened counts.
	noErr(t, j.EndAPIWrite(t.Context(), apiWrite(1, -600, mirror.APINotDone)))
	noErr(t, j.EndAPIWrite(t.Context(), apiWrite(2, 400, mirror.APIUnknown)))
	noErr(t, try(8, -600, nil))
	if err := try(9, 1, nil); !errors.Is(err, mirror.ErrDayLimit) {
		t.Errorf("over the limit again: %v", err)
	}
}

func writesPerDayAtOnce(t *testing.T, h *Harness) {
	j := journal(t, h)
	limit, taken := int64(500), atomic.Int64{}
	var group sync.WaitGroup
	for n := range 20 {
		group.Go(func() {
			switch err := j.BeginAPIWrite(t.Context(), apiWrite(n, -100, ""), &limit); {
			case err == nil:
				taken.Add(1)
			case !errors.Is(err, mirror.ErrDayLimit):
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := taken.Load(); n != 5 {
		t.Errorf("%d writes of 100 were let through with a limit of 500", n)
	}
}

func writesPerDayReplays(t *testing.T, h *Harness) {
	j := journal(t, h)
	limit := int64(1000)
	first, again := apiWrite(1, -800, mirror.APIDone), apiWrite(2, -800, mirror.APIDone)
	again.IdempotencyDigest = first.IdempotencyDigest
	for range 3 {
		noErr(t, j.BeginAPIWrite(t.Context(), first, &limit))
		noErr(t, j.EndAPIWrite(t.Context(), first))
		noErr(t, j.BeginAPIWrite(t.Context(), again, &limit))
		noErr(t, j.EndAPIWrite(t.Context(), again))
		again.ID += "x"
	}
	other := apiWrite(3, -800, "")
	other.IdempotencyDigest, other.Account = first.IdempotencyDigest, "" // another account's key is another key
	if err := j.BeginAPIWrite(t.Context(), other, &limit); !errors.Is(err, mirror.ErrDayLimit) {
		t.Errorf("%v", err)
	}
}

func writesPerDayExtremes(t *testing.T, h *Harness) {
	j := journal(t, h)
	limit := int64(math.MaxInt64)
	noErr(t, j.BeginAPIWrite(t.Context(), apiWrite(1, math.MaxInt64-1, ""), &limit))
	noErr(t, j.BeginAPIWrite(t.Context(), apiWrite(2, -1, ""), &limit))
	if err := j.BeginAPIWrite(t.Context(), apiWrite(3, 1, ""), &limit); !errors.Is(err, mirror.ErrDayLimit) {
		t.Errorf("%v", err)
	}
	none := int64(0)
	w := apiWrite(4, math.MaxInt64, "")
	w.Key = "none"
	if err := j.BeginAPIWrite(t.Context(), w, &none); !errors.Is(err, mirror.ErrDayLimit) {
		t.Errorf("%v", err)
	}
}

// Exports go by the change records; the feed of the API leaves them out.
func writesFeed(t *testing.T, h *Harness) {
	noErr(t, journal(t, h).EndAPIWrite(t.Context(), apiWrite(1, -1, mirror.APIDone)))
	if n := h.number(t, `SELECT count(*) FROM changes WHERE account = 'acct_1' AND table_name = 'api_writes' AND customer = 'cus_a' AND id = 'req_001' AND op = 'insert'`); n != 1 && n != -1 {
		t.Errorf("%d change records", n)
	}
	feed, err := h.Changes(t.Context(), "acct_1", "", 10)
	if noErr(t, err); len(feed) != 0 {
		t.Errorf("the feed has %+v", feed)
	}
}

func keyUses(t *testing.T, h *Harness) {
	j, at := journal(t, h), writeNow()
	noErr(t, j.UseAPIKeys(t.Context(), nil))
	noErr(t, j.UseAPIKeys(t.Context(), []mirror.APIKeyUse{{Name: "b", LastUsed: at}, {Name: "a", LastUsed: at}}))
	noErr(t, j.UseAPIKeys(t.Context(), []mirror.APIKeyUse{{Name: "b", LastUsed: at.Add(-time.Hour)}, {Name: "a", LastUsed: at.Add(time.Hour)}}))
	got, err := j.APIKeyUses(t.Context())
	want := []mirror.APIKeyUse{{Name: "a", LastUsed: at.Add(time.Hour)}, {Name: "b", LastUsed: at}}
	if noErr(t, err); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}
