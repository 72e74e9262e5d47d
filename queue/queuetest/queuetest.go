// Package queuetest is the specification of package queue as a test suite: every
// Redis that the queue is to run on must pass [Run].
//
// Names hold the numbers of the invariants they check: I3 every mark is followed
// by a run, I6 one owner at a time, I7 done clears only what it claimed, I8 dirty
// keys wait or are leased, I9 no key stays leased or waiting for ever.
package queuetest

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/redistest"
	"github.com/creditmirror/creditmirror/queue"
)

// Harness is one Redis to test on.
type Harness struct {
	// Client reaches that Redis.
	Client redis.UniversalClient
	// Partitions is how many the queues should use.
	Partitions int
	// Server is the one process behind Client that may be killed, paused and
	// reconfigured, or nil where there is none; cases that need it are skipped.
	Server *redistest.Server
	// Shared says that other tests use this Redis at the same time, so that
	// cases that flush it are skipped.
	Shared bool
}

// Run runs the suite. open is called once per case.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(*suite)
	}{
		{"I3_MarksWhileWaitingFoldIntoOneRun", coalesceWaiting},
		{"I3_MarksWhileLeasedCauseOneMoreRun", coalesceLeased},
		{"I3_AcknowledgedMarksSurviveKill", survivesKill},
		{"I3_NoWakeUpIsLost_RandomHistories", randomHistories},
		{"I3_NoWakeUpIsLost_ManyWorkers", manyWorkers},
		{"I6_NeverLeasedTwiceAtOnce", exclusive},
		{"I6_LostLeaseRunsAgainElsewhere", lostLease},
		{"I7_DoneClearsOnlyWhatItClaimed", doneClearsOnlyClaimed},
		{"I7_ZombiesAreRefused", zombies},
		{"I7_ZombiesAreRefusedAfterFlush", zombiesAfterFlush},
		{"I8_RepairHealsDeletedKeys", repairHeals},
		{"I8_RepairChangesNothingWhenNothingIsWrong", repairIdle},
		{"I8_RepairClearsLeftovers", repairLeftovers},
		{"I9_ReapTakesBackManyLeases", reapMany},
		{"I9_ServersClockSetBack", clockSetBack},
		{"LiveBeforeSweepWithAShare", classes},
		{"SharePerSingleClaim", shareOfSingleClaims},
		{"LiveMarkLiftsSweep", lift},
		{"ClassOfARerun", classOfRerun},
		{"Delays", delays},
		{"I9_MarksNeverShortenABackOff", backOff},
		{"I9_EndOfAnOutageMakesDue", resume},
		{"GatherInBursts", gather},
		{"Attempts", attempts},
		{"Refs", refs},
		{"Contains", contains},
		{"Stats", stats},
		{"FairOverPartitions", fairPartitions},
		{"ManyMarksInOneCall", bulk},
		{"InvalidMarks", invalid},
		{"ScriptsLost", scriptsLost},
		{"Incarnation", incarnation},
		{"WakeUp", wakeUp},
		{"WakeUpWhenDelayEnds", wakeDelayed},
		{"WakeUpOfManyWaiters", wakeMany},
		{"WakeUpAfterRestart", wakeAfterRestart},
		{"OutOfMemory", outOfMemory},
		{"SlowServer", slowServer},
		{"BusyServer", busyServer},
		{"CloseEndsWaiting", closing},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := open(t)
			s := &suite{T: t, h: h, prefix: "t" + strings.ToLower(rand.Text()[:10])}
			c.run(s)
		})
	}
}

// suite is one case in progress.
type suite struct {
	*testing.T
	h      Harness
	prefix string
}

// queue opens a queue as another process would. Without a prefix of their own,
// all of one case share their data.
func (s *suite) queue(o queue.Options) *queue.Queue {
	s.Helper()
	if o.Prefix == "" {
		o.Prefix = s.prefix
	}
	o.Partitions = s.h.Partitions
	q, err := queue.New(s.h.Client, o)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(q.Close)
	return q
}

func (s *suite) server() *redistest.Server {
	s.Helper()
	if s.h.Server == nil {
		s.Skip("needs a redis-server of its own")
	}
	return s.h.Server
}

func (s *suite) flushable() {
	s.Helper()
	if s.h.Shared {
		s.Skip("needs a redis of its own")
	}
}

func (s *suite) mark(q *queue.Queue, marks ...queue.Mark) []queue.Outcome {
	s.Helper()
	out, err := q.Mark(s.Context(), marks)
	if err != nil {
		s.Fatal(err)
	}
	if len(out) != len(marks) {
		s.Fatalf("%d outcomes for %d marks", len(out), len(marks))
	}
	return out
}

func (s *suite) claim(q *queue.Queue, n int) []queue.Claim {
	s.Helper()
	claims, err := q.Claim(s.Context(), n)
	if err != nil {
		s.Fatal(err)
	}
	if len(claims) > n {
		s.Fatalf("%d claims, asked for %d", len(claims), n)
	}
	return claims
}

// one claims exactly one key.
func (s *suite) one(q *queue.Queue) queue.Claim {
	s.Helper()
	claims := s.claim(q, 10)
	if len(claims) != 1 {
		s.Fatalf("claims %v, want one", keysOf(claims))
	}
	return claims[0]
}

func (s *suite) none(q *queue.Queue) {
	s.Helper()
	if claims := s.claim(q, 10); len(claims) != 0 {
		s.Fatalf("claims %v, want none", keysOf(claims))
	}
}

func (s *suite) done(q *queue.Queue, c queue.Claim, again bool) {
	s.Helper()
	got, err := q.Done(s.Context(), c)
	if err != nil || got != again {
		s.Fatalf("done %s: again=%v err=%v, want again=%v", c.Key, got, err, again)
	}
}

func (s *suite) stats(q *queue.Queue) queue.Stats {
	s.Helper()
	st, err := q.Stats(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return st
}

func (s *suite) clean(q *queue.Queue) {
	s.Helper()
	if st := s.stats(q); st != (queue.Stats{}) {
		s.Fatalf("queue is not empty: %+v", st)
	}
}

func (s *suite) reap(q *queue.Queue) int {
	s.Helper()
	n, err := q.Reap(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return n
}

func (s *suite) repair(q *queue.Queue) int {
	s.Helper()
	n, err := q.Repair(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return n
}

func (s *suite) refused(what string, err error) {
	s.Helper()
	if !errors.Is(err, queue.ErrLost) {
		s.Fatalf("%s: %v, want ErrLost", what, err)
	}
}

// expire makes a lease run out now, by rewriting its end in Redis.
func (s *suite) expire(prefix, key string) {
	s.Helper()
	if err := expireLease(s.Context(), s.h, prefix, key); err != nil {
		s.Fatal(err)
	}
}

func expireLease(ctx context.Context, h Harness, prefix, key string) error {
	for p := range h.Partitions {
		err := h.Client.ZAddXX(ctx, keyName(prefix, p, "lease"), redis.Z{Score: 1, Member: key}).Err()
		if err != nil {
			return err
		}
	}
	return nil
}

// keyName is the documented name of a key in Redis.
func keyName(prefix string, partition int, name string) string {
	return "{" + prefix + ":" + strconv.Itoa(partition) + "}:" + name
}

// within runs f and fails if it takes longer than d would be on an idle machine.
func (s *suite) within(d time.Duration, what string, f func()) {
	s.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > patience.Of(d) {
		s.Fatalf("%s took %s, want at most %s", what, took, patience.Of(d))
	}
}

// eventually calls f until it reports true, for at most 20 s on an idle machine.
func (s *suite) eventually(what string, f func() bool) {
	s.Helper()
	deadline := time.After(patience.Of(20 * time.Second))
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-deadline:
			s.Fatalf("waited in vain for: %s", what)
		case <-tick.C:
		}
	}
}

func keysOf(claims []queue.Claim) []string {
	var keys []string
	for _, c := range claims {
		keys = append(keys, c.Key)
	}
	slices.Sort(keys)
	return keys
}

func marksOf(class queue.Class, prefix string, n int) []queue.Mark {
	marks := make([]queue.Mark, n)
	for i := range marks {
		marks[i] = queue.Mark{Key: prefix + strconv.Itoa(i), Class: class}
	}
	return marks
}
