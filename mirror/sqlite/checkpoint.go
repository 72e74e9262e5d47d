package sqlite

import (
	"context"
	"database/sql"
	"errors"
)

const (
	// commitsPerCheckpoint is how often the log is copied into the file: about as
	// often as SQLite itself would.
	commitsPerCheckpoint = 128
	// longLog is the number of pages from which the log must start anew.
	longLog = 4000
	// lastResort is the log's length in pages at which the writer itself copies it,
	// should the checkpointer not come through: 80 MiB.
	lastResort = 20000
)

// checkpointer copies the write-ahead log into the file beside the writer. Left
// to SQLite, every hundredth commit or so would wait for it (62 ms here, against
// half a millisecond of all others).
type checkpointer struct {
	w    *writer
	db   *sql.DB
	quit context.CancelFunc
	done chan struct{}
}

// startCheckpoints runs until stop.
func startCheckpoints(path string, w *writer) (*checkpointer, error) {
	db, err := sql.Open("sqlite", dsn(path, "busy_timeout(50)", "synchronous(NORMAL)"))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	ctx, quit := context.WithCancel(context.Background())
	c := &checkpointer{w: w, db: db, quit: quit, done: make(chan struct{})}
	go c.run(ctx)
	return c, nil
}

func (c *checkpointer) stop() error {
	c.quit()
	<-c.done
	return c.db.Close()
}

func (c *checkpointer) run(ctx context.Context) {
	defer close(c.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.w.grown:
		}
		// An error costs nothing but the log's growth: the next time tries again, and
		// the writer does it itself in the end and reports what it meets.
		pages, err := c.copy(ctx)
		if err != nil || pages < longLog {
			continue
		}
		// A log that is always a bit longer than what was copied never starts anew. With
		// nobody writing, copying the short rest makes it.
		select {
		case <-ctx.Done():
			return
		case <-c.w.turn:
			_, err = c.copy(ctx)
			c.w.turn <- struct{}{}
		}
		if errors.Is(err, context.Canceled) {
			return
		}
	}
}

// copy brings what it can into the file without waiting for anybody, and returns
// how long the log is.
func (c *checkpointer) copy(ctx context.Context) (pages int, err error) {
	var busy, copied int
	err = c.db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(PASSIVE)`).Scan(&busy, &pages, &copied)
	return pages, err
}
