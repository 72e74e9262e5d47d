// Package budget spends one budget of Stripe calls for all processes.
//
// # Promise
//
//   - In any one second all processes together make at most the configured calls
//     plus a burst of half a second's worth, rounded up. There is one such limit
//     over everything, one per account, and one per account and endpoint; a call
//     counts against all three. What is granted stays below that: 0.15 of
//     a second's worth at once where Redis answers, 0.1 more for the shares of
//     processes that are cut off from it, and the rest is room for calls that leave
//     late and arrive together. So a rate of four fifths of one of Stripe's limits,
//     which is the default, keeps that limit too, as long as no call is more than
//     100 ms late.
//   - Live calls go first. A sweep call takes what live calls leave: it waits
//     while live calls wait, and keeps half of each burst for those to come. It
//     is not starved: an eighth of each rate is guaranteed to sweep calls.
//   - After a 429 the rate of the account's endpoint (or of the account) is
//     halved for everybody, at most once a second, and grows again by 2 % of the
//     full rate per second.
//   - When Redis cannot be asked, each process limits itself to its share. A
//     process that was alone takes the whole rate. Of several, any one may still
//     reach Redis and be granted the whole rate, so the others together take a tenth
//     of it. Calls neither stop nor run free.
//
// # Limits
//
// Shares are by the last known number of processes: those that start while others
// are cut off are not known to these. A share is at least one call now and then, so
// that with more processes than a third of a rate, all but one of them cut off, calls
// of that rate may exceed the burst when the calls of all of them fall into one second.
// A Redis that lost its data starts with one call at the full rate.
//
// # Life of a call
//
//	asks Redis ── may go ──► made
//	   │  ▲
//	   │  └── waits as long as Redis said
//	   └── Redis does not answer: waits for the process's own share ──► made
//
// Within a process, calls of the same account, endpoint and priority stand in
// line, and only the first of the line asks.
package budget

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/backoff"
)

// Purpose is why a call is made. Calls are counted by it, and it decides their
// priority. Only the constants are taken.
type Purpose string

// The purposes. Live and API are live work; the others are sweep work.
const (
	// Live is the sync of a target that an event named.
	Live Purpose = "live"
	// API is a call that a client of our own API waits for.
	API Purpose = "api"
	// Events is the events sweep.
	Events Purpose = "events"
	// Backfill is the first copy.
	Backfill Purpose = "backfill"
	// Balances is the balances sweep.
	Balances Purpose = "balances"
	// Scrub is the slow full re-read.
	Scrub Purpose = "scrub"
	// Endpoint is looking after our webhook endpoint.
	Endpoint Purpose = "endpoint"
)

// Purposes lists all of them.
func Purposes() []Purpose {
	return []Purpose{Live, API, Events, Backfill, Balances, Scrub, Endpoint}
}

func (p Purpose) live() bool { return p == Live || p == API }

func (p Purpose) priority() string {
	if p.live() {
		return "live"
	}
	return "sweep"
}

// Options tune a Budget.
type Options struct {
	// RPS is how many calls per second all processes together may make, over all
	// accounts. Required.
	RPS float64
	// AccountRPS is the same per account. Defaults to RPS.
	AccountRPS float64
	// EndpointRPS is the same per account and named endpoint. Defaults to RPS.
	EndpointRPS float64
	// Prefix starts the name of every key in Redis. Defaults to "cm".
	Prefix string
	// Timeout is how long Redis may take to answer before the process falls back
	// to its own share. A call that it grants so late that it might meet those of the
	// next second (a quarter of a second) is asked for again. Defaults to 500 ms.
	Timeout time.Duration
	// Retry is how long a process then keeps to its own share before it asks
	// Redis again. Defaults to 1 s.
	Retry time.Duration
	// Heartbeat is how often a process says that it is alive; one that was silent
	// for five of them is not counted any more. Defaults to 2 s.
	Heartbeat time.Duration
	// AssumedReplicas is the number of processes assumed by one that never
	// reached Redis. Too many is slow, too few is more than was promised.
	// Defaults to 4.
	AssumedReplicas int
}

// The fixed parts of the promise.
const (
	burstSeconds = 0.15  // size of a bucket, in seconds' worth of calls
	shareSeconds = 0.1   // of each rate, for all processes that are cut off from Redis
	sweepShare   = 0.125 // of each rate, guaranteed to sweep calls
	growth       = 0.02  // of the full rate, regained per second after a 429
	lowest       = 0.05  // of the full rate, left however many 429s come
)

// latest is how late a granted call may begin.
const latest = 250 * time.Millisecond

// Budget is the budget as seen by one process. It is safe for concurrent use.
type Budget struct {
	client redis.UniversalClient
	log    *zap.Logger
	opts   Options
	id     string // of this process, among the replicas

	acquire, throttle, beat *script
	tag                     string // every key starts with it, and lies in one hash slot

	mu       sync.Mutex
	lines    map[string]*line
	replicas int               // last known
	local    *share            // not nil: Redis cannot be asked
	retryAt  time.Time         // when to ask it again
	pending  map[counter]int64 // calls not yet counted in Redis

	stop    context.CancelFunc
	stopped chan struct{}

	waits     *prometheus.HistogramVec
	degraded  prometheus.Gauge
	throttles prometheus.Counter
}

// counter names one number of calls: an hour since 1970 and a purpose.
type counter struct {
	hour    int64
	purpose Purpose
}

// New returns a budget in the Redis behind client and starts its heartbeat. It
// contacts no server before it returns. Close it before the client.
func New(client redis.UniversalClient, reg prometheus.Registerer, log *zap.Logger, opts Options) (*Budget, error) {
	if opts.AccountRPS == 0 {
		opts.AccountRPS = opts.RPS
	}
	if opts.EndpointRPS == 0 {
		opts.EndpointRPS = opts.RPS
	}
	if opts.Prefix == "" {
		opts.Prefix = "cm"
	}
	if opts.Timeout == 0 {
		opts.Timeout = 500 * time.Millisecond
	}
	if opts.Retry == 0 {
		opts.Retry = time.Second
	}
	if opts.Heartbeat == 0 {
		opts.Heartbeat = 2 * time.Second
	}
	if opts.AssumedReplicas == 0 {
		opts.AssumedReplicas = 4
	}
	switch {
	case !(opts.RPS >= 0.1) || !(opts.AccountRPS >= 0.1) || !(opts.EndpointRPS >= 0.1): // also refuses NaN
		return nil, errors.New("budget options: rates must be at least 0.1 calls per second")
	case opts.RPS > 1e6 || opts.AccountRPS > 1e6 || opts.EndpointRPS > 1e6:
		return nil, errors.New("budget options: rates must be at most 1e6 calls per second")
	case strings.ContainsAny(opts.Prefix, "{}"):
		return nil, errors.New("budget options: Prefix must not hold braces")
	case opts.Timeout < 0 || opts.Retry < 0 || opts.Heartbeat < 0 || opts.AssumedReplicas < 0:
		return nil, errors.New("budget options: negative value")
	}
	plain := new(atomic.Bool)
	b := &Budget{
		client: client, log: log, opts: opts, id: rand.Text(),
		acquire: newScript(acquireLua, plain), throttle: newScript(throttleLua, plain), beat: newScript(beatLua, plain),
		tag:   "{" + opts.Prefix + ":budget}:",
		lines: map[string]*line{}, replicas: opts.AssumedReplicas, pending: map[counter]int64{},
		stopped: make(chan struct{}),
		waits: promauto.With(reg).NewHistogramVec(prometheus.HistogramOpts{
			Name: "creditmirror_stripe_budget_wait_seconds", Help: "How long calls to Stripe waited for the shared budget.",
			Buckets: []float64{.001, .005, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"priority"}),
		degraded: promauto.With(reg).NewGauge(prometheus.GaugeOpts{
			Name: "creditmirror_stripe_budget_degraded", Help: "1 while Redis does not answer and this process keeps to its own share.",
		}),
		throttles: promauto.With(reg).NewCounter(prometheus.CounterOpts{
			Name: "creditmirror_stripe_budget_cuts_total", Help: "How often this process halved a shared rate because of a 429.",
		}),
	}
	for _, p := range []string{"live", "sweep"} {
		b.waits.WithLabelValues(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	go b.heartbeats(ctx)
	return b, nil
}

// Replicas is the last known number of processes that share the budget, this one
// included; of one that never reached Redis the number that is assumed.
func (b *Budget) Replicas() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.replicas
}

// Close ends the heartbeat and takes this process off the list of replicas if
// Redis answers. Calls that wait go on waiting for their own contexts.
func (b *Budget) Close() {
	b.stop()
	<-b.stopped
}

// bucket is one limit that a call counts against.
type bucket struct {
	name string
	rate float64
}

// buckets lists what a call counts against. account "" is the platform's own,
// endpoint "" one without a limit of its own.
func (b *Budget) buckets(account, endpoint string) []bucket {
	out := []bucket{{"all", b.opts.RPS}, {"a:" + account, b.opts.AccountRPS}}
	if endpoint != "" {
		out = append(out, bucket{"e:" + account + ":" + endpoint, b.opts.EndpointRPS})
	}
	return out
}

// Acquire waits until the call may be made, counts it, and returns nil; then
// make it at once. The error is ctx's, or says that p is no known purpose; the
// call must not be made then.
func (b *Budget) Acquire(ctx context.Context, account, endpoint string, p Purpose) error {
	if !known(p) {
		return fmt.Errorf("budget: unknown purpose %q", p)
	}
	start := time.Now()
	leave, err := b.enter(ctx, p.priority()+" "+account+" "+endpoint)
	if err != nil {
		return err
	}
	defer leave()
	buckets := b.buckets(account, endpoint)
	for granted := false; !granted; {
		if granted, err = b.try(ctx, buckets, p); err != nil {
			return err
		}
	}
	b.waits.WithLabelValues(p.priority()).Observe(time.Since(start).Seconds())
	return nil
}

// try asks for a call, waits as long as the reply says, and reports whether the call was
// granted; else it is worth asking again.
func (b *Budget) try(ctx context.Context, buckets []bucket, p Purpose) (granted bool, err error) {
	asked := time.Now()
	wait, err := b.ask(ctx, buckets, p)
	switch {
	case err != nil:
		return b.useShare(ctx, buckets, p, err)
	case wait > 0:
		return false, backoff.Sleep(ctx, wait)
	}
	// A process that was stopped since would make its call together with those of
	// the time it wakes up in.
	return time.Since(asked) <= latest, nil
}

func known(p Purpose) bool {
	switch p {
	case Live, API, Events, Backfill, Balances, Scrub, Endpoint:
		return true
	default:
		return false
	}
}

// errDegraded says that Redis failed a moment ago and is left alone for now.
var errDegraded = errors.New("budget: redis failed a moment ago")

// ask asks Redis for one call and returns how long to wait before asking again,
// 0 when the call may be made.
func (b *Budget) ask(ctx context.Context, buckets []bucket, p Purpose) (time.Duration, error) {
	if b.resting() {
		return 0, errDegraded
	}
	qctx, cancel := context.WithTimeout(ctx, b.opts.Timeout)
	defer cancel()
	wait, err := b.askAt(qctx, "", buckets, p)
	if err != nil {
		return 0, err
	}
	b.recovered()
	return wait, nil
}

// askAt is one run of acquire.lua. at is the time in µs, "" for the server's.
func (b *Budget) askAt(ctx context.Context, at string, buckets []bucket, p Purpose) (time.Duration, error) {
	keys := make([]string, 0, len(buckets)+1)
	live := 0
	if p.live() {
		live = 1
	}
	args := []any{at, live, string(p), burstSeconds, sweepShare, growth}
	for _, k := range buckets {
		keys = append(keys, b.tag+k.name)
		args = append(args, k.rate)
	}
	us, err := b.acquire.run(ctx, b.client, append(keys, b.tag+"calls"), args...)
	return time.Duration(us) * time.Microsecond, err
}

// Throttled reports a 429 from Stripe: the rate of the account's endpoint, or of
// the whole account where endpoint is "", is halved for all processes.
func (b *Budget) Throttled(ctx context.Context, account, endpoint string) {
	buckets := b.buckets(account, endpoint)
	k := buckets[len(buckets)-1]
	cut, err := false, errDegraded
	if !b.resting() {
		var n int64
		qctx, cancel := context.WithTimeout(ctx, b.opts.Timeout)
		defer cancel()
		n, err = b.throttle.run(qctx, b.client, []string{b.tag + k.name}, "", growth, lowest)
		cut = n == 1
	}
	if err != nil {
		cut = b.cutShare(k)
	}
	if cut {
		b.throttles.Inc()
		b.log.Warn("stripe rate cut after a 429", zap.String("account", account), zap.String("endpoint", endpoint))
	}
}

// Calls24h returns how many calls were made for each purpose in the last 24
// hours, by all processes. The oldest hour counts in part.
func (b *Budget) Calls24h(ctx context.Context) (map[Purpose]int64, error) {
	now, err := b.client.Time(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("count calls: %w", err)
	}
	var names []string
	for h := now.Unix()/3600 - 24; h <= now.Unix()/3600; h++ {
		for _, p := range Purposes() {
			names = append(names, strconv.FormatInt(h, 10)+":"+string(p))
		}
	}
	values, err := b.client.HMGet(ctx, b.tag+"calls", names...).Result()
	if err != nil {
		return nil, fmt.Errorf("count calls: %w", err)
	}
	fields := map[string]string{}
	for i, v := range values {
		if text, ok := v.(string); ok {
			fields[names[i]] = text
		}
	}
	return sum24h(now, fields, b.uncounted()), nil
}

// Day counts the calls of one UTC day.
type Day struct {
	// Start is its first instant.
	Start time.Time
	Calls map[Purpose]int64
}

// CallsByDay returns how many calls were made for each purpose on each UTC day that is
// remembered, 31 at most, the oldest first. The oldest may count in part. Redis keeps
// them: one that was lost begins anew.
func (b *Budget) CallsByDay(ctx context.Context) ([]Day, error) {
	fields, err := b.client.HGetAll(ctx, b.tag+"calls").Result()
	if err != nil {
		return nil, fmt.Errorf("count calls: %w", err)
	}
	days := map[int64]map[Purpose]int64{}
	add := func(hour int64, p Purpose, n int64) {
		if days[hour/24] == nil {
			days[hour/24] = map[Purpose]int64{}
		}
		days[hour/24][p] += n
	}
	for field, value := range fields {
		at, p, _ := strings.Cut(field, ":")
		h, err1 := strconv.ParseInt(at, 10, 64)
		n, err2 := strconv.ParseInt(value, 10, 64)
		if err1 == nil && err2 == nil && known(Purpose(p)) {
			add(h, Purpose(p), n)
		}
	}
	for c, n := range b.uncounted() {
		add(c.hour, c.purpose, n)
	}
	var list []Day
	for _, day := range slices.Sorted(maps.Keys(days)) {
		list = append(list, Day{time.Unix(day*24*3600, 0).UTC(), days[day]})
	}
	return list[max(0, len(list)-31):], nil
}

// sum24h adds up the counters of the last 24 hours before now.
func sum24h(now time.Time, fields map[string]string, pending map[counter]int64) map[Purpose]int64 {
	out := map[Purpose]int64{}
	for _, p := range Purposes() {
		out[p] = 0
	}
	hour := now.Unix() / 3600
	into := float64(now.Unix()%3600) / 3600 // how much of the current hour is over
	add := func(h int64, p Purpose, n int64) {
		switch age := hour - h; {
		case age >= 0 && age < 24:
			out[p] += n
		case age == 24:
			out[p] += int64(float64(n) * (1 - into))
		}
	}
	for field, value := range fields {
		at, p, _ := strings.Cut(field, ":")
		h, err1 := strconv.ParseInt(at, 10, 64)
		n, err2 := strconv.ParseInt(value, 10, 64)
		if err1 == nil && err2 == nil && known(Purpose(p)) {
			add(h, Purpose(p), n)
		}
	}
	for c, n := range pending {
		add(c.hour, c.purpose, n)
	}
	return out
}
