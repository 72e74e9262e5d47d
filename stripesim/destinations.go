package stripesim

import (
	"net/http"
	"net/url"
	"slices"
)

// An event destination of the v2 API is kept as a webhook endpoint with more to it, and
// delivered to as one. The v1 API does not show it.

type destinationJSON struct {
	ID             string                 `json:"id"`
	Object         string                 `json:"object"`
	Created        string                 `json:"created"`
	Description    string                 `json:"description"`
	EnabledEvents  []string               `json:"enabled_events"`
	Payload        string                 `json:"event_payload"`
	From           []string               `json:"events_from"`
	Livemode       bool                   `json:"livemode"`
	Metadata       metadataJSON           `json:"metadata"`
	Name           string                 `json:"name"`
	Version        *string                `json:"snapshot_api_version"`
	Status         string                 `json:"status"`
	StatusDetails  *destinationStatusJSON `json:"status_details"`
	Type           string                 `json:"type"`
	Updated        string                 `json:"updated"`
	WebhookEndoint destinationHookJSON    `json:"webhook_endpoint"`
}

type destinationStatusJSON struct {
	Disabled destinationReasonJSON `json:"disabled"`
}

type destinationReasonJSON struct {
	Reason string `json:"reason"`
}

type destinationHookJSON struct {
	Secret *string `json:"signing_secret"`
	URL    *string `json:"url"`
}

// Scopes that events can come from.
const (
	fromSelf     = "@self"
	fromAccounts = "@accounts"
)

func (a *account) renderDestination(h *hook, url, secret bool) destinationJSON {
	j := destinationJSON{
		ID: h.id, Object: "v2.core.event_destination", Created: thinTime(h.created), EnabledEvents: h.enabled, Payload: "snapshot", From: h.from,
		Livemode: a.live, Metadata: notNil(h.metadata), Name: h.name, Version: h.version, Status: "enabled", Type: "webhook_endpoint", Updated: thinTime(h.updated),
	}
	if h.description != nil {
		j.Description = *h.description
	}
	if h.thin {
		j.Payload = "thin"
	}
	if h.disabled {
		j.Status, j.StatusDetails = "disabled", &destinationStatusJSON{destinationReasonJSON{"user"}}
	}
	if url {
		j.WebhookEndoint.URL = &h.url
	}
	if secret {
		j.WebhookEndoint.Secret = &h.secrets[0].text
	}
	return j
}

// include reads which redacted fields are wanted.
func (c *call) include(secret bool) (wantURL, wantSecret bool) {
	names, _ := c.p.strs("include")
	for _, n := range names {
		switch {
		case n == "webhook_endpoint.url":
			wantURL = true
		case n == "webhook_endpoint.signing_secret" && secret:
			wantSecret = true
		default:
			c.p.fail(errInvalid("", "include", "%s cannot be included.", n))
		}
	}
	return wantURL, wantSecret
}

// destinationSettings reads what create and update share.
func (c *call) destinationSettings(h *hook) {
	p := c.p
	p.hash("webhook_endpoint", func(p *params) {
		v := p.id("url")
		u, err := url.Parse(v)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			p.fail(errInvalid("url_invalid", "webhook_endpoint.url", "Invalid URL: An explicit scheme (such as https) must be provided."))
		case c.a.live && u.Scheme != "https":
			p.fail(errInvalid("url_invalid", "webhook_endpoint.url", "Invalid URL: live mode requires HTTPS."))
		}
		h.url = v
	})
	if v, ok := p.strs("enabled_events"); ok {
		if len(v) == 0 {
			p.fail(errInvalid("parameter_missing", "enabled_events", "You must subscribe to at least one event."))
		}
		for _, e := range v {
			known := e == "*" || eventTypes[e]
			if h.thin {
				known = e == "*" || thinTypes[e] || e == thinPing || e == thinFailure
			}
			if !known {
				p.fail(errInvalid("", "enabled_events", "Invalid enabled_events: %s is not an event type of this payload.", e))
			}
		}
		h.enabled = v
	}
	if v, ok := p.str("name", maxText); ok {
		h.name = v
	}
	set(&h.description, textChange(p, "description", maxText))
	h.metadata, _ = p.metadata(h.metadata)
}

func (c *call) createDestination() (any, *apiError) {
	p := c.p
	h := &hook{v2: true, from: []string{fromSelf}}
	payload, _ := p.enum("event_payload", "thin", "snapshot")
	h.thin = payload == "thin"
	if kind, _ := p.enum("type", "webhook_endpoint", "amazon_eventbridge", "azure_event_grid"); kind != "" && kind != "webhook_endpoint" {
		p.fail(errNotSimulated("type "+kind, "type"))
	}
	for _, name := range []string{"name", "type", "event_payload", "enabled_events", "webhook_endpoint"} {
		if !p.has(name) {
			p.fail(errMissing(name))
		}
	}
	c.destinationSettings(h)
	if v, ok := p.strs("events_from"); ok {
		for _, f := range v {
			switch f {
			case fromSelf, fromAccounts:
			case "@organization_members", "@organization_members/@accounts":
				p.fail(errNotSimulated("events_from "+f, "events_from"))
			default:
				p.fail(errInvalid("", "events_from", "Invalid events_from: %s", f))
			}
		}
		h.from = v
	}
	if v := p.id("snapshot_api_version"); v != "" {
		switch {
		case h.thin:
			p.fail(errInvalid("", "snapshot_api_version", "Thin events are not pinned to an API version."))
		case !knownVersion(v):
			p.fail(errInvalid("", "snapshot_api_version", "Invalid Stripe API version: %s", v))
		}
		h.version = &v
	}
	wantURL, wantSecret := c.include(true)
	if e := p.done(); e != nil {
		return nil, e
	}
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	h.node = node{id: a.ids.destination(), created: c.cz.now}
	h.updated = c.cz.now
	h.secrets = []signSecret{{text: a.ids.secret()}}
	a.hooks[h.id] = h
	addTo(a, &a.hookList, h)
	a.publish(h)
	return a.renderDestination(h, wantURL, wantSecret), nil
}

// destination returns the one that the path names.
func (c *call) destination() (*hook, *apiError) {
	if h := c.a.hooks[c.args[0]]; h != nil && !h.gone && h.v2 {
		return h, nil
	}
	return nil, errNone(http.StatusNotFound, "event destination", c.args[0], "id")
}

func (c *call) getDestination() (any, *apiError) {
	wantURL, _ := c.include(false)
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	h, e := c.destination()
	if e != nil {
		return nil, e
	}
	return c.a.renderDestination(h, wantURL, false), nil
}

// changeDestination makes a change to the destination that the path names.
func (c *call) changeDestination(change func(h *hook)) (any, *apiError) {
	c.lock()
	defer c.a.mu.Unlock()
	h, e := c.destination()
	if e != nil {
		return nil, e
	}
	next := *h
	change(&next)
	wantURL, _ := c.include(false)
	if e := c.p.done(); e != nil {
		return nil, e
	}
	next.updated = c.cz.now
	*h = next
	c.a.publish(h)
	return c.a.renderDestination(h, wantURL, false), nil
}

func (c *call) updateDestination() (any, *apiError) {
	return c.changeDestination(c.destinationSettings)
}

func (c *call) enableDestination() (any, *apiError) {
	return c.changeDestination(func(h *hook) { h.disabled = false })
}

func (c *call) disableDestination() (any, *apiError) {
	return c.changeDestination(func(h *hook) { h.disabled = true })
}

func (c *call) pingDestination() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.lock()
	defer c.a.mu.Unlock()
	h, e := c.destination()
	if e != nil {
		return nil, e
	}
	about := thinOnly{Related: &relatedJSON{h.id, "v2.core.event_destination", "/v2/core/event_destinations/" + h.id}}
	ping := c.a.emitThin(c.cz, thinPing, "", about, h.id)
	return c.a.thinEvent(ping, c.a.id, true), nil
}

func (c *call) deleteDestination() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.lock()
	defer c.a.mu.Unlock()
	h, e := c.destination()
	if e != nil {
		return nil, e
	}
	h.gone = true
	c.s.sender.remove(h.id)
	return struct {
		ID     string `json:"id"`
		Object string `json:"object"`
	}{h.id, "v2.core.event_destination"}, nil
}

func (c *call) listDestinations() (any, *apiError) {
	wantURL, _ := c.include(false)
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	var rows []*hook
	for _, h := range slices.Backward(c.a.hookList.rows) {
		if h.v2 && !h.gone {
			rows = append(rows, h)
		}
	}
	return v2Page(c, "/v2/core/event_destinations", rows, func(h *hook) any { return c.a.renderDestination(h, wantURL, false) })
}
