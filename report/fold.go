package report

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"
)

const (
	// foldRows and foldDays bound what is added to the days in one transaction: more is
	// added up anew.
	foldRows = 200_000
	foldDays = 2_000
	// daySlice is how many days one transaction stores or deletes while they are made
	// anew: the single writer of SQLite is held for some milliseconds.
	daySlice = 250
	// daysAge is how old days become before they are made anew, whatever may be wrong
	// with them; remakeAge how old they must be where they are known to be of no use.
	daysAge   = 24 * time.Hour
	remakeAge = time.Hour
)

// Folder keeps the day table up to date. Several may run: what each does is lost where
// another was faster, and nothing is added twice.
type Folder struct {
	Table DayTable
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time

	tidied bool
}

// Folded is what Fold did.
type Folded struct {
	// Rows were added. Made says why all days were rebuilt, where they were.
	Rows int64
	Made string
	// Lost reports that another Folder was faster.
	Lost bool
}

// Fold adds the rows that came since it was last called to the days, or makes them anew.
func (f *Folder) Fold(ctx context.Context) (done Folded, err error) {
	now := time.Now
	if f.Now != nil {
		now = f.Now
	}
	var state DayState
	var position string
	var add []Day
	var proof Proof
	why := ""
	err = f.Table.Books(ctx, func(r Reader) (err error) {
		if state, err = r.DayState(ctx); err != nil {
			return err
		}
		if why = state.stale(now()); why != "" || state.Generation == 0 || !state.Usable || state.Doubted {
			return nil
		}
		complete := false
		add, complete, err = r.DaysSince(ctx, state.Position, foldRows)
		switch {
		case errors.Is(err, ErrFeedGone):
			why, err = "the change feed does not reach back to them", nil
		case err == nil && (!complete || len(add) > foldDays):
			why = "many rows came"
		}
		if err == nil && why == "" {
			proof, err = state.forward(ctx, r)
		}
		if err == nil && why == "" {
			position, err = r.Position(ctx)
		}
		return err
	})
	if err != nil {
		return done, err
	}
	switch age := now().Sub(state.BuiltAt); {
	case why != "" && (state.Generation == 0 || age >= remakeAge):
		done.Made = why
		done.Lost, done.Rows, err = f.remake(ctx, now)
		if err != nil || done.Lost {
			return done, err
		}
		f.tidied = false
	case position != "" && (len(add) > 0 || number(position) != number(state.Position)):
		took, err := f.Table.FoldDays(ctx, state, position, add, proof)
		if done.Lost = !took; err != nil || !took {
			return done, err
		}
		for _, d := range add {
			done.Rows += d.Rows
		}
	}
	return done, f.tidy(ctx)
}

// number is the part of a position that grows with every record of the feed.
func number(position string) string {
	number, _, _ := strings.Cut(position, "@")
	return number
}

// stale returns why the days must be rebuilt, as far as their state shows.
func (s DayState) stale(now time.Time) string {
	switch {
	case s.Generation == 0:
		return "there were none"
	case now.Sub(s.BuiltAt) >= daysAge:
		return "they were a day old"
	case s.Doubted:
		return "rows were changed"
	case !s.Tried:
		return "no chain was looked at"
	}
	return ""
}

// forward proves the chains that changed since the state's proof, where it has one.
func (s DayState) forward(ctx context.Context, r Reader) (p Proof, err error) {
	if s.Proven == "" {
		return p, nil
	}
	p.Open, p.Held, err = r.OpenChains(ctx, s.Proven, MaxTail)
	if errors.Is(err, ErrFeedGone) {
		return Proof{}, nil
	}
	p.Held = p.Held && s.InDoubt+len(p.Open) <= MaxOpen
	return p, err
}

// remake makes all days anew from the rows.
func (f *Folder) remake(ctx context.Context, now func() time.Time) (lost bool, rows int64, err error) {
	generation, err := f.Table.BeginDays(ctx)
	if err != nil {
		return false, 0, err
	}
	var was DayState
	var proof Proof
	made := DayState{Generation: generation, Usable: true, BuiltAt: now()}
	err = f.Table.Books(ctx, func(r Reader) (err error) {
		if was, err = r.DayState(ctx); err != nil {
			return err
		}
		made.Doubts = was.Doubts
		if made.Position, err = r.Position(ctx); err != nil {
			return err
		}
		var slice []Day
		for d, err := range r.SumDays(ctx, nil) {
			if err != nil {
				return err
			}
			if d.Over {
				made.Usable = false
				return nil
			}
			rows += d.Rows
			if slice = append(slice, d); len(slice) == daySlice {
				if err := f.Table.PutDays(ctx, generation, slice); err != nil {
					return err
				}
				slice = slice[:0]
			}
		}
		if len(slice) > 0 {
			if err := f.Table.PutDays(ctx, generation, slice); err != nil {
				return err
			}
		}
		proof.Open, proof.Held, err = r.OpenChains(ctx, "", MaxOpen)
		return err
	})
	if err != nil {
		return false, 0, err
	}
	took, err := f.Table.UseDays(ctx, was.Generation, made, proof)
	return !took, rows, err
}

// tidy deletes days that can not be used any more, of this process and of ones that
// were killed.
func (f *Folder) tidy(ctx context.Context) error {
	for !f.tidied {
		n, err := f.Table.DropDays(ctx, daySlice)
		if err != nil {
			return err
		}
		f.tidied = n < daySlice
	}
	return nil
}

// dayStream is a stream of days with the next one in sight.
type dayStream struct {
	head Day
	more bool
	err  error
	next func() (Day, error, bool)
}

func (s *dayStream) step() {
	s.head, s.err, s.more = s.next()
	s.more = s.more && s.err == nil
}

// at reports whether the next day is of the same account, ledger, currency, day and line.
func (s *dayStream) at(d Day) bool { return s.more && s.head.Compare(d) == 0 }

// CompareDays holds the days that count against the sums of all rows, of one account or
// (nil) of all, and calls differ for each day that says something else. Where the table
// can not be used, no report reads it, and there is nothing to compare.
func CompareDays(ctx context.Context, from DayReader, account *string, differ func(rows, held Day) error) error {
	state, tail, usable, err := UsableDays(ctx, from)
	if err != nil || !usable {
		return err
	}
	tail = slices.DeleteFunc(slices.Clone(tail), func(d Day) bool { return account != nil && d.Account != *account })
	slices.SortFunc(tail, Day.Compare)
	var rows, held dayStream
	for s, days := range map[*dayStream]iter.Seq2[Day, error]{
		&rows: from.SumDays(ctx, account), &held: from.Days(ctx, state.Generation, account),
	} {
		next, stop := iter.Pull2(days)
		defer stop()
		s.next = next
		s.step()
	}
	for {
		least, some := Day{}, false
		for _, s := range []dayStream{rows, held, {head: first(tail), more: len(tail) > 0}} {
			if s.more && (!some || s.head.Compare(least) < 0) {
				least, some = s.head, true
			}
		}
		if err := errors.Join(rows.err, held.err); err != nil || !some {
			return err
		}
		least.Amount, least.Over, least.Rows = 0, false, 0
		want, have := least, least
		if rows.at(least) {
			want = rows.head
			rows.step()
		}
		var sum Wide
		for held.at(least) {
			sum.Add(held.head.Amount)
			have.Rows += held.head.Rows
			held.step()
		}
		for len(tail) > 0 && tail[0].Compare(least) == 0 {
			sum.Add(tail[0].Amount)
			have.Rows += tail[0].Rows
			tail = tail[1:]
		}
		have.Amount, have.Over = sum.Amount()
		if want.Amount != have.Amount || want.Over != have.Over || want.Rows != have.Rows {
			if err := differ(want, have); err != nil {
				return err
			}
		}
	}
}

func first(list []Day) (d Day) {
	if len(list) > 0 {
		d = list[0]
	}
	return d
}
