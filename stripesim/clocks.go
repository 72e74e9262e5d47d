package stripesim

import (
	"cmp"
	"slices"
	"time"
)

// maxAdvanceYears bounds how far one call may advance a clock.
const maxAdvanceYears = 2

func (a *account) createClock(cz cause, frozen int64, name *string) *clock {
	k := &clock{
		node: node{id: a.ids.clock(), created: cz.now}, name: name, frozen: frozen,
		deletes: cz.now + 30*daySeconds, customers: ordered[*customer]{slot: slotOwner},
	}
	a.clocks[k.id] = k
	addTo(a, &a.clockList, k)
	a.emit(cz, "test_helpers.test_clock.created", "", a.renderClock(k), nil)
	return k
}

// advanceClock starts to advance; the clock is ready at once or after
// Switches.ClockAdvanceTime. The reply shows it as advancing either way.
func (a *account) advanceClock(cz cause, k *clock, to int64) (clockJSON, *apiError) {
	switch {
	case k.advancing:
		return clockJSON{}, errRefused("", "This test clock is currently advancing. Wait until it is ready.")
	case to <= k.frozen:
		return clockJSON{}, errInvalid("", "frozen_time", "frozen_time must be after the clock's current time.")
	case to > k.frozen+maxAdvanceYears*366*daySeconds:
		return clockJSON{}, errInvalid("", "frozen_time", "You can advance a test clock by at most %d years at a time.", maxAdvanceYears)
	}
	k.advancing, k.target = true, to
	reply := a.renderClock(k)
	a.emit(cz, "test_helpers.test_clock.advancing", "", reply, map[string]any{"status": "ready"})
	if d := a.s.switches().ClockAdvanceTime; d > 0 {
		a.s.later(d, func() { a.endAdvance(k) })
	} else {
		a.finishAdvance(k)
	}
	return reply, nil
}

// endAdvance is finishAdvance for a timer.
func (a *account) endAdvance(k *clock) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.finishAdvance(k)
}

// finishAdvance replays, in order, what happens to the grants and drafts of the
// clock's customers on the way, then says that it is ready.
func (a *account) finishAdvance(k *clock) {
	if k.gone || !k.advancing {
		return
	}
	delay := ceilSeconds(a.s.switches().ExpiryDelay)
	var due []dueItem
	for _, c := range k.customers.rows {
		for _, g := range c.grants.rows {
			if !g.open() {
				continue
			}
			if !g.granted {
				due = append(due, dueItem{at: *g.effectiveAt, g: g})
			}
			if g.expiresAt != nil {
				due = append(due, dueItem{at: *g.expiresAt + delay, g: g})
			}
		}
		for _, inv := range c.invoices.rows {
			if inv.finalizesAt != nil {
				due = append(due, dueItem{at: *inv.finalizesAt, inv: inv})
			}
		}
	}
	slices.SortFunc(due, func(x, y dueItem) int {
		return cmp.Or(cmp.Compare(x.at, y.at), cmp.Compare(x.id(), y.id()))
	})
	cz := a.systemCause()
	for _, d := range due {
		if d.at <= k.target {
			k.frozen = max(k.frozen, d.at)
			if d.inv != nil {
				a.autoFinalize(cz, d.inv, d.at)
				continue
			}
			a.ripen(cz, d.g, d.at, d.at-delay)
		}
	}
	k.frozen, k.advancing = k.target, false
	a.emit(cz, "test_helpers.test_clock.ready", "", a.renderClock(k), map[string]any{"status": "advancing"})
}

func (a *account) deleteClock(cz cause, k *clock) {
	last := a.renderClock(k)
	k.gone = true
	for _, c := range k.customers.rows {
		if !c.gone {
			a.deleteCustomer(cz, c, a.s.switches().ClockDeleteSendsCustomerDeleted)
		}
	}
	a.emit(cz, "test_helpers.test_clock.deleted", "", last, nil)
}

// later runs f after d unless the server is closed first. Settle waits for it.
func (s *Server) later(d time.Duration, f func()) { s.sender.after(d, f) }
