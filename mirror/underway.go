package mirror

import (
	"context"
	"time"
)

// UnderWay tracks syncs that have begun. Both drivers keep it.
type UnderWay interface {
	// SyncUnderWay reports whether what began on the target last, by BeginSync, began
	// within the given time by the database's clock, and has not committed. It may be
	// dead, or have been refused.
	SyncUnderWay(ctx context.Context, t Target, within time.Duration) (bool, error)
}

// Clock is the clock of the database, which all its processes share. Both drivers
// keep it.
type Clock interface {
	DatabaseTime(ctx context.Context) (time.Time, error)
}
