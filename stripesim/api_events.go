package stripesim

import (
	_ "embed" // the lists of event types and versions
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

//go:embed enabled_events.txt
var enabledEventsText string

// eventTypes are the values that enabled_events takes, "*" among them.
var eventTypes = func() map[string]bool {
	m := map[string]bool{}
	for t := range strings.FieldsSeq(enabledEventsText) {
		m[t] = true
	}
	return m
}()

//go:embed api_versions.txt
var apiVersionsText string

// apiVersions are the versions that a webhook endpoint can be pinned to.
var apiVersions = strings.Fields(apiVersionsText)

// knownVersion reports whether a version is one of them, with or without flags, or a
// preview, whose list nobody publishes.
func knownVersion(v string) bool {
	base, _, _ := strings.Cut(v, ";")
	return isVersion(v) && (slices.Contains(apiVersions, base) || strings.HasSuffix(base, ".preview"))
}

// maxTypes is Stripe's limit on types[].
const maxTypes = 20

func (c *call) listEvents() (any, *apiError) {
	p := c.p
	g := c.paging()
	created := p.created()
	typ := p.id("type")
	types, _ := p.strs("types")
	success, bySuccess := p.bool("delivery_success")
	switch {
	case typ != "" && len(types) > 0:
		p.fail(errInvalid("", "types", "You may only specify one of these parameters: type, types."))
	case len(types) > maxTypes:
		p.fail(errInvalid("", "types", "You can filter by at most %d types.", maxTypes))
	}
	for _, t := range types {
		if strings.Contains(t, "*") {
			p.fail(errInvalid("", "types", "types takes exact event names only, not %s.", t))
		}
	}
	if e := p.done(); e != nil {
		return nil, e
	}
	a := c.a
	a.mu.RLock()
	defer a.mu.RUnlock()
	created.lo = max(created.lo, a.eventsSince())
	l := listOf[*event]{
		rows: &a.eventList, what: "event", url: "/v1/events", created: created,
		find: func(id string) (*event, bool) {
			e := a.events[id]
			return e, e != nil && e.thin == nil && e.created >= a.eventsSince()
		},
		render: func(e *event, _ expansion) any { return e.render(c.a, "", "") },
	}
	l.match = func(e *event) bool { return e.thin == nil }
	if typ != "" || len(types) > 0 || bySuccess {
		l.match = func(e *event) bool {
			return e.thin == nil && (typ == "" || matchType(typ, e.typ)) && (len(types) == 0 || slices.Contains(types, e.typ)) &&
				(!bySuccess || success == (e.pending.Load() == 0))
		}
	}
	return runList(c, g, l)
}

func (c *call) getEvent() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	e := c.a.events[c.args[0]]
	if e == nil || e.thin != nil || e.created < c.a.eventsSince() {
		return nil, errNone(http.StatusNotFound, "event", c.args[0], "id")
	}
	return e.render(c.a, "", ""), nil
}

// hook is a webhook_endpoint.
type hook struct {
	node
	url         string
	secrets     []signSecret // the newest first
	enabled     []string
	version     *string
	connect     bool
	disabled    bool
	description *string
	metadata    map[string]string
	// v2: an event destination of the v2 API, which has more to it.
	v2, thin bool
	name     string
	from     []string
	updated  int64
}

type hookJSON struct {
	ID            string       `json:"id"`
	Object        string       `json:"object"`
	APIVersion    *string      `json:"api_version"`
	Application   *string      `json:"application"`
	Created       int64        `json:"created"`
	Description   *string      `json:"description"`
	EnabledEvents []string     `json:"enabled_events"`
	Livemode      bool         `json:"livemode"`
	Metadata      metadataJSON `json:"metadata"`
	Secret        string       `json:"secret,omitempty"`
	Status        string       `json:"status"`
	URL           string       `json:"url"`
}

func (a *account) renderHook(h *hook) hookJSON {
	status := "enabled"
	if h.disabled {
		status = "disabled"
	}
	return hookJSON{
		ID: h.id, Object: "webhook_endpoint", APIVersion: h.version, Created: h.created, Description: h.description,
		EnabledEvents: h.enabled, Livemode: a.live, Metadata: notNil(h.metadata), Status: status, URL: h.url,
	}
}

// publish puts the endpoint's settings in force for deliveries.
func (a *account) publish(h *hook) {
	t := &target{
		id: h.id, account: a.id, live: a.live, url: h.url, secrets: slices.Clone(h.secrets), self: !h.connect, connect: h.connect, disabled: h.disabled, thin: h.thin,
		all: slices.Contains(h.enabled, "*"), events: map[string]bool{},
	}
	if h.version != nil {
		t.version = *h.version
	}
	if h.v2 {
		t.self, t.connect = slices.Contains(h.from, fromSelf), slices.Contains(h.from, fromAccounts)
	}
	for _, e := range h.enabled {
		t.events[e] = true
	}
	a.s.sender.set(t)
}

// hookSettings reads what create and update share. A setting that was not sent
// keeps its value.
func (c *call) hookSettings(h *hook) {
	p := c.p
	if v, ok := p.str("url", maxText); ok {
		u, err := url.Parse(v)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			p.fail(errInvalid("url_invalid", "url", "Invalid URL: An explicit scheme (such as https) must be provided."))
		case c.a.live && u.Scheme != "https":
			p.fail(errInvalid("url_invalid", "url", "Invalid URL: URL must be publicly accessible over https in live mode."))
		}
		h.url = v
	}
	if v, ok := p.strs("enabled_events"); ok {
		if len(v) == 0 {
			p.fail(errInvalid("parameter_invalid_empty", "enabled_events", "You must subscribe to at least one event."))
		}
		for _, e := range v {
			if !eventTypes[e] {
				p.fail(errInvalid("", "enabled_events", "Invalid enabled_events: %s is not an event type.", e))
			}
		}
		h.enabled = v
	}
	set(&h.description, textChange(p, "description", maxText))
	h.metadata, _ = p.metadata(h.metadata)
}

func (c *call) createHook() (any, *apiError) {
	p := c.p
	h := &hook{}
	c.hookSettings(h)
	if v := p.id("api_version"); v != "" {
		if !knownVersion(v) {
			p.fail(errInvalid("", "api_version", "Invalid Stripe API version: %s", v))
		}
		h.version = &v
	}
	h.connect, _ = p.bool("connect")
	for _, name := range []string{"url", "enabled_events"} {
		if !p.has(name) {
			p.fail(errMissing(name))
		}
	}
	if e := p.done(); e != nil {
		return nil, e
	}
	a := c.a
	c.lock()
	defer a.mu.Unlock()
	h.node = node{id: a.ids.endpoint(), created: c.cz.now}
	h.secrets = []signSecret{{text: a.ids.secret()}}
	a.hooks[h.id] = h
	addTo(a, &a.hookList, h)
	a.publish(h)
	j := a.renderHook(h)
	j.Secret = h.secrets[0].text
	return j, nil
}

// hook returns the endpoint that the path names.
func (c *call) hook() (*hook, *apiError) {
	if h := c.a.hooks[c.args[0]]; h != nil && !h.gone && !h.v2 {
		return h, nil
	}
	return nil, errNone(http.StatusNotFound, "webhook endpoint", c.args[0], "id")
}

// maxRoll is how long a rolled secret can go on signing.
const maxRoll = 24 * time.Hour

// RollSecret gives a webhook endpoint a new signing secret and returns it. For
// keep, at most a day, deliveries are signed with the old one as well.
func (s *Server) RollSecret(endpoint string, keep time.Duration) (string, error) {
	if keep < 0 || keep > maxRoll {
		return "", errInvalid("", "keep", "The old secret can be kept for at most %v.", maxRoll)
	}
	for _, a := range s.allAccounts() {
		a.mu.Lock()
		h := a.hooks[endpoint]
		if h == nil || h.gone {
			a.mu.Unlock()
			continue
		}
		defer a.mu.Unlock()
		now := s.unix()
		h.secrets = slices.DeleteFunc(h.secrets, func(o signSecret) bool { return o.until != 0 && o.until <= now })
		h.secrets[0].until = now + ceilSeconds(keep)
		if keep == 0 {
			h.secrets = h.secrets[1:]
		}
		h.secrets = append([]signSecret{{text: a.ids.secret()}}, h.secrets...)
		a.publish(h)
		return h.secrets[0].text, nil
	}
	return "", errNone(http.StatusBadRequest, "webhook endpoint", endpoint, "endpoint")
}

func (c *call) getHook() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	h, e := c.hook()
	if e != nil {
		return nil, e
	}
	return c.a.renderHook(h), nil
}

func (c *call) updateHook() (any, *apiError) {
	c.lock()
	defer c.a.mu.Unlock()
	h, e := c.hook()
	if e != nil {
		return nil, e
	}
	next := *h
	c.hookSettings(&next)
	if v, ok := c.p.bool("disabled"); ok {
		next.disabled = v
	}
	if e := c.p.done(); e != nil {
		return nil, e
	}
	*h = next
	c.a.publish(h)
	return c.a.renderHook(h), nil
}

func (c *call) deleteHook() (any, *apiError) {
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.lock()
	defer c.a.mu.Unlock()
	h, e := c.hook()
	if e != nil {
		return nil, e
	}
	h.gone = true
	c.s.sender.remove(h.id)
	return deletedJSON{h.id, "webhook_endpoint", true}, nil
}

func (c *call) listHooks() (any, *apiError) {
	g := c.paging()
	if e := c.p.done(); e != nil {
		return nil, e
	}
	c.a.mu.RLock()
	defer c.a.mu.RUnlock()
	return runList(c, g, listOf[*hook]{
		rows: &c.a.hookList, what: "webhook endpoint", url: "/v1/webhook_endpoints", created: always, find: found(c.a.hooks),
		match:  func(h *hook) bool { return !h.v2 },
		render: func(h *hook, _ expansion) any { return c.a.renderHook(h) },
	})
}
