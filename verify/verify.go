package verify

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/creditmirror/creditmirror/mirror"
)

// Options say what to verify and how.
type Options struct {
	Filter mirror.AuditFilter
	// Readers is how many ranges of customers are read at once. Defaults to twice
	// the number of processors, since a reader waits for a server that it reads
	// from, and at most 4: each takes some 35 MiB. A store may take fewer.
	Readers int
	// Ledgers are those of an account that are mirrored: another one is proven as far as
	// it is held, and never incomplete. Defaults to both.
	Ledgers func(account string) mirror.Ledgers
	// Now is when findings are found. Defaults to time.Now.
	Now func() time.Time
}

// Result counts what was looked at.
type Result struct {
	Customers           int64
	BalanceTransactions int64
	CreditTransactions  int64
	// Incomplete customers have a history that was never held wholly: their first copy
	// is under way. An open walk over one that was is a finding.
	Incomplete int64
	Findings   int64
}

// Add adds the counts of another part.
func (r *Result) Add(other Result) {
	r.Customers += other.Customers
	r.BalanceTransactions += other.BalanceTransactions
	r.CreditTransactions += other.CreditTransactions
	r.Incomplete += other.Incomplete
	r.Findings += other.Findings
}

// maxReaders bounds what a machine of many processors spends on a proof that
// runs beside a serve.
const maxReaders = 4

// waiting is how many findings of a range may wait until the ranges before it
// are shown.
const waiting = 256

// Run proves the ledgers of one snapshot and passes found every difference, in
// the order of account and customer, one at a time. An error of found ends it.
// A customer that is asked for by name and not held is mirror.ErrNotFound.
func Run(ctx context.Context, store mirror.Auditor, o Options, found func(mirror.Finding) error) (result Result, err error) {
	if o.Readers <= 0 {
		o.Readers = min(2*runtime.GOMAXPROCS(0), maxReaders)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Ledgers == nil {
		o.Ledgers = func(string) mirror.Ledgers { return mirror.Ledgers{} }
	}
	audit, err := store.Audit(ctx, o.Filter, o.Readers)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, audit.Close()) }()

	at := o.Now().UTC()
	parts := make([]chan mirror.Finding, audit.Ranges())
	results := make([]Result, len(parts))
	for i := range parts {
		parts[i] = make(chan mirror.Finding, waiting)
	}
	// Ranges begin in order, and each has a reader from then on: the first that is
	// not reported yet is always being read, whatever later ones wait for.
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(audit.Readers() + 1)
	group.Go(func() error {
		for _, part := range parts {
			for more := true; more; {
				var f mirror.Finding
				select {
				case <-ctx.Done():
					return ctx.Err()
				case f, more = <-part:
				}
				if !more {
					break
				}
				if err := found(f); err != nil {
					return err
				}
			}
		}
		return nil
	})
	for i := range parts {
		group.Go(func() error {
			defer close(parts[i])
			return audit.Range(ctx, i, func(l mirror.AuditLedgers) (err error) {
				results[i], err = judge(l, o.Ledgers, func(f mirror.Finding) error {
					f.FoundAt = at
					select {
					case <-ctx.Done():
						return ctx.Err()
					case parts[i] <- f:
						return nil
					}
				})
				return err
			})
		})
	}
	if err := group.Wait(); err != nil {
		return result, fmt.Errorf("verify: %w", err)
	}
	for _, r := range results {
		result.Add(r)
	}
	if o.Filter.Customer != "" && result.Customers == 0 && result.Findings == 0 {
		return result, fmt.Errorf("verify customer %s: %w", o.Filter.Customer, mirror.ErrNotFound)
	}
	return result, nil
}
