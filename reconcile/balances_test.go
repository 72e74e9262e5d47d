package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// comparing adds retrieval to the fake Stripe: what is not listed is deleted.
type comparing struct{ *fakeStripe }

func (c comparing) Customer(_ context.Context, account, id string) (stripeapi.CustomerReply, error) {
	return try(c.faults, "customer", func() (stripeapi.CustomerReply, error) {
		for _, h := range c.customers {
			if h.ID == id {
				return stripeapi.CustomerReply{Customer: h}, nil
			}
		}
		return stripeapi.CustomerReply{Customer: mirror.Customer{Account: account, ID: id}, Deleted: true}, nil
	})
}

func (s *flaky) HeldCustomers(ctx context.Context, account string, ids []string) (map[string]mirror.HeldCustomer, error) {
	return try(s.f, "held customers", func() (map[string]mirror.HeldCustomer, error) { return s.Store.HeldCustomers(ctx, account, ids) })
}

func (s *flaky) HeldGrants(ctx context.Context, account string, ids []string) (map[string]mirror.HeldGrantRow, error) {
	return try(s.f, "held grants", func() (map[string]mirror.HeldGrantRow, error) { return s.Store.HeldGrants(ctx, account, ids) })
}

func (s *flaky) LivingCustomers(ctx context.Context, account string, before mirror.Place, from time.Time, limit int) ([]mirror.Place, error) {
	return try(s.f, "living", func() ([]mirror.Place, error) { return s.Store.LivingCustomers(ctx, account, before, from, limit) })
}

func (s *flaky) OpenFindings(ctx context.Context, list []mirror.Finding) ([]mirror.Finding, error) {
	return try(s.f, "open findings", func() ([]mirror.Finding, error) { return s.Store.OpenFindings(ctx, list) })
}

// balancesBench is a mirror of 25 customers, three of them made in each second,
// and of a drift of each sort.
func balancesBench(t *testing.T) (*bench, []string) {
	b := setup(t)
	b.stripe.pageCap = 4
	b.stripe.clocks = []string{"clock_1"}
	var held []mirror.Customer
	for i := range 25 {
		c := customer(fmt.Sprintf("cus_%02d", i), "")
		c.Created, c.Currency = t0.Add(-time.Hour-time.Duration(i/3)*time.Second), "eur"
		held = append(held, c)
	}
	clocked := customer("cus_clock", "clock_1")
	gone := customer("cus_goneclock", "clock_gone")
	if _, err := b.store.Store.InsertCustomers(t.Context(), "", append(slices.Clone(held), clocked, gone)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.Store.InsertGrants(t.Context(), "", []mirror.CreditGrant{grant("credgr_1", "cus_01"), grant("credgr_2", "cus_02")}); err != nil {
		t.Fatal(err)
	}
	listed := slices.Clone(held)
	listed[3].Balance = -5
	listed[20].InvoiceCreditBalance = map[string]int64{"usd": 9}
	listed = slices.Delete(listed, 7, 9) // two that are gone
	listed = slices.Insert(listed, 0, customer("cus_new", ""))
	clocked.Balance, clocked.Currency = -1, "eur"
	b.stripe.customers = append(listed, clocked)
	edited := grant("credgr_2", "cus_02")
	edited.Raw = []byte(`{"id":"credgr_2","name":"edited"}`)
	b.stripe.grants = []mirror.CreditGrant{grant("credgr_3", "cus_03"), edited, grant("credgr_1", "cus_01")}
	return b, []string{
		"balance_mismatch cus_03", "balance_mismatch cus_20", "balance_mismatch cus_clock", "field_mismatch cus_02",
		"missing_customer cus_07", "missing_customer cus_08", "missing_customer cus_goneclock", "missing_customer cus_new",
		"missing_transaction cus_03",
	}
}

func (b *bench) balances(o BalancesOptions) *BalancesSweep {
	o.TestMode = true
	o.Grace = time.Nanosecond
	o.Now = func() time.Time { b.now = b.now.Add(time.Microsecond); return b.now }
	return NewBalancesSweep(comparing{b.stripe}, b.store, b.queue, o)
}

func (b *bench) found(t *testing.T) []string {
	t.Helper()
	list, err := b.store.Store.Findings(t.Context(), mirror.FindingsQuery{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, f := range list {
		out = append(out, string(f.Kind)+" "+f.Customer)
	}
	slices.Sort(out)
	return out
}

// A pass that fails at any call, before or after it took effect, goes on where
// it was: everything is found, once, and marked.
func TestBalancesResumeAfterEveryFailure(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		for at := 1; ; at++ {
			b, want := balancesBench(t)
			b.faults.n, b.faults.at, b.faults.after = 0, at, after
			_, err := b.balances(BalancesOptions{}).Run(t.Context(), "", "")
			if err != nil && !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			done := err == nil
			if w, err := b.store.Store.Sweep(t.Context(), "", SweepBalances); err != nil || w.LastSuccess.IsZero() == done && !after {
				t.Fatalf("failed at %d: %+v, %v", at, w, err)
			}
			b.faults.at = 0
			if !done {
				if _, err := b.balances(BalancesOptions{}).Run(t.Context(), "", ""); err != nil {
					t.Fatal(err)
				}
			}
			if got := b.found(t); !slices.Equal(got, want) {
				t.Fatalf("failed at %d (after %v): found %q, want %q", at, after, got, want)
			}
			for _, id := range []string{"cus_03", "cus_20", "cus_clock", "cus_07", "cus_new"} {
				if !b.queue.queued[mirror.Target{Scope: mirror.ScopeBalance, ID: id}] {
					t.Fatalf("failed at %d (after %v): %s is not marked", at, after, id)
				}
			}
			if done {
				break
			}
		}
	}
}

func TestBalancesReportOnly(t *testing.T) {
	t.Parallel()
	no := false
	b, want := balancesBench(t)
	result, err := b.balances(BalancesOptions{DryRun: true}).Run(t.Context(), "", "")
	if err != nil || len(result.Findings) != len(want) || len(b.found(t)) != 0 || len(b.queue.swept) != 0 {
		t.Fatalf("dry run: %+v, %v, recorded %q, marked %v", result, err, b.found(t), b.queue.swept)
	}
	if w, err := b.store.Sweep(t.Context(), "", SweepBalances); err != nil || !w.StartedAt.IsZero() {
		t.Fatalf("a dry run saved %+v, %v", w, err)
	}
	if _, err := b.balances(BalancesOptions{Repair: &no}).Run(t.Context(), "", ""); err != nil || len(b.queue.swept) != 0 {
		t.Fatalf("without repair: %v, marked %v", err, b.queue.swept)
	}
	if got := b.found(t); !slices.Equal(got, want) {
		t.Fatalf("without repair: found %q, want %q", got, want)
	}
	if _, err := b.store.Customer(t.Context(), "", "cus_new"); !errors.Is(err, mirror.ErrNotFound) {
		t.Fatalf("without repair a customer was stored: %v", err)
	}
}

// What waits, is in work, or was synced after the page was asked for is lag.
func TestBalancesTellLagFromDrift(t *testing.T) {
	t.Parallel()
	b, _ := balancesBench(t)
	b.queue.queued[mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_03"}] = true
	b.queue.queued[mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_07"}] = true
	commit(t, b.store, mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_20"}, t0.Add(time.Hour))
	commit(t, b.store, mirror.Target{Scope: mirror.ScopeCredits, ID: "cus_02"}, t0.Add(time.Hour))
	if _, err := b.balances(BalancesOptions{}).Run(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	for _, f := range b.found(t) {
		if slices.Contains([]string{"balance_mismatch cus_03", "missing_customer cus_07", "balance_mismatch cus_20", "field_mismatch cus_02"}, f) {
			t.Errorf("%s is lag", f)
		}
	}
}

// A customer that the list leaves out and that is alive is no drift.
func TestBalancesUnlistedIsNotDeleted(t *testing.T) {
	t.Parallel()
	b, _ := balancesBench(t)
	c := customer("cus_07", "clock_moved") // not among the clocks listed
	b.stripe.customers = append(b.stripe.customers, c)
	if _, err := b.balances(BalancesOptions{}).Run(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(b.found(t), "missing_customer cus_07") {
		t.Error("believed deleted")
	}
}

func TestBalancesCursorGone(t *testing.T) {
	t.Parallel()
	b, want := balancesBench(t)
	b.faults.hook = func(call string) error {
		if call == "save sweep" && b.faults.n > 20 {
			return errInjected
		}
		return nil
	}
	if _, err := b.balances(BalancesOptions{}).Run(t.Context(), "", ""); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	b.faults.hook = nil
	var at balancesPoint
	w, err := b.store.Sweep(t.Context(), "", SweepBalances)
	if err != nil || len(w.State) == 0 {
		t.Fatalf("%+v, %v", w, err)
	}
	if err := json.Unmarshal(w.State, &at); err != nil || at.After == "" {
		t.Fatalf("%+v, %v", at, err)
	}
	b.stripe.customers = slices.DeleteFunc(b.stripe.customers, func(c mirror.Customer) bool { return c.ID == at.After })
	if _, err := b.balances(BalancesOptions{}).Run(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	want = append(want, "missing_customer "+at.After)
	slices.Sort(want)
	got := b.found(t)
	for _, f := range want {
		// Work on the customer that is gone explains the rest of what differs in it.
		if !strings.HasSuffix(f, at.After) && !slices.Contains(got, f) {
			t.Errorf("%s was not found: %q", f, got)
		}
	}
}
