package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripesim"
)

// Difference is one way in which the mirror is not the simulator.
type Difference struct {
	Account  string `json:"account"`
	Customer string `json:"customer"`
	What     string `json:"what"`
}

func (d Difference) String() string {
	if d.Account == "" {
		return d.Customer + ": " + d.What
	}
	return d.Account + " " + d.Customer + ": " + d.What
}

// Compared counts what Compare looked at.
type Compared struct {
	Customers, Deleted                      int
	BalanceTransactions, CreditTransactions int
	Grants                                  int
	// Found counts all differences; Differences are the first of them.
	Found       int
	Differences []Difference
}

// maxDifferences bounds the list: a mirror that is wholly wrong need not be listed
// customer by customer.
const maxDifferences = 1000

// Compare holds every customer of the simulator against the mirror: balances per
// currency, every transaction and grant as canonical JSON, the order of each
// chain, and that the mirror has nothing beyond.
func Compare(ctx context.Context, r mirror.Reader, truth []stripesim.CustomerTruth) (Compared, error) {
	var c Compared
	for _, t := range truth {
		c.Customers++
		if t.Deleted {
			c.Deleted++
		}
		c.BalanceTransactions += len(t.BalanceTransactions)
		c.CreditTransactions += len(t.CreditTransactions)
		c.Grants += len(t.Grants)
		found, err := compareCustomer(ctx, r, t)
		if err != nil {
			return c, fmt.Errorf("compare %s: %w", t.ID, err)
		}
		c.Found += len(found)
		for _, what := range found {
			if len(c.Differences) < maxDifferences {
				c.Differences = append(c.Differences, Difference{t.Account, t.ID, what})
			}
		}
	}
	return c, nil
}

// simCustomer are the fields of the simulator's customer that the mirror holds.
type simCustomer struct {
	Balance              int64            `json:"balance"`
	Currency             *string          `json:"currency"`
	InvoiceCreditBalance map[string]int64 `json:"invoice_credit_balance"`
}

func compareCustomer(ctx context.Context, r mirror.Reader, t stripesim.CustomerTruth) ([]string, error) {
	var found []string
	differ := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }

	view, err := r.Customer(ctx, t.Account, t.ID)
	switch {
	case errors.Is(err, mirror.ErrNotFound):
		if !t.Deleted { // one that was deleted before it was ever read leaves no trace
			differ("not in the mirror")
		}
		return found, nil
	case err != nil:
		return nil, err
	case view.Deleted != t.Deleted:
		differ("deleted is %v, want %v", view.Deleted, t.Deleted)
	}
	if !t.Deleted {
		if err := compareBalance(view, t.Customer, differ); err != nil {
			return nil, err
		}
	}

	rows, err := all(func(after string) (mirror.Slice[mirror.BalanceTransaction], error) {
		return r.BalanceTransactions(ctx, t.Account, t.ID, mirror.Page{Limit: 100, After: after})
	}, func(b mirror.BalanceTransaction) string { return b.ID })
	if err != nil {
		return nil, err
	}
	mirrored := compareChain(rows, differ)
	found = append(found, compareRows("balance transaction", mirrored, t.BalanceTransactions, t.Deleted)...)

	credits, err := all(func(after string) (mirror.Slice[mirror.CreditTransaction], error) {
		return r.CreditTransactions(ctx, t.Account, t.ID, "", mirror.Page{Limit: 100, After: after})
	}, func(c mirror.CreditTransaction) string { return c.ID })
	if err != nil {
		return nil, err
	}
	mirrored = map[string]json.RawMessage{}
	for _, row := range credits {
		mirrored[row.ID] = row.Raw
	}
	found = append(found, compareRows("credit transaction", mirrored, t.CreditTransactions, t.Deleted)...)
	if !t.Deleted {
		summary, err := r.CreditSummary(ctx, t.Account, t.ID)
		if err != nil && !errors.Is(err, mirror.ErrNotFound) {
			return nil, err
		}
		for c, want := range t.LedgerBalances {
			if got := summary.Balances[c].Ledger; got != want {
				differ("ledger balance in %s is %d, want %d", c, got, want)
			}
		}
	}

	grants, err := all(func(after string) (mirror.Slice[mirror.CreditGrant], error) {
		return r.Grants(ctx, t.Account, t.ID, mirror.Page{Limit: 100, After: after})
	}, func(g mirror.CreditGrant) string { return g.ID })
	if err != nil {
		return nil, err
	}
	mirrored = map[string]json.RawMessage{}
	for _, g := range grants {
		mirrored[g.ID] = g.Raw
	}
	return append(found, compareRows("grant", mirrored, t.Grants, t.Deleted)...), nil
}

// compareBalance holds a customer against the simulator's.
func compareBalance(view mirror.CustomerView, truth json.RawMessage, differ func(format string, args ...any)) error {
	var want simCustomer
	if err := json.Unmarshal(truth, &want); err != nil {
		return err
	}
	currency := ""
	if want.Currency != nil {
		currency = *want.Currency
	}
	if view.Balance != want.Balance || view.Currency != currency {
		differ("balance is %d %q, want %d %q", view.Balance, view.Currency, want.Balance, currency)
	}
	for c, credit := range want.InvoiceCreditBalance {
		if view.InvoiceCreditBalance[c] != credit {
			differ("invoice_credit_balance[%s] is %d, want %d", c, view.InvoiceCreditBalance[c], credit)
		}
	}
	return nil
}

// compareChain checks places and sums of rows, which come newest first, and returns their
// JSON by id.
func compareChain(rows []mirror.BalanceTransaction, differ func(format string, args ...any)) map[string]json.RawMessage {
	mirrored := map[string]json.RawMessage{}
	chains := map[string]int64{}
	positions := map[string]int64{}
	for i := len(rows) - 1; i >= 0; i-- {
		row := rows[i]
		mirrored[row.ID] = row.Raw
		positions[row.Currency]++
		if row.Position != positions[row.Currency] {
			differ("balance transaction %s stands at position %d, want %d", row.ID, row.Position, positions[row.Currency])
		}
		if chains[row.Currency]+row.Amount != row.EndingBalance {
			differ("the chain does not close at %s", row.ID)
		}
		chains[row.Currency] = row.EndingBalance
	}
	return mirrored
}

// compareRows holds rows against each other by id. A deleted customer's history
// is what was seen before the deletion: it may lack the last rows, and never has
// others.
func compareRows(kind string, mirrored map[string]json.RawMessage, truth []json.RawMessage, deleted bool) []string {
	var found []string
	known := make(map[string]bool, len(truth))
	for _, raw := range truth {
		var row struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(raw, &row); err != nil {
			return append(found, fmt.Sprintf("%s of the simulator cannot be read: %v", kind, err))
		}
		known[row.ID] = true
		got, ok := mirrored[row.ID]
		switch {
		case !ok && !deleted:
			found = append(found, fmt.Sprintf("%s %s is missing", kind, row.ID))
		case ok && !deleted && string(mirror.Canonical(got)) != string(mirror.Canonical(raw)):
			found = append(found, fmt.Sprintf("%s %s differs: %s, want %s", kind, row.ID, mirror.Canonical(got), mirror.Canonical(raw)))
		}
	}
	for id := range mirrored {
		if !known[id] {
			found = append(found, fmt.Sprintf("%s %s is not at the simulator", kind, id))
		}
	}
	return found
}

// all reads every page of a list.
func all[Row any](page func(after string) (mirror.Slice[Row], error), id func(Row) string) ([]Row, error) {
	var rows []Row
	for after := ""; ; {
		s, err := page(after)
		if errors.Is(err, mirror.ErrNotFound) && after == "" {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, s.Rows...)
		if !s.HasMore || len(s.Rows) == 0 {
			return rows, nil
		}
		after = id(s.Rows[len(s.Rows)-1])
	}
}
