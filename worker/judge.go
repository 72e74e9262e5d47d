package worker

import (
	"context"
	"errors"
	"time"

	"github.com/creditmirror/creditmirror/backoff"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// action is what happens to a claim after its sync.
type action uint8

const (
	complete  action = iota
	giveBack         // run again, nothing is wrong
	wait             // run again later, no attempt counted
	tryAgain         // an attempt failed
	closeGate        // the key is refused
)

// verdict classifies the outcome of a sync.
type verdict struct {
	outcome string
	then    action
	wait    time.Duration
	// outage: the fault may be Stripe's as a whole, not the target's.
	outage bool
	// heard: Stripe answered, if not with what was asked for.
	heard bool
}

// judge classifies an error of a sync; see the table in the package comment.
func judge(err error) verdict {
	var db *storeError
	switch {
	case err == nil:
		return verdict{outcome: "ok", then: complete}
	case errors.Is(err, mirror.ErrFenced):
		return verdict{outcome: "fenced", then: giveBack, wait: backoff.Jitter(100*time.Millisecond, 400*time.Millisecond, 2)}
	case errors.Is(err, errLeaseLost):
		return verdict{outcome: "lease_lost", then: giveBack}
	case errors.Is(err, errStopping):
		return verdict{outcome: "stopped", then: giveBack}
	case errors.Is(err, errTooLong):
		// Also where the database took the time: a commit that never ends must not be
		// tried for ever.
		return verdict{outcome: "too_long", then: tryAgain, outage: !errors.As(err, &db)}
	case errors.As(err, &db):
		return verdict{outcome: "store_error", then: wait, wait: backoff.Jitter(250*time.Millisecond, 2*time.Second, 5)}
	case lacksPermission(err):
		return verdict{outcome: "no_permission", then: closeGate, heard: true}
	case errors.Is(err, stripeapi.ErrUnauthorized), errors.Is(err, stripeapi.ErrForbidden):
		return verdict{outcome: "refused_key", then: closeGate, heard: true}
	case errors.Is(err, stripeapi.ErrRateLimited):
		delay := backoff.Jitter(time.Second, 4*time.Second, 4)
		if e, ok := errors.AsType[*stripeapi.Error](err); ok {
			delay = max(delay, e.RetryAfter)
		}
		return verdict{outcome: "rate_limited", then: wait, wait: delay, heard: true}
	case errors.Is(err, stripeapi.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return verdict{outcome: "stripe_unavailable", then: tryAgain, outage: true}
	case errors.Is(err, stripeapi.ErrGarbled):
		return verdict{outcome: "garbled", then: tryAgain, outage: true}
	case errors.Is(err, errLagging):
		return verdict{outcome: "lagging", then: tryAgain, heard: true}
	case errors.Is(err, mirror.ErrLedgerRewritten):
		return verdict{outcome: "ledger_rewritten", then: tryAgain, heard: true}
	}
	_, asked := errors.AsType[*stripeapi.Error](err)
	return verdict{outcome: "failed", then: tryAgain, heard: asked}
}

func lacksPermission(err error) bool {
	_, lacks := stripeapi.Permission(err)
	return lacks
}
