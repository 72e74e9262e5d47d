package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/api"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/doors"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/report"
	"github.com/creditmirror/creditmirror/stripeapi"
	"github.com/creditmirror/creditmirror/worker"
)

// newAPI makes the server of the API. Where there is a Stripe key it syncs on
// demand, and where a key of the API may write it sends writes on.
func (a *App) newAPI() error {
	cfg := a.o.Config
	metrics, err := api.NewMetrics(a.o.Registry)
	if err != nil {
		return err
	}
	log := a.log.With(zap.String("component", "api"))
	rows, _ := a.parts.Store.(mirror.APIJournal) // a store that tests put in its place may be none
	a.journal, err = api.NewJournal(rows, api.JournalOptions{Keys: a.keys, Retention: cfg.AuditRetention, Registerer: a.o.Registry, Log: log})
	if err != nil {
		return err
	}
	stopping := make(chan struct{})
	o := api.Options{
		Reader: a.parts.Store, Keys: a.keys, Journal: a.journal, Proxies: doors.Proxies(cfg.TrustedProxies), Version: cfg.StripeAPIVersion, Accounts: a.mirrored(),
		Ledgers: cfg.Ledgers, RefuseIncomplete: cfg.Incomplete == config.IncompleteRefuse,
		Emails: cfg.CustomerFields == config.CustomerFieldsFull, Stopping: stopping, Log: log, Tracer: a.traces.Tracer("api"),
		Metrics: metrics, Now: a.parts.now(),
	}
	o.Books, _ = a.parts.Store.(report.Books) // a store that tests put in its place may have none
	writes := a.keys.CanWrite()
	switch {
	case a.parts.Stripe != nil:
		var underWay api.UnderWay
		if s, ok := a.parts.Store.(mirror.UnderWay); ok {
			underWay = s.SyncUnderWay
		}
		client := a.parts.Stripe.For(stripeapi.PurposeAPI)
		d := &onDemand{syncer: worker.NewSyncer(client, a.parts.Store, a.parts.marks, a.parts.syncOptions(log)), gate: a.gate}
		reads := a.parts.Stripe.For(stripeapi.PurposeOnDemand)
		r := &onDemand{syncer: worker.NewSyncer(reads, a.parts.Store, a.parts.marks, a.parts.syncOptions(log)), gate: a.gate}
		o.Syncs = api.NewSyncs(r.sync, a.parts.Store.ObservedAt)
		o.Syncs.UnderWay, o.Syncs.Now = underWay, a.parts.now()
		o.Syncs.Exists = exists(a.parts.Store, reads)
		if writes {
			o.Writes = &api.Writes{
				Stripe: client, Store: a.parts.Store, Sync: d.syncGrants, UnderWay: underWay,
				Mark: func(ctx context.Context, targets []mirror.Target) error {
					return a.parts.marks.MarkTargets(ctx, targets, nil)
				},
			}
			if cfg.StripeAccounts.All {
				o.Writes.Seen = a.parts.marks.remember
			}
		}
	case writes:
		log.Warn("api writes are refused: STRIPE_API_KEY is not set")
	}
	a.api = api.New(o)
	// Who waits for changes is answered before the stop.
	a.stopAPI = func() { close(stopping) }
	return nil
}

// newFront makes the server of API and console, which share an address.
func (a *App) newFront() (err error) {
	a.keys = access.New(a.o.Config.APIKeys, nil)
	if a.has(config.RoleAPI) {
		if err := a.newAPI(); err != nil {
			return err
		}
	}
	var page http.Handler
	if a.has(config.RoleConsole) {
		if a.console, err = a.newConsole(); err != nil {
			return err
		}
		page = a.console
	}
	a.apiServer = internalServer(beside(page, a.api), a.bounds(apiDoor, apiConns))
	if a.stopAPI != nil {
		a.apiServer.RegisterOnShutdown(a.stopAPI)
	}
	return nil
}

// mirrored reports which connected accounts the API knows: those that are configured,
// or, where all are, those that were seen. Of another one an empty list would be a
// wrong answer.
func (a *App) mirrored() func(ctx context.Context, account string) (bool, error) {
	if !a.seen.All {
		return func(_ context.Context, account string) (bool, error) { return a.seen.takes(account), nil }
	}
	var seen sync.Map // accounts are never forgotten
	return func(ctx context.Context, account string) (bool, error) {
		if _, known := seen.Load(account); known {
			return true, nil
		}
		known, err := a.parts.Store.AccountSeen(ctx, account)
		if known {
			seen.Store(account, nil)
		}
		return known, err
	}
}

// onDemand syncs targets for requests of the API, beside the worker. The fence
// keeps the two apart.
type onDemand struct {
	syncer *worker.Syncer
	gate   *worker.Gate
}

func (d *onDemand) sync(ctx context.Context, t mirror.Target) error {
	return d.syncGrants(ctx, t, nil)
}

// syncGrants syncs until the whole history is read. A key that Stripe refuses is
// not tried again before its time.
func (d *onDemand) syncGrants(ctx context.Context, t mirror.Target, grants []mirror.CreditGrant) error {
	if wait := d.gate.Closed(t); wait > 0 {
		return fmt.Errorf("stripe refuses the key; it is tried again in %s", wait.Round(time.Second))
	}
	for {
		var r worker.Result
		var err error
		if len(grants) > 0 {
			r, err = d.syncer.SyncGrants(ctx, t, grants)
		} else {
			r, err = d.syncer.Sync(ctx, t, nil, true)
		}
		switch {
		case err == nil:
			d.gate.Answered(t)
		case errors.Is(err, stripeapi.ErrUnauthorized), errors.Is(err, stripeapi.ErrForbidden):
			_, _ = d.gate.Refused(t, err) // the caller gets the error
		}
		if err != nil || !r.More {
			return err
		}
	}
}
