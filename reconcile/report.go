package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

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

// ReportStripe is what a scrub that only reports reads. *stripeapi.Client is one.
type ReportStripe interface {
	BalancePage(ctx context.Context, account, customer, after string, limit int) (stripeapi.BalancePage, error)
	CreditPage(ctx context.Context, account, customer, after string, limit int) (stripeapi.CreditPage, error)
	GrantsPage(ctx context.Context, account, customer, after string, limit int) (stripeapi.GrantsPage, error)
	Customer(ctx context.Context, account, id string) (stripeapi.CustomerReply, error)
}

// ReportStore is what it compares with; it writes findings, where it may, and
// nothing else. Every mirror.Store is one.
type ReportStore interface {
	mirror.Findings
	ObservedAt(ctx context.Context, targets []mirror.Target) ([]time.Time, error)
	HeldCustomers(ctx context.Context, account string, ids []string) (map[string]mirror.HeldCustomer, error)
	Customer(ctx context.Context, account, id string) (mirror.CustomerView, error)
	Customers(ctx context.Context, account, after string, limit int) ([]mirror.CustomerView, error)
	BalanceTransactions(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.BalanceTransaction], error)
	CreditTransactions(ctx context.Context, account, customer, grant string, p mirror.Page) (mirror.Slice[mirror.CreditTransaction], error)
	Grants(ctx context.Context, account, customer string, p mirror.Page) (mirror.Slice[mirror.CreditGrant], error)
}

// ReportOptions tune a ScrubReport.
type ReportOptions struct {
	// Grace is how long a difference must last. Defaults to 10 s.
	Grace time.Duration
	// DryRun keeps the findings to itself; else they are recorded.
	DryRun bool
	Log    *zap.Logger
	Now    func() time.Time
}

// ScrubReport reads customers in full and compares every field of every row with
// what is held. It repairs nothing: it raises no epoch, marks nothing and writes
// no row. A difference counts only when two looks show it and neither queued work
// nor a newer sync explains it.
type ScrubReport struct {
	stripe ReportStripe
	store  ReportStore
	queue  Queue
	o      ReportOptions
}

// NewScrubReport returns a ScrubReport.
func NewScrubReport(stripe ReportStripe, store ReportStore, queue Queue, o ReportOptions) *ScrubReport {
	if o.Grace <= 0 {
		o.Grace = balancesGrace
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &ScrubReport{stripe: stripe, store: store, queue: queue, o: o}
}

// Reported is what a report read and found.
type Reported struct {
	Customers int
	// Histories read, of both scopes.
	Histories int
	// Unread are customers for whom Stripe did not answer, however often it was asked,
	// or not often enough to tell whether a difference lasts.
	Unread   int
	Findings []mirror.Finding
	// Opened is how many of them were recorded that were not open before.
	Opened map[mirror.DriftKind]int
	// Last is the customer after whom the next report goes on; empty: all were read.
	Last string
}

// Run reads up to limit customers after the given one, by id; limit 0 reads all.
// progress, where set, is told how many customers and differences there were.
func (r *ScrubReport) Run(ctx context.Context, account, after string, limit int, progress func(Reported)) (Reported, error) {
	var all Reported
	for {
		n := reportPage
		if limit > 0 {
			n = min(n, limit-all.Customers)
		}
		list, err := r.store.Customers(ctx, account, after, n)
		if err != nil {
			return all, err
		}
		if len(list) == 0 {
			all.Last = ""
			return all, nil
		}
		if err := r.batch(ctx, account, list, &all); err != nil {
			return all, err
		}
		after = list[len(list)-1].ID
		all.Customers, all.Last = all.Customers+len(list), after
		if progress != nil {
			progress(all)
		}
		if limit > 0 && all.Customers >= limit {
			return all, nil
		}
	}
}

// batch looks at each customer, and again at those that differ.
func (r *ScrubReport) batch(ctx context.Context, account string, list []mirror.CustomerView, all *Reported) error {
	ids := make([]string, 0, len(list))
	for _, c := range list {
		if !c.Deleted { // there is nothing left at Stripe to compare with
			ids = append(ids, c.ID)
		}
	}
	first, err := r.look(ctx, account, ids)
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
		if err := pause(ctx, r.o.Grace); err != nil {
			return err
		}
		next, err := r.look(ctx, account, slices.Sorted(maps.Keys(first)))
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
		r.o.Log.Warn("customer not compared: stripe does not answer for it",
			zap.String("account", account), zap.String("customer_id", id), zap.Error(first[id].failed))
	}
	all.Unread += len(first)
	return nil
}

// away is why Stripe does not answer at all, so that it is no fault of the customers
// for whom it did not.
func (r *ScrubReport) away(ctx context.Context, account string) error {
	_, err := r.stripe.GrantsPage(ctx, account, "", "", 1)
	return err
}

func sameDifference(a, b mirror.Finding) bool {
	return a.Kind == b.Kind && a.Scope == b.Scope && a.Currency == b.Currency && a.Object == b.Object && a.Actual == b.Actual
}

// record tells what was not told before.
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
	// of them are told.
	findings []mirror.Finding
	lag      bool
	// histories is how many were read.
	histories int
	// silent tells that the last look was not answered, and failed why the last one of
	// those was not.
	silent bool
	failed error
}

// again tells whether another look has to follow: nothing is told that was seen once.
func (l looked) again() bool { return l.silent || len(l.findings) > 0 }

// after tells what a look shows as the one before did, with no work about to change
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
func (r *ScrubReport) look(ctx context.Context, account string, ids []string) (map[string]looked, error) {
	var mu sync.Mutex
	all := make(map[string]looked, len(ids))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(reportAtOnce)
	for _, id := range ids {
		group.Go(func() error {
			look, err := r.lookAt(ctx, account, id)
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

func (r *ScrubReport) lookAt(ctx context.Context, account, id string) (look looked, err error) {
	c := comparison{account: account, customer: id, at: r.o.Now().UTC()}
	targets := []mirror.Target{
		{Account: account, Scope: mirror.ScopeBalance, ID: id}, {Account: account, Scope: mirror.ScopeCredits, ID: id},
	}
	theirs, gone, err := r.theirBalance(ctx, account, id)
	if err != nil {
		return unanswered(ctx, err)
	}
	look.histories = 1
	grants, err := r.ourGrants(ctx, account, id)
	if err != nil {
		return look, err
	}
	var credits theirCredits
	if len(grants) > 0 && !gone { // whose first grant it is, the balances sweep finds
		look.histories++
		if credits, err = r.theirCredits(ctx, account, id); err != nil {
			return unanswered(ctx, err)
		}
	}
	// The queue before what is held: work that ends after this look is seen there.
	queued, err := r.queue.Queued(ctx, targets)
	if err != nil {
		return look, err
	}
	synced, err := r.store.ObservedAt(ctx, targets)
	if err != nil {
		return look, err
	}
	held, err := r.store.HeldCustomers(ctx, account, []string{id})
	if err != nil {
		return look, err
	}
	view, err := r.store.Customer(ctx, account, id)
	if err != nil {
		return look, err
	}
	if view.Deleted {
		return look, nil
	}
	if gone {
		c.find(mirror.DriftMissingCustomer, mirror.ScopeBalance, "", "", "deleted", "customer", mirror.CauseMissedEvent)
	} else {
		c.customers(theirs.customer, held[id], view)
		c.synced = synced[0]
		if err := r.balanceRows(ctx, &c, theirs.rows); err != nil {
			return look, err
		}
		if len(grants) > 0 {
			c.synced = synced[1]
			if grants, err = r.ourGrants(ctx, account, id); err != nil { // anew: after the queue
				return look, err
			}
			c.grants(credits.grants, grants)
			if err := r.creditRows(ctx, &c, credits.rows); err != nil {
				return look, err
			}
		}
	}
	for _, f := range c.found {
		for i, t := range targets {
			if f.Scope == t.Scope && (queued[i] || !synced[i].Before(c.at)) {
				look.lag = true
			}
		}
	}
	look.findings = c.found
	return look, nil
}

// print is a row as it is compared.
type print struct {
	mirror.Print
	currency string
	created  time.Time
}

func balancePrint(t mirror.BalanceTransaction) print { return print{t.Print(), t.Currency, t.Created} }

func creditPrint(t mirror.CreditTransaction) print { return print{t.Print(), t.Currency, t.Created} }

func grantPrint(g mirror.CreditGrant) print { return print{g.Print(), g.Currency, g.Created} }

// theirLedger is a balance ledger as Stripe shows it, rows as prints: a long
// history need not fit into memory.
type theirLedger struct {
	customer mirror.Customer
	rows     map[string]print
}

// theirBalance reads a whole balance ledger; gone: the customer is deleted.
func (r *ScrubReport) theirBalance(ctx context.Context, account, id string) (l theirLedger, gone bool, err error) {
	l.rows = map[string]print{}
	for after := ""; ; {
		page, err := r.stripe.BalancePage(ctx, account, id, after, 100)
		if errors.Is(err, stripeapi.ErrNotFound) && !cursorGone(err) {
			break // the customer itself says whether it is gone
		}
		if err != nil {
			return l, false, err
		}
		if after == "" && page.Customer != nil {
			l.customer = *page.Customer
		}
		for _, t := range page.Rows {
			after, l.rows[t.ID] = t.ID, balancePrint(t)
		}
		if !page.HasMore || len(page.Rows) == 0 {
			break
		}
	}
	if l.customer.ID != "" {
		return l, false, nil
	}
	reply, err := r.stripe.Customer(ctx, account, id)
	if errors.Is(err, stripeapi.ErrNotFound) {
		return l, true, nil
	}
	l.customer = reply.Customer
	return l, reply.Deleted, err
}

type theirCredits struct {
	rows, grants map[string]print
}

func (r *ScrubReport) theirCredits(ctx context.Context, account, id string) (c theirCredits, err error) {
	c = theirCredits{rows: map[string]print{}, grants: map[string]print{}}
	for after := ""; ; {
		page, err := r.stripe.CreditPage(ctx, account, id, after, 100)
		if err != nil {
			return c, err
		}
		for _, t := range page.Rows {
			after, c.rows[t.ID] = t.ID, creditPrint(t)
		}
		if !page.HasMore || len(page.Rows) == 0 {
			break
		}
	}
	for after := ""; ; {
		page, err := r.stripe.GrantsPage(ctx, account, id, after, 100)
		if err != nil {
			return c, err
		}
		for _, g := range page.Rows {
			after, c.grants[g.ID] = g.ID, grantPrint(g)
		}
		if !page.HasMore || len(page.Rows) == 0 {
			return c, nil
		}
	}
}

func (r *ScrubReport) ourGrants(ctx context.Context, account, id string) (map[string]print, error) {
	held := map[string]print{}
	for page := (mirror.Page{Limit: reportPage}); ; {
		list, err := r.store.Grants(ctx, account, id, page)
		if errors.Is(err, mirror.ErrNotFound) {
			return held, nil
		}
		if err != nil {
			return nil, err
		}
		for _, g := range list.Rows {
			page.After, held[g.ID] = g.ID, grantPrint(g)
		}
		if !list.HasMore {
			return held, nil
		}
	}
}

// balanceRows compares the rows held, page by page, and takes those that Stripe
// shows out of theirs: what is left there is missing here.
func (r *ScrubReport) balanceRows(ctx context.Context, c *comparison, theirs map[string]print) error {
	for page := (mirror.Page{Limit: reportPage}); ; {
		list, err := r.store.BalanceTransactions(ctx, c.account, c.customer, page)
		if err != nil {
			return err
		}
		for _, t := range list.Rows {
			page.After = t.ID
			c.row(mirror.ScopeBalance, t.ID, theirs, balancePrint(t))
		}
		if !list.HasMore {
			c.missing(mirror.ScopeBalance, theirs)
			return nil
		}
	}
}

func (r *ScrubReport) creditRows(ctx context.Context, c *comparison, theirs map[string]print) error {
	for page := (mirror.Page{Limit: reportPage}); ; {
		list, err := r.store.CreditTransactions(ctx, c.account, c.customer, "", page)
		if err != nil && !errors.Is(err, mirror.ErrNotFound) {
			return err
		}
		for _, t := range list.Rows {
			page.After = t.ID
			c.row(mirror.ScopeCredits, t.ID, theirs, creditPrint(t))
		}
		if !list.HasMore {
			c.missing(mirror.ScopeCredits, theirs)
			return nil
		}
	}
}

// comparison collects the differences of one customer.
type comparison struct {
	account, customer string
	at                time.Time // when Stripe was asked
	synced            time.Time // when the reads of the ledger's last commit began
	found             []mirror.Finding
}

func (c *comparison) find(kind mirror.DriftKind, scope mirror.Scope, currency, object, expected, actual, cause string) {
	if len(c.found) < reportPerCustomer {
		c.found = append(c.found, mirror.Finding{
			Kind: kind, Account: c.account, Customer: c.customer, Scope: scope, Currency: currency, Object: object,
			Expected: expected, Actual: actual, Cause: cause, FoundAt: c.at,
		})
	}
}

// customers compares the customer itself.
func (c *comparison) customers(theirs mirror.Customer, held mirror.HeldCustomer, view mirror.CustomerView) {
	shown := suspect{Balance: theirs.Balance, Currency: theirs.Currency, Ends: theirs.Ends()}
	list := differences(shown, held)
	for _, d := range list {
		cause := mirror.CauseMissedEvent
		if d.inconsistent {
			cause = mirror.CauseUnknown
		}
		c.find(mirror.DriftBalanceMismatch, mirror.ScopeBalance, d.currency, "", strconv.FormatInt(d.expected, 10), strconv.FormatInt(d.actual, 10), cause)
	}
	if len(list) > 0 {
		return // the JSON holds the balances too
	}
	want, have := theirs.Print(shared(theirs.Raw, view.Raw)), view.Print(shared(view.Raw, theirs.Raw))
	if want.Equal(have) {
		return
	}
	cause := mirror.CauseMissedEvent
	if !slices.Contains(have.Differing(want), "raw") { // the columns contradict the JSON beside them
		cause = mirror.CauseUnknown
	}
	expected, actual := mirror.Describe(want, have)
	c.find(mirror.DriftFieldMismatch, mirror.ScopeBalance, "", c.customer, expected, actual, cause)
}

// shared is a customer's JSON as far as the other one has the same keys: how much of
// a customer is kept is a matter of configuration, which may have changed. What is
// no object is compared as it is.
func shared(raw, other json.RawMessage) json.RawMessage {
	var own, others map[string]json.RawMessage
	if json.Unmarshal(raw, &own) != nil || json.Unmarshal(other, &others) != nil || len(others) == 0 {
		return raw
	}
	maps.DeleteFunc(own, func(key string, _ json.RawMessage) bool { _, both := others[key]; return !both })
	out, _ := json.Marshal(own) //nolint:errcheck // it was JSON a moment ago
	return out
}

// row compares one held row, and takes it out of what Stripe shows.
func (c *comparison) row(scope mirror.Scope, id string, theirs map[string]print, held print) {
	want, listed := theirs[id]
	delete(theirs, id)
	switch {
	case !listed:
		c.find(mirror.DriftUnexpectedTransaction, scope, held.currency, id, "", held.Absent(), mirror.CauseUnknown)
	case slices.Contains(held.Differing(want.Print), "raw"):
		c.differs(scope, id, want, held, mirror.CauseSilentEdit)
	case !want.Equal(held.Print): // the columns contradict the JSON beside them
		c.differs(scope, id, want, held, mirror.CauseUnknown)
	}
}

func (c *comparison) differs(scope mirror.Scope, id string, want, held print, cause string) {
	expected, actual := mirror.Describe(want.Print, held.Print)
	c.find(mirror.DriftFieldMismatch, scope, want.currency, id, expected, actual, cause)
}

// missing are the rows that Stripe shows and that are not held.
func (c *comparison) missing(scope mirror.Scope, theirs map[string]print) {
	for _, id := range slices.Sorted(maps.Keys(theirs)) {
		t := theirs[id]
		cause := mirror.CauseMissedEvent
		if t.created.Before(c.synced) { // a sync has been there since
			cause = mirror.CauseUnknown
		}
		c.find(mirror.DriftMissingTransaction, scope, t.currency, id, t.Absent(), "", cause)
	}
}

func (c *comparison) grants(theirs, held map[string]print) {
	for _, id := range slices.Sorted(maps.Keys(held)) {
		switch want, listed := theirs[id]; {
		case !listed:
			c.find(mirror.DriftUnexpectedTransaction, mirror.ScopeCredits, held[id].currency, id, "", held[id].Absent(), mirror.CauseUnknown)
		case slices.Contains(held[id].Differing(want.Print), "raw"):
			c.differs(mirror.ScopeCredits, id, want, held[id], mirror.CauseMissedEvent)
		case !want.Equal(held[id].Print):
			c.differs(mirror.ScopeCredits, id, want, held[id], mirror.CauseUnknown)
		}
		delete(theirs, id)
	}
	for _, id := range slices.Sorted(maps.Keys(theirs)) {
		c.find(mirror.DriftMissingTransaction, mirror.ScopeCredits, theirs[id].currency, id, theirs[id].Absent(), "", mirror.CauseMissedEvent)
	}
}
