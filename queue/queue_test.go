package queue_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/redistest"
	"github.com/creditmirror/creditmirror/queue"
	"github.com/creditmirror/creditmirror/queue/queuetest"
	"github.com/creditmirror/creditmirror/redisconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(tb testing.TB, url string) *redisconn.Conn {
	tb.Helper()
	c, err := redisconn.Open(context.Background(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

func TestQueueOnRedis(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, func(t *testing.T) queuetest.Harness {
		t.Helper()
		s := redistest.Start(t)
		return queuetest.Harness{Client: dial(t, s.URL).Client, Partitions: 1, Server: s}
	})
}

func TestQueueEmbedded(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, func(t *testing.T) queuetest.Harness {
		t.Helper()
		c := dial(t, "")
		return queuetest.Harness{Client: c.Client, Partitions: c.Partitions}
	})
}

func TestQueueOnCluster(t *testing.T) {
	t.Parallel()
	s := redistest.StartCluster(t, 3)
	queuetest.Run(t, func(t *testing.T) queuetest.Harness {
		t.Helper()
		c := dial(t, s.URL)
		return queuetest.Harness{Client: c.Client, Partitions: c.Partitions, Shared: true}
	})
}

func TestQueueBehindSentinel(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	queuetest.Run(t, func(t *testing.T) queuetest.Harness {
		t.Helper()
		return queuetest.Harness{Client: dial(t, s.URL).Client, Partitions: 1, Shared: true}
	})
}

// F36: the clock of the embedded server can be set; it is set back by an hour.
func TestI9_ClockOfTheServerStepsBack(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: m.Addr()})
	t.Cleanup(func() { _ = client.Close() })
	q, err := queue.New(client, queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	ctx, now := t.Context(), time.Now()
	m.SetTime(now)
	if _, err := q.Reap(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Mark(ctx, []queue.Mark{{Key: "leased"}, {Key: "waiting"}}); err != nil {
		t.Fatal(err)
	}
	claims, err := q.Claim(ctx, 1)
	if err != nil || len(claims) != 1 {
		t.Fatalf("%v, %v", claims, err)
	}
	back := now.Add(-time.Hour)
	for _, step := range []struct {
		after          time.Duration
		reaped, leased int
	}{{0, 0, 1}, {9 * time.Second, 0, 1}, {11 * time.Second, 1, 0}} {
		m.SetTime(back.Add(step.after))
		n, err := q.Reap(ctx)
		if err != nil || n != step.reaped {
			t.Fatalf("%s after the step back: reaped %d, %v", step.after, n, err)
		}
		if st, err := q.Stats(ctx); err != nil || st.Leased != step.leased || st.ReadyLive != 2-step.leased {
			t.Fatalf("%s after the step back: %+v, %v", step.after, st, err)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	for _, o := range []queue.Options{
		{Prefix: "{x}"}, {Partitions: -1}, {Partitions: 5000}, {Lease: time.Microsecond}, {SweepShare: 1}, {Poll: -1}, {Gather: -1}, {Gather: time.Microsecond},
	} {
		if _, err := queue.New(nil, o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// TestMarkWakesAWorker holds the promise that a worker starts when a key is marked and
// not when it looks by itself, which it does here once an hour. How fast it starts is
// measured by BenchmarkMarkToClaim.
func TestMarkWakesAWorker(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"redis", "embedded"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			url := ""
			if kind == "redis" {
				url = redistest.Start(t).URL
			}
			lat := latencies(t, dial(t, url), 400, time.Hour)
			slices.Sort(lat)
			t.Logf("mark to claim: p50 %s, p90 %s, p99 %s, max %s", lat[len(lat)/2], lat[len(lat)*9/10], lat[len(lat)*99/100], lat[len(lat)-1])
		})
	}
}

// latencies marks in one queue and claims in another, n times, with so long between two
// looks that nobody asked for; 0 is what production has.
func latencies(tb testing.TB, c *redisconn.Conn, n int, poll time.Duration) []time.Duration {
	tb.Helper()
	newQueue := func() *queue.Queue {
		q, err := queue.New(c.Client, queue.Options{Partitions: c.Partitions, Poll: poll})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(q.Close)
		return q
	}
	marker, worker := newQueue(), newQueue()
	ctx, cancel := context.WithTimeout(tb.Context(), patience.Of(time.Minute))
	defer cancel()
	started := make(chan time.Time)
	go func() {
		defer close(started)
		for worker.Wait(ctx) == nil {
			claims, err := worker.Claim(ctx, 16)
			at := time.Now()
			if err != nil {
				return
			}
			for _, cl := range claims {
				if _, err := worker.Done(ctx, cl); err != nil {
					return
				}
				started <- at
			}
		}
	}()
	out := make([]time.Duration, 0, n)
	for range n {
		marked := time.Now()
		if _, err := marker.Mark(ctx, []queue.Mark{{Key: "k"}}); err != nil {
			tb.Fatal(err)
		}
		at, ok := <-started
		if !ok {
			tb.Fatal("the worker stopped")
		}
		out = append(out, at.Sub(marked))
	}
	cancel()
	for range started { //nolint:revive // wait for the worker to end
	}
	return out
}

func benchQueue(b *testing.B, url string) *queue.Queue {
	b.Helper()
	c := dial(b, url)
	q, err := queue.New(c.Client, queue.Options{Partitions: c.Partitions})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(q.Close)
	return q
}

func forEachRedis(b *testing.B, run func(b *testing.B, url string)) {
	b.Helper()
	b.Run("fsync=always", func(b *testing.B) { run(b, redistest.Start(b).URL) })
	b.Run("fsync=no", func(b *testing.B) { run(b, redistest.Start(b, "--appendfsync", "no").URL) })
	b.Run("embedded", func(b *testing.B) { run(b, "") })
}

func BenchmarkMark(b *testing.B) {
	forEachRedis(b, func(b *testing.B, url string) {
		b.Helper()
		q := benchQueue(b, url)
		for b.Loop() {
			if _, err := q.Mark(b.Context(), []queue.Mark{{Key: "k", Ref: "evt_1"}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkClaimDone(b *testing.B) {
	forEachRedis(b, func(b *testing.B, url string) {
		b.Helper()
		q := benchQueue(b, url)
		for b.Loop() {
			b.StopTimer()
			if _, err := q.Mark(b.Context(), []queue.Mark{{Key: "k"}}); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			claims, err := q.Claim(b.Context(), 1)
			if err != nil || len(claims) != 1 {
				b.Fatal(len(claims), err)
			}
			if _, err := q.Done(b.Context(), claims[0]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkMarkToClaim(b *testing.B) {
	forEachRedis(b, func(b *testing.B, url string) {
		b.Helper()
		lat := latencies(b, dial(b, url), max(b.N, 1), 0)
		slices.Sort(lat)
		b.ReportMetric(float64(lat[len(lat)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(lat[len(lat)*99/100].Microseconds()), "p99-µs")
	})
}
