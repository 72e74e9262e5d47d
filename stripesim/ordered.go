package stripesim

import (
	"math/rand/v2"
	"slices"
	"sort"
	"sync/atomic"
	"time"
)

// tieWindow bounds how far back a new row can slip among rows of its own second
// with OrderRandom. It keeps insertion cheap when a whole population is made
// within one second, and is far wider than any reader may rely on.
const tieWindow = 64

// The lists that a row can be in at once; each has its own position.
const (
	slotOwner   = iota // its customer's list, or its clock's
	slotAccount        // the account-wide list
	slotGrant          // its grant's list
	slots
)

// node is what lists need to know of a row.
type node struct {
	id      string
	created int64 // Unix seconds
	pos     [slots]int32
	gone    bool // deleted: kept as a landmark, never shown
	lag     *lag // nil: visible at once
}

func (n *node) row() *node { return n }

// lag hides a row from lists, though not from anything else.
type lag struct {
	until time.Time    // hidden before
	reads atomic.Int32 // hidden from this many more list requests
}

// hidden reports whether a list request made now must leave the row out.
func (n *node) hidden(now time.Time) bool {
	if n.lag == nil {
		return false
	}
	if n.lag.reads.Load() > 0 && n.lag.reads.Add(-1) >= 0 {
		return true
	}
	return now.Before(n.lag.until)
}

type listed interface{ row() *node }

// ordered is a list sorted by created, oldest first, that knows where each of
// its rows is. The holder of the account's lock owns it.
type ordered[T listed] struct {
	slot int
	base int32 // position of rows[0]; grows as old rows are dropped
	rows []T
}

func (l *ordered[T]) len() int { return len(l.rows) }

// index returns where v is in rows, or false if it is not in this list.
func (l *ordered[T]) index(v T) (int, bool) {
	i := int(v.row().pos[l.slot] - l.base)
	if i < 0 || i >= len(l.rows) || l.rows[i].row() != v.row() {
		return 0, false
	}
	return i, true
}

// after returns the index of the first row created later than t.
func (l *ordered[T]) after(t int64) int {
	if n := len(l.rows); n == 0 || l.rows[n-1].row().created <= t {
		return n
	}
	return sort.Search(len(l.rows), func(i int) bool { return l.rows[i].row().created > t })
}

// add puts v among the rows of its second, as order says.
func (l *ordered[T]) add(v T, order Order, rng *rand.Rand) {
	created := v.row().created
	end := l.after(created)
	at := end
	switch order {
	case OrderAscending: // lists run backwards: the first made must come last here
		at = l.after(created - 1)
	case OrderRandom:
		start := end
		for start > 0 && end-start < tieWindow && l.rows[start-1].row().created == created {
			start--
		}
		if start < end {
			at = start + rng.IntN(end-start+1)
		}
	}
	l.rows = slices.Insert(l.rows, at, v)
	for i := at; i < len(l.rows); i++ {
		l.rows[i].row().pos[l.slot] = l.base + int32(i) // #nosec G115 -- rows in memory; positions are relative
	}
}

// dropBefore forgets the rows created before t.
func (l *ordered[T]) dropBefore(t int64, each func(T)) {
	n := l.after(t - 1)
	for i := range n {
		each(l.rows[i])
	}
	clear(l.rows[:n])
	l.rows = l.rows[n:]
	l.base += int32(n) // #nosec G115 -- rows in memory; positions are relative
}

// query is one list request.
type query[T listed] struct {
	limit         int
	startingAfter string
	endingBefore  string
	created       timeRange
	match         func(T) bool // nil: all
	now           time.Time
}

// timeRange selects created times from lo to hi inclusive.
type timeRange struct{ lo, hi int64 }

// page returns up to q.limit rows, newest first, and whether more follow in the
// direction of travel. cursor is the row of the cursor that q names, if any.
func (l *ordered[T]) page(q query[T], cursor T) (rows []T, more bool) {
	lo, hi := l.after(q.created.lo-1), l.after(q.created.hi) // rows[lo:hi]
	step, i := -1, hi-1
	switch {
	case q.startingAfter != "":
		at, _ := l.index(cursor)
		i = min(i, at-1)
	case q.endingBefore != "":
		at, _ := l.index(cursor)
		step, i = 1, max(lo, at+1)
	}
	for ; i >= lo && i < hi; i += step {
		v := l.rows[i]
		if n := v.row(); n.gone || n.hidden(q.now) || (q.match != nil && !q.match(v)) {
			continue
		}
		if len(rows) == q.limit {
			more = true
			break
		}
		rows = append(rows, v)
	}
	if step > 0 {
		slices.Reverse(rows)
	}
	return rows, more
}
