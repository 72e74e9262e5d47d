package simulation

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/verify"
)

// settled checks the invariants after each step that wrote something.
func (w *world) settled() {
	w.observe()
	for _, p := range w.processes {
		if p.dead || p.exitSeen {
			continue
		}
		select {
		case <-p.done:
			p.exitSeen = true
			w.kill(p)
			w.say("%s ended by itself: %v", p.name, p.err)
			w.script.add(action{at: time.Since(w.sched.begun) + time.Second, op: opStart})
		default:
		}
	}
	if len(w.touched) == 0 || w.broken != nil {
		return
	}
	w.check()
	clear(w.touched)
}

// touch says that something was committed, about one customer or, empty, about any.
func (w *world) touch(label string) {
	if i := strings.LastIndexByte(label, ' '); i >= 0 {
		label = label[i+1:]
	}
	if strings.Contains(label, ".") { // a grant, whoever it belongs to
		label = ""
	}
	w.touched[label] = true
}

func (w *world) check() {
	ctx := context.Background()
	balances, err := w.db.Balances(ctx, "", "", 1000, time.Time{})
	if err != nil {
		w.fail("check", "read the balances: %v", err)
		return
	}
	open, err := w.column(ctx, `SELECT customer FROM drift_findings WHERE repaired_at IS NULL`)
	if err != nil {
		w.fail("check", "read the findings: %v", err)
		return
	}
	doubted := map[string]bool{}
	for _, customer := range open {
		doubted[customer] = true
	}
	byID := map[string]mirror.CustomerBalances{}
	for _, b := range balances {
		byID[b.Customer] = b
		if w.model.byID[b.Customer] == nil {
			w.fail("I1", "the mirror holds a customer %s that Stripe never had", b.Customer)
			return
		}
	}
	for _, l := range w.model.ledgers {
		b := byID[l.id] // zero for one whose rows may be held before it is itself
		if w.touched[l.name] || w.touched[""] {
			w.checkBalance(ctx, l, b, doubted[l.id])
			w.checkCredits(ctx, l, b, doubted[l.id])
		}
		if l.deletedHere && !b.Deleted {
			w.fail("I4", "%s was deleted in the mirror and lives again", l.name)
		}
		l.deletedHere = b.Deleted
		if b.Deleted && l.deleted.IsZero() {
			w.fail("I13", "%s is deleted in the mirror and lives at Stripe", l.name)
		}
	}
	w.checkAnswered(ctx)
}

// column reads the one column of texts of a query. What a check needs of many rows it
// reads past the store, which reads them whole.
func (w *world) column(ctx context.Context, query string, args ...any) (list []string, err error) {
	s := w.looks[query]
	if s == nil {
		if s, err = w.look.PrepareContext(ctx, query); err != nil {
			return nil, err
		}
		w.looks[query] = s
	}
	rows, err := s.QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		list = append(list, text)
	}
	return list, rows.Err()
}

// held compares the ids of what is held with the model's rows, of which none may go
// again.
func (w *world) held(l *ledger, what string, ids []string, rows []row, before map[string]bool) map[string]bool {
	now := make(map[string]bool, len(ids))
	for _, id := range ids {
		now[id] = true
		if !slices.ContainsFunc(rows, func(r row) bool { return r.id == id }) {
			w.fail("I1", "%s holds a %s row %s that Stripe never had", l.name, what, id)
		}
	}
	if !w.plan.has(featRewind) {
		for id := range before {
			if !now[id] {
				w.fail("I5", "%s lost the %s row %s", l.name, what, w.nickname(id))
			}
		}
	}
	clear(before)
	maps.Copy(before, now)
	return now
}

// firstMissing is the first of the rows that is not held.
func firstMissing(rows []row, held map[string]bool) int {
	return slices.IndexFunc(rows, func(r row) bool { return !held[r.id] })
}

func (w *world) checkBalance(ctx context.Context, l *ledger, b mirror.CustomerBalances, doubted bool) {
	ids, err := w.column(ctx, `SELECT id FROM customer_balance_transactions WHERE account = '' AND customer = ?1`, l.id)
	if err != nil {
		w.fail("check", "read the rows of %s: %v", l.name, err)
		return
	}
	held := w.held(l, "balance", ids, l.rows, l.held)
	if doubted || l.damaged || b.Deleted {
		return
	}
	w.checkClaims(l, "balance", l.rows, held, b.Balance, b.BalanceSyncedAt, b.BalanceComplete)
}

func (w *world) checkCredits(ctx context.Context, l *ledger, b mirror.CustomerBalances, doubted bool) {
	ids, err := w.column(ctx, `SELECT id FROM credit_balance_transactions WHERE account = '' AND customer = ?1`, l.id)
	if err != nil {
		w.fail("check", "read the credits of %s: %v", l.name, err)
		return
	}
	held := w.held(l, "credit", ids, l.credits, l.heldCredits)
	w.checkGrants(ctx, l)
	if doubted || l.damaged || b.Deleted {
		return
	}
	w.checkClaims(l, "credits", l.credits, held, b.Credits, b.CreditsSyncedAt, b.CreditsComplete)
}

// checkClaims holds what the mirror says of a ledger against the model: one that is
// called complete is Stripe's of some moment, and one that is called fresh lacks
// nothing from before.
func (w *world) checkClaims(l *ledger, what string, rows []row, held map[string]bool, figure map[string]int64, synced time.Time, complete bool) {
	if synced.IsZero() {
		return
	}
	missing := firstMissing(rows, held)
	if !w.plan.has(featListLag) && complete {
		if missing >= 0 && missing < len(held) {
			w.fail("I2", "the %s of %s are called complete, and row %s is missing of %d held", what, l.name, w.nickname(rows[missing].id), len(held))
			return
		}
		for currency, amount := range sum(rows[:len(held)]) {
			if figure[currency] != amount {
				w.fail("I2", "the %s of %s are %d %s with %d rows held, which is %d", what, l.name, figure[currency], currency, len(held), amount)
				return
			}
		}
	}
	if missing >= 0 && !w.plan.lagging() && rows[missing].at.Before(synced) {
		w.fail("I12", "the %s of %s are called fresh as of %v, and row %s of %v is missing", what, l.name,
			synced.Sub(w.sched.begun), w.nickname(rows[missing].id), rows[missing].at.Sub(w.sched.begun))
	}
}

func (w *world) checkGrants(ctx context.Context, l *ledger) {
	list, err := w.db.Grants(ctx, "", l.id, mirror.Page{Limit: 10_000})
	if err != nil && !errors.Is(err, mirror.ErrNotFound) {
		w.fail("check", "read the grants of %s: %v", l.name, err)
		return
	}
	for _, g := range list.Rows {
		h := l.grants[g.ID]
		if h == nil {
			w.fail("I1", "%s holds a grant %s that Stripe never had", l.name, g.ID)
			return
		}
		at := slices.Index(h.states, canonical(g.Raw))
		switch {
		case l.damaged || w.plan.has(featRewind):
		case at < 0:
			w.fail("I1", "the grant %s is held as it never was: %s", w.nickname(g.ID), g.Raw)
		case h.seen > at && (!w.plan.lagging() || h.update[h.seen] > h.update[at]):
			w.fail("I4", "the grant %s goes back from its state %d to %d", w.nickname(g.ID), h.seen, at)
		}
		h.seen = at
	}
}

// patience is how long an event may wait in a world in which nothing fails.
const patience = 15 * time.Second

// checkAnswered finds events that the inbox calls answered though what they announced
// is not here.
func (w *world) checkAnswered(ctx context.Context) {
	pending, err := w.db.PendingEvents(ctx, 0, 10_000)
	if err != nil {
		w.fail("check", "read the inbox: %v", err)
		return
	}
	waits := map[string]map[mirror.Scope]bool{}
	for _, p := range pending {
		if waits[p.Event.ID] == nil {
			waits[p.Event.ID] = map[mirror.Scope]bool{}
		}
		waits[p.Event.ID][p.Target.Scope] = true
	}
	if w.plan.calm() {
		for id := range waits {
			if e := w.model.events[id]; e != nil && !e.acked.IsZero() && time.Since(e.acked) > patience {
				w.fail("I9", "%s %s of %s waits since %v, though nothing fails", e.typ, id, e.ledger.name, e.acked.Sub(w.sched.begun))
				return
			}
		}
	}
	if w.plan.lagging() || w.plan.has(featRewind) {
		return
	}
	for id, e := range w.model.events {
		if e.acked.IsZero() || e.ledger.damaged || !e.ledger.deleted.IsZero() {
			continue
		}
		for _, t := range (mirror.Event{Type: e.typ, Customer: e.ledger.id, Grant: "credgr_any"}).Targets() {
			scope := t.Scope
			if scope == mirror.ScopeGrantOwner {
				scope = mirror.ScopeCredits
			}
			if e.met[scope] || waits[id][scope] || waits[id][mirror.ScopeGrantOwner] {
				continue
			}
			e.met[scope] = true
			w.checkAnswer(id, e, scope)
		}
	}
}

func (w *world) checkAnswer(id string, e *sent, scope mirror.Scope) {
	rows, held := e.ledger.rows[:e.rows], e.ledger.held
	if scope == mirror.ScopeCredits {
		rows, held = e.ledger.credits[:e.credits], e.ledger.heldCredits
		for g, n := range e.grants {
			if h := e.ledger.grants[g]; h.seen < n-1 {
				w.fail("I3", "%s %s of %s counts as answered, and the grant %s is held in state %d of %d", e.typ, id, e.ledger.name, w.nickname(g), h.seen, n-1)
				return
			}
		}
	}
	if i := firstMissing(rows, held); i >= 0 {
		w.fail("I3", "%s %s of %s counts as answered, and row %s is missing", e.typ, id, e.ledger.name, w.nickname(rows[i].id))
	}
}

// lastsByRight reports whether a finding is true for ever: the customer was deleted
// before all its rows were read, and what is held of them says so.
func (w *world) lastsByRight(f mirror.Finding) bool {
	l := w.model.byID[f.Customer]
	return f.Kind == mirror.DriftChainGap && l != nil && l.deletedHere && firstMissing(l.rows, l.held) >= 0
}

// unequal returns the first thing in which the mirror is not yet what Stripe is.
func (w *world) unequal() string {
	ctx := context.Background()
	pending, err := w.db.PendingEvents(ctx, 0, 1)
	if err != nil || len(pending) > 0 {
		return "events wait in the inbox"
	}
	for _, l := range w.model.ledgers {
		if why := w.unequalLedger(ctx, l); why != "" {
			return l.name + ": " + why
		}
	}
	if n, err := w.db.UnsyncedCount(ctx, ""); err != nil || n > 0 {
		return "histories are not complete"
	}
	if letters, err := w.db.DeadLetters(ctx, "", 1); err != nil || len(letters) > 0 {
		return "there are dead letters: " + letters[0].Reason
	}
	open, err := w.db.Findings(ctx, mirror.FindingsQuery{Limit: 1000})
	open = slices.DeleteFunc(open, w.lastsByRight)
	if err != nil || len(open) > 0 {
		return "findings are open: " + string(open[0].Kind) + " " + w.nickname(open[0].Customer) + " " + w.nickname(open[0].Object) + " " + open[0].Expected + "/" + open[0].Actual + " " + open[0].Cause
	}
	return ""
}

func (w *world) unequalLedger(ctx context.Context, l *ledger) string {
	if !l.deleted.IsZero() {
		c, err := w.db.Customer(ctx, "", l.id)
		if err == nil && !c.Deleted || err != nil && !errors.Is(err, mirror.ErrNotFound) {
			return "is deleted at Stripe alone"
		}
		return ""
	}
	if i := firstMissing(l.rows, l.held); i >= 0 {
		return "balance row " + w.nickname(l.rows[i].id) + " is missing"
	}
	if i := firstMissing(l.credits, l.heldCredits); i >= 0 {
		return "credit row " + w.nickname(l.credits[i].id) + " is missing"
	}
	c, err := w.db.Customer(ctx, "", l.id)
	if err != nil {
		return "the customer is not held"
	}
	for currency, amount := range sum(l.rows) {
		if c.Ends()[currency] != amount {
			return "the customer's balance differs"
		}
	}
	for _, g := range l.order {
		h := l.grants[g]
		if h.seen != len(h.states)-1 {
			return "the grant " + w.nickname(g) + " is held in an old state"
		}
	}
	return ""
}

// checkEnd is for a world at rest: everything is equal, and nothing was found that was not.
func (w *world) checkEnd() {
	ctx := context.Background()
	_, err := verify.Run(ctx, w.db.(mirror.Auditor), verify.Options{Readers: 1}, func(f mirror.Finding) error {
		if w.lastsByRight(f) {
			return nil
		}
		w.fail("verify", "verify finds %s of %s (%s, %s) in a mirror that equals Stripe", f.Kind, w.nickname(f.Customer), f.Expected, f.Actual)
		return nil
	})
	if err != nil {
		w.fail("verify", "verify: %v", err)
	}
	w.checkFindings(ctx)
}

// checkFindings holds every finding ever made against what really happened.
func (w *world) checkFindings(ctx context.Context) {
	all, err := w.db.Findings(ctx, mirror.FindingsQuery{RepairedSince: time.Unix(0, 0), Limit: 10_000})
	if err != nil {
		w.fail("check", "read the findings: %v", err)
		return
	}
	for _, f := range all {
		if f.Kind == mirror.DriftMissedEvent {
			e := w.model.events[f.Object]
			switch {
			case e == nil:
				w.fail("finding", "missed_event names %s, which no event is", f.Object)
			case !e.acked.IsZero() && e.acked.Before(f.FoundAt) && !w.plan.has(featSkew) && !(w.plan.has(featRewind) && f.Cause != mirror.CauseMissedEvent):
				w.fail("finding", "missed_event of %s %s, found at %v with the cause %q, was acknowledged at %v", e.typ, w.nickname(e.ledger.id),
					f.FoundAt.Sub(w.sched.begun), f.Cause, e.acked.Sub(w.sched.begun))
			}
			continue
		}
		if !w.plan.drifts() {
			w.fail("finding", "%s of %s %s (expected %s, actual %s, cause %s) where nothing drifted", f.Kind, w.nickname(f.Customer), w.nickname(f.Object), f.Expected, f.Actual, f.Cause)
		}
	}
}
