package redisconn

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// LogTo sends what the Redis client library has to say (lost connections,
// failovers) to log, at level WARN. The library has one logger per process and
// writes to standard error until told otherwise, so call it once, at start.
func LogTo(log *zap.Logger) { redis.SetLogger(libraryLog{log.With(zap.String("component", "redis"))}) }

type libraryLog struct{ log *zap.Logger }

// Printf implements the library's logger.
func (l libraryLog) Printf(_ context.Context, format string, v ...any) {
	l.log.Warn("redis client", zap.String("detail", fmt.Sprintf(format, v...)))
}
