package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// SweepBalances is the sweep's name in the table sweeps.
const SweepBalances = "balances"

const (
	phaseSummaries = "summaries"

	// balancesGrace is how long a difference may last before it counts: a webhook
	// may be on its way.
	balancesGrace = 10 * time.Second
	// newcomer is how old a customer must be to be missed in Stripe's list.
	newcomer = time.Minute
	// maxSuspects bounds what a pass carries along, in memory and in its checkpoint.
	maxSuspects = 1000
	// maxRetrieved bounds the vanished customers that one pass asks Stripe for.
	maxRetrieved = 200
	// summariesShare of the grants, at most maxSummaries customers, are proven by
	// Stripe's summary in each pass.
	summariesShare = 24
	maxSummaries   = 200
)

// BalancesStripe is what the balances sweep reads. *stripeapi.Client is one.
type BalancesStripe interface {
	CustomersPage(ctx context.Context, account string, q stripeapi.CustomersQuery) (stripeapi.CustomersPage, error)
	GrantsPage(ctx context.Context, account, customer, after string, limit int) (stripeapi.GrantsPage, error)
	TestClocks(ctx context.Context, account, after string, limit int) (ids []string, more bool, err error)
	Customer(ctx context.Context, account, id string) (stripeapi.CustomerReply, error)
}

// BalancesStore is what it compares with.
type BalancesStore interface {
	Checkpoints
	mirror.Comparer
	findings
	letterbox
	letters
	inserter
	unread
	ObservedAt(ctx context.Context, targets []mirror.Target) ([]time.Time, error)
	RequestFullRead(ctx context.Context, targets []mirror.Target) error
	ClockCustomers(ctx context.Context, account, clock string) ([]string, error)
}

// BalancesOptions tune a BalancesSweep.
type BalancesOptions struct {
	// TestMode: customers on test clocks are listed clock by clock.
	TestMode bool
	// Ledgers are those that are mirrored.
	Ledgers mirror.Ledgers
	// Grace is how long a difference may last before it counts. Defaults to 10 s.
	Grace time.Duration
	// Repair reports whether what differs is stored and marked; false only records
	// it. Defaults to true where nil.
	Repair *bool
	// DryRun writes nothing and begins from the top.
	DryRun bool
	// Progress, where set, is called for each page with the number of its customers.
	Progress func(customers int)
	Log      *zap.Logger
	Now      func() time.Time
}

// BalancesSweep compares the balance of every customer, and every grant, with
// what is held: one call per hundred. A difference counts only when it lasts,
// and neither queued work nor a newer sync explains it.
type BalancesSweep struct {
	stripe BalancesStripe
	store  BalancesStore
	queue  Queue
	o      BalancesOptions
	told   toldOnce
}

// NewBalancesSweep returns a BalancesSweep.
func NewBalancesSweep(stripe BalancesStripe, store BalancesStore, queue Queue, o BalancesOptions) *BalancesSweep {
	if o.Grace <= 0 {
		o.Grace = balancesGrace
	}
	if o.Progress == nil {
		o.Progress = func(int) {}
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &BalancesSweep{stripe: stripe, store: store, queue: queue, o: o}
}

// BalancesResult is what a pass saw.
type BalancesResult struct {
	Customers, Grants int64
	// Findings are the differences met, and Opened how many of them were new.
	Findings []mirror.Finding
	Opened   map[mirror.DriftKind]int
	// Marked targets for repair, and for the proof by summary.
	Marked int
	// Limited are the parts that the key may not read, so that they were not compared.
	Limited []Part
}

// candidate is a difference that may yet be explained.
type candidate struct {
	ID string `json:"id"`
	// Asked is when Stripe was asked for the page that shows it.
	Asked time.Time `json:"at"`
	// Gone: held, and not in Stripe's list.
	Gone bool `json:"gone,omitempty"`
	// Balance, Currency and Ends are what Stripe shows of a customer; a grant has the
	// currency alone.
	Balance  int64            `json:"balance,omitempty"`
	Currency string           `json:"currency,omitempty"`
	Ends     map[string]int64 `json:"ends,omitempty"`
	// Owner, Digest and Updated are those of a grant.
	Owner   string    `json:"owner,omitempty"`
	Digest  string    `json:"digest,omitempty"`
	Updated time.Time `json:"updated,omitzero"`

	// What Stripe showed; it does not survive a restart, and need not.
	customer *mirror.Customer
	grant    *mirror.CreditGrant
}

func (s candidate) target(account string) mirror.Target {
	if s.Owner != "" {
		return mirror.Target{Account: account, Scope: mirror.ScopeCredits, ID: s.Owner}
	}
	return mirror.Target{Account: account, Scope: mirror.ScopeBalance, ID: s.ID}
}

// balancesPoint is how far a pass got.
type balancesPoint struct {
	Phase string    `json:"phase"`
	Begun time.Time `json:"begun"`
	After string    `json:"after,omitempty"`
	// Edge is the second (Unix) of the last customer listed; EdgeIDs are those
	// listed of that second so far.
	Edge      int64       `json:"edge,omitempty"`
	EdgeIDs   []string    `json:"edge_ids,omitempty"`
	Suspects  []candidate `json:"suspects,omitempty"`
	Customers int64       `json:"customers"`
	Grants    int64       `json:"grants"`
	Found     int64       `json:"found"`
	Retrieved int         `json:"retrieved,omitempty"`
	// Summaries is the customer after whom the proof by summaries goes on; it
	// outlives the pass.
	Summaries string `json:"summaries,omitempty"`
}

// balancesPass is one pass over an account.
type balancesPass struct {
	*BalancesSweep
	account string
	cause   string
	sweep   mirror.Sweep
	at      balancesPoint
	result  BalancesResult
	// ledgers are those that were copied, so that there is something to compare.
	ledgers mirror.Ledgers
}

// Run makes one pass, going on where an earlier one broke off. The watermark
// moves only when everything was compared. cause is what differences come from
// where it is known; empty where it is not.
func (s *BalancesSweep) Run(ctx context.Context, account, cause string) (BalancesResult, error) {
	sweep, err := s.store.Sweep(ctx, account, SweepBalances)
	if err != nil {
		return BalancesResult{}, err
	}
	p := &balancesPass{BalancesSweep: s, account: account, cause: cause, sweep: sweep}
	if len(sweep.State) == 0 || json.Unmarshal(sweep.State, &p.at) != nil || p.at.Phase == "" || s.o.DryRun {
		p.at = balancesPoint{Phase: phaseCustomers, Begun: s.o.Now().UTC(), Summaries: p.at.Summaries}
	}
	p.sweep.StartedAt = p.at.Begun
	if p.ledgers, err = copiedLedgers(ctx, s.store, account, s.o.Ledgers); err != nil {
		return BalancesResult{}, err
	}
	err = p.run(ctx)
	p.result.Customers, p.result.Grants = p.at.Customers, p.at.Grants
	return p.result, err
}

func (p *balancesPass) run(ctx context.Context) error {
	for {
		var err error
		switch p.at.Phase {
		case phaseCustomers:
			if p.ledgers.Has(mirror.ScopeBalance) {
				err = p.mayRead(ctx, PartBalance, p.customers(ctx))
			}
			p.at.Phase = phaseGrants
			if p.o.TestMode {
				p.at.Phase = phaseClocks
			}
		case phaseClocks:
			if p.ledgers.Has(mirror.ScopeBalance) {
				err = p.mayRead(ctx, PartClocks, p.clocks(ctx))
			}
			p.at.Phase = phaseGrants
		case phaseGrants:
			if p.ledgers.Has(mirror.ScopeCredits) {
				err = p.mayRead(ctx, PartCredits, p.grants(ctx))
			}
			p.at.Phase = phaseSummaries
		default:
			if err := p.settle(ctx, 0); err != nil {
				return err
			}
			if p.ledgers == (mirror.Ledgers{NoBalance: true, NoCredits: true}) {
				return errNothingReadable
			}
			if err := p.summaries(ctx); err != nil {
				return err
			}
			if err := p.unfinished(ctx); err != nil {
				return err
			}
			failpoint.Hit("balances.settled")
			p.sweep.Watermark, p.sweep.LastSuccess, p.sweep.LastFound = p.at.Begun, p.o.Now().UTC(), p.at.Found
			p.at = balancesPoint{Summaries: p.at.Summaries, Customers: p.at.Customers, Grants: p.at.Grants}
			return p.save(ctx)
		}
		if err != nil {
			return err
		}
		p.at.After, p.at.Edge, p.at.EdgeIDs = "", 0, nil
		if err := p.save(ctx); err != nil {
			return err
		}
	}
}

func (p *balancesPass) save(ctx context.Context) (err error) {
	if p.o.DryRun {
		return nil
	}
	if p.sweep.State, err = json.Marshal(p.at); err != nil {
		return err
	}
	return p.store.SaveSweep(ctx, p.sweep)
}

// mayRead turns the refusal of a part into a limit of this pass: the rest goes on.
func (p *balancesPass) mayRead(ctx context.Context, part Part, err error) error {
	l := limiter{store: p.store, log: p.o.Log, now: p.o.Now, dry: p.o.DryRun}
	refused, err := l.judge(ctx, p.account, part, err)
	if refused {
		p.result.Limited = append(p.result.Limited, part)
		p.ledgers = p.ledgers.Without(mirror.Scope(part))
	}
	return err
}

// copiedLedgers are those of the wanted ledgers that the account's first copy, where one
// is done, included.
func copiedLedgers(ctx context.Context, store Checkpoints, account string, wanted mirror.Ledgers) (mirror.Ledgers, error) {
	sweep, err := store.Sweep(ctx, account, SweepBackfill)
	if at, ok := copiedOf(sweep); ok {
		for _, s := range slices.Concat(at.Without, at.Adds) {
			wanted = wanted.Without(s)
		}
	}
	return wanted, err
}

func (p *balancesPass) leaveOut(ctx context.Context, what string, bad []stripeapi.BadRow) error {
	if p.o.DryRun {
		return nil
	}
	return p.told.leaveOut(ctx, p.store, p.o.Log, p.o.Now().UTC(), p.account, what, bad)
}

// customers compares the plain list.
func (p *balancesPass) customers(ctx context.Context) error {
	for {
		asked := p.o.Now().UTC()
		page, err := p.stripe.CustomersPage(ctx, p.account, stripeapi.CustomersQuery{After: p.at.After, Limit: 100})
		if cursorGone(err) && p.at.After != "" {
			// The customer the sweep stopped at was deleted: list from the top again.
			p.at.After, p.at.Edge, p.at.EdgeIDs, p.at.Customers = "", 0, nil, 0
			continue
		}
		if err == nil && page.HasMore && page.Last == "" {
			err = errors.New("a page without rows that is not the last one")
		}
		if err != nil {
			return fmt.Errorf("list customers of account %q: %w", p.account, err)
		}
		failpoint.Hit("balances.listed")
		if err := p.leaveOut(ctx, whatCustomer, page.Bad); err != nil {
			return err
		}
		if err := p.compare(ctx, page.Rows, asked); err != nil {
			return err
		}
		if err := p.vanished(ctx, page, asked); err != nil {
			return err
		}
		p.at.Customers += int64(len(page.Rows))
		p.o.Progress(len(page.Rows))
		if err := p.settle(ctx, maxSuspects); err != nil {
			return err
		}
		if !page.HasMore {
			return nil
		}
		p.at.After = page.Last
		if err := p.save(ctx); err != nil {
			return err
		}
	}
}

// compare makes candidates of the customers whose balances are not those held.
func (p *balancesPass) compare(ctx context.Context, rows []mirror.Customer, asked time.Time) error {
	ids := make([]string, 0, len(rows))
	for _, c := range rows {
		ids = append(ids, c.ID)
	}
	held, err := p.store.HeldCustomers(ctx, p.account, ids)
	if err != nil {
		return err
	}
	for _, c := range rows {
		s := candidate{ID: c.ID, Asked: asked, Balance: c.Balance, Currency: c.Currency, Ends: c.Ends(), customer: &c}
		if h, ok := held[c.ID]; !ok || h.Deleted || len(differences(s, h)) > 0 {
			p.at.Suspects = append(p.at.Suspects, s)
		}
	}
	return nil
}

// difference is one currency in which a customer is not what Stripe shows.
type difference struct {
	currency         string
	expected, actual int64
	// inconsistent: what is held contradicts itself, so that no missed event
	// explains it.
	inconsistent bool
}

// differences compares what Stripe showed with what is held, in the customer
// and in its balances per currency.
func differences(s candidate, h mirror.HeldCustomer) []difference {
	shown := h.Ends()
	var list []difference
	for _, currency := range unionKeys(s.Ends, h.Balances, shown) {
		want, balance, view := s.Ends[currency], h.Balances[currency], shown[currency]
		switch {
		case balance != want:
			list = append(list, difference{currency, want, balance, balance != view})
		case view != want:
			list = append(list, difference{currency, want, view, true})
		}
	}
	if len(list) == 0 && (s.Balance != h.Balance || s.Currency != h.Currency) {
		list = append(list, difference{s.Currency, s.Balance, h.Balance, false})
	}
	return list
}

// vanished makes candidates of customers that are held, older than the page's last
// customer is new, and not in Stripe's list. Lists are merged second by second,
// so that one page and one second is all that is kept.
func (p *balancesPass) vanished(ctx context.Context, page stripeapi.CustomersPage, asked time.Time) error {
	before := p.at.Begun.Add(-newcomer)
	if p.at.Edge != 0 {
		if edge := time.Unix(p.at.Edge+1, 0).UTC(); edge.Before(before) {
			before = edge
		}
	}
	from, last := time.Time{}, int64(0)
	for _, b := range page.Bad { // they are there
		p.at.EdgeIDs = append(p.at.EdgeIDs, b.ID)
	}
	if page.HasMore && len(page.Rows) == 0 {
		return nil // all of them are bad; the next page shows how far it reaches
	}
	if page.HasMore {
		last = page.Rows[len(page.Rows)-1].Created.Unix()
		from = time.Unix(last+1, 0).UTC()
	}
	listed := map[string]bool{}
	for _, id := range p.at.EdgeIDs {
		listed[id] = true
	}
	if p.at.Edge != last {
		p.at.EdgeIDs = nil
		for _, b := range page.Bad {
			p.at.EdgeIDs = append(p.at.EdgeIDs, b.ID)
		}
	}
	for _, c := range page.Rows {
		listed[c.ID] = true
		if c.Created.Unix() == last {
			p.at.EdgeIDs = append(p.at.EdgeIDs, c.ID)
		}
	}
	p.at.Edge = last
	for at := (mirror.Place{Created: before}); ; {
		held, err := p.store.LivingCustomers(ctx, p.account, at, from, 500)
		if err != nil {
			return err
		}
		for _, h := range held {
			at = h
			if !listed[h.ID] {
				p.gone(h.ID, asked)
			}
		}
		if len(held) < 500 || len(p.at.Suspects) >= maxSuspects {
			return nil
		}
	}
}

func (p *balancesPass) gone(id string, asked time.Time) {
	if len(p.at.Suspects) < 2*maxSuspects { // more will be found by the next pass
		p.at.Suspects = append(p.at.Suspects, candidate{ID: id, Asked: asked, Gone: true})
	}
}

// clocks compares the customers of test clocks, which the plain list leaves
// out. It is short, and begins anew after a restart.
func (p *balancesPass) clocks(ctx context.Context) error {
	met := map[string]bool{}
	begun := p.o.Now().UTC()
	for after := ""; ; {
		clocks, more, err := p.stripe.TestClocks(ctx, p.account, after, 100)
		if err != nil {
			return fmt.Errorf("list test clocks of account %q: %w", p.account, err)
		}
		for _, clock := range clocks {
			after, met[clock] = clock, true
			if err := p.clock(ctx, clock); err != nil {
				return err
			}
		}
		if !more || len(clocks) == 0 {
			break
		}
	}
	held, err := p.store.HeldClocks(ctx, p.account)
	if err != nil {
		return err
	}
	for _, clock := range held {
		if !met[clock] { // deleted, and its customers with it
			if err := p.unlisted(ctx, clock, nil, begun); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *balancesPass) clock(ctx context.Context, clock string) error {
	listed := map[string]bool{}
	begun := p.o.Now().UTC()
	for after := ""; ; {
		asked := p.o.Now().UTC()
		page, err := p.stripe.CustomersPage(ctx, p.account, stripeapi.CustomersQuery{After: after, Limit: 100, TestClock: clock})
		if errors.Is(err, stripeapi.ErrNotFound) && after == "" {
			return nil // deleted meanwhile: the next pass sees it among the held
		}
		if err != nil {
			return fmt.Errorf("list customers of %s: %w", clock, err)
		}
		if err := p.compare(ctx, page.Rows, asked); err != nil {
			return err
		}
		if err := p.leaveOut(ctx, whatCustomer, page.Bad); err != nil {
			return err
		}
		after = page.Last
		for _, c := range page.Rows {
			listed[c.ID] = true
		}
		for _, b := range page.Bad {
			listed[b.ID] = true
		}
		p.at.Customers += int64(len(page.Rows))
		p.o.Progress(len(page.Rows))
		if err := p.settle(ctx, maxSuspects); err != nil {
			return err
		}
		if !page.HasMore || page.Last == "" {
			return p.unlisted(ctx, clock, listed, begun)
		}
	}
}

// unlisted makes candidates of a clock's customers that Stripe did not list.
func (p *balancesPass) unlisted(ctx context.Context, clock string, listed map[string]bool, asked time.Time) error {
	held, err := p.store.ClockCustomers(ctx, p.account, clock)
	for _, id := range held {
		if !listed[id] {
			p.gone(id, asked)
		}
	}
	return err
}

// grants compares the grants of the whole account.
func (p *balancesPass) grants(ctx context.Context) error {
	for {
		asked := p.o.Now().UTC()
		page, err := p.stripe.GrantsPage(ctx, p.account, "", p.at.After, 100)
		if cursorGone(err) && p.at.After != "" {
			p.at.After, p.at.Grants = "", 0
			continue
		}
		if err != nil {
			return fmt.Errorf("list credit grants of account %q: %w", p.account, err)
		}
		if err := p.leaveOut(ctx, whatGrant, page.Bad); err != nil {
			return err
		}
		ids := make([]string, len(page.Rows))
		for i, g := range page.Rows {
			ids[i] = g.ID
		}
		held, err := p.store.HeldGrants(ctx, p.account, ids)
		if err != nil {
			return err
		}
		for _, g := range page.Rows {
			digest := mirror.Digest(g.Raw)
			h, ok := held[g.ID]
			if ok && h.NewerThan(g) {
				continue // the list lags
			}
			if !ok || h.Digest != digest {
				p.at.Suspects = append(p.at.Suspects, candidate{ID: g.ID, Asked: asked, Currency: g.Currency, Owner: g.Customer, Digest: digest, Updated: g.Updated, grant: &g})
			}
		}
		p.at.Grants += int64(len(page.Rows))
		p.o.Progress(0)
		if err := p.settle(ctx, maxSuspects); err != nil {
			return err
		}
		if !page.HasMore || page.Last == "" {
			return nil
		}
		p.at.After = page.Last
		if err := p.save(ctx); err != nil {
			return err
		}
	}
}

// summaries marks the next customers with grants for a thorough sync, which
// reads Stripe's summary as proof.
func (p *balancesPass) summaries(ctx context.Context) error {
	if !repairs(p.o.Repair, p.o.DryRun) || p.at.Grants == 0 || !p.ledgers.Has(mirror.ScopeCredits) {
		return nil
	}
	limit := int(min((p.at.Grants+summariesShare-1)/summariesShare, maxSummaries))
	ids, err := p.store.GrantHolders(ctx, p.account, p.at.Summaries, limit)
	if err != nil {
		return err
	}
	targets := make([]mirror.Target, len(ids))
	for i, id := range ids {
		targets[i] = mirror.Target{Account: p.account, Scope: mirror.ScopeCredits, ID: id}
	}
	if err := p.mark(ctx, targets); err != nil {
		return err
	}
	p.at.Summaries = ""
	if len(ids) == limit {
		p.at.Summaries = ids[len(ids)-1]
	}
	return nil
}

// unfinished marks the histories that are not read to their end: their balances
// may equal Stripe's while rows are missing.
func (p *balancesPass) unfinished(ctx context.Context) error {
	if !repairs(p.o.Repair, p.o.DryRun) {
		return nil
	}
	n, err := MarkUnfinished(ctx, p.store, p.queue, p.account, p.ledgers)
	p.result.Marked += n
	return err
}

func (p *balancesPass) mark(ctx context.Context, targets []mirror.Target) error {
	if len(targets) == 0 {
		return nil
	}
	p.result.Marked += len(targets)
	return p.queue.MarkSwept(ctx, targets)
}
