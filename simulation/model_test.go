package simulation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// model knows what Stripe holds, and held at each moment.
type model struct {
	ledgers []*ledger
	byID    map[string]*ledger
	names   map[string]string
	events  map[string]*sent
	seq     int64 // of the simulator's log
}

func newModel() *model {
	return &model{byID: map[string]*ledger{}, names: map[string]string{}, events: map[string]*sent{}}
}

// ledger is one customer at Stripe, rows in the order in which they were made.
type ledger struct {
	id, name string
	deleted  time.Time
	rows     []row
	credits  []row
	grants   map[string]*grantHistory
	order    []string // the grants' ids

	// What was seen in the mirror so far, which never gets less.
	held, heldCredits map[string]bool
	deletedHere       bool
	damaged           bool // by SQL, so that what is held proves nothing
}

type row struct {
	id, currency string
	amount       int64
	at           time.Time
}

// grantHistory is every state of a grant.
type grantHistory struct {
	states []string // canonical JSON
	at     []time.Time
	update []int64 // Stripe's updated
	seen   int     // the newest state that the mirror held
}

// sent is an event, with what it announces: the customer as it was then.
type sent struct {
	typ           string
	ledger        *ledger
	rows, credits int
	grants        map[string]int // number of states
	deleted       bool
	at            time.Time
	acked         time.Time
	met           map[mirror.Scope]bool // scopes for which the mirror has been checked
}

// observe takes note of what happened at Stripe. It is called whenever something may
// have, at that very moment.
func (w *world) observe() {
	m := w.model
	now := time.Now()
	for {
		entries := w.stripe.Log(m.seq, 200)
		if len(entries) == 0 {
			return
		}
		for _, e := range entries {
			m.seq = e.Seq
			l := m.byID[e.Customer]
			if l == nil && e.Customer != "" {
				l = &ledger{
					id: e.Customer, name: fmt.Sprintf("c%d", len(m.ledgers)), grants: map[string]*grantHistory{},
					held: map[string]bool{}, heldCredits: map[string]bool{},
				}
				m.byID[e.Customer] = l
				m.ledgers = append(m.ledgers, l)
				m.names[l.id] = l.name
			}
			switch e.What {
			case "balance_transaction.created":
				l.rows = append(l.rows, row{e.ID, e.Currency, e.Amount, now})
				m.names[e.ID] = fmt.Sprintf("%s.b%d", l.name, len(l.rows))
			case "credit_transaction.created":
				l.credits = append(l.credits, row{e.ID, e.Currency, e.Amount, now})
				m.names[e.ID] = fmt.Sprintf("%s.t%d", l.name, len(l.credits))
			case "grant.created", "grant.changed":
				w.observeGrants(l, now)
			case "customer.deleted":
				l.deleted = now
			case "event.sent", "event.twice":
				w.observeEvent(e.ID, e.Detail, l, now)
			}
		}
	}
}

func (w *world) observeGrants(l *ledger, now time.Time) {
	truth, ok := w.stripe.CustomerTruth("", l.id)
	if !ok {
		return
	}
	for i := len(truth.Grants) - 1; i >= 0; i-- { // oldest first
		var head struct {
			ID      string `json:"id"`
			Updated int64  `json:"updated"`
		}
		if err := json.Unmarshal(truth.Grants[i], &head); err != nil {
			w.fail("simulator", "a grant of the simulator cannot be read: %v", err)
			return
		}
		h := l.grants[head.ID]
		if h == nil {
			h = &grantHistory{seen: -1}
			l.grants[head.ID] = h
			l.order = append(l.order, head.ID)
			w.model.names[head.ID] = fmt.Sprintf("%s.g%d", l.name, len(l.order))
		}
		state := canonical(truth.Grants[i])
		if n := len(h.states); n == 0 || h.states[n-1] != state {
			h.states, h.at, h.update = append(h.states, state), append(h.at, now), append(h.update, head.Updated)
		}
	}
}

func (w *world) observeEvent(id, typ string, l *ledger, now time.Time) {
	if l == nil {
		return
	}
	s := &sent{
		typ: typ, ledger: l, rows: len(l.rows), credits: len(l.credits), grants: map[string]int{},
		deleted: !l.deleted.IsZero(), at: now, met: map[mirror.Scope]bool{},
	}
	for g, h := range l.grants {
		s.grants[g] = len(h.states)
	}
	w.model.events[id] = s
}

// acknowledged takes note of a 2xx.
func (w *world) acknowledged(e mirror.Event) {
	if s := w.model.events[e.ID]; s != nil && s.acked.IsZero() {
		s.acked = time.Now()
		w.touch(s.ledger.name)
	}
}

// sum is a ledger's balance per currency after its first rows.
func sum(rows []row) map[string]int64 {
	out := map[string]int64{}
	for _, r := range rows {
		out[r.currency] += r.amount
	}
	return out
}

// canonical writes JSON so that equal objects are equal texts.
func canonical(raw json.RawMessage) string {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return string(raw)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return string(raw)
	}
	return string(b)
}
