package redisconn

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// LogTo sends what the Redis client library has to say (lost connections,
// failovers) to log, at level WARN. The library has one logger per process and
// writes to standard error by default, so call it once, at start. It says
// the same for every connection and every try: one line a minute is enough, with how
// many there were.
func LogTo(log *zap.Logger) {
	redis.SetLogger(&libraryLog{log: log.With(zap.String("component", "redis"))})
}

// sayAgain is how long the library's lines are only counted after one.
const sayAgain = time.Minute

type libraryLog struct {
	log *zap.Logger

	mu     sync.Mutex
	said   time.Time
	unsaid int
}

// Printf implements the library's logger.
func (l *libraryLog) Printf(_ context.Context, format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.said.IsZero() && now.Sub(l.said) < sayAgain {
		l.unsaid++
		return
	}
	fields := []zap.Field{zap.String("detail", fmt.Sprintf(format, v...))}
	if l.unsaid > 0 {
		fields = append(fields, zap.Int("lines_left_out", l.unsaid))
	}
	l.said, l.unsaid = now, 0
	l.log.Warn("redis client", fields...)
}
