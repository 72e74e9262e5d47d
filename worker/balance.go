package worker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// pageSize is Stripe's largest page.
const pageSize = 100

// firstPage is how many rows the first page asks for: the events that wait may
// stand for a row each, and a few older rows show that they join what is held.
func firstPage(st mirror.SyncState, refs []mirror.EventRef) int {
	if !st.HistoryComplete {
		return pageSize
	}
	if len(refs) > burst { // a call more costs more than the rows of a page
		return pageSize
	}
	return 10 + len(refs)
}

// burst is how many events make it likely that there are more rows than events that
// are known: a queue keeps the oldest ones only.
const burst = 5

func (s *Syncer) syncBalance(ctx context.Context, t mirror.Target, refs []mirror.EventRef) (Result, error) {
	st, err := s.store.BeginSync(ctx, t)
	if err != nil {
		return Result{}, stored(err)
	}
	failpoint.Hit("worker.epoch")
	p := s.newRetryPolicy(t, st)
	began := s.o.Now()
	observed, head := began, balanceRead{}
	var before *balanceRead // what was read and did not prove itself
	done := Result{Before: st.ObservedAt}
	for {
		if !head.begun() {
			observed = s.o.Now()
		}
		if p.full || head.begun() || p.rereads == s.o.Rereads {
			before = nil // a row may have been listed late far down
		}
		read, err := s.readBalance(ctx, t, p.settled(st), refs, p.full, head, before)
		if vanished(err) {
			result, err := s.vanished(ctx, t, st, observed, refs, errUnlisted)
			// Listed as missing and yet alive: one of the two replies lags. That is no
			// empty history.
			if errors.Is(err, errUnlisted) {
				err = p.next(ctx, err)
			}
			if err != nil || result.Deleted {
				return result, err
			}
			head = balanceRead{}
			continue
		} else if err != nil {
			return Result{}, err
		}
		if read.gone {
			return s.bury(ctx, t, st, observed, refs)
		}
		if read.observed.IsZero() {
			read.observed = observed
		}
		before = &read
		snapshot := mirror.BalanceSnapshot{
			Target: t, Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: read.observed,
			Customer: read.customer, Windows: read.windows,
			Joined: read.joined, Full: read.full, Walk: read.walk,
			AcceptDisproof: p.accept, Events: refs,
		}
		failpoint.Hit("worker.read")
		applied, err := s.store.ApplyBalance(ctx, snapshot)
		if err == nil {
			done.add(applied)
			if read.joined || !s.goesOn(began) {
				done.More, done.Unproven = !read.joined, p.accept
				if read.joined {
					done.Looks = s.looks(refs, read, done.Applied)
				}
				return done, nil
			}
			st.Walk, head = read.walk, read
			continue
		}
		head = balanceRead{} // whatever comes next begins at the newest rows
		damaged, lookErr := p.blamesUs(ctx, err, snapshot.Listed())
		if lookErr != nil {
			return Result{}, lookErr
		}
		if damaged {
			continue
		}
		if err := p.next(ctx, stored(err)); err != nil {
			return s.refuse(ctx, t, st, observed, err)
		}
	}
}

// balanceRead is one reading of a balance ledger.
type balanceRead struct {
	customer mirror.Customer
	gone     bool
	windows  []mirror.Window[mirror.BalanceTransaction]
	joined   bool
	full     bool
	walk     mirror.Walk
	// observed is when the oldest reading began of which rows are taken; zero: this one.
	observed time.Time
}

// rest are the rows that a reading found after the one of an id; known is false where
// it ended there.
func (r *balanceRead) rest(after string, limit int) (rows []mirror.BalanceTransaction, more, known bool) {
	if r == nil || len(r.windows) != 1 || !r.windows[0].FromHead || after == "" {
		return nil, false, false
	}
	w := r.windows[0]
	i := slices.IndexFunc(w.Rows, func(row mirror.BalanceTransaction) bool { return row.ID == after }) + 1
	if i == 0 || i == len(w.Rows) && !w.ToEnd {
		return nil, false, false
	}
	end := min(i+limit, len(w.Rows))
	return w.Rows[i:end], end < len(w.Rows) || !w.ToEnd, true
}

// begun reports whether this is a piece of the same sync, whose walk goes on.
func (r balanceRead) begun() bool { return r.walk.InProgress() }

// readBalance reads from the newest row down to the complete part of what is
// held (or to the end of the list, when full or nothing is held), at most one
// piece. Where head is a piece that this sync has read, it goes on after it. Where the
// reading before did not prove itself, what it found below the first page is not asked
// for again: rows do not change.
func (s *Syncer) readBalance(ctx context.Context, t mirror.Target, st mirror.SyncState, refs []mirror.EventRef, full bool, head balanceRead, before *balanceRead) (balanceRead, error) {
	read := balanceRead{customer: head.customer}
	limit := firstPage(st, refs)
	if before != nil && len(before.windows) == 1 && len(before.windows[0].Rows) > limit {
		limit = pageSize
	}
	list := func(after string, limit int) (rows []mirror.BalanceTransaction, more bool, err error) {
		if rows, more, known := before.rest(after, limit); known {
			read.observed = before.observed
			return rows, more, nil
		}
		page, err := s.stripe.BalancePage(ctx, t.Account, t.ID, after, limit)
		failpoint.Hit("worker.page")
		if after == "" && page.Customer != nil {
			read.customer = *page.Customer
		}
		return page.Rows, page.HasMore, err
	}
	walked, err := walkLedger(st, full, head.begun(), limit, s.o.PagesPerPiece, list,
		func(r mirror.BalanceTransaction) (string, time.Time) { return r.ID, r.Created })
	if err != nil {
		return balanceRead{}, err
	}
	read.windows, read.joined, read.full, read.walk = walked.windows, walked.joined, walked.full, walked.walk
	if read.customer.ID == "" { // no rows, so no customer came along
		reply, err := s.stripe.Customer(ctx, t.Account, t.ID)
		if err != nil {
			return balanceRead{}, err
		}
		read.customer, read.gone = reply.Customer, reply.Deleted
	}
	return read, nil
}

// looks returns how often the customer should be looked at once more, because the whole
// reply may be older than an event that it answers: lists and customers come from
// replicas, which agree with each other while they lag.
//
// A balance that moved has a row of that time. And an event after which nothing
// changed may have been answered by an earlier sync, or not at all.
func (s *Syncer) looks(refs []mirror.EventRef, read balanceRead, applied mirror.Applied) int {
	if !read.windows[0].FromHead {
		return 0 // a long walk has ended: the newest rows were read before
	}
	var newest time.Time
	if rows := read.windows[0].Rows; len(rows) > 0 {
		newest = rows[0].Created
	}
	looks := 0
	for _, r := range refs {
		switch {
		case r.Type != "customer.updated", r.Moved == mirror.MovedNo, s.o.Now().Sub(r.Created) > lagKnown:
		case r.Moved == mirror.MovedYes && read.customer.TestClock == "" && newest.Before(r.Created.Add(-rowSlack)):
			return len(looksAfter)
		case !applied.Changed():
			looks = 1
		}
	}
	return looks
}

// walked is how far one piece of a history read came.
type walked[Row any] struct {
	windows []mirror.Window[Row]
	joined  bool
	full    bool
	walk    mirror.Walk
}

// walkLedger reads a list newest first until it joins the complete part of what
// is held. A row counts as joining only when it is older than the newest held
// one: within its second the order is not defined, so a new row may stand below
// it. When a piece is full before that, walk says where the next one continues. goOn
// says that the walk was begun by the same sync, so that nothing newer has to be read.
func walkLedger[Row any](
	st mirror.SyncState, full, goOn bool, firstLimit, maxPages int,
	list func(after string, limit int) ([]Row, bool, error),
	identify func(Row) (id string, created time.Time),
) (walked[Row], error) {
	if full && !st.Walk.Full {
		st.Walk = mirror.Walk{} // a walk that was to stop at the held part does not serve
	}
	full = full || st.Walk.Full
	stop := st.CompleteTo
	if full {
		stop = time.Time{}
	}
	head := mirror.Window[Row]{FromHead: true}
	pages := 0
	// read appends pages to w until a row is older than until, the end, or the piece
	// is full. Nothing keeps the place of a piece that ends before it has joined an
	// open walk: it does not end within the second that it has to get past, pass.
	read := func(w *mirror.Window[Row], after string, limit int, until, pass time.Time) (reached bool, last string, err error) {
		for passing := false; pages < maxPages || passing; pages++ {
			rows, more, err := list(after, limit)
			if err != nil {
				return false, "", err
			}
			w.Rows = append(w.Rows, rows...)
			if !more || len(rows) == 0 {
				w.ToEnd = true
				return true, "", nil
			}
			id, created := identify(rows[len(rows)-1])
			last, after, limit = id, id, pageSize
			if !until.IsZero() && created.Before(until) {
				return true, last, nil
			}
			passing = !pass.IsZero() && created.Equal(pass)
		}
		return false, last, nil
	}

	// onward reads on below the open walk.
	onward := func(out walked[Row], top time.Time) (walked[Row], error) {
		tail := mirror.Window[Row]{}
		reached, last, err := read(&tail, st.Walk.Cursor, pageSize, stop, time.Time{})
		if err != nil {
			return walked[Row]{}, err
		}
		out.windows = append(out.windows, tail)
		if !reached {
			out.walk = mirror.Walk{Cursor: last, Top: top, Full: full}
			return out, nil
		}
		// The walk's pieces and this one together reach the end of the list, but only
		// a walk that did not stop at the held part has seen every row of it.
		out.joined, out.full = true, tail.ToEnd
		return out, nil
	}
	if goOn && st.Walk.InProgress() {
		if out, err := onward(walked[Row]{}, st.Walk.Top); !cursorGone(err) {
			return out, err
		}
	}
	until, pass := stop, time.Time{}
	if st.Walk.InProgress() { // join the walk first, then go on where it stopped
		until = latest(stop, st.Walk.Top)
		pass = until
	}
	reached, last, err := read(&head, "", firstLimit, until, pass)
	if err != nil {
		return walked[Row]{}, err
	}
	out := walked[Row]{windows: []mirror.Window[Row]{head}}
	_, top := newest(head.Rows, identify, st.Walk.Top)
	switch {
	case !reached: // a burst longer than a piece: the walk starts anew from the head
		out.walk = mirror.Walk{Cursor: last, Top: top, Full: full}
		return out, nil
	case head.ToEnd:
		out.joined, out.full = true, true
		return out, nil
	case !st.Walk.InProgress() || joinedAt(head.Rows, stop, identify):
		out.joined = true
		return out, nil
	}

	pages = min(pages, maxPages-1) // the walk goes on by a page at least
	joined, err := onward(out, top)
	if cursorGone(err) { // the row it stood on is gone: begin the walk again
		out.walk = mirror.Walk{Cursor: lastID(head.Rows, identify), Top: top, Full: full}
		return out, nil
	}
	return joined, err
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// joinedAt reports whether rows reach below the newest row of the complete part.
func joinedAt[Row any](rows []Row, stop time.Time, identify func(Row) (string, time.Time)) bool {
	if stop.IsZero() || len(rows) == 0 {
		return false
	}
	_, oldest := identify(rows[len(rows)-1])
	return oldest.Before(stop)
}

func newest[Row any](rows []Row, identify func(Row) (string, time.Time), otherwise time.Time) (string, time.Time) {
	if len(rows) == 0 {
		return "", otherwise
	}
	return identify(rows[0])
}

func lastID[Row any](rows []Row, identify func(Row) (string, time.Time)) string {
	if len(rows) == 0 {
		return ""
	}
	id, _ := identify(rows[len(rows)-1])
	return id
}

// cursorGone reports whether Stripe no longer knows the row a list was to start after.
func cursorGone(err error) bool {
	e, ok := errors.AsType[*stripeapi.Error](err)
	return ok && e.Code == "resource_missing" && e.Param == "starting_after"
}
