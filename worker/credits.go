package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/backoff"
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
// which are read again: in copies that are not older than the replies to the writes.
// The events of the writes are not known yet.
func (s *Syncer) SyncGrants(ctx context.Context, t mirror.Target, grants []mirror.CreditGrant) (Result, error) {
	refs, ids := make([]mirror.EventRef, len(grants)), make([]string, len(grants))
	for i, g := range grants {
		refs[i] = mirror.EventRef{Created: s.o.Now(), Type: "billing.credit_grant.updated", Object: g.ID, Updated: g.Updated}
		ids[i] = g.ID
	}
	result, err := s.traced(ctx, t, refs, func(ctx context.Context) (Result, error) { return s.syncCredits(ctx, t, refs, false) })
	if err != nil {
		return result, fmt.Errorf("sync %s after a write on %s: %w", t, strings.Join(ids, ", "), err)
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
	p := s.newRetryPolicy(t, st)
	prove := thorough || !st.HistoryComplete // a full read proves anyway
	began := s.o.Now()
	observed, goOn := began, false
	done := Result{Before: st.ObservedAt}
	var newest newestSecond
	var shown []string // what the reading before showed of a newest second that pages divide
	divided := 0
	for {
		if !goOn {
			observed = s.o.Now()
		}
		failpoint.Hit("worker.credits.epoch")
		wanted := slices.Concat(refs, p.missing)
		if !goOn {
			newest = newestSecond{}
		}
		snapshot, err := s.readCredits(ctx, t, p.reach(st), wanted, creditsReading{thorough: thorough, full: p.full, goOn: goOn, prove: prove || p.full}, &newest)
		goOn = false // unless this piece is stored, what comes next begins at the newest rows
		snapshot.ObservedAt, snapshot.Events = observed, refs
		if vanished(err) {
			return s.vanished(ctx, t, st, observed, refs, fmt.Errorf("the customer exists, its credits do not: %w", err))
		}
		torn := err == nil && snapshot.Joined && newest.torn(observed, shown)
		if torn {
			shown = newest.rows()
			if divided++; divided <= s.o.Rereads {
				if err := backoff.Sleep(ctx, s.o.RereadDelay<<(divided-1)); err != nil {
					return Result{}, err
				}
				continue
			}
			snapshot = newest.piece(snapshot, st.Walk) // the next sync reads it again
		}
		if err == nil {
			failpoint.Hit("worker.credits.read")
			var applied mirror.Applied
			if applied, err = s.storeCredits(ctx, &p, snapshot, thorough); err == nil {
				done.add(applied)
				if !snapshot.Joined && !torn && s.goesOn(began) {
					st.Walk, goOn = snapshot.Walk, true
					continue
				}
				done.More, done.Unproven = !snapshot.Joined, p.accept
				return done, p.unfinished(refs, applied, thorough)
			}
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

// storeCredits stores what was read. Where that is behind what is known, it is stored
// once the retry policy is exhausted, and errReread is returned until then.
func (s *Syncer) storeCredits(ctx context.Context, p *retryPolicy, snapshot mirror.CreditsSnapshot, thorough bool) (mirror.Applied, error) {
	snapshot.AcceptDisproof, snapshot.AcceptBehind = p.accept, p.behind != nil
	applied, err := s.store.ApplyCredits(ctx, snapshot)
	b, behind := errors.AsType[*mirror.BehindError](err)
	if !behind {
		return applied, stored(err)
	}
	if damaged, err := p.blamesUs(ctx, b, b.Older); err != nil || damaged {
		return mirror.Applied{}, cmp.Or(err, errReread)
	}
	if err := p.nextBehind(ctx, b, snapshot.Events, thorough); err != nil {
		return mirror.Applied{}, err
	}
	snapshot.AcceptBehind = true
	applied, err = s.store.ApplyCredits(ctx, snapshot)
	return applied, stored(err)
}

// creditsReading says how a piece of billing credits is read: every grant anew, every
// row, on from the piece before in the same sync, with the summary as proof.
type creditsReading struct{ thorough, full, goOn, prove bool }

// newestSecond is what a reading of billing credits, in one piece or several, saw of
// the second in which the newest row was created.
//
// Rows of one second are listed in no order: one that comes while its second is read
// page by page stands above the place that is read, or below it, so that what was read
// is of no moment. No sum of the rows shows that, as the chain of a balance does.
type newestSecond struct {
	at, last time.Time // of the newest row, and of the last one that was read
	ids      []string
	divided  bool // its rows are on several pages
}

// page takes note of the next page.
func (n *newestSecond) page(rows []mirror.CreditTransaction) {
	for i, r := range rows {
		if n.at.IsZero() {
			n.at = r.Created
		}
		if r.Created.Equal(n.at) {
			n.ids = append(n.ids, r.ID)
			n.divided = n.divided || i == 0 && n.last.Equal(n.at)
		}
		n.last = r.Created
	}
}

// rows are those of the second.
func (n *newestSecond) rows() []string { return slices.Compact(slices.Sorted(slices.Values(n.ids))) }

// torn reports whether what was read from a time on may be of no moment: pages divide
// the second, rows can still have come into it, and the reading before did not show the
// same ones.
func (n *newestSecond) torn(observed time.Time, shown []string) bool {
	return n.divided && observed.Sub(n.at) < settledAfter && !slices.Equal(n.rows(), shown)
}

// piece is the snapshot without its join, so that nothing calls the ledger complete.
func (n *newestSecond) piece(s mirror.CreditsSnapshot, was mirror.Walk) mirror.CreditsSnapshot {
	s.Walk = mirror.Walk{Cursor: was.Cursor, Top: n.at, Full: s.Full}
	for _, w := range s.Windows {
		if len(w.Rows) > 0 {
			s.Walk.Cursor = w.Rows[len(w.Rows)-1].ID
		}
	}
	s.Joined, s.Full, s.Summary = false, false, nil
	return s
}

// readCredits reads one piece of a customer's billing credits: the rows with their
// grants and, with the piece that joins, the grants that the rows did not bring along,
// and the summary where a proof is asked for.
func (s *Syncer) readCredits(ctx context.Context, t mirror.Target, st mirror.SyncState, refs []mirror.EventRef, how creditsReading, newest *newestSecond) (mirror.CreditsSnapshot, error) {
	var copies []mirror.CreditGrant
	list := func(after string, limit int) ([]mirror.CreditTransaction, bool, error) {
		page, err := s.stripe.CreditPage(ctx, t.Account, t.ID, after, limit)
		copies = append(copies, page.Grants...)
		for i := range page.Rows {
			page.Rows[i].Customer = t.ID
		}
		newest.page(page.Rows)
		return page.Rows, page.HasMore, err
	}
	walked, err := walkLedger(st, how.full, how.goOn, firstPage(st, refs), s.o.PagesPerPiece, list,
		func(r mirror.CreditTransaction) (string, time.Time) { return r.ID, r.Created })
	if err != nil {
		return mirror.CreditsSnapshot{}, err
	}
	failpoint.Hit("worker.credits.rows")
	var more []mirror.CreditGrant
	all := false
	if walked.joined {
		if more, all, err = s.readGrants(ctx, t, st, refs, how.thorough, how.full, copies); err != nil {
			return mirror.CreditsSnapshot{}, err
		}
	}
	grants := mirror.NewestGrants(slices.Concat(copies, more))
	snapshot := mirror.CreditsSnapshot{
		Target: t, Epoch: st.Epoch, EventSeq: st.EventSeq,
		Windows: walked.windows, Joined: walked.joined, Full: walked.full, Walk: walked.walk,
		Grants: grants, AllGrants: all,
	}
	slices.SortFunc(snapshot.Grants, func(a, b mirror.CreditGrant) int { return strings.Compare(a.ID, b.ID) })
	if walked.joined {
		if snapshot.Clock, err = s.readClock(ctx, t, grants); err != nil {
			return mirror.CreditsSnapshot{}, err
		}
	}
	if how.prove && walked.joined {
		snapshot.Summary, err = s.readSummary(ctx, t, st, grants, all)
		switch permission, lacks := stripeapi.Permission(err); {
		case lacks: // the rows could be read; they are proven by their sums per grant
			s.noSummary.Do(func() {
				s.o.Log.Warn("stripe key cannot read credit balance summaries; proving credits without them",
					zap.String("account", t.Account), zap.String("permission", permission), zap.Error(err))
			})
			snapshot.Summary = nil
		case err != nil:
			return mirror.CreditsSnapshot{}, err
		}
	}
	return snapshot, nil
}

// readGrants reads the grants that events named and of which the rows did not bring
// along a copy that is new enough; for a thorough sync every grant of the customer,
// since any may have been edited. A first copy has just stored the grants of the whole
// account. The end of a full read asks for all of them. It reports whether it read them
// all.
func (s *Syncer) readGrants(ctx context.Context, t mirror.Target, st mirror.SyncState, refs []mirror.EventRef, thorough, all bool, copies []mirror.CreditGrant) (grants []mirror.CreditGrant, whole bool, err error) {
	var named []string
	for _, r := range refs {
		if mirror.ValidGrantID(r.Object) && !slices.Contains(named, r.Object) && !slices.ContainsFunc(copies, func(g mirror.CreditGrant) bool {
			return g.ID == r.Object && !g.Updated.Before(r.Updated)
		}) {
			named = append(named, r.Object)
		}
	}
	firstCopy := !st.HistoryComplete && len(st.Grants) > 0
	if all && st.HistoryComplete {
		named = nil
	} else if len(named) == 0 && (!thorough || firstCopy) {
		return nil, false, nil
	}
	if len(named) == 1 && !thorough {
		g, err := s.stripe.Grant(ctx, t.Account, named[0])
		switch {
		case errors.Is(err, stripeapi.ErrNotFound): // its event goes on waiting
			return nil, false, nil
		case err != nil:
			return nil, false, err
		}
		return []mirror.CreditGrant{g}, false, nil
	}
	for after := ""; ; {
		page, err := s.stripe.GrantsPage(ctx, t.Account, t.ID, after, pageSize)
		if err != nil {
			return nil, false, err
		}
		grants = append(grants, page.Rows...)
		if !page.HasMore || len(page.Rows) == 0 {
			return grants, true, nil
		}
		after = page.Rows[len(page.Rows)-1].ID
	}
}

// readSummary reads Stripe's own totals; nil when no unambiguous ones can be had
// at a bearable cost. all is whether grants are all that Stripe has, so that a held
// one that is none of them is not asked for.
func (s *Syncer) readSummary(ctx context.Context, t mirror.Target, st mirror.SyncState, grants []mirror.CreditGrant, all bool) (map[string]mirror.CreditBalance, error) {
	metered := map[string]bool{}
	for _, g := range st.Grants {
		if !all {
			metered[g.ID] = g.Metered
		}
	}
	for _, g := range grants {
		metered[g.ID] = mirror.MeteredScope(g.ApplicabilityConfig)
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

// readClock reads the time of the test clock that the customer lives on, by which its
// grants become usable and expire; only in test mode is there one. A key need not be
// able to read clocks, and one that is deleted has no time.
func (s *Syncer) readClock(ctx context.Context, t mirror.Target, grants []mirror.CreditGrant) (mirror.TestClock, error) {
	i := slices.IndexFunc(grants, func(g mirror.CreditGrant) bool { return g.TestClock != "" })
	if i < 0 {
		return mirror.TestClock{}, nil
	}
	id := grants[i].TestClock
	at, err := s.stripe.TestClock(ctx, t.Account, id)
	switch {
	case errors.Is(err, stripeapi.ErrForbidden), errors.Is(err, stripeapi.ErrNotFound), errors.Is(err, stripeapi.ErrRefused):
		return mirror.TestClock{}, nil
	case err != nil:
		return mirror.TestClock{}, err
	}
	return mirror.TestClock{ID: id, Frozen: at}, nil
}
