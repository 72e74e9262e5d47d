package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/budget"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
	"github.com/creditmirror/creditmirror/queue"
	"github.com/creditmirror/creditmirror/reconcile"
	"github.com/creditmirror/creditmirror/redisconn"
	"github.com/creditmirror/creditmirror/stripeapi"
	"github.com/creditmirror/creditmirror/tracing"
	"github.com/creditmirror/creditmirror/worker"
)

// OpenStore opens the mirror's database that the configuration names.
func OpenStore(ctx context.Context, cfg config.Config) (mirror.Store, error) {
	var store mirror.Store
	var err error
	if path, ok := cfg.SQLitePath(); ok {
		store, err = sqlite.Open(ctx, path, sqlite.Options{})
	} else {
		store, err = postgres.Open(ctx, cfg.DatabaseURL.Reveal(), postgres.Options{Workers: cfg.Workers})
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", config.VarDatabaseURL, err) // no typed nil
	}
	return store, nil
}

// Parts are what every command that works on an account needs: the mirror, the
// queue, and Stripe under the shared budget. Close them once.
type Parts struct {
	Config config.Config
	Store  mirror.Store
	Redis  *redisconn.Conn
	Queue  *queue.Queue
	Budget *budget.Budget
	// Stripe is nil where no API key is configured.
	Stripe *stripeapi.Client

	marks    *marks
	traces   *tracing.Provider
	outside  Outside
	clock    *clock
	cleanups []cleanup
}

type cleanup struct {
	name string
	fn   func() error
}

// gather bounds how late a customer may be that events come for faster than they
// can be synced. It keeps a burst from costing a call per event.
const gather = time.Second

// ErrEvicts says that Redis may delete keys on its own, so that work would be
// lost without a trace.
var ErrEvicts = errors.New("redis may evict keys")

// OpenParts opens them all and brings the database's schema up to date.
func OpenParts(ctx context.Context, cfg config.Config, registry prometheus.Registerer, log *zap.Logger) (*Parts, error) {
	return openParts(ctx, cfg, mirror.Store.Migrate, registry, nil, Outside{}, log)
}

// OpenPartsToLook opens them for a command that only looks: a schema that does not
// fit is an error, and nothing is changed.
func OpenPartsToLook(ctx context.Context, cfg config.Config) (*Parts, error) {
	return openParts(ctx, cfg, mirror.Store.CheckSchema, prometheus.NewRegistry(), nil, Outside{}, zap.NewNop())
}

// openParts opens them; traces says where their spans go, nil: nowhere.
func openParts(ctx context.Context, cfg config.Config, schema func(mirror.Store, context.Context) error, registry prometheus.Registerer, traces *tracing.Provider, outside Outside, log *zap.Logger) (*Parts, error) {
	p := &Parts{Config: cfg, traces: traces, outside: outside}
	err := p.open(ctx, schema, registry, log)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Parts) open(ctx context.Context, schema func(mirror.Store, context.Context) error, registry prometheus.Registerer, log *zap.Logger) error {
	cfg := p.Config
	var err error
	if p.Store, err = p.outside.openStore(ctx, cfg); err != nil {
		return err
	}
	p.onClose("mirror", p.Store.Close)
	if err := schema(p.Store, ctx); err != nil {
		return err
	}
	db, ok := p.Store.(mirror.Clock)
	if !ok {
		return fmt.Errorf("the database driver %T cannot read the database clock", p.Store)
	}
	if p.clock, err = newClock(ctx, db, p.outside.Now, registry, log); err != nil {
		return err
	}
	p.onClose("clock", p.clock.close)
	if err = p.checkMode(ctx); err != nil {
		return err
	}
	p.warnOfOpenDoors(log)
	redisconn.LogTo(log)
	if p.Redis, err = p.outside.openRedis(ctx, cfg.RedisURL.Reveal()); err != nil {
		return err
	}
	p.onClose("redis", p.Redis.Close)
	if p.Queue, err = queue.New(p.Redis.Client, queue.Options{Partitions: p.Redis.Partitions, Gather: gather}); err != nil {
		return err
	}
	p.onClose("queue", func() error { p.Queue.Close(); return nil })

	var seen func(context.Context, string) error
	if cfg.StripeAccounts.All {
		seen = p.Store.SeeAccount
	}
	p.marks = newMarks(p.Queue, p.ledgers(), seen)
	p.Budget, err = budget.New(p.Redis.Client, registry, log, budget.Options{RPS: cfg.StripeRPS, EndpointRPS: cfg.EndpointRPS()})
	if err != nil {
		return err
	}
	p.onClose("budget", func() error { p.Budget.Close(); return nil })
	if !cfg.StripeAPIKey.IsSet() {
		return nil
	}
	p.Stripe, err = stripeapi.New(stripeapi.Options{
		Key: cfg.StripeAPIKey.Reveal(), Base: cfg.StripeAPIBase, Version: cfg.StripeAPIVersion,
		Limiter: limiter{p.Budget, newDemand(cfg.StripeRPS, p.Budget.Replicas)}, Registerer: registry, Log: log, Tracer: p.traces.Tracer("stripeapi"),
		FullCustomers: cfg.CustomerFields == config.CustomerFieldsFull, Transport: p.outside.Transport,
	})
	if err != nil {
		return err
	}
	p.onClose("stripe client", func() error { p.Stripe.Close(); return nil })
	return nil
}

// checkMode refuses a key of the other mode than that of the customers held: it knows none
// of them, so that each would be taken for deleted, and what is deleted stays so.
func (p *Parts) checkMode(ctx context.Context) error {
	mode := p.Config.Mode()
	if mode == config.ModeUnknown {
		return nil
	}
	accounts, err := p.Store.Accounts(ctx)
	if err != nil {
		return fmt.Errorf("list accounts: %w", err)
	}
	var foreign bool
	for _, account := range slices.Concat([]string{""}, p.Config.StripeAccounts.IDs, accounts) {
		held, err := p.Store.Customers(ctx, account, "", modeSample)
		if errors.Is(err, mirror.ErrUnstorable) { // a damaged row is for the sweeps to find
			continue
		}
		if err != nil {
			return fmt.Errorf("read customers: %w", err)
		}
		if slices.ContainsFunc(held, func(c mirror.CustomerView) bool { return c.Livemode == (mode == config.ModeLive) }) {
			return nil
		}
		foreign = foreign || len(held) > 0
	}
	if !foreign {
		return nil
	}
	other := config.ModeLive
	if mode == config.ModeLive {
		other = config.ModeTest
	}
	return &config.Error{Problems: []config.Problem{{
		Var: string(config.VarStripeAPIKey), Flag: config.VarStripeAPIKey.Flag(),
		Message: fmt.Sprintf("is a %s key, and the mirror holds customers of %s mode, each of which would be taken for deleted; use a %s key, or another database in %s",
			mode, other, other, config.VarDatabaseURL),
	}}}
}

// modeSample is how many customers of an account are looked at: one row may be damaged.
const modeSample = 100

// now is the clock that what is compared with times of other processes comes from: the
// database's, or this host's in a command that only reads and keeps none.
func (p *Parts) now() func() time.Time {
	if p.clock == nil {
		return time.Now
	}
	return p.clock.Now
}

// FirstCopy is the first copy of an account with these parts. leaseWait is how
// long it waits for another process that is at it, which may be a dead one.
func (p *Parts) FirstCopy(leaseWait time.Duration, log *zap.Logger) *reconcile.FirstCopy {
	return reconcile.NewFirstCopy(p.Stripe.For(stripeapi.PurposeBackfill), p.Store, p.marks, reconcile.FirstCopyOptions{
		TestMode: p.Config.Mode() == config.ModeTest, Ledgers: p.ledgers(), Probe: probe(p.Stripe.For(stripeapi.PurposeBackfill)),
		LeaseWait: leaseWait, Log: log, Now: p.now(),
		Calls: func(ctx context.Context) (int64, error) {
			calls, err := p.Budget.Calls24h(ctx)
			return calls[budget.Backfill], err
		},
	})
}

// Balances is the balances sweep with these parts; dry writes nothing.
func (p *Parts) Balances(dry bool, log *zap.Logger) *reconcile.BalancesSweep {
	return reconcile.NewBalancesSweep(p.Stripe.For(stripeapi.PurposeBalances), p.Store, p.marks, reconcile.BalancesOptions{
		TestMode: p.Config.Mode() == config.ModeTest, Ledgers: p.ledgers(), Repair: &p.Config.Repair, DryRun: dry, Log: log, Now: p.now(),
		// With a short interval there is no time to wait for webhooks.
		Grace: min(10*time.Second, p.Config.BalancesInterval/2),
	})
}

// Events is the events sweep of a command with these parts; dry writes nothing. It
// names what came while no receiver ran, with that as the cause: the person who asks
// wants to see it, and nothing else may bring it.
func (p *Parts) Events(dry bool, log *zap.Logger) *reconcile.EventsSweep {
	return reconcile.NewEventsSweep(p.Stripe.For(stripeapi.PurposeEvents), p.Store, p.marks, reconcile.EventsOptions{
		Inbox:    func() bool { return p.Config.Inbox != config.InboxOff },
		Livemode: p.Config.Mode() == config.ModeLive, Ledgers: p.ledgers(), Repair: &p.Config.Repair, DryRun: dry, TellAway: true, Log: log, Now: p.now(),
	})
}

// Scrub is the scrub with these parts; without repair it reports only.
func (p *Parts) Scrub(log *zap.Logger) *reconcile.Scrub {
	o := reconcile.ScrubOptions{Period: p.Config.ScrubPeriod, Ledgers: p.ledgers(), Log: log, Now: p.now()}
	if !p.Config.Repair {
		o.Report = p.ScrubReport(false, log)
	}
	return reconcile.NewScrub(p.Store, p.marks, o)
}

// ScrubReport compares in full and repairs nothing; dry, it records nothing either.
func (p *Parts) ScrubReport(dry bool, log *zap.Logger) *reconcile.ScrubReport {
	return reconcile.NewScrubReport(p.Stripe.For(stripeapi.PurposeScrub), p.Store, p.rehearsal(log), p.marks, reconcile.ReportOptions{
		Grace: min(10*time.Second, p.Config.BalancesInterval/2), Ledgers: p.ledgers(), DryRun: dry, Log: log, Now: p.now(),
	})
}

// Waiting counts those of the targets that wait or are in work.
func (p *Parts) Waiting(ctx context.Context, targets []mirror.Target) (int, error) {
	n := 0
	queued, err := p.marks.Queued(ctx, targets)
	for _, q := range queued {
		if q {
			n++
		}
	}
	return n, err
}

// Work syncs targets from the queue until ctx ends, and then drains.
func (p *Parts) Work(ctx context.Context, log *zap.Logger) error {
	return p.pool(worker.NewGate(p.now()), prometheus.NewRegistry(), log).Run(ctx)
}

func (p *Parts) pool(gate *worker.Gate, registry prometheus.Registerer, log *zap.Logger) *worker.Pool {
	log = log.With(zap.String("component", "worker"))
	syncer := func(purpose string) *worker.Syncer {
		return worker.NewSyncer(p.Stripe.For(purpose), p.Store, p.marks, p.syncOptions(log))
	}
	return worker.NewPool(p.Queue, syncer(stripeapi.PurposeLive), syncer(stripeapi.PurposeBackfill), p.Store, gate, worker.Options{
		Workers: p.Config.Workers, MaxAttempts: p.Config.MaxAttempts, Ledgers: p.ledgers(), Late: newLateEvents(p.Store, p.now()).excused, Registerer: registry, Log: log, Now: p.now(),
	})
}

func (p *Parts) syncOptions(log *zap.Logger) worker.SyncOptions {
	return worker.SyncOptions{Ledgers: p.ledgers(), Log: log, Tracer: p.traces.Tracer("worker"), PagesPerPiece: p.outside.PagesPerPiece, Now: p.now()}
}

func (p *Parts) onClose(name string, fn func() error) {
	p.cleanups = append(p.cleanups, cleanup{name, fn})
}

// Close closes what was opened, last first.
func (p *Parts) Close() error {
	var errs []error
	for i := len(p.cleanups) - 1; i >= 0; i-- {
		if err := p.cleanups[i].fn(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", p.cleanups[i].name, err))
		}
	}
	p.cleanups = nil
	return errors.Join(errs...)
}
