package mirrortest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

// endsBooks runs reports of account acct_1 over what a test left.
type endsBooks struct {
	t *testing.T
	h *Harness
}

func (b endsBooks) run(fn func(ctx context.Context, r report.Reader, q report.Query) error) error {
	b.t.Helper()
	books, ok := b.h.Store.(report.Books)
	if !ok {
		b.t.Fatalf("%T has no books", b.h.Store)
	}
	account := "acct_1"
	return books.Books(b.t.Context(), func(r report.Reader) error {
		return fn(b.t.Context(), r, report.Query{
			Filter: report.Filter{Account: &account}, Ledgers: report.Ledgers(""), Until: epoch0.AddDate(1, 0, 0),
		})
	})
}

// totals are the totals of the books, as text.
func (b endsBooks) totals() (text string, err error) {
	err = b.run(func(ctx context.Context, r report.Reader, q report.Query) error {
		list, _, err := report.Totals(ctx, r, q)
		for _, t := range list {
			text += fmt.Sprintf("%s %s %d %d;", t.Ledger, t.Currency, t.Customers, t.Amount)
		}
		return err
	})
	return text, err
}

// balances are the balances of each customer.
func (b endsBooks) balances() (text string, err error) {
	err = b.run(func(ctx context.Context, r report.Reader, q report.Query) error {
		_, err := report.Balances(ctx, r, q, func(b report.Balance) error {
			text += fmt.Sprintf("%s %d;", b.Customer, b.Amount)
			return nil
		})
		return err
	})
	return text, err
}

// closing is the last line of a roll-forward over the year; with cut its bounds are no
// whole days, so that the rows themselves are added up.
func (b endsBooks) closing(cut time.Duration) (amount int64, err error) {
	err = b.run(func(ctx context.Context, r report.Reader, q report.Query) error {
		day := epoch0.UTC().Truncate(24 * time.Hour).Add(cut)
		lines, _, err := report.Rollforward(ctx, r, q, []time.Time{day.AddDate(0, 0, -1), day.AddDate(1, 0, 0)}, report.Split{})
		if len(lines) > 0 {
			amount = lines[len(lines)-1].Amount
		}
		return err
	})
	return amount, err
}

// over fails where a report did not refuse, or does not tell whose figure it is.
func over(t *testing.T, what string, err error, names ...string) {
	t.Helper()
	if !errors.Is(err, report.ErrOverflow) {
		t.Errorf("%s: %v, want %v", what, err, report.ErrOverflow)
		return
	}
	for _, name := range names {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v does not name %s", what, err, name)
		}
	}
}

// sumsAtTheEnds: the last figures that 64 bits hold are right, and one that they do not
// hold is an error that names whose it is, whatever else is added up on the way.
func sumsAtTheEnds(t *testing.T, h *Harness) {
	b := endsBooks{t, h}
	most, least := newLedger("acct_1", "cus_Amost"), newLedger("acct_1", "cus_Bleast")
	most.add("eur", math.MaxInt64)
	most.sync(t, h)
	totals, err := b.totals()
	if want := fmt.Sprintf("balance eur 1 %d;", int64(math.MaxInt64)); err != nil || totals != want {
		t.Errorf("totals %q, %v, want %q", totals, err, want)
	}
	least.add("eur", math.MinInt64)
	least.sync(t, h)
	if totals, err = b.totals(); err != nil || totals != "balance eur 2 -1;" {
		t.Errorf("totals of both ends: %q, %v", totals, err)
	}
	one := newLedger("acct_1", "cus_Cone")
	one.add("eur", math.MaxInt64)
	one.add("eur", -2)
	one.sync(t, h)
	if totals, err = b.totals(); err != nil || totals != fmt.Sprintf("balance eur 3 %d;", int64(math.MaxInt64-3)) {
		t.Errorf("totals: %q, %v", totals, err)
	}

	// Two of them pass the end: what each has is still told.
	two := newLedger("acct_1", "cus_Dtwo")
	two.add("eur", 4)
	two.sync(t, h)
	_, err = b.totals()
	over(t, "totals", err, "balance ledger", "eur", `"acct_1"`)
	if list, err := b.balances(); err != nil || strings.Count(list, ";") != 4 || !strings.Contains(list, fmt.Sprintf("cus_Cone %d;", int64(math.MaxInt64-2))) {
		t.Errorf("balances %q, %v", list, err)
	}
	for _, cut := range []time.Duration{0, time.Minute} {
		_, err = b.closing(cut)
		over(t, "roll-forward", err, "balance ledger", "eur", `"acct_1"`)
	}
	err = b.run(func(ctx context.Context, r report.Reader, q report.Query) error {
		_, _, err := report.Draw(ctx, r, q.Filter, "2026", q.Until.AddDate(-1, 0, 0), q.Until, q.Until)
		return err
	})
	over(t, "seal", err, "balance ledger", "eur", `"acct_1"`)

	// The other account is another sum.
	other := newLedger("acct_2", "cus_Other")
	other.add("eur", 7)
	other.sync(t, h)
	noErr(t, b.run(func(ctx context.Context, r report.Reader, q report.Query) error {
		account := "acct_2"
		q.Account = &account
		list, _, err := report.Totals(ctx, r, q)
		if len(list) != 1 || list[0].Amount != 7 {
			t.Errorf("the other account has %+v", list)
		}
		return err
	}))

	// Of a customer that was deleted nothing is held, though the plain sum still passes
	// the end.
	h.exec(t, `UPDATE customers SET deleted = true, deleted_at = '2026-07-01T00:00:00.000000Z' WHERE id IN ('cus_Cone', 'cus_Dtwo')`)
	if totals, err = b.totals(); err != nil || totals != "balance eur 2 -1;" {
		t.Errorf("totals after the deletions: %q, %v", totals, err)
	}
	for _, cut := range []time.Duration{0, time.Minute} {
		if amount, err := b.closing(cut); err == nil && amount != -1 || err != nil && !errors.Is(err, report.ErrOverflow) {
			t.Errorf("closing after the deletions: %d, %v", amount, err)
		}
	}
	// What the deletion of the last releases is one more than 64 bits hold.
	h.exec(t, `UPDATE customers SET deleted = true, deleted_at = '2026-07-01T00:00:00.000000Z' WHERE id = 'cus_Bleast'`)
	_, err = b.closing(0)
	over(t, "release", err, "cus_Bleast", "balance ledger", "eur", `"acct_1"`)
}

// customersAtTheEnds: a customer whose rows, which somebody changed, pass the end has no
// figure; where its history is not proven it is one of those without a figure, as ever.
func customersAtTheEnds(t *testing.T, h *Harness) {
	b := endsBooks{t, h}
	l := newLedger("acct_1", "cus_A")
	for range 4 {
		l.add("eur", 1)
	}
	l.sync(t, h)
	// 4 times 2^62 is 2^64, which is nothing in 64 bits.
	for _, amount := range []string{"4611686018427387904", "-4611686018427387905"} {
		h.exec(t, `UPDATE `+rowsTable+` SET amount = `+amount)
		_, err := b.balances()
		over(t, "balances", err, "cus_A", "balance ledger", "eur", `"acct_1"`)
		_, err = b.totals()
		over(t, "totals", err, "balance ledger", "eur", `"acct_1"`)
		_, err = b.closing(time.Minute)
		over(t, "roll-forward", err, "balance ledger", "eur", `"acct_1"`)
		err = b.run(func(ctx context.Context, r report.Reader, q report.Query) error {
			q.Customer = "cus_A"
			_, err := report.Statement(ctx, r, q, time.Time{}, func(report.Movement) error { return nil })
			return err
		})
		over(t, "statement", err, "cus_A", "balance ledger", "eur", `"acct_1"`)
		noErr(t, b.run(func(ctx context.Context, r report.Reader, q report.Query) error {
			totals, err := r.Totals(ctx, report.LedgerBalance, q.Filter, report.ByLedger, q.Until)
			if len(totals) != 1 || totals[0].Customers != 1 || totals[0].Differing != 1 {
				t.Errorf("amount %s: the reader's totals are %+v", amount, totals)
			}
			return err
		}))
	}
	h.exec(t, `UPDATE sync_state SET disproved = true`)
	if totals, err := b.totals(); err != nil || totals != "" {
		t.Errorf("totals without proof: %q, %v", totals, err)
	}

	// The link from the largest number to the smallest holds in 64 bits alone.
	h.exec(t, `UPDATE `+rowsTable+` SET amount = 9223372036854775807, ending_balance = 9223372036854775807 WHERE chain_position = 1`)
	h.exec(t, `UPDATE `+rowsTable+` SET amount = 1, ending_balance = -9223372036854775807 - 1 WHERE chain_position = 2`)
	err := b.run(func(ctx context.Context, r report.Reader, _ report.Query) error {
		n := 0
		_, err := report.Links(ctx, r, report.Key{Account: "acct_1", Customer: "cus_A"}, func(l report.Link) error {
			if l.Kind != report.LinkRow {
				return nil
			}
			if n++; n == 2 && (l.Holds || l.After != nil || !strings.Contains(l.Why, "64 bits")) {
				t.Errorf("link %+v", l)
			}
			return nil
		})
		if n != 4 {
			t.Errorf("%d links", n)
		}
		return err
	})
	noErr(t, err)
}

// grantsAtTheEnds: the same for billing credits, and what is left of a grant.
func grantsAtTheEnds(t *testing.T, h *Harness) {
	b := endsBooks{t, h}
	ageing := func() (amount int64, err error) {
		err = b.run(func(ctx context.Context, r report.Reader, q report.Query) error {
			list, _, err := report.Ageing(ctx, r, q, []int{30})
			if len(list) == 1 {
				amount = list[0].Amount
			}
			return err
		})
		return amount, err
	}
	newLedger("acct_1", "cus_A").sync(t, h) // the customer itself
	a := newCredits("acct_1", "cus_A")
	grant := a.grant("eur", math.MaxInt64).ID
	a.sync(t, h)
	if amount, err := ageing(); err != nil || amount != math.MaxInt64 {
		t.Errorf("ageing: %d, %v", amount, err)
	}
	if totals, err := b.totals(); err != nil || totals != fmt.Sprintf("credits eur 1 %d;", int64(math.MaxInt64)) {
		t.Errorf("totals %q, %v", totals, err)
	}
	two := newCredits("acct_1", "cus_B")
	two.grant("eur", 1)
	two.sync(t, h)
	_, err := ageing()
	over(t, "ageing", err, "credits ledger", "eur", `"acct_1"`)
	_, err = b.totals()
	over(t, "totals", err, "credits ledger", "eur", `"acct_1"`)
	if list, err := b.balances(); err != nil || list != fmt.Sprintf("cus_A %d;cus_B 1;", int64(math.MaxInt64)) {
		t.Errorf("balances %q, %v", list, err)
	}

	// More than a grant ever was.
	a.move(grant, "eur", -1)
	a.sync(t, h)
	h.exec(t, `UPDATE credit_balance_transactions SET amount = 2 WHERE customer = 'cus_A' AND amount = -1`)
	_, err = b.balances()
	over(t, "balances", err, "cus_A", "credits ledger", "eur", `"acct_1"`)
	_, err = h.CreditSummary(t.Context(), "acct_1", "cus_A")
	over(t, "summary", err, "cus_A", "credits ledger", "eur", `"acct_1"`)
	_, err = h.Balances(t.Context(), "acct_1", "", 10, epoch0.AddDate(1, 0, 0))
	over(t, "balances as of", err, "cus_A", "credits ledger", "eur", `"acct_1"`)
	if summary, err := h.CreditSummary(t.Context(), "acct_1", "cus_B"); err != nil || summary.Balances["eur"].Ledger != 1 {
		t.Errorf("the other customer has %+v, %v", summary, err)
	}
	noErr(t, b.run(func(ctx context.Context, r report.Reader, q report.Query) error {
		for g, err := range r.Grants(ctx, q.Filter, q.Until) {
			noErr(t, err)
			if want := (report.Wide{High: 1 << 31, Low: 1}); g.ID == grant && g.Left != want {
				t.Errorf("left of the grant is %+v, want %+v", g.Left, want)
			}
		}
		return nil
	}))
}

// tablesAtTheEnds: what an export adds up of a table, and what a query of the views does,
// is right at the ends too, and fails beyond them.
func tablesAtTheEnds(t *testing.T, h *Harness) {
	a, b := newLedger("acct_1", "cus_A"), newLedger("acct_1", "cus_B")
	a.add("eur", math.MaxInt64)
	b.add("eur", -3)
	a.sync(t, h)
	b.sync(t, h)
	feed, ok := h.Store.(mirror.Feed)
	if !ok {
		t.Fatalf("%T has no feed", h.Store)
	}
	sum := func() (totals mirror.TableTotals, err error) {
		err = feed.ReadFeed(t.Context(), func(r mirror.FeedReader) (err error) {
			totals, err = r.TableTotals(t.Context(), mirror.Table{Name: "customer_balances"}, "balance")
			return err
		})
		return totals, err
	}
	if totals, err := sum(); err != nil || totals.Sums["eur"] != math.MaxInt64-3 {
		t.Errorf("totals %+v, %v", totals, err)
	}
	const view = `SELECT sum(amount) FROM v_liability_daily WHERE ledger = 'balance'`
	if _, err := h.Query(t.Context(), view); err != nil {
		t.Errorf("the view: %v", err)
	}
	h.exec(t, `UPDATE customer_balances SET balance = 1 WHERE customer = 'cus_B'`)
	_, err := sum()
	over(t, "totals", err, "customer_balances.balance", "eur")
	h.exec(t, `UPDATE `+rowsTable+` SET amount = 1 WHERE customer = 'cus_B'`)
	if rows, err := h.Query(t.Context(), view); err == nil {
		t.Errorf("the view has %v", rows)
	}
	// Figures that are watched rather than booked stay at the end: they must not fail.
	totals, err := h.Totals(t.Context())
	if err != nil || totals.Balances["eur"] != math.MaxInt64 {
		t.Errorf("status has %+v, %v", totals.Balances, err)
	}
}
