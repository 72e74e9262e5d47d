package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/mirror"
)

// journalStore is where the rows go. Every mirror.APIJournal is one.
type journalStore interface {
	BeginAPIWrite(ctx context.Context, w mirror.APIWrite, perDay *int64) error
	EndAPIWrite(ctx context.Context, w mirror.APIWrite) error
	SettleAPIWrites(ctx context.Context, before time.Time) ([]mirror.APIWrite, error)
	PruneAPIWrites(ctx context.Context, before time.Time) (int64, error)
	UseAPIKeys(ctx context.Context, uses []mirror.APIKeyUse) error
}

const (
	// journalTimeout bounds how long a row may hold up the write that it is of.
	journalTimeout = 2 * time.Second
	// settleAfter is how long a write may be under way: beyond it, the process that sent
	// it has ended.
	settleAfter = 10 * time.Minute
	// maxSpool bounds the rows that wait for a database that does not answer.
	maxSpool = 10_000
	// Refusals of one key beyond these have no row and no line of their own: whoever
	// holds a key that may not write, or none at all, must not fill the database. The
	// next row has the number of them.
	refusalsPerSecond, refusalsAtOnce = 1, 20
)

// AuditLogger names the logger of the lines of the journal, which must not be sampled.
const AuditLogger = "audit"

// Journal records who wrote what: a row and a line for each write and each refusal of
// one. Make it with NewJournal.
type Journal struct {
	store     journalStore
	log       *zap.Logger
	keys      *access.Keys
	retention time.Duration
	now       func() time.Time
	metrics   *journalMetrics

	mu       sync.Mutex
	spool    []mirror.APIWrite // that the database has not taken yet
	refusals map[string]*refusals
}

// refusals bounds those of one key.
type refusals struct {
	limiter  *rate.Limiter
	repeated int64
}

// JournalOptions configure a Journal.
type JournalOptions struct {
	// Keys are reported as used. Defaults to none.
	Keys *access.Keys
	// Retention is how long rows are kept. Defaults to 2 years.
	Retention time.Duration
	// Registerer gets the metrics. Defaults to none.
	Registerer prometheus.Registerer
	// Log defaults to none.
	Log *zap.Logger
	// Now defaults to time.Now.
	Now func() time.Time
}

// NewJournal returns a journal whose rows go to store; with nil there are lines alone.
// Run keeps it.
func NewJournal(store mirror.APIJournal, o JournalOptions) (*Journal, error) {
	j := &Journal{
		log: o.Log, keys: o.Keys, retention: cmp.Or(o.Retention, 2*365*24*time.Hour), now: o.Now, metrics: newJournalMetrics(),
		refusals: map[string]*refusals{},
	}
	if store != nil { // no typed nil
		j.store = store
	}
	if j.log == nil {
		j.log = zap.NewNop()
	}
	j.log = j.log.Named(AuditLogger)
	if j.now == nil {
		j.now = time.Now
	}
	if o.Registerer != nil {
		if err := j.metrics.register(o.Registerer, j.waiting); err != nil {
			return nil, err
		}
	}
	return j, nil
}

// errTooMuchToday refuses a write that is over its key's limit for the day.
func errTooMuchToday() *apiError {
	return errNotAllowed("max_per_day", "it has reached what it may move in a day")
}

// begin notes a write before it is sent. Where the database does not take the note the
// write goes on without, as it does without the mirror, unless its key has a limit per day:
// then nobody knows what it has moved.
func (j *Journal) begin(ctx context.Context, w mirror.APIWrite, perDay *int64) error {
	if j.store == nil {
		if perDay != nil {
			return errUnavailable()
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalTimeout)
	defer cancel()
	err := j.store.BeginAPIWrite(ctx, w, perDay)
	switch {
	case err == nil:
	case errors.Is(err, mirror.ErrDayLimit):
		return errTooMuchToday()
	case perDay != nil:
		j.log.Warn("api write not sent: could not read its key's total for today", zap.String("request_id", w.ID), zap.String("key_name", w.Key), zap.Error(err))
		return errUnavailable()
	default:
		j.log.Warn("api write sent without a record in the database", append(fields(w), zap.Error(err))...)
	}
	return nil
}

// end records what became of a write that was sent.
func (j *Journal) end(ctx context.Context, w mirror.APIWrite) {
	j.metrics.count(w)
	j.log.Info("api write", fields(w)...)
	if j.store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalTimeout)
	defer cancel()
	if err := j.store.EndAPIWrite(ctx, w); err != nil {
		j.log.Warn("could not record an api write yet", zap.String("request_id", w.ID), zap.Error(err))
		j.put(w)
	}
}

// refused records a write that was not sent. The caller does not wait for the row.
func (j *Journal) refused(w mirror.APIWrite, e *apiError, holder *access.Holder) {
	w.Status, w.Outcome, w.Reason = e.status, mirror.APIRefused, cmp.Or(e.reason, e.code, "invalid")
	j.metrics.count(w)
	if !j.tell(&w, holder) {
		return
	}
	j.log.Warn("api write refused", fields(w)...)
	if j.store != nil {
		j.put(w)
	}
}

// tell reports whether a refusal gets a row of its own.
func (j *Journal) tell(w *mirror.APIWrite, holder *access.Holder) bool {
	name := "" // of all who have no key
	if holder != nil {
		name = "key " + holder.Name
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.refusals[name]
	if r == nil {
		r = &refusals{limiter: rate.NewLimiter(refusalsPerSecond, refusalsAtOnce)}
		j.refusals[name] = r
	}
	if !r.limiter.AllowN(j.now(), 1) {
		r.repeated++
		return false
	}
	w.Repeated, r.repeated = r.repeated, 0
	return true
}

// put leaves a row for Run.
func (j *Journal) put(w mirror.APIWrite) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.spool) >= maxSpool {
		j.metrics.lost.Inc() // its line is all that is left
		return
	}
	j.spool = append(j.spool, w)
}

func (j *Journal) waiting() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.spool)
}

// Run writes what waits and looks after the rows, until ctx ends.
func (j *Journal) Run(ctx context.Context) {
	if j.store == nil {
		return
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	var settled, pruned time.Time
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalTimeout)
			defer cancel()
			j.flush(last)
			j.keepUses(last)
			return
		case <-second.C:
		}
		j.flush(ctx)
		if n%15 == 0 {
			j.keepUses(ctx)
		}
		if now := j.now(); now.Sub(settled) >= time.Minute {
			settled = now
			j.settle(ctx, now)
		}
		if now := j.now(); now.Sub(pruned) >= time.Hour {
			pruned = now
			if _, err := j.store.PruneAPIWrites(ctx, now.Add(-j.retention)); err != nil {
				j.log.Warn("could not prune old api writes", zap.Error(err))
			}
		}
	}
}

// flush writes rows from the oldest on until the database does not take one.
func (j *Journal) flush(ctx context.Context) {
	for {
		j.mu.Lock()
		if len(j.spool) == 0 {
			j.mu.Unlock()
			return
		}
		w := j.spool[0]
		j.mu.Unlock()
		one, cancel := context.WithTimeout(ctx, journalTimeout)
		err := j.store.EndAPIWrite(one, w)
		cancel()
		if err != nil {
			j.log.Warn("api writes are waiting to be recorded", zap.Int("waiting", j.waiting()), zap.Error(err))
			return
		}
		j.mu.Lock()
		j.spool = j.spool[1:]
		j.mu.Unlock()
	}
}

// settle records the writes of processes that have ended.
func (j *Journal) settle(ctx context.Context, now time.Time) {
	list, err := j.store.SettleAPIWrites(ctx, now.Add(-settleAfter))
	if err != nil {
		j.log.Warn("could not settle abandoned api writes", zap.Error(err))
	}
	for _, w := range list {
		j.metrics.count(w)
		j.log.Warn("process ended during an api write; the write may have happened", fields(w)...)
	}
}

// keepUses remembers when keys were last used.
func (j *Journal) keepUses(ctx context.Context) {
	uses := j.keys.Uses()
	if len(uses) == 0 {
		return
	}
	rows := make([]mirror.APIKeyUse, len(uses))
	for i, u := range uses {
		rows[i] = mirror.APIKeyUse{Name: u.Name, LastUsed: u.At}
	}
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	if err := j.store.UseAPIKeys(ctx, rows); err != nil {
		j.keys.Untold()
		j.log.Warn("could not save the last use of api keys", zap.Error(err))
	}
}

// fields are the line of a write: who, what, and what became of it. The amount is in the
// row alone.
func fields(w mirror.APIWrite) []zap.Field {
	list := []zap.Field{
		zap.String("request_id", w.ID), zap.String("key_name", w.Key), zap.String("remote_addr", w.RemoteAddr), zap.String("account", w.Account),
		zap.String("operation", w.Operation), zap.String("outcome", string(w.Outcome)), zap.Int("code", w.Status),
	}
	for _, f := range []struct{ name, value string }{
		{"customer_id", w.Customer},
		{"object_id", w.Object},
		{"idempotency_digest", w.IdempotencyDigest},
		{"stripe_request_id", w.StripeRequestID},
		{"reason", w.Reason},
	} {
		if f.value != "" {
			list = append(list, zap.String(f.name, f.value))
		}
	}
	if w.Repeated > 0 {
		list = append(list, zap.Int64("repeated", w.Repeated))
	}
	return list
}

// journalMetrics count writes.
type journalMetrics struct {
	writes *prometheus.CounterVec
	lost   prometheus.Counter
}

func newJournalMetrics() *journalMetrics {
	m := &journalMetrics{
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "creditmirror_api_writes_total",
			Help: "Writes asked of the API by operation and outcome; operation other is none that is served.",
		}, []string{"operation", "outcome"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "creditmirror_api_writes_unrecorded_total",
			Help: "Writes of the API that have a line in the log and no row, because the database did not answer for long.",
		}),
	}
	for _, o := range access.Operations() {
		if o == access.Operate {
			continue // of the console
		}
		for _, outcome := range []mirror.APIOutcome{mirror.APIDone, mirror.APINotDone, mirror.APIUnknown, mirror.APIRefused} {
			m.writes.WithLabelValues(string(o), string(outcome))
		}
	}
	m.writes.WithLabelValues(otherRoute, string(mirror.APIRefused))
	return m
}

func (m *journalMetrics) register(r prometheus.Registerer, waiting func() int) error {
	gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "creditmirror_api_writes_waiting",
		Help: "Rows of api_writes that the database has not taken yet.",
	}, func() float64 { return float64(waiting()) })
	for _, c := range []prometheus.Collector{m.writes, m.lost, gauge} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("api: register metrics: %w", err)
		}
	}
	return nil
}

func (m *journalMetrics) count(w mirror.APIWrite) {
	m.writes.WithLabelValues(cmp.Or(w.Operation, otherRoute), string(w.Outcome)).Inc()
}
