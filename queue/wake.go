package queue

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Wait returns nil when there may be something to claim: somebody marked or
// gave back a key, a delayed key became due, or Options.Poll has passed. It
// returns ctx's error or [ErrClosed] otherwise.
//
// Claim first, and wait only when that returned less than asked for. One
// wake-up is passed from waiter to waiter while there is more to claim, so any
// number of goroutines may wait.
func (q *Queue) Wait(ctx context.Context) error {
	select {
	case <-q.Ready():
		return nil
	case <-q.waker.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Ready returns the channel behind [Queue.Wait], for use in a select. A receive
// takes the wake-up. It is never closed.
func (q *Queue) Ready() <-chan struct{} {
	q.waker.listen()
	return q.waker.ready
}

// waker turns messages from Redis, due times and a slow tick into one sticky
// wake-up. Nothing depends on a message for correctness: Redis forgets those
// that nobody hears.
type waker struct {
	client  redis.UniversalClient
	channel string
	poll    time.Duration

	ready  chan struct{} // holds one wake-up at most
	closed chan struct{}
	start  sync.Once
	wg     sync.WaitGroup

	mu     sync.Mutex
	timer  *time.Timer // fires at due
	due    time.Time   // zero: not set
	cancel context.CancelFunc
	done   bool
}

func (w *waker) init(client redis.UniversalClient, channel string, poll time.Duration) {
	w.client, w.channel, w.poll = client, channel, poll
	w.ready, w.closed = make(chan struct{}, 1), make(chan struct{})
}

// wake leaves a wake-up for the next waiter.
func (w *waker) wake() {
	select {
	case w.ready <- struct{}{}:
	default: // one is there already
	}
}

// wakeIn does so after d, or earlier if that was asked for before.
func (w *waker) wakeIn(d time.Duration) {
	if d <= 0 {
		w.wake()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	at := time.Now().Add(d)
	if w.done || !w.due.IsZero() && !at.Before(w.due) {
		return
	}
	w.due = at
	if w.timer == nil {
		w.timer = time.AfterFunc(d, w.fire)
		return
	}
	w.timer.Reset(d)
}

func (w *waker) fire() {
	w.mu.Lock()
	w.due = time.Time{}
	w.mu.Unlock()
	w.wake()
}

// listen subscribes, once, in the background. Processes that only mark never do.
func (w *waker) listen() {
	w.start.Do(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.done {
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		w.cancel = cancel
		w.wake() // for what was marked before anybody listened
		w.wg.Go(func() { w.run(ctx) })
	})
}

func (w *waker) run(ctx context.Context) {
	sub := w.client.Subscribe(ctx, w.channel)
	defer sub.Close()
	// The subscription checks its connection once per poll and subscribes again
	// by itself when that is broken.
	messages := sub.ChannelWithSubscriptions(redis.WithChannelHealthCheckInterval(w.poll))
	tick := time.NewTicker(w.poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.wake()
		case m, ok := <-messages:
			if !ok {
				messages = nil // the client was closed; the tick goes on
				continue
			}
			msg, ok := m.(*redis.Message)
			if !ok {
				w.wake() // subscribed (again): something may have been missed
				continue
			}
			ms, err := strconv.ParseInt(msg.Payload, 10, 64)
			if err != nil {
				ms = 0
			}
			w.wakeIn(time.Duration(min(ms, MaxDelay.Milliseconds())) * time.Millisecond)
		}
	}
}

func (w *waker) close() {
	w.mu.Lock()
	w.done = true
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.cancel != nil {
		w.cancel()
	}
	w.mu.Unlock()
	close(w.closed)
	w.wg.Wait()
}
