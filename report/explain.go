package report

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// Explain writes why the balances of one customer are what they are: the chain of its
// rows from first to last, what each came from, and against what the end was proven. It
// returns how many links do not hold.
func Explain(ctx context.Context, from Reader, k Key, w io.Writer, redact bool) (wrong int, err error) {
	e := &explainer{w: w, key: k, redact: redact}
	states, err := from.SyncState(ctx, k)
	if err != nil {
		return 0, err
	}
	e.say("customer %s, account %q\n", k.Customer, k.Account)
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
		e.ledger(sync, i >= 0)
		if l == LedgerBalance {
			err = e.chain(ctx, from, f, sync)
		} else {
			err = e.grants(ctx, from, f, sync)
		}
		if err != nil || e.err != nil {
			return e.wrong, cmpErr(err, e.err)
		}
	}
	switch e.wrong {
	case 0:
		e.say("\nEvery link holds.\n")
	default:
		e.say("\n%d links do not hold: they are marked WRONG. creditmirror verify names them, and reconcile repairs them.\n", e.wrong)
	}
	return e.wrong, e.err
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

type explainer struct {
	w      io.Writer
	err    error
	key    Key
	redact bool
	wrong  int
}

func (e *explainer) say(format string, args ...any) {
	if e.err == nil {
		_, e.err = fmt.Fprintf(e.w, format, args...)
	}
}

// holds says whether a link holds.
func (e *explainer) holds(ok bool) string {
	if ok {
		return "ok"
	}
	e.wrong++
	return "WRONG"
}

// ledger tells how the ledger was last proven.
func (e *explainer) ledger(s Sync, synced bool) {
	e.say("\n%s\n", ledgerTitles[s.Ledger])
	switch {
	case !synced:
		e.say("  never read: the mirror has met nothing of this ledger\n")
		return
	case s.Standing.Proven():
		e.say("  the whole history is held; it was last proven against Stripe by the reads of %s", stamp(s.ObservedAt))
	default:
		e.say("  NOT PROVEN: %s; the last reads that joined began at %s", s.Standing.Why(), stamp(s.ObservedAt))
	}
	if !s.FullReadAt.IsZero() {
		e.say(", and read from its first row to its last at %s", stamp(s.FullReadAt))
	}
	e.say("\n")
	if !s.Standing.DeletedAt.IsZero() {
		e.say("  the customer was deleted at %s and holds nothing from then on\n", stamp(s.Standing.DeletedAt))
	}
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

// chain tells the links of the balance ledger, per currency.
func (e *explainer) chain(ctx context.Context, from Reader, f Filter, s Sync) error {
	currency := ""
	var held int64
	ends := map[string]int64{}
	for r, err := range from.Rows(ctx, RowQuery{Filter: f, Ledger: LedgerBalance}) {
		if err != nil {
			return err
		}
		if r.Currency != currency {
			currency, held = r.Currency, 0
			e.say("  %s: begins with 0\n", currency)
		}
		place := fmt.Sprint(r.Position)
		if r.Position == 0 {
			place = "unplaced"
		}
		e.say("  %6s  %s  %d %+d = %d, Stripe says %d: %s\n", place, stamp(r.Dated), held, r.Amount, held+r.Amount, r.EndingBalance,
			e.holds(held+r.Amount == r.EndingBalance && r.Position > 0))
		e.source(r)
		held = r.EndingBalance
		ends[currency] = held
	}
	e.told(s, ends, "Stripe's balance of the customer")
	return nil
}

// grants tells the rows of the credits ledger, per grant.
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
	ends := map[string]int64{}
	for r, err := range from.Rows(ctx, RowQuery{Filter: f, Ledger: LedgerCredits}) {
		if err != nil {
			return err
		}
		if list[r.Grant] == nil {
			list[r.Grant] = &line{}
			order = append(order, r.Grant)
		}
		list[r.Grant].rows = append(list[r.Grant].rows, r)
		ends[r.Currency] += r.Amount
	}
	for _, id := range order {
		l := list[id]
		e.say("  grant %s: %d %s, %s; effective %s, expires %s\n", id, l.grant.Amount, l.grant.Currency, l.grant.Category,
			stamp(l.grant.EffectiveAt), stamp(l.grant.ExpiresAt))
		var left int64
		for _, r := range l.rows {
			e.say("          %s  %d %+d = %d left of %d: %s\n", stamp(r.Dated), left, r.Amount, left+r.Amount, l.grant.Amount,
				e.holds(left+r.Amount >= 0 && left+r.Amount <= l.grant.Amount))
			left += r.Amount
			e.source(r)
		}
	}
	e.told(s, ends, "the ledger balance of Stripe's summary")
	return nil
}

// source tells what a row came from.
func (e *explainer) source(r Row) {
	e.say("          %s %s", r.Type, r.ID)
	for _, ref := range []string{r.Invoice, r.CreditNote} {
		if ref != "" {
			e.say(", %s", ref)
		}
	}
	if r.Description != "" && !e.redact {
		e.say(", %q", r.Description)
	}
	e.say(" (written here at %s)\n", stamp(r.SyncedAt))
}

// told holds the ends of the rows against what Stripe itself says.
func (e *explainer) told(s Sync, ends map[string]int64, what string) {
	all := map[string]bool{}
	for _, m := range []map[string]int64{ends, s.Told} {
		for currency := range m {
			all[currency] = true
		}
	}
	deleted := !s.Standing.DeletedAt.IsZero()
	for _, currency := range slices.Sorted(maps.Keys(all)) {
		end, told := ends[currency], s.Told[currency]
		if deleted {
			e.say("  %s: the rows end at %d, released by the deletion; held now %d: %s\n", currency, end, told, e.holds(told == 0))
			continue
		}
		e.say("  %s: the rows end at %d, %s is %d: %s\n", currency, end, what, told, e.holds(end == told))
	}
}
