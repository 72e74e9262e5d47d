package reconcile

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
)

// pendingAge is how old an unanswered inbox event must be before a target that
// is not in the queue counts as lost: a healthy receiver marks it at once.
const pendingAge = 15 * time.Second

// pending lists what was received and is not answered.
type pending interface {
	PendingEvents(ctx context.Context, after int64, limit int) ([]mirror.PendingEvent, error)
	EventReceipts(ctx context.Context, account string, ids []string) ([]mirror.Receipt, error)
	letters
}

// letters lists dead letters.
type letters interface {
	DeadLetters(ctx context.Context, after string, limit int) ([]mirror.DeadLetter, error)
}

// RewindDetector notices that Redis is not the one it was: flushed, restored
// from a backup, failed over to a replica that lagged, or another one. Each
// partition of the queue carries a random id and a counter; the mirror's
// database keeps both, and a Redis that knows less than the database has
// forgotten marks.
type RewindDetector struct {
	store incarnations
	queue Queue
	log   *zap.Logger
}

// NewRewindDetector returns a RewindDetector.
func NewRewindDetector(store incarnations, queue Queue, log *zap.Logger) *RewindDetector {
	return &RewindDetector{store: store, queue: queue, log: log}
}

// Check compares the marks on both sides and returns the partitions that lost state.
// Partitions that are sound get a higher counter. Lost ones are reported again
// until Heal stamps them, so that a crash in between repairs again.
//
// Fresh means that nothing was ever stamped for them: a first start.
func (d *RewindDetector) Check(ctx context.Context) (lost []mirror.Incarnation, fresh bool, err error) {
	inRedis, err := d.queue.Incarnations(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("read the incarnations from redis: %w", err)
	}
	inStore, err := d.store.Incarnations(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("read the incarnations from the mirror: %w", err)
	}
	known := map[int]mirror.Incarnation{}
	for _, i := range inStore {
		known[i.Partition] = i
	}
	fresh = true
	for _, r := range inRedis {
		k, ok := known[r.Partition]
		if !ok || r.ID == "" || r.ID != k.ID || r.HighWater < k.HighWater {
			lost = append(lost, r)
			fresh = fresh && !ok && r.ID == ""
			continue
		}
		// Redis first: a crash between the two leaves it ahead, which is sound.
		stamped, err := d.stamp(ctx, r, mirror.Incarnation{Partition: r.Partition, ID: r.ID, HighWater: r.HighWater + 1})
		if err != nil {
			return nil, false, err
		}
		if !stamped { // lost since it was read: the next check finds it
			d.log.Debug("redis changed while it was checked")
		}
	}
	return lost, fresh && len(lost) > 0, nil
}

// Begin gives lost partitions a new id in Redis alone; to be called before what
// they lost is marked again. The database does not know the id until Heal, so that
// they count as lost until then.
func (d *RewindDetector) Begin(ctx context.Context, lost []mirror.Incarnation) ([]mirror.Incarnation, error) {
	begun := make([]mirror.Incarnation, len(lost))
	for n, was := range lost {
		begun[n] = mirror.Incarnation{Partition: was.Partition, ID: rand.Text(), HighWater: was.HighWater + 1}
		stamped, err := d.queue.Stamp(ctx, was, begun[n])
		if err != nil {
			return nil, fmt.Errorf("stamp the incarnation in redis: %w", err)
		}
		if !stamped {
			return nil, errLostAgain
		}
	}
	return begun, nil
}

// errLostAgain: what was marked again since Begin may be lost too.
var errLostAgain = errors.New("redis was lost once more while it was healed")

// Heal stores in the database the ids that Begin gave, once everything is marked again,
// unless Redis was lost meanwhile.
func (d *RewindDetector) Heal(ctx context.Context, begun []mirror.Incarnation) error {
	for _, was := range begun {
		is := was
		is.HighWater++
		stamped, err := d.stamp(ctx, was, is)
		if err != nil {
			return err
		}
		if !stamped {
			return errLostAgain
		}
	}
	return nil
}

// stamp replaces an incarnation in Redis, and then in the database.
func (d *RewindDetector) stamp(ctx context.Context, was, is mirror.Incarnation) (bool, error) {
	stamped, err := d.queue.Stamp(ctx, was, is)
	if err != nil {
		return false, fmt.Errorf("stamp the incarnation in redis: %w", err)
	}
	if !stamped {
		return false, nil
	}
	failpoint.Hit("redis.stamped")
	if err := d.store.SaveIncarnation(ctx, is); err != nil {
		return false, fmt.Errorf("stamp the incarnation in the mirror: %w", err)
	}
	return true, nil
}

// deadTargets are the targets with a dead letter: their events stay unanswered,
// and they are tried again every hour, not at every look.
func deadTargets(ctx context.Context, store letters) (map[mirror.Target]bool, error) {
	dead := map[mirror.Target]bool{}
	for after := ""; ; {
		page, err := store.DeadLetters(ctx, after, 500)
		if err != nil {
			return nil, err
		}
		for _, d := range page {
			dead[d.Target] = true
			after = d.ID
		}
		if len(page) < 500 {
			return dead, nil
		}
	}
}

// RemarkPending marks the targets of inbox events that no sync has answered and
// that are not in the queue: their mark was lost with Redis, or never made
// because the receiver was killed between the two. Events younger than minAge
// are left alone. It returns how many targets were marked.
func RemarkPending(ctx context.Context, store pending, queue Queue, now time.Time, minAge time.Duration) (int, error) {
	return remark(ctx, store, queue, now.Add(-minAge), true)
}

// remarkLost marks the targets of all unanswered inbox events, for a Redis that was
// lost. Its word is not taken for those that wait or are in work: in one that was
// rewound, that may be a claim from before, whose worker is about to complete it and
// knows nothing of the event. Nor does an event's age count, which depends on this
// host's clock.
func remarkLost(ctx context.Context, store pending, queue Queue) (int, error) {
	return remark(ctx, store, queue, time.Time{}, false)
}

// remark leaves out events created after newest; zero: none.
func remark(ctx context.Context, store pending, queue Queue, newest time.Time, trust bool) (int, error) {
	marked := 0
	for after := int64(0); ; {
		page, err := store.PendingEvents(ctx, after, 1000)
		if err != nil {
			return marked, err
		}
		var marks []Mark
		var targets []mirror.Target
		for _, p := range page {
			after = max(after, p.Seq)
			if newest.IsZero() || !p.Event.Created.After(newest) {
				marks = append(marks, Mark{Target: p.Target, Event: p.Event.Ref()})
				targets = append(targets, p.Target)
			}
		}
		if len(targets) > 0 {
			queued, err := queue.Queued(ctx, targets)
			if err != nil {
				return marked, err
			}
			dead, err := deadTargets(ctx, store)
			if err != nil {
				return marked, err
			}
			var lost []Mark
			for i, m := range marks {
				if !(trust && queued[i]) && !dead[m.Target] {
					lost = append(lost, m)
				}
			}
			if lost, err = stillPending(ctx, store, lost); err != nil {
				return marked, err
			}
			if len(lost) > 0 {
				if err := queue.MarkLive(ctx, lost); err != nil {
					return marked, err
				}
				marked += len(lost)
			}
		}
		if len(page) < 1000 {
			return marked, nil
		}
	}
}

// stillPending leaves out the marks whose events were answered between the look at the
// inbox and that at the queue.
func stillPending(ctx context.Context, store pending, marks []Mark) ([]Mark, error) {
	byAccount := map[string][]string{}
	for _, m := range marks {
		byAccount[m.Target.Account] = append(byAccount[m.Target.Account], m.Event.ID)
	}
	answered := map[string]bool{}
	for account, ids := range byAccount {
		receipts, err := store.EventReceipts(ctx, account, ids)
		if err != nil {
			return nil, err
		}
		for i, id := range ids {
			answered[account+" "+id] = receipts[i] == mirror.ReceiptApplied
		}
	}
	return slices.DeleteFunc(marks, func(m Mark) bool { return answered[m.Target.Account+" "+m.Event.ID] }), nil
}
