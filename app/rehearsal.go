package app

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
	"github.com/creditmirror/creditmirror/stripeapi"
	"github.com/creditmirror/creditmirror/worker"
)

// rehearsal makes the worker's own syncs over a fence that keeps nothing, so that a
// dry run and a real one cannot judge differently.
type rehearsal struct {
	mirror.Rehearser
	syncer *worker.Syncer
}

// rehearsed is what such a sync meets: the store, but for what it would write.
type rehearsed struct {
	mirror.Fence
	mirror.Reader
}

// ResolveEvents is never needed: only ledgers are rehearsed.
func (rehearsed) ResolveEvents(context.Context, mirror.Target, []mirror.Target) error {
	return mirror.ErrRehearsal
}

func (p *Parts) rehearsal(log *zap.Logger) reconcile.Rehearsal {
	store, ok := p.Store.(mirror.Rehearser)
	if !ok { // both drivers can
		store = noRehearser{}
	}
	o := p.syncOptions(log.With(zap.String("component", "scrub")))
	// A piece that is undone cannot be gone on with.
	o.PagesPerPiece = math.MaxInt
	return rehearsal{store, worker.NewSyncer(p.Stripe.For(stripeapi.PurposeScrub), rehearsed{store.Rehearsal(), p.Store}, p.marks, o)}
}

// noRehearser stands for a store that cannot rehearse.
type noRehearser struct{ mirror.Rehearser }

var errNoRehearsal = errors.New("this store cannot rehearse a sync")

func (noRehearser) Rehearsal() mirror.Fence { return nil }

func (noRehearser) Histories(context.Context, string, string, int) ([]mirror.Target, error) {
	return nil, errNoRehearsal
}

// Rehearse makes one sync.
func (r rehearsal) Rehearse(ctx context.Context, t mirror.Target) ([]mirror.Finding, error) {
	result, err := r.syncer.Sync(ctx, t, nil, true)
	found := slices.Concat(result.Repaired, result.Findings)
	switch {
	case err == nil, errors.Is(err, mirror.ErrLedgerRewritten):
		return found, nil
	case worker.StoreFailed(err):
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", reconcile.ErrUnread, err)
}
