package reconcile

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	// ReceiverInterval is how often a receiver has to say that it runs.
	ReceiverInterval = 10 * time.Second
	// receiverGone is how long none may have said so until nobody listens.
	receiverGone = 3 * ReceiverInterval
	// awaySlack is how much longer than a stop lasts deliveries may fail because of
	// it: until a load balancer sends requests again, and for clocks that differ.
	awaySlack = 2 * time.Second
	// awayKept is how long Stripe goes on delivering what it could not deliver.
	awayKept = 3 * 24 * time.Hour
	// maxAways bounds how many stops are remembered.
	maxAways = 32
)

// stop is a time in which no receiver ran, or none could take what Stripe delivered. A
// zero From is the time before the first one ever ran.
type stop struct {
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to"`
	// Refused reports whether a receiver ran and answered 503.
	Refused bool `json:"refused,omitempty"`
}

// receivers is the state of the row that receivers write.
type receivers struct {
	Stops []stop `json:"stops,omitempty"`
	// Stopped means that the last one to write stops.
	Stopped bool `json:"stopped,omitempty"`
	// Running has when each receiver last said that it runs, without those that have
	// stopped or were not heard of for receiverGone.
	Running map[string]time.Time `json:"running,omitempty"`
}

// noted is the state once a receiver has said that it runs, or starts, at now; seen
// is when one last said so.
//
// A receiver that starts does not know whether others that ran a moment ago still run.
// None counts as running until it says so again.
func (r receivers) noted(id string, seen, now time.Time, starts bool) receivers {
	running := r.without(id, now)
	running[id] = now
	stops := slices.DeleteFunc(slices.Clone(r.Stops), func(s stop) bool { return now.Sub(s.To) > awayKept })
	before, ran := r.Running[id]
	ran = ran && !starts && now.Sub(before) <= receiverGone
	gone := starts || r.Stopped || now.Sub(seen) > receiverGone
	switch n := len(stops); {
	case ran:
		stops = listened(stops, before, now)
	case !gone, !now.After(seen):
	case n > 0 && !starts && !seen.After(stops[n-1].To):
		stops[n-1].To = now // it ran meanwhile: what it refused says since when
	default:
		stops = joined(stops, stop{From: seen, To: now})
	}
	return receivers{Stops: stops[max(len(stops)-maxAways, 0):], Running: running}
}

// without are the receivers that run, as far as is known, but one.
func (r receivers) without(id string, now time.Time) map[string]time.Time {
	running := map[string]time.Time{}
	for other, at := range r.Running {
		if other != id && now.Sub(at) <= receiverGone {
			running[other] = at
		}
	}
	return running
}

// listened takes out of the stops a time in which a receiver ran.
func listened(stops []stop, from, to time.Time) []stop {
	left := make([]stop, 0, len(stops))
	for _, s := range stops {
		if s.Refused || !s.To.After(from) || !s.From.Before(to) {
			left = append(left, s)
			continue
		}
		if s.From.Before(from) {
			left = append(left, stop{From: s.From, To: from})
		}
		if s.To.After(to) {
			left = append(left, stop{From: to, To: s.To})
		}
	}
	return left
}

// NoteReceiver says that a process with the webhook role runs; starts, that it has
// just begun to, so that nothing listened since the last one said so, unless another one
// says that it ran all the while. The id is the process's own.
func NoteReceiver(ctx context.Context, store Checkpoints, id string, now time.Time, starts bool) error {
	row, state, err := readReceivers(ctx, store)
	if err != nil {
		return err
	}
	return saveReceivers(ctx, store, row, state.noted(id, row.StartedAt, now, starts), now)
}

// NoteReceiverStops says that a process with the webhook role takes no more requests.
// Another one that goes on will say so.
func NoteReceiverStops(ctx context.Context, store Checkpoints, id string, now time.Time) error {
	row, state, err := readReceivers(ctx, store)
	if err != nil {
		return err
	}
	state.Running = state.without(id, now)
	if row.StartedAt.After(now) {
		return saveReceivers(ctx, store, row, state, row.StartedAt)
	}
	state.Stopped = true
	return saveReceivers(ctx, store, row, state, now)
}

// NoteRefusals says that a receiver answered 503 to the deliveries of events that were
// created between the two times: it ran, and what it needs was away.
func NoteRefusals(ctx context.Context, store Checkpoints, from, to time.Time) error {
	row, state, err := readReceivers(ctx, store)
	if err != nil {
		return err
	}
	state.Stops = joined(state.Stops, stop{From: from, To: to, Refused: true})
	return saveReceivers(ctx, store, row, state, row.StartedAt)
}

// joined adds a stop to those that end in order; one that touches the last of its kind
// becomes part of it.
func joined(stops []stop, s stop) []stop {
	stops = slices.Clone(stops)
	for i := len(stops) - 1; i >= 0; i-- {
		last := &stops[i]
		if last.Refused != s.Refused {
			continue
		}
		if s.From.After(last.To.Add(awaySlack)) {
			break
		}
		if !last.From.IsZero() && s.From.Before(last.From) {
			last.From = s.From
		}
		if s.To.After(last.To) {
			last.To = s.To
		}
		return stops
	}
	stops = append(stops, s)
	return stops[max(len(stops)-maxAways, 0):]
}

func readReceivers(ctx context.Context, store Checkpoints) (row mirror.Sweep, state receivers, err error) {
	row, err = store.Sweep(ctx, "", rowReceivers)
	if err == nil && len(row.State) > 0 && json.Unmarshal(row.State, &state) != nil {
		state = receivers{} // another version's
	}
	return row, state, err
}

func saveReceivers(ctx context.Context, store Checkpoints, row mirror.Sweep, state receivers, now time.Time) (err error) {
	if row.State, err = json.Marshal(state); err != nil {
		return err
	}
	row.StartedAt = now
	return store.SaveSweep(ctx, row)
}

// lateness says why a webhook that did not come in time is no fault.
type lateness uint8

const (
	// onTime: it should have come at once.
	onTime lateness = iota
	// ofHistory: the event is older than the first copy, which read what it changed.
	ofHistory
	// whileAway: no receiver took it, and Stripe delivers it again for days.
	whileAway
)

// Late reports for which events of an account the webhook may come late, or not at all,
// without a fault: those are no drift, and say nothing of how fresh the mirror is.
type Late struct {
	copied time.Time
	stops  []stop
}

// LateEvents reads what is known at a time.
func LateEvents(ctx context.Context, store Checkpoints, account string, now time.Time) (Late, error) {
	backfill, err := store.Sweep(ctx, account, SweepBackfill)
	if err != nil {
		return Late{}, err
	}
	var at Copied
	_ = json.Unmarshal(backfill.State, &at) //nolint:errcheck // without one nothing is history
	row, state, err := readReceivers(ctx, store)
	if err != nil {
		return Late{}, err
	}
	// Stripe's times are whole seconds: what happened within the first one may be new.
	l := Late{copied: at.Since.Truncate(time.Second), stops: state.Stops}
	runs := len(state.without("", now)) > 0
	if seen := row.StartedAt; !seen.IsZero() && !runs && (state.Stopped || now.Sub(seen) > receiverGone) {
		l.stops = append(slices.Clone(l.stops), stop{From: seen, To: now})
	}
	return l, nil
}

// Excused reports whether an event that was created at that time is one of them.
func (l Late) Excused(created time.Time) bool { return l.judge(created) != onTime }

func (l Late) judge(created time.Time) lateness {
	if created.Before(l.copied) {
		return ofHistory
	}
	for _, s := range l.stops {
		if !created.Before(s.From.Add(-awaySlack)) && !created.After(s.To.Add(awaySlack)) {
			return whileAway
		}
	}
	return onTime
}
