// Package endpoint registers creditmirror's webhook endpoint at Stripe, reports
// whether it is as it should be, and exchanges its secret without losing an event.
package endpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// Endpoint is a webhook endpoint as Stripe shows it.
type Endpoint = stripeapi.WebhookEndpoint

// metadataKey marks the endpoints that creditmirror made; its value says for
// whose events, which Stripe's object does not say.
const metadataKey = "creditmirror"

// Values of metadataKey.
const (
	forPlatform = "platform"
	forConnect  = "connect"
)

// firstCreditVersion is the first API version whose endpoints get events of
// billing credits; older pins stay without them, silently.
const firstCreditVersion = "2025-03-31"

// clockEvent exists in test mode only.
const clockEvent = "test_helpers.test_clock.ready"

// stripe is what is used of Stripe's client.
type stripe interface {
	WebhookEndpoints(ctx context.Context, account, after string, limit int) (stripeapi.WebhookEndpointsPage, error)
	CreateWebhookEndpoint(ctx context.Context, account string, n stripeapi.NewWebhookEndpoint) (stripeapi.WebhookEndpoint, string, error)
	UpdateWebhookEndpoint(ctx context.Context, account, id string, c stripeapi.WebhookEndpointChange) (stripeapi.WebhookEndpoint, error)
	DeleteWebhookEndpoint(ctx context.Context, account, id string) error
	EventsPage(ctx context.Context, account string, q stripeapi.EventsQuery) (stripeapi.EventsPage, error)
	EventDestinations(ctx context.Context, account, page string) (rows []stripeapi.WebhookEndpoint, next string, err error)
	CreateEventDestination(ctx context.Context, account string, n stripeapi.NewWebhookEndpoint) (stripeapi.WebhookEndpoint, string, error)
	UpdateEventDestination(ctx context.Context, account, id string, c stripeapi.WebhookEndpointChange) (stripeapi.WebhookEndpoint, error)
	DeleteEventDestination(ctx context.Context, account, id string) error
}

// Wanted describes the endpoint that there should be.
type Wanted struct {
	URL string
	// Account is the connected account whose own endpoint it is; empty: the platform's.
	Account string
	// Connect asks for the events of all connected accounts.
	Connect bool
	// Thin asks for an event destination of thin events instead of a webhook endpoint.
	Thin bool
	// Version of the API that events are rendered in; thin ones have none.
	Version  string
	Livemode bool
}

// Types are the events that the mirror needs, no more.
func (w Wanted) Types() []string {
	types := mirror.EventTypes()
	if w.Thin {
		types = mirror.ThinTypes()
	}
	if w.Livemode {
		types = slices.DeleteFunc(types, func(t string) bool { return strings.HasSuffix(t, clockEvent) })
	}
	return types
}

// other is the same endpoint of the other kind.
func (w Wanted) other() Wanted {
	w.Thin = !w.Thin
	return w
}

// kind names what w is, for people.
func (w Wanted) kind() string {
	if w.Thin {
		return "event destination"
	}
	return "webhook endpoint"
}

func (w Wanted) purpose() string {
	if w.Connect {
		return forConnect
	}
	return forPlatform
}

// matches reports whether an endpoint is the one meant. Of one that somebody else
// made it is not known whether it is for connected accounts.
func (w Wanted) matches(e stripeapi.WebhookEndpoint) bool {
	made, ours := e.Metadata[metadataKey]
	return e.URL == w.URL && e.Thin == w.Thin && (!ours && !w.Connect || made == w.purpose())
}

func (w Wanted) missing(e stripeapi.WebhookEndpoint) (types []string) {
	if slices.Contains(e.EnabledEvents, "*") {
		return nil
	}
	for _, t := range w.Types() {
		if !slices.Contains(e.EnabledEvents, t) {
			types = append(types, t)
		}
	}
	return types
}

// Service works on the endpoints of one key.
type Service struct {
	stripe stripe
	now    func() time.Time
}

// New returns a Service.
func New(client *stripeapi.Client) *Service { return &Service{stripe: client, now: time.Now} }

// List returns all endpoints of an account, newest first, and Stripe's clock; with
// thin, its event destinations, of which Stripe's clock is not known.
func (s *Service) List(ctx context.Context, account string, thin bool) (all []Endpoint, clock time.Time, err error) {
	for page := ""; thin; {
		rows, next, err := s.stripe.EventDestinations(ctx, account, page)
		if err != nil {
			return nil, time.Time{}, err
		}
		all = append(all, rows...)
		if page = next; page == "" {
			slices.SortStableFunc(all, func(a, b Endpoint) int { return b.Created.Compare(a.Created) })
			return all, time.Time{}, nil
		}
	}
	for after := ""; ; after = all[len(all)-1].ID {
		page, err := s.stripe.WebhookEndpoints(ctx, account, after, 0)
		if err != nil {
			return nil, time.Time{}, err
		}
		all = append(all, page.Rows...)
		if clock.IsZero() {
			clock = page.Clock
		}
		if !page.HasMore || len(page.Rows) == 0 {
			return all, clock, nil
		}
	}
}

// find lists the endpoints that w means, newest first.
func (s *Service) find(ctx context.Context, w Wanted) ([]Endpoint, error) {
	all, _, err := s.List(ctx, w.Account, w.Thin)
	return slices.DeleteFunc(all, func(e Endpoint) bool { return !w.matches(e) }), err
}

// Keep stores a signing secret, which Stripe shows only once. When it fails the
// endpoint is taken back.
type Keep func(secret string) error

// Outcome of Create.
type Outcome struct {
	Endpoint Endpoint
	// Created is false where the endpoint was there before; its secret is not shown.
	Created bool
	// Added are event types that it lacked, Removed those of ours that are not needed
	// any more; Enabled says that it had been disabled.
	Added, Removed []string
	Enabled        bool
}

// Create makes the endpoint, or mends the one that is there. Doing it twice does
// nothing more.
func (s *Service) Create(ctx context.Context, w Wanted, keep Keep) (Outcome, error) {
	found, err := s.find(ctx, w)
	if err != nil {
		return Outcome{}, err
	}
	if len(found) == 0 {
		e, err := s.make(ctx, w, keep)
		return Outcome{Endpoint: e, Created: true}, err
	}
	o := Outcome{Endpoint: found[0]}
	e := found[0]
	var change stripeapi.WebhookEndpointChange
	o.Added = w.missing(e)
	types := append(slices.Clone(e.EnabledEvents), o.Added...)
	// Types that somebody added by hand are taken away only from our own endpoint.
	if _, ours := e.Metadata[metadataKey]; ours && !slices.Contains(types, "*") {
		o.Removed = slices.DeleteFunc(slices.Clone(types), func(t string) bool { return slices.Contains(w.Types(), t) })
		types = w.Types()
	}
	if len(o.Added)+len(o.Removed) > 0 {
		change.EnabledEvents = types
	}
	if e.Status != "enabled" {
		no := false
		change.Disabled, o.Enabled = &no, true
	}
	if change.EnabledEvents == nil && change.Disabled == nil {
		return o, nil
	}
	if w.Thin {
		o.Endpoint, err = s.stripe.UpdateEventDestination(ctx, w.Account, e.ID, change)
	} else {
		o.Endpoint, err = s.stripe.UpdateWebhookEndpoint(ctx, w.Account, e.ID, change)
	}
	return o, err
}

// make creates an endpoint and has its secret kept.
func (s *Service) make(ctx context.Context, w Wanted, keep Keep) (Endpoint, error) {
	create := s.stripe.CreateWebhookEndpoint
	if w.Thin {
		create = s.stripe.CreateEventDestination
	}
	e, secret, err := create(ctx, w.Account, stripeapi.NewWebhookEndpoint{
		URL: w.URL, EnabledEvents: w.Types(), APIVersion: w.Version, Description: "creditmirror", Connect: w.Connect,
		Metadata: map[string]string{metadataKey: w.purpose()},
	})
	if err != nil {
		return e, err
	}
	if err := keep(secret); err != nil {
		// Nobody will ever know its secret: every delivery would be refused.
		return e, errors.Join(fmt.Errorf("the secret of %s could not be kept, so it is deleted again: %w", e.ID, err),
			s.drop(context.WithoutCancel(ctx), w.Account, e))
	}
	return e, nil
}

// drop deletes an endpoint of either kind.
func (s *Service) drop(ctx context.Context, account string, e Endpoint) error {
	if e.Thin {
		return s.stripe.DeleteEventDestination(ctx, account, e.ID)
	}
	return s.stripe.DeleteWebhookEndpoint(ctx, account, e.ID)
}

// DestinationPrefix begins the ids of event destinations.
const DestinationPrefix = "ed_"

// Delete deletes an endpoint or event destination of the account and returns what it
// was.
func (s *Service) Delete(ctx context.Context, account, id string) (Endpoint, error) {
	all, _, err := s.List(ctx, account, strings.HasPrefix(id, DestinationPrefix))
	if err != nil {
		return Endpoint{}, err
	}
	i := slices.IndexFunc(all, func(e Endpoint) bool { return e.ID == id })
	if i < 0 {
		return Endpoint{}, fmt.Errorf("there is no endpoint %s; see endpoint list", id)
	}
	if strings.HasPrefix(id, DestinationPrefix) && !all[i].Thin {
		return Endpoint{}, fmt.Errorf("%s delivers snapshot events, and is none of ours", id)
	}
	return all[i], s.drop(ctx, account, all[i])
}

// Finding is one line of a check.
type Finding struct {
	// Problem is false for what is well or only worth knowing.
	Problem bool   `json:"problem"`
	About   string `json:"about"`
	Text    string `json:"text"`
}

// Bounds of Check.
const (
	lookBack    = 24 * time.Hour
	settleTime  = 2 * time.Minute // Stripe needs some time for a delivery
	skewWarning = time.Minute
)

// Check compares what there is with what should be.
func (s *Service) Check(ctx context.Context, w Wanted) ([]Finding, error) {
	var list []Finding
	add := func(problem bool, about, format string, args ...any) {
		list = append(list, Finding{problem, about, fmt.Sprintf(format, args...)})
	}
	began := s.now()
	all, clock, err := s.List(ctx, w.Account, w.Thin)
	if err != nil {
		return nil, err
	}
	if !clock.IsZero() {
		// The date has whole seconds and was written while we waited.
		skew := began.Add(s.now().Sub(began) / 2).Sub(clock).Round(time.Second)
		add(skew.Abs() > skewWarning, "clock", "this host is %v ahead of Stripe; signatures are refused from 5m on", skew)
	}
	found := slices.DeleteFunc(slices.Clone(all), func(e Endpoint) bool { return !w.matches(e) })
	if len(found) == 0 {
		add(true, "endpoint", "no %s has the URL %s; make one with endpoint create%s", w.kind(), w.URL, map[bool]string{true: " --thin"}[w.Thin])
		return list, nil
	}
	if len(found) > 1 {
		add(false, "endpoint", "%d have this URL: a rotation is under way, or should be finished with endpoint rotate --finish", len(found))
	}
	for _, e := range found {
		add(e.Status != "enabled", "status", "%s is %s", e.ID, e.Status)
		if missing := w.missing(e); len(missing) > 0 {
			add(true, "events", "%s lacks %s; endpoint create adds them", e.ID, strings.Join(missing, ", "))
		} else {
			add(false, "events", "%s has every type that is needed", e.ID)
		}
		switch {
		case w.Thin: // thin events have no version
		case e.APIVersion != "" && e.APIVersion < firstCreditVersion:
			add(true, "version", "%s is pinned to %s, which has no events of billing credits; endpoint rotate makes one of %s", e.ID, e.APIVersion, w.Version)
		case e.APIVersion != w.Version:
			add(false, "version", "%s is pinned to %q, reads are to %s; harmless, since only ids are taken from events", e.ID, e.APIVersion, w.Version)
		default:
			add(false, "version", "%s is pinned to %s, as reads are", e.ID, w.Version)
		}
	}
	if err := s.both(ctx, w, add); err != nil {
		return list, err
	}
	if w.Thin {
		add(false, "deliveries", "Stripe does not report which thin events were not delivered; the events sweep finds their changes")
		return list, nil
	}
	u, err := s.undelivered(ctx, w, s.now().Add(-lookBack))
	if err != nil {
		return list, err
	}
	others := 0
	for _, e := range all {
		if !w.matches(e) && e.Status == "enabled" {
			others++
		}
	}
	text := "every event of the last 24 h was delivered"
	if u.count > 0 {
		text = fmt.Sprintf("%s of the last 24 h not delivered, the oldest at %s", u, u.oldest.UTC().Format(time.RFC3339))
		if others > 0 {
			text += fmt.Sprintf("; %d other endpoints take part, so it may be one of them", others)
		}
	}
	add(u.count > 0 && others == 0, "deliveries", "%s", text)
	return list, nil
}

// both reports whether the other kind of endpoint delivers the same events.
func (s *Service) both(ctx context.Context, w Wanted, add func(problem bool, about, format string, args ...any)) error {
	others, err := s.find(ctx, w.other())
	switch {
	case errors.Is(err, stripeapi.ErrNotFound), errors.Is(err, stripeapi.ErrForbidden), errors.Is(err, stripeapi.ErrRefused):
		add(false, "both", "could not find out whether a %s delivers the same events: %v", w.other().kind(), err)
		return nil
	case err != nil:
		return err
	}
	for _, e := range others {
		if e.Status == "enabled" {
			add(false, "both", "%s, a %s, delivers the same events to this URL: each is taken once, but comes twice; delete one of the two", e.ID, w.other().kind())
		}
	}
	return nil
}

// undelivered counts events of our types, the first page of them.
type undelivered struct {
	count  int
	more   bool
	oldest time.Time
}

func (u undelivered) String() string {
	if u.more {
		return fmt.Sprintf("at least %d events", u.count)
	}
	return fmt.Sprintf("%d events", u.count)
}

func (s *Service) undelivered(ctx context.Context, w Wanted, since time.Time) (undelivered, error) {
	// Younger ones may be on their way. Stripe leaves them out, not we: where much happens
	// they would fill the page, and hide those behind them.
	page, err := s.stripe.EventsPage(ctx, w.Account, stripeapi.EventsQuery{
		Types: w.Types(), CreatedGTE: since, CreatedLT: s.now().Add(-settleTime), Undelivered: true,
	})
	if err != nil {
		return undelivered{}, err
	}
	u := undelivered{count: len(page.Events) + len(page.Unreadable), more: page.HasMore}
	if n := len(page.Events); n > 0 {
		u.oldest = page.Events[n-1].Created
	}
	return u, nil
}

// ErrUnderWay says that two endpoints share the URL already.
var ErrUnderWay = errors.New("a rotation is under way")

// Rotate makes a second endpoint of the same URL, whose secret is new. Both
// deliver every event, and the receiver takes each once, by either secret: nothing
// is lost whenever it learns of the new one. FinishRotation deletes the old one.
func (s *Service) Rotate(ctx context.Context, w Wanted, keep Keep) (Endpoint, error) {
	found, err := s.find(ctx, w)
	switch {
	case err != nil:
		return Endpoint{}, err
	case len(found) == 0:
		return Endpoint{}, fmt.Errorf("no %s has the URL %s; make one with endpoint create", w.kind(), w.URL)
	case len(found) > 1:
		return Endpoint{}, fmt.Errorf("%w: %d endpoints have the URL; end it with --finish", ErrUnderWay, len(found))
	}
	return s.make(ctx, w, keep)
}

// rotationLook is how long Stripe tries a delivery again.
const rotationLook = 72 * time.Hour

// FinishRotation deletes all but the newest endpoint, once that one is proven to
// work: since it was made, some event was delivered to every endpoint, and none of
// the last three days waits. With force it does so unproven; of thin events nothing is
// ever proven.
func (s *Service) FinishRotation(ctx context.Context, w Wanted, force bool) (kept Endpoint, gone []Endpoint, err error) {
	found, err := s.find(ctx, w)
	if err != nil {
		return kept, nil, err
	}
	if len(found) < 2 {
		return kept, nil, errors.New("no rotation is under way: begin one with endpoint rotate")
	}
	kept = found[0]
	if kept.Created.Equal(found[1].Created) {
		// Stripe defines no order within a second, and the wrong one would be deleted.
		return Endpoint{}, nil, fmt.Errorf("%s and %s were created in the same second, so which is newer is unknown: delete the older by its id", kept.ID, found[1].ID)
	}
	if !force {
		if err := s.proven(ctx, w, kept); err != nil {
			return kept, nil, err
		}
	}
	for _, e := range found[1:] {
		if err := s.drop(ctx, w.Account, e); err != nil {
			return kept, gone, err
		}
		gone = append(gone, e)
	}
	return kept, gone, nil
}

func (s *Service) proven(ctx context.Context, w Wanted, e Endpoint) error {
	if w.Thin {
		return errors.New("nothing proves that the receivers accept the new secret, since Stripe does not report which thin events were delivered: " +
			"see that creditmirror_webhook_requests_total counts no wrong_signature, and use --force (the events sweep finds what is lost)")
	}
	since := s.now().Add(-rotationLook)
	if e.Created.Before(since) {
		since = e.Created
	}
	// Here even an event that is merely on its way counts: it may be on its way with
	// a secret that nobody accepts.
	page, err := s.stripe.EventsPage(ctx, w.Account, stripeapi.EventsQuery{Types: w.Types(), CreatedGTE: since, Undelivered: true})
	if err != nil {
		return err
	}
	if n := len(page.Events); n > 0 {
		return fmt.Errorf("%d events or more are not delivered to every endpoint yet, the newest of %s: let the receivers take the new secret, "+
			"wait for Stripe to try again, or use --force (the events sweep finds what is lost)", n, page.Events[0].Created.UTC().Format(time.RFC3339))
	}
	page, err = s.stripe.EventsPage(ctx, w.Account, stripeapi.EventsQuery{Types: w.Types(), CreatedGTE: e.Created.Add(time.Second), Limit: 1})
	if err != nil {
		return err
	}
	if len(page.Events) == 0 {
		return fmt.Errorf("no event was made since %s, so that nothing proves that the receivers take the new secret: wait for one, or use --force",
			e.Created.UTC().Format(time.RFC3339))
	}
	return nil
}
