package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// grantsProvenOneByOne bounds the summary calls of one sync. Stripe does not say
// whether the summary of metered grants counts grants scoped to prices, so a
// customer with any of those is proven grant by grant; with more than this many
// the bounds of each grant have to do.
const grantsProvenOneByOne = 10

// SyncGrants syncs a customer's billing credits after writes on some of its grants,
// which are read again; the events of the writes are not known yet.
func (s *Syncer) SyncGrants(ctx context.Context, t mirror.Target, grants []string) (Result, error) {
	refs := make([]mirror.EventRef, len(grants))
	for i, g := range grants {
		refs[i].Object = g
	}
	result, err := s.traced(ctx, t, refs, func(ctx context.Context) (Result, error) { return s.syncCredits(ctx, t, refs, false) })
	if err != nil {
		return result, fmt.Errorf("sync %s after a write on %s: %w", t, strings.Join(grants, ", "), err)
	}
	return result, nil
}

// events leaves out what is not an event but a name of something to be read.
func events(refs []mirror.EventRef) []mirror.EventRef {
	return slices.DeleteFunc(slices.Clone(refs), func(r mirror.EventRef) bool { return r.ID == "" })
}

func (s *Syncer) syncCredits(ctx context.Context, t mirror.Target, refs []mirror.EventRef, thorough bool) (Result, error) {
	st, err := s.store.BeginSync(ctx, t)
	if err != nil {
		return Result{}, stored(err)
	}
	p := s.patience(t, st)
	prove := thorough || !st.HistoryComplete // a full read proves anyway
	for {
		observed := s.o.Now()
		failpoint.Hit("worker.credits.epoch")
		snapshot, err := s.readCredits(ctx, t, st, refs, thorough, p.full, prove || p.full)
		snapshot.ObservedAt = observed
		if vanished(err) {
			gone, lookErr := s.lookAgain(ctx, t)
			if lookErr != nil {
				return Result{}, lookErr
			}
			if gone {
				return s.bury(ctx, t, st, observed, refs)
			}
			return Result{}, fmt.Errorf("the customer exists, its credits do not: %w", err)
		}
		if err == nil && snapshot.Joined { // before that, a row may lie below this piece
			err = s.announced(ctx, t, refs, snapshot)
		}
		if err == nil {
			failpoint.Hit("worker.credits.read")
			snapshot.AcceptDisproof = p.accept
			var applied mirror.Applied
			if applied, err = s.store.ApplyCredits(ctx, snapshot); err == nil {
				return Result{Applied: applied, More: !snapshot.Joined, Unproven: p.accept}, nil
			}
			err = stored(err)
		}
		damaged, lookErr := p.blamesUs(ctx, err, snapshot.Listed())
		if lookErr != nil {
			return Result{}, lookErr
		}
		if damaged {
			continue
		}
		if err := p.next(ctx, err); err != nil {
			return s.refuse(ctx, t, st, observed, err)
		}
	}
}

// readCredits reads one piece of a customer's billing credits: the rows with
// their grants, the grants that the rows did not bring along, and the summary
// where a proof is asked for.
func (s *Syncer) readCredits(ctx context.Context, t mirror.Target, st mirror.SyncState, refs []mirror.EventRef, thorough, full, prove bool) (mirror.CreditsSnapshot, error) {
	grants := map[string]mirror.CreditGrant{}
	list := func(after string, limit int) ([]mirror.CreditTransaction, bool, error) {
		page, err := s.stripe.CreditPage(ctx, t.Account, t.ID, after, limit)
		for _, g := range page.Grants {
			grants[g.ID] = g
		}
		for i := range page.Rows {
			page.Rows[i].Customer = t.ID
		}
		return page.Rows, page.HasMore, err
	}
	walked, err := walkLedger(st, full, firstPage(st, refs), s.o.PagesPerPiece, list,
		func(r mirror.CreditTransaction) (string, time.Time) { return r.ID, r.Created })
	if err != nil {
		return mirror.CreditsSnapshot{}, err
	}
	failpoint.Hit("worker.credits.rows")
	all, err := s.readGrants(ctx, t, st, refs, thorough, full && walked.joined, grants)
	if err != nil {
		return mirror.CreditsSnapshot{}, err
	}
	snapshot := mirror.CreditsSnapshot{
		Target: t, Epoch: st.Epoch, EventSeq: st.EventSeq,
		Windows: walked.windows, Joined: walked.joined, Full: walked.full, Walk: walked.walk, Events: events(refs),
		AllGrants: all,
	}
	for _, g := range grants {
		snapshot.Grants = append(snapshot.Grants, g)
	}
	slices.SortFunc(snapshot.Grants, func(a, b mirror.CreditGrant) int { return strings.Compare(a.ID, b.ID) })
	if prove && walked.joined {
		if snapshot.Summary, err = s.readSummary(ctx, t, st, grants, all); err != nil {
			return mirror.CreditsSnapshot{}, err
		}
	}
	return snapshot, nil
}

// readGrants reads the grants that events named and the rows did not bring
// along; for a thorough sync every grant of the customer, since any may have been
// edited. A first copy has just stored the grants of the whole account. The end of
// a full read asks for all of them. It tells whether it read them all.
func (s *Syncer) readGrants(ctx context.Context, t mirror.Target, st mirror.SyncState, refs []mirror.EventRef, thorough, all bool, grants map[string]mirror.CreditGrant) (bool, error) {
	var named []string
	for _, r := range refs {
		if _, have := grants[r.Object]; !have && mirror.ValidGrantID(r.Object) && !slices.Contains(named, r.Object) {
			named = append(named, r.Object)
		}
	}
	firstCopy := !st.HistoryComplete && len(st.Grants) > 0
	if all && st.HistoryComplete {
		named = nil
	} else if len(named) == 0 && (!thorough || firstCopy) {
		return false, nil
	}
	if len(named) == 1 && !thorough {
		g, err := s.stripe.Grant(ctx, t.Account, named[0])
		if err == nil {
			grants[g.ID] = g
		}
		return false, err
	}
	for after := ""; ; {
		page, err := s.stripe.GrantsPage(ctx, t.Account, t.ID, after, pageSize)
		if err != nil {
			return false, err
		}
		for _, g := range page.Rows {
			grants[g.ID] = g
			after = g.ID
		}
		if !page.HasMore || len(page.Rows) == 0 {
			return true, nil
		}
	}
}

// readSummary reads Stripe's own totals; nil when no unambiguous ones can be had
// at a bearable cost. all tells that grants are all that Stripe has, so that a held
// one that is none of them is not asked for.
func (s *Syncer) readSummary(ctx context.Context, t mirror.Target, st mirror.SyncState, grants map[string]mirror.CreditGrant, all bool) (map[string]mirror.CreditBalance, error) {
	metered := map[string]bool{}
	for _, g := range st.Grants {
		if !all {
			metered[g.ID] = g.Metered
		}
	}
	for id, g := range grants {
		metered[id] = mirror.MeteredScope(g.ApplicabilityConfig)
	}
	allMetered := true
	for _, m := range metered {
		allMetered = allMetered && m
	}
	if allMetered {
		return s.stripe.CreditSummary(ctx, t.Account, t.ID, stripeapi.SummaryFilter{})
	}
	if len(metered) > grantsProvenOneByOne {
		return nil, nil
	}
	total := map[string]mirror.CreditBalance{}
	for id := range metered {
		part, err := s.stripe.CreditSummary(ctx, t.Account, t.ID, stripeapi.SummaryFilter{Grant: id})
		if err != nil {
			return nil, err
		}
		for currency, b := range part {
			sum := total[currency]
			sum.Ledger += b.Ledger
			sum.Available += b.Available
			total[currency] = sum
		}
	}
	return total, nil
}

// announced checks that every row that an event told of is in the reply or held:
// this ledger has no chain that would show that a list lags behind the events.
func (s *Syncer) announced(ctx context.Context, t mirror.Target, refs []mirror.EventRef, snapshot mirror.CreditsSnapshot) error {
	listed := map[string]bool{}
	for _, w := range snapshot.Windows {
		for _, r := range w.Rows {
			listed[r.ID] = true
		}
	}
	for _, r := range refs {
		if r.Type != "billing.credit_balance_transaction.created" || listed[r.Object] {
			continue
		}
		row, err := s.store.CreditTransaction(ctx, t.Account, r.Object)
		switch {
		case err == nil && row.Customer == t.ID:
		case err == nil:
			return mirror.HeldElsewhere(t, row, snapshot.ObservedAt)
		case errors.Is(err, mirror.ErrNotFound):
			return fmt.Errorf("%w: %s", errLagging, r.Object)
		default:
			return stored(err)
		}
	}
	return nil
}
