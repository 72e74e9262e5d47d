package reconcile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/stripeapi"
)

const (
	// oldest is before the first customer of any account, Unix seconds: only a guess
	// of where the list ends, to split it by. The last range has no lower bound.
	oldest = 1262304000 // 2010
	// worthSplitting is how many customers a range must be thought to hold still
	// before a part of it is given to another reader: each split costs up to one
	// call more, for the page that a range ends with.
	worthSplitting = 400
	// splitsPerReader bounds the splits, and with them the calls beyond one per 100
	// customers; each hundred pages allow for one more, and at first two pages for one,
	// so that a small account, or one made all at once, is not searched for parts.
	splitsPerReader = 2
)

// CustomerRange is a part of the list of customers, by the second of creation.
// Borders lie between seconds, so customers that share one are in the same range.
type CustomerRange struct {
	// From (with it) and To (without it) are Unix seconds; 0: no bound.
	From int64 `json:"from,omitempty"`
	To   int64 `json:"to,omitempty"`
	// Top is the second of the newest customer listed; After is the last one that
	// was stored and Edge its second: the list, newest first, goes on after it.
	Top   int64  `json:"top,omitempty"`
	After string `json:"after,omitempty"`
	Edge  int64  `json:"edge,omitempty"`
	// Rows were listed so far.
	Rows int64 `json:"rows,omitempty"`

	busy bool
}

// left guesses how many customers of the range are not listed yet: as many per
// second as so far.
func (r *CustomerRange) left() int64 {
	lower := max(r.From, oldest)
	if r.After == "" || r.Rows == 0 || r.Edge <= lower {
		return 0
	}
	return int64(float64(r.Rows) / float64(max(r.Top-r.Edge, 1)) * float64(r.Edge-lower))
}

// split gives the older half of what is not listed to a range of its own.
func (r *CustomerRange) split() *CustomerRange {
	lower := max(r.From, oldest)
	middle := lower + (r.Edge-lower+1)/2
	older := &CustomerRange{From: r.From, To: middle}
	r.From = middle
	return older
}

// listing is the list of customers, read by several readers. Each page is stored
// before the checkpoint says so, and its checkpoint is saved before the next page
// of the range is asked for.
type listing struct {
	*FirstCopy
	account string
	at      *Copied
	pace    *pacer
	save    func() error // called by who has the turn

	// turn guards what follows and at. It is held while the checkpoint is written, so
	// that who waits for it gives up with its context.
	turn   turn
	pages  int
	splits int
	// changed is closed when there may be work for a reader that waits.
	changed chan struct{}
}

// copyRanges stores all customers of the plain list. Those created meanwhile are
// newer than the watermark of the events sweep; those deleted meanwhile have an
// event too, and a page never brings one back that a sync has buried.
func (f *FirstCopy) copyRanges(ctx context.Context, account string, at *Copied, pace *pacer, save func() error) error {
	l := &listing{FirstCopy: f, account: account, at: at, pace: pace, save: save, turn: newTurn(), changed: make(chan struct{})}
	readers, ctx := errgroup.WithContext(ctx)
	for range f.o.Readers {
		readers.Go(func() error { return l.read(ctx) })
	}
	return readers.Wait()
}

// read takes ranges until none is left.
func (l *listing) read(ctx context.Context) error {
	for {
		r, wait, err := l.take(ctx)
		switch {
		case err != nil:
			return err
		case r != nil:
			if err := l.readRange(ctx, r); err != nil {
				return err
			}
		case wait == nil:
			return nil
		default:
			select {
			case <-wait:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// take returns a range that nobody reads, or a part of one that somebody does; or
// what to wait for; or neither, when all is read.
func (l *listing) take(ctx context.Context) (*CustomerRange, <-chan struct{}, error) {
	if err := l.turn.take(ctx); err != nil {
		return nil, nil, err
	}
	defer l.turn.give()
	if len(l.at.Ranges) == 0 {
		return nil, nil, nil
	}
	var largest *CustomerRange
	for _, r := range l.at.Ranges {
		if !r.busy {
			r.busy = true
			return r, nil, nil
		}
		if largest == nil || r.left() > largest.left() {
			largest = r
		}
	}
	if largest.left() < worthSplitting || largest.Edge-max(largest.From, oldest) < 2 ||
		l.splits >= min(splitsPerReader*l.o.Readers, l.pages/2)+l.pages/100 {
		return nil, l.changed, nil
	}
	l.splits++
	older := largest.split()
	older.busy = true
	l.at.Ranges = append(l.at.Ranges, older)
	return older, nil, nil
}

func (l *listing) readRange(ctx context.Context, r *CustomerRange) error {
	for {
		if err := l.turn.take(ctx); err != nil {
			return err
		}
		q := stripeapi.CustomersQuery{After: r.After, Limit: 100, CreatedGTE: unix(r.From), CreatedLT: unix(r.To)}
		l.turn.give()
		page, err := l.stripe.CustomersPage(ctx, l.account, q)
		l.pace.called()
		if cursorGone(err) && q.After != "" {
			// The customer that the range stopped at was deleted: list its second again.
			l.o.Log.Info("cursor is gone; listing customers of its second again", zap.String("account", l.account))
			if err := l.turn.take(ctx); err != nil {
				return err
			}
			if r.After = ""; r.Edge != 0 {
				r.To = r.Edge + 1
			}
			l.turn.give()
			continue
		}
		if err == nil && page.HasMore && page.Last == "" {
			err = fmt.Errorf("a page without rows that is not the last one")
		}
		if err != nil {
			return fmt.Errorf("list customers of account %q: %w", l.account, err)
		}
		if err := l.leaveOut(ctx, l.account, whatCustomer, page.Bad); err != nil {
			return err
		}
		if _, err := l.store.InsertCustomers(ctx, l.account, page.Rows); err != nil {
			return err
		}
		failpoint.Hit("copy.customers")
		done, err := l.advance(ctx, r, page)
		if done || err != nil {
			return err
		}
	}
}

// advance notes a page that was stored. The range may have been split while the
// page was read, so that rows of its older half are among it: those are counted
// there.
func (l *listing) advance(ctx context.Context, r *CustomerRange, page stripeapi.CustomersPage) (done bool, err error) {
	if err := l.turn.take(ctx); err != nil {
		return false, err
	}
	defer l.turn.give()
	if page.Last != "" {
		l.pages++
	}
	done = !page.HasMore
	for _, c := range page.Rows {
		second := c.Created.Unix()
		if second < r.From {
			done = true
			break
		}
		if r.Top == 0 {
			r.Top = second
		}
		r.After, r.Edge = c.ID, second
		r.Rows++
		l.at.Customers++
	}
	if !done {
		r.After = page.Last
	}
	if done {
		l.at.Ranges = slices.DeleteFunc(l.at.Ranges, func(other *CustomerRange) bool { return other == r })
	}
	close(l.changed)
	l.changed = make(chan struct{})
	if len(l.at.Ranges) == 0 {
		return true, nil // the end of the phase is saved with the next one
	}
	return done, l.save()
}

// unix is a bound as a time; 0 is none.
func unix(second int64) time.Time {
	if second == 0 {
		return time.Time{}
	}
	return time.Unix(second, 0).UTC()
}
