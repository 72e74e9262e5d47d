package app

import (
	"context"
	"slices"
	"time"

	"github.com/creditmirror/creditmirror/budget"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/notify"
	"github.com/creditmirror/creditmirror/queue"
	"github.com/creditmirror/creditmirror/reconcile"
	"github.com/creditmirror/creditmirror/worker"
)

// Status is what the status command prints; its JSON names are a contract.
type Status struct {
	// Problems are what a person should look after, the worst first.
	Problems  []Problem       `json:"problems"`
	Queue     QueueStatus     `json:"queue"`
	Freshness FreshnessStatus `json:"freshness_seconds"`
	Customers int64           `json:"customers"`
	// Transactions counts the rows of both ledgers.
	Transactions int64 `json:"transactions"`
	DriftOpen    int64 `json:"drift_open"`
	// DriftByKind counts the open findings; kinds without any are left out.
	DriftByKind map[mirror.DriftKind]int64 `json:"drift_by_kind"`
	Sweeps      map[string]SweepStatus     `json:"sweeps"`
	Stripe      StripeStatus               `json:"stripe"`
	// AccountsRefused are accounts whose key Stripe refuses at present, by the
	// process that answers; AccountsRefusedKnown reports whether it is one that calls
	// Stripe and so can know.
	AccountsRefused      []RefusedStatus `json:"accounts_refused"`
	AccountsRefusedKnown bool            `json:"accounts_refused_known"`
	// Ledgers are those that are mirrored, by the configuration of who answers.
	Ledgers []mirror.Scope `json:"ledgers"`
	// Limits are what the key may not read, which the mirror goes on without.
	Limits []LimitStatus `json:"limits"`
	// Webhooks says of each endpoint whether events arrive by it.
	Webhooks map[reconcile.Endpoint]WebhookStatus `json:"webhooks"`
	// DeadLetters counts by the age of the first failure.
	DeadLetters   DeadStatus `json:"dead_letters"`
	PendingEvents int64      `json:"pending_events"`
	// GrantsNotMonetary are credit grants in custom pricing units: no balance, sum or
	// report counts them.
	GrantsNotMonetary int64         `json:"grants_not_monetary"`
	Balances          []TotalStatus `json:"balances"`
	// APIKeys lists the API's keys by name, the configured ones first.
	APIKeys []KeyStatus `json:"api_keys"`
	Build   Build       `json:"build"`
	At      time.Time   `json:"at"`
}

// KeyStatus is the status of a key of the API.
type KeyStatus struct {
	Name string `json:"name"`
	// Configured is false for a key that is only remembered.
	Configured bool `json:"configured"`
	Write      bool `json:"write"`
	// LastUsed is when it was last accepted, to some seconds; null: never.
	LastUsed *time.Time `json:"last_used"`
	// Expires is when it stops working; null: never.
	Expires *time.Time `json:"expires"`
	Expired bool       `json:"expired"`
}

// QueueStatus counts targets by state.
type QueueStatus struct {
	Ready              int     `json:"ready"`
	Delayed            int     `json:"delayed"`
	Leased             int     `json:"leased"`
	Dead               int64   `json:"dead"`
	OldestReadySeconds float64 `json:"oldest_ready_seconds"`
}

// FreshnessStatus is the time from an event to the commit that answered it, over
// the last events, in seconds; null where no event was answered yet. Events from
// before the first copy, and of a time in which no receiver ran, do not count.
type FreshnessStatus struct {
	P50 *float64 `json:"p50"`
	P99 *float64 `json:"p99"`
}

// SweepStatus is a sweep's last success; null: never.
type SweepStatus struct {
	LastSuccess *time.Time `json:"last_success"`
	LastFound   int64      `json:"last_found"`
	// AgeSeconds is how long ago the last success was; null: never.
	AgeSeconds *float64 `json:"age_seconds"`
}

// WebhookStatus is the status of a webhook endpoint.
type WebhookStatus struct {
	// LastArrival is when an event last arrived; null: never.
	LastArrival *time.Time `json:"last_arrival"`
	// Silent: Stripe has had events for minutes that no webhook brought, since
	// SilentSince, and none has arrived.
	Silent      bool       `json:"silent"`
	SilentSince *time.Time `json:"silent_since"`
}

// DeadStatus counts dead letters by how long ago they first failed.
type DeadStatus struct {
	UnderHour int64 `json:"under_1h"`
	UnderDay  int64 `json:"under_1d"`
	UnderWeek int64 `json:"under_7d"`
	Older     int64 `json:"older"`
	// Unreadable of them are events that could not be read, which are never tried
	// again by themselves.
	Unreadable int64      `json:"unreadable"`
	Oldest     *time.Time `json:"oldest"`
}

// StripeStatus is what Stripe was asked.
type StripeStatus struct {
	// Calls24h per purpose.
	Calls24h map[budget.Purpose]int64 `json:"calls_24h"`
	// Projection30d is what 30 days like the last one would cost.
	Projection30d int64 `json:"projection_30d"`
}

// RefusedStatus is an account that is not called.
type RefusedStatus struct {
	Account string    `json:"account"`
	Scope   string    `json:"scope,omitempty"`
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"`
}

// TotalStatus is the sum over all customers of one currency, in minor units.
type TotalStatus struct {
	Ledger   string `json:"ledger"`
	Currency string `json:"currency"`
	Amount   int64  `json:"amount"`
}

// Status reads it from the mirror and the queue. What cannot be read is among the
// problems, and the rest is still reported.
func (p *Parts) Status(ctx context.Context, gate *worker.Gate) (Status, error) {
	return p.status(ctx, gate, nil, nil), nil
}

// statusPatience bounds the reading of one dependency.
const statusPatience = 10 * time.Second

// status is Status where the database or Redis could not even be opened.
func (p *Parts) status(ctx context.Context, gate *worker.Gate, storeErr, redisErr error) Status {
	s := Status{
		Problems: []Problem{}, Limits: []LimitStatus{}, APIKeys: []KeyStatus{}, Stripe: StripeStatus{Calls24h: map[budget.Purpose]int64{}},
		Sweeps: map[string]SweepStatus{}, AccountsRefused: []RefusedStatus{}, Ledgers: p.ledgers().Scopes(), Balances: []TotalStatus{},
		DriftByKind: map[mirror.DriftKind]int64{}, Webhooks: map[reconcile.Endpoint]WebhookStatus{},
		AccountsRefusedKnown: gate != nil, At: time.Now().UTC(), Build: ReadBuild(),
	}
	if storeErr == nil {
		bounded, cancel := context.WithTimeout(ctx, statusPatience)
		storeErr = p.mirrorStatus(bounded, &s)
		cancel()
	}
	if redisErr == nil {
		bounded, cancel := context.WithTimeout(ctx, statusPatience)
		redisErr = p.redisStatus(bounded, &s)
		cancel()
	}
	if gate != nil {
		s.AccountsRefused = []RefusedStatus{} // better known than what is remembered
		for _, c := range gate.Closures() {
			s.AccountsRefused = append(s.AccountsRefused, RefusedStatus{Account: c.Account, Scope: string(c.Scope), Since: c.Since.UTC(), Reason: c.Reason})
		}
	}
	s.judge(storeErr, redisErr)
	return s
}

// redisStatus adds what Redis knows.
func (p *Parts) redisStatus(ctx context.Context, s *Status) error {
	counts, err := p.Queue.Stats(ctx)
	if err != nil {
		return err
	}
	s.Queue = queueStatus(counts, s.Queue.Dead)
	if s.Stripe.Calls24h, err = p.Budget.Calls24h(ctx); err != nil {
		return err
	}
	for _, n := range s.Stripe.Calls24h {
		s.Stripe.Projection30d += 30 * n
	}
	return nil
}

// mirrorStatus adds what the mirror's database knows.
func (p *Parts) mirrorStatus(ctx context.Context, s *Status) error {
	totals, err := p.Store.Totals(ctx)
	if err != nil {
		return err
	}
	s.Customers = totals.Customers
	s.Queue.Dead = totals.DeadLetters
	s.Transactions = totals.BalanceTransactions + totals.CreditTransactions
	s.PendingEvents = totals.PendingEvents
	for kind, n := range totals.DriftOpen {
		s.DriftOpen += n
		s.DriftByKind[kind] = n
	}
	s.Balances = append(totalsOf("balance", totals.Balances), totalsOf("credits", totals.Credits)...)
	if counts, ok := p.Store.(interface {
		NotMonetary(ctx context.Context) (int64, error)
	}); ok {
		if s.GrantsNotMonetary, err = counts.NotMonetary(ctx); err != nil {
			return err
		}
	}
	fresh, err := p.freshness(ctx)
	if err != nil {
		return err
	}
	if len(fresh) > 0 {
		s.Freshness = FreshnessStatus{P50: quantile(fresh, 0.5), P99: quantile(fresh, 0.99)}
	}
	sweeps, err := p.Store.Sweeps(ctx)
	if err != nil {
		return err
	}
	for _, w := range sweeps {
		if !reconcile.IsWebhookRow(w.Name) && !reconcile.IsLimitsRow(w.Name) && !reconcile.IsControlRow(w.Name) && !notify.IsStateRow(w.Name) && w.Name != rowKeyTrouble && w.Name != rowWebhookTrouble {
			addSweep(s.Sweeps, w)
		}
	}
	s.remember(sweeps)
	if err := p.neverSwept(ctx, s.Sweeps, sweeps); err != nil {
		return err
	}
	limits, err := reconcile.AllLimits(ctx, p.Store)
	if err != nil {
		return err
	}
	s.Limits = limitStatus(limits, p.ledgers())
	for name, w := range s.Sweeps {
		if w.LastSuccess != nil {
			age := max(s.At.Sub(*w.LastSuccess), 0).Seconds()
			w.AgeSeconds = &age
			s.Sweeps[name] = w
		}
	}
	if err := p.addTrouble(ctx, s); err != nil {
		return err
	}
	if s.APIKeys, err = p.keyStatus(ctx, s.At); err != nil {
		return err
	}
	return nil
}

// neverSwept takes back the success of a sweep that an account never had: an account that
// is mirrored and has no row of it, because all of its calls are refused, counts too.
func (p *Parts) neverSwept(ctx context.Context, all map[string]SweepStatus, rows []mirror.Sweep) error {
	accounts := append([]string{""}, p.Config.StripeAccounts.IDs...)
	if p.Config.StripeAccounts.All {
		seen, err := p.Store.Accounts(ctx)
		if err != nil {
			return err
		}
		accounts = append(accounts, seen...)
	}
	for name, sweep := range all {
		for _, account := range accounts {
			if !slices.ContainsFunc(rows, func(w mirror.Sweep) bool { return w.Name == name && w.Account == account }) {
				sweep.LastSuccess = nil
				all[name] = sweep
			}
		}
	}
	return nil
}

// addTrouble adds what a person may have to look after.
func (p *Parts) addTrouble(ctx context.Context, s *Status) error {
	endpoints, err := reconcile.WebhookStates(ctx, p.Store)
	if err != nil {
		return err
	}
	for _, e := range endpoints {
		s.Webhooks[e.Endpoint] = WebhookStatus{LastArrival: optional(e.LastArrival), Silent: e.Silent, SilentSince: optional(e.SilentSince)}
	}
	ages, err := p.Store.DeadLetterAges(ctx, s.At)
	s.DeadLetters = DeadStatus{
		UnderHour: ages.UnderHour, UnderDay: ages.UnderDay, UnderWeek: ages.UnderWeek, Older: ages.Older,
		Unreadable: ages.Unreadable, Oldest: optional(ages.Oldest),
	}
	return err
}

// keyStatus lists the configured keys, and those that were used in the last 90 days.
func (p *Parts) keyStatus(ctx context.Context, now time.Time) ([]KeyStatus, error) {
	list, place := []KeyStatus{}, map[string]int{}
	for _, k := range p.Config.APIKeys {
		place[k.Name] = len(list)
		list = append(list, KeyStatus{
			Name: k.Name, Configured: true, Write: k.Write, Expires: optional(k.Expires), Expired: !k.Expires.IsZero() && !now.Before(k.Expires),
		})
	}
	journal, ok := p.Store.(mirror.APIJournal)
	if !ok {
		return list, nil
	}
	uses, err := journal.APIKeyUses(ctx)
	for _, u := range uses {
		if i, known := place[u.Name]; known {
			list[i].LastUsed = optional(u.LastUsed)
		} else if now.Sub(u.LastUsed) < 90*24*time.Hour {
			list = append(list, KeyStatus{Name: u.Name, LastUsed: optional(u.LastUsed)})
		}
	}
	return list, err
}

// optional is a time in UTC; nil for the zero time.
func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// freshnessSample is how many of the last answered events make the freshness.
const freshnessSample = 1000

// addSweep adds a sweep; of several accounts the one that succeeded least recently
// counts, since a sweep is no better than that.
func addSweep(all map[string]SweepStatus, w mirror.Sweep) {
	next := SweepStatus{LastFound: w.LastFound}
	if !w.LastSuccess.IsZero() {
		t := w.LastSuccess.UTC()
		next.LastSuccess = &t
	}
	if old, ok := all[w.Name]; ok {
		next.LastFound += old.LastFound
		if old.LastSuccess == nil || next.LastSuccess != nil && old.LastSuccess.Before(*next.LastSuccess) {
			next.LastSuccess = old.LastSuccess
		}
	}
	all[w.Name] = next
}

func queueStatus(s queue.Stats, dead int64) QueueStatus {
	return QueueStatus{
		Ready: s.ReadyLive + s.ReadySweep, Delayed: s.Delayed, Leased: s.Leased, Dead: dead,
		OldestReadySeconds: s.OldestReady.Seconds(),
	}
}

// quantile of an ascending list, in seconds.
func quantile(ascending []time.Duration, q float64) *float64 {
	v := ascending[int(q*float64(len(ascending)-1)+0.5)].Seconds()
	return &v
}
