package reconcile

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
)

func (b *bench) detector() *RewindDetector { return NewRewindDetector(b.store, b.queue, zap.NewNop()) }

// check returns the partitions that are found lost.
func (b *bench) check(t testing.TB) (parts []int, lost []mirror.Incarnation) {
	t.Helper()
	lost, _, err := b.detector().Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range lost {
		parts = append(parts, i.Partition)
	}
	return parts, lost
}

// heal stamps what is lost, with nothing to mark again.
func (b *bench) heal(t testing.TB, lost []mirror.Incarnation) error {
	t.Helper()
	begun, err := b.detector().Begin(t.Context(), lost)
	if err != nil {
		return err
	}
	return b.detector().Heal(t.Context(), begun)
}

// stamped is a bench whose partitions are known on both sides, at mark 5.
func stamped(t testing.TB) *bench {
	b := setup(t)
	for p := range b.queue.incs {
		i := mirror.Incarnation{Partition: p, ID: fmt.Sprintf("id%d", p), HighWater: 5}
		b.queue.incs[p] = i
		if err := b.store.Store.SaveIncarnation(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func TestF10_RewindIsNoticed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(b *bench)
		lost   []int
	}{
		{"sound", func(*bench) {}, nil},
		{"flushed", func(b *bench) { b.queue.incs = []mirror.Incarnation{{Partition: 0}, {Partition: 1}} }, []int{0, 1}},
		{"one partition gone", func(b *bench) { b.queue.incs[1] = mirror.Incarnation{Partition: 1} }, []int{1}},
		{"rewound", func(b *bench) { b.queue.incs[0].HighWater = 4 }, []int{0}},
		{"another redis", func(b *bench) { b.queue.incs[0].ID = "x"; b.queue.incs[0].HighWater = 900 }, []int{0}},
		{"a partition more", func(b *bench) { b.queue.incs = append(b.queue.incs, mirror.Incarnation{Partition: 2, ID: "x"}) }, []int{2}},
		{"redis ahead", func(b *bench) { b.queue.incs[0].HighWater = 6 }, nil}, // killed between the two stamps
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := stamped(t)
			test.change(b)
			got, lost := b.check(t)
			if !slices.Equal(got, test.lost) {
				t.Fatalf("lost %v, want %v", got, test.lost)
			}
			if again, _ := b.check(t); !slices.Equal(again, test.lost) {
				t.Fatalf("lost %v the second time, want %v until it is healed", again, test.lost)
			}
			if err := b.heal(t, lost); err != nil {
				t.Fatal(err)
			}
			if after, _ := b.check(t); len(after) != 0 {
				t.Errorf("lost %v after the healing", after)
			}
		})
	}
}

func TestRewindFirstStart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	lost, fresh, err := b.detector().Check(t.Context())
	if err != nil || len(lost) != 2 || !fresh {
		t.Errorf("%v, fresh %v, %v; want both partitions, fresh", lost, fresh, err)
	}
	b = stamped(t)
	b.queue.incs = []mirror.Incarnation{{Partition: 0}, {Partition: 1}}
	if _, fresh, err := b.detector().Check(t.Context()); err != nil || fresh {
		t.Errorf("a flushed redis counts as a first start: %v", err)
	}
	b = stamped(t)
	if _, fresh, err := b.detector().Check(t.Context()); err != nil || fresh {
		t.Errorf("a sound redis counts as a first start: %v", err)
	}
}

// I18: a check of a sound Redis changes the counters and nothing else.
func TestI18_RewindCheckOfASoundRedis(t *testing.T) {
	t.Parallel()
	b := stamped(t)
	for range 3 {
		if lost, _ := b.check(t); len(lost) != 0 {
			t.Fatalf("lost %v", lost)
		}
	}
	held, err := b.store.Store.Incarnations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []mirror.Incarnation{{Partition: 0, ID: "id0", HighWater: 8}, {Partition: 1, ID: "id1", HighWater: 8}}
	if !slices.Equal(b.queue.incs, want) || !slices.Equal(held, want) || len(b.queue.live)+len(b.queue.swept) != 0 {
		t.Errorf("redis %v, mirror %v, marks %v; want both sides at 8 and no mark", b.queue.incs, held, b.queue.live)
	}
}

// A failure at any call of a check or a healing is no sound state taken for a
// lost one, nor the reverse.
func TestF03_RewindFailsEverywhere(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		for at := 1; at <= 8; at++ {
			b := stamped(t)
			b.faults.at, b.faults.after = at, after
			_, _, err := b.detector().Check(t.Context())
			b.faults.at = 0
			if (err != nil) != (at <= 6) {
				t.Fatalf("call %d: %v", at, err)
			}
			if lost, _ := b.check(t); len(lost) != 0 {
				t.Fatalf("call %d, after %v: lost %v after a failed check", at, after, lost)
			}

			b.queue.incs[0].ID = "exchanged"
			_, lost := b.check(t)
			b.faults.n, b.faults.at = 0, at
			err = b.heal(t, lost)
			b.faults.at = 0
			if (err != nil) != (at <= 3) {
				t.Fatalf("heal %d: %v", at, err)
			}
			parts, _ := b.check(t)
			// Only a healing whose last write took effect may count.
			if healed := err == nil || at == 3 && after; healed != (len(parts) == 0) {
				t.Fatalf("heal %d, after %v: lost %v", at, after, parts)
			}
		}
	}
}

// A Redis that is lost while it is looked at or healed stays lost: no stamp hides it.
// Found by the model (model/creditmirror.pml, HEAL_STAMPS_BLINDLY).
func TestF10_LostOnceMoreMeanwhile(t *testing.T) {
	t.Parallel()
	flush := func(b *bench) { b.queue.incs = []mirror.Incarnation{{Partition: 0}, {Partition: 1}} }
	rewind := func(b *bench) { b.queue.incs[0].HighWater--; b.queue.incs[1].HighWater-- }
	for name, lose := range map[string]func(*bench){"flushed": flush, "rewound": rewind} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := stamped(t)
			b.queue.afterRead = func() { lose(b) } // between reading and stamping a sound one
			if parts, _ := b.check(t); len(parts) != 0 {
				t.Fatalf("lost %v before it was", parts)
			}
			parts, lost := b.check(t)
			if len(parts) != 2 {
				t.Fatalf("lost %v, want both: the check has hidden it", parts)
			}
			begun, err := b.detector().Begin(t.Context(), lost)
			if err != nil {
				t.Fatal(err)
			}
			lose(b) // while its targets are marked again
			if err := b.detector().Heal(t.Context(), begun); !errors.Is(err, errLostAgain) {
				t.Fatalf("healed over a second loss: %v", err)
			}
			if parts, lost = b.check(t); len(parts) != 2 {
				t.Fatalf("lost %v, want both: the healing has hidden it", parts)
			}
			if err := b.heal(t, lost); err != nil {
				t.Fatal(err)
			}
			if parts, _ := b.check(t); len(parts) != 0 {
				t.Errorf("lost %v after the healing", parts)
			}
		})
	}
}

// A rewound Redis may have a claim of a worker that is about to complete it, and
// knows nothing of an event that came since: the event is marked all the same.
// Found by the model (REMARK_SKIPS_QUEUED).
func TestF10_RewoundRedisIsNotTakenAtItsWord(t *testing.T) {
	t.Parallel()
	b := setup(t)
	e := updated(1, time.Minute)
	if _, err := b.store.Store.RecordEvents(t.Context(), []mirror.Event{e}); err != nil {
		t.Fatal(err)
	}
	for _, target := range e.Targets() {
		b.queue.queued[target] = true
	}
	if n, err := RemarkPending(t.Context(), b.store, b.queue, t0, pendingAge); err != nil || n != 0 {
		t.Fatalf("the pass marked %d, %v; want none: the queue has it", n, err)
	}
	if n, err := remarkLost(t.Context(), b.store, b.queue); err != nil || n == 0 {
		t.Fatalf("the healing marked %d, %v; want the event's target", n, err)
	}
}

func TestRemarkPending(t *testing.T) {
	t.Parallel()
	b := setup(t)
	old, young, waits, dead := updated(1, time.Minute), updated(2, 14*time.Second), updated(3, time.Minute), updated(4, time.Minute)
	gone := updated(5, time.Minute)
	gone.Type = "customer.deleted" // two targets
	if _, err := b.store.Store.RecordEvents(t.Context(), []mirror.Event{old, young, waits, dead, gone}); err != nil {
		t.Fatal(err)
	}
	b.queue.queued[waits.Targets()[0]] = true
	if err := b.store.Store.SaveDeadLetter(t.Context(), mirror.DeadLetter{
		ID: mirror.DeadLetterID(dead.Targets()[0]), Target: dead.Targets()[0], FirstFailedAt: t0, LastFailedAt: t0,
	}); err != nil {
		t.Fatal(err)
	}
	n, err := RemarkPending(t.Context(), b.store, b.queue, t0, pendingAge)
	if got, want := b.queue.marked(), "balance::cus_1<evt_1 balance::cus_5<evt_5 credits::cus_5<evt_5"; err != nil || n != 3 || got != want {
		t.Errorf("%d, %v: %s, want %s", n, err, got, want)
	}
	if n, err := RemarkPending(t.Context(), b.store, b.queue, t0, 0); err != nil || n != 1 {
		t.Errorf("without an age: %d, %v; want the young one alone, the rest waits", n, err)
	}
	// I18: and then there is nothing left to do.
	if n, err := RemarkPending(t.Context(), b.store, b.queue, t0, 0); err != nil || n != 0 {
		t.Errorf("again: %d, %v", n, err)
	}
}

func TestRemarkPendingInPages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var events []mirror.Event
	for i := range 1100 {
		e := updated(i, time.Minute)
		if i == 999 || i%7 == 0 {
			e.Type = "customer.deleted" // two targets, and a page ends between them
		}
		events = append(events, e)
	}
	if _, err := b.store.Store.RecordEvents(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	want := 0
	for _, e := range events {
		want += len(e.Targets())
	}
	if n, err := RemarkPending(t.Context(), b.store, b.queue, t0, pendingAge); err != nil || n != want || len(b.queue.queued) != want {
		t.Errorf("%d of %d targets marked, %v", n, want, err)
	}
}

func TestRemarkPendingFails(t *testing.T) {
	t.Parallel()
	for at := 1; at <= 4; at++ {
		b := setup(t)
		if _, err := b.store.Store.RecordEvents(t.Context(), []mirror.Event{updated(1, time.Minute)}); err != nil {
			t.Fatal(err)
		}
		b.faults.at = at
		if _, err := RemarkPending(t.Context(), b.store, b.queue, t0, 0); !errors.Is(err, errInjected) {
			t.Fatalf("call %d: %v", at, err)
		}
		if n, err := RemarkPending(t.Context(), b.store, b.queue, t0, 0); err != nil || n != 1 {
			t.Fatalf("after call %d: %d, %v; want the mark", at, n, err)
		}
	}
}
