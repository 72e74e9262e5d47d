package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/budget"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/queue"
	"github.com/creditmirror/creditmirror/redisconn"
)

// How bad a Problem is.
const (
	// Failing: something does not work, and status exits with 1.
	Failing = "failing"
	// Notice: the mirror works, and somebody should look.
	Notice = "notice"
)

// Problem is one thing that a person should look after.
type Problem struct {
	Severity string     `json:"severity"`
	What     string     `json:"what"`
	Detail   string     `json:"detail,omitempty"`
	Do       string     `json:"do"`
	Since    *time.Time `json:"since,omitempty"`
	// Webhooks is set where deliveries of Stripe's are refused.
	Webhooks bool `json:"webhooks,omitempty"`
	// refusedAt is when the last of them was; signed, that they had a signature of
	// Stripe's form.
	refusedAt time.Time
	signed    bool
}

// What is said of a database that cannot be read.
const (
	whatDamaged = "the database file is damaged"
	whatUnfit   = "the mirror's database does not fit"
	whatSilent  = "the mirror's database does not answer"
)

// Blind reports whether the mirror's database could not be read, so that what is not among
// the problems is not known rather than well.
func (p Problem) Blind() bool {
	return p.What == whatDamaged || p.What == whatUnfit || p.What == whatSilent
}

// Rows of the sweeps' table in which processes keep for each other what only they meet:
// that Stripe refuses the key, and that a receiver refuses deliveries.
const (
	rowKeyTrouble     = "trouble:key"
	rowWebhookTrouble = "trouble:webhook"
)

const (
	troubleInterval = 15 * time.Second
	// troubleLasts is how long what was kept is believed without being kept again.
	troubleLasts = 2 * time.Minute
	// refusalsLast is how long a refused delivery is news.
	refusalsLast = time.Hour
	// arrivesBeside is how close to a refusal a good delivery must be for the refused one
	// to be somebody else's. CreditmirrorWebhooksRefused looks as far.
	arrivesBeside = 15 * time.Minute
)

// refusedDeliveries are those of one receiver with one answer for one reason, since it
// started. The row holds a list of them, of all receivers.
type refusedDeliveries struct {
	Receiver string    `json:"receiver,omitempty"`
	Code     string    `json:"code,omitempty"` // empty: of a version that kept those of 400 alone
	Reason   string    `json:"reason"`
	Count    int64     `json:"count"`
	Last     time.Time `json:"last"`
}

const (
	// refusalsKept is how long what a receiver refused is kept after the last of it;
	// refusalRows bounds how many are kept, since a name may come from outside.
	refusalsKept = 24 * time.Hour
	refusalRows  = 500
)

// mergeRefused replaces what this receiver had kept, and forgets what is old. It reports
// whether that changed anything.
func mergeRefused(kept, own []refusedDeliveries, receiver string, now time.Time) ([]refusedDeliveries, bool) {
	merged := slices.DeleteFunc(slices.Clone(kept), func(r refusedDeliveries) bool {
		return r.Receiver == receiver || now.Sub(r.Last) > refusalsKept
	})
	merged = append(merged, own...)
	slices.SortFunc(merged, func(a, b refusedDeliveries) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Receiver, b.Receiver), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Reason, b.Reason))
	})
	merged = merged[:min(len(merged), refusalRows)]
	return merged, !slices.EqualFunc(merged, kept, func(a, b refusedDeliveries) bool {
		return a.Receiver == b.Receiver && a.Code == b.Code && a.Reason == b.Reason && a.Count == b.Count && a.Last.Equal(b.Last)
	})
}

// readRefused reads what all receivers have kept.
func (p *Parts) readRefused(ctx context.Context) (list []refusedDeliveries, err error) {
	row, err := p.Store.Sweep(ctx, "", rowWebhookTrouble)
	if err == nil && len(row.State) > 0 && json.Unmarshal(row.State, &list) != nil {
		list = nil // another version's
	}
	return list, err
}

// allRefused is what all receivers have refused, this process's as it is now.
func (a *App) allRefused(ctx context.Context) ([]refusedDeliveries, error) {
	kept, err := a.parts.readRefused(ctx)
	list, _ := mergeRefused(kept, a.ownRefused(), a.receiverID, a.parts.now()())
	return list, err
}

// troubleLoop keeps what this process meets where every process can read it.
func (a *App) troubleLoop(ctx context.Context) {
	calls := a.has(config.RoleWorker) || a.has(config.RoleReconcile)
	kept := false
	tick := time.NewTicker(troubleInterval)
	defer tick.Stop()
	for {
		if closed := a.gate.Closures(); calls && (len(closed) > 0 || kept) {
			list := make([]RefusedStatus, 0, len(closed))
			for _, c := range closed {
				list = append(list, RefusedStatus{Account: c.Account, Scope: string(c.Scope), Since: c.Since.UTC(), Reason: c.Reason})
			}
			a.keepTrouble(ctx, rowKeyTrouble, list)
			kept = len(list) > 0
		}
		a.keepRefused(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// keepTrouble keeps a row for other processes.
func (a *App) keepTrouble(ctx context.Context, name string, state any) {
	text, err := json.Marshal(state)
	if err == nil {
		bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
		err = a.parts.Store.SaveSweep(bounded, mirror.Sweep{Name: name, State: text, Watermark: a.parts.now()()})
		cancel()
	}
	if err != nil && ctx.Err() == nil {
		a.log.Debug("could not share trouble with other processes", zap.Error(err))
	}
}

// keepRefused keeps what this receiver refused, beside what the others did. It reads
// before: two receivers that keep theirs at one moment lose one of both, which the next
// time brings back.
func (a *App) keepRefused(ctx context.Context) {
	own := a.ownRefused()
	if len(own) == 0 {
		return
	}
	list, err := a.parts.readRefused(ctx)
	if list, changed := mergeRefused(list, own, a.receiverID, a.parts.now()()); err == nil && changed {
		a.keepTrouble(ctx, rowWebhookTrouble, list)
	}
}

// ownRefused is what the receiver of this process refused since its start.
func (a *App) ownRefused() []refusedDeliveries {
	if a.receiver == nil {
		return nil
	}
	families, err := prometheus.Gatherer(a.o.Registry).Gather()
	if err != nil && len(families) == 0 {
		return nil
	}
	last := a.receiver.Refusals()
	var list []refusedDeliveries
	for _, f := range families {
		if f.GetName() != "creditmirror_webhook_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			code, reason := labelOf(m, "code"), labelOf(m, "reason")
			// The database keeps microseconds.
			if n := int64(m.GetCounter().GetValue()); n > 0 && code != "200" {
				list = append(list, refusedDeliveries{Receiver: a.receiverID, Code: code, Reason: reason, Count: n, Last: last[reason].UTC().Truncate(time.Microsecond)})
			}
		}
	}
	return list
}

// remember adds what other processes kept.
func (s *Status) remember(rows []mirror.Sweep) {
	for _, row := range rows {
		switch row.Name {
		case rowKeyTrouble:
			if s.At.Sub(row.Watermark) < troubleLasts && json.Unmarshal(row.State, &s.AccountsRefused) == nil {
				s.AccountsRefusedKnown = true
			}
		case rowWebhookTrouble:
			var list []refusedDeliveries
			if json.Unmarshal(row.State, &list) != nil {
				continue
			}
			counts := map[string]int64{}
			for _, r := range list { // the last refused comes first
				if (r.Code == "" || r.Code == "400") && s.At.Sub(r.Last) < refusalsLast {
					counts[r.Reason] += r.Count
				}
			}
			for _, r := range list {
				n, news := counts[r.Reason]
				if !news || r.Code != "" && r.Code != "400" {
					continue
				}
				delete(counts, r.Reason)
				s.Problems = append(s.Problems, Problem{
					Severity: Failing, What: "webhooks are refused: " + r.Reason, Detail: fmt.Sprintf("%d since the receivers started, the last %s ago", n, s.At.Sub(r.Last).Round(time.Second)),
					Do: adviceOnRefusal(r.Reason), Webhooks: true, refusedAt: r.Last, signed: strings.HasSuffix(r.Reason, "_signature"),
				})
			}
		}
	}
}

// adviceOnRefusal says what to do about refused deliveries.
func adviceOnRefusal(reason string) string {
	switch {
	case strings.Contains(reason, "old"), strings.Contains(reason, "time"), strings.Contains(reason, "future"):
		return "set the clock of the receiver's host"
	case strings.HasPrefix(reason, "signature_"), reason == "content_encoding":
		return "somebody other than Stripe calls the address, or a proxy changes requests"
	}
	return "STRIPE_WEBHOOK_SECRET is not that of the endpoint: take it from Stripe's dashboard, or run creditmirror endpoint rotate"
}

// arrivedSince reports whether a webhook was taken after a time.
func (s *Status) arrivedSince(at time.Time) bool {
	for _, w := range s.Webhooks {
		if w.LastArrival != nil && w.LastArrival.After(at) {
			return true
		}
	}
	return false
}

// judge fills in the problems, the worst first.
func (s *Status) judge(storeErr, redisErr error) {
	add := func(severity, what, detail, do string) {
		s.Problems = append(s.Problems, Problem{Severity: severity, What: what, Detail: detail, Do: do})
	}
	refusals := s.Problems
	for i, r := range refusals {
		// Anybody can send what is refused. It is a failure where it is signed, and nothing
		// else arrives.
		switch {
		case !r.signed:
			refusals[i].Severity = Notice
		case s.arrivedSince(r.refusedAt.Add(-arrivesBeside)):
			refusals[i].Severity = Notice
			refusals[i].Do = "webhooks still arrive: somebody other than Stripe calls the address, or the secret of one endpoint of several is missing (creditmirror endpoint check)"
		}
	}
	s.Problems = []Problem{}
	switch {
	case errors.Is(storeErr, mirror.ErrDamaged):
		add(Failing, whatDamaged, storeErr.Error(), "stop serve, restore a backup, or move the file away and let serve copy everything again")
	case errors.Is(storeErr, mirror.ErrSchema), errors.Is(storeErr, mirror.ErrForeign):
		add(Failing, whatUnfit, storeErr.Error(), "see the detail")
	case storeErr != nil:
		add(Failing, whatSilent, storeErr.Error(), "start it, or correct CREDITMIRROR_DATABASE_URL; webhooks get 503 and Stripe sends them again for three days")
	}
	if redisErr != nil {
		add(Failing, "redis does not answer", redisErr.Error(), "start it, or correct CREDITMIRROR_REDIS_URL; with the inbox on events are accepted, and nothing is synced until it answers")
	}
	for _, r := range s.AccountsRefused {
		whose := "the platform's own account"
		if r.Account != "" {
			whose = r.Account
		}
		since := r.Since
		s.Problems = append(s.Problems, Problem{
			Severity: Failing, What: "stripe refuses the key for " + whose, Detail: strings.TrimSpace(r.Scope + " " + r.Reason), Since: &since,
			Do: "make a new key in Stripe's dashboard and restart serve with it; it is tried again every 30 s, and nothing is lost meanwhile",
		})
	}
	s.Problems = append(s.Problems, refusals...)
	for name, w := range s.Webhooks {
		if w.Silent {
			s.Problems = append(s.Problems, Problem{
				Severity: Failing, What: "no webhooks arrive by endpoint " + string(name), Since: w.SilentSince,
				Do: "run creditmirror endpoint check; until it is fixed, the events sweep finds their events up to a minute later",
			})
		}
	}
	if s.DriftOpen > 0 {
		add(Notice, fmt.Sprintf("%d differences are open", s.DriftOpen), "", "run creditmirror reconcile balances, then docs/runbooks/CreditmirrorDriftOpen.md")
	}
	if s.Queue.Dead > 0 {
		add(Notice, fmt.Sprintf("%d dead letters", s.Queue.Dead), "", "run creditmirror dead list")
	}
	for _, l := range s.Limits {
		add(Notice, "the key lacks the permission "+l.Permission, l.Without, "add it to the key, or leave the ledger out of CREDITMIRROR_LEDGERS")
	}
	slices.SortStableFunc(s.Problems, func(a, b Problem) int { return strings.Compare(a.Severity, b.Severity) }) // failing, notice
}

// Failing reports whether something does not work.
func (s *Status) Failing() bool {
	return slices.ContainsFunc(s.Problems, func(p Problem) bool { return p.Severity == Failing })
}

// ReadStatus reads the status for a command: from the database and, where Redis is not
// embedded, from it. What cannot be reached is among the problems. Nothing is changed.
func ReadStatus(ctx context.Context, cfg config.Config) (s Status, err error) {
	p := &Parts{Config: cfg}
	defer func() { err = errors.Join(err, p.Close()) }()
	storeErr := func() error {
		bounded, cancel := context.WithTimeout(ctx, statusPatience)
		defer cancel()
		store, err := OpenStore(bounded, cfg)
		if err != nil {
			return err
		}
		p.Store = store
		p.onClose("mirror", store.Close)
		return store.CheckSchema(bounded)
	}()
	redisErr := func() (err error) {
		if cfg.EmbeddedRedis() {
			return errors.New("it is embedded in serve, which does not run here")
		}
		redisconn.LogTo(zap.NewNop())
		if p.Redis, err = redisconn.Open(ctx, cfg.RedisURL.Reveal()); err != nil {
			return err
		}
		p.onClose("redis", p.Redis.Close)
		if p.Queue, err = queue.New(p.Redis.Client, queue.Options{Partitions: p.Redis.Partitions, Gather: gather}); err != nil {
			return err
		}
		p.onClose("queue", func() error { p.Queue.Close(); return nil })
		p.Budget, err = budget.New(p.Redis.Client, prometheus.NewRegistry(), zap.NewNop(), budget.Options{RPS: cfg.StripeRPS, EndpointRPS: cfg.EndpointRPS()})
		if err == nil {
			p.onClose("budget", func() error { p.Budget.Close(); return nil })
		}
		return err
	}()
	return p.status(ctx, nil, storeErr, redisErr), nil
}
