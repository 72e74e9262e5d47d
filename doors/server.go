package doors

import (
	"log"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// MaxHeader bounds the header of a request, in bytes; net/http reads 4 KiB more.
const MaxHeader = 16 << 10

// NewServer returns a server with the bounds that every listener has: a request's header
// within seconds, no HTTP/2, whose streams would have to be bounded too, no answer of
// net/http's own to OPTIONS *, and connections as the guard wants them. Times of the body
// and the answer are the caller's to set.
func NewServer(h http.Handler, b Bounds) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	logger := b.Log
	if logger == nil {
		logger = zap.NewNop()
	}
	s := &http.Server{
		Handler: h, Protocols: &protocols, ReadHeaderTimeout: 2 * time.Second, IdleTimeout: 60 * time.Second, MaxHeaderBytes: MaxHeader,
		DisableGeneralOptionsHandler: true, ErrorLog: log.New(serverLog{b.Name, sampled(logger)}, "", 0),
	}
	NewGuard(b).Apply(s)
	return s
}

// sampled lets five lines a minute through: the log must not fill a disk because somebody
// keeps knocking.
func sampled(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, time.Minute, 5, 0)
	}))
}

// serverLog takes what net/http has to say: failing accepts and handshakes, and the like.
type serverLog struct {
	listener string
	log      *zap.Logger
}

func (l serverLog) Write(p []byte) (int, error) {
	l.log.Warn("connection failed", zap.String("listener", l.listener), zap.String("error", strings.TrimSpace(string(p))))
	return len(p), nil
}
