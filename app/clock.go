package app

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
)

const (
	// clockInterval is how often the database is asked for its time.
	clockInterval = 5 * time.Second
	clockTimeout  = 2 * time.Second
)

// clock is the database's clock as this process knows it. Times that processes
// compare with each other's come from it, so that a host whose clock is off makes no
// copy look fresh. It runs on between two questions as the host's own clock does, and
// is never ahead of the database's.
type clock struct {
	ask  func(ctx context.Context) (time.Time, error)
	host func() time.Time
	skew prometheus.Gauge
	log  *zap.Logger

	mu sync.Mutex
	// said is what the database said when the host's clock was at.
	said, at time.Time
	warned   bool

	stop    context.CancelFunc
	stopped chan struct{}
}

// newClock asks the database once, and then now and then until it is closed. host nil
// is the real clock.
func newClock(ctx context.Context, db mirror.Clock, host func() time.Time, registry prometheus.Registerer, log *zap.Logger) (*clock, error) {
	if host == nil {
		host = time.Now
	}
	c := &clock{ask: db.DatabaseTime, host: host, log: log, stopped: make(chan struct{}), skew: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "creditmirror_database_clock_skew_seconds", Help: "How far the clock of this host is ahead of the database's.",
	})}
	if err := registry.Register(c.skew); err != nil {
		return nil, err
	}
	if err := c.measure(ctx); err != nil {
		return nil, err
	}
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	go c.run(ctx)
	return c, nil
}

func (c *clock) close() error {
	c.stop()
	<-c.stopped
	return nil
}

func (c *clock) run(ctx context.Context) {
	defer close(c.stopped)
	tick := time.NewTicker(clockInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			// A database that is away shows elsewhere; the clock runs on meanwhile.
			if err := c.measure(ctx); err != nil && ctx.Err() == nil {
				c.log.Debug("could not read the database clock", zap.Error(err))
			}
		}
	}
}

// measure asks for the time. The answer was right at some moment between the question
// and now, so that it is late now; an earlier one that was less late stays.
func (c *clock) measure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	asked := c.host()
	said, err := c.ask(ctx)
	if err != nil {
		return fmt.Errorf("ask the database for its time: %w", err)
	}
	now := c.host()
	took := now.Sub(asked)
	c.mu.Lock()
	defer c.mu.Unlock()
	if ours := c.said.Add(now.Sub(c.at)); c.said.IsZero() || ours.Before(said) || ours.After(said.Add(took)) {
		c.said, c.at = said, now
	}
	// The wall clocks, without what the monotonic one knows.
	skew := asked.Add(took / 2).Round(0).Sub(said)
	c.skew.Set(skew.Seconds())
	if off := skew.Abs() > 10*time.Second; off != c.warned {
		c.warned = off
		if off {
			c.log.Warn("host clock differs from the database clock", zap.Duration("ahead", skew))
		}
	}
	return nil
}

// Now is the database's time.
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.Add(c.host().Sub(c.at))
}
