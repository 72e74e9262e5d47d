package stripesim

import (
	"sync/atomic"
)

// eventDays is how long events can be listed and retrieved.
const eventDays = 30

const daySeconds = 24 * 60 * 60

// event keeps its object as it was rendered; nothing in it changes afterwards but
// the number of deliveries still outstanding.
type event struct {
	node
	typ       string
	customer  string // for faults
	object    any
	previous  map[string]any
	requestID string
	idemKey   string
	pending   atomic.Int32
	// thin is what a thin event without a v1 twin is about: the v1 API does not show it.
	thin *thinOnly
}

type eventJSON struct {
	ID              string        `json:"id"`
	Object          string        `json:"object"`
	Account         string        `json:"account,omitempty"`
	APIVersion      string        `json:"api_version"`
	Created         int64         `json:"created"`
	Data            eventDataJSON `json:"data"`
	Livemode        bool          `json:"livemode"`
	PendingWebhooks int32         `json:"pending_webhooks"`
	Request         eventRequest  `json:"request"`
	Type            string        `json:"type"`
}

type eventDataJSON struct {
	Object   any            `json:"object"`
	Previous map[string]any `json:"previous_attributes,omitempty"`
}

type eventRequest struct {
	ID             *string `json:"id"`
	IdempotencyKey *string `json:"idempotency_key"`
}

// render shows the event, in the account's version unless another is given, and
// with the id of the connected account, if any.
func (e *event) render(a *account, version, shown string) eventJSON {
	if version == "" {
		version = a.s.opts.APIVersion
	}
	return eventJSON{
		ID: e.id, Object: "event", Account: shown, APIVersion: version, Created: e.created,
		Data:     eventDataJSON{e.object, e.previous},
		Livemode: a.live, PendingWebhooks: e.pending.Load(),
		Request: eventRequest{orNull(e.requestID), orNull(e.idemKey)}, Type: e.typ,
	}
}

// emit records an event and hands it to every endpoint that wants it. The caller
// holds the account's lock, so that events stand in the order of their changes.
func (a *account) emit(cz cause, typ, customer string, object any, previous map[string]any) {
	if cz.silent {
		return
	}
	times, told := 1, false
	a.s.faults.strike(occasion{account: a.id, event: typ, customer: customer},
		func(k FaultKind) bool { return k == FaultEventLost || k == FaultEventTwice || k == FaultEventFailed },
		func(f Fault) bool {
			times = 2
			if f.Kind != FaultEventTwice {
				times = 0
			}
			told = f.Kind == FaultEventFailed
			return false
		})
	if times == 0 {
		a.log(cz, "event.lost", "", customer, typ)
	}
	if told && a.s.thins() {
		a.emitFailure(cz, typ, customer, object)
	}
	for range times {
		e := &event{
			node: node{id: a.ids.event(), created: cz.now}, typ: typ, customer: customer,
			object: object, previous: previous, requestID: cz.requestID, idemKey: cz.idemKey,
		}
		e.lag = a.lagFor(listEvents, customer)
		a.events[e.id] = e
		addTo(a, &a.eventList, e)
		what := "event.sent"
		if times > 1 {
			what = "event.twice"
		}
		a.log(cz, what, e.id, customer, typ)
		a.s.sender.dispatch(a, e)
	}
	if a.eventList.len() > 0 {
		a.pruneEvents(a.s.unix())
	}
}

// pruneEvents forgets events past their 30 days, in batches of a day.
func (a *account) pruneEvents(now int64) {
	limit := now - eventDays*daySeconds
	if a.eventList.rows[0].created < limit-daySeconds {
		a.eventList.dropBefore(limit, func(e *event) { delete(a.events, e.id) })
	}
}

// eventsSince is the created time of the oldest event that can still be seen.
func (a *account) eventsSince() int64 { return a.s.unix() - eventDays*daySeconds }
