package app

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/queue"
	"github.com/creditmirror/creditmirror/webhook"
	"github.com/creditmirror/creditmirror/worker"
)

const (
	// markPatience is how long the receiver waits for Redis where the inbox already holds
	// the event: Stripe waits for the answer.
	markPatience = 500 * time.Millisecond
	// postponeInterval is how often marks that were not made are tried again.
	postponeInterval = time.Second
	// maxPostponed bounds what is remembered of them. Those beyond it are found in the
	// inbox, which takes half a minute longer.
	maxPostponed = 100_000
	// postponedAtOnce is how many are tried at a time.
	postponedAtOnce = 1000
)

// postponed are the receiver's marks. With the inbox on an event is durable before it is
// marked: a Redis that is away, or a part of it, does not keep it from being accepted,
// and the mark is made when Redis is back.
type postponed struct {
	marks *marks
	inbox *switchedInbox
	log   *worker.OutageLog
	gauge prometheus.Gauge

	mu    sync.Mutex
	later map[postponedKey]webhook.Marking
}

type postponedKey struct{ target, event string }

func newPostponed(m *marks, inbox *switchedInbox, r prometheus.Registerer, log *zap.Logger) *postponed {
	return &postponed{
		marks: m, inbox: inbox, later: map[postponedKey]webhook.Marking{},
		log: worker.NewOutageLog(log, "redis cannot enqueue; events are saved in the inbox and enqueued later", "redis can enqueue again"),
		gauge: promauto.With(r).NewGauge(prometheus.GaugeOpts{
			Name: "creditmirror_marks_postponed", Help: "Targets of accepted events that wait to be enqueued until Redis, or a partition of it, is back.",
		}),
	}
}

// Mark makes the marks, now or later.
func (p *postponed) Mark(ctx context.Context, markings []webhook.Marking) ([]bool, error) {
	if !p.inbox.holds() {
		coalesced, err := p.marks.Mark(ctx, markings)
		if err != nil && !errors.Is(err, queue.ErrInvalid) {
			p.inbox.refused() // the next delivery is recorded first
		}
		return coalesced, err
	}
	patience, cancel := context.WithTimeout(ctx, markPatience)
	defer cancel()
	coalesced, left, err := p.marks.MarkEach(patience, markings)
	switch {
	case err == nil:
		return coalesced, nil
	case errors.Is(err, queue.ErrInvalid), errors.Is(err, errAccount): // what is wrong is not Redis
		return nil, err
	case coalesced == nil:
		coalesced = make([]bool, len(markings))
	}
	p.inbox.refused() // or keep it on
	p.keep(left)
	p.log.Failed(err, len(left))
	return coalesced, nil
}

func (p *postponed) keep(markings []webhook.Marking) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range markings {
		if len(p.later) < maxPostponed {
			p.later[postponedKey{m.Target.Key(), m.Event.ID}] = m
		}
	}
	p.gauge.Set(float64(len(p.later)))
}

// loop makes the marks that were not made, until ctx ends. What is left then is found in
// the inbox by who reconciles.
func (p *postponed) loop(ctx context.Context) {
	tick := time.NewTicker(postponeInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.again(ctx)
		}
	}
}

func (p *postponed) again(ctx context.Context) {
	p.mu.Lock()
	some := make([]webhook.Marking, 0, min(len(p.later), postponedAtOnce))
	for _, m := range p.later { // in no order, so that those of a dead part hold up no others
		if len(some) == cap(some) {
			break
		}
		some = append(some, m)
	}
	p.mu.Unlock()
	// One command is made of them: the same one every time, for a simulation.
	slices.SortFunc(some, func(a, b webhook.Marking) int {
		return cmp.Or(cmp.Compare(a.Target.Key(), b.Target.Key()), a.Event.Created.Compare(b.Event.Created), cmp.Compare(a.Event.ID, b.Event.ID))
	})
	if len(some) == 0 {
		p.log.Over()
		return
	}
	patience, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, left, err := p.marks.MarkEach(patience, some)
	if err != nil {
		p.log.Failed(err, 0)
	}
	waits := make(map[postponedKey]bool, len(left))
	for _, m := range left {
		waits[postponedKey{m.Target.Key(), m.Event.ID}] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range some {
		if key := (postponedKey{m.Target.Key(), m.Event.ID}); !waits[key] {
			delete(p.later, key)
		}
	}
	p.gauge.Set(float64(len(p.later)))
}
