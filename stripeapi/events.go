package stripeapi

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/stripe/stripe-go/v79/form"

	"github.com/creditmirror/creditmirror/mirror"
)

// EventsQuery asks for a page of events. Stripe keeps events for 30 days.
type EventsQuery struct {
	// Types are at most 20 exact names; none asks for all.
	Types []string
	// After asks for events older than this one, Before for the page just newer
	// than this one; not both.
	After, Before string
	// CreatedGTE leaves older events out, CreatedLT those of its second and newer ones;
	// whole seconds. Zero: no bound.
	CreatedGTE, CreatedLT time.Time
	// Undelivered asks only for events that some endpoint of the account has not
	// taken, yet or for good.
	Undelivered bool
	// Limit is 1 to 100; 0 means 100.
	Limit int
}

// EventsPage is a page of events, newest first.
type EventsPage struct {
	Events []mirror.Event
	// Unreadable are the JSON of events that mirror.DecodeEvent does not accept.
	Unreadable [][]byte
	// HasMore means that there are more events in the direction of travel.
	HasMore bool
	// FirstID and LastID are the newest and the oldest event of the page, readable
	// or not; empty where none has an id, as on an empty page. They are the cursors for the
	// next page.
	FirstID, LastID string
}

// EventsPage lists events.
func (c *Client) EventsPage(ctx context.Context, account string, q EventsQuery) (EventsPage, error) {
	const endpoint = EndpointEventsList
	if err := checkIDs(endpoint, "starting_after?", q.After, "ending_before?", q.Before); err != nil {
		return EventsPage{}, err
	}
	if q.After != "" && q.Before != "" {
		return EventsPage{}, refused(endpoint, "ending_before", "excludes starting_after")
	}
	if len(q.Types) > 20 {
		return EventsPage{}, refused(endpoint, "types", "at most 20")
	}
	v, err := pageValues(endpoint, q.After, q.Limit)
	if err != nil {
		return EventsPage{}, err
	}
	if q.Before != "" {
		v.Add("ending_before", q.Before)
	}
	if !q.CreatedGTE.IsZero() {
		v.Add("created[gte]", strconv.FormatInt(q.CreatedGTE.Unix(), 10))
	}
	if !q.CreatedLT.IsZero() {
		v.Add("created[lt]", strconv.FormatInt(q.CreatedLT.Unix(), 10))
	}
	if q.Undelivered {
		v.Add("delivery_success", "false")
	}
	for _, t := range q.Types {
		v.Add("types[]", t)
	}
	r := request{endpoint: endpoint, path: "/v1/events", account: account, values: v}
	return read(ctx, c, r, func(body []byte) (EventsPage, error) {
		return decodeEventsPage(body, account, q)
	})
}

func decodeEventsPage(body []byte, account string, q EventsQuery) (EventsPage, error) {
	l, err := decodeList(body, q.After, q.Before)
	if err != nil {
		return EventsPage{}, err
	}
	page := EventsPage{HasMore: l.hasMore}
	for _, b := range l.bad {
		page.Unreadable = append(page.Unreadable, b.Raw)
	}
	for _, r := range l.rows {
		ev, err := mirror.DecodeEvent(r.json)
		if err != nil {
			page.Unreadable = append(page.Unreadable, bytes.Clone(r.json))
			continue
		}
		// Lists name no account: it is the one that was asked. Another one would
		// put the event's customer under the wrong account.
		if account != "" && ev.Account != "" && ev.Account != account {
			page.Unreadable = append(page.Unreadable, bytes.Clone(r.json))
			continue
		}
		if account != "" {
			ev.Account = account
		}
		page.Events = append(page.Events, ev)
	}
	if n := len(l.rows); n > 0 {
		page.FirstID, page.LastID = l.rows[0].id, l.rows[n-1].id
	}
	return page, nil
}

// TestClocks lists the ids of test clocks created before the clock after
// (empty: the newest). Limit is 1 to 100; 0 means 100.
func (c *Client) TestClocks(ctx context.Context, account, after string, limit int) (ids []string, hasMore bool, err error) {
	const endpoint = EndpointTestClocksList
	if err := checkIDs(endpoint, "starting_after?", after); err != nil {
		return nil, false, err
	}
	v, err := pageValues(endpoint, after, limit)
	if err != nil {
		return nil, false, err
	}
	r := request{endpoint: endpoint, path: "/v1/test_helpers/test_clocks", account: account, values: v}
	l, err := read(ctx, c, r, func(body []byte) (list, error) {
		l, err := decodeList(body, after)
		if err != nil {
			return list{}, err
		}
		l.bad = nil // nobody lives on what is no object with an id
		ids, err = decodeRows(l, func(r row) (string, error) {
			r.word("object", "test_helpers.test_clock")
			return r.id, r.err
		})
		return l, err
	})
	if err != nil {
		return nil, false, err
	}
	return ids, l.hasMore, nil
}

// TestClock reads the time at which a test clock stands.
func (c *Client) TestClock(ctx context.Context, account, id string) (frozen time.Time, err error) {
	const endpoint = EndpointTestClocksRetrieve
	if err := checkIDs(endpoint, "test_clock", id); err != nil {
		return time.Time{}, err
	}
	r := request{endpoint: endpoint, path: "/v1/test_helpers/test_clocks/" + url.PathEscape(id), account: account, values: &form.Values{}}
	return read(ctx, c, r, func(body []byte) (time.Time, error) {
		r, err := decodeOne(body)
		if err != nil {
			return time.Time{}, err
		}
		r.word("object", "test_helpers.test_clock")
		at := r.time("frozen_time")
		if r.err == nil && r.id != id {
			return time.Time{}, fmt.Errorf("id is %.60q, asked was %q", r.id, id)
		}
		return at, r.err
	})
}
