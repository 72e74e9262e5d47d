package queuetest

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/creditmirror/creditmirror/queue"
)

// derived are all keys of a partition but the generations.
var derived = []string{"ready:live", "ready:sweep", "lease", "claim", "att", "refs", "class", "clock"}

func repairHeals(s *suite) {
	for _, name := range append([]string{"all"}, derived...) {
		prefix := s.prefix + "-" + name
		q := s.queue(queue.Options{Prefix: prefix})
		s.mark(q, marksOf(queue.Live, "l", 6)...)
		s.mark(q, marksOf(queue.Sweep, "s", 6)...)
		s.mark(q, queue.Mark{Key: "later", Delay: 10 * time.Millisecond, Ref: "r"})
		old := s.claim(q, 4)
		if _, err := q.Fail(s.Context(), old[3], 0); err != nil {
			s.Fatal(err)
		}
		for p := range s.h.Partitions {
			for _, n := range derived {
				if n == name || name == "all" {
					if err := s.h.Client.Del(s.Context(), keyName(prefix, p, n)).Err(); err != nil {
						s.Fatal(err)
					}
				}
			}
		}
		s.repair(q)
		if st := s.stats(q); st.Dirty != 13 || st.ReadyLive+st.ReadySweep+st.Delayed+st.Leased != 13 {
			s.Fatalf("%s deleted: %+v", name, st)
		}
		// Whatever was leased runs out, and everything can be worked on.
		for _, c := range old {
			s.expire(prefix, c.Key)
		}
		s.reap(q)
		s.drain(q, 13)
	}
}

// drain works until the queue is clean and counts the runs.
func (s *suite) drain(q *queue.Queue, want int) {
	s.Helper()
	runs := 0
	s.eventually("the queue to drain", func() bool {
		for _, c := range s.claim(q, 16) {
			s.done(q, c, false)
			runs++
		}
		return s.stats(q).Dirty == 0
	})
	s.clean(q)
	if runs != want {
		s.Fatalf("%d runs to drain, want %d", runs, want)
	}
}

func repairIdle(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, marksOf(queue.Sweep, "s", 700)...)
	s.mark(q, queue.Mark{Key: "later", Delay: time.Hour})
	claims := s.claim(q, 5)
	before := s.stats(q)
	if n := s.repair(q); n != 0 {
		s.Fatalf("repaired %d of nothing", n)
	}
	after := s.stats(q)
	before.OldestReady, after.OldestReady = 0, 0
	if before != after {
		s.Fatalf("repair changed %+v to %+v", before, after)
	}
	s.done(q, claims[0], false)
}

func repairLeftovers(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "a", Class: queue.Sweep, Ref: "r"}, queue.Mark{Key: "b", Ref: "r"})
	for _, c := range s.claim(q, 2) {
		if _, err := q.Fail(s.Context(), c, 0); err != nil {
			s.Fatal(err)
		}
	}
	for p := range s.h.Partitions {
		s.h.Client.Del(s.Context(), keyName(s.prefix, p, "gen"))
	}
	s.none(q) // without a generation there is nothing to do
	if n := s.repair(q); n != 0 {
		s.Fatalf("repaired %d", n)
	}
	for p := range s.h.Partitions {
		for _, n := range derived {
			if left := s.h.Client.Exists(s.Context(), keyName(s.prefix, p, n)).Val(); left != 0 && n != "clock" {
				s.Errorf("%s is left over", n)
			}
		}
	}
}

func scriptsLost(s *suite) {
	q := s.queue(queue.Options{})
	// The scripts are shared by all queues of a server, so this may happen to
	// others at any time; that is the point.
	flush := func() {
		s.Helper()
		if err := s.h.Client.ScriptFlush(s.Context()).Err(); err != nil {
			s.Fatal(err)
		}
	}
	flush()
	s.mark(q, marksOf(queue.Live, "k", 250)...) // several scripts in one round trip
	flush()
	claims := s.claim(q, 3)
	if len(claims) != 3 {
		s.Fatalf("%d claims", len(claims))
	}
	flush()
	if lost, err := q.Renew(s.Context(), claims); err != nil || len(lost) != 0 {
		s.Fatalf("renew: %v, %v", lost, err)
	}
	flush()
	s.done(q, claims[0], false)
	flush()
	if _, err := q.Fail(s.Context(), claims[1], 0); err != nil {
		s.Fatal(err)
	}
	flush()
	if n := s.reap(q); n != 0 {
		s.Fatalf("reaped %d", n)
	}
	flush()
	if n := s.repair(q); n != 0 {
		s.Fatalf("repaired %d", n)
	}
	flush()
	if st := s.stats(q); st.Dirty != 249 || st.Leased != 1 {
		s.Fatalf("%+v", st)
	}
	flush()
	if ok, err := q.Stamp(s.Context(), queue.Incarnation{}, queue.Incarnation{ID: "x", HighWater: 1}); err != nil || !ok {
		s.Fatal(ok, err)
	}
}

func incarnation(s *suite) {
	q := s.queue(queue.Options{})
	get := func(p int) queue.Incarnation {
		s.Helper()
		all, err := q.Incarnations(s.Context())
		if err != nil || len(all) != s.h.Partitions {
			s.Fatalf("incarnations %v, %v", all, err)
		}
		return all[p]
	}
	last := s.h.Partitions - 1
	if got := get(last); got != (queue.Incarnation{Partition: last}) {
		s.Fatalf("a new redis has %+v", got)
	}
	inc := func(id string, hw int64) queue.Incarnation {
		return queue.Incarnation{Partition: last, ID: id, HighWater: hw}
	}
	for _, step := range []struct {
		was, is, want queue.Incarnation
		refused       bool
	}{
		{was: inc("", 0), is: inc("one", 5), want: inc("one", 5)},
		{was: inc("one", 3), is: inc("one", 4), want: inc("one", 5)}, // another process was faster
		{was: inc("one", 5), is: inc("one", 6), want: inc("one", 6)},
		{was: inc("one", 7), is: inc("one", 8), want: inc("one", 6), refused: true}, // rewound since it was read
		{was: inc("", 0), is: inc("two", 1), want: inc("one", 6), refused: true},    // exchanged
		{was: inc("two", 1), is: inc("two", 2), want: inc("one", 6), refused: true},
		{was: inc("one", 6), is: inc("two", 1), want: inc("two", 1)},
	} {
		ok, err := q.Stamp(s.Context(), step.was, step.is)
		if err != nil || ok == step.refused {
			s.Fatalf("stamp %+v: %v, %v", step, ok, err)
		}
		if got := get(last); got != step.want {
			s.Fatalf("after stamp %+v: %+v", step, got)
		}
	}
	if _, err := q.Stamp(s.Context(), queue.Incarnation{}, queue.Incarnation{Partition: s.h.Partitions, ID: "x"}); err == nil {
		s.Fatal("stamped a partition that does not exist")
	}
	if !s.h.Shared {
		s.h.Client.FlushAll(s.Context())
		if got := get(last); got.ID != "" {
			s.Fatalf("after a flush: %+v", got)
		}
		if ok, err := q.Stamp(s.Context(), inc("two", 1), inc("two", 2)); err != nil || ok {
			s.Fatalf("a stamp hid the flush: %v, %v", ok, err)
		}
	}
}

// outOfMemory is a Redis at its limit: it refuses marks and drains all the same.
func outOfMemory(s *suite) {
	s.server()
	q := s.queue(queue.Options{})
	s.mark(q, marksOf(queue.Live, "k", 40)...)
	leased := s.claim(q, 3)
	limit := func(v string) {
		s.Helper()
		if err := s.h.Client.ConfigSet(s.Context(), "maxmemory", v).Err(); err != nil {
			s.Fatal(err)
		}
	}
	limit("1")
	if _, err := q.Mark(s.Context(), []queue.Mark{{Key: "new"}, {Key: "k0"}}); err == nil || !redis.IsOOMError(err) {
		s.Fatalf("mark without memory: %v", err)
	}
	if _, err := q.Fail(s.Context(), leased[0], 0); err != nil {
		s.Fatal(err)
	}
	if err := q.Release(s.Context(), leased[1], 0); err != nil {
		s.Fatal(err)
	}
	if ok, err := q.Stamp(s.Context(), queue.Incarnation{}, queue.Incarnation{ID: "x", HighWater: 1}); err != nil || !ok {
		s.Fatal(ok, err)
	}
	s.repair(q)
	limit("0") // expire is a plain write, which needs memory
	s.expire(s.prefix, leased[2].Key)
	limit("1")
	if n := s.reap(q); n != 1 {
		s.Fatalf("reaped %d", n)
	}
	claims := s.claim(q, 1)
	if lost, err := q.Renew(s.Context(), claims); err != nil || len(lost) != 0 {
		s.Fatalf("renew: %v, %v", lost, err)
	}
	s.done(q, claims[0], false)
	s.drain(q, 39)
	limit("0")
	if o := s.mark(q, queue.Mark{Key: "k0"}); o[0] != queue.Queued {
		s.Fatalf("after recovery: %v", o[0])
	}
}

// slowServer is a Redis that hangs: errors within the caller's deadline.
func slowServer(s *suite) {
	srv := s.server()
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "a"})
	c := s.one(q)
	srv.Pause()
	defer srv.Continue()
	var wg sync.WaitGroup
	calls := map[string]func(context.Context) error{
		"mark":  func(ctx context.Context) error { _, err := q.Mark(ctx, marksOf(0, "k", 300)); return err },
		"claim": func(ctx context.Context) error { _, err := q.Claim(ctx, 1); return err },
		"done":  func(ctx context.Context) error { _, err := q.Done(ctx, c); return err },
		"renew": func(ctx context.Context) error { _, err := q.Renew(ctx, []queue.Claim{c}); return err },
		"stats": func(ctx context.Context) error { _, err := q.Stats(ctx); return err },
	}
	for name, f := range calls {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(s.Context(), 300*time.Millisecond)
			defer cancel()
			start := time.Now()
			if err := f(ctx); err == nil || time.Since(start) > 2*time.Second {
				s.Errorf("%s of a hanging redis: %v after %s", name, err, time.Since(start))
			}
		})
	}
	wg.Wait()
}

// busyServer is a Redis that refuses everything because a script runs too long.
func busyServer(s *suite) {
	s.server()
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "a"})
	if err := s.h.Client.ConfigSet(s.Context(), "busy-reply-threshold", "10").Err(); err != nil {
		s.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { // ends by SCRIPT KILL below
		ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
		defer cancel()
		s.h.Client.Eval(ctx, "while true do end", nil)
	})
	s.eventually("redis to be busy", func() bool {
		ctx, cancel := context.WithTimeout(s.Context(), 100*time.Millisecond)
		defer cancel()
		return redis.HasErrorPrefix(s.h.Client.Ping(ctx).Err(), "BUSY")
	})
	ctx, cancel := context.WithTimeout(s.Context(), 2*time.Second)
	defer cancel()
	s.within(2*time.Second, "mark on a busy redis", func() {
		if _, err := q.Mark(ctx, []queue.Mark{{Key: "b"}}); err == nil {
			s.Error("a busy redis took a mark")
		}
	})
	s.eventually("the script to be killed", func() bool {
		s.h.Client.ScriptKill(s.Context())
		return s.h.Client.Ping(s.Context()).Err() == nil
	})
	wg.Wait()
	s.done(q, s.one(q), false)
}
