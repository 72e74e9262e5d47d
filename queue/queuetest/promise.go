package queuetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/creditmirror/creditmirror/queue"
)

func coalesceWaiting(s *suite) {
	q := s.queue(queue.Options{})
	queued := 0
	for range 10 {
		marks := make([]queue.Mark, 100)
		for i := range marks {
			marks[i] = queue.Mark{Key: "a"}
		}
		for _, o := range s.mark(q, marks...) {
			if o == queue.Queued {
				queued++
			}
		}
	}
	if queued != 1 {
		s.Fatalf("1000 marks queued the key %d times", queued)
	}
	s.done(q, s.one(q), false)
	s.none(q)
	s.clean(q)
	if o := s.mark(q, queue.Mark{Key: "a"}); o[0] != queue.Queued {
		s.Fatalf("a mark after the run: %v", o[0])
	}
}

func coalesceLeased(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "a"})
	c := s.one(q)
	for range 100 {
		if o := s.mark(q, queue.Mark{Key: "a"}); o[0] != queue.Coalesced {
			s.Fatalf("mark of a leased key: %v", o[0])
		}
	}
	s.none(q)
	s.done(q, c, true)
	s.done(q, s.one(q), false)
	s.clean(q)
}

func survivesKill(s *suite) {
	srv := s.server()
	q := s.queue(queue.Options{})
	s.mark(q, marksOf(queue.Live, "k", 300)...)
	leased := s.claim(q, 50)
	srv.Kill()
	if _, err := q.Mark(s.Context(), []queue.Mark{{Key: "x"}}); err == nil {
		s.Fatal("a dead redis took a mark")
	}
	srv.Restart()
	if st := s.stats(q); st.ReadyLive != 250 || st.Leased != 50 || st.Dirty != 300 {
		s.Fatalf("after kill -9: %+v", st)
	}
	s.done(q, leased[0], false)
}

// exclusive lets two processes with many workers fight over few keys.
func exclusive(s *suite) {
	const workers, keys, rounds = 8, 3, 40
	var (
		mu    sync.Mutex
		owner = map[string]int{}
		runs  atomic.Int64
		wg    sync.WaitGroup
		errs  = make(chan error, workers)
	)
	ctx := s.Context()
	for w := range workers {
		q := s.queue(queue.Options{Lease: time.Minute})
		wg.Go(func() {
			errs <- func() error {
				for r := range rounds {
					if _, err := q.Mark(ctx, []queue.Mark{{Key: fmt.Sprint(r % keys)}}); err != nil {
						return err
					}
					claims, err := q.Claim(ctx, 2)
					if err != nil {
						return err
					}
					for _, c := range claims {
						mu.Lock()
						other, taken := owner[c.Key]
						owner[c.Key] = w
						mu.Unlock()
						if taken {
							return fmt.Errorf("%s is leased by %d and %d", c.Key, other, w)
						}
						runs.Add(1)
					}
					for _, c := range claims {
						mu.Lock()
						delete(owner, c.Key)
						mu.Unlock()
						if _, err := q.Done(ctx, c); err != nil {
							return err
						}
					}
				}
				return nil
			}()
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			s.Fatal(err)
		}
	}
	if n := runs.Load(); n < keys {
		s.Fatalf("%d runs", n)
	}
}

func lostLease(s *suite) {
	const lease = 150 * time.Millisecond
	a, b := s.queue(queue.Options{Lease: lease}), s.queue(queue.Options{Lease: lease})
	s.mark(a, queue.Mark{Key: "a", Ref: "r"})
	c := s.one(a)
	s.none(b)
	if left := time.Until(c.Expires); left > lease {
		s.Fatalf("lease ends in %s", left)
	}
	s.eventually("the lease to be reaped", func() bool { return s.reap(b) == 1 })
	if time.Now().Before(c.Expires) {
		s.Fatal("reaped before the claim said")
	}
	again := s.one(b)
	if again.Attempts != 1 || len(again.Refs) != 1 {
		s.Fatalf("second claim %+v", again)
	}
	_, err := a.Done(s.Context(), c)
	s.refused("done of the first owner", err)
	s.done(b, again, false)
	s.clean(b)
}

func doneClearsOnlyClaimed(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "a"}, queue.Mark{Key: "a"})
	first := s.one(q)
	s.mark(q, queue.Mark{Key: "a"})
	s.done(q, first, true)
	second := s.one(q)
	// The first claim's done, repeated (its reply was lost), changes nothing.
	_, err := q.Done(s.Context(), first)
	s.refused("repeated done", err)
	s.done(q, second, false)
	_, err = q.Done(s.Context(), second)
	s.refused("repeated done", err)
	s.clean(q)
}

func zombies(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "a"})
	zombie := s.one(q)
	s.expire(s.prefix, "a")
	if n := s.reap(q); n != 1 {
		s.Fatalf("reaped %d", n)
	}
	s.everythingRefused(q, zombie) // while nobody owns it
	owner := s.one(q)
	s.everythingRefused(q, zombie) // while somebody does
	if lost, err := q.Renew(s.Context(), []queue.Claim{owner, zombie}); err != nil || len(lost) != 1 {
		s.Fatalf("renew: lost %v, %v", keysOf(lost), err)
	}
	s.done(q, owner, false)
	s.everythingRefused(q, zombie) // when it is clean
	s.clean(q)

	// A lease that ran out and was claimed before anybody reaped it.
	s.mark(q, queue.Mark{Key: "b"})
	zombie = s.one(q)
	s.expire(s.prefix, "b")
	if lost, err := q.Renew(s.Context(), []queue.Claim{zombie}); err != nil || len(lost) != 0 {
		s.Fatalf("an expired lease that nobody took: lost %v, %v", keysOf(lost), err)
	}
	if n := s.reap(q); n != 0 {
		s.Fatal("reaped a renewed lease")
	}
	s.done(q, zombie, false)
}

func (s *suite) everythingRefused(q *queue.Queue, zombie queue.Claim) {
	s.Helper()
	before := s.stats(q)
	_, err := q.Done(s.Context(), zombie)
	s.refused("done", err)
	_, err = q.Fail(s.Context(), zombie, time.Hour)
	s.refused("fail", err)
	s.refused("release", q.Release(s.Context(), zombie, time.Hour))
	lost, err := q.Renew(s.Context(), []queue.Claim{zombie})
	if err != nil || len(lost) != 1 {
		s.Fatalf("renew: lost %v, %v", keysOf(lost), err)
	}
	after := s.stats(q)
	before.OldestReady, after.OldestReady, before.OldestLive, after.OldestLive = 0, 0, 0, 0
	if before != after {
		s.Fatalf("a zombie changed %+v to %+v", before, after)
	}
}

func zombiesAfterFlush(s *suite) {
	s.flushable()
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "a"})
	zombie := s.one(q)
	if err := s.h.Client.FlushAll(s.Context()).Err(); err != nil {
		s.Fatal(err)
	}
	s.everythingRefused(q, zombie)
	// The generation starts over: only the random token tells the claims apart.
	s.mark(q, queue.Mark{Key: "a"})
	owner := s.one(q)
	s.everythingRefused(q, zombie)
	s.done(q, owner, false)
	s.clean(q)
}

func reapMany(s *suite) {
	const n = 450 // more than one batch
	q := s.queue(queue.Options{Lease: 250 * time.Millisecond})
	s.mark(q, marksOf(queue.Sweep, "k", n)...)
	got := 0
	for got < n {
		claims := s.claim(q, 256)
		if len(claims) == 0 {
			s.Fatalf("claimed %d of %d", got, n)
		}
		got += len(claims)
	}
	reaped := 0
	s.eventually("all leases to be reaped", func() bool { reaped += s.reap(q); return reaped == n })
	if st := s.stats(q); st.ReadySweep != n || st.Leased != 0 {
		s.Fatalf("after reap: %+v", st)
	}
}

// clockSetBack makes Redis believe that it saw a much later time before.
func clockSetBack(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "waiting"}, queue.Mark{Key: "leased", Delay: time.Hour})
	ahead := float64(time.Now().Add(time.Hour).UnixMilli())
	for p := range s.h.Partitions {
		ctx, c := s.Context(), s.h.Client
		name := func(n string) string { return keyName(s.prefix, p, n) }
		for _, key := range []string{"waiting", "leased"} {
			if n, err := c.ZIncrBy(ctx, name("ready:live"), 0, key).Result(); err != nil {
				s.Fatal(err)
			} else if n == 0 { // not of this partition
				c.ZRem(ctx, name("ready:live"), key)
			} else {
				c.ZIncrBy(ctx, name("ready:live"), float64(time.Hour.Milliseconds()), key)
			}
		}
		c.HSet(ctx, name("clock"), "last", fmt.Sprintf("%.0f", ahead))
	}
	s.none(q) // by the new clock, it is due in an hour
	s.reap(q)
	c := s.one(q)
	if c.Key != "waiting" || time.Since(c.MarkedAt).Abs() > 10*time.Second {
		s.Fatalf("claimed %s, marked at %s", c.Key, c.MarkedAt)
	}
	if n := s.reap(q); n != 0 {
		s.Fatalf("%d fresh leases were reaped", n)
	}
	s.done(q, c, false)
	s.none(q) // the delayed one keeps its delay
}

// manyWorkers checks with real concurrency that each mark is followed by a
// run that began after it.
func manyWorkers(s *suite) {
	const keys, perKey, workers = 5, 60, 4
	var (
		marked, ran [keys]atomic.Int64 // newest mark; newest mark seen by the start of a completed run
		wg          sync.WaitGroup
		marking     atomic.Int64
	)
	ctx := s.Context()
	errs := make(chan error, keys+workers)
	marking.Store(keys)
	for k := range keys {
		q := s.queue(queue.Options{})
		wg.Go(func() {
			defer marking.Add(-1)
			for n := range perKey {
				marked[k].Store(int64(n + 1))
				if _, err := q.Mark(ctx, []queue.Mark{{Key: fmt.Sprint(k), Class: queue.Class(n % 2)}}); err != nil { // 0 or 1
					errs <- err
					return
				}
			}
		})
	}
	for range workers {
		q := s.queue(queue.Options{Poll: 20 * time.Millisecond})
		wg.Go(func() {
			for {
				last := marking.Load() == 0
				claims, err := q.Claim(ctx, 2)
				if err != nil {
					errs <- err
					return
				}
				for _, c := range claims {
					var k int
					_, _ = fmt.Sscan(c.Key, &k)
					seen := marked[k].Load()
					if _, err := q.Done(ctx, c); err != nil && !errors.Is(err, queue.ErrLost) {
						errs <- err
						return
					}
					for {
						old := ran[k].Load()
						if old >= seen || ran[k].CompareAndSwap(old, seen) {
							break
						}
					}
				}
				st, err := q.Stats(ctx)
				if err != nil {
					errs <- err
					return
				}
				if last && st.Dirty == 0 {
					return
				}
				if len(claims) == 0 {
					if err := q.Wait(ctx); err != nil {
						errs <- err
						return
					}
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		s.Fatal(err)
	}
	for k := range keys {
		if m, r := marked[k].Load(), ran[k].Load(); m != r {
			s.Errorf("key %d: mark %d came last, but the last run saw %d", k, m, r)
		}
	}
	s.clean(s.queue(queue.Options{}))
}
