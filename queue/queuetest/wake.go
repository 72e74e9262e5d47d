package queuetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/creditmirror/creditmirror/queue"
)

// noPoll makes sure that a wake-up came from a message or a due time, not from
// the poll.
const noPoll = time.Hour

// settle lets a queue subscribe and takes the wake-ups that come with that.
func (s *suite) settle(q *queue.Queue) {
	s.Helper()
	q.Ready()
	s.eventually("the subscription", func() bool {
		n, err := s.subscribers()
		return err == nil && n > 0
	})
	for {
		select {
		case <-q.Ready():
		case <-time.After(100 * time.Millisecond): // the message that says "subscribed" is on its way
			return
		}
	}
}

// subscribers counts who listens to the case's channel, over all nodes.
func (s *suite) subscribers() (int64, error) {
	channel := s.prefix + ":wake"
	var total atomic.Int64
	err := eachNode(s.Context(), s.h.Client, func(ctx context.Context, n node) error {
		subs, err := n.PubSubNumSub(ctx, channel).Result()
		total.Add(subs[channel])
		return err
	})
	return total.Load(), err
}

func (s *suite) wait(q *queue.Queue, limit time.Duration) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), limit)
	defer cancel()
	if err := q.Wait(ctx); err != nil {
		s.Fatalf("no wake-up within %s: %v", limit, err)
	}
}

func wakeUp(s *suite) {
	marker, worker := s.queue(queue.Options{}), s.queue(queue.Options{Poll: noPoll})
	s.settle(worker)
	s.none(worker)
	s.mark(marker, queue.Mark{Key: "a"})
	s.wait(worker, 5*time.Second)
	c := s.one(worker)
	s.mark(marker, queue.Mark{Key: "a"})
	s.done(marker, c, true) // completed elsewhere: waiting again
	s.wait(worker, 5*time.Second)
	c = s.one(worker)
	if _, err := marker.Fail(s.Context(), c, 0); err != nil {
		s.Fatal(err)
	}
	s.wait(worker, 5*time.Second)
	s.one(worker)
	s.expire(s.prefix, "a")
	s.reap(marker)
	s.wait(worker, 5*time.Second)
	s.one(worker)
	for p := range s.h.Partitions {
		s.h.Client.Del(s.Context(), keyName(s.prefix, p, "lease"), keyName(s.prefix, p, "claim"))
	}
	if n := s.repair(marker); n != 1 {
		s.Fatalf("repaired %d", n)
	}
	s.wait(worker, 5*time.Second)
	s.done(worker, s.one(worker), false)
}

func wakeDelayed(s *suite) {
	marker, worker := s.queue(queue.Options{}), s.queue(queue.Options{Poll: noPoll})
	s.settle(worker)
	const delay = 120 * time.Millisecond
	// Told by a message.
	start := time.Now()
	s.mark(marker, queue.Mark{Key: "a", Delay: delay})
	s.none(worker)
	s.claimWhenDue(worker, start, delay)
	// Told by an empty claim, as after a start.
	start = time.Now()
	s.mark(marker, queue.Mark{Key: "b", Delay: delay, Class: queue.Sweep})
	late := s.queue(queue.Options{Poll: noPoll})
	s.none(late)
	s.claimWhenDue(late, start, delay)
}

func (s *suite) claimWhenDue(q *queue.Queue, marked time.Time, delay time.Duration) {
	s.Helper()
	for {
		s.wait(q, 5*time.Second)
		if claims := s.claim(q, 1); len(claims) == 1 {
			if took := time.Since(marked); took < delay-5*time.Millisecond {
				s.Fatalf("due after %s, want %s", took, delay)
			}
			s.done(q, claims[0], false)
			return
		}
	}
}

// wakeMany has several waiters in one process that claim one key each.
func wakeMany(s *suite) {
	const workers, keys = 4, 60
	marker, q := s.queue(queue.Options{}), s.queue(queue.Options{Poll: noPoll})
	s.settle(q)
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	var (
		wg   sync.WaitGroup
		left atomic.Int64
	)
	left.Store(keys)
	for range workers {
		wg.Go(func() {
			for q.Wait(ctx) == nil {
				for {
					claims, err := q.Claim(ctx, 1)
					if err != nil || len(claims) == 0 {
						break
					}
					if _, err := q.Done(ctx, claims[0]); err != nil {
						s.Error(err)
					}
					if left.Add(-1) == 0 {
						cancel()
					}
				}
			}
		})
	}
	s.mark(marker, marksOf(queue.Live, "k", keys)...) // one message for all of them
	wg.Wait()
	if n := left.Load(); n != 0 {
		s.Fatalf("%d keys left", n)
	}
}

// wakeAfterRestart is the subscription that breaks and comes back.
func wakeAfterRestart(s *suite) {
	srv := s.server()
	marker, worker := s.queue(queue.Options{}), s.queue(queue.Options{Poll: 200 * time.Millisecond})
	s.settle(worker)
	srv.Kill()
	srv.Restart()
	s.mark(marker, queue.Mark{Key: "a"})
	s.within(3*time.Second, "first claim after a restart", func() {
		for len(s.claim(worker, 1)) == 0 {
			s.wait(worker, 5*time.Second)
		}
	})
	s.eventually("the subscription to be back", func() bool {
		n, err := s.subscribers()
		return err == nil && n == 1
	})
}

func closing(s *suite) {
	q := s.queue(queue.Options{Poll: noPoll})
	s.settle(q)
	errs := make(chan error, 1)
	go func() { errs <- q.Wait(context.Background()) }()
	q.Close()
	q.Close()
	// The wake-up from subscribing may come first; after it, only ErrClosed.
	for err := range errs {
		if errors.Is(err, queue.ErrClosed) {
			break
		}
		if err != nil {
			s.Fatal(err)
		}
		go func() { errs <- q.Wait(context.Background()) }()
	}
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	if err := q.Wait(ctx); err == nil {
		s.Fatal("waited on a closed queue")
	}
	never := s.queue(queue.Options{})
	never.Close()
	if err := never.Wait(s.Context()); !errors.Is(err, queue.ErrClosed) {
		s.Fatalf("wait after close: %v", err)
	}
}
