package app

import (
	"context"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/report"
)

// newDays keeps the day table of the books up to date, each time it is called. A store
// that tests put in its place may have none.
func (a *App) newDays(log *zap.Logger) func(ctx context.Context) error {
	table, ok := a.parts.Store.(report.DayTable)
	if !ok {
		return nil
	}
	f := &report.Folder{Table: table, Now: a.parts.now()}
	return func(ctx context.Context) error {
		began := f.Now()
		done, err := f.Fold(ctx)
		if err == nil && done.Made != "" && !done.Lost {
			log.Info("rebuilt the day table of the books", zap.String("reason", done.Made), zap.Int64("rows", done.Rows),
				zap.Duration("duration", f.Now().Sub(began)))
		}
		return err
	}
}
