package console

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
)

// customerRows is how many customers a page lists.
const customerRows = 50

// customerRow is one customer in the list.
type customerRow struct {
	Account, ID      string
	Deleted, Proven  bool
	Balance, Credits []balanceCell
	Synced           time.Time
}

// customerForm is what the list was asked for.
type customerForm struct {
	Account, Find, Set, Sort, Ledger, Currency, Since string
	After                                             string
}

func (v *view) customerForm() customerForm {
	q := v.r.URL.Query()
	f := customerForm{
		Account: q.Get("account"), Find: strings.TrimSpace(q.Get("find")), Set: q.Get("set"), Sort: q.Get("sort"), Ledger: q.Get("ledger"),
		Currency: strings.ToLower(strings.TrimSpace(q.Get("currency"))), Since: strings.TrimSpace(q.Get("since")), After: q.Get("after"),
	}
	if f.Ledger == "" {
		f.Ledger = "balance"
		if !v.mayRead(access.Balance) {
			f.Ledger = "credits"
		}
	}
	return f
}

// query reads the form.
func (v *view) customerQuery(f customerForm) (mirror.CustomerQuery, error) {
	q := mirror.CustomerQuery{Limit: customerRows + 1, Set: mirror.CustomerSet(f.Set), Ledger: mirror.Scope(f.Ledger), Currency: f.Currency}
	var err error
	if q.Account, err = accountOf(f.Account); err != nil {
		return q, err
	}
	switch {
	case !v.maySee(q.Account):
		return q, forbidden("This key may not see the account %s.", accountName(q.Account))
	case f.Set != "" && f.Set != "unproven" && f.Set != "deleted":
		return q, wrong("There is no set %q of customers.", f.Set)
	case f.Ledger != "balance" && f.Ledger != "credits":
		return q, wrong("There is no ledger %q.", f.Ledger)
	case !v.mayRead(access.Ledger(f.Ledger)):
		return q, forbidden("This key may not see the ledger %s.", f.Ledger)
	case f.Currency != "" && !report.KnownCurrency(f.Currency):
		return q, wrong("There is no currency %q: want a code such as usd.", f.Currency)
	}
	switch f.Sort {
	case "", "id":
		q.Order = mirror.ByID
	case "most", "least":
		// Most credit first: in the balance ledger credit is negative.
		if q.Order = mirror.ByAmount; (f.Sort == "most") == (f.Ledger == "credits") {
			q.Order = mirror.ByAmountDn
		}
		if f.Currency == "" {
			return q, wrong("Amounts of two currencies cannot be compared: choose a currency to sort by what customers hold.")
		}
	case "fresh":
		q.Order = mirror.ByFresh
	case "stale":
		q.Order = mirror.ByStale
	default:
		return q, wrong("There is no order %q of customers.", f.Sort)
	}
	if f.Since != "" {
		if q.Since, err = sinceTime(f.Since, v.c.now()); err != nil {
			return q, err
		}
		if q.Order != mirror.ByStale {
			q.Order = mirror.ByFresh
		}
	}
	if f.After != "" {
		if q.After, err = placeOf(f.After); err != nil {
			return q, err
		}
	}
	return q, nil
}

// sinceTime reads a time, or how long ago it was.
func sinceTime(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(-d).UTC(), nil
	}
	t, err := report.ParseBound(text, time.UTC)
	if err != nil {
		return t, wrong("%q: want a time such as 2026-10-31T12:00:00Z, a date, or how long ago, such as 2h.", text)
	}
	return t, nil
}

// Places in lists are one text in addresses: amount, time in microseconds, id.
func placeText(p mirror.CustomerPlace) string {
	at := int64(0)
	if !p.At.IsZero() {
		at = p.At.UnixMicro()
	}
	return strconv.FormatInt(p.Amount, 10) + "." + strconv.FormatInt(at, 10) + "." + p.ID
}

func placeOf(text string) (*mirror.CustomerPlace, error) {
	parts := strings.SplitN(text, ".", 3)
	if len(parts) == 3 && mirror.ValidCustomerID(parts[2]) {
		amount, err1 := strconv.ParseInt(parts[0], 10, 64)
		at, err2 := strconv.ParseInt(parts[1], 10, 64)
		if err1 == nil && err2 == nil {
			p := &mirror.CustomerPlace{ID: parts[2], Amount: amount}
			if at != 0 {
				p.At = time.UnixMicro(at).UTC()
			}
			return p, nil
		}
	}
	return nil, wrong("The position in the list cannot be read: start again from its first page.")
}

// change is the address of the list with some of its parameters changed.
func (f customerForm) change(pairs ...string) string {
	q := url.Values{}
	for _, p := range [][2]string{{"account", f.Account}, {"set", f.Set}, {"sort", f.Sort}, {"ledger", f.Ledger}, {"currency", f.Currency}, {"since", f.Since}} {
		if p[1] != "" {
			q.Set(p[0], p[1])
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return "/customers?" + q.Encode()
}

func (v *view) customers() error {
	accounts, err := v.accounts()
	if err != nil {
		return err
	}
	f := v.customerForm()
	if f.Account == "" && len(accounts) > 0 && accounts[0] != "" { // a key that is bound to others
		f.Account = accounts[0]
	}
	d := struct {
		page
		Form             customerForm
		Accounts         []string
		Rows             []customerRow
		Holders          []mirror.Holder
		Next             string
		Balance, Credits bool
		Ledgers          []report.Ledger
	}{
		page: v.page("Customers", "customers"), Form: f, Accounts: accounts, Balance: v.mayRead(access.Balance), Credits: v.mayRead(access.Credits), Ledgers: v.ledgers(),
	}
	if f.Find != "" {
		if d.Holders, err = v.find(accounts, f.Find); err != nil {
			return err
		}
		if len(d.Holders) == 1 {
			http.Redirect(v.w, v.r, customerPath(d.Holders[0].Account, d.Holders[0].Customer), http.StatusSeeOther)
			return nil
		}
		return v.show("customers", http.StatusOK, d)
	}
	q, err := v.customerQuery(f)
	if p, told := err.(*problem); told && p.status == http.StatusBadRequest { //nolint:errorlint // made right there
		d.Problem = p.text
		return v.show("customers", p.status, d)
	}
	if err != nil {
		return err
	}
	list, err := v.c.o.Store.FindCustomers(v.r.Context(), q)
	if err != nil {
		return err
	}
	if len(list) > customerRows {
		list = list[:customerRows]
		d.Next = f.change("after", placeText(list[customerRows-1].Place))
	}
	for _, c := range list {
		r := customerRow{Account: q.Account, ID: c.Customer, Deleted: c.Deleted, Proven: c.Proven, Synced: c.BalanceSyncedAt}
		if d.Balance {
			r.Balance = cells(mirror.ScopeBalance, c.Balance)
		}
		if d.Credits {
			r.Credits = cells(mirror.ScopeCredits, c.Credits)
		}
		if f.Ledger == "credits" || c.CreditsSyncedAt.After(r.Synced) && q.Order == mirror.ByID {
			r.Synced = c.CreditsSyncedAt
		}
		d.Rows = append(d.Rows, r)
	}
	return v.show("customers", http.StatusOK, d)
}

// find looks for who has an id. What is found only in a ledger that the key may not see is
// not found.
func (v *view) find(accounts []string, id string) ([]mirror.Holder, error) {
	if len(id) > 200 {
		return nil, wrong("That is no id.")
	}
	if strings.HasPrefix(id, "evt_") {
		e, err := v.c.o.Store.InboxEvent(v.r.Context(), accounts, id)
		if err == nil && e.Customer != "" {
			return []mirror.Holder{{Account: e.Account, Customer: e.Customer, What: "event"}}, nil
		}
	}
	if len(accounts) > 200 {
		accounts = accounts[:200]
	}
	list, err := v.c.o.Store.WhoHas(v.r.Context(), accounts, id)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(h mirror.Holder) bool {
		return h.What == "grant" && !v.mayRead(access.Credits) || h.What == "credit_note" && !v.mayRead(access.Balance) ||
			h.What == "invoice" && len(v.ledgers()) < 2
	})
	return slices.CompactFunc(list, func(a, b mirror.Holder) bool { return a.Account == b.Account && a.Customer == b.Customer }), nil
}
