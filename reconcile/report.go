package reconcile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

const (
	// reportAtOnce is how many customers are read side by side; reportPage is how
	// many are listed, and rows read from the mirror, at a time.
	reportAtOnce = 8
	reportPage   = 100
	// reportLooks is how often a difference that work explains is looked at again.
	reportLooks = 4
	// reportPerCustomer bounds the findings of one customer: a new version of
	// Stripe's API may show a field more in every row.
	reportPerCustomer = 20
)

// ReportStripe reports whether Stripe answers at all. *stripeapi.Client is one.
type ReportStripe interface {
	GrantsPage(ctx context.Context, account, customer, after string, limit int) (stripeapi.GrantsPage, error)
}

// ReportStore is where findings are recorded.
type ReportStore interface {
	Checkpoints
	findings
	ObservedAt(ctx context.Context, targets []mirror.Target) ([]time.Time, error)
}

// ErrUnread says that a history could not be rehearsed: Stripe did not answer, or with
// what cannot be stored.
var ErrUnread = errors.New("the history could not be read")

// Rehearsal makes the syncs that the scrub would ask for, without keeping anything.
type Rehearsal interface {
	// Histories is as that of mirror.Rehearser.
	Histories(ctx context.Context, account, after string, limit int) ([]mirror.Target, error)
	// Rehearse returns the differences that a sync of the whole history would record or
	// repair. ErrUnread where Stripe's reply could not be had.
	Rehearse(ctx context.Context, t mirror.Target) ([]mirror.Finding, error)
}

// ReportOptions tune a ScrubReport.
type ReportOptions struct {
	// Grace is how long a difference must last. Defaults to 10 s.
	Grace time.Duration
	// Ledgers are those that are mirrored.
	Ledgers mirror.Ledgers
	// DryRun keeps the findings to itself; else they are recorded.
	DryRun bool
	Log    *zap.Logger
	Now    func() time.Time
}

// ScrubReport is the scrub without its commits: it makes the same syncs of whole
// histories and has the database undo them. It repairs nothing: it raises no epoch,
// marks nothing and writes no row. A difference counts only when two looks show it and
// neither queued work nor a newer sync explains it.
type ScrubReport struct {
	stripe    ReportStripe
	store     ReportStore
	rehearsal Rehearsal
	queue     Queue
	o         ReportOptions
}

// NewScrubReport returns a ScrubReport.
func NewScrubReport(stripe ReportStripe, store ReportStore, rehearsal Rehearsal, queue Queue, o ReportOptions) *ScrubReport {
	if o.Grace <= 0 {
		o.Grace = balancesGrace
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &ScrubReport{stripe: stripe, store: store, rehearsal: rehearsal, queue: queue, o: o}
}

// Reported is what a report read and found.
type Reported struct {
	Customers int
	// Histories read, of both scopes.
	Histories int
	// Unread are customers for whom Stripe did not answer, however often it was asked,
	// or not often enough to know whether a difference lasts.
	Unread   int
	Findings []mirror.Finding
	// Opened is how many of them were recorded that were not open before.
	Opened map[mirror.DriftKind]int
	// Last is the customer after whom the next report goes on; empty: all were read.
	Last string
}

// Run reads up to limit customers after the given one, by id; limit 0 reads all.
// progress, where set, is called with how many customers and differences there were.
func (r *ScrubReport) Run(ctx context.Context, account, after string, limit int, progress func(Reported)) (Reported, error) {
	var all Reported
	ledgers, err := readable(ctx, r.store, account, r.o.Ledgers)
	if err != nil {
		return all, err
	}
	for {
		n := reportPage
		if limit > 0 {
			n = min(n, limit-all.Customers)
		}
		list, err := r.rehearsal.Histories(ctx, account, after, n)
		if err != nil {
			return all, err
		}
		if len(list) == 0 {
			all.Last = ""
			return all, nil
		}
		histories := map[string][]mirror.Target{}
		for _, t := range ledgers.Of(list) {
			histories[t.ID] = append(histories[t.ID], t)
		}
		if err := r.batch(ctx, account, histories, &all); err != nil {
			return all, err
		}
		after = list[len(list)-1].ID
		all.Customers, all.Last = all.Customers+len(histories), after
		if progress != nil {
			progress(all)
		}
		if limit > 0 && all.Customers >= limit {
			return all, nil
		}
	}
}

// batch looks at each customer, and again at those that differ.
func (r *ScrubReport) batch(ctx context.Context, account string, histories map[string][]mirror.Target, all *Reported) error {
	ids := slices.Sorted(maps.Keys(histories))
	first, err := r.look(ctx, histories, ids)
	if err != nil {
		return err
	}
	if len(ids) > 0 && !slices.ContainsFunc(ids, func(id string) bool { return !first[id].silent }) {
		if err := r.away(ctx, account); err != nil {
			return err
		}
	}
	for looks := 1; ; looks++ {
		for id, look := range first {
			if !look.again() {
				all.Histories += look.histories
				delete(first, id)
			}
		}
		if len(first) == 0 || looks == reportLooks {
			break
		}
		if err := backoff.Sleep(ctx, r.o.Grace); err != nil {
			return err
		}
		next, err := r.look(ctx, histories, slices.Sorted(maps.Keys(first)))
		if err != nil {
			return err
		}
		var found []mirror.Finding
		for id, look := range next {
			lasting, left := look.after(first[id])
			found, next[id] = append(found, lasting...), left
		}
		if err := r.record(ctx, found, all); err != nil {
			return err
		}
		first = next
	}
	for id, look := range first {
		all.Histories += look.histories
		if look.failed == nil { // what still changes is work's to settle, or the next report's
			delete(first, id)
		}
	}
	if len(first) == 0 {
		return nil
	}
	if err := r.away(ctx, account); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(first)) {
		r.o.Log.Warn("could not compare customer: stripe did not answer",
			zap.String("account", account), zap.String("customer_id", id), zap.Error(first[id].failed))
	}
	all.Unread += len(first)
	return nil
}

// away is why Stripe does not answer at all, so that it is no fault of the customers
// for whom it did not.
func (r *ScrubReport) away(ctx context.Context, account string) error {
	_, err := r.stripe.GrantsPage(ctx, account, "", "", 1)
	if _, refused := stripeapi.Permission(err); refused {
		return nil // it answers; the key may not read this
	}
	return err
}

func sameDifference(a, b mirror.Finding) bool {
	return a.Kind == b.Kind && a.Scope == b.Scope && a.Currency == b.Currency && a.Object == b.Object && a.Actual == b.Actual
}

// record logs and stores the findings that are new.
func (r *ScrubReport) record(ctx context.Context, found []mirror.Finding, all *Reported) error {
	found = slices.DeleteFunc(found, func(f mirror.Finding) bool {
		return slices.ContainsFunc(all.Findings, func(before mirror.Finding) bool {
			return before.Customer == f.Customer && sameDifference(f, before)
		})
	})
	if len(found) == 0 {
		return nil
	}
	slices.SortFunc(found, func(a, b mirror.Finding) int {
		return bytes.Compare([]byte(a.Customer+" "+string(a.Scope)+" "+a.Object), []byte(b.Customer+" "+string(b.Scope)+" "+b.Object))
	})
	for _, f := range found {
		r.o.Log.Warn("drift found", zap.String("kind", string(f.Kind)), zap.String("account", f.Account),
			zap.String("customer_id", f.Customer), zap.String("currency", f.Currency), zap.String("cause", f.Cause))
	}
	all.Findings = append(all.Findings, found...)
	return openAll(ctx, r.store, found, r.o.DryRun, &all.Opened)
}

// looked is what the looks at a customer have shown.
type looked struct {
	// findings are the differences of the last look that was answered; none once all
	// of them are reported.
	findings []mirror.Finding
	lag      bool
	// histories is how many were read.
	histories int
	// silent means that the last look was not answered, and failed why the last one of
	// those was not.
	silent bool
	failed error
}

// again reports whether another look has to follow: nothing is reported that was seen once.
func (l looked) again() bool { return l.silent || len(l.findings) > 0 }

// after returns what a look shows as the one before did, with no work about to change
// it, and what the two leave for the next.
func (l looked) after(before looked) (lasting []mirror.Finding, left looked) {
	if l.silent { // what was seen once stays seen
		before.silent, before.failed = true, l.failed
		return nil, before
	}
	l.failed = before.failed
	settled := !l.lag
	for _, f := range l.findings {
		if !slices.ContainsFunc(before.findings, func(b mirror.Finding) bool { return sameDifference(f, b) }) {
			settled = false // seen once
		} else if !l.lag {
			lasting = append(lasting, f)
		}
	}
	if settled {
		l.findings = nil
	}
	return lasting, l
}

// look compares customers side by side.
func (r *ScrubReport) look(ctx context.Context, histories map[string][]mirror.Target, ids []string) (map[string]looked, error) {
	var mu sync.Mutex
	all := make(map[string]looked, len(ids))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(reportAtOnce)
	for _, id := range ids {
		group.Go(func() error {
			look, err := r.lookAt(ctx, histories[id])
			if err != nil {
				return fmt.Errorf("compare %s: %w", id, err)
			}
			mu.Lock()
			defer mu.Unlock()
			all[id] = look
			return nil
		})
	}
	return all, group.Wait()
}

// unanswered is a look at a customer for whom Stripe did not answer. That the key is
// refused is no customer's fault, nor that the report is stopped.
func unanswered(ctx context.Context, err error) (looked, error) {
	if ctx.Err() != nil || errors.Is(err, stripeapi.ErrUnauthorized) || errors.Is(err, stripeapi.ErrForbidden) {
		return looked{}, err
	}
	return looked{silent: true, failed: err}, nil
}

// lookAt rehearses the syncs of a customer's histories.
func (r *ScrubReport) lookAt(ctx context.Context, targets []mirror.Target) (look looked, err error) {
	at := r.o.Now().UTC()
	for _, t := range targets {
		found, err := r.rehearsal.Rehearse(ctx, t)
		if errors.Is(err, ErrUnread) {
			return unanswered(ctx, err)
		}
		if err != nil {
			return look, err
		}
		look.histories++
		for _, f := range found {
			known := slices.ContainsFunc(look.findings, func(g mirror.Finding) bool { return sameDifference(f, g) })
			if !known && len(look.findings) < reportPerCustomer {
				f.FoundAt = at
				look.findings = append(look.findings, f)
			}
		}
	}
	queued, err := r.queue.Queued(ctx, targets)
	if err != nil {
		return look, err
	}
	synced, err := r.store.ObservedAt(ctx, targets)
	if err != nil {
		return look, err
	}
	for _, f := range look.findings {
		for i, t := range targets {
			if f.Scope == t.Scope && (queued[i] || !synced[i].Before(at)) {
				look.lag = true
			}
		}
	}
	return look, nil
}
