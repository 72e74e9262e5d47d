package report

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrSealed says that the period is sealed already.
var ErrSealed = errors.New("the period is sealed already")

// CauseLate is the cause of a row that no finding explains.
const CauseLate = "arrived after the period was sealed"

// Explain takes what a finding recorded: its cause and the amount that it saw, with a unit
// separator between them; empty without a finding.
func (a *Arrival) Explain(found string) {
	a.Cause = CauseLate
	cause, actual, told := strings.Cut(found, "\x1f")
	if !told {
		return
	}
	a.Cause = cause
	if n, err := strconv.ParseInt(actual, 10, 64); err == nil {
		a.Was, a.WasKnown = n, true
	}
}

// digest is the sum, modulo 2^256, of the SHA-256 of every movement. It does not
// depend on their order, and one that came later can be taken out again.
type digest [4]uint64

// movementDigest is of one movement: everything that makes a figure.
func movementDigest(l Ledger, r Row) (d digest) {
	text, err := json.Marshal([]any{r.Account, l, r.Customer, r.Currency, r.ID, r.Type, r.Amount, r.Dated.Unix()})
	if err != nil {
		panic(err) // texts and numbers
	}
	sum := sha256.Sum256(text)
	for i := range d {
		d[i] = binary.LittleEndian.Uint64(sum[8*i:])
	}
	return d
}

func (d digest) plus(o digest) digest {
	var carry uint64
	for i := range d {
		d[i], carry = bits.Add64(d[i], o[i], carry)
	}
	return d
}

func (d digest) minus(o digest) digest {
	var borrow uint64
	for i := range d {
		d[i], borrow = bits.Sub64(d[i], o[i], borrow)
	}
	return d
}

func (d digest) String() string {
	var b [32]byte
	for i := range d {
		binary.LittleEndian.PutUint64(b[8*i:], d[i])
	}
	return hex.EncodeToString(b[:])
}

// all yields the movements of a ledger before until, by the rules, with the standing
// of their customer; customers without a figure are reported and left out.
func all(ctx context.Context, from Reader, f Filter, l Ledger, until time.Time, out *Outcome) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		apart := pull(from.Standings(ctx, l, f))
		defer apart.stop()
		rows := pull(from.Rows(ctx, RowQuery{Filter: f, Ledger: l, Until: until}))
		defer rows.stop()
		for {
			var k Key
			some := false
			apart.least(&k, &some)
			rows.least(&k, &some)
			if err := cmp.Or(apart.err, rows.err); err != nil || !some {
				if err != nil {
					yield(Row{}, err)
				}
				return
			}
			standing := Standing{Key: k, Complete: true}
			if apart.at(k) {
				standing = apart.head
				apart.step()
			}
			counts := standing.Proven()
			if !counts && !standing.Released(until) {
				out.unproven(standing, l)
			}
			for r, err := range Entries(l, standing, ByLedger, until, rows.of(k)) {
				if err != nil || counts {
					if !yield(r, err) || err != nil {
						return
					}
				}
			}
		}
	}
}

// group is what a seal is of.
type group struct {
	account  string
	ledger   Ledger
	currency string
}

func (g group) compare(o group) int {
	return cmp.Or(cmp.Compare(g.account, o.account), cmp.Compare(g.ledger, o.ledger), cmp.Compare(g.currency, o.currency))
}

// state is what a group holds.
type state struct {
	closing Wide
	rows    int64
	digest  digest
}

// Draw draws the seals of a period: the figures of every account, ledger and currency
// that has movements before its end.
func Draw(ctx context.Context, from Reader, f Filter, period string, start, end, now time.Time) ([]Seal, Outcome, error) {
	out := Outcome{seen: map[Key]bool{}}
	states := map[group]*state{}
	for _, l := range Ledgers("") {
		for r, err := range all(ctx, from, f, l, end, &out) {
			if err != nil {
				return nil, out, err
			}
			g := group{r.Account, l, r.Currency}
			s := states[g]
			if s == nil {
				s = &state{}
				states[g] = s
			}
			s.closing.Add(r.Amount)
			s.digest = s.digest.plus(movementDigest(l, r))
			if !r.Dated.Before(start) {
				s.rows++
			}
		}
	}
	if err := check(ctx, from, Query{Filter: f, Ledgers: Ledgers(""), Until: end, Check: CheckAll}, &out); err != nil {
		return nil, out, err
	}
	position, err := from.Position(ctx)
	if err != nil {
		return nil, out, err
	}
	var seals []Seal
	for _, g := range slices.SortedFunc(maps.Keys(states), group.compare) {
		s := states[g]
		closing, err := s.closing.Fit(Key{Account: g.account}, g.ledger, g.currency)
		if err != nil {
			return nil, out, err
		}
		seals = append(seals, Seal{
			Account: g.account, Period: period, Ledger: g.ledger, Currency: g.currency, Start: start, End: end, Closing: closing,
			Rows: s.rows, Digest: s.digest.String(), Unproven: out.Unproven, Position: position, SealedAt: now.UTC().Truncate(time.Second),
		})
	}
	return seals, out, nil
}

// Open are the seals that were not reopened, of one account or of all.
func Open(seals []Seal, account *string) []Seal {
	return slices.DeleteFunc(slices.Clone(seals), func(s Seal) bool {
		return !s.ReopenedAt.IsZero() || account != nil && s.Account != *account
	})
}

// Late is a movement that a sealed figure lacks.
type Late struct {
	Seal           Seal
	Customer, ID   string
	Amount         int64
	Dated, Arrived time.Time
	Cause          string
}

// Broken is a seal whose figure no movement that came later explains.
type Broken struct {
	Seal    Seal
	Closing int64 // without what came later
}

// arrival finds what came later: a row, or (without an id) the deletion of a customer.
type arrival struct {
	account  string
	ledger   Ledger
	customer string
	id       string
}

// sealed is a period of an account under comparison.
type sealed struct {
	seals    map[group]Seal
	one      Seal // any of them: they share bounds and position
	arrived  map[arrival]Arrival
	now      map[group]*state
	lateness []Late
}

// Compare holds open seals against what is held now. It lists the movements that came
// since, and the seals that these do not explain.
func Compare(ctx context.Context, from Reader, seals []Seal) ([]Late, []Broken, error) {
	type key struct{ account, period string }
	periods := map[key]*sealed{}
	for _, s := range seals {
		k := key{s.Account, s.Period}
		if periods[k] == nil {
			periods[k] = &sealed{seals: map[group]Seal{}, one: s, arrived: map[arrival]Arrival{}, now: map[group]*state{}}
		}
		periods[k].seals[group{s.Account, s.Ledger, s.Currency}] = s
	}
	byAccount := map[string][]*sealed{}
	for _, k := range slices.SortedFunc(maps.Keys(periods), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.period, b.period))
	}) {
		p := periods[k]
		if err := p.arrivals(ctx, from); err != nil {
			return nil, nil, err
		}
		byAccount[k.account] = append(byAccount[k.account], p)
	}
	var lateness []Late
	var broken []Broken
	for _, account := range slices.Sorted(maps.Keys(byAccount)) {
		list := byAccount[account]
		var until time.Time
		for _, p := range list {
			if p.one.End.After(until) {
				until = p.one.End
			}
		}
		for _, l := range Ledgers("") {
			var out Outcome
			for r, err := range all(ctx, from, Filter{Account: &account}, l, until, &out) {
				if err != nil {
					return nil, nil, err
				}
				d := movementDigest(l, r)
				for _, p := range list {
					if r.Dated.Before(p.one.End) {
						if err := p.take(l, r, d); err != nil {
							return nil, nil, err
						}
					}
				}
			}
		}
		for _, p := range list {
			slices.SortFunc(p.lateness, func(a, b Late) int {
				return cmp.Or(cmp.Compare(a.Seal.Ledger, b.Seal.Ledger), cmp.Compare(a.Seal.Currency, b.Seal.Currency),
					cmp.Compare(a.Customer, b.Customer), a.Dated.Compare(b.Dated), cmp.Compare(a.ID, b.ID))
			})
			lateness = append(lateness, p.lateness...)
			b, err := p.broken()
			if err != nil {
				return nil, nil, err
			}
			broken = append(broken, b...)
		}
	}
	return lateness, broken, nil
}

func (p *sealed) arrivals(ctx context.Context, from Reader) error {
	for _, l := range Ledgers("") {
		for a, err := range from.Since(ctx, l, p.one.Account, p.one.Position, p.one.SealedAt, p.one.End) {
			if err != nil {
				return err
			}
			p.arrived[arrival{a.Account, l, a.Customer, a.ID}] = a
		}
	}
	return nil
}

// take adds a movement to what the period would be sealed with, or to what came later.
func (p *sealed) take(l Ledger, r Row, d digest) (err error) {
	g := group{r.Account, l, r.Currency}
	s := p.now[g]
	if s == nil {
		s = &state{}
		p.now[g] = s
	}
	a, came := p.arrived[arrival{r.Account, l, r.Customer, r.ID}]
	of := p.seals[g]
	if of.Period == "" { // the group had no movement then
		of = p.one
		of.Ledger, of.Currency, of.Closing, of.Rows = l, r.Currency, 0, 0
	}
	late := Late{Seal: of, Customer: r.Customer, ID: r.ID, Amount: r.Amount, Dated: r.Dated, Arrived: a.Arrived, Cause: a.Cause}
	switch {
	case came && a.Inserted:
		p.lateness = append(p.lateness, late)
		return nil
	case came && a.WasKnown && a.Was != r.Amount:
		if late.Amount, err = Of(r.Amount).Minus(Of(a.Was)).Fit(r.Key, l, r.Currency); err != nil {
			return err
		}
		p.lateness = append(p.lateness, late)
		r.Amount = a.Was
		d = movementDigest(l, r)
	}
	s.closing.Add(r.Amount)
	s.digest = s.digest.plus(d)
	return nil
}

// broken lists the seals that what is held, less what came later, does not make.
func (p *sealed) broken() (list []Broken, err error) {
	for _, g := range slices.SortedFunc(maps.Keys(p.seals), group.compare) {
		s := p.seals[g]
		now := p.now[g]
		if now == nil {
			now = &state{}
		}
		closing, err := now.closing.Fit(Key{Account: g.account}, g.ledger, g.currency)
		if err != nil {
			return nil, err
		}
		if now.digest.String() != s.Digest || closing != s.Closing {
			list = append(list, Broken{s, closing})
		}
	}
	return list, nil
}
