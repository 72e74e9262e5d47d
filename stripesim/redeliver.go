package stripesim

import (
	"net/http"
	"slices"
)

// Redeliver sends an event to a webhook endpoint that takes such events, whether or
// not it was delivered there before, as Stripe's dashboard does. The attempts begin
// anew. It is an error that Stripe would give if there is no such event or endpoint,
// if the endpoint is disabled, and if it does not take the event.
func (s *Server) Redeliver(eventID, endpoint string) error {
	for _, a := range s.allAccounts() {
		a.mu.RLock()
		e := a.events[eventID]
		a.mu.RUnlock()
		if e == nil {
			continue
		}
		list := *s.sender.targets.Load()
		i := slices.IndexFunc(list, func(t *target) bool { return t.id == endpoint && t.live == a.live })
		switch {
		case i < 0:
			return errNone(http.StatusBadRequest, "webhook endpoint", endpoint, "webhook_endpoint")
		case list[i].disabled:
			return errRefused("webhook_endpoint", "The webhook endpoint %s is disabled.", endpoint)
		case !list[i].wants(s, a, e):
			return errRefused("webhook_endpoint", "The webhook endpoint %s does not take events of this type and account.", endpoint)
		}
		s.sender.again(a, e, list[i])
		return nil
	}
	return errNone(http.StatusNotFound, "event", eventID, "id")
}

// lostByFault marks a delivery that was never made and counts as one.
const lostByFault = "lost by a fault, counted as delivered"

// again delivers an event once more. It lowers the event's pending count if that
// still counts this endpoint.
func (d *sender) again(a *account, e *event, t *target) {
	v := &delivery{a: a, e: e, target: t.id}
	if t.account != a.id {
		v.account = a.id
	}
	tried, done := false, t.thin
	for _, x := range d.s.Attempts(e.id) {
		if x.Endpoint == t.id {
			tried = true
			done = done || x.good() || x.Error == lostByFault
		}
	}
	v.arrived = newFlag(done || !tried || e.pending.Load() == 0)
	d.mu.Lock()
	for o := range d.live {
		if o.e == e && o.target == t.id {
			v.arrived = o.arrived // still under way: whichever comes first
			break
		}
	}
	d.mu.Unlock()
	d.send(a, v)
}

// good reports whether the endpoint took the event.
func (x Attempt) good() bool { return x.Status >= 200 && x.Status < 300 }
