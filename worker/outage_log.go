package worker

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// outageLogInterval is how often an outage that persists is logged again.
const outageLogInterval = time.Minute

// OutageLog logs something that fails in one line when it begins, one a minute with how
// often it failed, and one when it is over.
type OutageLog struct {
	to           *zap.Logger
	begun, ended string
	now          func() time.Time // nil: time.Now

	mu          sync.Mutex
	since, told time.Time
	last        time.Time // that something failed
	fails       int
	affected    int
}

// NewOutageLog makes one; begun and ended are the messages.
func NewOutageLog(log *zap.Logger, begun, ended string) *OutageLog {
	return &OutageLog{to: log, begun: begun, ended: ended, now: time.Now}
}

// Failed counts a failure that kept so many things waiting.
func (o *OutageLog) Failed(err error, affected int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	o.fails++
	o.last = now
	o.affected += affected
	switch {
	case o.since.IsZero():
		o.since, o.told = now, now
		o.to.Warn(o.begun, zap.Error(err))
	case now.Sub(o.told) >= outageLogInterval:
		o.told = now
		o.to.Warn(o.begun, o.fields(now, zap.Error(err))...)
	}
}

// quiet is how long nothing may have failed for an outage to be over: where some of many
// calls fail, it goes on.
const quiet = 5 * time.Second

// Over notes that something worked. It logs the end, if anything failed and nothing has
// for some seconds.
func (o *OutageLog) Over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() || o.now().Sub(o.last) < quiet {
		return
	}
	o.to.Info(o.ended, o.fields(o.now())...)
	o.since, o.fails, o.affected = time.Time{}, 0, 0
}

func (o *OutageLog) fields(now time.Time, more ...zap.Field) []zap.Field {
	fields := append([]zap.Field{zap.Duration("for", now.Sub(o.since).Round(time.Millisecond)), zap.Int("failures", o.fails)}, more...)
	if o.affected > 0 {
		fields = append(fields, zap.Int("affected", o.affected))
	}
	return fields
}
