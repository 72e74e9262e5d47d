package stripesim

import (
	_ "embed" // the list of thin events
	"encoding/json"
	"hash/fnv"
	"net/http"
	"slices"
	"strings"
	"time"
)

//go:embed thin_events.txt
var thinEventsText string

// thinTypes are the thin twins of v1 events, by their own names.
var thinTypes = func() map[string]bool {
	m := map[string]bool{}
	for t := range strings.FieldsSeq(thinEventsText) {
		m[t] = true
	}
	return m
}()

// Thin events that are nobody's twin.
const (
	thinPing    = "v2.core.event_destination.ping"
	thinFailure = "v2.core.health.event_generation_failure.resolved"
)

// thinName is the name of the thin event about e; empty where none does.
func (e *event) thinName() string {
	switch {
	case e.thin != nil:
		return e.typ
	case thinTypes["v1."+e.typ]:
		return "v1." + e.typ
	}
	return ""
}

// thinOnly is what a thin event without a v1 twin is about.
type thinOnly struct {
	Related *relatedJSON `json:"related_object"`
	Data    any          `json:"data,omitempty"`
}

type relatedJSON struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	URL  string `json:"url"`
}

// thinJSON is a thin event, as it is delivered and, with changes and data, as it is
// retrieved.
type thinJSON struct {
	ID       string       `json:"id"`
	Object   string       `json:"object"`
	Type     string       `json:"type"`
	Livemode bool         `json:"livemode"`
	Created  string       `json:"created"`
	Context  string       `json:"context,omitempty"`
	Related  *relatedJSON `json:"related_object,omitempty"`
	Snapshot string       `json:"snapshot_event,omitempty"`
	Reason   *reasonJSON  `json:"reason,omitempty"`
	Changes  *changesJSON `json:"changes,omitempty"`
	Data     any          `json:"data,omitempty"`
}

type reasonJSON struct {
	Type    string            `json:"type"`
	Request reasonRequestJSON `json:"request"`
}

type reasonRequestJSON struct {
	ID             string `json:"id"`
	IdempotencyKey string `json:"idempotency_key"`
}

type changesJSON struct {
	Before map[string]any `json:"before"`
	After  map[string]any `json:"after"`
}

// thinTime writes a time as v2 does.
func thinTime(at int64) string { return time.Unix(at, 0).UTC().Format("2006-01-02T15:04:05.000Z") }

// thinID is the id of the thin event about e. It follows from the v1 event's,
// so that what is drawn for other ids does not depend on it.
func (a *account) thinID(e *event) string {
	if e.thin != nil {
		return e.id
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte("thin/" + e.id))
	ids := idMaker{state: h.Sum64(), live: a.live}
	return ids.thinEvent()
}

// thinEvent renders the thin event about e, within the context of a connected
// account, if any. whole adds what is only shown to those who retrieve it.
func (a *account) thinEvent(e *event, context string, whole bool) thinJSON {
	j := thinJSON{
		ID: a.thinID(e), Object: "v2.core.event", Type: e.thinName(), Livemode: a.live, Created: thinTime(e.created), Context: context,
	}
	if e.requestID != "" {
		j.Reason = &reasonJSON{"request", reasonRequestJSON{e.requestID, e.idemKey}}
	}
	if e.thin != nil {
		j.Related = e.thin.Related
		if e.thin.Data != nil { // the failure's event has it all at once
			j.Data = e.thin.Data
		}
		return j
	}
	j.Snapshot = e.id
	object := map[string]any{}
	_ = json.Unmarshal(mustMarshal(e.object), &object)
	j.Related = relatedTo(object)
	if whole && e.previous != nil {
		j.Changes = &changesJSON{e.previous, map[string]any{}}
		for k := range e.previous {
			j.Changes.After[k] = object[k]
		}
	}
	return j
}

// relatedTo returns where an object is found.
func relatedTo(object map[string]any) *relatedJSON {
	id, _ := object["id"].(string)
	kind, _ := object["object"].(string)
	paths := map[string]string{
		"billing.credit_grant": "billing/credit_grants", "billing.credit_balance_transaction": "billing/credit_balance_transactions",
		"test_helpers.test_clock": "test_helpers/test_clocks",
	}
	path, ok := paths[kind]
	if !ok {
		path = kind + "s"
	}
	return &relatedJSON{id, kind, "/v1/" + path + "/" + id}
}

// emitThin records a thin event that is nobody's twin and sends it. The caller holds
// the account's lock.
func (a *account) emitThin(cz cause, typ, customer string, about thinOnly, to ...string) *event {
	e := &event{
		node: node{id: a.ids.thinEvent(), created: cz.now}, typ: typ, customer: customer, thin: &about, requestID: cz.requestID, idemKey: cz.idemKey,
	}
	a.events[e.id] = e
	addTo(a, &a.eventList, e)
	a.log(cz, "event.sent", e.id, customer, typ)
	a.s.sender.dispatch(a, e, to...)
	return e
}

// emitFailure reports that an event could not be made, and what has to be read because of
// it.
func (a *account) emitFailure(cz cause, typ, customer string, object any) {
	fields := map[string]any{}
	_ = json.Unmarshal(mustMarshal(object), &fields)
	a.emitThin(cz, thinFailure, customer, thinOnly{Data: map[string]any{
		"severity": "critical", "impact": map[string]any{"event_type": typ, "related_object": relatedTo(fields)},
	}})
}

// thins reports whether thin events are made at all.
func (s *Server) thins() bool { return !s.switches().NoThinEvents }

// v2List is a list of the v2 API.
type v2List struct {
	Data     []any   `json:"data"`
	Next     *string `json:"next_page_url"`
	Previous *string `json:"previous_page_url"`
}

// v2Page reads limit and page, and cuts rows: page names the last row of the page
// before.
func v2Page[T listed](c *call, path string, rows []T, render func(T) any) (any, *apiError) {
	limit := int64(20)
	if n, ok := c.p.int("limit"); ok {
		if limit = n; n < 1 || n > 100 {
			c.p.fail(errInvalid("", "limit", "limit must be from 1 to 100."))
		}
	}
	after := c.p.id("page")
	if e := c.p.done(); e != nil {
		return nil, e
	}
	if after != "" {
		i := slices.IndexFunc(rows, func(r T) bool { return r.row().id == after })
		if i < 0 {
			return nil, errInvalid("", "page", "Invalid page token.")
		}
		rows = rows[i+1:]
	}
	out := &v2List{Data: []any{}}
	for i, r := range rows {
		if int64(i) == limit {
			q := c.query
			q.Set("page", rows[i-1].row().id)
			next := path + "?" + q.Encode()
			out.Next = &next
			break
		}
		out.Data = append(out.Data, render(r))
	}
	return out, nil
}

// thinRange reads a filter of times of v2.
func (c *call) thinRange() timeRange {
	r := always
	c.p.hash("created", func(p *params) {
		for _, name := range []string{"gt", "gte", "lt", "lte"} {
			text := p.id(name)
			if text == "" {
				continue
			}
			at, err := time.Parse(time.RFC3339Nano, text)
			if err != nil {
				p.fail(errInvalid("", "created["+name+"]", "Invalid timestamp: %s", text))
			}
			switch name {
			case "gt":
				r.lo = max(r.lo, at.Unix()+1)
			case "gte":
				r.lo = max(r.lo, at.Unix())
			case "lt":
				r.hi = min(r.hi, at.Unix()-1)
			case "lte":
				r.hi = min(r.hi, at.Unix())
			}
		}
	})
	return r
}

func (c *call) listThinEvents() (any, *apiError) {
	created := c.thinRange()
	object := c.p.id("object_id")
	types, _ := c.p.strs("types")
	if len(types) > maxTypes {
		c.p.fail(errInvalid("", "types", "You can filter by at most %d types.", maxTypes))
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	created.lo = max(created.lo, a.eventsSince())
	var rows []*event
	for _, e := range slices.Backward(a.eventList.rows) {
		if e.created < created.lo {
			break
		}
		name := e.thinName()
		if name == "" || e.created > created.hi || len(types) > 0 && !slices.Contains(types, name) || e.hidden(a.s.opts.Now()) {
			continue
		}
		if object != "" {
			if related := a.thinEvent(e, "", false).Related; related == nil || related.ID != object {
				continue
			}
		}
		rows = append(rows, e)
	}
	return v2Page(c, "/v2/core/events", rows, func(e *event) any { return a.thinEvent(e, a.id, true) })
}

func (c *call) getThinEvent() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	since := a.eventsSince()
	for _, e := range slices.Backward(a.eventList.rows) {
		if e.created < since {
			break
		}
		if e.thinName() != "" && a.thinID(e) == c.args[0] {
			return a.thinEvent(e, a.id, true), nil
		}
	}
	return nil, errNone(http.StatusNotFound, "event", c.args[0], "id")
}
