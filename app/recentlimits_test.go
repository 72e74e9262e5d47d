package app

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// countedSweeps counts how often the limits are read.
type countedSweeps struct {
	mirror.Store
	reads int
}

func (c *countedSweeps) Sweeps(context.Context) ([]mirror.Sweep, error) {
	c.reads++
	return nil, nil
}

// Whoever reaches the listener may ask whether the process is ready: the database is
// asked for the limits once in a while, however often that is.
func TestReadinessDoesNotReadTheDatabaseEachTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &countedSweeps{}
		var l recentLimits
		for range 1000 {
			l.read(t.Context(), &Parts{Store: store})
		}
		if store.reads != 1 {
			t.Errorf("%d reads of the database for 1000 questions", store.reads)
		}
		time.Sleep(readyInterval)
		l.read(t.Context(), &Parts{Store: store})
		if store.reads != 2 {
			t.Errorf("%d reads after a while, want 2", store.reads)
		}
	})
}
