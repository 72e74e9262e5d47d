package app

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/reconcile"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// Ledgers are those that a configuration wants mirrored.
func Ledgers(cfg config.Config) mirror.Ledgers {
	if len(cfg.Ledgers) == 0 { // made without the table of variables
		return mirror.Ledgers{}
	}
	return mirror.Ledgers{
		NoBalance: !slices.Contains(cfg.Ledgers, access.Balance),
		NoCredits: !slices.Contains(cfg.Ledgers, access.Credits),
	}
}

func (p *Parts) ledgers() mirror.Ledgers { return Ledgers(p.Config) }

// probe reads one row of a history, to see whether the key may.
func probe(c *stripeapi.Client) func(ctx context.Context, t mirror.Target) error {
	return func(ctx context.Context, t mirror.Target) (err error) {
		switch t.Scope {
		case mirror.ScopeBalance:
			_, err = c.BalancePage(ctx, t.Account, t.ID, "", 1)
		case mirror.ScopeCredits:
			_, err = c.CreditPage(ctx, t.Account, t.ID, "", 1)
		default:
			err = fmt.Errorf("scope %q has no history", t.Scope)
		}
		return err
	}
}

// LimitStatus is a part of an account that the key may not read. The mirror goes on
// without it.
type LimitStatus struct {
	Account string `json:"account"`
	// Part is balance, credits, test_clocks or events.
	Part string `json:"part"`
	// Permission is what the key lacks, as Stripe's dashboard names it.
	Permission string `json:"permission"`
	// Without says in words what the mirror does not do.
	Without string    `json:"without"`
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"`
}

// limitStatus lists the limits of the ledgers that are wanted.
func limitStatus(limits reconcile.Limits, wanted mirror.Ledgers) []LimitStatus {
	list := []LimitStatus{}
	for _, l := range limits {
		if ledger := mirror.Scope(l.Part); !wanted.Has(ledger) && slices.Contains(wanted.Left(), ledger) {
			continue
		}
		list = append(list, LimitStatus{
			Account: l.Account, Part: string(l.Part), Permission: l.Permission, Without: l.Without, Since: l.Since, Reason: l.Reason,
		})
	}
	return list
}
