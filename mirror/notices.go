package mirror

import (
	"context"
	"time"
)

// Notice is a step of a finding that somebody outside is notified of: that it was
// opened, or that it was closed.
type Notice struct {
	// Finding is as it stands now: that of an opening may be closed already.
	Finding Finding
	// Closed is true in the second step.
	Closed bool
	// At is when the finding was found, or closed; never before it was found.
	At time.Time
}

// Notices keeps which steps of findings have been notified. The rows of findings are
// the list: whoever opens or closes one has nothing to write besides.
type Notices interface {
	// PendingNotices lists steps not marked as sent, of findings that were found at
	// since or later (and not closed before it), by time, at most limit. The opening
	// of a finding always comes before its closing.
	PendingNotices(ctx context.Context, since time.Time, limit int) ([]Notice, error)
	// CountNotices counts what PendingNotices can list.
	CountNotices(ctx context.Context, since time.Time) (int64, error)
	// MarkNotice marks a step as sent, and with a closing its opening too. Marking
	// once more changes nothing.
	MarkNotice(ctx context.Context, n Notice) error
}
