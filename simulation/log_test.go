package simulation

import (
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// traceLog writes a process's log into the trace of a replay. It is no part of the
// trace's hash.
func traceLog(w *world, p *process) *zap.Logger {
	encoder := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{MessageKey: "m", LevelKey: "l", EncodeLevel: zapcore.CapitalLevelEncoder})
	return zap.New(zapcore.NewCore(encoder, zapcore.AddSync(lines(func(line string) {
		w.sched.trace("             " + p.name + " " + strings.TrimSpace(line))
	})), zap.DebugLevel))
}

type lines func(string)

func (l lines) Write(b []byte) (int, error) {
	l(string(b))
	return len(b), nil
}
