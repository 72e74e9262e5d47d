package webhook

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// quietBench is a receiver for tests without a testing.TB.
func quietBench(queue *fakeQueue, inbox *fakeInbox, batch int) *bench {
	rc, err := New(Options{
		Verify: verify, Queue: queue, Inbox: inbox, DeadLetters: &fakeLetters{}, MaxBatch: batch,
		Registerer: prometheus.NewRegistry(), Log: zap.NewNop(), Now: func() time.Time { return testClock },
	})
	if err != nil {
		panic(err)
	}
	return &bench{Receiver: rc, handler: rc.Handler()}
}

// F07: a stop under load loses nothing that was answered with 200, refuses what
// comes later, and leaves no goroutine.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	queue := &fakeQueue{}
	b := quietBench(queue, &fakeInbox{}, 4)
	var taken, refused atomic.Int64
	var senders sync.WaitGroup
	started := make(chan struct{}, 1)
	for s := range 8 {
		senders.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("evt_%d_%d", s, i)
				switch w := b.post(event(id, customer)); w.Code {
				case 200:
					taken.Add(1)
					if !queue.marked(id) {
						t.Errorf("%s answered but not marked", id)
					}
					select {
					case started <- struct{}{}:
					default:
					}
				case 503:
					refused.Add(1)
					if w.Header().Get("Retry-After") == "" {
						t.Error("no Retry-After")
					}
					return
				default:
					t.Errorf("code %d", w.Code)
					return
				}
			}
		})
	}
	<-started
	for range 2 { // the second finds it stopped
		if err := b.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	senders.Wait()
	if taken.Load() == 0 || refused.Load() != 8 {
		t.Errorf("%d taken, %d refused", taken.Load(), refused.Load())
	}
	if w := b.post([]byte("unreadable")); w.Code != 503 || b.count(503, "stopping") == 0 {
		t.Errorf("code %d after the stop", w.Code)
	}
}

// A request that is verified waits for its answer though the stop has come.
func TestStopWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		entered, release := held(b)
		codes := make(chan int, 1)
		go func() { codes <- b.post(event("evt_1", customer)).Code }()
		<-entered
		stopped := make(chan error, 1)
		go func() { stopped <- b.Stop(context.Background()) }()
		synctest.Wait()
		select {
		case err := <-stopped:
			t.Fatalf("stopped with a request in work: %v", err)
		default:
		}
		if w := b.post(event("evt_2", customer)); w.Code != 503 || b.count(503, "stopping") != 1 {
			t.Errorf("code %d while stopping", w.Code)
		}
		close(release)
		if code, err := <-codes, <-stopped; code != 200 || err != nil {
			t.Errorf("code %d, stop %v", code, err)
		}
	})
}

// When time is up, requests in work are cut off with 503.
func TestStopIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(b *bench, o *Options) {
			o.AnswerTimeout = time.Hour
			b.queue.before = func(ctx context.Context, _ []Marking) error { <-ctx.Done(); return ctx.Err() }
			b.letters.before = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		})
		codes := make(chan int, 10)
		for i := range 10 {
			go func() {
				raw := event(fmt.Sprintf("evt_%d", i), customer)
				if i%2 == 0 {
					raw = fmt.Appendf(nil, "unreadable %d", i)
				}
				codes <- b.post(raw).Code
			}()
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := b.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stop: %v", err)
		}
		for range 10 {
			if code := <-codes; code != 503 {
				t.Errorf("code %d", code)
			}
		}
	})
}
