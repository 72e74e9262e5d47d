package queue

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// reapBatch and repairBatch bound what one script call looks at.
const (
	reapBatch   = 200
	repairBatch = 500
)

// Reap takes back the keys whose lease ran out, at once due again with one more
// attempt, and returns how many. Call it about once a second in every process
// that works; calling it more often, or in many processes, does no harm.
func (q *Queue) Reap(ctx context.Context) (int, error) {
	todo, total := q.partitions(), 0
	for len(todo) > 0 {
		calls := make([]*call, len(todo))
		for i, p := range todo {
			calls[i] = q.call(q.scripts.reap, p, q.channel, reapBatch)
		}
		err := q.run(ctx, calls...)
		var again []int
		for i, c := range calls {
			if n, nerr := c.reply.Int64(); nerr == nil {
				total += int(n)
				if n == reapBatch {
					again = append(again, todo[i])
				}
			}
		}
		if err != nil {
			return total, fmt.Errorf("reap: %w", err)
		}
		todo = again
	}
	return total, nil
}

// Repair goes through all dirty keys and queues those that neither wait nor are
// leased, which happens only when Redis lost part of its data; it returns how
// many. It also clears leftovers of keys that are clean. It works in slices, so
// it may run beside everything else. Call it about once a minute.
func (q *Queue) Repair(ctx context.Context) (int, error) {
	total := 0
	for p := range q.keys {
		// Generations first; then claims, attempts, refs and classes without one.
		for _, hash := range []int{1, 5, 6, 7, 8} {
			n, err := q.repairHash(ctx, p, hash)
			if hash == 1 {
				total += n
			}
			if err != nil {
				return total, fmt.Errorf("repair partition %d: %w", p, err)
			}
		}
	}
	return total, nil
}

func (q *Queue) repairHash(ctx context.Context, partition, hash int) (int, error) {
	total, cursor := 0, uint64(0)
	for {
		// Field, value, field, value...; entries that come or go meanwhile are
		// looked at again by the script.
		page, next, err := q.client.HScan(ctx, q.keys[partition][hash-1], cursor, "", repairBatch).Result()
		if err != nil {
			return total, err
		}
		for part := range slices.Chunk(page, 2*repairBatch) {
			c := q.call(q.scripts.repair, partition, q.channel, hash)
			for i := 0; i < len(part); i += 2 {
				c.args = append(c.args, part[i])
			}
			if err := q.run(ctx, c); err != nil {
				return total, err
			}
			n, err := c.reply.Int64()
			if err != nil {
				return total, err
			}
			total += int(n)
		}
		if next == 0 {
			return total, nil
		}
		cursor = next
	}
}

// outageFraction is OUTAGE of prelude.lua.
const outageFraction = 0.25

// Resume makes all keys due that were put off because of an outage and that match,
// and returns how many. It works in slices, as Repair does.
func (q *Queue) Resume(ctx context.Context, match func(key string) bool) (int, error) {
	total := 0
	for p := range q.keys {
		for _, waiting := range q.keys[p][1:3] {
			n, err := q.resume(ctx, p, waiting, match)
			total += n
			if err != nil {
				return total, fmt.Errorf("resume partition %d: %w", p, err)
			}
		}
	}
	return total, nil
}

func (q *Queue) resume(ctx context.Context, partition int, waiting string, match func(key string) bool) (int, error) {
	total, cursor := 0, uint64(0)
	for {
		// Key, due time, key, due time...
		page, next, err := q.client.ZScan(ctx, waiting, cursor, "", repairBatch).Result()
		if err != nil {
			return total, err
		}
		var keys []any
		for i := 0; i+1 < len(page); i += 2 {
			due, err := strconv.ParseFloat(page[i+1], 64)
			if err == nil && due-math.Floor(due) == outageFraction && match(page[i]) {
				keys = append(keys, page[i])
			}
		}
		for part := range slices.Chunk(keys, repairBatch) {
			n, err := q.one(ctx, q.call(q.scripts.resume, partition, append([]any{q.channel}, part...)...))
			total += int(n)
			if err != nil {
				return total, err
			}
		}
		if next == 0 {
			return total, nil
		}
		cursor = next
	}
}

// Stats counts the keys in each state.
type Stats struct {
	// ReadyLive and ReadySweep are due and wait for a worker.
	ReadyLive, ReadySweep int
	// Delayed are waiting for their time.
	Delayed int
	// Leased are in work.
	Leased int
	// Dirty are all keys with a mark not yet answered, whatever their state.
	Dirty int
	// OldestReady is how long the key that waits longest has been due, of either
	// class; OldestLive the same for live work. Zero when none is due.
	OldestReady, OldestLive time.Duration
}

// Stats counts, in one round trip.
func (q *Queue) Stats(ctx context.Context) (Stats, error) {
	counts, err := q.counts(ctx)
	if err != nil {
		return Stats{}, fmt.Errorf("queue stats: %w", err)
	}
	var s Stats
	for _, c := range counts {
		s.ReadyLive += int(c.liveDue)
		s.ReadySweep += int(c.sweepDue)
		s.Delayed += int(c.liveAll - c.liveDue + c.sweepAll - c.sweepDue)
		s.Leased += int(c.leased)
		s.Dirty += int(c.dirty)
		live, sweep := time.Duration(c.liveAge)*time.Millisecond, time.Duration(c.sweepAge)*time.Millisecond
		s.OldestLive = max(s.OldestLive, live)
		s.OldestReady = max(s.OldestReady, live, sweep)
	}
	return s, nil
}

// counts is what stats.lua says of one partition. Ages are in ms since the
// first key became due; negative: until it does.
type counts struct {
	liveDue, liveAll, sweepDue, sweepAll, leased, dirty, liveAge, sweepAge int64
}

func (q *Queue) counts(ctx context.Context) ([]counts, error) {
	out, answered, err := q.countsEach(ctx)
	if answered < len(out) {
		return nil, err
	}
	return out, nil
}

// countsEach counts what it can: a partition that does not answer has nothing. It reports
// how many did, and the first error of the others.
func (q *Queue) countsEach(ctx context.Context) (out []counts, answered int, err error) {
	calls := make([]*call, len(q.keys))
	for p := range calls {
		calls[p] = q.call(q.scripts.stats, p)
	}
	err = q.run(ctx, calls...)
	out = make([]counts, len(calls))
	for p, c := range calls {
		v, perr := c.ints(8)
		if perr != nil {
			if err == nil {
				err = perr
			}
			continue
		}
		out[p] = counts{v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]}
		answered++
	}
	return out, answered, err
}

// Away lists the partitions that take no writes now, with the first reason: Redis does
// not answer, is a replica, or has no node for them. marks asks for what a mark needs,
// which is room for it too; without, for what the rest needs, which goes on when memory
// is full.
func (q *Queue) Away(ctx context.Context, marks bool) (away []int, reason error) {
	pipe := q.client.Pipeline()
	replies := make([]redis.Cmder, len(q.keys))
	for p := range q.keys {
		key := strings.TrimSuffix(q.inc[p], "inc") + "probe"
		if marks {
			replies[p] = pipe.Set(ctx, key, 1, time.Minute)
		} else {
			replies[p] = pipe.Unlink(ctx, key)
		}
	}
	_, _ = pipe.Exec(ctx) //nolint:errcheck // each reply has its own
	for p, r := range replies {
		if err := r.Err(); err != nil {
			away = append(away, p)
			if reason == nil {
				reason = err
			}
		}
	}
	return away, reason
}

// Partitions is how many there are.
func (q *Queue) Partitions() int { return len(q.keys) }

// Incarnation marks one life of one partition's data. Its caller keeps the same
// in a database and compares: another ID, or a lower HighWater, means that Redis
// was flushed, exchanged or rewound, and that marks may be lost.
type Incarnation struct {
	// Partition is 0 up to Options.Partitions.
	Partition int
	// ID is what was stamped, "" where nothing ever was.
	ID string
	// HighWater is the highest number stamped under that ID.
	HighWater int64
}

// Incarnations returns that of every partition, in order.
func (q *Queue) Incarnations(ctx context.Context) ([]Incarnation, error) {
	pipe := q.client.Pipeline()
	replies := make([]*redis.SliceCmd, len(q.inc))
	for p, key := range q.inc {
		replies[p] = pipe.HMGet(ctx, key, "id", "hw")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("read incarnations: %w", err)
	}
	out := make([]Incarnation, len(q.inc))
	for p, r := range replies {
		out[p].Partition = p
		v := r.Val()
		id, ok := v[0].(string)
		if !ok {
			continue
		}
		out[p].ID = id
		if hw, ok := v[1].(string); ok {
			n, err := strconv.ParseInt(hw, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read incarnation of partition %d: %w", p, err)
			}
			out[p].HighWater = n
		}
	}
	return out, nil
}

// Stamp replaces the incarnation that was read by one of the same partition, and
// reports whether it did: not where Redis was flushed, exchanged or rewound since,
// which must be noticed and not written over. Under one id the high-water mark only
// rises, so that processes may stamp in any order. HighWater must be below 2^53.
func (q *Queue) Stamp(ctx context.Context, was, is Incarnation) (bool, error) {
	p := is.Partition
	if p < 0 || p >= len(q.inc) {
		return false, fmt.Errorf("stamp: no partition %d", p)
	}
	c := &call{script: q.scripts.stamp, keys: q.inc[p : p+1], args: []any{is.ID, is.HighWater, was.ID, was.HighWater}}
	if err := q.run(ctx, c); err != nil {
		return false, fmt.Errorf("stamp partition %d: %w", p, err)
	}
	n, err := c.reply.Int64()
	if err != nil {
		return false, fmt.Errorf("stamp partition %d: %w", p, err)
	}
	return n == 1, nil
}

// DatabaseMark returns what KeepDatabaseMark stored last; "" where nothing was, or
// Redis has lost it.
func (q *Queue) DatabaseMark(ctx context.Context) (string, error) {
	v, err := q.client.HMGet(ctx, q.inc[0], "database").Result()
	if err != nil {
		return "", fmt.Errorf("read the database's mark: %w", err)
	}
	mark, _ := v[0].(string)
	return mark, nil
}

// KeepDatabaseMark stores how the database was seen last, for its caller to compare: the
// counterpart of Incarnation, by which a database that was put back is noticed.
func (q *Queue) KeepDatabaseMark(ctx context.Context, mark string) error {
	if err := q.client.HSet(ctx, q.inc[0], "database", mark).Err(); err != nil {
		return fmt.Errorf("keep the database's mark: %w", err)
	}
	return nil
}

func (q *Queue) partitions() []int {
	all := make([]int, len(q.keys))
	for i := range all {
		all[i] = i
	}
	return all
}
