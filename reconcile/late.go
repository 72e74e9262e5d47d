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

// stop is a time in which no receiver ran. A zero From is the time before the first
// one ever did.
type stop struct {
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to"`
}

// receivers is the state of the row that receivers write.
type receivers struct {
	Stops []stop `json:"stops,omitempty"`
	// Stopped tells that the last one to write stops.
	Stopped bool `json:"stopped,omitempty"`
}

// noted is the state once a receiver has said that it runs, or starts, at now; seen
// is when one last said so.
func (r receivers) noted(seen, now time.Time, starts bool) receivers {
	gone := starts || r.Stopped || now.Sub(seen) > receiverGone
	stops := slices.DeleteFunc(slices.Clone(r.Stops), func(s stop) bool { return now.Sub(s.To) > awayKept })
	if gone && now.After(seen) {
		if n := len(stops); n > 0 && !seen.After(stops[n-1].To) {
			stops[n-1].To = now // a start that was no more than one
		} else {
			stops = append(stops, stop{From: seen, To: now})
		}
	}
	return receivers{Stops: stops[max(len(stops)-maxAways, 0):]}
}

// NoteReceiver says that a process with the webhook role runs; starts, that it has
// just begun to, so that nothing listened since the last one said so.
func NoteReceiver(ctx context.Context, store mirror.Progress, now time.Time, starts bool) error {
	row, state, err := readReceivers(ctx, store)
	if err != nil {
		return err
	}
	return saveReceivers(ctx, store, row, state.noted(row.StartedAt, now, starts), now)
}

// NoteReceiverStops says that a process with the webhook role takes no more requests.
// Another one that goes on will say so.
func NoteReceiverStops(ctx context.Context, store mirror.Progress, now time.Time) error {
	row, state, err := readReceivers(ctx, store)
	if err != nil {
		return err
	}
	if row.StartedAt.After(now) {
		return nil
	}
	state.Stopped = true
	return saveReceivers(ctx, store, row, state, now)
}

func readReceivers(ctx context.Context, store mirror.Progress) (row mirror.Sweep, state receivers, err error) {
	row, err = store.Sweep(ctx, "", rowReceivers)
	if err == nil && len(row.State) > 0 && json.Unmarshal(row.State, &state) != nil {
		state = receivers{} // another version's
	}
	return row, state, err
}

func saveReceivers(ctx context.Context, store mirror.Progress, row mirror.Sweep, state receivers, now time.Time) (err error) {
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
	// whileAway: no receiver ran, and Stripe delivers it again for days.
	whileAway
)

// Late tells of which events of an account the webhook may come late, or not at all,
// without a fault: those are no drift, and say nothing of how fresh the mirror is.
type Late struct {
	copied time.Time
	stops  []stop
}

// LateEvents reads what is known at a time.
func LateEvents(ctx context.Context, store mirror.Progress, account string, now time.Time) (Late, error) {
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
	// Stripe tells whole seconds: what happened within the first one may be new.
	l := Late{copied: at.Since.Truncate(time.Second), stops: state.Stops}
	if seen := row.StartedAt; !seen.IsZero() && (state.Stopped || now.Sub(seen) > receiverGone) {
		l.stops = append(slices.Clone(l.stops), stop{From: seen, To: now})
	}
	return l, nil
}

// Excused tells whether an event that was created at that time is one of them.
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
