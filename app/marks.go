package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/queue"
	"github.com/creditmirror/creditmirror/reconcile"
	"github.com/creditmirror/creditmirror/webhook"
)

// marks translates between the queue, which knows keys, and those who mark
// targets: the receiver, the worker and the sweeps.
type marks struct {
	queue *queue.Queue
	// ledgers are those that are mirrored: nothing of others is marked.
	ledgers mirror.Ledgers
	// seen remembers a connected account before its first mark; nil where the
	// accounts are configured by name.
	seen func(ctx context.Context, account string) error

	mu    sync.Mutex
	known map[string]bool
}

func newMarks(q *queue.Queue, ledgers mirror.Ledgers, seen func(ctx context.Context, account string) error) *marks {
	return &marks{queue: q, ledgers: ledgers, seen: seen, known: map[string]bool{}}
}

// errAccount: the database did not take an account.
var errAccount = errors.New("remember account")

// remember stores accounts that this process has not met before.
func (m *marks) remember(ctx context.Context, account string) error {
	if m.seen == nil || account == "" {
		return nil
	}
	m.mu.Lock()
	known := m.known[account]
	m.mu.Unlock()
	if known {
		return nil
	}
	if err := m.seen(ctx, account); err != nil {
		return fmt.Errorf("%w %s: %w", errAccount, account, err)
	}
	m.mu.Lock()
	m.known[account] = true
	m.mu.Unlock()
	return nil
}

// Mark is the receiver's way in.
func (m *marks) Mark(ctx context.Context, markings []webhook.Marking) ([]bool, error) {
	coalesced, _, err := m.MarkEach(ctx, markings)
	if err != nil {
		return nil, err
	}
	return coalesced, nil
}

// MarkEach is Mark where a part of the queue may be away: it also returns the markings
// that were not made. These are all where there are no answers beside the error.
func (m *marks) MarkEach(ctx context.Context, markings []webhook.Marking) (coalesced []bool, left []webhook.Marking, err error) {
	batch := make([]queue.Mark, len(markings))
	for i, w := range markings {
		if err := m.remember(ctx, w.Target.Account); err != nil {
			return nil, markings, err
		}
		batch[i] = queue.Mark{Key: w.Target.Key(), Class: queue.Live, Ref: refOf(w.Event)}
	}
	outcomes, err := m.queue.MarkEach(ctx, batch)
	if err != nil && outcomes == nil {
		return nil, markings, err
	}
	coalesced = make([]bool, len(outcomes))
	for i, o := range outcomes {
		coalesced[i] = o == queue.Coalesced
		if o == queue.Unmarked {
			left = append(left, markings[i])
		}
	}
	return coalesced, left, err
}

// refOf is an event as the queue carries it. A trace that makes it too long is left
// out: the queue would leave out all of it.
func refOf(e mirror.EventRef) string {
	text := e.String()
	if len(text) > queue.MaxRef {
		e.Trace = ""
		text = e.String()
	}
	return text
}

// MarkTargets is the worker's: every event asks for every target.
func (m *marks) MarkTargets(ctx context.Context, targets []mirror.Target, refs []mirror.EventRef) error {
	batch := make([]queue.Mark, 0, len(targets)*max(len(refs), 1))
	for _, t := range m.ledgers.Of(targets) {
		if len(refs) == 0 {
			batch = append(batch, queue.Mark{Key: t.Key(), Class: queue.Live})
		}
		for _, r := range refs {
			batch = append(batch, queue.Mark{Key: t.Key(), Class: queue.Live, Ref: refOf(r)})
		}
	}
	return m.mark(ctx, batch)
}

// MarkLive is the sweeps' way in for missed events.
func (m *marks) MarkLive(ctx context.Context, list []reconcile.Mark) error {
	batch := make([]queue.Mark, 0, len(list))
	for _, l := range list {
		if m.ledgers.Has(l.Target.Scope) {
			batch = append(batch, queue.Mark{Key: l.Target.Key(), Class: queue.Live, Ref: refOf(l.Event)})
		}
	}
	return m.mark(ctx, batch)
}

// MarkSwept is the sweeps' way in for everything else. They are worked on in about
// the order given: marks of the same millisecond would be sorted by their keys.
func (m *marks) MarkSwept(ctx context.Context, targets []mirror.Target) error {
	targets = m.ledgers.Of(targets)
	batch := make([]queue.Mark, len(targets))
	for i, t := range targets {
		batch[i] = queue.Mark{Key: t.Key(), Class: queue.Sweep, Delay: time.Duration(i/8) * time.Millisecond}
	}
	return m.mark(ctx, batch)
}

func (m *marks) mark(ctx context.Context, batch []queue.Mark) error {
	if len(batch) == 0 {
		return nil
	}
	_, err := m.queue.Mark(ctx, batch)
	return err
}

// Queued reports for each target whether it waits or is in work.
func (m *marks) Queued(ctx context.Context, targets []mirror.Target) ([]bool, error) {
	keys := make([]string, len(targets))
	for i, t := range targets {
		keys[i] = t.Key()
	}
	return m.queue.Contains(ctx, keys)
}

// Backlog is how many targets of the swept class wait.
func (m *marks) Backlog(ctx context.Context) (int, error) {
	s, err := m.queue.Stats(ctx)
	return s.ReadySweep, err
}

// Incarnations reads the marks by which a lost Redis is noticed.
func (m *marks) Incarnations(ctx context.Context) ([]mirror.Incarnation, error) {
	list, err := m.queue.Incarnations(ctx)
	out := make([]mirror.Incarnation, len(list))
	for i, l := range list {
		out[i] = mirror.Incarnation{Partition: l.Partition, ID: l.ID, HighWater: l.HighWater}
	}
	return out, err
}

// Stamp replaces one of them, unless Redis has lost the one that was read.
func (m *marks) Stamp(ctx context.Context, was, is mirror.Incarnation) (bool, error) {
	return m.queue.Stamp(ctx, queue.Incarnation(was), queue.Incarnation(is))
}

// DatabaseMark reads how the database was seen last.
func (m *marks) DatabaseMark(ctx context.Context) (string, error) { return m.queue.DatabaseMark(ctx) }

// KeepDatabaseMark writes it down in Redis.
func (m *marks) KeepDatabaseMark(ctx context.Context, mark string) error {
	return m.queue.KeepDatabaseMark(ctx, mark)
}
