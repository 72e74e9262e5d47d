package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxClaims bounds one Claim, and so how long one script runs.
const maxClaims = 256

// Claim is a key leased to this process.
type Claim struct {
	// Key is the marked key.
	Key string
	// Class is the class it waited in.
	Class Class
	// Refs are the refs of its marks, oldest first. Unnamed reports that there were
	// marks that Refs does not name.
	Refs    []string
	Unnamed bool
	// Attempts counts the runs since the last completed one that failed or whose
	// lease ran out.
	Attempts int
	// MarkedAt is when the key became due, by this process's clock: the time of the
	// first mark not yet answered, or the end of its delay or pause.
	MarkedAt time.Time
	// Expires is when the lease runs out unless renewed, by this process's clock
	// and never later than Redis will take it.
	Expires time.Time

	named     int // bytes of refs in Redis
	partition int
	gen       string
	value     string // what the claim hash holds while the claim is owned
}

// Claim leases up to max keys that are due, live ones first except for the
// share that sweep work is due. It returns fewer, or none, when no more are due;
// then wait with [Queue.Wait]. Claims of a reply that got lost run out by themselves.
func (q *Queue) Claim(ctx context.Context, max int) ([]Claim, error) {
	max = min(max, maxClaims)
	if max <= 0 {
		return nil, nil
	}
	plan, err := q.plan(ctx, max)
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	if len(plan) == 0 {
		return nil, nil
	}
	token, before := rand.Text(), time.Now()
	calls := make([]*call, len(plan))
	for i, s := range plan {
		calls[i] = q.call(q.scripts.claim, s.partition, token, q.opts.Lease.Milliseconds(), s.max, s.share)
	}
	err = q.run(ctx, calls...)
	var claims []Claim
	more := false
	for i, c := range calls {
		// A partition that failed must not hide what the others leased.
		if c.reply.Err() != nil {
			continue
		}
		got, next, perr := parseClaims(c, plan[i].partition, token, before, q.opts.Lease)
		if perr != nil {
			err = errors.Join(err, perr)
			continue
		}
		claims = append(claims, got...)
		switch {
		case next == 0:
			more = true
		case next > 0:
			q.waker.wakeIn(next)
		}
	}
	if more {
		q.waker.wake() // for whoever waits in this process: there may be more
	}
	q.turn.Add(uint64(len(claims)))
	if err != nil && len(claims) == 0 {
		return nil, fmt.Errorf("claim: %w", err)
	}
	// Some partitions answered: their keys are leased and must be worked on. The
	// error comes back with the next claim if it lasts.
	return claims, nil
}

// slice is what one partition is asked for.
type slice struct {
	partition  int
	max, share int
}

// plan decides which partitions to ask for how many keys. With one partition
// there is nothing to decide; with more, one round trip asks what is due where.
func (q *Queue) plan(ctx context.Context, max int) ([]slice, error) {
	turn, every := q.turn.Load(), uint64(q.opts.SweepShare) // #nosec G115 -- small counts, none of them negative
	share := int((turn+uint64(max))/every - turn/every)     // #nosec G115 -- small counts, none of them negative
	if len(q.keys) == 1 {
		return []slice{{0, max, share}}, nil
	}
	// Partitions that are away have nothing to give; the others' work goes on.
	counts, answered, err := q.countsEach(ctx)
	if answered == 0 {
		return nil, err
	}
	live, sweep := make([]int64, len(counts)), make([]int64, len(counts))
	for p, c := range counts {
		live[p], sweep[p] = c.liveDue, c.sweepDue
		for _, next := range []int64{c.liveAge, c.sweepAge} {
			if next < 0 {
				q.waker.wakeIn(time.Duration(-next) * time.Millisecond)
			}
		}
	}
	take := make([]slice, len(counts))
	first := int(q.rotate.Add(1) % uint64(len(counts))) // #nosec G115 -- small counts, none of them negative
	deal(sweep, first, share, func(p int) { take[p].max++; take[p].share++; max-- })
	deal(live, first, max, func(p int) { take[p].max++; max-- })
	deal(sweep, first, max, func(p int) { take[p].max++; max-- })
	var out []slice
	for p, s := range take {
		if s.max > 0 {
			s.partition = p
			out = append(out, s)
		}
	}
	return out, nil
}

// deal hands out n turns one by one to the partitions that have something left,
// beginning with the first.
func deal(have []int64, first, n int, give func(p int)) {
	for n > 0 {
		before := n
		for i := range have {
			p := (first + i) % len(have)
			if n > 0 && have[p] > 0 {
				have[p]--
				n--
				give(p)
			}
		}
		if n == before {
			return
		}
	}
}

// parseClaims reads the reply of claim.lua. next is when more is due: 0 now,
// negative never.
func parseClaims(c *call, partition int, token string, before time.Time, lease time.Duration) (claims []Claim, next time.Duration, err error) {
	reply, err := c.reply.Slice()
	if err != nil {
		return nil, 0, err
	}
	if len(reply)%6 != 1 {
		return nil, 0, fmt.Errorf("claim script replied with %d values", len(reply))
	}
	ms, ok := reply[0].(int64)
	if !ok {
		return nil, 0, fmt.Errorf("claim script replied with %T", reply[0])
	}
	now := time.Now()
	for r := reply[1:]; len(r) > 0; r = r[6:] {
		var f [6]string
		for i := range f {
			if f[i], ok = r[i].(string); !ok {
				return nil, 0, fmt.Errorf("claim script replied with %T", r[i])
			}
		}
		attempts, err1 := strconv.Atoi(f[3])
		age, err2 := strconv.ParseInt(f[4], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, 0, fmt.Errorf("claim script: %w", err)
		}
		cl := Claim{
			Key: f[0], Attempts: attempts, MarkedAt: now.Add(-time.Duration(age) * time.Millisecond), Expires: before.Add(lease),
			partition: partition, gen: f[1], value: token + ":" + f[1] + ":" + f[2],
		}
		if f[2] == "1" {
			cl.Class = Sweep
		}
		names := strings.TrimLeft(f[5], "*+")
		cl.named = len(names)
		cl.Unnamed = len(names) < len(f[5]) || names == ""
		for name := range strings.SplitSeq(names, "\n") {
			if name != "" {
				cl.Refs = append(cl.Refs, name)
			}
		}
		claims = append(claims, cl)
	}
	return claims, time.Duration(ms) * time.Millisecond, nil
}

// Renew extends the leases of claims that are still owned to a full lease from
// now and returns those that are not: their work must stop. After an error none
// is known to be extended.
func (q *Queue) Renew(ctx context.Context, claims []Claim) (lost []Claim, err error) {
	if len(claims) == 0 {
		return nil, nil
	}
	byPartition := map[int]*call{}
	order := map[int][]Claim{}
	var calls []*call
	for _, c := range claims {
		p := c.partition
		if byPartition[p] == nil {
			byPartition[p] = q.call(q.scripts.renew, p, q.opts.Lease.Milliseconds())
			calls = append(calls, byPartition[p])
		}
		byPartition[p].args = append(byPartition[p].args, c.Key, c.value)
		order[p] = append(order[p], c)
	}
	if err := q.run(ctx, calls...); err != nil {
		return nil, fmt.Errorf("renew %d claims: %w", len(claims), err)
	}
	for p, call := range byPartition {
		kept, err := call.ints(len(order[p]))
		if err != nil {
			return nil, fmt.Errorf("renew %d claims: %w", len(claims), err)
		}
		for i, c := range order[p] {
			if kept[i] == 0 {
				lost = append(lost, c)
			}
		}
	}
	return lost, nil
}

// Done completes a claim. again says that the key was marked meanwhile and is
// waiting once more. It returns [ErrLost] when the claim is no longer owned; a
// Done whose reply got lost and that is repeated says so too.
func (q *Queue) Done(ctx context.Context, c Claim) (again bool, err error) {
	n, err := q.one(ctx, q.call(q.scripts.done, c.partition, q.channel, c.Key, c.value, c.gen, c.named, q.opts.Gather.Milliseconds()))
	if err != nil {
		return false, fmt.Errorf("complete %s: %w", c.Key, err)
	}
	return n == 1, nil
}

// Fail gives a claim back to be tried again after delay, and counts a failed
// attempt. No mark brings it forward before. It returns how many attempts there
// are now, or [ErrLost].
func (q *Queue) Fail(ctx context.Context, c Claim, delay time.Duration) (attempts int, err error) {
	return q.giveBack(ctx, "fail", c, delay, true, "backoff")
}

// Release is Fail for what was not tried, or was stopped by something outside of
// it: no attempt is counted.
func (q *Queue) Release(ctx context.Context, c Claim, delay time.Duration) error {
	_, err := q.giveBack(ctx, "release", c, delay, false, "backoff")
	return err
}

// PutOff is Fail for work that an outage stopped: it is due after delay, or when
// [Queue.Resume] says that the outage is over. counted reports whether it is an
// attempt of this work too.
func (q *Queue) PutOff(ctx context.Context, c Claim, delay time.Duration, counted bool) (attempts int, err error) {
	return q.giveBack(ctx, "put off", c, delay, counted, "outage")
}

// Revisit gives a claim back that was worked on well enough, for another look
// after delay; it counts an attempt. A mark brings it forward, as with any key
// that waits; where one came during the work, the pause is at most
// [Options.Gather].
func (q *Queue) Revisit(ctx context.Context, c Claim, delay time.Duration) (attempts int, err error) {
	return q.giveBack(ctx, "revisit", c, delay, true, "revisit")
}

func (q *Queue) giveBack(ctx context.Context, what string, c Claim, delay time.Duration, counted bool, why string) (int, error) {
	delay = min(max(delay, 0), MaxDelay)
	count := 0
	if counted {
		count = 1
	}
	n, err := q.one(ctx, q.call(q.scripts.fail, c.partition, q.channel, c.Key, c.value, delay.Milliseconds(), count, why, c.gen, q.opts.Gather.Milliseconds()))
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", what, c.Key, err)
	}
	return int(n), nil
}

// one runs a script that replies with a number, -1 meaning that the claim is lost.
func (q *Queue) one(ctx context.Context, c *call) (int64, error) {
	if err := q.run(ctx, c); err != nil {
		return 0, err
	}
	n, err := c.reply.Int64()
	if err != nil {
		return 0, err
	}
	if n < 0 {
		return 0, ErrLost
	}
	return n, nil
}
