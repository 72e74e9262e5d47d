package mirrortest

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/report"
)

// books runs fn on one snapshot.
func (w *daysWorld) books(fn func(r report.Reader)) {
	w.t.Helper()
	noErr(w.t, w.table.Books(w.t.Context(), func(r report.Reader) error {
		fn(r)
		return nil
	}))
}

// allOf reads a stream.
func allOf[Row any](t *testing.T, rows func(func(Row, error) bool)) (list []Row) {
	t.Helper()
	for row, err := range rows {
		noErr(t, err)
		list = append(list, row)
	}
	return list
}

// same fails where two lists differ.
func same[Row comparable](t *testing.T, what string, got, want []Row) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s:\n%+v\nthe rows have\n%+v", what, got, want)
	}
}

// byKey orders sums as streams do.
func byKey(a, b report.Sum) int {
	return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Customer, b.Customer), cmp.Compare(a.Currency, b.Currency))
}

// sumsOfRows adds rows up one by one; of may narrow them.
func sumsOfRows(rows []report.Row, l report.Ledger, f report.Filter, of func(report.Row) bool) []report.Sum {
	type key struct {
		report.Key
		currency string
	}
	sums, last := map[key]report.Sum{}, map[key]int64{}
	for _, r := range rows {
		if f.Account != nil && r.Account != *f.Account || f.Customer != "" && r.Customer != f.Customer ||
			f.Currency != "" && r.Currency != f.Currency || !of(r) {
			continue
		}
		k := key{r.Key, r.Currency}
		s := sums[k]
		s.Key, s.Currency = r.Key, r.Currency
		s.Amount.Add(r.Amount)
		switch {
		case l == report.LedgerCredits:
			s.End, _ = s.Amount.Amount()
		case r.Position > last[k]:
			s.End, last[k] = r.EndingBalance, r.Position
		}
		sums[k] = s
	}
	var list []report.Sum
	for _, s := range sums {
		list = append(list, s)
	}
	slices.SortFunc(list, byKey)
	return list
}

// compareReader holds what a reader adds up at a moment against the rows that it lists.
func (w *daysWorld) compareReader(r report.Reader, until time.Time) {
	w.t.Helper()
	account, t := "acct_1", w.t
	filters := []report.Filter{{}, {Account: &account}, {Currency: "eur"}, {Customer: "cus_D1"}, {Customer: "cus_D2", Account: new(string), Currency: "usd"}}
	for _, l := range report.Ledgers("") {
		for _, d := range []report.Dating{report.ByLedger, report.ByCreated} {
			rows := allOf(t, r.Rows(t.Context(), report.RowQuery{Ledger: l, Until: until, Dating: d}))
			for _, f := range filters {
				what := fmt.Sprintf("%s before %s, dating %d, filter %+v", l, until, d, f)
				want := sumsOfRows(rows, l, f, func(report.Row) bool { return true })
				same(t, "sums of "+what, allOf(t, r.Sums(t.Context(), l, f, d, until, false)), want)
				apart := map[report.Key]bool{}
				for _, s := range allOf(t, r.Standings(t.Context(), l, f)) {
					apart[s.Key] = true
				}
				same(t, "sums apart of "+what, allOf(t, r.Sums(t.Context(), l, f, d, until, true)),
					sumsOfRows(rows, l, f, func(r report.Row) bool { return apart[r.Key] }))
				totals, err := r.Totals(t.Context(), l, f, d, until)
				noErr(t, err)
				same(t, "totals of "+what, totals, totalsOfSums(want))
				w.summed += len(want)
				w.apart += len(apart)
			}
		}
	}
	rows := allOf(t, r.Rows(t.Context(), report.RowQuery{Ledger: report.LedgerCredits, Until: until}))
	for _, f := range filters {
		pending := sumsOfRows(rows, report.LedgerCredits, f, func(r report.Row) bool { return !r.EffectiveFrom.Before(until) })
		for i := range pending {
			pending[i].End = 0
		}
		got := allOf(t, r.Pending(t.Context(), f, until))
		for i := range got {
			got[i].End = 0
		}
		same(t, fmt.Sprintf("pending at %s, filter %+v", until, f), got, pending)
		w.pending += len(pending)
		left := map[string]report.Wide{}
		for _, r := range rows {
			id := r.Account + r.Customer + r.Grant
			left[id] = left[id].Plus(report.Of(r.Amount))
		}
		for _, g := range allOf(t, r.Grants(t.Context(), f, until)) {
			if id := g.Account + g.Customer + g.ID; g.Left != left[id] {
				t.Fatalf("grant %+v, the rows have %+v", g, left[id])
			}
		}
	}
}

// totalsOfSums adds sums up by account and currency.
func totalsOfSums(sums []report.Sum) []report.Total {
	type key struct{ account, currency string }
	totals := map[key]report.Total{}
	for _, s := range sums {
		k := key{s.Account, s.Currency}
		t := totals[k]
		t.Account, t.Currency = s.Account, s.Currency
		t.Amount = t.Amount.Plus(s.Amount)
		if (s.Amount != report.Wide{}) {
			t.Customers++
		}
		if s.Amount != report.Of(s.End) {
			t.Differing++
		}
		totals[k] = t
	}
	var list []report.Total
	for _, t := range totals {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b report.Total) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Currency, b.Currency))
	})
	return list
}

// readerAddsUp: over a random past with damage, deletions, incomplete histories and
// pending grants, what a reader adds up is what the rows that it lists add up to.
func readerAddsUp(t *testing.T, h *Harness) {
	rng := rand.New(rand.NewPCG(7, 7))
	w := newDaysWorld(t, h, rng)
	for range 120 {
		switch n := rng.IntN(100); {
		case n < 45:
			w.move()
		case n < 80:
			w.sync(rng.IntN(len(w.balances)))
		case n < 86:
			w.damage()
		case n < 88:
			w.bury()
		default:
			until := epoch0.Add(time.Duration(rng.IntN(80*24)) * time.Hour)
			for _, g := range w.credits[rng.IntN(len(w.credits))].grants {
				if g.EffectiveAt.After(g.Created) && rng.IntN(2) == 0 {
					until = g.Created.Add(time.Duration(1+rng.IntN(30)) * time.Hour)
				}
			}
			w.books(func(r report.Reader) { w.compareReader(r, until) })
		}
	}
	if w.summed < 200 || w.apart < 20 || w.pending < 5 {
		t.Errorf("%d sums, %d customers apart, %d pending: that proves little", w.summed, w.apart, w.pending)
	}
	// What is listed is what is at Stripe.
	fresh := newDaysWorld(t, h, rng)
	fresh.balances, fresh.credits = nil, nil
	for i := range 3 {
		l, c := newLedger("acct_9", fmt.Sprintf("cus_F%d", i)), newCredits("acct_9", fmt.Sprintf("cus_F%d", i))
		fresh.balances, fresh.credits = append(fresh.balances, l), append(fresh.credits, c)
	}
	for range 60 {
		fresh.move()
	}
	account := "acct_9"
	want := map[report.Ledger][]string{}
	grants := map[string]int64{}
	for i, l := range fresh.balances {
		fresh.sync(i)
		for _, r := range l.rows {
			want[report.LedgerBalance] = append(want[report.LedgerBalance], fmt.Sprint(r.Customer, r.Currency, r.ID, r.Amount, r.Type, r.Created.Unix()))
		}
		for _, r := range fresh.credits[i].rows {
			want[report.LedgerCredits] = append(want[report.LedgerCredits], fmt.Sprint(r.Customer, r.Currency, r.ID, r.Amount, r.CreditType+r.DebitType, r.EffectiveAt.Unix()))
			grants[r.Grant] += r.Amount
		}
	}
	w.books(func(r report.Reader) {
		for l, want := range want {
			var got []string
			for _, r := range allOf(t, r.Rows(t.Context(), report.RowQuery{Ledger: l, Filter: report.Filter{Account: &account}})) {
				got = append(got, fmt.Sprint(r.Customer, r.Currency, r.ID, r.Amount, r.Type, r.Dated.Unix()))
			}
			slices.Sort(got)
			slices.Sort(want)
			same(t, "rows of "+string(l), got, want)
		}
		got := map[string]int64{}
		for _, g := range allOf(t, r.Grants(t.Context(), report.Filter{Account: &account}, epoch0.AddDate(9, 0, 0))) {
			got[g.ID], _ = g.Left.Amount()
		}
		if len(got) != len(grants) || len(got) == 0 {
			t.Errorf("%d grants, want %d", len(got), len(grants))
		}
		for id, left := range grants {
			if got[id] != left {
				t.Errorf("grant %s has %d left, want %d", id, got[id], left)
			}
		}
	})
}

// sinceTellsArrivals: what came after a position is listed once, with when it counts,
// and what is dated later than asked for is not.
func sinceTellsArrivals(t *testing.T, h *Harness) {
	rng := rand.New(rand.NewPCG(8, 8))
	w := newDaysWorld(t, h, rng)
	for range 60 {
		w.move()
	}
	for i := range w.balances {
		w.sync(i)
	}
	end := epoch0.AddDate(9, 0, 0)
	type arrival struct {
		account  string
		customer string
		id       string
		amount   int64
		dated    int64
	}
	held := func(r report.Reader, l report.Ledger, account string) map[string]arrival {
		all := map[string]arrival{}
		for _, row := range allOf(t, r.Rows(t.Context(), report.RowQuery{Ledger: l, Filter: report.Filter{Account: &account}, Until: end})) {
			all[row.Customer+row.ID] = arrival{row.Account, row.Customer, row.ID, row.Amount, row.Date(report.ByLedger).Unix()}
		}
		return all
	}
	before := map[string]map[string]arrival{}
	position := ""
	w.books(func(r report.Reader) {
		var err error
		position, err = r.Position(t.Context())
		noErr(t, err)
		for _, account := range []string{"", "acct_1"} {
			for _, l := range report.Ledgers("") {
				before[account+string(l)] = held(r, l, account)
			}
		}
	})
	sealed := time.Now()
	w.books(func(r report.Reader) {
		if list := allOf(t, r.Since(t.Context(), report.LedgerBalance, "", position, sealed, end)); len(list) != 0 {
			t.Errorf("nothing came, but %+v", list)
		}
	})
	for range 80 {
		w.move()
	}
	for i := range w.balances {
		w.sync(i)
	}
	bury(t, h, w.balances[0].target())
	came, later := 0, 0
	w.books(func(r report.Reader) {
		for _, until := range []time.Time{end, epoch0.AddDate(0, 1, 0)} {
			for _, account := range []string{"", "acct_1"} {
				for _, l := range report.Ledgers("") {
					var want, got []string
					for k, a := range held(r, l, account) {
						switch _, was := before[account+string(l)][k]; {
						case was:
						case a.dated >= until.Unix():
							later++
						default:
							want = append(want, fmt.Sprint(a))
						}
					}
					buried := 0
					for _, a := range allOf(t, r.Since(t.Context(), l, account, position, sealed, until)) {
						if a.ID == "" {
							buried++
							if a.Type != report.TypeDeleted || a.Customer != w.balances[0].customer || a.Account != "" {
								t.Errorf("a deletion %+v", a)
							}
							continue
						}
						if !a.Inserted {
							continue // moved, or told again
						}
						if a.Cause == "" || a.WasKnown || a.Arrived.Before(sealed.Add(-time.Minute)) {
							t.Errorf("arrived: %+v", a)
						}
						got = append(got, fmt.Sprint(arrival{a.Account, a.Customer, a.ID, a.Amount, a.Dated.Unix()}))
					}
					slices.Sort(want)
					slices.Sort(got)
					same(t, fmt.Sprintf("what came into %q %s before %s", account, l, until), got, want)
					if wantBuried := map[bool]int{true: 1}[account == "" && until.Equal(end)]; until.Equal(end) && buried != wantBuried {
						t.Errorf("%q %s: %d deletions, want %d", account, l, buried, wantBuried)
					}
					came += len(want)
				}
			}
		}
	})
	if came < 40 || later < 5 {
		t.Errorf("%d came, %d are later: that proves little", came, later)
	}
}

// sealsAreKept: a period of an account is sealed once, again after it was reopened, and
// every seal stays.
func sealsAreKept(t *testing.T, h *Harness) {
	s, ok := h.Store.(interface {
		report.Books
		report.Sealer
	})
	if !ok {
		t.Fatalf("%T keeps no seals", h.Store)
	}
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	seal := func(account, period, currency string, closing int64) report.Seal {
		return report.Seal{
			Account: account, Period: period, Ledger: report.LedgerBalance, Currency: currency, Start: start, End: start.AddDate(0, 1, 0),
			Closing: closing, Rows: 7, Digest: strings.Repeat("ab", 32), Unproven: 2, Position: "12", SealedAt: start.AddDate(0, 1, 3),
		}
	}
	noErr(t, s.SaveSeals(t.Context(), []report.Seal{seal("", "2026-03", "usd", -5), seal("", "2026-03", "eur", 9_000_000_000_000_000_000), seal("acct_1", "2026-03", "usd", 0)}))
	if err := s.SaveSeals(t.Context(), []report.Seal{seal("acct_2", "2026-03", "usd", 1), seal("acct_1", "2026-03", "eur", 1)}); !errors.Is(err, report.ErrSealed) {
		t.Errorf("sealed twice: %v", err)
	}
	noErr(t, s.SaveSeals(t.Context(), []report.Seal{seal("", "2026-04", "usd", 4)}))
	only := "acct_1"
	for _, want := range []int64{1, 0} {
		if n, err := s.Reopen(t.Context(), &only, "2026-03", "a late\x00 note"); err != nil || n != want {
			t.Errorf("reopened %d: %v, want %d", n, err, want)
		}
	}
	noErr(t, s.SaveSeals(t.Context(), []report.Seal{seal("acct_1", "2026-03", "usd", 8)}))
	if n, err := s.Reopen(t.Context(), nil, "2026-03", "all"); err != nil || n != 3 {
		t.Errorf("reopened %d: %v, want 3", n, err)
	}
	list := func(period string) (texts []string) {
		noErr(t, s.Books(t.Context(), func(r report.Reader) error {
			seals, err := r.Seals(t.Context(), period)
			for _, s := range seals {
				reopened := !s.ReopenedAt.IsZero()
				number := s.Number
				texts = append(texts, fmt.Sprintf("%s %s %d %s %d %v %s", s.Account, s.Period, number, s.Currency, s.Closing, reopened, s.ReopenReason))
				s.Number, s.ReopenedAt, s.ReopenReason, s.Start, s.End, s.SealedAt = 0, time.Time{}, "", s.Start.UTC(), s.End.UTC(), s.SealedAt.UTC()
				if s != seal(s.Account, s.Period, s.Currency, s.Closing) {
					t.Errorf("a seal came back as %+v", s)
				}
			}
			return err
		}))
		return texts
	}
	march := []string{
		" 2026-03 1 eur 9000000000000000000 true all", " 2026-03 1 usd -5 true all",
		"acct_1 2026-03 1 usd 0 true a late note", "acct_1 2026-03 2 usd 8 true all",
	}
	same(t, "seals of March", list("2026-03"), march)
	same(t, "all seals", list(""), []string{march[0], march[1], " 2026-04 1 usd 4 false ", march[2], march[3]})
	same(t, "seals of May", list("2026-05"), nil)
}
