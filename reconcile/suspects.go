package reconcile

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// settle judges the candidates whose grace is over. It waits for it while there
// are more than keep of them.
func (p *balancesPass) settle(ctx context.Context, keep int) error {
	for {
		now := p.o.Now()
		due := slices.IndexFunc(p.at.Suspects, func(s candidate) bool { return now.Sub(s.Asked) < p.o.Grace })
		if due < 0 {
			due = len(p.at.Suspects)
		}
		for part := range slices.Chunk(p.at.Suspects[:due], 100) {
			if err := p.judge(ctx, part); err != nil {
				return err
			}
		}
		p.at.Suspects = slices.Clone(p.at.Suspects[due:])
		if len(p.at.Suspects) <= keep {
			return nil
		}
		if err := p.save(ctx); err != nil {
			return err
		}
		p.o.Progress(0)
		if err := backoff.Sleep(ctx, min(p.o.Grace-now.Sub(p.at.Suspects[0].Asked), time.Second)); err != nil {
			return err
		}
	}
}

// judge records and repairs the differences that nothing explains: no work that
// waits, and no sync that began after Stripe was asked.
func (p *balancesPass) judge(ctx context.Context, list []candidate) error {
	targets := make([]mirror.Target, len(list))
	var customers, grants []string
	for i, s := range list {
		targets[i] = s.target(p.account)
		if s.Owner != "" {
			grants = append(grants, s.ID)
		} else {
			customers = append(customers, s.ID)
		}
	}
	// The queue first: work that ends after this look is seen in what is held.
	queued, err := p.queue.Queued(ctx, targets)
	if err != nil {
		return err
	}
	synced, err := p.store.ObservedAt(ctx, targets)
	if err != nil {
		return err
	}
	held, err := p.store.HeldCustomers(ctx, p.account, customers)
	if err != nil {
		return err
	}
	heldGrants, err := p.store.HeldGrants(ctx, p.account, grants)
	if err != nil {
		return err
	}
	dead, err := deadTargets(ctx, p.store)
	if err != nil {
		return err
	}
	v := verdicts{}
	for i, s := range list {
		if queued[i] || !synced[i].Before(s.Asked) {
			continue // lag, or what is held is newer than the page
		}
		before := len(v.findings)
		switch {
		case s.Gone:
			err = p.judgeGone(ctx, s, held, &v)
		case s.Owner != "":
			p.judgeGrant(s, heldGrants, &v)
		default:
			p.judgeCustomer(s, held, &v)
		}
		if err != nil {
			return err
		}
		if len(v.findings) > before && !dead[targets[i]] { // a dead letter is tried again anyway
			v.targets = append(v.targets, targets[i])
			if s.Gone {
				v.targets = append(v.targets, mirror.Target{Account: p.account, Scope: mirror.ScopeCredits, ID: s.ID})
			}
		}
	}
	return p.act(ctx, v)
}

// verdicts are what became of candidates.
type verdicts struct {
	findings  []mirror.Finding
	customers []mirror.Customer
	grants    []mirror.CreditGrant
	targets   []mirror.Target
	// whole are those whose whole history has to be read: what is held contradicts
	// itself, and the newest rows may not show it.
	whole []mirror.Target
}

// act records first, so that a repair always has a finding to close.
func (p *balancesPass) act(ctx context.Context, v verdicts) error {
	if len(v.findings) == 0 {
		return nil
	}
	for _, f := range v.findings {
		p.o.Log.Warn("drift found", zap.String("kind", string(f.Kind)), zap.String("account", f.Account),
			zap.String("customer_id", f.Customer), zap.String("currency", f.Currency), zap.String("cause", f.Cause))
	}
	p.at.Found += int64(len(v.findings))
	p.result.Findings = append(p.result.Findings, v.findings...)
	if err := openAll(ctx, p.store, v.findings, p.o.DryRun, &p.result.Opened); err != nil {
		return err
	}
	if !repairs(p.o.Repair, p.o.DryRun) {
		return nil
	}
	failpoint.Hit("balances.found")
	if len(v.whole) > 0 {
		if err := p.store.RequestFullRead(ctx, v.whole); err != nil {
			return err
		}
	}
	// Marked before they are stored: once stored they differ no more, and a crash
	// in between would leave them without a history.
	if err := p.mark(ctx, v.targets); err != nil {
		return err
	}
	failpoint.Hit("balances.marked")
	if len(v.customers) > 0 {
		if _, err := p.store.InsertCustomers(ctx, p.account, v.customers); err != nil {
			return err
		}
	}
	if len(v.grants) > 0 {
		if _, err := p.store.InsertGrants(ctx, p.account, v.grants); err != nil {
			return err
		}
	}
	return nil
}

// find makes a finding; otherwise is the cause where the pass has none.
func (p *balancesPass) find(kind mirror.DriftKind, s candidate, otherwise string) mirror.Finding {
	t := s.target(p.account)
	f := mirror.Finding{Kind: kind, Account: p.account, Customer: t.ID, Scope: t.Scope, Cause: p.cause, FoundAt: p.o.Now().UTC()}
	if f.Cause == "" {
		f.Cause = otherwise
	}
	return f
}

func (p *balancesPass) judgeCustomer(s candidate, held map[string]mirror.HeldCustomer, v *verdicts) {
	h, ok := held[s.ID]
	if !ok || h.Deleted {
		f := p.find(mirror.DriftMissingCustomer, s, mirror.CauseMissedEvent)
		f.Expected, f.Actual = "customer", map[bool]string{false: "", true: "deleted"}[h.Deleted]
		v.findings = append(v.findings, f)
		if !ok && s.customer != nil {
			v.customers = append(v.customers, *s.customer)
		}
		return
	}
	whole := false
	for _, d := range differences(s, h) {
		cause := mirror.CauseMissedEvent
		if d.inconsistent {
			cause, whole = mirror.CauseUnknown, true
		}
		f := p.find(mirror.DriftBalanceMismatch, s, cause)
		f.Currency = d.currency
		f.Expected, f.Actual = strconv.FormatInt(d.expected, 10), strconv.FormatInt(d.actual, 10)
		v.findings = append(v.findings, f)
	}
	if whole {
		v.whole = append(v.whole, s.target(p.account))
	}
}

func (p *balancesPass) judgeGrant(s candidate, held map[string]mirror.HeldGrantRow, v *verdicts) {
	h, ok := held[s.ID]
	if ok && (h.Digest == s.Digest || h.Updated.After(s.Updated) && !s.Updated.IsZero()) {
		return // the same, or written since in a newer state
	}
	kind := mirror.DriftFieldMismatch
	if !ok {
		kind = mirror.DriftMissingTransaction
	}
	f := p.find(kind, s, mirror.CauseMissedEvent)
	f.Object, f.Currency, f.Expected = s.ID, s.Currency, "grant with digest "+s.Digest
	if ok {
		f.Actual = "grant with digest " + h.Digest
	} else if s.grant != nil {
		v.grants = append(v.grants, *s.grant)
	}
	v.findings = append(v.findings, f)
}

// judgeGone asks Stripe for a customer that its list leaves out: not listed is
// not deleted.
func (p *balancesPass) judgeGone(ctx context.Context, s candidate, held map[string]mirror.HeldCustomer, v *verdicts) error {
	if h, ok := held[s.ID]; !ok || h.Deleted {
		return nil
	}
	if p.at.Retrieved >= maxRetrieved {
		if repairs(p.o.Repair, p.o.DryRun) { // the sync asks, and believes only what it hears
			return p.mark(ctx, []mirror.Target{s.target(p.account)})
		}
		return nil
	}
	p.at.Retrieved++
	reply, err := p.stripe.Customer(ctx, p.account, s.ID)
	switch {
	case errors.Is(err, stripeapi.ErrNotFound):
	case errors.Is(err, stripeapi.ErrGarbled):
		return nil // whatever it is, it is not gone; its own sync finds what is wrong with it
	case err != nil:
		return err
	case !reply.Deleted:
		return nil // alive: the list lags, or it was moved to a test clock
	}
	f := p.find(mirror.DriftMissingCustomer, s, mirror.CauseMissedEvent)
	f.Expected, f.Actual = "deleted", "customer"
	v.findings = append(v.findings, f)
	return nil
}

// unionKeys are the keys of several maps, sorted.
func unionKeys(list ...map[string]int64) []string {
	all := map[string]bool{}
	for _, m := range list {
		for k := range m {
			all[k] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}
