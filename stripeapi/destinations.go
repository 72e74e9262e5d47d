package stripeapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/stripe/stripe-go/v79"
	"github.com/stripe/stripe-go/v79/form"

	"github.com/creditmirror/creditmirror/mirror"
)

// Event destinations belong to Stripe's v2 API: bodies are JSON, the connected account
// is a context, and lists have their next page's URL. stripe-go v79 knows none of it.

const destinationPath = "/v2/core/event_destinations"

// Where the events of a destination come from.
const (
	fromSelf     = "@self"
	fromAccounts = "@accounts"
)

// destinationJSON is what is read of an event destination.
type destinationJSON struct {
	ID            string            `json:"id"`
	Object        string            `json:"object"`
	Created       string            `json:"created"`
	Description   string            `json:"description"`
	EnabledEvents []string          `json:"enabled_events"`
	Payload       string            `json:"event_payload"`
	Livemode      bool              `json:"livemode"`
	Metadata      map[string]string `json:"metadata"`
	Version       string            `json:"snapshot_api_version"`
	Status        string            `json:"status"`
	Type          string            `json:"type"`
	Endpoint      struct {
		Secret string `json:"signing_secret"`
		URL    string `json:"url"`
	} `json:"webhook_endpoint"`
}

func (d destinationJSON) endpoint() (WebhookEndpoint, error) {
	created, err := time.Parse(time.RFC3339Nano, d.Created)
	switch {
	case d.Object != "v2.core.event_destination":
		return WebhookEndpoint{}, fmt.Errorf("object is %.60q", d.Object)
	case !mirror.ValidID(d.ID):
		return WebhookEndpoint{}, fmt.Errorf("id %.60q is no id", d.ID)
	case err != nil:
		return WebhookEndpoint{}, fmt.Errorf("created %.60q is not a time", d.Created)
	case d.Status == "" || d.Payload == "":
		return WebhookEndpoint{}, errors.New("status or event_payload is missing")
	}
	return WebhookEndpoint{
		ID: d.ID, URL: d.Endpoint.URL, APIVersion: d.Version, Description: d.Description, Status: d.Status,
		EnabledEvents: d.EnabledEvents, Metadata: d.Metadata, Created: created.UTC(), Livemode: d.Livemode, Thin: d.Payload == "thin",
	}, nil
}

func decodeDestination(body []byte, id string) (WebhookEndpoint, string, error) {
	var d destinationJSON
	if err := json.Unmarshal(body, &d); err != nil {
		return WebhookEndpoint{}, "", errors.New("not an event destination")
	}
	e, err := d.endpoint()
	if err == nil && id != "" && e.ID != id {
		err = fmt.Errorf("id is %.60q, asked was %q", e.ID, id)
	}
	return e, d.Endpoint.Secret, err
}

// EventDestinations lists the event destinations of an account that deliver to webhook
// endpoints, of either payload, with their URLs. page is empty, or what an earlier page
// named as next.
func (c *Client) EventDestinations(ctx context.Context, account, page string) (rows []WebhookEndpoint, next string, err error) {
	q := url.Values{"include[0]": {"webhook_endpoint.url"}, "limit": {"100"}}
	if page != "" {
		q.Set("page", page)
	}
	r := request{endpoint: EndpointEventDestinationsList, path: destinationPath + "?" + q.Encode(), account: account, v2: true}
	return next2(readReply(ctx, c, r, func(reply Reply) (destinationsPage, error) { return decodeDestinations(reply.Body) }))
}

// destinationsPage is a page of event destinations.
type destinationsPage struct {
	rows []WebhookEndpoint
	next string
}

func next2(p destinationsPage, err error) ([]WebhookEndpoint, string, error) {
	return p.rows, p.next, err
}

func decodeDestinations(body []byte) (destinationsPage, error) {
	var list struct {
		Data []destinationJSON `json:"data"`
		Next *string           `json:"next_page_url"`
	}
	if err := json.Unmarshal(body, &list); err != nil || list.Data == nil {
		return destinationsPage{}, errors.New("not a list of event destinations")
	}
	var p destinationsPage
	for i, d := range list.Data {
		e, err := d.endpoint()
		if err != nil {
			return destinationsPage{}, fmt.Errorf("data %d: %w", i, err)
		}
		if d.Type == "webhook_endpoint" {
			p.rows = append(p.rows, e)
		}
	}
	if list.Next != nil && *list.Next != "" {
		// Only its page counts: the key goes nowhere that a reply names.
		u, err := url.Parse(*list.Next)
		if err != nil || u.Query().Get("page") == "" {
			return destinationsPage{}, errors.New("next_page_url names no page")
		}
		p.next = u.Query().Get("page")
	}
	return p, nil
}

// CreateEventDestination makes an event destination that delivers thin events to a
// webhook endpoint, and returns its signing secret, which Stripe never shows again.
// APIVersion of n has no meaning: thin events have no version.
func (c *Client) CreateEventDestination(ctx context.Context, account string, n NewWebhookEndpoint) (endpoint WebhookEndpoint, secret string, err error) {
	from := fromSelf
	if n.Connect {
		from = fromAccounts
	}
	body := map[string]any{
		"name": "creditmirror", "type": "webhook_endpoint", "event_payload": "thin", "enabled_events": n.EnabledEvents,
		"events_from": []string{from}, "webhook_endpoint": map[string]string{"url": n.URL}, "metadata": n.Metadata,
		"include": []string{"webhook_endpoint.url", "webhook_endpoint.signing_secret"},
	}
	if n.Description != "" {
		body["description"] = n.Description
	}
	r := request{endpoint: EndpointEventDestinationsCreate, path: destinationPath, account: account}
	endpoint, _, err = writeV2(ctx, c, r, body, func(body []byte) (e WebhookEndpoint, err error) {
		if e, secret, err = decodeDestination(body, ""); err == nil && secret == "" {
			err = errors.New("webhook_endpoint.signing_secret is empty")
		}
		return e, err
	})
	if err != nil {
		return WebhookEndpoint{}, "", err
	}
	return endpoint, secret, nil
}

// UpdateEventDestination changes the event types of a destination where there are any,
// and enables it where asked to.
func (c *Client) UpdateEventDestination(ctx context.Context, account, id string, ch WebhookEndpointChange) (e WebhookEndpoint, err error) {
	if err := checkIDs(EndpointEventDestinationsUpdate, "event_destination", id); err != nil {
		return e, err
	}
	include := []string{"webhook_endpoint.url"}
	decode := func(body []byte) (e WebhookEndpoint, err error) {
		e, _, err = decodeDestination(body, id)
		return e, err
	}
	if len(ch.EnabledEvents) > 0 {
		r := request{endpoint: EndpointEventDestinationsUpdate, path: destinationPath + "/" + id, account: account}
		if e, _, err = writeV2(ctx, c, r, map[string]any{"enabled_events": ch.EnabledEvents, "include": include}, decode); err != nil {
			return e, err
		}
	}
	if ch.Disabled != nil && !*ch.Disabled {
		r := request{endpoint: EndpointEventDestinationsEnable, path: destinationPath + "/" + id + "/enable", account: account}
		e, _, err = writeV2(ctx, c, r, map[string]any{"include": include}, decode)
	}
	return e, err
}

// DeleteEventDestination deletes a destination; ErrNotFound when there is none, but for
// one that an earlier attempt has deleted.
func (c *Client) DeleteEventDestination(ctx context.Context, account, id string) error {
	const endpoint = EndpointEventDestinationsDelete
	if err := checkIDs(endpoint, "event_destination", id); err != nil {
		return err
	}
	reply, err := c.call(ctx, request{
		endpoint: endpoint, method: http.MethodDelete, path: destinationPath + "/" + id, account: account, v2: true,
		idempotencyKey: "creditmirror-" + rand.Text(),
	})
	if err != nil || reply.Status == http.StatusNotFound {
		return err
	}
	var gone struct{ ID string }
	if json.Unmarshal(reply.Body, &gone) != nil || gone.ID != id {
		return c.garbled(endpoint, reply, errors.New("not the deletion that was asked for"))
	}
	return nil
}

// writeV2 is write for the v2 API.
func writeV2[T any](ctx context.Context, c *Client, r request, body map[string]any, decode func(body []byte) (T, error)) (T, Reply, error) {
	var zero T
	raw, err := json.Marshal(body)
	if err != nil {
		return zero, Reply{}, refused(r.endpoint, "body", err.Error())
	}
	r.method, r.v2, r.json, r.idempotencyKey = http.MethodPost, true, raw, "creditmirror-"+rand.Text()
	return replyTo(ctx, c, r, decode)
}

// send makes one attempt, by stripe-go or, of the v2 API, as stripe-go would.
func (c *Client) send(ctx context.Context, r request, params *stripe.Params, raw *rawReply) error {
	if !r.v2 {
		values := r.values
		if values == nil {
			values = &form.Values{}
		}
		return c.backend.CallRaw(r.method, r.path, c.key, values, params, raw)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, bytes.NewReader(r.json))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Stripe-Version", c.version)
	req.Header.Set("User-Agent", "Stripe/v1 GoBindings/"+stripe.ClientVersion)
	if r.json != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.account != "" {
		req.Header.Set("Stripe-Context", r.account)
	}
	if r.idempotencyKey != "" {
		req.Header.Set("Idempotency-Key", r.idempotencyKey)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	last := &stripe.APIResponse{Header: resp.Header, RawJSON: body, Status: resp.Status, StatusCode: resp.StatusCode}
	if resp.StatusCode >= 400 {
		var envelope struct {
			Error *stripe.Error `json:"error"`
		}
		if err := json.Unmarshal(body, &envelope); err != nil || envelope.Error == nil {
			return errors.New("no error of Stripe's in the body")
		}
		envelope.Error.HTTPStatusCode = resp.StatusCode
		envelope.Error.LastResponse = last
		return envelope.Error
	}
	raw.LastResponse = last
	if !json.Valid(body) {
		return errors.New("the reply is not JSON")
	}
	return nil
}
