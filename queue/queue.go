package queue

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// Class is how urgent a mark is.
type Class uint8

// The classes.
const (
	// Live is work that somebody waits for: a webhook, a request.
	Live Class = iota
	// Sweep is work found by going through everything.
	Sweep
)

// String returns "live" or "sweep".
func (c Class) String() string {
	if c == Live {
		return "live"
	}
	return "sweep"
}

// Outcome is what became of one mark.
type Outcome uint8

// The outcomes. Either way the key will be worked on after the mark.
const (
	// Queued: the key was clean and now waits because of this mark.
	Queued Outcome = iota + 1
	// Coalesced: the key was waiting or leased already.
	Coalesced
	// Unmarked: Redis did not acknowledge the mark. Only MarkEach says so.
	Unmarked
)

// String returns "queued" or "coalesced".
func (o Outcome) String() string {
	if o == Queued {
		return "queued"
	}
	return "coalesced"
}

// Bounds on what may be marked.
const (
	// MaxKey is the longest key, in bytes.
	MaxKey = 512
	// MaxRef is the longest ref, in bytes; longer ones are not kept.
	MaxRef = 255
	// MaxRefs is how many refs of a key are kept, the oldest ones.
	MaxRefs = 32
	// MaxDelay is the longest delay.
	MaxDelay = 30 * 24 * time.Hour
)

// Mark makes a key dirty.
type Mark struct {
	// Key names the work. Opaque, 1 to [MaxKey] bytes.
	Key string
	// Class defaults to Live. A live mark of a key that waits as sweep work
	// makes it live.
	Class Class
	// Delay is how long the key must wait at least, to the millisecond. It only
	// ever brings a waiting key forward, never one that waits after a failed run, and
	// is not looked at while the key is leased.
	Delay time.Duration
	// Ref is handed to whoever claims the key, such as an event's id. It is a
	// hint: only the oldest [MaxRefs] are kept, each at most [MaxRef] bytes and
	// without a line break, and losing one must be harmless.
	Ref string
}

// Options tune a Queue. The zero value is what production uses.
type Options struct {
	// Prefix starts the name of every key in Redis. Defaults to "cm".
	Prefix string
	// Partitions is the number of hash tags that keys are spread over. It must
	// be the same for all processes and for as long as Redis keeps its data.
	// Defaults to 1.
	Partitions int
	// Lease is how long a claim lasts unless renewed, in whole milliseconds.
	// Defaults to 10 s.
	Lease time.Duration
	// Gather is the longest pause before a key runs again that was marked while it
	// was in work, in whole milliseconds. It grows with the marks since the key was
	// last clean (all of it after 9), so that a burst costs a few runs and a mark
	// that comes alone is worked on at once. Defaults to none.
	Gather time.Duration
	// SweepShare says that one of so many claims looks at sweep work first.
	// Defaults to 8.
	SweepShare int
	// Poll is how often a waiting process looks for work that nobody announced to it
	// of. Defaults to 1 s.
	Poll time.Duration
}

// Errors that callers distinguish.
var (
	// ErrLost says that a claim is no longer owned: its lease ran out and was
	// taken back, or Redis lost its data. The work must not be taken as done.
	ErrLost = errors.New("queue: claim is no longer owned")
	// ErrClosed says that the queue was closed.
	ErrClosed = errors.New("queue: closed")
	// ErrInvalid says that a mark has a key or delay out of bounds.
	ErrInvalid = errors.New("queue: invalid mark")
)

// Queue is the queue as seen by one process. It is safe for concurrent use.
// Close it before the client.
type Queue struct {
	client  redis.UniversalClient
	opts    Options
	scripts scripts
	keys    [][]string // by partition, in the order that prelude.lua documents
	inc     []string   // by partition, the key of its incarnation
	channel string

	flavour atomic.Int32  // of the scripts, as the server understands them
	turn    atomic.Uint64 // claims so far: whose turn it is, sweep's or live's
	rotate  atomic.Uint64 // which partition comes first
	waker   waker
	once    sync.Once
}

// New returns a queue in the Redis behind client. It contacts no server.
func New(client redis.UniversalClient, opts Options) (*Queue, error) {
	if opts.Prefix == "" {
		opts.Prefix = "cm"
	}
	if opts.Partitions == 0 {
		opts.Partitions = 1
	}
	if opts.Lease == 0 {
		opts.Lease = 10 * time.Second
	}
	if opts.SweepShare == 0 {
		opts.SweepShare = 8
	}
	if opts.Poll == 0 {
		opts.Poll = time.Second
	}
	switch {
	case strings.ContainsAny(opts.Prefix, "{}"):
		return nil, errors.New("queue options: Prefix must not hold braces")
	case opts.Partitions < 1 || opts.Partitions > 1024:
		return nil, errors.New("queue options: Partitions must be 1 to 1024")
	case opts.Lease < time.Millisecond:
		return nil, errors.New("queue options: Lease must be at least 1ms")
	case opts.Gather < 0 || opts.Gather%time.Millisecond != 0:
		return nil, errors.New("queue options: Gather must be whole milliseconds, and not negative")
	case opts.SweepShare < 2:
		return nil, errors.New("queue options: SweepShare must be at least 2")
	case opts.Poll < 0:
		return nil, errors.New("queue options: Poll must be positive")
	}
	s, err := loadScripts()
	if err != nil {
		return nil, err
	}
	q := &Queue{client: client, opts: opts, scripts: s, channel: opts.Prefix + ":wake"}
	for p := range opts.Partitions {
		tag := "{" + opts.Prefix + ":" + strconv.Itoa(p) + "}:"
		var keys []string
		for _, name := range []string{"gen", "ready:live", "ready:sweep", "lease", "claim", "att", "refs", "class", "clock"} {
			keys = append(keys, tag+name)
		}
		q.keys = append(q.keys, keys)
		q.inc = append(q.inc, tag+"inc")
	}
	q.waker.init(client, q.channel, opts.Poll)
	return q, nil
}

// Close ends waiting and the subscription behind it. It leaves the client open.
func (q *Queue) Close() { q.once.Do(q.waker.close) }

// Lease returns how long a claim lasts unless renewed.
func (q *Queue) Lease() time.Duration { return q.opts.Lease }

// partition returns where a key lives.
func (q *Queue) partition(key string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return int(h.Sum32() % uint32(len(q.keys))) // #nosec G115 -- at most 1024 partitions
}

func (q *Queue) call(s *script, partition int, args ...any) *call {
	return &call{script: s, keys: q.keys[partition], args: args}
}

// markChunk is how many marks one script takes: enough to make a round trip
// cheap, few enough to keep the server answering others.
const markChunk = 100

// Mark makes keys dirty, in one round trip, and returns one outcome per mark. A
// nil error means that Redis acknowledged all of them. On an error the caller
// must take none as marked; some may be, which costs a run too many at most.
func (q *Queue) Mark(ctx context.Context, marks []Mark) ([]Outcome, error) {
	out, err := q.MarkEach(ctx, marks)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// MarkEach is Mark where some partitions may be away: those marks that Redis did not
// acknowledge are Unmarked, and the first error is returned beside the outcomes. There
// are none where a mark is invalid.
func (q *Queue) MarkEach(ctx context.Context, marks []Mark) ([]Outcome, error) {
	type chunk struct {
		*call
		marks []int // positions in marks
	}
	var all []*chunk
	open := map[int]*chunk{} // by partition
	for i, m := range marks {
		if m.Key == "" || len(m.Key) > MaxKey || m.Delay < 0 || m.Delay > MaxDelay || m.Class > Sweep {
			return nil, fmt.Errorf("%w: mark %d", ErrInvalid, i)
		}
		p := q.partition(m.Key)
		c := open[p]
		if c == nil || len(c.marks) == markChunk {
			c = &chunk{call: q.call(q.scripts.mark, p, q.channel)}
			open[p], all = c, append(all, c)
		}
		ref := m.Ref
		if len(ref) > MaxRef || strings.Contains(ref, "\n") {
			ref = ""
		}
		c.args = append(c.args, m.Key, int(m.Class), m.Delay.Milliseconds(), ref)
		c.marks = append(c.marks, i)
	}
	if len(all) == 0 {
		return nil, nil
	}
	calls := make([]*call, len(all))
	for i, c := range all {
		calls[i] = c.call
	}
	first := q.run(ctx, calls...)
	out := make([]Outcome, len(marks))
	for _, c := range all {
		queued, err := c.ints(len(c.marks))
		if err != nil {
			if first == nil {
				first = err
			}
			for _, i := range c.marks {
				out[i] = Unmarked
			}
			continue
		}
		for j, i := range c.marks {
			out[i] = Coalesced
			if queued[j] == 1 {
				out[i] = Queued
			}
		}
	}
	if first != nil {
		return out, fmt.Errorf("mark %d keys: %w", len(marks), first)
	}
	return out, nil
}

// Contains says of each key whether it is dirty now: waiting or leased.
func (q *Queue) Contains(ctx context.Context, keys []string) ([]bool, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	byPartition := map[int][]int{}
	for i, k := range keys {
		p := q.partition(k)
		byPartition[p] = append(byPartition[p], i)
	}
	pipe := q.client.Pipeline()
	replies := map[int]*redis.SliceCmd{}
	for p, at := range byPartition {
		fields := make([]string, len(at))
		for j, i := range at {
			fields[j] = keys[i]
		}
		replies[p] = pipe.HMGet(ctx, q.keys[p][0], fields...)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("look up %d keys: %w", len(keys), err)
	}
	out := make([]bool, len(keys))
	for p, at := range byPartition {
		for j, gen := range replies[p].Val() {
			out[at[j]] = gen != nil
		}
	}
	return out, nil
}
