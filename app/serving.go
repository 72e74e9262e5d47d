package app

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
)

// checkTime bounds the look for damage at the start: about a gigabyte on a usual disk.
const checkTime = 3 * time.Second

// file is a mirror in a file of this machine, which one serve at a time may work on and
// which may be damaged. *sqlite.Store is one.
type file interface {
	Claim(ctx context.Context, owner string) (release func() error, err error)
	CheckFile(ctx context.Context, limit time.Duration) (whole bool, err error)
	Broken() <-chan struct{}
	BrokenBy() error
	Readable(ctx context.Context) error
}

// prepare makes the mirror ready to be served: this process is the only serve on a file
// that is not damaged, and the schema is this program's.
func (a *App) prepare(store mirror.Store, ctx context.Context) error {
	f, ok := store.(file)
	if !ok {
		return store.Migrate(ctx)
	}
	host, _ := os.Hostname() //nolint:errcheck // the name only helps to find the process
	release, err := f.Claim(ctx, fmt.Sprintf("process %d on %s since %s, %s", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339Nano), a.o.Config.OpsAddr))
	if err != nil {
		return err
	}
	a.release = release
	whole, err := f.CheckFile(ctx, checkTime)
	if err != nil {
		return err
	}
	if !whole {
		a.log.Info("database file is too large to check in full at startup", zap.Duration("checked_for", checkTime))
	}
	return store.Migrate(ctx)
}

// watchFile reports once that the file is damaged. It returns an error, which stops
// the process, where nothing of it can be read any more.
func (a *App) watchFile(ctx context.Context) error {
	f, ok := a.parts.Store.(file)
	if !ok {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-f.Broken():
	}
	a.log.Error("database file is damaged; the process is no longer ready", zap.Error(f.BrokenBy()))
	look, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	if err := f.Readable(look); err != nil && ctx.Err() == nil {
		return fmt.Errorf("nothing of it can be served: %w", err)
	}
	return nil
}
