package reconcile

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
)

// databaseSight is how the database was seen.
type databaseSight struct {
	// System is as Progress.DatabaseSystem returns it; History and Looks are ID and HighWater
	// of mirror.DatabasePartition.
	System  string `json:"system,omitempty"`
	History string `json:"history,omitempty"`
	Looks   int64  `json:"looks"`
}

// databaseStore is the database that is watched.
type databaseStore interface {
	mirror.Incarnations
	pending
}

// DatabaseWatch notices that the mirror's database is not the one it was: a standby
// that lagged was promoted, a backup restored, a file put back, or another database put
// in its place. What was received and synced in the time that is lost is not known any
// more, while Redis takes it for done.
//
// The database counts the looks at it. How it was seen last is kept in this process and
// in Redis: a database that counted less, whose history has another name, or whose log
// another timeline, is not the one that was seen. The timeline also shows what was
// lost between two looks. A promotion that lost nothing looks the same as one that
// did.
type DatabaseWatch struct {
	store databaseStore
	queue Queue
	log   *zap.Logger

	// mu makes looks take turns.
	mu sync.Mutex
	// seen is the last look of this process, while it has held the lease.
	seen *databaseSight
	// lost: it was found put back, and not everything was marked again since.
	lost bool
}

// NewDatabaseWatch returns a DatabaseWatch that has seen nothing.
func NewDatabaseWatch(store databaseStore, queue Queue, log *zap.Logger) *DatabaseWatch {
	return &DatabaseWatch{store: store, queue: queue, log: log}
}

// Forget makes the next look ask Redis how the database was seen last: others may have
// looked since this process did.
func (w *DatabaseWatch) Forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen, w.lost = nil, false
}

// Look reports whether the database is not the one that was seen; it goes on to say so
// until Healed. noticed says that this look is the first to find it. A database that is
// sound has counted one look more.
func (w *DatabaseWatch) Look(ctx context.Context) (lost, noticed bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost {
		return true, false, nil
	}
	is, known, err := w.read(ctx)
	if err != nil {
		return false, false, err
	}
	if w.seen == nil {
		if w.seen, err = w.kept(ctx); err != nil {
			return false, false, err
		}
	}
	if w.seen != nil && (!known || is.before(*w.seen)) {
		w.lost = true
		return true, true, nil
	}
	is.Looks++
	return false, false, w.save(ctx, is)
}

// before reports whether a sight is of another database than a later one, or of the
// same one at an earlier time.
func (is databaseSight) before(seen databaseSight) bool {
	return is.History != seen.History || is.Looks < seen.Looks ||
		is.System != seen.System && is.System != "" && seen.System != ""
}

// Healed gives the database's history a new name, once all that may be lost is marked
// again, so that positions in its change feed from before are reported as gone.
func (w *DatabaseWatch) Healed(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	is, _, err := w.read(ctx)
	if err != nil {
		return err
	}
	is.History = rand.Text()
	is.Looks = 1
	if err := w.save(ctx, is); err != nil {
		return err
	}
	w.lost = false
	return nil
}

func (w *DatabaseWatch) read(ctx context.Context) (is databaseSight, known bool, err error) {
	if is.System, err = w.store.DatabaseSystem(ctx); err != nil {
		return is, false, err
	}
	list, err := w.store.Incarnations(ctx)
	if err != nil {
		return is, false, fmt.Errorf("read the database's mark: %w", err)
	}
	for _, i := range list {
		if i.Partition == mirror.DatabasePartition {
			is.History, is.Looks, known = i.ID, i.HighWater, true
		}
	}
	return is, known, nil
}

// kept is the last look that Redis knows of.
func (w *DatabaseWatch) kept(ctx context.Context) (*databaseSight, error) {
	text, err := w.queue.DatabaseMark(ctx)
	if err != nil || text == "" {
		return nil, err
	}
	var seen databaseSight
	if json.Unmarshal([]byte(text), &seen) != nil {
		w.log.Warn("database incarnation in redis is unreadable; writing a new one")
		return nil, nil
	}
	return &seen, nil
}

// save counts a look in the database, then here, then in Redis: whoever is cut off in
// between has seen less than the database counted, which is sound.
func (w *DatabaseWatch) save(ctx context.Context, is databaseSight) error {
	if err := w.store.SaveIncarnation(ctx, mirror.Incarnation{Partition: mirror.DatabasePartition, ID: is.History, HighWater: is.Looks}); err != nil {
		return err
	}
	w.seen = &is
	text, err := json.Marshal(is)
	if err != nil {
		return err
	}
	return w.queue.KeepDatabaseMark(ctx, string(text))
}

// databaseLost reports whether the database has lost what was committed, and logs it
// where this look is the first to find it.
func (r *Runner) databaseLost(ctx context.Context) (bool, error) {
	lost, noticed, err := r.database.Look(ctx)
	if noticed {
		r.m.rewound.Inc()
		r.o.Log.Warn("database was restored, promoted or replaced; looking for what it may have lost")
	}
	return lost, err
}

// lookAtDatabase marks again what a database that was put back may have lost: what it
// holds unanswered and unfinished, since Redis takes it for done, and by a pass over
// events and balances what it does not know of any more.
func (r *Runner) lookAtDatabase(ctx context.Context) {
	lost, err := r.databaseLost(ctx)
	if err == nil && lost {
		var n int
		n, err = remarkLost(ctx, r.store, r.queue)
		r.m.remarked.Add(float64(n))
		if err == nil {
			err = r.rewindEvents(ctx, mirror.CauseRewound)
		}
		if err == nil {
			_, err = r.remarkUnfinished(ctx)
		}
		if err == nil {
			err = r.database.Healed(ctx)
		}
		if err == nil {
			r.askBalances(mirror.CauseRewound)
			r.askEvents()
			r.o.Log.Info("enqueued the database's unfinished work again", zap.Int("remarked", n))
		}
	}
	if err != nil {
		r.failed(ctx, "database", "", err)
	}
}
