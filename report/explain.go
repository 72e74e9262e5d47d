package report

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"
)

// What a Link is.
const (
	LinkProof   = "proof"   // how the ledger was last proven
	LinkDeleted = "deleted" // that the customer was deleted
	LinkGrant   = "grant"   // a grant, before its rows
	LinkRow     = "row"     // a movement
	LinkEnd     = "end"     // where the rows of a currency end
)

// Link is one step of why a balance is what it is. Of an amount that a kind of link does
// not have the pointer is nil; amounts are in minor units.
type Link struct {
	Ledger Ledger
	Kind   string
	// Holds is whether the step holds; of a grant and of a deletion it always does. Why
	// says why a proof does not, or that a sum does not fit 64 bits.
	Holds bool
	Why   string
	// Currency, and Grant of a grant and its rows.
	Currency, Grant string
	// Row is the movement of a row (Position 0: it has no place).
	Row Row
	// Before and After are what is held before and after the row, or what is left of the
	// grant; nil where 64 bits do not hold it. Of an end, After is where the rows end.
	Before, After *int64
	// Told is what Stripe says of it: the ending balance of a row, the amount of a grant,
	// the balance or the summary at the end.
	Told *int64
	// Category, EffectiveAt and ExpiresAt are of a grant.
	Category               string
	EffectiveAt, ExpiresAt time.Time
	// ProvenAt and FullReadAt are of a proof, DeletedAt of a deletion, zero where there
	// was none; Synced is false where the ledger was never read.
	ProvenAt, FullReadAt, DeletedAt time.Time
	Synced                          bool
}

// Links yields why the balances of one customer are what they are: how each ledger was
// last proven, the chain of its rows from first to last, and what Stripe says of the
// end. It returns how many links do not hold, without the proofs.
func Links(ctx context.Context, from Reader, k Key, yield func(Link) error) (wrong int, err error) {
	e := &explainer{yield: yield}
	states, err := from.SyncState(ctx, k)
	if err != nil {
		return 0, err
	}
	f := Filter{Account: &k.Account, Customer: k.Customer}
	for _, l := range Ledgers("") {
		i := slices.IndexFunc(states, func(s Sync) bool { return s.Ledger == l })
		sync := Sync{Ledger: l, Standing: Standing{Key: k, Complete: true}}
		if i >= 0 {
			sync = states[i]
		}
		for s, err := range from.Standings(ctx, l, f) {
			if err != nil {
				return 0, err
			}
			sync.Standing = s
		}
		e.proof(sync, i >= 0)
		if e.err != nil {
			return e.wrong, e.err
		}
		if l == LedgerBalance {
			err = e.chain(ctx, from, f, sync)
		} else {
			err = e.grants(ctx, from, f, sync)
		}
		if err = cmp.Or(err, e.err); err != nil {
			return e.wrong, err
		}
	}
	return e.wrong, nil
}

type explainer struct {
	yield func(Link) error
	err   error
	wrong int
}

func (e *explainer) link(l Link) {
	if !l.Holds && l.Kind != LinkProof {
		e.wrong++
	}
	if e.err == nil {
		e.err = e.yield(l)
	}
}

// between is the link with what is held before and after it.
func (l Link) between(before, after Wide) Link {
	for into, sum := range map[**int64]Wide{&l.Before: before, &l.After: after} {
		if amount, over := sum.Amount(); over {
			l.Why = "the sum " + ErrOverflow.Error()
		} else {
			*into = &amount
		}
	}
	return l
}

// proof shows how the ledger was last proven.
func (e *explainer) proof(s Sync, synced bool) {
	l := Link{Ledger: s.Ledger, Kind: LinkProof, Holds: synced && s.Standing.Proven(), Synced: synced, ProvenAt: s.ObservedAt, FullReadAt: s.FullReadAt}
	if l.Why = s.Standing.Why(); !synced {
		l.Why = "the mirror has met nothing of this ledger"
	}
	e.link(l)
	if synced && !s.Standing.DeletedAt.IsZero() {
		e.link(Link{Ledger: s.Ledger, Kind: LinkDeleted, Holds: true, DeletedAt: s.Standing.DeletedAt})
	}
}

// chain lists the links of the balance ledger, per currency.
func (e *explainer) chain(ctx context.Context, from Reader, f Filter, s Sync) error {
	currency := ""
	var held int64
	ends := map[string]Wide{}
	for r, err := range from.Rows(ctx, RowQuery{Filter: f, Ledger: LedgerBalance}) {
		if err != nil {
			return err
		}
		if r.Currency != currency {
			currency, held = r.Currency, 0
		}
		after := Of(held).Plus(Of(r.Amount))
		e.link(Link{
			Ledger: LedgerBalance, Kind: LinkRow, Currency: currency, Row: r, Told: &r.EndingBalance,
			Holds: after == Of(r.EndingBalance) && r.Position > 0,
		}.between(Of(held), after))
		if e.err != nil {
			return e.err
		}
		held = r.EndingBalance
		ends[currency] = Of(held)
	}
	e.ends(s, ends)
	return nil
}

// grants lists the rows of the credits ledger, per grant.
func (e *explainer) grants(ctx context.Context, from Reader, f Filter, s Sync) error {
	type line struct {
		grant Grant
		rows  []Row
	}
	list := map[string]*line{}
	var order []string
	for g, err := range from.Grants(ctx, f, Never) {
		if err != nil {
			return err
		}
		list[g.ID] = &line{grant: g}
		order = append(order, g.ID)
	}
	ends := map[string]Wide{}
	for r, err := range from.Rows(ctx, RowQuery{Filter: f, Ledger: LedgerCredits}) {
		if err != nil {
			return err
		}
		if list[r.Grant] == nil {
			list[r.Grant] = &line{}
			order = append(order, r.Grant)
		}
		list[r.Grant].rows = append(list[r.Grant].rows, r)
		ends[r.Currency] = ends[r.Currency].Plus(Of(r.Amount))
	}
	for _, id := range order {
		g := list[id].grant
		e.link(Link{
			Ledger: LedgerCredits, Kind: LinkGrant, Holds: true, Currency: g.Currency, Grant: id, Told: &g.Amount, Category: g.Category,
			EffectiveAt: g.EffectiveAt, ExpiresAt: g.ExpiresAt,
		})
		var left Wide
		for _, r := range list[id].rows {
			before, after := left, left.Plus(Of(r.Amount))
			amount, over := after.Amount()
			e.link(Link{
				Ledger: LedgerCredits, Kind: LinkRow, Currency: r.Currency, Grant: id, Row: r, Told: &g.Amount,
				Holds: !over && amount >= 0 && amount <= g.Amount,
			}.between(before, after))
			if e.err != nil {
				return e.err
			}
			left = after
		}
	}
	e.ends(s, ends)
	return nil
}

// ends holds the ends of the rows against what Stripe itself says.
func (e *explainer) ends(s Sync, ends map[string]Wide) {
	all := map[string]bool{}
	for currency := range ends {
		all[currency] = true
	}
	for currency := range s.Told {
		all[currency] = true
	}
	for _, currency := range slices.Sorted(maps.Keys(all)) {
		told := s.Told[currency]
		l := Link{
			Ledger: s.Ledger, Kind: LinkEnd, Currency: currency, Told: &told, DeletedAt: s.Standing.DeletedAt, Holds: ends[currency] == Of(told),
		}.between(Wide{}, ends[currency])
		l.Before = nil
		if !l.DeletedAt.IsZero() {
			l.Holds = told == 0
		}
		e.link(l)
	}
}

// Explain writes the links of one customer in words and numbers. It returns how many do
// not hold.
func Explain(ctx context.Context, from Reader, k Key, w io.Writer, redact bool) (wrong int, err error) {
	t := &explanation{w: w, redact: redact}
	t.say("customer %s, account %q\n", k.Customer, k.Account)
	wrong, err = Links(ctx, from, k, func(l Link) error {
		t.link(l)
		return t.err
	})
	switch {
	case err != nil:
		return wrong, err
	case wrong == 0:
		t.say("\nEvery link holds.\n")
	default:
		t.say("\n%d links do not hold: they are marked WRONG. creditmirror verify names them, and reconcile repairs them.\n", wrong)
	}
	return wrong, t.err
}

// explanation writes links in words.
type explanation struct {
	w        io.Writer
	err      error
	redact   bool
	currency string // of the row before
}

func (t *explanation) say(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format, args...)
	}
}

func (t *explanation) link(l Link) {
	holds := "ok"
	if !l.Holds {
		holds = "WRONG"
	}
	switch l.Kind {
	case LinkProof:
		t.proof(l)
	case LinkDeleted:
		t.say("  the customer was deleted at %s and holds nothing from then on\n", stamp(l.DeletedAt))
	case LinkGrant:
		t.say("  grant %s: %d %s, %s; effective %s, expires %s\n", l.Grant, *l.Told, l.Currency, l.Category, stamp(l.EffectiveAt), stamp(l.ExpiresAt))
	case LinkRow:
		t.row(l, holds)
	case LinkEnd:
		what := "Stripe's balance of the customer"
		if l.Ledger == LedgerCredits {
			what = "the ledger balance of Stripe's summary"
		}
		if l.DeletedAt.IsZero() {
			t.say("  %s: the rows end at %s, %s is %d: %s\n", l.Currency, figure(l.After), what, *l.Told, holds)
		} else {
			t.say("  %s: the rows end at %s, released by the deletion; held now %d: %s\n", l.Currency, figure(l.After), *l.Told, holds)
		}
	}
}

func (t *explanation) proof(l Link) {
	t.currency = ""
	t.say("\n%s\n", ledgerTitles[l.Ledger])
	switch {
	case !l.Synced:
		t.say("  never read: %s\n", l.Why)
		return
	case l.Holds:
		t.say("  the whole history is held; it was last proven against Stripe by the reads of %s", stamp(l.ProvenAt))
	default:
		t.say("  NOT PROVEN: %s; the last reads that joined began at %s", l.Why, stamp(l.ProvenAt))
	}
	if !l.FullReadAt.IsZero() {
		t.say(", and read from its first row to its last at %s", stamp(l.FullReadAt))
	}
	t.say("\n")
}

func (t *explanation) row(l Link, holds string) {
	r := l.Row
	if l.Ledger == LedgerBalance {
		if l.Currency != t.currency {
			t.currency = l.Currency
			t.say("  %s: begins with 0\n", l.Currency)
		}
		place := fmt.Sprint(r.Position)
		if r.Position == 0 {
			place = "unplaced"
		}
		t.say("  %6s  %s  %s %+d = %s, Stripe says %d: %s\n", place, stamp(r.Dated), figure(l.Before), r.Amount, figure(l.After), *l.Told, holds)
	} else {
		t.say("          %s  %s %+d = %s left of %d: %s\n", stamp(r.Dated), figure(l.Before), r.Amount, figure(l.After), *l.Told, holds)
	}
	t.say("          %s %s", r.Type, r.ID)
	for _, ref := range []string{r.Invoice, r.CreditNote} {
		if ref != "" {
			t.say(", %s", ref)
		}
	}
	if r.Description != "" && !t.redact {
		t.say(", %q", r.Description)
	}
	t.say(" (written here at %s)\n", stamp(r.SyncedAt))
}

// figure writes an amount, or that 64 bits do not hold it.
func figure(amount *int64) string {
	if amount == nil {
		return "(a sum that " + ErrOverflow.Error() + ")"
	}
	return strconv.FormatInt(*amount, 10)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}
