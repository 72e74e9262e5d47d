package app

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
)

// database is one whose clock is off by ahead, and whose answers take a while.
type database struct {
	mu           sync.Mutex
	ahead, takes time.Duration
	err          error
}

// set changes it while it may be asked.
func (d *database) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *database) DatabaseTime(context.Context) (time.Time, error) {
	d.mu.Lock()
	ahead, takes, err := d.ahead, d.takes, d.err
	d.mu.Unlock()
	time.Sleep(takes / 2)
	at := time.Now().Add(ahead).UTC()
	time.Sleep(takes - takes/2)
	return at, err
}

// Whatever the clock of the host says, the process has the database's, and never a
// later one.
func TestI12_TheDatabasesClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		host := 90 * time.Second
		db := &database{takes: 20 * time.Millisecond}
		registry := prometheus.NewRegistry()
		c, err := newClock(t.Context(), db, func() time.Time { return time.Now().Add(host) }, registry, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		off := func() time.Duration { return time.Now().Add(db.ahead).Sub(c.Now()) }
		if late := off(); late < 0 || late > db.takes {
			t.Errorf("late by %v", late)
		}
		if skew := testutil.ToFloat64(c.skew); skew < 89 || skew > 91 {
			t.Errorf("skew %v, want 90", skew)
		}
		time.Sleep(time.Hour)
		if late := off(); late < 0 || late > db.takes {
			t.Errorf("late by %v after an hour", late)
		}
		db.set(func() { db.takes = time.Second }) // a slow answer shows less than is known
		time.Sleep(time.Minute)
		if late := off(); late < 0 || late > 20*time.Millisecond {
			t.Errorf("late by %v after slow answers", late)
		}
		db.set(func() { db.ahead = -time.Minute }) // another server, after a failover
		time.Sleep(time.Minute)
		if late := off(); late < 0 || late > db.takes {
			t.Errorf("late by %v after a failover", late)
		}
		db.set(func() { db.err = errors.New("away") })
		time.Sleep(time.Hour)
		if late := off(); late < 0 || late > db.takes {
			t.Errorf("late by %v while the database is away", late)
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
		if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
			t.Errorf("%v, %v", problems, err)
		}
		if _, err := newClock(t.Context(), db, nil, prometheus.NewRegistry(), zap.NewNop()); err == nil {
			t.Error("a clock that was never told")
		}
	})
}
