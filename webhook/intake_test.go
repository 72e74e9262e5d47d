package webhook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/tracing"
)

// I3, G14, S01, S04: whatever is cut between whichever two steps, a 200 for an
// event of interest comes after its mark, and the mark after the inbox; and a
// sender that repeats until it gets its 200 always gets there.
func TestI3CutBetweenEveryTwoSteps(t *testing.T) {
	t.Parallel()
	boom := errors.New("panics")
	fates := []error{nil, errCut, errReplyLost, boom}
	for _, on := range []bool{true, false} {
		for _, inboxFate := range fates {
			for _, queueFate := range fates {
				b := newBench(t, func(b *bench, o *Options) {
					if !on {
						o.Inbox = nil
					}
					fate := func(f error) fault {
						return func(n int) error {
							if n == 1 && errors.Is(f, boom) {
								panic("a payload nobody should see")
							}
							if n == 1 {
								return f
							}
							return nil
						}
					}
					b.inbox.fault, b.queue.fault = fate(inboxFate), fate(queueFate)
					b.queue.before = func(context.Context, []Marking) error {
						if on && !b.inbox.has("evt_1") {
							t.Error("marked before the inbox had it")
						}
						return nil
					}
				})
				var codes []int
				for range 3 {
					w := b.post(event("evt_1", customer))
					codes = append(codes, w.Code)
					if w.Code != 200 {
						checkAnswer(t, w.Result())
						continue
					}
					if !b.queue.marked("evt_1") || on && !b.inbox.has("evt_1") {
						t.Fatalf("inbox %v (%v), queue %v: 200 before it was durable", on, inboxFate, queueFate)
					}
					break
				}
				if codes[len(codes)-1] != 200 {
					t.Errorf("inbox %v (%v), queue %v: codes %v", on, inboxFate, queueFate, codes)
				}
			}
		}
	}
}

// The same over random histories: many events at once, repeated, with faults.
func TestI3RandomHistories(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var mu sync.Mutex
		fates := rapid.SliceOfN(rapid.SampledFrom([]error{nil, nil, nil, errCut, errReplyLost}), 40, 40).Draw(t, "fates")
		draw := func(int) error {
			mu.Lock()
			defer mu.Unlock()
			if len(fates) == 0 {
				return nil
			}
			f := fates[0]
			fates = fates[1:]
			return f
		}
		queue, inbox := &fakeQueue{fault: draw}, &fakeInbox{fault: draw}
		b := quietBench(queue, inbox, rapid.IntRange(1, 8).Draw(t, "batch"))
		defer b.Stop(context.Background())
		events := rapid.SliceOfN(rapid.IntRange(0, 5), 1, 30).Draw(t, "events")
		var senders sync.WaitGroup
		failed := make(chan string, len(events))
		for _, n := range events {
			senders.Go(func() {
				id := fmt.Sprintf("evt_%d", n)
				for range 60 {
					w := b.post(event(id, fmt.Sprintf("cus_%d", n%3)))
					if w.Code == 200 {
						if !queue.marked(id) || !inbox.has(id) {
							failed <- id + " answered before it was durable"
						}
						return
					}
				}
				failed <- id + " never taken"
			})
		}
		senders.Wait()
		close(failed)
		for f := range failed {
			t.Error(f)
		}
	})
}

// Only an event that a sync has answered is a duplicate without a mark.
// A good delivery that somebody repeats a thousand times within its five minutes is one unit
// of work until a worker takes it, and one more while that works.
func TestAThousandReplays(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	body := event("evt_1", customer)
	for i := range 1000 {
		if i == 500 {
			b.queue.dirty = nil // a worker has taken the target
		}
		if w := b.post(body); w.Code != 200 {
			t.Fatalf("replay %d: code %d", i, w.Code)
		}
	}
	if queued := b.count(200, "queued"); queued != 2 || b.count(200, "coalesced") != 998 {
		t.Errorf("%d queued and %d coalesced, want 2 and 998", queued, b.count(200, "coalesced"))
	}
}

func TestDuplicates(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	post := func(want string) {
		t.Helper()
		before := b.count(200, want)
		if w := b.post(event("evt_1", customer)); w.Code != 200 || b.count(200, want) != before+1 {
			t.Fatalf("code %d, not counted as %s", w.Code, want)
		}
	}
	post("queued")
	post("coalesced")
	b.queue.dirty = nil // a worker has taken the target, or Redis has lost it
	post("queued")
	b.inbox.apply("evt_1")
	marks := b.queue.callCount()
	for range 100 {
		post("duplicate")
	}
	if b.queue.callCount() != marks {
		t.Error("marked what a sync had answered")
	}
	if got := b.events("customer.updated", "duplicate"); got != 100 {
		t.Errorf("counted %d duplicates", got)
	}
}

// held makes the queue wait for release in its first call and signals it.
func held(b *bench) (entered chan struct{}, release chan struct{}) {
	entered, release = make(chan struct{}, committers), make(chan struct{})
	var first sync.Once
	b.queue.before = func(ctx context.Context, _ []Marking) error {
		first.Do(func() {
			entered <- struct{}{}
			select {
			case <-release:
			case <-ctx.Done(): // a mark that is cut off fails
			}
		})
		return ctx.Err()
	}
	return entered, release
}

// single is an intake with one committer, held in its first call while the test
// fills the batch behind it.
func single(b *bench) *intake {
	return &intake{
		queue: b.queue, inbox: b.inbox, timeout: time.Minute, maxBatch: 256, waiting: make(chan *pending, 4096),
		log: zap.NewNop(),
	}
}

func decoded(t *testing.T, raw []byte) mirror.Event {
	t.Helper()
	e, err := mirror.DecodeEvent(raw)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// offer queues events without a caller and returns them.
func offer(t *testing.T, in *intake, raws ...[]byte) []*pending {
	t.Helper()
	var ps []*pending
	for _, raw := range raws {
		e := decoded(t, raw)
		p := &pending{event: e, targets: e.Targets(), span: tracing.Off, verdict: make(chan verdict, 1)}
		in.waiting <- p
		ps = append(ps, p)
	}
	return ps
}

// drain does what a committer would, until nothing waits.
func drain(in *intake) {
	for len(in.waiting) > 0 {
		in.commit(context.Background(), in.collect(<-in.waiting))
	}
}

// What waits goes in one transaction and one round trip, at most 256 of it; a
// doubled id once, a caller that gave up not at all.
func TestBatch(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	in := single(b)
	var raws [][]byte
	for i := range 300 {
		raws = append(raws, event(fmt.Sprintf("evt_%d", i), fmt.Sprintf("cus_%d", i/2)))
	}
	raws = append(raws, raws[299], event("evt_299", "cus_changed"))
	ps := offer(t, in, raws...)
	ps[7].gone.Store(true)
	drain(in)
	if len(b.inbox.calls) != 2 || len(b.inbox.calls[0]) != 256 || len(b.inbox.calls[1]) != 300-1-256 || len(b.queue.calls) != 2 {
		t.Fatalf("%d and %d calls", len(b.inbox.calls), len(b.queue.calls))
	}
	if b.queue.marked("evt_7") {
		t.Error("marked an event whose caller was told 503")
	}
	if last := b.queue.marks[len(b.queue.marks)-1]; last.Target != balanceOf("cus_changed") {
		t.Errorf("the same id with other content marked %v", last)
	}
	words := map[string]int{}
	for i, p := range ps {
		if i == 7 {
			continue
		}
		v := <-p.verdict
		words[v.word]++
		if v.code != 200 || v.err != nil {
			t.Fatalf("%s: %+v", p.event.ID, v)
		}
	}
	if words["duplicate"] != 2 || words["queued"]+words["coalesced"] != 299 {
		t.Errorf("answers %v", words)
	}
}

// One event that cannot be stored does not keep out the 255 that came with it.
func TestPoisonInBatch(t *testing.T) {
	t.Parallel()
	for name, poison := range map[string]func(b *bench){
		"inbox refuses": func(b *bench) {
			b.inbox.before = func(_ context.Context, events []mirror.Event) error {
				if slices.ContainsFunc(events, func(e mirror.Event) bool { return e.ID == "evt_100" }) {
					return errCut
				}
				return nil
			}
		},
		"queue panics": func(b *bench) {
			b.queue.before = func(_ context.Context, ms []Marking) error {
				if slices.ContainsFunc(ms, func(m Marking) bool { return m.Event.ID == "evt_100" }) {
					panic("poison")
				}
				return nil
			}
		},
	} {
		b := newBench(t, func(b *bench, _ *Options) { poison(b) })
		in := single(b)
		var raws [][]byte
		for i := range 256 {
			raws = append(raws, event(fmt.Sprintf("evt_%d", i), customer))
		}
		ps := offer(t, in, raws...)
		drain(in)
		for i, p := range ps {
			if v := <-p.verdict; (v.code == 200) != (i != 100) || (v.code == 200) != b.queue.marked(p.event.ID) {
				t.Errorf("%s: %s: %+v", name, p.event.ID, v)
			}
		}
	}
}

// An outage costs a batch a few calls, not hundreds, and all get 503.
func TestOutageIsNotAmplified(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(b *bench, _ *Options) { b.queue.fault = func(int) error { return errCut } })
	in := single(b)
	var raws [][]byte
	for i := range 256 {
		raws = append(raws, event(fmt.Sprintf("evt_%d", i), customer))
	}
	ps := offer(t, in, raws...)
	drain(in)
	if got := b.queue.callCount(); got > maxFailures {
		t.Errorf("%d calls", got)
	}
	for _, p := range ps {
		if v := <-p.verdict; v.code != 503 || v.word != "queue_error" || !errors.Is(v.err, errCut) {
			t.Fatalf("%s: %+v", p.event.ID, v)
		}
	}
}

// A part that answers with the wrong number of results has not answered.
func TestWrongNumberOfResults(t *testing.T) {
	t.Parallel()
	in := single(newBench(t, nil))
	in.queue = shortQueue{}
	ps := offer(t, in, event("evt_1", customer))
	drain(in)
	if v := <-ps[0].verdict; v.word != "queue_error" {
		t.Errorf("%+v", v)
	}
	in.inbox = shortQueue{}
	ps = offer(t, in, event("evt_1", customer))
	drain(in)
	if v := <-ps[0].verdict; v.word != "inbox_error" {
		t.Errorf("%+v", v)
	}
}

type shortQueue struct{}

func (shortQueue) Mark(context.Context, []Marking) ([]bool, error) { return nil, nil }

func (shortQueue) RecordEvents(context.Context, []mirror.Event) ([]mirror.Receipt, error) {
	return nil, nil
}

// F14: a queue, inbox or dead-letter store that hangs costs each request 2 s.
func TestHangingParts(t *testing.T) {
	for name, c := range map[string]struct {
		hang  func(b *bench, wait func(context.Context) error)
		raw   []byte
		words []string
	}{
		"queue": {func(b *bench, wait func(context.Context) error) {
			b.queue.before = func(ctx context.Context, _ []Marking) error { return wait(ctx) }
		}, event("evt_1", customer), []string{"timeout", "queue_error"}},
		"inbox": {func(b *bench, wait func(context.Context) error) {
			b.inbox.before = func(ctx context.Context, _ []mirror.Event) error { return wait(ctx) }
		}, event("evt_1", customer), []string{"timeout", "inbox_error"}},
		"letters": {func(b *bench, wait func(context.Context) error) {
			b.letters.before = wait
		}, []byte("{}"), []string{"timeout", "dead_letter_error"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			hangs := true
			b := newBench(t, func(b *bench, _ *Options) {
				c.hang(b, func(ctx context.Context) error {
					mu.Lock()
					h := hangs
					mu.Unlock()
					if !h {
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				})
			})
			var senders sync.WaitGroup
			for range 10 {
				senders.Go(func() {
					began := time.Now()
					if w := b.post(c.raw); w.Code != 503 || time.Since(began) != 2*time.Second {
						t.Errorf("%s: code %d after %v", name, w.Code, time.Since(began))
					}
				})
			}
			senders.Wait()
			total := 0
			for _, word := range c.words {
				total += b.count(503, word)
			}
			if total != 10 {
				t.Errorf("%s: %d counted as %v", name, total, c.words)
			}
			mu.Lock()
			hangs = false
			mu.Unlock()
			// The committers may still wait for the last deadline of the outage.
			time.Sleep(2 * time.Second)
			if w := b.post(c.raw); w.Code != 200 {
				t.Errorf("%s: code %d when it works again", name, w.Code)
			}
		})
	}
}

// One event too many is overload at once, and whoever gave up is not stored.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		b := newBench(t, func(b *bench, o *Options) {
			o.MaxWaiting = 3
			b.queue.before = func(context.Context, []Marking) error { <-release; return nil }
		})
		var senders sync.WaitGroup
		for i := range committers + 3 + 5 {
			senders.Go(func() { b.post(event(fmt.Sprintf("evt_%d", i), customer)) })
			synctest.Wait()
		}
		if got := b.count(503, "overload"); got != 5 {
			t.Errorf("%d overloads, want 5", got)
		}
		senders.Wait() // all have their timeout
		close(release)
		synctest.Wait()
		if got := b.count(503, "timeout"); got != committers+3 {
			t.Errorf("%d timeouts", got)
		}
		for i := range 3 {
			if id := fmt.Sprintf("evt_%d", committers+i); b.inbox.has(id) {
				t.Errorf("%s was stored though its caller was told 503 before", id)
			}
		}
	})
}

// A panic of a part outside the batch is answered too, and the receiver goes on.
func TestPanicOutsideTheBatch(t *testing.T) {
	t.Parallel()
	logs, observed := observe()
	b := newBench(t, func(b *bench, o *Options) {
		o.Log = logs
		b.letters.before = func(context.Context) error { panic("a payload nobody should see") }
	})
	if w := b.post([]byte("unreadable")); w.Code != 503 || b.count(503, "panic") != 1 {
		t.Errorf("code %d, letters panic", w.Code)
	}
	b.opts.Verify = nil
	if w := b.post(event("evt_1", customer)); w.Code != 503 || b.count(503, "panic") != 2 || b.writes() != 0 {
		t.Errorf("code %d, Verify panics", w.Code)
	}
	panics := observed.FilterMessage("panic in the receiver")
	if panics.Len() != 2 || panics.All()[0].ContextMap()["error"] != "panic: string" || panics.All()[1].ContextMap()["stack"] == "" {
		t.Errorf("logged %v", panics.All())
	}
	b.opts.Verify = verify
	if w := b.post(event("evt_1", customer)); w.Code != 200 {
		t.Errorf("code %d after the panic", w.Code)
	}
}
