package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/doors"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/webhook"
)

// RetryOutcome is what became of one dead letter that was to be tried again.
type RetryOutcome string

// The outcomes.
const (
	// RetryMarked: its target waits for a sync now, which removes the letter when it
	// succeeds.
	RetryMarked RetryOutcome = "marked"
	// RetryTaken: the body could be read this time. Its event is recorded and
	// marked, and the letter is gone.
	RetryTaken RetryOutcome = "taken"
	// RetryNothing: the body could be read, and there is nothing to do for it: its
	// event moves no credit, or was answered already. The letter is gone.
	RetryNothing RetryOutcome = "nothing_to_do"
	// RetryUnreadable: the body still cannot be read. The letter stays.
	RetryUnreadable RetryOutcome = "unreadable"
	// RetryForeign: the body can be read, but its event is of a mode or an account
	// that this configuration does not mirror. The letter stays, since another
	// process may be configured otherwise.
	RetryForeign RetryOutcome = "not_mirrored"
	// RetryGone: there is no such letter (any more).
	RetryGone RetryOutcome = "gone"
	// RetryResolved: the mirror was synced since, so that the letter is gone.
	RetryResolved RetryOutcome = "resolved"
)

// Left reports whether something is left to be done by a person.
func (o RetryOutcome) Left() bool {
	return o == RetryUnreadable || o == RetryForeign || o == RetryGone
}

// DeadRetry is what became of one letter.
type DeadRetry struct {
	ID      string       `json:"id"`
	Outcome RetryOutcome `json:"outcome"`
	Detail  string       `json:"detail"`
}

// MaxRetries is how many letters one call of RetryDead takes.
const MaxRetries = 200

// RetryDead tries letters again, each as far as this process can: targets are
// marked as live work, since somebody waits for them, and bodies are read anew.
// Any number of processes may do so at once, and a crash at any point leaves
// either the letter or what was to be done for it in place: a letter is only ever
// removed after its event is durable.
func (p *Parts) RetryDead(ctx context.Context, ids []string) ([]DeadRetry, error) {
	if len(ids) > MaxRetries {
		return nil, fmt.Errorf("%d dead letters at once, at most %d", len(ids), MaxRetries)
	}
	results := make([]DeadRetry, 0, len(ids))
	var targets []mirror.Target
	for _, id := range ids {
		d, err := p.Store.DeadLetter(ctx, id)
		switch {
		case errors.Is(err, mirror.ErrNotFound):
			results = append(results, DeadRetry{id, RetryGone, "there is no such dead letter"})
		case err != nil:
			return nil, err
		case d.Target.Scope != "":
			targets = append(targets, d.Target)
			results = append(results, DeadRetry{id, RetryMarked, string(d.Target.Scope) + " of " + d.Target.ID})
		default:
			r, err := p.retryBody(ctx, d)
			if err != nil {
				return nil, err
			}
			results = append(results, r)
		}
	}
	// Without refs the sync is a thorough one, and nobody knows the events' times.
	if err := p.marks.MarkTargets(ctx, targets, nil); err != nil {
		return nil, err
	}
	return results, nil
}

// retryBody reads a body that could not be read once, and does what the receiver
// would have done: record, then mark; only then the letter goes.
func (p *Parts) retryBody(ctx context.Context, d mirror.DeadLetter) (DeadRetry, error) {
	e, err := mirror.DecodeEvent(d.Payload)
	if e.Account == "" {
		e.Account = d.Target.Account // of an event that was found in an account's list
	}
	result := DeadRetry{d.ID, RetryNothing, "event " + e.ID + " moves no credit"}
	switch {
	case errors.Is(err, mirror.ErrThinEvent):
		result.Detail = "a v2 event, which moves no credit"
		return result, p.dropRetried(ctx, d.ID)
	case err != nil:
		return DeadRetry{d.ID, RetryUnreadable, "this version cannot read it either: " + err.Error()}, nil //nolint:nilerr // the letter's own fault, reported in the result
	}
	if takes := takesMode(p.Config.Mode()); takes != nil && !takes(e.Livemode) {
		return DeadRetry{d.ID, RetryForeign, "event " + e.ID + " is of the other mode than " + string(config.VarStripeAPIKey)}, nil
	}
	if e.Account != "" && !accountFilter(p.Config.StripeAccounts).takes(e.Account) {
		return DeadRetry{d.ID, RetryForeign, fmt.Sprintf("event %s is of %s, which %s does not name", e.ID, e.Account, config.VarStripeAccounts)}, nil
	}
	e.Ledgers = p.ledgers()
	targets := e.Targets()
	if len(targets) > 0 {
		// Recorded even where the inbox is off: the letter was durable in the mirror's
		// database, and what replaces it has to be too.
		receipts, err := p.Store.RecordEvents(ctx, []mirror.Event{e})
		if err != nil {
			return result, err
		}
		if receipts[0] == mirror.ReceiptApplied {
			result.Detail = "event " + e.ID + " was answered already"
		} else {
			markings := make([]webhook.Marking, len(targets))
			for i, t := range targets {
				markings[i] = webhook.Marking{Target: t, Event: e.Ref()}
			}
			if _, err := p.marks.Mark(ctx, markings); err != nil {
				return result, err
			}
			result.Outcome, result.Detail = RetryTaken, e.Type+" "+e.ID
		}
	}
	return result, p.dropRetried(ctx, d.ID)
}

// dropRetried removes a letter that has been dealt with, if nobody else did.
func (p *Parts) dropRetried(ctx context.Context, id string) error {
	if err := p.Store.DropDeadLetter(ctx, id); !errors.Is(err, mirror.ErrNotFound) {
		return err
	}
	return nil
}

// DeadRetryPath is where the ops listener takes a RetryRequest by POST.
const DeadRetryPath = "/dead/retry"

// RetryRequest is the body of a POST to DeadRetryPath.
type RetryRequest struct {
	IDs []string `json:"ids"`
}

// RetryReply is the answer to it.
type RetryReply struct {
	Results []DeadRetry `json:"results"`
}

// retryDead lets the command line reach the queue that is embedded in this process.
func (a *App) retryDead(w http.ResponseWriter, r *http.Request) {
	refuse := func(code int, why string) { writeJSON(w, code, map[string]string{"error": why}) }
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		refuse(http.StatusUnsupportedMediaType, "want Content-Type: application/json")
		return
	}
	var ask RetryRequest
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&ask); err != nil || len(ask.IDs) == 0 || len(ask.IDs) > MaxRetries {
		refuse(http.StatusBadRequest, fmt.Sprintf(`want {"ids": ["dead_…"]} with 1 to %d ids`, MaxRetries))
		return
	}
	if a.stopping.Load() {
		refuse(http.StatusServiceUnavailable, "the process is stopping")
		return
	}
	results, err := a.parts.RetryDead(r.Context(), ask.IDs)
	if err != nil {
		a.log.Warn("could not retry dead letters", zap.Error(err))
		refuse(http.StatusServiceUnavailable, err.Error())
		return
	}
	for _, d := range results {
		a.log.Info("dead letter retried", zap.String("dead_letter_id", d.ID), zap.String("outcome", string(d.Outcome)))
	}
	writeJSON(w, http.StatusOK, RetryReply{Results: results})
}

// fromHere passes only requests that come from this machine and were not made by
// a page in somebody's browser: the ops listener has no keys, and may be bound to
// an address that others reach for its metrics.
func fromHere(h http.HandlerFunc) http.Handler {
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !sameMachine(r) || !doors.NamesAddress(r.Host) || doors.ThroughProxy(r.Header) {
			writeJSON(w, http.StatusForbidden, map[string]string{"error": "only from this machine"})
			return
		}
		h(w, r)
	}))
}

// sameMachine reports whether both ends of the connection are here.
func sameMachine(r *http.Request) bool {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	if remote.Addr().Unmap().IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	here, err := netip.ParseAddrPort(local.String())
	return err == nil && here.Addr().Unmap() == remote.Addr().Unmap()
}
