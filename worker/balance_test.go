package worker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

func TestBalanceCosts(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	b.sync(t, balanceOf(cus))
	if got, want := b.stripe.made(), "balance after= limit=100; customer"; got != want {
		t.Errorf("no rows: %s, want %s", got, want)
	}
	b.stripe.adjust(a, -500)
	r := b.sync(t, balanceOf(cus), mirror.EventRef{ID: "evt_1", Type: "customer.updated", Object: cus, Created: t0})
	if got, want := b.stripe.made(), "balance after= limit=11"; got != want {
		t.Errorf("one row: %s, want %s", got, want)
	}
	if r.Inserted != 1 || r.Updated != 1 || len(r.Answered) != 1 || r.More {
		t.Errorf("result %+v, want a row, the customer and an answer", r)
	}
	for range 30 {
		b.stripe.adjust(a, 1)
	}
	b.sync(t, balanceOf(cus))
	if got, want := b.stripe.made(), "balance after= limit=10; balance after=cbtxn_00022 limit=100"; got != want {
		t.Errorf("a burst: %s, want %s", got, want)
	}
	if n := len(b.held(t)); n != 31 {
		t.Errorf("%d rows held, want 31", n)
	}
	if r := b.sync(t, balanceOf(cus)); r.Changed() {
		t.Errorf("a second look changed something: %+v", r)
	}
}

func TestF25_BalanceTornRead(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	b.stripe.adjust(a, -500)
	b.sync(t, balanceOf(cus))
	b.stripe.adjust(a, 200)
	a.hidden = 1 // the customer is newer than the list
	reads := 0
	b.stripe.before = func(string) error {
		if reads++; reads == 3 {
			a.hidden = 0
		}
		return nil
	}
	if r := b.sync(t, balanceOf(cus)); len(r.Findings) != 0 || reads != 3 || len(b.held(t)) != 2 {
		t.Errorf("%+v after %d reads, %d rows held; want no drift after 3 reads, 2 rows", r, reads, len(b.held(t)))
	}
}

// A list that is empty although there is a balance is read again too.
func TestS20_BalanceEmptyList(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	b.stripe.adjust(a, -500)
	a.hidden = 1
	reads := 0
	b.stripe.before = func(call string) error {
		if call == "customer" {
			if reads++; reads == 2 {
				a.hidden = 0
			}
		}
		return nil
	}
	if r := b.sync(t, balanceOf(cus)); len(r.Findings) != 0 || len(b.held(t)) != 1 {
		t.Errorf("%+v, want the row without drift", r)
	}
}

// What cannot be proven is read in full, then kept and reported, and proven again
// from the beginning once it can be.
func TestBalanceDisproofIsAcceptedAtLast(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	for range 15 {
		b.stripe.adjust(a, -10)
	}
	b.sync(t, balanceOf(cus))
	b.stripe.made()
	b.stripe.adjust(a, -10)
	a.Balance -= 7 // nobody knows why
	a.InvoiceCreditBalance["eur"] += 7
	a.render()
	r := b.sync(t, balanceOf(cus))
	if len(r.Findings) != 1 || r.Findings[0].Kind != mirror.DriftChainGap {
		t.Fatalf("findings %+v, want one chain_gap", r.Findings)
	}
	head, full := "balance after= limit=10; ", "balance after= limit=10; balance after=cbtxn_00007 limit=100; "
	if got, want := b.stripe.made()+"; ", strings.Repeat(head, 4)+strings.Repeat(full, 2); got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
	if n := len(b.held(t)); n != 16 {
		t.Errorf("%d rows held, want all 16", n)
	}
	st, err := b.store.BeginSync(t.Context(), balanceOf(cus))
	if err != nil || !st.Disproved || !st.HistoryComplete {
		t.Fatalf("state %+v, %v; want complete and disproved", st, err)
	}
	a.Balance += 7
	a.InvoiceCreditBalance["eur"] -= 7
	a.render()
	b.sync(t, balanceOf(cus))
	if got := b.stripe.made() + "; "; got != full {
		t.Errorf("after a disproof: %s, want the whole history %s", got, full)
	}
	if st, err = b.store.BeginSync(t.Context(), balanceOf(cus)); err != nil || st.Disproved {
		t.Errorf("state %+v, %v; want it proven", st, err)
	}
	totals, err := b.store.Totals(t.Context())
	if err != nil || totals.DriftOpen[mirror.DriftChainGap] != 0 {
		t.Errorf("open drift %v, %v; want none", totals.DriftOpen, err)
	}
}

func TestI5_BalanceRewrittenLedgerIsBounded(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	b.stripe.adjust(a, -500)
	b.stripe.adjust(a, -500)
	b.sync(t, balanceOf(cus))
	b.stripe.made()
	a.rows = a.rows[1:]
	_, err := b.syncer.Sync(t.Context(), balanceOf(cus), nil, false)
	if !errors.Is(err, mirror.ErrLedgerRewritten) || judge(err).then != tryAgain {
		t.Fatalf("%v, want ErrLedgerRewritten", err)
	}
	if got := strings.Count(b.stripe.made(), "balance"); got != 4 {
		t.Errorf("%d reads, want 4", got)
	}
	if n := len(b.held(t)); n != 2 {
		t.Errorf("%d rows held, want both", n)
	}
}

func TestI13_F28_BalanceOfAVanishedCustomer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		change  func(f *fakeStripe, a *account)
		deleted bool
		calls   string
	}{
		{"deleted", func(_ *fakeStripe, a *account) { a.deleted = true }, true, "balance after= limit=10; customer"},
		{"404 twice", func(_ *fakeStripe, a *account) { a.gone = true }, true, "balance after= limit=10; customer; customer"},
		{"404 once", func(f *fakeStripe, a *account) {
			a.gone = true
			f.before = func(string) error {
				a.gone = len(f.calls) <= 2
				return nil
			}
		}, false, "balance after= limit=10; customer; customer; balance after= limit=10"},
		{"list alone lags", func(f *fakeStripe, a *account) {
			f.before = func(string) error {
				if len(f.calls) == 1 {
					return missing("customer")
				}
				return nil
			}
		}, false, "balance after= limit=10; customer; balance after= limit=10"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, SyncOptions{})
			a := b.stripe.add(cus)
			b.stripe.adjust(a, -500)
			b.sync(t, balanceOf(cus))
			b.stripe.made()
			test.change(b.stripe, a)
			r, err := b.syncer.Sync(t.Context(), balanceOf(cus), nil, false)
			if err != nil {
				t.Fatal(err)
			}
			if got := b.stripe.made(); got != test.calls {
				t.Errorf("calls %s, want %s", got, test.calls)
			}
			view, err := b.store.Customer(t.Context(), "", cus)
			if err != nil || view.Deleted != test.deleted || r.Deleted != test.deleted {
				t.Errorf("%+v, %+v, %v; want deleted %v", r, view, err, test.deleted)
			}
			if len(b.held(t)) != 1 {
				t.Error("the history is gone")
			}
		})
	}
}

// A list that 404s for a customer who is there says nothing of the rows: taking
// it for an empty history would call one complete that nobody has read.
func TestI13_BalanceListMissingIsNotEmpty(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	b.stripe.adjust(a, -500)
	b.stripe.adjust(a, 500) // nothing in the balance shows the two rows
	b.stripe.before = func(call string) error {
		if len(b.stripe.calls) == 1 {
			return missing("customer")
		}
		return nil
	}
	b.sync(t, balanceOf(cus))
	if got := len(b.held(t)); got != 2 {
		t.Errorf("%d rows held, want 2", got)
	}
}

// A cursor that is gone between two pages does not mean that the customer is.
func TestF26_BalanceCursorGoneInTheHead(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	b.stripe.pageCap = 1
	a := b.stripe.add(cus)
	b.stripe.adjust(a, -500)
	b.stripe.adjust(a, 500)
	b.stripe.before = func(call string) error {
		if strings.Contains(call, "after=c") {
			return missing("starting_after")
		}
		return nil
	}
	_, err := b.syncer.Sync(t.Context(), balanceOf(cus), nil, false)
	if err == nil || judge(err).then != tryAgain {
		t.Errorf("%v, want an error that is tried again", err)
	}
	if got := b.stripe.made(); strings.Contains(got, "customer") {
		t.Errorf("calls %s, want no question about the customer", got)
	}
}

func TestBalanceErrorsPassThrough(t *testing.T) {
	t.Parallel()
	for _, kind := range []stripeapi.Kind{
		stripeapi.KindRateLimited, stripeapi.KindUnavailable, stripeapi.KindGarbled, stripeapi.KindUnauthorized,
		stripeapi.KindForbidden, stripeapi.KindAccountRefused, stripeapi.KindRefused,
	} {
		for _, at := range []string{"balance", "customer"} {
			b := setup(t, SyncOptions{})
			b.stripe.add(cus)
			b.stripe.before = func(call string) error {
				if strings.HasPrefix(call, at) {
					return failure(kind)
				}
				return nil
			}
			_, err := b.syncer.Sync(t.Context(), balanceOf(cus), nil, false)
			if e, ok := errors.AsType[*stripeapi.Error](err); !ok || e.Kind != kind {
				t.Errorf("%v at %s: %v", kind, at, err)
			}
			if n := len(b.stripe.calls); n > 2 {
				t.Errorf("%v at %s: %d calls, want no second try", kind, at, n)
			}
		}
	}
}

func TestBalanceStoreErrors(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"begin", "apply"} {
		b := setup(t, SyncOptions{})
		b.stripe.add(cus)
		b.flaky.before = func(call string) error {
			if call == at {
				return errors.New("disk on fire")
			}
			return nil
		}
		_, err := b.syncer.Sync(t.Context(), balanceOf(cus), nil, false)
		if v := judge(err); v.outcome != "store_error" || !strings.Contains(err.Error(), "disk on fire") {
			t.Errorf("%s: %v is %s, want store_error", at, err, v.outcome)
		}
	}
}

// A sync that began later wins; the earlier one writes nothing.
func TestR3_BalanceFenced(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{})
	a := b.stripe.add(cus)
	b.stripe.adjust(a, -500)
	b.stripe.before = func(string) error {
		_, err := b.store.BeginSync(t.Context(), balanceOf(cus))
		return err
	}
	_, err := b.syncer.Sync(t.Context(), balanceOf(cus), nil, false)
	if !errors.Is(err, mirror.ErrFenced) || len(b.stripe.calls) != 1 {
		t.Fatalf("%v after %d calls, want ErrFenced after one", err, len(b.stripe.calls))
	}
	if _, err := b.store.Customer(t.Context(), "", cus); !errors.Is(err, mirror.ErrNotFound) {
		t.Errorf("%v, want nothing held", err)
	}
}

func TestS21_RereadWaitEndsWithTheContext(t *testing.T) {
	t.Parallel()
	for _, target := range []mirror.Target{balanceOf(cus), creditsOf(cus)} {
		b := setup(t, SyncOptions{RereadDelay: time.Hour})
		a := b.stripe.add(cus)
		b.stripe.adjust(a, -500)
		b.stripe.grant(a, 100, true)
		a.hidden = 1
		ctx, cancel := context.WithCancel(t.Context())
		b.stripe.before = func(call string) error {
			if target.Scope == mirror.ScopeBalance && call == "customer" || strings.HasPrefix(call, "summary") {
				time.AfterFunc(10*time.Millisecond, cancel)
			}
			return nil
		}
		if _, err := b.syncer.Sync(ctx, target, nil, false); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", target, err)
		}
		cancel()
	}
}

// A history longer than a piece takes several commits, each with its own fence.
func TestBalanceInPieces(t *testing.T) {
	t.Parallel()
	b := setup(t, SyncOptions{PagesPerPiece: 1, WalkFor: -1})
	a := b.stripe.add(cus)
	for range 250 {
		b.stripe.adjust(a, -1)
	}
	for i, want := range []bool{true, true, false} {
		if r := b.sync(t, balanceOf(cus)); r.More != want {
			t.Errorf("piece %d: more %v, want %v", i, r.More, want)
		}
	}
	if n := len(b.held(t)); n != 250 {
		t.Errorf("%d rows held, want 250", n)
	}
	if r := b.sync(t, balanceOf(cus)); r.More || r.Changed() {
		t.Errorf("%+v, want nothing left to do", r)
	}
}

func TestSyncUnknownScope(t *testing.T) {
	t.Parallel()
	_, err := NewSyncer(nil, nil, nil, SyncOptions{}).Sync(t.Context(), mirror.Target{Scope: "x"}, nil, false)
	if err == nil {
		t.Error("no error")
	}
}
