package verify

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/creditmirror/creditmirror/mirror"
)

// stream is a stream of rows with its next row in sight.
type stream[Row interface{ Key() mirror.AuditKey }] struct {
	name string
	head Row
	more bool
	next func() (Row, error, bool)
	stop func()
}

func open[Row interface{ Key() mirror.AuditKey }](name string, rows iter.Seq2[Row, error]) (*stream[Row], error) {
	s := &stream[Row]{name: name}
	s.next, s.stop = iter.Pull2(rows)
	if err := s.step(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// step goes to the next row.
func (s *stream[Row]) step() error {
	var err error
	s.head, err, s.more = s.next()
	if err != nil {
		return fmt.Errorf("read %s: %w", s.name, err)
	}
	return nil
}

// at reports whether the next row is of the customer.
func (s *stream[Row]) at(k mirror.AuditKey) bool { return s.more && s.head.Key() == k }

// each runs fn over the rows of the customer.
func (s *stream[Row]) each(k mirror.AuditKey, fn func(*Row)) error {
	for s.at(k) {
		fn(&s.head)
		if err := s.step(); err != nil {
			return err
		}
	}
	return nil
}

// part merges the streams of one range, customer by customer.
type part struct {
	placed    *stream[mirror.AuditTransaction]
	unplaced  *stream[mirror.AuditTransaction]
	customers *stream[mirror.AuditCustomer]
	balances  *stream[mirror.AuditBalance]
	grants    *stream[mirror.AuditGrant]
	credits   *stream[mirror.AuditCredit]
	summaries *stream[mirror.AuditBalance]
	states    *stream[mirror.AuditState]

	grant   func(account, id string) (mirror.AuditGrant, error)
	ledgers func(account string) mirror.Ledgers
	report  func(mirror.Finding)
	result  Result
}

// judge judges everything that the ledgers hold.
func judge(l mirror.AuditLedgers, ledgers func(account string) mirror.Ledgers, report func(mirror.Finding) error) (result Result, err error) {
	p := &part{grant: l.Grant, ledgers: ledgers}
	var refused error
	p.report = func(f mirror.Finding) {
		p.result.Findings++
		if refused == nil {
			refused = report(f)
		}
	}
	var stops []func()
	defer func() {
		for _, stop := range slices.Backward(stops) {
			stop()
		}
	}()
	opened := func(stop func(), err error) error {
		if err == nil {
			stops = append(stops, stop)
		}
		return err
	}
	if err := p.open(l, opened); err != nil {
		return p.result, err
	}
	for {
		k, more := p.key()
		if !more {
			return p.result, refused
		}
		if err := p.judge(k); err != nil {
			return p.result, err
		}
		if refused != nil {
			return p.result, refused
		}
	}
}

func (p *part) open(l mirror.AuditLedgers, opened func(stop func(), err error) error) error {
	return first(
		func() error { return into(&p.placed, "balance transactions", l.Placed, opened) },
		func() error { return into(&p.unplaced, "unplaced balance transactions", l.Unplaced, opened) },
		func() error { return into(&p.customers, "customers", l.Customers, opened) },
		func() error { return into(&p.balances, "customer balances", l.Balances, opened) },
		func() error { return into(&p.grants, "credit grants", l.Grants, opened) },
		func() error { return into(&p.credits, "credit balance transactions", l.Credits, opened) },
		func() error { return into(&p.summaries, "credit balance summaries", l.Summaries, opened) },
		func() error { return into(&p.states, "sync states", l.States, opened) },
	)
}

func into[Row interface{ Key() mirror.AuditKey }](s **stream[Row], name string, rows iter.Seq2[Row, error], opened func(stop func(), err error) error) error {
	var err error
	if *s, err = open(name, rows); err != nil {
		return err
	}
	return opened((*s).stop, nil)
}

// first runs steps until one fails.
func first(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// key is the least key that any stream is at.
func (p *part) key() (least mirror.AuditKey, more bool) {
	see := func(k mirror.AuditKey, there bool) {
		if there && (!more || k.Compare(least) < 0) {
			least, more = k, true
		}
	}
	see(p.placed.head.AuditKey, p.placed.more)
	see(p.unplaced.head.AuditKey, p.unplaced.more)
	see(p.customers.head.AuditKey, p.customers.more)
	see(p.balances.head.AuditKey, p.balances.more)
	see(p.grants.head.AuditKey, p.grants.more)
	see(p.credits.head.AuditKey, p.credits.more)
	see(p.summaries.head.AuditKey, p.summaries.more)
	see(p.states.head.AuditKey, p.states.more)
	return least, more
}

// judge judges one customer.
func (p *part) judge(k mirror.AuditKey) error {
	var customer mirror.AuditCustomer
	known := p.customers.at(k)
	if known {
		customer = p.customers.head
		p.result.Customers++
		if err := p.customers.step(); err != nil {
			return err
		}
	}
	states := map[mirror.Scope]mirror.AuditState{}
	if err := p.states.each(k, func(s *mirror.AuditState) { states[s.Scope] = *s }); err != nil {
		return err
	}
	incomplete, ledgers := false, p.ledgers(k.Account)
	complete := func(scope mirror.Scope) bool {
		s, held := states[scope]
		incomplete = incomplete || held && !s.HistoryComplete && !customer.Deleted && ledgers.Has(scope)
		return !held || s.HistoryComplete && s.WalkCursor == ""
	}
	counts := map[mirror.Scope]int64{}
	report := func(f mirror.Finding) {
		counts[f.Scope]++
		p.report(f)
	}
	for _, scope := range []mirror.Scope{mirror.ScopeBalance, mirror.ScopeCredits} {
		if s, held := states[scope]; held && !customer.Deleted && ledgers.Has(scope) {
			judgeWalk(s, report)
		}
	}
	balanceDone, creditsDone := complete(mirror.ScopeBalance), complete(mirror.ScopeCredits)
	if err := p.judgeBalance(k, known, customer, balanceDone, report); err != nil {
		return err
	}
	_, synced := states[mirror.ScopeCredits]
	if err := p.judgeCredits(k, known, synced, creditsDone && known && !customer.Deleted, report); err != nil {
		return err
	}
	for _, scope := range []mirror.Scope{mirror.ScopeBalance, mirror.ScopeCredits} {
		if s, held := states[scope]; held {
			// That a history was not held wholly when its customer was deleted nobody can mend.
			judgeState(s, counts[scope] > 0 || customer.Deleted, report)
		}
	}
	if incomplete {
		p.result.Incomplete++
	}
	return nil
}

func (p *part) judgeBalance(k mirror.AuditKey, known bool, customer mirror.AuditCustomer, complete bool, report func(mirror.Finding)) error {
	b := &balances{
		key: k, customer: customer, complete: complete, report: report,
		chains: map[string]*chain{}, unplaced: map[string]unplaced{}, held: map[string]int64{},
	}
	strays := map[string]unplaced{} // rows of a customer that is not held
	stray := func(currency, id string, rows int64) {
		s := strays[currency]
		if s.first == "" {
			s.first = id
		}
		s.rows += rows
		strays[currency] = s
	}
	var last *chain
	err := p.placed.each(k, func(r *mirror.AuditTransaction) {
		p.result.BalanceTransactions++
		if !known {
			stray(r.Currency, r.ID, 1)
			return
		}
		if last == nil || last.currency != r.Currency {
			last = newChain(k, r.Currency, report)
			b.chains[r.Currency] = last
		}
		last.add(r)
	})
	if err != nil {
		return err
	}
	err = p.unplaced.each(k, func(r *mirror.AuditTransaction) {
		p.result.BalanceTransactions++
		if !known {
			stray(r.Currency, r.ID, 1)
			return
		}
		u := b.unplaced[r.Currency]
		if u.rows == 0 {
			u.first = r.ID
		}
		u.rows++
		b.unplaced[r.Currency] = u
		row := transactionJSON(r)
		row.reportAll(mirror.Finding{
			Account: k.Account, Customer: k.Customer, Scope: mirror.ScopeBalance, Currency: r.Currency, Object: r.ID,
		}, report)
	})
	if err != nil {
		return err
	}
	err = p.balances.each(k, func(h *mirror.AuditBalance) {
		b.held[h.Currency] = h.Balance
		if !known {
			stray(h.Currency, "", 0)
		}
	})
	if err != nil {
		return err
	}
	if known {
		b.judge()
		return nil
	}
	for _, currency := range slices.Sorted(maps.Keys(strays)) {
		s := strays[currency]
		report(mirror.Finding{
			Kind: mirror.DriftOrphan, Account: k.Account, Customer: k.Customer, Scope: mirror.ScopeBalance, Currency: currency,
			Object: s.first, Expected: "a customer", Actual: "none",
			Cause: fmt.Sprintf("a balance and %d balance transactions are held, but not the customer", s.rows),
		})
	}
	return nil
}

// judgeCredits judges the other ledger. The credits of a customer may be known
// before the customer is, and outlive one that was deleted before it was ever
// held: then a sync state says that they came from a sync.
func (p *part) judgeCredits(k mirror.AuditKey, known, synced, sums bool, report func(mirror.Finding)) error {
	c := &credits{key: k, sums: sums, totals: map[string]*total{}, grant: p.grant, report: report, named: map[string]bool{}}
	stray := !known && !synced
	if stray {
		c.report = func(mirror.Finding) {} // that there is no customer says it all
	}
	var rows int64
	for p.grants.at(k) || p.credits.at(k) {
		var g *mirror.AuditGrant
		var s *grantSum
		id := p.credits.head.Grant
		if p.grants.at(k) && (!p.credits.at(k) || p.grants.head.ID <= id) {
			held := p.grants.head
			g, id = &held, held.ID
			c.total(held.Currency)
			if err := p.grants.step(); err != nil {
				return err
			}
		}
		for p.credits.at(k) && p.credits.head.Grant == id {
			if s == nil {
				s = &grantSum{}
			}
			rows++
			c.row(s, &p.credits.head)
			if err := p.credits.step(); err != nil {
				return err
			}
		}
		if stray {
			continue
		}
		if err := c.close(g, s); err != nil {
			return err
		}
	}
	p.result.CreditTransactions += rows
	err := p.summaries.each(k, func(s *mirror.AuditBalance) {
		balance := s.Balance
		c.total(s.Currency).summary = &balance
	})
	if err != nil {
		return err
	}
	if !stray {
		c.finish()
		return nil
	}
	for _, currency := range slices.Sorted(maps.Keys(c.totals)) {
		report(mirror.Finding{
			Kind: mirror.DriftOrphan, Account: k.Account, Customer: k.Customer, Scope: mirror.ScopeCredits, Currency: currency,
			Expected: "a customer", Actual: "none",
			Cause: fmt.Sprintf("grants, a summary or some of %d credit transactions are held, but not the customer", rows),
		})
	}
	return nil
}

// judgeWalk reports a walk that is open over a history that was complete: what
// Stripe holds and the walk has not reached yet is missing.
func judgeWalk(s mirror.AuditState, report func(mirror.Finding)) {
	if !s.HistoryComplete || s.WalkCursor == "" {
		return // complete, or a first copy under way
	}
	report(mirror.Finding{
		Kind: mirror.DriftMissingTransaction, Account: s.Account, Customer: s.Customer, Scope: s.Scope, Object: "sync_state",
		Expected: "a walk read to its end", Actual: "an open walk",
		Cause: "the history of the " + string(s.Scope) + " ledger was complete and is being read again; rows may be missing until it joins",
	})
}

// judgeState judges the marks that a sync leaves; reported says that the ledger's
// rows were found wanting, which explains a disproof.
func judgeState(s mirror.AuditState, reported bool, report func(mirror.Finding)) {
	f := mirror.Finding{
		Kind: mirror.DriftFieldMismatch, Account: s.Account, Customer: s.Customer, Scope: s.Scope, Object: "sync_state",
	}
	if s.AppliedEpoch > s.Epoch || s.AppliedEpoch < 0 {
		f.Expected, f.Actual = fmt.Sprintf("0..%d", s.Epoch), text(s.AppliedEpoch)
		f.Cause = "applied_epoch: a commit is ahead of the fence"
		report(f)
	}
	if s.Disproved && !reported {
		f.Kind, f.Object = mirror.DriftChainGap, ""
		f.Expected, f.Actual = "a proven ledger", "disproved"
		f.Cause = "the last sync of the " + string(s.Scope) + " ledger could not prove it"
		report(f)
	}
}
