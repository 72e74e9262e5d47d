package worker

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
)

// digests are what findings say of fields that hold no id and no amount.
var digests = regexp.MustCompile(`digest [0-9a-f]{16}`)

// requireFound compares what is recorded with what should be.
func (b *bench) requireFound(t *testing.T, want ...string) {
	t.Helper()
	if got := b.found(t); !slices.Equal(got, want) {
		t.Errorf("recorded\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// requireRefused syncs and expects the reply to be refused; it returns what was
// opened and the calls that were made.
func (b *bench) requireRefused(t *testing.T, target mirror.Target, refs ...mirror.EventRef) (opened int, calls int) {
	t.Helper()
	b.stripe.made()
	r, err := b.syncer.Sync(t.Context(), target, refs, false)
	if !errors.Is(err, mirror.ErrLedgerRewritten) || judge(err).outcome != "ledger_rewritten" {
		t.Fatalf("%v, want ErrLedgerRewritten", err)
	}
	return len(r.Findings), strings.Count(b.stripe.made(), "after=")
}

// A row that Stripe shows otherwise than it lies here as it was written: refused,
// recorded once, read once more at each further try, and closed when Stripe shows
// it again as it was.
func TestI5_ContradictionIsRecordedWhileItIsRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		change       func(a *account) (undo func())
		want         string
		first, later int // calls
	}{
		{
			"an amount", func(a *account) func() {
				r := &a.rows[2].row
				r.Amount -= 7
				renderRow(r)
				return func() { r.Amount += 7; renderRow(r) }
			}, "field_mismatch|cbtxn_00003|-507|-500|rewritten history", 1, 1, // no list that lags shows another amount
		},
		{
			"a type", func(a *account) func() {
				r := &a.rows[2].row
				r.Type = "initial"
				renderRow(r)
				return func() { r.Type = "adjustment"; renderRow(r) }
			}, "field_mismatch|cbtxn_00003|type initial|type adjustment|rewritten history", 1, 1,
		},
		{
			"a row gone", func(a *account) func() {
				rows := a.rows
				a.rows = slices.Delete(slices.Clone(rows), 2, 3)
				return func() { a.rows = rows }
			}, "unexpected_transaction|cbtxn_00003||-500|rewritten history", 4, 1, // it may be a list that lags
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, SyncOptions{})
			a := b.stripe.add(cus)
			for range 4 {
				b.stripe.adjust(a, -500)
			}
			b.sync(t, balanceOf(cus))
			undo := tt.change(a)
			if opened, calls := b.requireRefused(t, balanceOf(cus)); opened != 1 || calls != tt.first {
				t.Errorf("%d findings opened with %d calls, want 1 with %d", opened, calls, tt.first)
			}
			b.requireFound(t, tt.want+"|open")
			for range 2 {
				if opened, calls := b.requireRefused(t, balanceOf(cus)); opened != 0 || calls != tt.later {
					t.Errorf("once more: %d findings opened with %d calls, want none with %d", opened, calls, tt.later)
				}
			}
			b.requireFound(t, tt.want+"|open")
			undo()
			if r := b.sync(t, balanceOf(cus)); len(r.Closed) != 1 {
				t.Errorf("after it is resolved: %+v", r)
			}
			b.requireFound(t, tt.want+"|closed")
		})
	}
}

// F24: a list that lags lacks a row that is held as it was written. A long history
// is not read for that: the newest rows are read again, and their commit closes what
// was recorded meanwhile.
func TestF24_ListThatLagsIsNotReadWhole(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	for range 250 {
		b.stripe.adjust(a, -1)
	}
	b.sync(t, balanceOf(cus))
	e := mirror.EventRef{ID: "evt_1", Created: t0, Type: "customer.updated", Object: cus}
	a.hidden = 1
	want := "unexpected_transaction|cbtxn_00250||-1|rewritten history"
	for n, calls := range []int{4, 1, 1} {
		b.stripe.made()
		if opened, got := b.requireRefused(t, balanceOf(cus), e); got != calls || opened != map[bool]int{true: 1, false: 0}[n == 0] {
			t.Errorf("try %d: %d findings with %d calls, want %d calls", n, opened, got, calls)
		}
		b.requireFound(t, want+"|open")
	}
	a.hidden = 0
	if r := b.sync(t, balanceOf(cus), e); len(r.Closed) != 1 || r.Changed() {
		t.Errorf("once it does not lag: %+v", r)
	}
	if calls := b.stripe.made(); strings.Count(calls, "balance") != 1 {
		t.Errorf("calls %s, want one", calls)
	}
	b.requireFound(t, want+"|closed")
}

// A column that was changed here is found by the read of the newest rows, since it
// contradicts Stripe, and repaired by the whole read that follows at once.
func TestDamageAmongTheNewestRowsIsReadWholeAndRepaired(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		set, want string
		calls     int
	}{
		"an amount":           {"amount = amount - 7", "field_mismatch|cbtxn_00029|-500|-507|unknown|closed", 4},
		"an ending balance":   {"ending_balance = 0", "field_mismatch|cbtxn_00029|digest|digest: ending_balance|unknown|closed", 4},
		"a time long ago":     {"created = '2001-01-01T00:00:00.000000Z'", "field_mismatch|cbtxn_00029|digest|digest: created|unknown|closed", 7},
		"a time to come":      {"created = '2031-01-01T00:00:00.000000Z'", "field_mismatch|cbtxn_00029|digest|digest: created|unknown|closed", 4},
		"what is no time":     {"created = 'yesterday'", "field_mismatch|cbtxn_00029|digest|digest: created|unknown|closed", 7},
		"its JSON, and a sum": {"raw = '{}', amount = 3", "field_mismatch|cbtxn_00029|-500|3|unknown|closed", 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, SyncOptions{})
			a := b.stripe.add(cus)
			for range 30 {
				b.stripe.adjust(a, -500)
			}
			b.sync(t, balanceOf(cus))
			b.exec(t, `UPDATE customer_balance_transactions SET `+test.set+` WHERE id = 'cbtxn_00029'`)
			b.stripe.made()
			r := b.sync(t, balanceOf(cus), mirror.EventRef{ID: "evt_1", Created: t0, Type: "customer.updated", Object: cus})
			if calls := strings.Count(b.stripe.made(), "balance after="); calls > test.calls {
				t.Errorf("%d calls, want at most %d", calls, test.calls)
			}
			if len(r.Repaired) != 1 || r.Updated != 1 || r.Inserted != 0 {
				t.Errorf("%+v, want one row repaired", r)
			}
			got := b.found(t)
			for i := range got {
				got[i] = digests.ReplaceAllString(got[i], "digest")
			}
			if !slices.Equal(got, []string{test.want}) {
				t.Errorf("recorded %q, want %q", got, test.want)
			}
			if r := b.sync(t, balanceOf(cus)); r.Changed() {
				t.Errorf("the next sync: %+v", r)
			}
		})
	}
}

// A history of several pieces is gone through piece by piece, and damage is
// repaired with the piece that lists it.
func TestDamageInALongHistoryIsRepairedPieceByPiece(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{PagesPerPiece: 1, WalkFor: -1})
	a := b.stripe.add(cus)
	for range 350 {
		b.stripe.adjust(a, -1)
	}
	all := func(refs ...mirror.EventRef) (repaired int) {
		for range 20 {
			r := b.sync(t, balanceOf(cus), refs...)
			if repaired += len(r.Repaired); !r.More {
				return repaired
			}
		}
		t.Fatal("no end")
		return 0
	}
	all()
	for _, id := range []int{1, 120, 230, 349} {
		b.exec(t, fmt.Sprintf(`UPDATE customer_balance_transactions SET amount = 5, created = '2026-03-01T12:00:00.000000Z' WHERE id = 'cbtxn_%05d'`, id))
	}
	// All four seem to be of the first second; the newest rows lack one that is held.
	if n := all(mirror.EventRef{ID: "evt_1", Created: t0, Type: "customer.updated", Object: cus}); n != 4 {
		t.Errorf("%d rows repaired, want 4", n)
	}
	b.requireFound(t, "field_mismatch|cbtxn_00001|-1|5|unknown|closed", "field_mismatch|cbtxn_00120|-1|5|unknown|closed",
		"field_mismatch|cbtxn_00230|-1|5|unknown|closed", "field_mismatch|cbtxn_00349|-1|5|unknown|closed")
	if n := all(); n != 0 {
		t.Errorf("%d rows repaired once more", n)
	}
}

// The same for credits: rows, grants, and rows that an event announces and that are
// held for another customer.
func TestI5_CreditsContradictionIsRecorded(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	g := b.stripe.grant(a, 1000, true)
	b.stripe.move(a, g, -100)
	b.sync(t, creditsOf(cus))
	row := &a.credits[1].row
	row.Amount = -101
	renderCredit(row)
	if opened, calls := b.requireRefused(t, creditsOf(cus)); opened != 1 || calls != 2 { // rows and grants
		t.Errorf("%d findings with %d calls", opened, calls)
	}
	want := "field_mismatch|" + row.ID + "|-101|-100|rewritten history"
	b.requireFound(t, want+"|open")
	row.Amount = -100
	renderCredit(row)
	b.sync(t, creditsOf(cus))
	b.requireFound(t, want+"|closed")

	grant := b.stripe.grants[g]
	dearer := grant
	dearer.Amount = 2000
	b.stripe.grants[g] = dearer
	b.requireRefused(t, creditsOf(cus))
	ofGrant := "field_mismatch|" + g + "|2000|1000|rewritten history"
	b.requireFound(t, want+"|closed", ofGrant+"|open")
	b.stripe.grants[g] = grant
	b.sync(t, creditsOf(cus))
	b.requireFound(t, want+"|closed", ofGrant+"|closed")

	b.stripe.add("cus_2")
	b.requireRefused(t, creditsOf("cus_2"), rowEvent(row.ID))
	b.requireFound(t, want+"|closed", "field_mismatch|"+row.ID+"|customer cus_2|customer "+cus+"|rewritten history|open", ofGrant+"|closed")
}

// A grant that only the mirror has disproves the ledger, and is not asked for.
func TestCreditsGrantThatStripeDoesNotList(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	b.stripe.grant(a, 1000, false)
	b.sync(t, creditsOf(cus))
	b.exec(t, `INSERT INTO credit_grants (account, id, customer, category, amount_type, amount, currency, applicability_config, created, updated, livemode, metadata, raw, digest, synced_at)
SELECT account, 'credgr_forged', customer, category, amount_type, 77, currency, '{}', created, updated, livemode, metadata, raw, digest, synced_at FROM credit_grants`)
	b.stripe.made()
	r := b.sync(t, creditsOf(cus))
	if !r.Unproven || len(r.Findings) != 1 || r.Findings[0].Kind != mirror.DriftUnexpectedTransaction || r.Findings[0].Object != "credgr_forged" {
		t.Fatalf("%+v", r)
	}
	if calls := b.stripe.made(); strings.Count(calls, "summary grant") != strings.Count(calls, "grants after=") {
		t.Errorf("calls %s: one summary per reading, of the grant that Stripe has", calls)
	}
	b.exec(t, `DELETE FROM credit_grants WHERE id = 'credgr_forged'`)
	if r := b.sync(t, creditsOf(cus)); len(r.Closed) != 1 || r.Unproven {
		t.Errorf("after it is gone: %+v", r)
	}
}

// Where the refusal cannot be recorded, the sync ends with that: its attempt says
// nothing about the customer.
func TestRefusalThatIsNotRecorded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		call string
		err  error
		then action
	}{
		"overtaken":              {"refuse", mirror.ErrFenced, giveBack},
		"no database":            {"refuse", errors.New("disk"), wait},
		"no database to look at": {"damaged", errors.New("disk"), wait},
		"it is stored":           {"refuse", nil, tryAgain},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, SyncOptions{})
			a := b.stripe.add(cus)
			b.stripe.adjust(a, -500)
			b.sync(t, balanceOf(cus))
			a.rows = nil
			b.flaky.before = func(call string) error {
				if call == test.call {
					return test.err
				}
				return nil
			}
			_, err := b.syncer.Sync(t.Context(), balanceOf(cus), nil, false)
			if v := judge(err); v.then != test.then {
				t.Errorf("%v: %+v", err, v)
			}
			b.stripe.add("cus_2")
			if _, err := b.syncer.Sync(t.Context(), creditsOf("cus_2"), []mirror.EventRef{rowEvent(b.creditOf(t, cus))}, false); judge(err).then != test.then {
				t.Errorf("credits: %v", err)
			}
		})
	}
}

// creditOf gives a customer a grant, syncs it, and returns the id of its row.
func (b *bench) creditOf(t *testing.T, customer string) string {
	t.Helper()
	before := b.flaky.before
	b.flaky.before = nil
	defer func() { b.flaky.before = before }()
	a := b.stripe.customers[customer]
	b.stripe.grant(a, 10, true)
	b.sync(t, creditsOf(customer))
	return a.credits[0].row.ID
}
