package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrLong is a driver's answer to a snapshot that joins a history of which more rows
// would have to be placed than one transaction may hold; nothing was written.
// ApplyBalance takes the long way then.
var ErrLong = errors.New("more rows to place than one transaction may hold")

// DefaultSlice is how many rows one transaction places, unless a driver is given
// otherwise: few enough that a webhook waits no longer than it does for any commit.
const DefaultSlice = 500

// BalanceDriver is what a driver offers for ApplyBalance.
type BalanceDriver interface {
	// CommitBalance commits a snapshot in one transaction, as Fence.ApplyBalance says.
	// ErrLong where the snapshot TooLong.
	CommitBalance(ctx context.Context, s BalanceSnapshot) (Applied, error)
	// Tops are as in BalanceHeld.
	Tops(ctx context.Context, t Target) (map[string]HeldRow, error)
	// RowsToPlace lists held rows created after a time, by created, at most limit: all
	// of them, or those without a position.
	RowsToPlace(ctx context.Context, t Target, all bool, after time.Time, limit int) ([]HeldRow, error)
	// Place writes positions in one transaction behind the fence, with a change record
	// for each row that had one before.
	Place(ctx context.Context, t Target, epoch int64, places []Placement) error
}

// ApplyBalance is Fence.ApplyBalance over a driver. A history of which many rows wait
// for their place is joined in several transactions, each behind the fence, none of
// which holds more than about slice rows:
//
//  1. what was read is stored as a piece, which leaves the walk open;
//  2. the chain is laid from its oldest row that is not proven, slice by slice;
//  3. the snapshot is joined, once all rows have their places.
//
// Until the last one the history is reported as unfinished, no event is answered and
// nothing is fresher. A process that dies in between leaves an open walk behind, and
// rows whose places are right as far as they go: the next sync goes on from there.
func ApplyBalance(ctx context.Context, d BalanceDriver, s BalanceSnapshot, slice int) (Applied, error) {
	applied, err := d.CommitBalance(ctx, s)
	if !errors.Is(err, ErrLong) {
		return applied, err
	}
	if applied, err = d.CommitBalance(ctx, s.piece()); err != nil {
		return Applied{}, err
	}
	if s.laid, err = layInSlices(ctx, d, s, slice); err != nil {
		return Applied{}, err
	}
	joined, err := d.CommitBalance(ctx, s)
	if err != nil {
		return Applied{}, err
	}
	joined.Inserted += applied.Inserted
	joined.Updated += applied.Updated
	joined.Findings = slices.Concat(applied.Findings, joined.Findings)
	joined.Repaired = slices.Concat(applied.Repaired, joined.Repaired)
	joined.Closed = slices.Concat(applied.Closed, joined.Closed)
	return joined, nil
}

// TooLong reports whether a driver must answer ErrLong: waiting is how many held rows
// the join would have to look at, those without a position or, of a full read, all.
func (s BalanceSnapshot) TooLong(waiting, slice int) bool {
	return s.Joined && s.laid == nil && waiting > slice && s.Epoch != RehearsalEpoch
}

// ReadsAll reports whether BalanceHeld.Rows are all held rows, so that a driver reads
// no more of them than show that the snapshot is TooLong. A rehearsal has to know them
// all at once: what it places is undone.
func (s BalanceSnapshot) ReadsAll() bool {
	return s.Joined && s.Full && s.laid == nil && s.Epoch != RehearsalEpoch
}

// piece is the snapshot without its join: the walk stays open where it stands.
func (s BalanceSnapshot) piece() BalanceSnapshot {
	s.Walk = Walk{Full: s.Full}
	for _, w := range s.Windows {
		for _, r := range w.Rows {
			s.Walk.Cursor = r.ID
			s.Walk.Top = later(s.Walk.Top, r.Created)
		}
	}
	s.Joined, s.Full, s.joins = false, false, true
	return s
}

// laid is a chain whose rows have all got their places before the join.
type laid struct {
	chains *chains
	// grew are the currencies of rows that had no position.
	grew map[string]bool
	// moved is, per currency, the first row that had another place, and where it lies now.
	moved map[string]movedRow
}

type movedRow struct {
	HeldRow
	to int64
}

// layInSlices lays the chains of a joined snapshot whose rows are all held. It reads
// whole seconds, since rows of one second have no order of their own.
func layInSlices(ctx context.Context, d BalanceDriver, s BalanceSnapshot, slice int) (*laid, error) {
	tops := map[string]HeldRow{}
	if !s.Full {
		var err error
		if tops, err = d.Tops(ctx, s.Target); err != nil {
			return nil, err
		}
	}
	l := &laid{chains: newChains(tops, s.Customer.Ends()), grew: map[string]bool{}, moved: map[string]movedRow{}}
	after, limit := time.Time{}, slice
	for {
		rows, err := d.RowsToPlace(ctx, s.Target, s.Full, after, limit+1)
		if err != nil {
			return nil, err
		}
		last := len(rows) <= limit
		if !last {
			if rows = wholeSeconds(rows); len(rows) == 0 { // one second alone: read all of it
				limit *= 4
				continue
			}
		}
		if len(rows) == 0 {
			return l, nil
		}
		after, limit = rows[len(rows)-1].Created, slice
		places := l.lay(rows)
		if err := l.chains.err(); err != nil && !s.AcceptDisproof {
			return nil, fmt.Errorf("%w: %w", ErrDisproved, err)
		}
		for part := range slices.Chunk(places, slice) {
			if err := d.Place(ctx, s.Target, s.Epoch, part); err != nil {
				return nil, err
			}
		}
		if last {
			return l, nil
		}
	}
}

// wholeSeconds leaves out the rows of the last second, of which there may be more.
func wholeSeconds(rows []HeldRow) []HeldRow {
	open := rows[len(rows)-1].Created
	first, _ := slices.BinarySearchFunc(rows, open, func(r HeldRow, t time.Time) int { return r.Created.Compare(t) })
	return rows[:first]
}

// lay lays the next rows, and returns the places that change.
func (l *laid) lay(rows []HeldRow) []Placement {
	sortHeld(rows)
	links := map[string][]Link{}
	was := make(map[string]int64, len(rows))
	for _, r := range rows {
		links[r.Currency] = append(links[r.Currency], Link{r.ID, r.Amount, r.EndingBalance, r.Created})
		was[r.ID] = r.Position
		if r.Position == 0 {
			l.grew[r.Currency] = true
		}
	}
	placed := l.chains.lay(links)
	var places []Placement
	for _, r := range rows {
		if was[r.ID] != placed[r.ID] {
			places = append(places, Placement{ID: r.ID, Position: placed[r.ID], Moved: was[r.ID] != 0})
			if _, told := l.moved[r.Currency]; !told && was[r.ID] != 0 {
				l.moved[r.Currency] = movedRow{r, placed[r.ID]}
			}
		}
	}
	slices.SortFunc(places, func(a, b Placement) int { return cmp.Compare(a.Position, b.Position) })
	return places
}

// sortHeld puts held rows in the order that they have: within one second what was
// held came before, and a chain that closes stays as it is laid.
func sortHeld(rows []HeldRow) {
	slices.SortStableFunc(rows, func(a, b HeldRow) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(uint64(a.Position-1), uint64(b.Position-1)), cmp.Compare(a.ID, b.ID)) // #nosec G115 -- no place, 0, is to come last
	})
}

// chains are the chains of all currencies as far as they are laid.
type chains struct {
	tops map[string]HeldRow
	// want are the balances at which they must end.
	want map[string]int64
	// broken says, per currency, why it does not close; findsBy are the two amounts
	// that show it.
	broken  map[string]error
	findsBy map[string][2]int64
}

func newChains(tops map[string]HeldRow, want map[string]int64) *chains {
	if tops == nil {
		tops = map[string]HeldRow{}
	}
	return &chains{tops: tops, want: want, broken: map[string]error{}, findsBy: map[string][2]int64{}}
}

// lay appends rows to their chains and returns the position of each. Of a chain that
// does not close the rows lie by time.
func (c *chains) lay(links map[string][]Link) (placed map[string]int64) {
	placed = map[string]int64{}
	for currency, list := range links {
		top := c.tops[currency]
		ordered, end, err := OrderChain(list, top.EndingBalance)
		for _, l := range ordered {
			if err == nil && l.Created.Before(top.Created) {
				err = fmt.Errorf("%s is older than %s, the end of the chain so far", l.ID, top.ID)
			}
		}
		if err != nil {
			byTime(ordered)
			end = ordered[len(ordered)-1].EndingBalance
		}
		for i, l := range ordered {
			placed[l.ID] = top.Position + int64(i) + 1
		}
		last := ordered[len(ordered)-1]
		c.tops[currency] = HeldRow{
			ID: last.ID, Currency: currency, EndingBalance: end, Created: last.Created, Position: top.Position + int64(len(ordered)),
		}
		if err != nil {
			c.fail(currency, err, end)
		}
	}
	return placed
}

// fail notes the first fault of a currency.
func (c *chains) fail(currency string, err error, end int64) {
	if c.broken[currency] != nil {
		return
	}
	c.broken[currency] = fmt.Errorf("%s: %w", currency, err)
	c.findsBy[currency] = [2]int64{c.want[currency], end}
	if b, ok := errors.AsType[*BrokenChainError](err); ok {
		c.findsBy[currency] = [2]int64{b.Have, b.Want}
	}
}

// close compares the ends that were reached with the customer's balances.
func (c *chains) close(customer Customer) {
	if customer.Currency == "" && customer.Balance != 0 {
		c.broken[""] = fmt.Errorf("%w: balance %d without a currency", errBalanceOff, customer.Balance)
		c.findsBy[""] = [2]int64{customer.Balance, 0}
	}
	for currency, balance := range c.want {
		if end := c.tops[currency].EndingBalance; c.broken[currency] == nil && balance != end {
			c.fail(currency, fmt.Errorf("%w: %d against %d", errBalanceOff, end, balance), end)
		}
	}
}

// ends are the balances reached.
func (c *chains) ends() map[string]int64 {
	ends := make(map[string]int64, len(c.tops))
	for currency, top := range c.tops {
		ends[currency] = top.EndingBalance
	}
	for currency := range c.want {
		ends[currency] = c.tops[currency].EndingBalance
	}
	return ends
}

// err is the fault of the first broken currency, by name.
func (c *chains) err() error {
	first := ""
	for currency := range c.broken {
		if first == "" || currency < first {
			first = currency
		}
	}
	return c.broken[first]
}
