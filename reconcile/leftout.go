package reconcile

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// toldOnce remembers which dead letters were logged.
type toldOnce struct{ letters sync.Map }

// leaveOut keeps objects of Stripe's list that cannot be mirrored as dead letters, so
// that a person can look at them: each costs only itself, and the list goes on. The log
// has each once.
func (t *toldOnce) leaveOut(ctx context.Context, store letterbox, log *zap.Logger, now time.Time, account, what string, bad []stripeapi.BadRow) error {
	for _, b := range bad {
		letter := mirror.DeadLetter{
			ID: mirror.UnreadableID(b.Raw), Target: mirror.Target{Account: account}, Payload: b.Raw, Attempts: 1,
			Reason: "a " + what + " in Stripe's list cannot be mirrored: " + b.Err.Error(), FirstFailedAt: now, LastFailedAt: now,
		}
		if b.ID != "" {
			letter.Reason = what + " " + b.ID + " in Stripe's list cannot be mirrored: " + b.Err.Error()
		}
		if err := store.SaveDeadLetter(ctx, letter); err != nil {
			return err
		}
		if _, told := t.letters.LoadOrStore(letter.ID, nil); told {
			continue
		}
		log.Error("skipped a stripe object that cannot be mirrored; saved as a dead letter",
			zap.String("account", account), zap.String("kind", what), zap.String("object_id", b.ID), zap.String("dead_letter_id", letter.ID), zap.Error(b.Err))
	}
	return nil
}
