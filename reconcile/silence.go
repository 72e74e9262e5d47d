package reconcile

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/mirror"
)

// Endpoint is a webhook endpoint as Stripe has them: one for the account's own
// events, another for those of connected accounts.
type Endpoint string

// The endpoints.
const (
	EndpointAccount Endpoint = "account"
	EndpointConnect Endpoint = "connect"
)

// Endpoints lists them.
func Endpoints() []Endpoint { return []Endpoint{EndpointAccount, EndpointConnect} }

// EndpointOf returns the endpoint that delivers an account's events.
func EndpointOf(account string) Endpoint {
	if account == "" {
		return EndpointAccount
	}
	return EndpointConnect
}

// What the replicas know of webhooks together is kept in the table of the
// sweeps, under names of its own: it must outlive Redis, and be the same whether
// the inbox is on or off. Receivers write the first two, the replica with the
// lease the third:
//
//	webhook_receivers      started_at: when a receiver last said that it runs;
//	                       state: see receivers
//	webhook_<endpoint>     last_success: when an event last arrived, by our clock;
//	                       watermark: created of the newest that did, by Stripe's
//	webhook_<endpoint>_silence  state: see silence
const (
	webhookRows     = "webhook_"
	rowReceivers    = webhookRows + "receivers"
	suffixSilence   = "_silence"
	receiversKnown  = 7 * 24 * time.Hour // a receiver not heard of for longer was given up
	silentGrace     = 5 * time.Minute    // Stripe tries at once; this is for deployments and slow minutes
	receiverStart   = time.Minute        // until a receiver that starts with us can be reached
	silenceReminder = time.Hour
)

// IsWebhookRow reports whether a row of the sweeps' table is about webhooks.
func IsWebhookRow(name string) bool { return strings.HasPrefix(name, webhookRows) }

// NoteArrival says that a webhook of an event brought by the endpoint has
// arrived at a time. created is zero where the event could not be read.
func NoteArrival(ctx context.Context, store Checkpoints, endpoint Endpoint, at, created time.Time) error {
	row, err := store.Sweep(ctx, "", webhookRows+string(endpoint))
	if err != nil {
		return err
	}
	// Another replica may have written a later one. Two that do so at the same
	// moment differ by seconds.
	if at.After(row.LastSuccess) {
		row.LastSuccess = at
	}
	if created.After(row.Watermark) {
		row.Watermark = created
	}
	return store.SaveSweep(ctx, row)
}

// silence is what is known of an endpoint that brings nothing.
type silence struct {
	// Since is when the first event was seen that no webhook had brought, by our
	// clock; zero: there is none. No webhook has arrived since.
	Since time.Time `json:"since"`
	// First and Newest are created of such events, by Stripe's clock.
	First  time.Time `json:"first"`
	Newest time.Time `json:"newest"`
	Events int       `json:"events"`
	// Silent: it has lasted for longer than the grace.
	Silent bool `json:"silent"`
}

// arrived reports whether a webhook came after all.
func (s silence) arrived(arrivals mirror.Sweep) bool {
	return !arrivals.LastSuccess.Before(s.Since) || !arrivals.Watermark.Before(s.First)
}

// unbrought adds events to what is known; those that were known already are seen
// again where nothing is repaired.
func (s silence) unbrought(events []mirror.Event, now time.Time) silence {
	newest := s.Newest
	for _, e := range events {
		if s.Since.IsZero() {
			s.Since, s.First = now, e.Created
		}
		if e.Created.Before(s.First) {
			s.First = e.Created
		}
		if e.Created.After(newest) {
			s.Events++
		}
		if e.Created.After(s.Newest) {
			s.Newest = e.Created
		}
	}
	return s
}

// WebhookState is what the replicas know of one endpoint together.
type WebhookState struct {
	Endpoint Endpoint
	// LastArrival is when one of its events last arrived; zero: never.
	LastArrival time.Time
	// Silent means that Stripe has had events that it did not bring, since
	// SilentSince, and that none has arrived.
	Silent      bool
	SilentSince time.Time
	Events      int
}

// WebhookStates reads them.
func WebhookStates(ctx context.Context, store Checkpoints) ([]WebhookState, error) {
	list := make([]WebhookState, 0, len(Endpoints()))
	for _, endpoint := range Endpoints() {
		arrivals, s, err := readSilence(ctx, store, endpoint)
		if err != nil {
			return nil, err
		}
		state := WebhookState{Endpoint: endpoint, LastArrival: arrivals.LastSuccess}
		if s.Silent && !s.arrived(arrivals) { // the replica with the lease has not looked yet
			state.Silent, state.SilentSince, state.Events = true, s.Since, s.Events
		}
		list = append(list, state)
	}
	return list, nil
}

func readSilence(ctx context.Context, store Checkpoints, endpoint Endpoint) (arrivals mirror.Sweep, s silence, err error) {
	name := webhookRows + string(endpoint)
	if arrivals, err = store.Sweep(ctx, "", name); err != nil {
		return arrivals, s, err
	}
	row, err := store.Sweep(ctx, "", name+suffixSilence)
	if err == nil && len(row.State) > 0 && json.Unmarshal(row.State, &s) != nil {
		s = silence{} // another version's: it will be found again
	}
	return arrivals, s, err
}

// silenceWatch notices endpoints that bring nothing while Stripe has events. It
// lives as long as a lease: what happened before, while perhaps nobody listened,
// is no proof against an endpoint.
type silenceWatch struct {
	store Checkpoints
	// configured means that this process has a webhook secret.
	configured bool
	began      time.Time
	told       map[Endpoint]time.Time // when it was last warned of
	judged     map[Endpoint]bool
	log        *zap.Logger
}

func newSilenceWatch(store Checkpoints, configured bool, began time.Time, log *zap.Logger) *silenceWatch {
	return &silenceWatch{store: store, configured: configured, began: began, told: map[Endpoint]time.Time{}, judged: map[Endpoint]bool{}, log: log}
}

// judge takes the events that a pass found unbrought, by endpoint, and decides.
func (w *silenceWatch) judge(ctx context.Context, unbrought map[Endpoint][]mirror.Event, now time.Time) error {
	configured := w.configured
	if !configured {
		receivers, err := w.store.Sweep(ctx, "", rowReceivers)
		if err != nil {
			return err
		}
		configured = !receivers.StartedAt.IsZero() && now.Sub(receivers.StartedAt) < receiversKnown
	}
	for _, endpoint := range Endpoints() {
		if err := w.judgeOne(ctx, endpoint, unbrought[endpoint], configured, now); err != nil {
			return err
		}
	}
	return nil
}

func (w *silenceWatch) judgeOne(ctx context.Context, endpoint Endpoint, unbrought []mirror.Event, configured bool, now time.Time) error {
	arrivals, before, err := readSilence(ctx, w.store, endpoint)
	if err != nil {
		return err
	}
	s := before
	if !w.judged[endpoint] && !s.Silent {
		s = silence{} // patience begins anew: nobody may have listened meanwhile
	}
	switch {
	case !configured:
		s = silence{}
	case !s.Since.IsZero() && s.arrived(arrivals):
		if s.Silent {
			w.log.Info("webhooks arrive again", zap.String("endpoint", string(endpoint)))
		}
		s = silence{}
	}
	if configured {
		var proof []mirror.Event
		for _, e := range unbrought {
			if !e.Created.Before(w.began.Add(receiverStart)) && e.Created.After(arrivals.Watermark) {
				proof = append(proof, e)
			}
		}
		s = s.unbrought(proof, now)
	}
	s.Silent = s.Silent || !s.Since.IsZero() && now.Sub(s.Since) >= silentGrace
	if s.Silent && (w.told[endpoint].IsZero() || now.Sub(w.told[endpoint]) >= silenceReminder) {
		w.told[endpoint] = now
		w.log.Warn("stripe has events that no webhook delivered; check the endpoint, its URL and its secret",
			zap.String("endpoint", string(endpoint)), zap.Int("events", s.Events), zap.Time("since", s.Since),
			zap.Time("last_arrival", arrivals.LastSuccess))
	}
	if !s.Silent {
		delete(w.told, endpoint)
	}
	w.judged[endpoint] = true
	if s == before {
		return nil
	}
	row := mirror.Sweep{Name: webhookRows + string(endpoint) + suffixSilence}
	if row.State, err = json.Marshal(s); err != nil {
		return err
	}
	return w.store.SaveSweep(ctx, row)
}
