package api

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/mirror"
)

// cursors is what remembers how far readers of the change feed have read. A mirror
// without it keeps all records.
type cursors interface {
	SaveFeedCursor(ctx context.Context, c mirror.FeedCursor) error
}

// followInterval is how often a reader's place is written down: records are kept for
// days, so that a minute does not matter, and a long poll must not cost a write.
const followInterval = time.Minute

// followers notes the places of those who read the change feed with a key, so that
// nothing is pruned that they have not read. Without keys readers have no names.
type followers struct {
	mu    sync.Mutex
	noted map[string]time.Time
}

// note records that everything up to after was read.
func (f *followers) note(ctx context.Context, r reader, holder *access.Holder, account, after string, now time.Time, log *zap.Logger) {
	store, ok := r.(cursors)
	if !ok || holder == nil {
		return
	}
	name := "api-" + holder.Name
	f.mu.Lock()
	if f.noted == nil {
		f.noted = map[string]time.Time{}
	}
	key := name + "\x00" + account
	due := now.Sub(f.noted[key]) >= followInterval
	if due {
		f.noted[key] = now
	}
	f.mu.Unlock()
	if !due {
		return
	}
	// A cursor of PostgreSQL has two parts, of which the second is the number.
	digits, _, _ := strings.Cut(after, "@")
	if _, second, two := strings.Cut(digits, "."); two {
		digits = second
	}
	number, _ := strconv.ParseInt(digits, 10, 64) // the beginning is 0
	err := store.SaveFeedCursor(ctx, mirror.FeedCursor{Name: name, Account: account, Position: mirror.FeedPosition{Text: after, Number: number}})
	if err != nil && ctx.Err() == nil {
		log.Debug("could not save the position of a change feed reader", zap.Error(err))
	}
}
