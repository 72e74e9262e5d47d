package app

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"golang.org/x/time/rate"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/budget"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

const (
	// demandShare is the part of Stripe's budget that syncs on demand may take, over all
	// replicas: a client of the API must not slow down what events ask for.
	demandShare = 0.25
	// keyShare is the part of that which one key may take.
	keyShare = 0.5
)

// demand bounds the calls of syncs on demand, per key and in all.
type demand struct {
	rps      float64
	replicas func() int

	mu    sync.Mutex
	all   *rate.Limiter
	byKey map[string]*rate.Limiter
}

func newDemand(rps float64, replicas func() int) *demand {
	d := &demand{rps: rps * demandShare, replicas: replicas, byKey: map[string]*rate.Limiter{}}
	d.all = newLimiter(d.rps)
	return d
}

func newLimiter(perSecond float64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), max(1, int(math.Ceil(perSecond))))
}

// wait returns when a call may be made. It fails at once when that would be later than
// ctx allows: then others have used the share up for as long.
func (d *demand) wait(ctx context.Context) error {
	key, all := d.limiters(access.NameIn(ctx))
	for _, l := range []*rate.Limiter{key, all} {
		if err := l.Wait(ctx); err != nil {
			return fmt.Errorf("the share of calls for syncs on demand is used up: %w", err)
		}
	}
	return nil
}

// limiters returns those of a key and of all, with this process' part of the share. Keys
// are those of the configuration, so there are not many.
func (d *demand) limiters(name string) (key, all *rate.Limiter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	part := d.rps / float64(max(1, d.replicas()))
	key = d.byKey[name]
	if key == nil {
		key = newLimiter(part * keyShare)
		d.byKey[name] = key
	}
	for l, perSecond := range map[*rate.Limiter]float64{key: part * keyShare, d.all: part} {
		if l.Limit() != rate.Limit(perSecond) {
			l.SetLimit(rate.Limit(perSecond))
			l.SetBurst(max(1, int(math.Ceil(perSecond))))
		}
	}
	return key, d.all
}

// limiter lets the Stripe client draw on the budget.
type limiter struct {
	budget *budget.Budget
	demand *demand
}

func (l limiter) Acquire(ctx context.Context, account, endpoint, purpose string) error {
	if purpose == stripeapi.PurposeOnDemand {
		if err := l.demand.wait(ctx); err != nil {
			return err
		}
		purpose = string(budget.API)
	}
	return l.budget.Acquire(ctx, account, endpoint, budget.Purpose(purpose))
}

func (l limiter) Throttled(ctx context.Context, account, endpoint string) {
	l.budget.Throttled(ctx, account, endpoint)
}

// exists reports whether Stripe knows a customer that was never synced. One that is held it
// does; for another, one call finds out.
func exists(store mirror.Reader, client *stripeapi.Client) func(ctx context.Context, account, customer string) (bool, error) {
	return func(ctx context.Context, account, customer string) (bool, error) {
		if _, err := store.Customer(ctx, account, customer); !errors.Is(err, mirror.ErrNotFound) {
			return err == nil, err
		}
		_, err := client.Customer(ctx, account, customer)
		if errors.Is(err, stripeapi.ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	}
}
