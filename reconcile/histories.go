package reconcile

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/mirror"
)

const (
	// feedPage is how many histories of a scope are marked at a time: few, so that
	// what is marked is in work in the order of its ranks.
	feedPage = 100
	// feedBacklog keeps the queue of swept work short: the database knows what is
	// left, so Redis need not hold it all.
	feedBacklog = 1000
	// countInterval is how often what is left is counted.
	countInterval = 2 * time.Second
)

// copyHistories marks every customer whose history is unfinished, a short
// queue at a time, until none is left but those with a dead letter. The database
// is the checkpoint: what is complete is not listed again. Both scopes are fed side
// by side, since they are read from different endpoints, each with a rate of its own.
func (f *FirstCopy) copyHistories(ctx context.Context, account string, at *Copied, pace *pacer, tell func()) (err error) {
	var feeds []*feed
	for _, scope := range []mirror.Scope{mirror.ScopeBalance, mirror.ScopeCredits} {
		if at.has(scope) {
			feeds = append(feeds, &feed{scope: scope})
		}
	}
	counted := time.Time{}
	for {
		backlog, err := f.queue.Backlog(ctx)
		if err != nil {
			return err
		}
		if now := f.o.Now(); now.Sub(counted) >= countInterval { // a look over all that is left
			counted = now
			if at.Left, err = f.store.UnsyncedCount(ctx, account); err != nil {
				return err
			}
			tell()
		}
		if backlog >= feedBacklog {
			if err := backoff.Sleep(ctx, f.o.Poll); err != nil {
				return err
			}
			continue
		}
		left, fed := false, false
		for _, feed := range feeds {
			if feed.done {
				continue
			}
			list, err := feed.next(ctx, f.store, account)
			if err != nil {
				return err
			}
			if feed.done {
				continue
			}
			left = true
			if len(list) > 0 {
				fed = true
				if err := f.markNew(ctx, list); err != nil {
					return err
				}
			}
		}
		if !left {
			break
		}
		if !fed { // a pass is over: look later whether it left anything
			if err := backoff.Sleep(ctx, f.o.Poll); err != nil {
				return err
			}
		}
	}
	at.Left, err = f.store.UnsyncedCount(ctx, account)
	return err
}

// copyGrantsBesideHistories lists the grants, one page after the other as Stripe
// has it, while balance histories are read with the calls that this leaves.
func (f *FirstCopy) copyGrantsBesideHistories(ctx context.Context, account string, at *Copied, pace *pacer, save func() error) error {
	both, ctx := errgroup.WithContext(ctx)
	listed, stop := context.WithCancel(ctx)
	both.Go(func() error {
		defer stop()
		return f.copyGrants(ctx, account, at, pace, save)
	})
	both.Go(func() error {
		balances := &feed{scope: mirror.ScopeBalance, done: !at.has(mirror.ScopeBalance)}
		for listed.Err() == nil && !balances.done {
			backlog, err := f.queue.Backlog(ctx)
			if err != nil {
				return err
			}
			var list []mirror.Target
			if backlog < feedBacklog {
				if list, err = balances.next(ctx, f.store, account); err != nil {
					return err
				}
			}
			if len(list) > 0 {
				err = f.markNew(ctx, list)
			} else if backoff.Sleep(listed, f.o.Poll) != nil {
				return nil // the grants are listed; the next phase goes on from here
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return both.Wait()
}

// feed goes over the histories of one scope again and again, until none is left.
type feed struct {
	scope mirror.Scope
	after mirror.Unread
	done  bool
}

// next returns the next histories; none at the end of a pass.
func (f *feed) next(ctx context.Context, store unread, account string) ([]mirror.Target, error) {
	list, err := store.Unsynced(ctx, account, f.scope, f.after, feedPage)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		f.done = f.after == mirror.Unread{}
		f.after = mirror.Unread{}
		return nil, nil
	}
	targets := make([]mirror.Target, len(list))
	for i, u := range list {
		targets[i] = mirror.Target{Account: account, Scope: f.scope, ID: u.Customer}
		f.after = u
	}
	return targets, nil
}

// MarkUnfinished marks every history of these ledgers of the account that is unfinished and that
// the queue does not know of, and returns how many: those that were never read to
// their end, and those with an open walk. The database alone knows of them once
// Redis has forgotten.
func MarkUnfinished(ctx context.Context, store unread, queue Queue, account string, ledgers mirror.Ledgers) (int, error) {
	marked := 0
	for _, scope := range ledgers.Scopes() {
		for at := (feed{scope: scope}); ; {
			targets, err := at.next(ctx, store, account)
			if err != nil || len(targets) == 0 {
				if err != nil {
					return marked, err
				}
				break
			}
			n, err := markNew(ctx, queue, targets)
			if marked += n; err != nil {
				return marked, err
			}
		}
	}
	return marked, nil
}

// markNew marks those of the targets that neither wait nor are in work.
func (f *FirstCopy) markNew(ctx context.Context, targets []mirror.Target) error {
	_, err := markNew(ctx, f.queue, targets)
	return err
}

func markNew(ctx context.Context, queue Queue, targets []mirror.Target) (int, error) {
	queued, err := queue.Queued(ctx, targets)
	if err != nil {
		return 0, err
	}
	fresh := targets[:0]
	for i, t := range targets {
		if !queued[i] {
			fresh = append(fresh, t)
		}
	}
	if len(fresh) == 0 {
		return 0, nil
	}
	failpoint.Hit("copy.feeding")
	return len(fresh), queue.MarkSwept(ctx, fresh)
}
