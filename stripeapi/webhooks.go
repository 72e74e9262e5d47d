package stripeapi

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/stripe/stripe-go/v79/form"
)

// WebhookEndpoint is where Stripe sends events to. Its signing secret is shown
// only once, by CreateWebhookEndpoint, and is not part of it.
type WebhookEndpoint struct {
	ID            string
	URL           string
	APIVersion    string // empty: the account's default
	Description   string
	Status        string // enabled or disabled
	EnabledEvents []string
	Metadata      map[string]string
	Created       time.Time
	Livemode      bool
	// Thin stands for an event destination of the v2 API that delivers thin events.
	Thin bool
}

// WebhookEndpointsPage is a page of webhook endpoints, newest first.
type WebhookEndpointsPage struct {
	Rows    []WebhookEndpoint
	HasMore bool
	// Clock is Stripe's own, in whole seconds, when it answered; zero where the
	// reply has no date.
	Clock time.Time
}

// NewWebhookEndpoint describes an endpoint to be made.
type NewWebhookEndpoint struct {
	URL           string
	EnabledEvents []string
	// APIVersion that events are rendered in; empty: the account's default.
	APIVersion  string
	Description string
	// Connect asks for the events of connected accounts instead of the platform's.
	Connect  bool
	Metadata map[string]string
}

// WebhookEndpointChange describes what to change; zero values change nothing.
type WebhookEndpointChange struct {
	URL           string
	EnabledEvents []string
	Disabled      *bool
	Description   *string
	Metadata      map[string]string
}

const webhookPath = "/v1/webhook_endpoints"

// CreateWebhookEndpoint creates an endpoint and returns its signing secret, which
// Stripe never shows again. It carries an Idempotency-Key of its own.
func (c *Client) CreateWebhookEndpoint(ctx context.Context, account string, n NewWebhookEndpoint) (endpoint WebhookEndpoint, secret string, err error) {
	v := url.Values{"url": {n.URL}, "enabled_events[]": n.EnabledEvents}
	setText(v, "api_version", n.APIVersion)
	setText(v, "description", n.Description)
	if n.Connect {
		v.Set("connect", "true")
	}
	setMetadata(v, n.Metadata)
	r := request{endpoint: EndpointWebhookEndpointsCreate, path: webhookPath, account: account}
	endpoint, _, err = write(ctx, c, r, v, "", func(body []byte) (WebhookEndpoint, error) {
		r, err := decodeOne(body)
		if err != nil {
			return WebhookEndpoint{}, err
		}
		if secret = r.text("secret"); r.err == nil && secret == "" {
			r.fail("secret", "is empty")
		}
		return decodeWebhookEndpoint(r)
	})
	if err != nil {
		return WebhookEndpoint{}, "", err
	}
	return endpoint, secret, nil
}

// UpdateWebhookEndpoint changes an endpoint.
func (c *Client) UpdateWebhookEndpoint(ctx context.Context, account, id string, ch WebhookEndpointChange) (WebhookEndpoint, error) {
	const endpoint = EndpointWebhookEndpointsUpdate
	if err := checkIDs(endpoint, "webhook_endpoint", id); err != nil {
		return WebhookEndpoint{}, err
	}
	v := url.Values{}
	setText(v, "url", ch.URL)
	if len(ch.EnabledEvents) > 0 {
		v["enabled_events[]"] = ch.EnabledEvents
	}
	if ch.Disabled != nil {
		v.Set("disabled", strconv.FormatBool(*ch.Disabled))
	}
	if ch.Description != nil {
		v.Set("description", *ch.Description)
	}
	setMetadata(v, ch.Metadata)
	r := request{endpoint: endpoint, path: webhookPath + "/" + id, account: account}
	we, _, err := write(ctx, c, r, v, "", func(body []byte) (WebhookEndpoint, error) {
		r, err := decodeOne(body)
		if err != nil {
			return WebhookEndpoint{}, err
		}
		if r.id != id {
			return WebhookEndpoint{}, fmt.Errorf("id is %.60q, asked was %q", r.id, id)
		}
		return decodeWebhookEndpoint(r)
	})
	return we, err
}

// DeleteWebhookEndpoint deletes an endpoint; ErrNotFound when there is none. It
// is retried: a second deletion finds nothing, and that counts as done.
func (c *Client) DeleteWebhookEndpoint(ctx context.Context, account, id string) error {
	const endpoint = EndpointWebhookEndpointsDelete
	if err := checkIDs(endpoint, "webhook_endpoint", id); err != nil {
		return err
	}
	reply, err := c.call(ctx, request{
		endpoint: endpoint, method: http.MethodDelete, path: webhookPath + "/" + id,
		account: account, values: &form.Values{}, idempotencyKey: "creditmirror-" + rand.Text(),
	})
	if err != nil || reply.Status == http.StatusNotFound {
		return err
	}
	r, err := decodeOne(reply.Body)
	if err == nil {
		r.word("object", "webhook_endpoint")
		if deleted := r.boolean("deleted"); r.err == nil && (!deleted || r.id != id) {
			r.err = errors.New("not the deletion that was asked for")
		}
		err = r.err
	}
	if err != nil {
		return c.garbled(endpoint, reply, err)
	}
	return nil
}

// WebhookEndpoints lists endpoints older than the endpoint after (empty: the
// newest). Limit is 1 to 100; 0 means 100.
func (c *Client) WebhookEndpoints(ctx context.Context, account, after string, limit int) (WebhookEndpointsPage, error) {
	const endpoint = EndpointWebhookEndpointsList
	if err := checkIDs(endpoint, "starting_after?", after); err != nil {
		return WebhookEndpointsPage{}, err
	}
	v, err := pageValues(endpoint, after, limit)
	if err != nil {
		return WebhookEndpointsPage{}, err
	}
	r := request{endpoint: endpoint, path: webhookPath, account: account, values: v}
	return readReply(ctx, c, r, func(reply Reply) (WebhookEndpointsPage, error) {
		l, err := decodeList(reply.Body, after)
		if err != nil {
			return WebhookEndpointsPage{}, err
		}
		rows, err := decodeRows(l, decodeWebhookEndpoint)
		clock, _ := http.ParseTime(reply.Header.Get("Date")) // zero, as documented
		return WebhookEndpointsPage{Rows: rows, HasMore: l.hasMore, Clock: clock}, err
	})
}

func setText(v url.Values, key, s string) {
	if s != "" {
		v.Set(key, s)
	}
}

func setMetadata(v url.Values, m map[string]string) {
	for k, s := range m {
		v.Set("metadata["+k+"]", s)
	}
}

func decodeWebhookEndpoint(r row) (WebhookEndpoint, error) {
	r.word("object", "webhook_endpoint")
	e := WebhookEndpoint{
		ID:          r.id,
		URL:         r.text("url"),
		APIVersion:  r.optText("api_version"),
		Description: r.optText("description"),
		Status:      r.text("status"),
		Created:     r.time("created"),
		Livemode:    r.boolean("livemode"),
	}
	if raw := r.need("enabled_events"); raw != nil && json.Unmarshal(raw, &e.EnabledEvents) != nil {
		r.fail("enabled_events", "is not a list of names")
	}
	if json.Unmarshal(r.metadata(), &e.Metadata) != nil {
		r.fail("metadata", "is not a map of strings")
	}
	if r.err != nil {
		return WebhookEndpoint{}, r.err
	}
	return e, nil
}
