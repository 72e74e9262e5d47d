package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// The filter of a summary.
const (
	filterType      = "filter[type]"
	filterGrant     = "filter[credit_grant]"
	filterScope     = "filter[applicability_scope]"
	filterPriceType = filterScope + "[price_type]"
	filterPrices    = filterScope + "[prices][][id]"
)

// grantFilter picks the grants that a summary counts: one, those of the metered
// scope, or those that name one of the prices.
type grantFilter struct {
	grant   string
	metered bool
	prices  []string
}

func (q query) grantFilter() (grantFilter, error) {
	grant, hasGrant := q.values[filterGrant]
	priceType, hasType := q.values[filterPriceType]
	prices := q.arrays[filterPrices]
	switch typ := q.values[filterType]; typ {
	case "":
		if !hasGrant && !hasType && prices == nil {
			return grantFilter{}, errMissingParam("filter")
		}
		return grantFilter{}, errMissingParam(filterType)
	case "credit_grant":
		if hasType || prices != nil {
			return grantFilter{}, errInvalid("", filterScope, "You may only specify this parameter with %s=applicability_scope.", filterType)
		}
		if !hasGrant {
			return grantFilter{}, errMissingParam(filterGrant)
		}
	case "applicability_scope":
		switch {
		case hasGrant:
			return grantFilter{}, errInvalid("", filterGrant, "You may only specify this parameter with %s=credit_grant.", filterType)
		case hasType && prices != nil:
			return grantFilter{}, errInvalid("", filterScope, "You may only specify one of price_type and prices.")
		case !hasType && prices == nil:
			return grantFilter{}, errMissingParam(filterScope)
		case hasType && priceType != "metered":
			return grantFilter{}, errInvalid("", filterPriceType, "Invalid %s: must be metered", filterPriceType)
		}
	default:
		return grantFilter{}, errInvalid("", filterType, "Invalid %s: must be one of applicability_scope or credit_grant", filterType)
	}
	return grantFilter{grant: grant, metered: hasType, prices: prices}, nil
}

func (f grantFilter) takes(g mirror.CreditGrant) bool {
	switch {
	case f.grant != "":
		return g.ID == f.grant
	case f.metered:
		return mirror.MeteredScope(g.ApplicabilityConfig)
	}
	var config struct {
		Scope struct {
			Prices []struct {
				ID string `json:"id"`
			} `json:"prices"`
		} `json:"scope"`
	}
	if json.Unmarshal(g.ApplicabilityConfig, &config) != nil {
		return false
	}
	for _, price := range config.Scope.Prices {
		if slices.Contains(f.prices, price.ID) {
			return true
		}
	}
	return false
}

// summary is a billing.credit_balance_summary.
type summary struct {
	Object          string           `json:"object"`
	Balances        []summaryBalance `json:"balances"`
	Customer        any              `json:"customer"`
	CustomerAccount any              `json:"customer_account"`
	Livemode        bool             `json:"livemode"`
}

type summaryBalance struct {
	Available amount `json:"available_balance"`
	Ledger    amount `json:"ledger_balance"`
}

type amount struct {
	Monetary monetary `json:"monetary"`
	Type     string   `json:"type"`
}

type monetary struct {
	Currency string `json:"currency"`
	Value    int64  `json:"value"`
}

func getSummary(ctx context.Context, c *call) (any, error) {
	filter, err := c.query.grantFilter()
	if !c.query.has([]string{"customer", "customer_account"}) {
		return nil, errMissingParam("customer")
	}
	if err != nil {
		return nil, err
	}
	id, err := c.owner(ctx)
	if err != nil {
		return nil, err
	}
	customer, err := c.mustCustomer(ctx, id, http.StatusBadRequest, "customer")
	if err != nil {
		return nil, err
	}
	if filter.grant != "" {
		owner, err := c.grantOwner(ctx, filter.grant, http.StatusBadRequest, filterGrant)
		if err != nil {
			return nil, err
		}
		if owner != id {
			return nil, errMissing(http.StatusBadRequest, nameGrant, filter.grant, filterGrant)
		}
	}
	ledger, err := c.readCredits(ctx, id, filter.grant)
	if err != nil {
		return nil, fmt.Errorf("sum up the credits of %s: %w", id, err)
	}
	if i := slices.IndexFunc(ledger.grants, unreadable); i >= 0 {
		return nil, fmt.Errorf("a time of grant %s cannot be read: what is available is not known", ledger.grants[i].ID)
	}
	for _, g := range ledger.grants {
		if g.Currency == "" && filter.takes(g) {
			c.leftOut++
		}
	}
	ledger.clock = customer.ClockTime
	c.fresh.add(ledger.syncedAt, ledger.unfinished)
	out := summary{
		Object: "billing.credit_balance_summary", Balances: ledger.summarize(filter, c.now),
		Customer: id, CustomerAccount: orNull(customer.CustomerAccount), Livemode: customer.Livemode,
	}
	if c.expand.has("customer") {
		c.fresh.add(customer.SyncedAt, customer.Unfinished)
		raw, err := customerJSON(customer, c.expand["customer"])
		if err != nil {
			return nil, err
		}
		out.Customer = raw
	}
	return out, nil
}

// credits are a customer's grants and what the rows held say is left of each.
type credits struct {
	grants   []mirror.CreditGrant
	left     map[string]int64     // by grant
	clocks   map[string]time.Time // by test clock: its time, as far as the rows show
	clock    time.Time            // of the customer's test clock, as Stripe sends it
	syncedAt time.Time
	// unfinished is as in mirror.Slice.
	unfinished bool
}

// summarize adds up per currency, sorted by code. Every grant counts in the
// ledger balance; what is available leaves out what is not yet effective, or
// past its time though Stripe has not recorded that yet. A grant that is not
// monetary has no currency to be counted in.
func (l credits) summarize(filter grantFilter, now time.Time) []summaryBalance {
	sums := map[string]mirror.CreditBalance{}
	for _, g := range l.grants {
		if g.Currency == "" || !filter.takes(g) {
			continue
		}
		sum, left := sums[g.Currency], l.left[g.ID]
		sum.Ledger += left
		if left > 0 && usable(g, l.timeOf(g, now)) {
			sum.Available += left
		}
		sums[g.Currency] = sum
	}
	out := make([]summaryBalance, 0, len(sums))
	for _, currency := range slices.Sorted(maps.Keys(sums)) {
		of := func(value int64) amount { return amount{monetary{currency, value}, "monetary"} }
		out = append(out, summaryBalance{of(sums[currency].Available), of(sums[currency].Ledger)})
	}
	return out
}

// timeOf is the time by which a grant is judged. A test clock can run years ahead; where
// its time could not be read, it is the newest effective_at that its rows have: the clock stood
// there at least.
func (l credits) timeOf(g mirror.CreditGrant, now time.Time) time.Time {
	switch t, ok := l.clocks[g.TestClock]; {
	case g.TestClock == "":
	case !l.clock.IsZero():
		return l.clock
	case ok:
		return t
	}
	return now
}

func usable(g mirror.CreditGrant, at time.Time) bool {
	return g.VoidedAt.IsZero() && !g.EffectiveAt.After(at) && (g.ExpiresAt.IsZero() || g.ExpiresAt.After(at))
}

// unreadable reports whether it is unknown when a grant is usable.
func unreadable(g mirror.CreditGrant) bool {
	return g.VoidedAt.Equal(mirror.Unreadable) || g.EffectiveAt.Equal(mirror.Unreadable) || g.ExpiresAt.Equal(mirror.Unreadable)
}

// ledgerPage is how many grants are read at once.
const ledgerPage = 500

// readCredits reads a customer's billing credits, or one grant's: its grants, and the
// sums of their rows, all from the one snapshot that the request is served from.
func (c *call) readCredits(ctx context.Context, customer, grant string) (credits, error) {
	s, err := c.reader.CreditSummary(ctx, c.account, customer)
	if err != nil {
		return credits{}, fmt.Errorf("sum up the rows: %w", err)
	}
	l := credits{left: s.Left, clocks: s.Clocks, syncedAt: s.SyncedAt, unfinished: s.Unfinished}
	return l, c.readGrants(ctx, customer, grant, &l)
}

func (c *call) readGrants(ctx context.Context, customer, grant string, l *credits) error {
	if grant != "" {
		g, err := c.reader.Grant(ctx, c.account, grant)
		if err != nil {
			return fmt.Errorf("read credit grant %s: %w", grant, err)
		}
		l.grants = []mirror.CreditGrant{g}
		return nil
	}
	page := mirror.Page{Limit: ledgerPage}
	for more := true; more; {
		s, err := c.reader.Grants(ctx, c.account, customer, page)
		if err != nil {
			return fmt.Errorf("list credit grants: %w", err)
		}
		l.grants = append(l.grants, s.Rows...)
		if more = s.HasMore && len(s.Rows) > 0; more {
			page.After = l.grants[len(l.grants)-1].ID
		}
	}
	return nil
}
