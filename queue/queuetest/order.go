package queuetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/queue"
)

func classes(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, marksOf(queue.Sweep, "s", 40)...)
	s.mark(q, marksOf(queue.Live, "l", 40)...)
	sweeps := 0
	claims := s.claim(q, 32)
	for _, c := range claims {
		if c.Class == queue.Sweep {
			sweeps++
		}
		if want := strings.HasPrefix(c.Key, "s"); want != (c.Class == queue.Sweep) {
			s.Fatalf("%s has class %s", c.Key, c.Class)
		}
	}
	if len(claims) != 32 || sweeps != 4 {
		s.Fatalf("%d claims with %d sweep, want 32 with 4 (one of 8)", len(claims), sweeps)
	}
	// Once live work is out, sweep work gets everything.
	n := 0
	for range 20 {
		n += len(s.claim(q, 32))
	}
	if n != 48 {
		s.Fatalf("%d claims of the rest, want 48", n)
	}
}

// shareOfSingleClaims is the share as workers see it that claim one by one.
func shareOfSingleClaims(s *suite) {
	q := s.queue(queue.Options{SweepShare: 4})
	s.mark(q, marksOf(queue.Sweep, "s", 20)...)
	s.mark(q, marksOf(queue.Live, "l", 40)...)
	sweeps := 0
	for range 40 {
		claims := s.claim(q, 1)
		if len(claims) != 1 {
			s.Fatalf("%d claims", len(claims))
		}
		if claims[0].Class == queue.Sweep {
			sweeps++
		}
	}
	if sweeps != 10 {
		s.Fatalf("%d of 40 claims were sweep, want 10", sweeps)
	}
}

func lift(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "a", Class: queue.Sweep, Delay: time.Hour}, queue.Mark{Key: "b", Class: queue.Sweep})
	if o := s.mark(q, queue.Mark{Key: "a"}); o[0] != queue.Coalesced {
		s.Fatalf("live mark of a waiting key: %v", o[0])
	}
	if st := s.stats(q); st.ReadyLive != 1 || st.ReadySweep != 1 || st.Delayed != 0 {
		s.Fatalf("%+v", st)
	}
	// A sweep mark does not lower it again.
	s.mark(q, queue.Mark{Key: "a", Class: queue.Sweep})
	if st := s.stats(q); st.ReadyLive != 1 || st.ReadySweep != 1 {
		s.Fatalf("%+v", st)
	}
}

func classOfRerun(s *suite) {
	for _, tc := range []struct {
		name         string
		claimed      queue.Class
		meanwhile    []queue.Class
		done, failed queue.Class // class of the next claim after done, after fail
	}{
		{"live, then sweep", queue.Live, []queue.Class{queue.Sweep}, queue.Sweep, queue.Live},
		{"live, then sweep and live", queue.Live, []queue.Class{queue.Sweep, queue.Live}, queue.Live, queue.Live},
		{"live, then live and sweep", queue.Live, []queue.Class{queue.Live, queue.Sweep}, queue.Live, queue.Live},
		{"sweep, then sweep", queue.Sweep, []queue.Class{queue.Sweep}, queue.Sweep, queue.Sweep},
		{"sweep, then live", queue.Sweep, []queue.Class{queue.Live}, queue.Live, queue.Live},
		{"live", queue.Live, nil, 0, queue.Live},
		{"sweep", queue.Sweep, nil, 0, queue.Sweep},
	} {
		for _, end := range []string{"done", "fail", "reap"} {
			prefix := fmt.Sprintf("%s-%s-%s", s.prefix, strings.ReplaceAll(tc.name, " ", ""), end)
			q := s.queue(queue.Options{Prefix: prefix})
			s.mark(q, queue.Mark{Key: "a", Class: tc.claimed})
			c := s.one(q)
			for _, m := range tc.meanwhile {
				s.mark(q, queue.Mark{Key: "a", Class: m})
			}
			want := tc.failed
			switch end {
			case "done":
				s.done(q, c, len(tc.meanwhile) > 0)
				if len(tc.meanwhile) == 0 {
					s.clean(q)
					continue
				}
				want = tc.done
			case "fail":
				if _, err := q.Fail(s.Context(), c, 0); err != nil {
					s.Fatal(err)
				}
			case "reap":
				s.expire(prefix, "a")
				s.reap(q)
			}
			if got := s.one(q); got.Class != want {
				s.Errorf("%s, %s: next run is %s, want %s", tc.name, end, got.Class, want)
			}
		}
	}
}

// gather: a key that is marked faster than it is worked on waits for more marks,
// and none of them brings it forward.
func gather(s *suite) {
	q := s.queue(queue.Options{Gather: 2 * time.Second})
	burst := func(n int) {
		for range n {
			s.mark(q, queue.Mark{Key: "a"})
		}
	}
	next := func() (c queue.Claim) {
		s.eventually("the pause to end", func() bool {
			claims := s.claim(q, 10)
			if len(claims) == 1 {
				c = claims[0]
			}
			return len(claims) == 1
		})
		return c
	}
	burst(1)
	c := s.one(q) // the first mark waits for nothing
	burst(50)
	s.done(q, c, true)
	began := time.Now()
	burst(50)
	s.none(q)
	if st := s.stats(q); st.Delayed != 1 || st.Dirty != 1 {
		s.Fatalf("%+v, want the key held", st)
	}
	c = next()
	if d := time.Since(began); d < 1500*time.Millisecond {
		s.Errorf("the pause ended after %v", d)
	}
	s.done(q, c, false) // it stood for all of them
	s.clean(q)

	// Somebody waits for a key that a sweep marked: it does not gather any longer.
	s.mark(q, queue.Mark{Key: "a", Class: queue.Sweep})
	c = s.one(q)
	for range 50 {
		s.mark(q, queue.Mark{Key: "a", Class: queue.Sweep})
	}
	s.done(q, c, true)
	s.none(q)
	burst(1)
	s.done(q, s.one(q), false)
	s.clean(q)
}

func delays(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "a", Delay: time.Hour})
	s.none(q)
	if st := s.stats(q); st.Delayed != 1 || st.ReadyLive != 0 || st.OldestReady != 0 {
		s.Fatalf("%+v", st)
	}
	s.mark(q, queue.Mark{Key: "a", Delay: 2 * time.Hour}) // never later
	s.mark(q, queue.Mark{Key: "a"})                       // but earlier
	c := s.one(q)
	// Another look in an hour; a mark brings it forward.
	if n, err := q.Revisit(s.Context(), c, time.Hour); err != nil || n != 1 {
		s.Fatal(n, err)
	}
	s.none(q)
	s.mark(q, queue.Mark{Key: "a", Class: queue.Sweep})
	c = s.one(q)
	// One that came during the work does too.
	s.mark(q, queue.Mark{Key: "a"})
	if n, err := q.Revisit(s.Context(), c, time.Hour); err != nil || n != 2 {
		s.Fatal(n, err)
	}
	s.done(q, s.one(q), false)
	s.clean(q)
}

// backOff: no mark of whatever class shortens the pause after a failed run.
func backOff(s *suite) {
	q := s.queue(queue.Options{})
	ways := map[string]func(c queue.Claim) error{
		"fail":    func(c queue.Claim) error { _, err := q.Fail(s.Context(), c, time.Hour); return err },
		"release": func(c queue.Claim) error { return q.Release(s.Context(), c, time.Hour) },
		"put off": func(c queue.Claim) error { _, err := q.PutOff(s.Context(), c, time.Hour, true); return err },
	}
	for way, giveBack := range ways {
		for _, class := range []queue.Class{queue.Live, queue.Sweep} {
			key := way + class.String()
			s.mark(q, queue.Mark{Key: key, Class: class})
			c := s.one(q)
			s.mark(q, queue.Mark{Key: key, Class: class}) // while it is in work
			if err := giveBack(c); err != nil {
				s.Fatal(err)
			}
			for _, m := range []queue.Mark{{Key: key, Class: queue.Sweep}, {Key: key}, {Key: key, Delay: time.Minute}, {Key: key, Class: queue.Sweep}} {
				s.mark(q, m)
				if claims := s.claim(q, 10); len(claims) != 0 {
					s.Fatalf("%s of %s work: a %s mark shortened the pause", way, class, m.Class)
				}
			}
		}
	}
	if st := s.stats(q); st.Delayed != 6 || st.Dirty != 6 {
		s.Fatalf("%+v, want 6 delayed", st)
	}
}

// resume: what an outage put off is due when it is over, and nothing else.
func resume(s *suite) {
	q := s.queue(queue.Options{})
	const n = 1200
	s.mark(q, marksOf(queue.Live, "out", n)...)
	s.mark(q, marksOf(queue.Sweep, "out-sweep", 5)...)
	s.mark(q, queue.Mark{Key: "other"}, queue.Mark{Key: "failed"}, queue.Mark{Key: "later", Delay: time.Hour})
	for claims := s.claim(q, 256); len(claims) > 0; claims = s.claim(q, 256) {
		for i, c := range claims {
			var err error
			if c.Key == "failed" {
				_, err = q.Fail(s.Context(), c, time.Hour)
			} else {
				_, err = q.PutOff(s.Context(), c, time.Hour, i%2 == 0)
			}
			if err != nil {
				s.Fatal(err)
			}
		}
	}
	matching := func(key string) bool { return strings.HasPrefix(key, "out") }
	if got, err := q.Resume(s.Context(), matching); err != nil || got != n+5 {
		s.Fatalf("%d made due, %v; want %d", got, err, n+5)
	}
	if st := s.stats(q); st.ReadyLive != n || st.ReadySweep != 5 || st.Delayed != 3 {
		s.Fatalf("%+v", st)
	}
	if got, err := q.Resume(s.Context(), matching); err != nil || got != 0 {
		s.Fatalf("made due twice: %d, %v", got, err)
	}
	s.mark(q, queue.Mark{Key: "out0"}) // it is held no more
	seen := 0
	for claims := s.claim(q, 256); len(claims) > 0; claims = s.claim(q, 256) {
		seen += len(claims)
		for _, c := range claims {
			s.done(q, c, false)
		}
	}
	if seen != n+5 {
		s.Fatalf("%d claims, want %d", seen, n+5)
	}
}

func attempts(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "a"})
	for i := range 3 {
		c := s.one(q)
		if c.Attempts != i {
			s.Fatalf("claim %d says %d attempts", i, c.Attempts)
		}
		if n, err := q.Fail(s.Context(), c, 0); err != nil || n != i+1 {
			s.Fatalf("fail %d: %d, %v", i, n, err)
		}
		s.everythingRefused(q, c) // it was given back
	}
	c := s.one(q)
	if err := q.Release(s.Context(), c, 0); err != nil {
		s.Fatal(err)
	}
	c = s.one(q)
	if c.Attempts != 3 {
		s.Fatalf("release changed the attempts to %d", c.Attempts)
	}
	s.mark(q, queue.Mark{Key: "a"})
	s.done(q, c, true)
	c = s.one(q)
	if c.Attempts != 0 {
		s.Fatalf("%d attempts after a completed run", c.Attempts)
	}
	s.done(q, c, false)
}

func refs(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "a", Ref: "e1"}, queue.Mark{Key: "a"}, queue.Mark{Key: "a", Ref: "e2"}, queue.Mark{Key: "a", Ref: "e1"},
		queue.Mark{Key: "a", Ref: "two\nlines"}, queue.Mark{Key: "a", Ref: strings.Repeat("x", queue.MaxRef+1)}, queue.Mark{Key: "a", Ref: "e%d.*"})
	c := s.one(q)
	if want := []string{"e1", "e2", "e%d.*"}; !slices.Equal(c.Refs, want) {
		s.Fatalf("refs %q, want %q", c.Refs, want)
	}
	if !c.Unnamed {
		s.Fatal("marks without a ref went unnoticed")
	}
	// The next run is for what came meanwhile, and for nothing else.
	s.mark(q, queue.Mark{Key: "a", Ref: "e3"})
	s.done(q, c, true)
	if c = s.one(q); !slices.Equal(c.Refs, []string{"e3"}) || c.Unnamed {
		s.Fatalf("refs of the second run %q, unnamed %v", c.Refs, c.Unnamed)
	}
	s.mark(q, queue.Mark{Key: "a"})
	s.done(q, c, true)
	if c = s.one(q); c.Refs != nil || !c.Unnamed {
		s.Fatalf("refs of the third run %q, unnamed %v", c.Refs, c.Unnamed)
	}
	// A run that is given back asks for as much the next time.
	s.mark(q, queue.Mark{Key: "a", Ref: "e4"})
	if err := q.Release(s.Context(), c, 0); err != nil {
		s.Fatal(err)
	}
	if c = s.one(q); !slices.Equal(c.Refs, []string{"e4"}) || !c.Unnamed {
		s.Fatalf("refs after a release %q, unnamed %v", c.Refs, c.Unnamed)
	}
	s.done(q, c, false)

	var marks []queue.Mark
	for i := range 100 {
		marks = append(marks, queue.Mark{Key: "b", Ref: fmt.Sprint("n", i)})
	}
	s.mark(q, marks...)
	c = s.one(q)
	if len(c.Refs) != queue.MaxRefs || c.Refs[0] != "n0" || c.Refs[31] != "n31" || !c.Unnamed {
		s.Fatalf("%d refs %q, unnamed %v", len(c.Refs), c.Refs, c.Unnamed)
	}
	// One too many during the run, and none that is new.
	s.mark(q, queue.Mark{Key: "b", Ref: "n0"}, queue.Mark{Key: "b", Ref: "late"})
	s.done(q, c, true)
	if c = s.one(q); c.Refs != nil || !c.Unnamed {
		s.Fatalf("refs after too many %q, unnamed %v", c.Refs, c.Unnamed)
	}
	for p := range s.h.Partitions {
		s.h.Client.Del(s.Context(), keyName(s.prefix, p, "refs"))
	}
	s.done(q, c, false)
	s.mark(q, queue.Mark{Key: "b"})
	if c = s.one(q); c.Refs != nil {
		s.Fatalf("refs of a clean key came back: %q", c.Refs)
	}
	s.done(q, c, false)
	s.clean(q)
}

func contains(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, queue.Mark{Key: "waiting"}, queue.Mark{Key: "leased"}, queue.Mark{Key: "later", Delay: time.Hour}, queue.Mark{Key: "done"})
	for _, c := range s.claim(q, 10) {
		switch c.Key {
		case "done":
			s.done(q, c, false)
		case "waiting":
			if err := q.Release(s.Context(), c, 0); err != nil {
				s.Fatal(err)
			}
		}
	}
	got, err := q.Contains(s.Context(), []string{"done", "waiting", "never", "leased", "later"})
	if want := []bool{false, true, false, true, true}; err != nil || !slices.Equal(got, want) {
		s.Fatalf("contains %v, %v, want %v", got, err, want)
	}
	if got, err := q.Contains(s.Context(), nil); err != nil || len(got) != 0 {
		s.Fatalf("contains nothing: %v, %v", got, err)
	}
}

func stats(s *suite) {
	q := s.queue(queue.Options{})
	s.clean(q)
	s.mark(q, marksOf(queue.Sweep, "s", 3)...)
	s.mark(q, marksOf(queue.Live, "l", 5)...)
	s.mark(q, queue.Mark{Key: "d", Delay: time.Hour}, queue.Mark{Key: "e", Delay: time.Hour, Class: queue.Sweep})
	s.claim(q, 1)
	var st queue.Stats
	s.eventually("the oldest key to age", func() bool { st = s.stats(q); return st.OldestReady > 20*time.Millisecond })
	if st.ReadyLive != 4 || st.ReadySweep != 3 || st.Delayed != 2 || st.Leased != 1 || st.Dirty != 10 || st.OldestLive <= 0 || st.OldestLive > st.OldestReady {
		s.Fatalf("%+v", st)
	}
}

func fairPartitions(s *suite) {
	q := s.queue(queue.Options{})
	s.mark(q, marksOf(queue.Live, "k", 200)...)
	first := s.claim(q, min(64, s.h.Partitions*2))
	if len(first) != min(64, s.h.Partitions*2) {
		s.Fatalf("%d claims", len(first))
	}
	// Every key comes up in the end, whatever partition it is in.
	seen := keysOf(first)
	for {
		claims := s.claim(q, 16)
		if len(claims) == 0 {
			break
		}
		seen = append(seen, keysOf(claims)...)
	}
	slices.Sort(seen)
	if seen = slices.Compact(seen); len(seen) != 200 {
		s.Fatalf("%d of 200 keys came up", len(seen))
	}
}

func bulk(s *suite) {
	const n, tries, wait = 1500, 10, 2 * time.Second
	q := s.queue(queue.Options{})
	// On a busy machine a call may last longer than the client waits. The client then
	// sends it again, and what the first one queued is coalesced: such a round counts
	// for the statistics alone.
	for try := 1; ; try++ {
		marks := marksOf(queue.Sweep, fmt.Sprintf("k%d-", try), n+1)
		began := time.Now()
		first, second := s.mark(q, marks[:n]...), s.mark(q, marks...)
		late := time.Since(began) > wait
		if st := s.stats(q); st.ReadySweep != try*(n+1) || st.Dirty != try*(n+1) {
			s.Fatalf("%+v", st)
		}
		if late && try < tries {
			continue
		}
		for i, o := range first {
			if o != queue.Queued {
				s.Fatalf("mark %d: %v", i, o)
			}
		}
		for i, o := range second {
			if want := map[bool]queue.Outcome{true: queue.Queued, false: queue.Coalesced}[i == n]; o != want {
				s.Fatalf("second mark %d: %v, want %v", i, o, want)
			}
		}
		return
	}
}

func invalid(s *suite) {
	q := s.queue(queue.Options{})
	for _, m := range []queue.Mark{
		{}, {Key: strings.Repeat("k", queue.MaxKey+1)}, {Key: "a", Delay: -1}, {Key: "a", Delay: queue.MaxDelay + 1}, {Key: "a", Class: 7},
	} {
		// Nothing of the call is marked, not even what is valid.
		if _, err := q.Mark(s.Context(), []queue.Mark{{Key: "ok"}, m}); !errors.Is(err, queue.ErrInvalid) {
			s.Errorf("%+v: %v", m, err)
		}
	}
	if out, err := q.Mark(s.Context(), nil); err != nil || len(out) != 0 {
		s.Errorf("no marks: %v, %v", out, err)
	}
	odd := "sp ace\x00\xff\n{br}:%d"
	s.mark(q, queue.Mark{Key: odd})
	c := s.one(q)
	if c.Key != odd {
		s.Fatalf("key %q", c.Key)
	}
	s.done(q, c, false)
	s.clean(q)
}
