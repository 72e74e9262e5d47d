package stripesim

import (
	"cmp"
	"iter"
	"net/http"
)

// paging is what every list takes.
type paging struct {
	limit         int
	startingAfter string
	endingBefore  string
}

func (c *call) paging() paging {
	g := paging{limit: 10, startingAfter: c.p.id("starting_after"), endingBefore: c.p.id("ending_before")}
	if n, ok := c.p.int("limit"); ok {
		g.limit = int(min(max(n, 1), 100)) // as the live API does, whatever its documents say
	}
	return g
}

// cursors are those that were sent, by the names of their parameters.
func (g paging) cursors() iter.Seq2[string, string] {
	return func(yield func(param, id string) bool) {
		if g.startingAfter != "" && !yield("starting_after", g.startingAfter) {
			return
		}
		if g.endingBefore != "" {
			yield("ending_before", g.endingBefore)
		}
	}
}

// listOf is one list request over rows of type T. The caller holds the account's
// lock for reading.
type listOf[T listed] struct {
	rows    *ordered[T]
	what    string // "customer", for errors
	cursor  string // what errors call a row that a cursor names, where that differs
	url     string
	created timeRange
	match   func(T) bool
	find    func(id string) (T, bool) // for cursors
	render  func(T, expansion) any
}

func runList[T listed](c *call, g paging, l listOf[T]) (any, *apiError) {
	q := query[T]{
		limit: g.limit, startingAfter: g.startingAfter, endingBefore: g.endingBefore,
		created: l.created, match: l.match, now: c.s.opts.Now(),
	}
	out := &listJSON{Object: "list", URL: l.url, Data: []any{}}
	var cursor T
	for param, id := range g.cursors() {
		row, ok := l.find(id)
		if ok {
			_, ok = l.rows.index(row)
		}
		gone := ok && (row.row().gone || c.cursorGone())
		if !ok || gone {
			if ok && c.s.switches().GoneCursorEmptyPage {
				return out, nil
			}
			return nil, errNone(http.StatusBadRequest, cmp.Or(l.cursor, l.what), id, param)
		}
		cursor = row
	}
	if g.startingAfter != "" && g.endingBefore != "" { // reported only of cursors that are there
		return nil, errInvalid("", "", "Received both starting_after and ending_before parameters. Please pass in only one.")
	}
	rows, more := l.rows.page(q, cursor)
	out.HasMore = more
	for _, row := range rows {
		out.Data = append(out.Data, l.render(row, c.x["data"]))
	}
	return out, nil
}

// cursorGone reports whether a fault says so.
func (c *call) cursorGone() bool {
	gone := false
	c.s.faults.strike(c.what, func(k FaultKind) bool { return k == FaultCursorGone }, func(Fault) bool {
		gone = true
		c.a.log(c.cz, "fault."+string(FaultCursorGone), c.what.endpoint, c.what.customer, "")
		return false
	})
	return gone
}

// found adapts a map look-up.
func found[T any](m map[string]T) func(string) (T, bool) {
	return func(id string) (T, bool) {
		v, ok := m[id]
		return v, ok
	}
}

// always is the range that takes in every time.
var always = timeRange{minTime, maxTime}

const (
	minTime = -1 << 62
	maxTime = 1 << 62
)
