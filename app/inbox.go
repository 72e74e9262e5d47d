package app

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
)

// durabilityInterval is how often Redis is asked for its settings: somebody may
// change them while it runs.
const durabilityInterval = time.Minute

// switchedInbox records events in the mirror's database before they are marked,
// as long as Redis alone would not keep them.
type switchedInbox struct {
	parts   *Parts
	mode    config.Inbox
	active  atomic.Bool
	since   atomic.Int64 // when it was switched on last, in ns; 0: at the start
	failed  atomic.Int64 // when Redis last took no mark, in ns; 0: never
	durable prometheus.Gauge
	log     *zap.Logger
}

func newSwitchedInbox(ctx context.Context, p *Parts, mode config.Inbox, r prometheus.Registerer, log *zap.Logger) (*switchedInbox, error) {
	b := &switchedInbox{parts: p, mode: mode, log: log, durable: promauto.With(r).NewGauge(prometheus.GaugeOpts{
		Name: "creditmirror_redis_durable", Help: "1 when Redis says appendonly yes, appendfsync always and maxmemory-policy noeviction.",
	})}
	b.active.Store(mode != config.InboxOff)
	promauto.With(r).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "creditmirror_inbox_active", Help: "1 while events are written to the mirror's database before their targets are enqueued in Redis.",
	}, func() float64 {
		if b.on() {
			return 1
		}
		return 0
	})
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return b, b.check(ctx)
}

// on reports whether events are recorded.
func (b *switchedInbox) on() bool { return b.active.Load() }

// RecordEvents records events, or passes all of them when the inbox is off.
func (b *switchedInbox) RecordEvents(ctx context.Context, events []mirror.Event) ([]mirror.Receipt, error) {
	if !b.on() {
		return make([]mirror.Receipt, len(events)), nil
	}
	return b.parts.Store.RecordEvents(ctx, events)
}

// turnOn is for a Redis of which the best can no longer be assumed.
func (b *switchedInbox) turnOn() {
	if b.mode == config.InboxAuto {
		b.set(true)
	}
}

// refused is for a Redis that took no mark.
func (b *switchedInbox) refused() {
	b.failed.Store(time.Now().UnixNano())
	b.turnOn()
}

func (b *switchedInbox) set(on bool) {
	if b.active.CompareAndSwap(!on, on) && on {
		b.since.Store(time.Now().UnixNano())
	}
}

// settled is longer than the receiver works on an event.
const settled = 5 * time.Second

// holds reports whether every event that the receiver is about to mark has been recorded:
// the inbox is on, and was when the event came.
func (b *switchedInbox) holds() bool {
	return b.on() && time.Since(time.Unix(0, b.since.Load())) > settled
}

// check asks Redis what it keeps. Only one that may evict keys is an error; one
// that does not answer may come later.
func (b *switchedInbox) check(ctx context.Context) error {
	d, err := b.parts.Redis.Durability(ctx)
	if err != nil {
		b.durable.Set(0)
		b.turnOn()
		b.log.Warn("redis CONFIG GET failed; treating it as not durable", zap.Bool("inbox", b.on()), zap.Error(err))
		return nil
	}
	if d.Evicts {
		b.durable.Set(0)
		b.turnOn()
		return fmt.Errorf("%w: %s; set maxmemory-policy noeviction", ErrEvicts, strings.Join(d.Reasons, "; "))
	}
	b.durable.Set(0)
	if d.Durable {
		b.durable.Set(1)
	}
	switch {
	case d.Durable && time.Since(time.Unix(0, b.failed.Load())) < durabilityInterval:
		// It keeps what it takes, but it did not take what was marked.
	case b.mode == config.InboxAuto && b.active.Load() == d.Durable:
		b.set(!d.Durable)
		b.log.Info("inbox switched to match redis's durability", zap.Bool("inbox", !d.Durable), zap.Strings("reasons", d.Reasons))
	case b.mode == config.InboxOff && !d.Durable:
		b.log.Warn("inbox is off and redis is not durable; only the sweeps would find lost events", zap.Strings("reasons", d.Reasons))
	}
	return nil
}

func (b *switchedInbox) loop(ctx context.Context) {
	ticker := time.NewTicker(durabilityInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := b.check(ctx); err != nil && ctx.Err() == nil {
				b.log.Error("redis may evict keys", zap.Error(err))
			}
		}
	}
}
