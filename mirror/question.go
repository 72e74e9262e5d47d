package mirror

import (
	"errors"
	"fmt"
	"time"
)

// ErrUnsynced: a question cannot be answered yet, because its answer names several
// customers of whom not all were synced since the events were received. The error is
// an UnsyncedError.
var ErrUnsynced = errors.New("not every customer was synced since the event")

// UnsyncedError is an ErrUnsynced that names the targets that are left.
type UnsyncedError struct{ Targets []Target }

func (e *UnsyncedError) Error() string {
	return fmt.Sprintf("%v: %s, and %d more", ErrUnsynced, e.Targets[0], len(e.Targets)-1)
}

func (e *UnsyncedError) Unwrap() error { return ErrUnsynced }

// OneCustomer reports whether the targets name one customer at most, which an event
// can carry.
func OneCustomer(targets []Target) bool {
	for _, t := range targets {
		if t.ID != targets[0].ID {
			return false
		}
	}
	return true
}

// SyncedSince judges whether the events of a question are answered by the syncs of
// targets, of which observed says when their last one began. What was received
// before the returned time is answered. Where an event that was received at newest is
// not, the error is an UnsyncedError.
func SyncedSince(targets []Target, observed []time.Time, newest time.Time) (before time.Time, err error) {
	var left []Target
	for i, at := range observed {
		if i == 0 || at.Before(before) {
			before = at
		}
		if !at.After(newest) {
			left = append(left, targets[i])
		}
	}
	if len(left) > 0 {
		err = &UnsyncedError{left}
	}
	return before, err
}
