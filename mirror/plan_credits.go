package mirror

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
)

// Spans are the created times within which a store must read held rows: the rows of
// earlier pieces were compared with them, and the sums are the database's.
func (s CreditsSnapshot) Spans() []Span {
	return spans(s.Windows, false, func(r CreditTransaction) time.Time { return r.Created })
}

// Whole, Listed and WindowSpans are as those of a BalanceSnapshot, for
// CreditsHeld.Stored.
func (s CreditsSnapshot) Whole() bool { return whole(s.Joined, s.Full, s.Walk) }

// Listed are the ids of the rows.
func (s CreditsSnapshot) Listed() []string {
	return listed(s.Windows, func(r CreditTransaction) string { return r.ID })
}

// GrantIDs are the grants that the snapshot speaks of, and that a store must read for
// CreditsHeld.Grants beside the customer's own: a row may name one that is another's.
func (s CreditsSnapshot) GrantIDs() []string {
	ids := map[string]bool{}
	for _, g := range s.Grants {
		ids[g.ID] = true
	}
	for _, w := range s.Windows {
		for _, r := range w.Rows {
			ids[r.Grant] = true
		}
	}
	return slices.Sorted(maps.Keys(ids))
}

// Livemode reports whether what was read lives in live mode, which the references of
// events do not show; known: that anything was read. Else the customer decides.
func (s CreditsSnapshot) Livemode() (live, known bool) {
	if len(s.Grants) > 0 {
		return s.Grants[0].Livemode, true
	}
	for _, w := range s.Windows {
		if len(w.Rows) > 0 {
			return w.Rows[0].Livemode, true
		}
	}
	return false, false
}

// WindowSpans come with Listed.
func (s CreditsSnapshot) WindowSpans() []Span {
	return spans(s.Windows, false, func(r CreditTransaction) time.Time { return r.Created })
}

// PlanCredits decides what a credits sync writes, in the steps of PlanBalance. It returns
// ErrLedgerRewritten when the reply contradicts a row that is held, ErrBehind when it is
// older than what is known, and ErrDisproved when the sums leave a grant's bounds, a row's
// grant is unknown, or the summary disagrees, and the snapshot does not accept that.
func PlanCredits(s CreditsSnapshot, h CreditsHeld) (CreditsPlan, error) {
	plan := CreditsPlan{State: h.State, Clock: s.Clock}
	grants, err := plan.diff(s, h)
	if err != nil {
		return CreditsPlan{}, err
	}
	plan.Repaired = repairedCredits(s, h, plan)
	if !s.Joined {
		plan.State.Walk = s.Walk
		plan.Summary = summaryToWrite(s, h, plan.pieceLedger(h))
		return plan, nil
	}
	if err := plan.prove(s, h, grants); err != nil {
		return CreditsPlan{}, err
	}
	return plan, nil
}

// diff plans the writing of rows and grants, and returns the grants that are known then.
// It refuses a reply that rewrites history or is behind what is known.
func (plan *CreditsPlan) diff(s CreditsSnapshot, h CreditsHeld) (grants map[string]HeldGrantRow, err error) {
	reply := replyOf(s.Windows, func(r CreditTransaction) string { return r.ID })
	if err := reply.storable(); err != nil {
		return nil, err
	}
	if err := allStorable(s.Grants); err != nil {
		return nil, err
	}
	rows := history[CreditTransaction, HeldCredit]{
		reply: reply, windows: s.Windows, held: h.Rows, stored: h.Stored, whole: s.Whole(),
		created:  func(r CreditTransaction) time.Time { return r.Created },
		row:      func(r HeldCredit) rowFacts { return rowFacts{r.ID, r.Currency, r.Amount, r.Created, r.Digest} },
		hold:     holdCredit,
		changed:  changedCredit,
		currency: func(r CreditTransaction) string { return r.Currency },
		finding:  s.finding,
	}
	if err := rows.check(); err != nil {
		return nil, err
	}
	plan.Insert, plan.Update, plan.Restore = rows.diff()
	grants, older, err := plan.judgeGrants(s, h)
	if err != nil {
		return nil, err
	}
	if err := plan.judgeEvents(s, h, reply.rows, grants, older); err != nil {
		return nil, err
	}
	plan.Close.Objects = reply.order
	for _, g := range s.Grants {
		plan.Close.Objects = append(plan.Close.Objects, g.ID)
	}
	plan.Close.Compared = plan.Close.Objects
	if !s.Whole() {
		plan.Close.Compared = slices.Concat(compared(reply.order, h.Stored), compared(plan.Close.Objects[len(reply.order):], h.StoredGrants))
		for _, r := range plan.Insert {
			plan.Close.Compared = append(plan.Close.Compared, r.ID)
		}
		for _, g := range plan.Grants {
			plan.Close.Compared = append(plan.Close.Compared, g.ID)
		}
	}
	return grants, nil
}

// prove adds a joined history up, holds the sums against the grants and Stripe's summary,
// and plans the summary. Where a row is known to be missing, which is lag, sums prove
// nothing.
func (plan *CreditsPlan) prove(s CreditsSnapshot, h CreditsHeld, grants map[string]HeldGrantRow) error {
	sums := plan.sums(h)
	ledger := map[string]int64{}
	for _, sum := range sums {
		ledger[sum.Currency] = plus(ledger[sum.Currency], sum.Sum)
	}
	gap := slices.ContainsFunc(plan.Unanswered, EventRef.NamesRow)
	if !gap {
		plan.Open = slices.Concat(outOfBounds(s, sums, grants), summaryOff(s, ledger), unlisted(s, h))
	}
	if len(plan.Open) > 0 && !s.AcceptDisproof {
		return fmt.Errorf("%w: %s", ErrDisproved, plan.Open[0].Cause)
	}
	plan.State.HistoryComplete = !gap
	plan.State.CompleteTo = newest(later(h.State.CompleteTo, h.State.Walk.Top), s.Windows, func(r CreditTransaction) time.Time { return r.Created })
	plan.State.Walk = Walk{}
	plan.State.FullReadAt = fullReadAt(s.Full, h.State, s.ObservedAt)
	if len(plan.Unanswered) == 0 {
		plan.Close.MissedBefore = s.ObservedAt
	}
	if gap {
		plan.Summary = summaryToWrite(CreditsSnapshot{}, h, ledger)
		return nil
	}
	// Where no summary can be had, a whole reading within all bounds has to do.
	plan.State.Disproved = len(plan.Open) > 0 || h.State.Disproved && s.Summary == nil && !s.Full
	if len(plan.Open) == 0 {
		plan.Close.Kinds = closeKinds(s.Full, DriftGrantOutOfBounds, DriftOrphan)
		if s.Summary != nil {
			plan.Close.Kinds = append(plan.Close.Kinds, DriftSummaryMismatch)
		}
	}
	plan.Summary = summaryToWrite(s, h, ledger)
	plan.Repaired = append(plan.Repaired, repairedSummary(s, h, *plan, ledger)...)
	return nil
}

// finding makes a finding about the ledger; a sync that reports it fills in the rest.
func (s CreditsSnapshot) finding(kind DriftKind, object, currency string) Finding {
	return Finding{
		Kind: kind, Account: s.Target.Account, Customer: s.Target.ID, Scope: ScopeCredits, Currency: currency, Object: object,
		FoundAt: s.ObservedAt,
	}
}

// judgeGrants plans the writing of new and changed grants, and returns all that
// are known. A grant's amount and owner never change, and its time of update never
// goes back, but where they were changed here. Of several copies the newest counts;
// older are the grants of which the reply shows an older one than is held.
func (plan *CreditsPlan) judgeGrants(s CreditsSnapshot, h CreditsHeld) (grants map[string]HeldGrantRow, older []string, err error) {
	grants = maps.Clone(h.Grants)
	if grants == nil {
		grants = map[string]HeldGrantRow{}
	}
	var refused RewrittenError
	for _, g := range NewestGrants(s.Grants) {
		if g.Customer != s.Target.ID {
			return nil, nil, fmt.Errorf("%w: grant %s belongs to another customer", ErrLedgerRewritten, g.ID)
		}
		digest := Digest(g.Raw)
		old, held := h.Grants[g.ID]
		stored, known := h.StoredGrants[g.ID]
		credible := held && (!known || stored.Intact())
		if changed := changedGrant(g, old); credible && changed.name != "" {
			f := s.finding(DriftFieldMismatch, g.ID, g.Currency)
			f.Expected, f.Actual = changed.want, changed.have
			refused.add(f, "%s of grant %s changed", changed.name, g.ID)
			continue
		}
		if credible && old.NewerThan(g) {
			older = append(older, g.ID)
			continue
		}
		if !held || old.Digest != digest || known && stored.damaged(g, digest) {
			plan.Grants = append(plan.Grants, g)
		}
		grants[g.ID] = HeldGrantRow{g.Customer, g.Amount, g.Currency, g.Updated, g.VoidedAt, digest}
	}
	plan.Grants = inOrder(plan.Grants, func(g CreditGrant) string { return g.ID })
	return grants, older, refused.err()
}

// judgeEvents finds the events that the commit leaves waiting, and refuses a reply
// that is behind what is known unless that is accepted. Before the read is joined no
// event is answered.
func (plan *CreditsPlan) judgeEvents(s CreditsSnapshot, h CreditsHeld, fetched map[string]CreditTransaction, grants map[string]HeldGrantRow, older []string) error {
	if !s.Joined {
		plan.Unanswered = slices.Concat(h.Waiting, s.Events)
		return nil
	}
	var err error
	if plan.Unanswered, err = s.unanswered(h, fetched, grants); err != nil {
		return err
	}
	plan.Behind = len(plan.Unanswered)+len(older) > 0
	if plan.Behind && !s.AcceptBehind {
		return &BehindError{Unanswered: plan.Unanswered, Older: older}
	}
	return nil
}

// plus is a sum, or the nearest number that 64 bits hold, which no grant explains.
func plus(a, b int64) int64 {
	switch sum := a + b; {
	case a > 0 && b > 0 && sum < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && sum >= 0:
		return math.MinInt64
	default:
		return sum
	}
}

// minus is the opposite of an amount, as near as 64 bits hold it.
func minus(a int64) int64 { return -max(a, -math.MaxInt64) }

// sums are the sums per grant once the plan is carried out.
func (plan *CreditsPlan) sums(h CreditsHeld) map[string]GrantSum {
	sums := maps.Clone(h.Sums)
	if sums == nil {
		sums = map[string]GrantSum{}
	}
	add := func(grant, currency string, amount, rows int64) {
		sum := sums[grant]
		sums[grant] = GrantSum{Currency: currency, Sum: plus(sum.Sum, amount), Rows: sum.Rows + rows}
	}
	for _, r := range plan.Restore {
		old := h.Stored[r.ID].Row
		add(old.Grant, sums[old.Grant].Currency, minus(old.Amount), -1)
		if sums[old.Grant].Rows == 0 {
			delete(sums, old.Grant)
		}
		add(r.Grant, r.Currency, r.Amount, 1)
	}
	for _, r := range plan.Insert {
		add(r.Grant, r.Currency, r.Amount, 1)
	}
	return sums
}

// holdCredit is a stored row as far as planning needs it.
func holdCredit(s Stored[CreditTransaction]) HeldCredit {
	r := s.Row
	return HeldCredit{r.ID, r.Grant, r.Currency, r.Amount, r.Created, s.Digest}
}

// changedCredit looks for a field that differs, among those that are compared at
// every read: these rows are wholly immutable.
func changedCredit(row CreditTransaction, old HeldCredit) field {
	switch {
	case row.Amount != old.Amount:
		return number("amount", row.Amount, old.Amount)
	case row.Currency != old.Currency:
		return word("currency", row.Currency, old.Currency)
	case row.Grant != old.Grant:
		return word("grant", row.Grant, old.Grant)
	case !row.Created.Equal(old.Created):
		return moment("created", row.Created, old.Created)
	}
	return field{}
}

// changedGrant looks for a field of a grant that differs and never changes.
func changedGrant(g CreditGrant, old HeldGrantRow) field {
	switch {
	case g.Amount != old.Amount:
		return number("amount", g.Amount, old.Amount)
	case g.Currency != old.Currency:
		return word("currency", g.Currency, old.Currency)
	case g.Customer != old.Customer:
		return word("customer", g.Customer, old.Customer)
	}
	return field{}
}

var errSumOff = errors.New("the sum of the rows is not the summary's ledger balance")

// outOfBounds lists grants whose rows do not sum up to 0 … amount, and rows
// whose grant nobody knows.
func outOfBounds(s CreditsSnapshot, sums map[string]GrantSum, grants map[string]HeldGrantRow) []Finding {
	var list []Finding
	for _, id := range slices.Sorted(maps.Keys(sums)) {
		sum := sums[id]
		f := s.finding(DriftGrantOutOfBounds, id, sum.Currency)
		f.Actual = strconv.FormatInt(sum.Sum, 10)
		g, known := grants[id]
		switch {
		case !known:
			f.Kind, f.Expected = DriftOrphan, "a grant"
			f.Cause = fmt.Sprintf("rows of grant %s are held but not the grant", id)
		case g.Customer != s.Target.ID:
			f.Kind, f.Expected = DriftOrphan, "a grant of this customer"
			f.Cause = fmt.Sprintf("rows of grant %s are held, which is another customer's", id)
		case g.Currency == "": // not monetary: nothing is known of its bounds
			continue
		case g.Currency != sum.Currency:
			f.Expected = g.Currency
			f.Cause = fmt.Sprintf("rows of grant %s are in %s, the grant in %s", id, sum.Currency, g.Currency)
		case sum.Sum < 0 || sum.Sum > g.Amount:
			f.Expected = fmt.Sprintf("0..%d", g.Amount)
			f.Cause = fmt.Sprintf("rows of grant %s sum up to %d, outside 0..%d", id, sum.Sum, g.Amount)
		default:
			continue
		}
		list = append(list, f)
	}
	return list
}

// summaryOff lists currencies in which the rows disagree with the summary read.
func summaryOff(s CreditsSnapshot, ledger map[string]int64) []Finding {
	if s.Summary == nil {
		return nil
	}
	all := keys(ledger)
	maps.Copy(all, keys(s.Summary))
	var list []Finding
	for _, currency := range slices.Sorted(maps.Keys(all)) {
		if want := s.Summary[currency].Ledger; want != ledger[currency] {
			f := s.finding(DriftSummaryMismatch, "", currency)
			f.Expected, f.Actual = strconv.FormatInt(want, 10), strconv.FormatInt(ledger[currency], 10)
			f.Cause = fmt.Sprintf("%s: %v: %d against %d", currency, errSumOff, ledger[currency], want)
			list = append(list, f)
		}
	}
	return list
}

// unlisted lists grants that are held of the customer and that Stripe, which never
// deletes one, does not list.
func unlisted(s CreditsSnapshot, h CreditsHeld) []Finding {
	if !s.AllGrants {
		return nil
	}
	listed := map[string]bool{}
	for _, g := range s.Grants {
		listed[g.ID] = true
	}
	var list []Finding
	for _, id := range slices.Sorted(maps.Keys(h.Grants)) {
		if g := h.Grants[id]; g.Customer == s.Target.ID && !listed[id] {
			f := s.finding(DriftUnexpectedTransaction, id, g.Currency)
			f.Actual, f.Cause = strconv.FormatInt(g.Amount, 10), fmt.Sprintf("grant %s is held and not in Stripe's list", id)
			list = append(list, f)
		}
	}
	return list
}

// summaryToWrite is the summary that the commit leaves. The ledger balance is the sum
// of the rows held, also where Stripe's differs, which a finding records: the table, the
// metric and the API are one figure. The available one is Stripe's where it was read,
// and moves with the rows otherwise: what else takes from it (expiry, claims of draft
// invoices) only Stripe knows.
func summaryToWrite(s CreditsSnapshot, h CreditsHeld, ledger map[string]int64) map[string]CreditBalance {
	out := map[string]CreditBalance{}
	for currency := range union(keys(ledger), keys(s.Summary)) {
		old, ok := h.Summary[currency]
		sum := ledger[currency]
		next := CreditBalance{Ledger: sum, Available: min(max(old.Available+sum-old.Ledger, 0), max(sum, 0))}
		if read, yes := s.Summary[currency]; yes {
			next.Available = read.Available
		}
		if !ok || old != next {
			out[currency] = next
		}
	}
	for currency, old := range h.Summary { // one that neither Stripe nor the rows know
		_, summed := ledger[currency]
		_, read := s.Summary[currency]
		if s.Joined && !summed && !read && old != (CreditBalance{}) {
			out[currency] = CreditBalance{}
		}
	}
	return out
}

// pieceLedger is the sum of the rows held once a piece is carried out, in the currencies
// that it moves: what was held, moved by its rows.
func (plan *CreditsPlan) pieceLedger(h CreditsHeld) map[string]int64 {
	ledger := map[string]int64{}
	add := func(currency string, amount int64) {
		if _, known := ledger[currency]; !known {
			ledger[currency] = h.Summary[currency].Ledger
		}
		ledger[currency] = plus(ledger[currency], amount)
	}
	for _, r := range plan.Insert {
		add(r.Currency, r.Amount)
	}
	for _, r := range plan.Restore {
		old := h.Stored[r.ID].Row
		add(old.Currency, minus(old.Amount))
		add(r.Currency, r.Amount)
	}
	return ledger
}
