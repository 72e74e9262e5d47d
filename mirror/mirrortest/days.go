package mirrortest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

// errKilled is what a process that was killed would have seen.
var errKilled = errors.New("killed")

// killedTable is a table of days whose process ends between two steps.
type killedTable struct {
	report.DayTable
	// at is called before and after each step that writes; its error ends the process.
	at func(when string) error
}

func (k killedTable) BeginDays(ctx context.Context) (generation int64, err error) {
	err = k.step("begin", func() (err error) {
		generation, err = k.DayTable.BeginDays(ctx)
		return err
	})
	return generation, err
}

func (k killedTable) PutDays(ctx context.Context, generation int64, days []report.Day) error {
	return k.step("put", func() error { return k.DayTable.PutDays(ctx, generation, days) })
}

func (k killedTable) UseDays(ctx context.Context, was int64, now report.DayState, proof report.Proof) (took bool, err error) {
	err = k.step("use", func() (err error) {
		took, err = k.DayTable.UseDays(ctx, was, now, proof)
		return err
	})
	return took, err
}

func (k killedTable) FoldDays(ctx context.Context, was report.DayState, position string, add []report.Day, proof report.Proof) (took bool, err error) {
	err = k.step("fold", func() (err error) {
		took, err = k.DayTable.FoldDays(ctx, was, position, add, proof)
		return err
	})
	return took, err
}

func (k killedTable) DropDays(ctx context.Context, limit int) (n int64, err error) {
	err = k.step("drop", func() (err error) {
		n, err = k.DayTable.DropDays(ctx, limit)
		return err
	})
	return n, err
}

func (k killedTable) step(name string, do func() error) error {
	if err := k.at("before " + name); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return k.at("after " + name)
}

// daysWorld is a mirror with a random past, whose days are folded at random moments.
type daysWorld struct {
	t     *testing.T
	h     *Harness
	table report.DayTable
	feed  mirror.Feed
	rng   *rand.Rand
	now   time.Time // of the folders
	// folders are of two processes.
	folders  [2]*report.Folder
	balances []*ledger
	credits  []*credits
	dead     map[string]bool
	// used and scanned count the looks at which the table could be used, or not.
	used, scanned int
	made          map[string]int
	killed        int
	// differed counts the looks at which chains did not close, doubted those of them at
	// which only the ones in doubt had to be looked at.
	differed, doubted int
	// summed, apart and pending count what compareReader saw.
	summed, apart, pending int
}

func newDaysWorld(t *testing.T, h *Harness, rng *rand.Rand) *daysWorld {
	t.Helper()
	w := &daysWorld{t: t, h: h, rng: rng, now: epoch0.AddDate(0, 1, 0), dead: map[string]bool{}, made: map[string]int{}}
	var ok, readable bool
	w.table, ok = h.Store.(report.DayTable)
	w.feed, readable = h.Store.(mirror.Feed)
	if !ok || !readable {
		t.Fatalf("%T keeps no days", h.Store)
	}
	for i := range w.folders {
		w.folders[i] = &report.Folder{Table: w.table, Now: func() time.Time { return w.now }}
	}
	for i := range 6 {
		account, customer := []string{"", "acct_1"}[i%2], fmt.Sprintf("cus_D%d", i)
		l, c := newLedger(account, customer), newCredits(account, customer)
		l.now = l.now.Add(time.Duration(rng.IntN(40*24)) * time.Hour)
		c.now = c.now.Add(time.Duration(rng.IntN(40*24)) * time.Hour)
		w.balances, w.credits = append(w.balances, l), append(w.credits, c)
	}
	return w
}

// move makes a movement at Stripe, at most a few days after the last of its customer.
func (w *daysWorld) move() {
	i, later := w.rng.IntN(len(w.balances)), time.Duration(w.rng.IntN(50))*time.Hour
	currency := []string{"eur", "usd", "jpy"}[w.rng.IntN(3)]
	if w.rng.IntN(2) == 0 {
		l := w.balances[i]
		l.now = l.now.Add(later)
		r := l.add(currency, w.rng.Int64N(2000)-1000)
		r.Type = []string{"adjustment", "applied_to_invoice", "credit_note"}[w.rng.IntN(3)]
		l.render(len(l.rows) - 1)
		return
	}
	c := w.credits[i]
	c.now = c.now.Add(later)
	if len(c.grants) == 0 || w.rng.IntN(3) == 0 {
		g := c.grant(currency, 5000)
		if w.rng.IntN(3) == 0 { // not effective yet
			g.EffectiveAt = g.Created.Add(30 * time.Hour)
			c.render(len(c.grants) - 1)
		}
		return
	}
	g := c.grants[w.rng.IntN(len(c.grants))]
	c.move(g.ID, g.Currency, -w.rng.Int64N(3)-1)
}

// sync brings a customer's ledgers into the mirror.
func (w *daysWorld) sync(i int) {
	if w.dead[w.balances[i].customer] {
		return
	}
	w.balances[i].sync(w.t, w.h)
	w.credits[i].sync(w.t, w.h)
}

func (w *daysWorld) bury() {
	i := w.rng.IntN(len(w.balances))
	if l := w.balances[i]; !w.dead[l.customer] && len(w.dead) < 2 {
		w.sync(i)
		bury(w.t, w.h, l.target())
		w.dead[l.customer] = true
	}
}

// damage changes rows by hand; the next whole read repairs them.
func (w *daysWorld) damage() {
	i := w.rng.IntN(len(w.balances))
	if w.dead[w.balances[i].customer] {
		return // nobody reads it again
	}
	where := fmt.Sprintf(` WHERE customer = 'cus_D%d' AND id IN (SELECT max(id) FROM `, i)
	one := func(statement, table string) { w.h.exec(w.t, statement+where+table+` GROUP BY customer)`) }
	switch w.rng.IntN(9) {
	case 6:
		one(`UPDATE `+rowsTable+` SET ending_balance = ending_balance + 3`, rowsTable)
	case 7:
		one(`UPDATE `+rowsTable+` SET chain_position = chain_position + 10`, rowsTable)
	case 8:
		one(`UPDATE `+rowsTable+` SET chain_position = NULL`, rowsTable)
	case 0:
		one(`UPDATE `+rowsTable+` SET amount = amount - 7`, rowsTable)
	case 1:
		one(`DELETE FROM `+rowsTable, rowsTable)
	case 2:
		one(`UPDATE `+creditsTable+` SET amount = amount - 7, currency = 'chf'`, creditsTable)
	case 3:
		one(`DELETE FROM `+creditsTable, creditsTable)
	case 4:
		one(`UPDATE `+rowsTable+` SET created = '2026-03-02T00:00:00.000000Z', type = 'initial'`, rowsTable)
	case 5:
		one(`UPDATE `+creditsTable+` SET effective_at = 'infinity'`, creditsTable)
	}
}

// fold lets one of two processes fold, which may be killed at any step, or have the
// other one overtake it, or rows change meanwhile.
func (w *daysWorld) fold() {
	w.now = w.now.Add([]time.Duration{time.Minute, 5 * time.Minute, 20 * time.Minute, 70 * time.Minute, 90 * time.Minute, 25 * time.Hour}[w.rng.IntN(6)])
	i, end, overtake, change := w.rng.IntN(2), -1, -1, -1
	switch w.rng.IntN(4) {
	case 0:
		end = w.rng.IntN(8)
	case 1:
		overtake = w.rng.IntN(6)
	case 2:
		change = w.rng.IntN(6)
	}
	steps := 0
	f := *w.folders[i]
	f.Table = killedTable{w.table, func(string) error {
		steps++
		switch {
		case steps-1 == end:
			return errKilled
		case steps-1 == overtake:
			done, err := w.folders[1-i].Fold(w.t.Context())
			noErr(w.t, err)
			w.made[done.Made]++
		case steps-1 == change:
			w.damage()
			w.move()
			w.sync(w.rng.IntN(len(w.balances)))
		}
		return nil
	}}
	done, err := f.Fold(w.t.Context())
	switch {
	case errors.Is(err, errKilled):
		w.killed++
		w.folders[i] = &report.Folder{Table: w.table, Now: func() time.Time { return w.now }} // another process
	case err != nil:
		w.t.Fatal(err)
	default:
		f.Table = w.table
		w.folders[i] = &f
		w.made[done.Made]++
	}
}

// forget prunes the feed, whoever reads it.
func (w *daysWorld) forget() {
	w.move()
	w.sync(w.rng.IntN(len(w.balances)))
	noErr(w.t, w.feed.SaveFeedCursor(w.t.Context(), mirror.FeedCursor{Name: "export", Account: "*"}))
	_, _, err := w.feed.PruneFeed(w.t.Context(), -time.Hour, 1000)
	noErr(w.t, err)
	noErr(w.t, w.feed.ReadFeed(w.t.Context(), func(r mirror.FeedReader) error {
		p, err := r.Position(w.t.Context())
		noErr(w.t, err)
		return w.feed.SaveFeedCursor(w.t.Context(), mirror.FeedCursor{Name: "export", Account: "*", Position: p})
	}))
	w.h.exec(w.t, `UPDATE export_cursors SET seen_at = '2099-01-01T00:00:00.000000Z' WHERE name = 'export'`)
	_, _, err = w.feed.PruneFeed(w.t.Context(), time.Nanosecond, 1000)
	noErr(w.t, err)
	if w.rng.IntN(2) == 0 {
		w.look()
		w.now = w.now.Add(2 * time.Hour)
		done, err := w.folders[0].Fold(w.t.Context())
		noErr(w.t, err)
		w.made[done.Made]++
	}
}

// look holds every cell against the rows themselves.
func (w *daysWorld) look() {
	w.t.Helper()
	noErr(w.t, w.table.Books(w.t.Context(), func(r report.Reader) error {
		_, _, usable, err := report.UsableDays(w.t.Context(), r)
		noErr(w.t, err)
		if usable {
			w.used++
		} else {
			w.scanned++
		}
		w.checkAgrees(r)
		account := "acct_1"
		for _, f := range []report.Filter{{}, {Account: &account}, {Currency: "eur"}} {
			at := time.Date(2026, 2, 20+w.rng.IntN(30), 0, 0, 0, 0, time.UTC)
			bounds := []time.Time{at}
			for range 1 + w.rng.IntN(5) {
				at = at.AddDate(0, 0, 1+w.rng.IntN(30))
				bounds = append(bounds, at.In(time.FixedZone("", w.rng.IntN(7200))))
			}
			for _, l := range report.Ledgers("") {
				got, err := r.Cells(w.t.Context(), l, f, bounds, report.Split{})
				noErr(w.t, err)
				if want := cellsOfRows(w.t, r, l, f, bounds); !slices.Equal(tellCells(got), want) {
					w.t.Fatalf("ledger %s, bounds %v, days usable %v:\n%s\nthe rows have\n%s", l, bounds, usable,
						strings.Join(tellCells(got), "\n"), strings.Join(want, "\n"))
				}
			}
		}
		return nil
	}))
}

// checkAgrees fails where a roll-forward that relies on the kept proof names other open
// chains than one that checks all rows.
func (w *daysWorld) checkAgrees(r report.Reader) {
	w.t.Helper()
	state, err := r.DayState(w.t.Context())
	noErr(w.t, err)
	account := "acct_1"
	for _, f := range []report.Filter{{}, {Account: &account}, {Currency: "usd"}} {
		at := epoch0.AddDate(1, 0, 0)
		if w.rng.IntN(2) == 0 {
			at = epoch0.Add(time.Duration(w.rng.IntN(100*24)) * time.Hour)
		}
		told := map[report.Check]string{}
		for _, check := range []report.Check{report.CheckDoubted, report.CheckAll} {
			_, out, err := report.Rollforward(w.t.Context(), r, report.Query{Filter: f, Ledgers: report.Ledgers(""), Check: check},
				[]time.Time{at.AddDate(0, -1, 0), at}, report.Split{})
			if errors.Is(err, report.ErrOverflow) {
				told[check] = err.Error()
				continue
			}
			noErr(w.t, err)
			told[check] = fmt.Sprintf("%d unproven, %d differ: %+v", out.Unproven, out.Differing, out.Differences)
			if check == report.CheckAll && out.Differing > 0 {
				w.differed++
				if state.Proven != "" {
					w.doubted++
				}
			}
		}
		if told[report.CheckDoubted] != told[report.CheckAll] {
			w.t.Fatalf("before %s, state %+v: by what was proven %s\nby all rows %s", at, state, told[report.CheckDoubted], told[report.CheckAll])
		}
	}
}

// cellsOfRows adds rows up one by one.
func cellsOfRows(t *testing.T, r report.Reader, l report.Ledger, f report.Filter, bounds []time.Time) []string {
	t.Helper()
	sums := map[report.Cell]*report.Wide{}
	for row, err := range r.Rows(t.Context(), report.RowQuery{Filter: f, Ledger: l, Until: bounds[len(bounds)-1]}) {
		noErr(t, err)
		c := report.Cell{Account: row.Account, Currency: row.Currency, Type: row.Type}
		for _, bound := range bounds {
			if !row.Dated.Before(bound) {
				c.Span++
			}
		}
		if sums[c] == nil {
			sums[c] = &report.Wide{}
		}
		sums[c].Add(row.Amount)
	}
	var list []report.Cell
	for c, sum := range sums {
		c.Amount = *sum
		list = append(list, c)
	}
	return tellCells(list)
}

func tellCells(list []report.Cell) []string {
	texts := make([]string, len(list))
	for i, c := range list {
		texts[i] = fmt.Sprintf("%+v", c)
	}
	slices.Sort(texts)
	return texts
}

// daysEqualRows: whatever happens to the rows and to those who fold them, a report over
// whole days is the same by the day table as by the rows.
func daysEqualRows(t *testing.T, h *Harness) {
	rng := rand.New(rand.NewPCG(15, 2))
	w := newDaysWorld(t, h, rng)
	for range 450 {
		switch n := rng.IntN(100); {
		case n < 35:
			w.move()
		case n < 60:
			w.sync(rng.IntN(len(w.balances)))
		case n < 85:
			w.fold()
		case n < 87:
			w.damage()
			if w.rng.IntN(2) == 0 {
				w.fold()
			}
			w.look()
		case n < 88:
			w.bury()
		case n < 90:
			w.forget()
		default:
			w.look()
		}
	}
	t.Logf("%d looks by days, %d by rows; %d killed; made anew: %v", w.used, w.scanned, w.killed, w.made)
	for _, why := range []string{"", "there were none", "they were a day old", "rows were changed", "the change feed does not reach back to them"} {
		if w.made[why] == 0 {
			t.Errorf("never made because %q", why)
		}
	}
	t.Logf("%d looks at chains that do not close, %d of them by what was proven", w.differed, w.doubted)
	if w.used < 10 || w.scanned < 3 || w.killed < 10 || w.differed < 10 || w.doubted < 10 {
		t.Error("the random history proves little")
	}
	w.settle()
	// That the table is read at all: a wrong figure in it is reported.
	before := w.cells()
	h.exec(t, `UPDATE ledger_days SET amount = amount + 1000000 WHERE ledger = 'balance'`)
	if slices.Equal(w.cells(), before) {
		t.Error("the table is not read")
	}
	// What is of no use any more is deleted.
	h.exec(t, `UPDATE ledger_days SET amount = amount - 1000000 WHERE ledger = 'balance'`)
	if n := h.number(t, `SELECT count(*) FROM ledger_days AS d, ledger_days_state AS s WHERE d.generation <> s.generation`); n != 0 {
		t.Errorf("%d days of old generations are left", n)
	}
}

// settle brings everything in and folds it twice without any trouble.
func (w *daysWorld) settle() {
	w.t.Helper()
	for i := range w.balances {
		w.sync(i)
	}
	for range 2 {
		w.now = w.now.Add(25 * time.Hour)
		f := report.Folder{Table: w.table, Now: func() time.Time { return w.now }}
		_, err := f.Fold(w.t.Context())
		noErr(w.t, err)
	}
	used := w.used
	if w.look(); w.used == used {
		w.t.Fatal("the days can not be used")
	}
}

func (w *daysWorld) cells() (list []string) {
	w.t.Helper()
	noErr(w.t, w.table.Books(w.t.Context(), func(r report.Reader) error {
		cells, err := r.Cells(w.t.Context(), report.LedgerBalance, report.Filter{}, []time.Time{
			time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		}, report.Split{})
		list = tellCells(cells)
		return err
	}))
	return list
}

// daysOverflow: a day whose sum no longer fits 64 bits makes the table useless, and
// reports say what they say of the rows; once it fits again the table is used again.
func daysOverflow(t *testing.T, h *Harness) {
	w := newDaysWorld(t, h, rand.New(rand.NewPCG(1, 1)))
	const much = 9_000_000_000_000_000_000
	a, b := newLedger("", "cus_A"), newLedger("", "cus_B")
	a.add("eur", much)
	a.sync(t, h)
	fold := func(hours int) report.Folded {
		t.Helper()
		w.now = w.now.Add(time.Duration(hours) * time.Hour)
		done, err := w.folders[0].Fold(t.Context())
		noErr(t, err)
		return done
	}
	looks := func(used bool) {
		t.Helper()
		was := w.used
		if w.look(); (w.used > was) != used {
			t.Errorf("the days were used: %v, want %v", w.used > was, used)
		}
	}
	fold(0)
	looks(true)
	b.add("eur", much)
	b.sync(t, h)
	looks(true) // the sum of the report does not fit, each of the two does
	fold(1)
	looks(false)
	fold(25)
	looks(false)
	h.exec(t, `UPDATE `+rowsTable+` SET amount = 5 WHERE customer = 'cus_B'`)
	if done := fold(2); done.Made != "rows were changed" {
		t.Errorf("made %q", done.Made)
	}
	looks(true)
}

// daysBehind: what one fold and one report may add themselves is bounded.
func daysBehind(t *testing.T, h *Harness) {
	w := newDaysWorld(t, h, rand.New(rand.NewPCG(2, 2)))
	l := newLedger("acct_1", "cus_A")
	for range 30 {
		l.add("eur", -1)
	}
	_, err := w.folders[0].Fold(t.Context())
	noErr(t, err)
	l.sync(t, h)
	noErr(t, w.table.Books(t.Context(), func(r report.Reader) error {
		state, err := r.DayState(t.Context())
		noErr(t, err)
		for limit, want := range map[int]bool{29: false, 30: true} {
			days, complete, err := r.DaysSince(t.Context(), state.Position, limit)
			if err != nil || complete != want || complete && (len(days) != 1 || days[0].Amount != -30 || days[0].Rows != 30) {
				t.Errorf("limit %d: %+v, %v, %v", limit, days, complete, err)
			}
		}
		_, _, err = r.DaysSince(t.Context(), "no position", 5)
		if err == nil {
			t.Error("a position that is none was read")
		}
		return nil
	}))
	// Two processes that fold at once: what one has done the other one does not do again.
	state := func() (s report.DayState) {
		noErr(t, w.table.Books(t.Context(), func(r report.Reader) (err error) {
			s, err = r.DayState(t.Context())
			return err
		}))
		return s
	}
	was := state()
	_, err = w.folders[0].Fold(t.Context())
	noErr(t, err)
	took, err := w.table.FoldDays(t.Context(), was, was.Position, []report.Day{{Ledger: report.LedgerBalance, Currency: "eur", Day: epoch0.Truncate(24 * time.Hour), Amount: 1, Rows: 1}}, report.Proof{})
	if err != nil || took {
		t.Errorf("a fold of an old state: %v, %v", took, err)
	}
	if took, err := w.table.UseDays(t.Context(), was.Generation, report.DayState{Generation: was.Generation + 7, Position: was.Position}, report.Proof{}); err != nil || took {
		t.Errorf("a generation that was not begun: %v, %v", took, err)
	}
	if now := state(); now.Generation != was.Generation || now.Position == was.Position {
		t.Errorf("the state is %+v and was %+v", now, was)
	}
	w.look()
	cursor, err := w.feed.FeedCursor(t.Context(), report.DaysCursor, "*")
	if err != nil || cursor.Position.Text == "" {
		t.Errorf("the cursor: %+v, %v", cursor, err)
	}
	// As a reader it holds records back, but alone it lets nothing go.
	before := h.changes(t)
	h.exec(t, `UPDATE export_cursors SET seen_at = '2099-01-01T00:00:00.000000Z'`)
	if _, _, err := w.feed.PruneFeed(t.Context(), time.Nanosecond, 1000); err != nil || h.changes(t) != before {
		t.Errorf("pruned %d records for the days alone: %v", before-h.changes(t), err)
	}
}

// daysProven: whatever is wrong in the table is found, day by day, also with rows that
// came since it was folded.
func daysProven(t *testing.T, h *Harness) {
	rng := rand.New(rand.NewPCG(3, 3))
	w := newDaysWorld(t, h, rng)
	for range 60 {
		w.move()
	}
	w.settle()
	for range 20 {
		w.move()
	}
	for i := range w.balances {
		w.sync(i)
	}
	differences := func(account *string) (list []string) {
		noErr(t, w.table.Books(t.Context(), func(r report.Reader) error {
			_, tail, usable, err := report.UsableDays(t.Context(), r)
			if err != nil || !usable || len(tail) == 0 {
				t.Errorf("the tail has %d days, usable %v: %v", len(tail), usable, err)
			}
			return report.CompareDays(t.Context(), r, account, func(rows, held report.Day) error {
				list = append(list, fmt.Sprintf("%s %s %s %d/%d %d/%d", rows.Account, rows.Ledger, rows.Currency, rows.Amount, held.Amount, rows.Rows, held.Rows))
				return nil
			})
		}))
		return list
	}
	if list := differences(nil); len(list) != 0 {
		t.Fatalf("a true table is told wrong: %v", list)
	}
	one := func(ledger string) string {
		return ` WHERE account = 'acct_1' AND ledger = '` + ledger + `' AND day = (SELECT min(day) FROM ledger_days WHERE account = 'acct_1' AND ledger = '` + ledger + `')`
	}
	h.exec(t, `CREATE TABLE original AS SELECT * FROM ledger_days`)
	for _, damage := range []string{
		`UPDATE ledger_days SET amount = amount + 1` + one("balance"),
		`UPDATE ledger_days SET rows = rows - 1` + one("credits"),
		`UPDATE ledger_days SET line = 'z' || line` + one("balance"),
		`DELETE FROM ledger_days` + one("credits"),
		`INSERT INTO ledger_days SELECT account, generation, ledger, currency, '2020-02-02', line, amount, rows, synced_at FROM ledger_days` + one("balance"),
		`UPDATE ledger_days SET day = '2020-02-02'` + one("balance"),
	} {
		h.exec(t, damage)
		other, account := "", "acct_1"
		if all, own := differences(nil), differences(&account); len(all) == 0 || !slices.Equal(all, own) {
			t.Errorf("%s: told %v, of the account %v", damage, all, own)
		}
		if list := differences(&other); len(list) != 0 {
			t.Errorf("%s: of another account %v", damage, list)
		}
		h.exec(t, `DELETE FROM ledger_days`, `INSERT INTO ledger_days SELECT * FROM original`)
	}
	// A row that came without a record of the feed is missing in the table.
	h.exec(t, `DELETE FROM changes WHERE table_name = 'credit_balance_transactions'`)
	if list := differences(nil); len(list) == 0 {
		t.Error("rows without a record are not missed")
	}
	// What is wrong is gone when the table is made anew.
	h.exec(t, `UPDATE ledger_days SET amount = amount + 1`)
	w.settle()
	for range 5 {
		w.move()
	}
	for i := range w.balances {
		w.sync(i)
	}
	if list := differences(nil); len(list) != 0 {
		t.Errorf("a table made anew: %v", list)
	}
}

// damage of a chain, by hand.
var chainDamage = []struct{ name, statement string }{
	{"amount", `UPDATE ` + rowsTable + ` SET amount = amount - 7`},
	{"ending balance", `UPDATE ` + rowsTable + ` SET ending_balance = ending_balance + 7`},
	{"place", `UPDATE ` + rowsTable + ` SET chain_position = NULL`},
	{"currency", `UPDATE ` + rowsTable + ` SET currency = 'chf'`},
	{"customer", `UPDATE ` + rowsTable + ` SET customer = 'cus_C'`},
	{"account", `UPDATE ` + rowsTable + ` SET account = 'acct_2'`},
	{"deleted", `DELETE FROM ` + rowsTable},
}

// openChains reports whether the chains were proven, and lists the customers with a chain
// that does not close before one of the moments.
func (w *daysWorld) openChains(moments ...time.Time) (proven bool, list string) {
	w.t.Helper()
	noErr(w.t, w.table.Books(w.t.Context(), func(r report.Reader) error {
		state, err := r.DayState(w.t.Context())
		noErr(w.t, err)
		proven = state.Proven != ""
		w.checkAgrees(r)
		for _, until := range moments {
			_, out, err := report.Rollforward(w.t.Context(), r, report.Query{Ledgers: report.Ledgers("")}, []time.Time{epoch0, until}, report.Split{})
			noErr(w.t, err)
			for _, d := range out.Differences {
				list += d.Customer + " "
			}
		}
		return nil
	}))
	return proven, list
}

// foldAfter folds so long after the last time.
func (w *daysWorld) foldAfter(d time.Duration, made bool) {
	w.t.Helper()
	w.now = w.now.Add(d)
	done, err := w.folders[0].Fold(w.t.Context())
	noErr(w.t, err)
	if (done.Made != "") != made || done.Lost {
		w.t.Errorf("the fold did %+v", done)
	}
}

// chainsProven: damage before the proof is found by it and told by reports, damage after
// it is told as well, and a repair clears both. Nobody's chain is told wrong for being kept.
func chainsProven(t *testing.T, h *Harness) {
	w := newDaysWorld(t, h, rand.New(rand.NewPCG(4, 4)))
	for i, d := range chainDamage {
		for _, before := range []bool{true, false} {
			name := fmt.Sprintf("%s, before the proof %v", d.name, before)
			customer := fmt.Sprintf("cus_C%d%t", i, before)
			l := newLedger("", customer)
			for range 6 {
				l.add("eur", -100)
			}
			l.sync(t, h)
			damage := func() { h.exec(t, d.statement+` WHERE customer = '`+customer+`' AND chain_position = 5`) }
			told := func() (bool, string) { return w.openChains(l.rows[5].Created, epoch0.AddDate(1, 0, 0)) }
			if before {
				damage()
			}
			w.foldAfter(25*time.Hour, true)
			if !before {
				if proven, list := told(); !proven || list != "" {
					t.Errorf("%s: proven %v, told %s", name, proven, list)
				}
				damage()
			}
			// Without a place the customer has no figure, which is told in another way.
			if proven, list := told(); !proven || (list == "") != (d.name == "place") {
				t.Errorf("%s: proven %v, told %q", name, proven, list)
			}
			// Whoever repairs the rows is believed by the rows, without another proof.
			h.exec(t, `DELETE FROM `+rowsTable+` WHERE id LIKE 'cbtxn_%'`)
			if proven, list := told(); !proven || list != "" {
				t.Errorf("%s: after the repair proven %v, told %q", name, proven, list)
			}
			// What is kept of a customer goes with the next proof.
			w.foldAfter(25*time.Hour, true)
			if n := h.number(t, `SELECT count(*) FROM ledger_days_doubts`); n != 0 {
				t.Errorf("%s: %d doubts are left", name, n)
			}
		}
	}
}

// chainsFollowed: whoever has newer records in the feed is looked at, and a fold carries
// the proof forward and keeps whose chain it found open. Where the proof says nothing, or
// the feed does not reach back to it, all chains are looked at.
func chainsFollowed(t *testing.T, h *Harness) {
	w := newDaysWorld(t, h, rand.New(rand.NewPCG(5, 5)))
	l, sound := newLedger("", "cus_Feed"), newLedger("acct_1", "cus_Sound")
	for range 6 {
		l.add("eur", -100)
		sound.add("eur", -100)
	}
	l.sync(t, h)
	sound.sync(t, h)
	end := epoch0.AddDate(1, 0, 0)
	want := func(step string, wantProven bool, wantList string) {
		t.Helper()
		proven, list := w.openChains(end)
		if proven != wantProven || list != wantList {
			t.Errorf("%s: proven %v, told %q; want %v, %q", step, proven, list, wantProven, wantList)
		}
	}
	doubts := func(step string, want int64) {
		t.Helper()
		if n := h.number(t, `SELECT count(*) FROM ledger_days_doubts`); n != want {
			t.Errorf("%s: %d customers are in doubt, want %d", step, n, want)
		}
	}
	want("before any proof", false, "")
	w.foldAfter(time.Hour, true)
	want("proven", true, "")
	// Damage that no trigger saw, of a customer who then changes.
	unseen := func(statement string) {
		h.exec(t, `CREATE TABLE seen AS SELECT * FROM ledger_days_doubts`, statement, `DELETE FROM ledger_days_doubts`,
			`INSERT INTO ledger_days_doubts SELECT * FROM seen`, `DROP TABLE seen`)
	}
	unseen(`UPDATE ` + rowsTable + ` SET amount = amount - 7 WHERE customer = 'cus_Feed' AND chain_position = 3`)
	for _, s := range []*ledger{l, sound} {
		s.add("eur", -50)
		st, err := h.BeginSync(t.Context(), s.target())
		noErr(t, err)
		_, err = h.ApplyBalance(t.Context(), s.snapshot(st, 2))
		noErr(t, err)
	}
	want("changed after the proof", true, "cus_Feed ")
	doubts("changed after the proof", 0)
	w.foldAfter(time.Minute, false)
	want("folded", true, "cus_Feed ")
	doubts("folded", 1) // the sound one is not kept
	w.foldAfter(25*time.Hour, true)
	want("proven again", true, "cus_Feed ")
	doubts("proven again", 1)
	// Another version of the program made the table: nothing it says is a proof.
	h.exec(t, `UPDATE ledger_days_state SET proof_generation = generation - 1`)
	want("of another version", false, "cus_Feed ")
	w.foldAfter(2*time.Hour, true) // it is looked for again
	want("again", true, "cus_Feed ")
	// Too many to keep: a report looks at all, and nobody tries again before the day is over.
	h.exec(t, `UPDATE ledger_days_state SET proof_position = ''`)
	want("too many", false, "cus_Feed ")
	w.foldAfter(2*time.Hour, false)
	want("not tried again", false, "cus_Feed ")
	w.foldAfter(25*time.Hour, true)
	// A position of another server or time.
	for _, position := range []string{"1@123/1:1:", "999999999", "0"} {
		h.exec(t, `UPDATE ledger_days_state SET proof_position = '`+position+`'`)
		if position == "0" {
			w.forget()
		}
		want("position "+position, true, "cus_Feed ")
	}
	h.exec(t, `UPDATE `+rowsTable+` SET amount = amount + 7 WHERE customer = 'cus_Feed' AND chain_position = 3`)
	want("repaired", true, "")
}

// chainsCounted: how many are open or in doubt is bounded, and more are told as more.
func chainsCounted(t *testing.T, h *Harness) {
	w := newDaysWorld(t, h, rand.New(rand.NewPCG(6, 6)))
	for i := range 5 {
		l := newLedger([]string{"", "acct_1"}[i%2], fmt.Sprintf("cus_N%d", i))
		for range 3 {
			l.add("eur", -100)
		}
		l.sync(t, h)
	}
	w.foldAfter(time.Hour, true)
	noErr(t, w.table.Books(t.Context(), func(r report.Reader) error {
		state, err := r.DayState(t.Context())
		noErr(t, err)
		open, complete, err := r.OpenChains(t.Context(), "", 0)
		if err != nil || !complete || len(open) != 0 {
			t.Errorf("no chain is open: %v, %v, %v", open, complete, err)
		}
		sums, complete, err := r.DoubtedSums(t.Context(), report.Filter{}, epoch0.AddDate(1, 0, 0), state.Proven, 0)
		if err != nil || !complete || len(sums) != 0 {
			t.Errorf("nobody is in doubt: %v, %v, %v", sums, complete, err)
		}
		return nil
	}))
	for _, place := range []int64{1, 2, 3} {
		h.exec(t, `UPDATE `+rowsTable+` SET ending_balance = ending_balance + 3 WHERE chain_position = `+fmt.Sprint(place))
		noErr(t, w.table.Books(t.Context(), func(r report.Reader) error {
			state, err := r.DayState(t.Context())
			noErr(t, err)
			if state.InDoubt != 5 || state.Doubted || state.Proven == "" {
				t.Errorf("the state is %+v", state)
			}
			for limit, want := range map[int]bool{4: false, 5: true} {
				open, complete, err := r.OpenChains(t.Context(), "", limit)
				if err != nil || complete != want || complete && len(open) != 5 {
					t.Errorf("limit %d: open chains %v, %v, %v", limit, open, complete, err)
				}
				sums, complete, err := r.DoubtedSums(t.Context(), report.Filter{}, epoch0.AddDate(1, 0, 0), state.Proven, limit)
				if wrong := map[bool]int{true: 5}[place == 3 && want]; err != nil || complete != want || len(sums) != wrong {
					t.Errorf("limit %d, place %d: %v, %v, %v", limit, place, sums, complete, err)
				}
				for i, s := range sums {
					if s.Amount != report.Of(-300) || s.End != -297 || i > 0 && !sorted(sums[i-1].Key, s.Key) {
						t.Errorf("sums are %+v", sums)
					}
				}
			}
			account := "acct_1"
			for _, f := range []report.Filter{{Account: &account}, {Currency: "usd"}} {
				sums, _, err := r.DoubtedSums(t.Context(), f, epoch0.AddDate(1, 0, 0), state.Proven, 5)
				if want := map[bool]int{true: 2}[place == 3 && f.Account != nil]; err != nil || len(sums) != want {
					t.Errorf("filter %+v: %v, %v", f, sums, err)
				}
			}
			return nil
		}))
	}
}

func sorted(a, b report.Key) bool {
	return a.Account < b.Account || a.Account == b.Account && a.Customer < b.Customer
}
