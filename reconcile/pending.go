package reconcile

import (
	"context"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// pendingStore says what the database knows of pending work.
type pendingStore interface {
	letters
	ObservedAt(ctx context.Context, targets []mirror.Target) ([]time.Time, error)
	Unanswered(ctx context.Context, targets []mirror.Target) ([]bool, error)
}

// explained reports for each target whether pending work explains a difference that was
// seen at a time: it waits or is in work, an event that was received waits for a sync of
// it, though Redis may have lost its mark, or a sync that began since has joined. What
// a dead letter waits for explains nothing: it was tried in vain.
func explained(ctx context.Context, queue Queue, store pendingStore, targets []mirror.Target, seen func(i int) time.Time) ([]bool, error) {
	// In the order in which work moves on: what ends after one look is seen in the next.
	queued, err := queue.Queued(ctx, targets)
	if err != nil {
		return nil, err
	}
	unanswered, err := store.Unanswered(ctx, targets)
	if err != nil {
		return nil, err
	}
	synced, err := store.ObservedAt(ctx, targets)
	if err != nil {
		return nil, err
	}
	all := make([]bool, len(targets))
	var waiting []int // only for an event
	for i := range targets {
		all[i] = queued[i] || !synced[i].Before(seen(i))
		if !all[i] && unanswered[i] {
			waiting = append(waiting, i)
		}
	}
	if len(waiting) == 0 {
		return all, nil // there may be many dead letters, and none matters
	}
	dead, err := deadTargets(ctx, store)
	for _, i := range waiting {
		all[i] = !dead[targets[i]]
	}
	return all, err
}
