package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

// The books, which are not Stripe's either: what the commands of the same names print,
// of one account.

// maxBookLines bounds one reply; longer reports are for the commands, which stream.
const maxBookLines = 10_000

type booksPage[Line any] struct {
	Object  string `json:"object"`
	URL     string `json:"url"`
	HasMore bool   `json:"has_more"`
	// Unproven counts customers that are left out, since their history is not wholly
	// held; Differing balances that their rows do not add up to.
	Unproven  int64  `json:"unproven"`
	Differing int64  `json:"differing"`
	Data      []Line `json:"data"`
}

func newPage[Line any](name string, out report.Outcome, data []Line) booksPage[Line] {
	if data == nil {
		data = []Line{}
	}
	return booksPage[Line]{Object: "list", URL: "/v1/credits/" + name, Unproven: out.Unproven, Differing: out.Differing, Data: data}
}

var errTooLong = errInvalid("", "", "The report has more than %d lines: narrow it, or use the command, which has no limit.", maxBookLines)

// booksQuery reads what the reports have in common.
func (c *call) booksQuery() (q report.Query, loc *time.Location, err error) {
	q.Account = &c.account
	q.Currency, q.Ledgers, loc = strings.ToLower(c.query.values["currency"]), report.Ledgers(report.Ledger(c.query.values["ledger"])), time.UTC
	if q.Currency != "" && !report.KnownCurrency(q.Currency) {
		return q, loc, errInvalid("", "currency", "Invalid currency: %s", clip(q.Currency))
	}
	if l := q.Ledgers[0]; l != report.LedgerBalance && l != report.LedgerCredits {
		return q, loc, errInvalid("", "ledger", "Invalid ledger: %s; must be one of balance, credits.", clip(string(l)))
	}
	if zone := c.query.values["timezone"]; zone != "" {
		if loc, err = time.LoadLocation(zone); err != nil || zone == "Local" {
			return q, loc, errInvalid("", "timezone", "Invalid time zone: %s; give a name such as Europe/Berlin.", clip(zone))
		}
	}
	return q, loc, nil
}

// bound reads from or to; without one it is otherwise.
func (c *call) bound(name string, loc *time.Location, otherwise time.Time) (time.Time, error) {
	s, given := c.query.values[name]
	if !given {
		return otherwise, nil
	}
	t, err := report.ParseBound(s, loc)
	if err != nil {
		return t, errInvalid("", name, "Invalid time: %s; give RFC 3339 or a date (which means its start).", clip(s))
	}
	return t, nil
}

func (c *call) span(loc *time.Location) (from, to time.Time, err error) {
	if from, err = c.bound("from", loc, time.Time{}); err != nil {
		return from, to, err
	}
	if to, err = c.bound("to", loc, report.Now(c.now)); err == nil && !from.Before(to) {
		err = errInvalid("", "from", "from must lie before to.")
	}
	return from, to, err
}

type rollforwardLine struct {
	Account     string `json:"account"`
	Ledger      string `json:"ledger"`
	Currency    string `json:"currency"`
	PeriodStart string `json:"period_start"`
	PeriodEnd   string `json:"period_end"`
	Line        string `json:"line"`
	Amount      int64  `json:"amount"`
}

func showRollforward(ctx context.Context, c *call) (any, error) {
	q, loc, err := c.booksQuery()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"from", "to"} {
		if c.query.values[name] == "" {
			return nil, errInvalid("parameter_missing", name, "Missing required param: %s.", name)
		}
	}
	from, to, err := c.span(loc)
	if err != nil {
		return nil, err
	}
	by, given := c.query.values["by"]
	if !given {
		by = string(report.ByMonth)
	}
	if !slices.Contains([]report.By{report.ByMonth, report.ByDay}, report.By(by)) {
		return nil, errInvalid("", "by", "Invalid by: %s; must be one of month, day.", clip(by))
	}
	bounds, err := report.Periods(from, to, report.By(by), loc)
	if err != nil {
		return nil, errInvalid("", "from", "%s", err)
	}
	var page any
	err = c.openBooks(ctx, func(r report.Reader) error {
		list, out, err := report.Rollforward(ctx, r, q, bounds, report.Split{})
		if err == nil && len(list) > maxBookLines {
			err = errTooLong
		}
		lines := make([]rollforwardLine, 0, len(list))
		for _, l := range list {
			lines = append(lines, rollforwardLine{l.Account, string(l.Ledger), l.Currency, instant(l.Start), instant(l.End), l.Line, l.Amount})
		}
		page = newPage("rollforward", out, lines)
		return err
	})
	return page, err
}

func instant(t time.Time) string { return t.UTC().Format(time.RFC3339) }

type statementLine struct {
	Date        string `json:"date"`
	Ledger      string `json:"ledger"`
	ID          string `json:"id"`
	Type        string `json:"type"`
	Currency    string `json:"currency"`
	Amount      *int64 `json:"amount"`
	Balance     int64  `json:"balance"`
	Invoice     string `json:"invoice"`
	CreditNote  string `json:"credit_note"`
	Grant       string `json:"grant"`
	Description string `json:"description"`
}

func showStatement(ctx context.Context, c *call) (any, error) {
	q, loc, err := c.booksQuery()
	if err != nil {
		return nil, err
	}
	customer := c.query.values[nameCustomer]
	if customer == "" {
		return nil, errInvalid("parameter_missing", nameCustomer, "Missing required param: customer.")
	}
	missing := errMissing(http.StatusBadRequest, nameCustomer, customer, nameCustomer)
	if !mirror.ValidCustomerID(customer) {
		return nil, missing
	}
	q.Customer = customer
	from, to, err := c.span(loc)
	if err != nil {
		return nil, err
	}
	q.Until = to
	var page any
	err = c.openBooks(ctx, func(r report.Reader) error {
		if accounts, err := r.Knows(ctx, q.Filter); err != nil || len(accounts) == 0 {
			if err == nil {
				err = missing
			}
			return err
		}
		var lines []statementLine
		out, err := report.Statement(ctx, r, q, from, func(m report.Movement) error {
			if len(lines) == maxBookLines {
				return errTooLong
			}
			line := statementLine{
				instant(m.Dated), string(m.Ledger), m.ID, m.Type, m.Currency, &m.Amount, m.Balance, m.Invoice, m.CreditNote, m.Grant, m.Description,
			}
			if m.Edge {
				line.Amount = nil
			}
			lines = append(lines, line)
			return nil
		})
		page = newPage("statement", out, lines)
		return err
	})
	return page, err
}

type ageingLine struct {
	Account  string `json:"account"`
	Currency string `json:"currency"`
	Category string `json:"category"`
	Bucket   string `json:"bucket"`
	Amount   int64  `json:"amount"`
	Grants   int64  `json:"grants"`
}

func showAgeing(ctx context.Context, c *call) (any, error) {
	q, _, err := c.booksQuery()
	if err != nil {
		return nil, err
	}
	if q.Until, _, err = c.asOf(); err != nil {
		return nil, err
	}
	text, given := c.query.values["buckets"]
	if !given {
		text = "30,60,90"
	}
	days, err := report.ParseBuckets(text)
	if err != nil {
		return nil, errInvalid("", "buckets", "Invalid buckets: %s; give days in rising order, such as 30,60,90.", clip(text))
	}
	var page any
	err = c.openBooks(ctx, func(r report.Reader) error {
		ages, out, err := report.Ageing(ctx, r, q, days)
		lines := make([]ageingLine, 0, len(ages))
		for _, a := range ages {
			lines = append(lines, ageingLine(a))
		}
		page = newPage("ageing", out, lines)
		return err
	})
	return page, err
}

var errNoBooks = errors.New("this store has no books")

// openBooks runs fn on a snapshot of its own.
func (c *call) openBooks(ctx context.Context, fn func(report.Reader) error) error {
	if c.books == nil {
		return errNoBooks
	}
	return c.books.Books(ctx, fn)
}
