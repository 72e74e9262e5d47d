package webhook

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/creditmirror/creditmirror/mirror"
)

// sampled lets five entries of each message through per minute. Metrics count
// all; the log must not fill a disk because somebody keeps knocking.
func sampled(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, time.Minute, 5, 0)
	}))
}

// loggedEvent logs who and what, never the payload.
type loggedEvent mirror.Event

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (e loggedEvent) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("event_id", e.ID)
	enc.AddString("event_type", clip(e.Type))
	if e.Customer != "" {
		enc.AddString("customer_id", e.Customer)
	}
	if e.Account != "" {
		enc.AddString("account", e.Account)
	}
	return nil
}

// clip bounds a text whose length nothing else bounds.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most]
	}
	return s
}
