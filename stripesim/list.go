package stripesim

import "net/http"

// paging is what every list takes.
type paging struct {
	limit         int
	startingAfter string
	endingBefore  string
}

func (c *call) paging() paging {
	g := paging{limit: 10, startingAfter: c.p.id("starting_after"), endingBefore: c.p.id("ending_before")}
	if n, ok := c.p.int("limit"); ok {
		switch {
		case n > 100:
			c.p.fail(errInvalid("", "limit", "This value must be less than or equal to 100."))
		case n < 1:
			c.p.fail(errInvalid("", "limit", "This value must be greater than or equal to 1."))
		}
		g.limit = int(n)
	}
	if g.startingAfter != "" && g.endingBefore != "" {
		c.p.fail(errInvalid("", "ending_before", "You can only specify one of starting_after and ending_before, not both."))
	}
	return g
}

// listOf is one list request over rows of type T. The caller holds the account's
// lock for reading.
type listOf[T listed] struct {
	rows    *ordered[T]
	what    string // "customer", for errors
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
	id, param := g.startingAfter, "starting_after"
	if id == "" {
		id, param = g.endingBefore, "ending_before"
	}
	if id != "" {
		row, ok := l.find(id)
		if ok {
			_, ok = l.rows.index(row)
		}
		gone := ok && (row.row().gone || c.cursorGone())
		if !ok || gone {
			if ok && c.s.switches().GoneCursorEmptyPage {
				return out, nil
			}
			return nil, errNone(http.StatusBadRequest, l.what, id, param)
		}
		cursor = row
	}
	rows, more := l.rows.page(q, cursor)
	out.HasMore = more
	for _, row := range rows {
		out.Data = append(out.Data, l.render(row, c.x["data"]))
	}
	return out, nil
}

// cursorGone tells whether a fault says so.
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
