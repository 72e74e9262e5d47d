package config

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// OTel is OpenTelemetry's standard configuration, as far as it is followed. An
// empty value is the same as none, as its specification wants it.
type OTel struct {
	// Disabled turns traces off whatever else is set.
	Disabled bool
	// Exporter is "otlp" or "none".
	Exporter string
	// Endpoint is a base that /v1/traces is added to, TracesEndpoint the whole URL,
	// which wins. With neither, traces are off.
	Endpoint, TracesEndpoint string
	// Headers go with every export; TracesHeaders, where there are some, in their place.
	Headers, TracesHeaders []Header
	// Protocol is what exports are sent by, TracesProtocol wins where it is set.
	Protocol, TracesProtocol string
	// ServiceName and Attributes say whose spans they are.
	ServiceName string
	Attributes  []Attribute
	// Sampler decides which traces are recorded; SamplerArg is the share for the
	// samplers by ratio, 0 to 1.
	Sampler    Sampler
	SamplerArg float64
}

// Header is a header of HTTP whose value may be a token.
type Header struct {
	Name  string
	Value Secret
}

// Attribute is one of the process that makes the spans.
type Attribute struct{ Key, Value string }

// Sampler decides which traces are recorded.
type Sampler string

// The values of OTEL_TRACES_SAMPLER that are followed.
const (
	SamplerAlwaysOn           Sampler = "always_on"
	SamplerAlwaysOff          Sampler = "always_off"
	SamplerRatio              Sampler = "traceidratio"
	SamplerParentBasedOn      Sampler = "parentbased_always_on"
	SamplerParentBasedOff     Sampler = "parentbased_always_off"
	SamplerParentBasedByRatio Sampler = "parentbased_traceidratio"
)

// The values of OTEL_TRACES_EXPORTER and of the protocol's variables.
const (
	exporterOTLP = "otlp"
	exporterNone = "none"

	protocolJSON = "http/json"
)

// protocols are those of OTLP. Only one of them is spoken, but another may be meant
// for other programs in the same environment while traces are off here.
var protocols = []string{protocolJSON, "http/protobuf", "grpc"}

const (
	defaultServiceName = "creditmirror"
	serviceName        = "service.name"
)

// TracesURL returns where spans are sent; empty where traces are off.
func (o OTel) TracesURL() string {
	switch {
	case o.Disabled, o.Exporter == exporterNone:
		return ""
	case o.TracesEndpoint != "":
		return o.TracesEndpoint
	case o.Endpoint != "":
		return strings.TrimSuffix(o.Endpoint, "/") + "/v1/traces"
	}
	return ""
}

// ExportHeaders returns what goes with every export of spans.
func (o OTel) ExportHeaders() []Header {
	if len(o.TracesHeaders) > 0 {
		return o.TracesHeaders
	}
	return o.Headers
}

// derive fills in whose spans they are.
func (o *OTel) derive() {
	for _, a := range o.Attributes {
		if a.Key == serviceName && o.ServiceName == "" {
			o.ServiceName = a.Value
		}
	}
	o.Attributes = slices.DeleteFunc(o.Attributes, func(a Attribute) bool { return a.Key == serviceName })
	if len(o.Attributes) == 0 {
		o.Attributes = nil
	}
	if o.ServiceName == "" {
		o.ServiceName = defaultServiceName
	}
}

// unspoken returns which variable asks for a protocol that is not spoken; empty
// where none does, or nothing is to be sent.
func (o OTel) unspoken() (v Var, protocol string) {
	v, protocol = VarOTLPProtocol, o.Protocol
	if o.TracesProtocol != "" {
		v, protocol = VarOTLPTracesProtocol, o.TracesProtocol
	}
	if o.TracesURL() == "" || protocol == protocolJSON {
		return "", ""
	}
	return v, protocol
}

// headersInTheOpen returns the variable with headers that would cross a network in plain
// text, and that of the URL they would go to; empty where none would. What is sent to an
// address of this machine or of a private network stays inside of it; a name may lead
// anywhere, unless it is one that only a cluster or this machine knows.
func (o OTel) headersInTheOpen() (v, url Var) {
	v, url = VarOTLPHeaders, VarOTLPEndpoint
	if len(o.TracesHeaders) > 0 {
		v = VarOTLPTracesHeaders
	}
	if o.TracesEndpoint != "" {
		url = VarOTLPTracesEndpoint
	}
	target := o.TracesURL()
	if len(o.ExportHeaders()) == 0 || !strings.HasPrefix(strings.ToLower(target), "http:") || !isPublic(baseHost(target)) {
		return "", ""
	}
	return v, url
}

// isPublic reports whether a host may lie beyond this machine and its private networks.
func isPublic(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap()
		return !(addr.IsLoopback() || addr.IsPrivate() || addr.IsLinkLocalUnicast())
	}
	// Names without a dot, and those that are reserved for inside, are none of the internet.
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if !strings.Contains(host, ".") {
		return false
	}
	for _, suffix := range []string{".localhost", ".local", ".internal", ".svc", ".cluster.local", ".test"} {
		if strings.HasSuffix(host, suffix) {
			return false
		}
	}
	return true
}

// otelTable describes OpenTelemetry's variables.
func otelTable() []Spec {
	return []Spec{
		{
			Var: VarOTLPEndpoint, kind: "url", emptyOK: true,
			Help:  "OpenTelemetry collector that traces are sent to, at /v1/traces, such as http://127.0.0.1:4318; without one there are none",
			parse: parseCollector(func(c *Config) *string { return &c.OTel.Endpoint }),
			show:  func(c Config) string { return c.OTel.Endpoint },
		},
		{
			Var: VarOTLPTracesEndpoint, kind: "url", emptyOK: true,
			Help:  "the whole URL that traces are sent to, in place of OTEL_EXPORTER_OTLP_ENDPOINT",
			parse: parseCollector(func(c *Config) *string { return &c.OTel.TracesEndpoint }),
			show:  func(c Config) string { return c.OTel.TracesEndpoint },
		},
		{
			Var: VarOTLPHeaders, Secret: true, kind: "headers", emptyOK: true,
			Help:  "headers for the collector, name=value comma separated, percent-encoded",
			parse: parseHeaders(func(c *Config) *[]Header { return &c.OTel.Headers }),
			show:  func(c Config) string { return setOrUnset(len(c.OTel.Headers) > 0) },
		},
		{
			Var: VarOTLPTracesHeaders, Secret: true, kind: "headers", emptyOK: true,
			Help:  "headers in place of OTEL_EXPORTER_OTLP_HEADERS, for traces alone",
			parse: parseHeaders(func(c *Config) *[]Header { return &c.OTel.TracesHeaders }),
			show:  func(c Config) string { return setOrUnset(len(c.OTel.TracesHeaders) > 0) },
		},
		{
			Var: VarOTLPProtocol, Default: protocolJSON, kind: protocolJSON, emptyOK: true,
			Help:  "what the collector is spoken to by: http/json and no other",
			parse: enum(func(c *Config) *string { return &c.OTel.Protocol }, protocols...),
			show:  func(c Config) string { return c.OTel.Protocol },
		},
		{
			Var: VarOTLPTracesProtocol, kind: protocolJSON, emptyOK: true,
			Help:  "in place of OTEL_EXPORTER_OTLP_PROTOCOL, for traces alone",
			parse: enum(func(c *Config) *string { return &c.OTel.TracesProtocol }, protocols...),
			show:  func(c Config) string { return c.OTel.TracesProtocol },
		},
		{
			Var: VarOTelServiceName, Default: defaultServiceName, kind: "name", computed: true, emptyOK: true,
			Help:  "service.name of the spans",
			parse: func(c *Config, value string, _ failFunc) { c.OTel.ServiceName = value },
			show:  func(c Config) string { return c.OTel.ServiceName },
		},
		{
			Var: VarOTelResourceAttributes, kind: "attributes", emptyOK: true,
			Help:  "further attributes of the process, key=value comma separated, percent-encoded",
			parse: parseAttributes,
			show: func(c Config) string {
				texts := make([]string, len(c.OTel.Attributes))
				for i, a := range c.OTel.Attributes {
					texts[i] = a.Key + "=" + url.PathEscape(a.Value)
				}
				return strings.Join(texts, ",")
			},
		},
		{
			Var: VarOTelTracesExporter, Default: exporterOTLP, kind: "otlp|none", emptyOK: true,
			Help:  "none: no traces, whatever else is set",
			parse: enum(func(c *Config) *string { return &c.OTel.Exporter }, exporterOTLP, exporterNone),
			show:  func(c Config) string { return c.OTel.Exporter },
		},
		{
			Var: VarOTelTracesSampler, Default: string(SamplerParentBasedOn), kind: "sampler", emptyOK: true,
			Help: "which traces are recorded: always_on, always_off, traceidratio, or parentbased_ before one of them",
			parse: enum(func(c *Config) *Sampler { return &c.OTel.Sampler }, SamplerParentBasedOn, SamplerParentBasedOff,
				SamplerParentBasedByRatio, SamplerAlwaysOn, SamplerAlwaysOff, SamplerRatio),
			show: func(c Config) string { return string(c.OTel.Sampler) },
		},
		{
			Var: VarOTelTracesSamplerArg, Default: "1", kind: "ratio", emptyOK: true,
			Help:  "share of the traces that traceidratio records, 0 to 1",
			parse: parseShare,
			show:  func(c Config) string { return formatRate(c.OTel.SamplerArg) },
		},
		{
			Var: VarOTelDisabled, Default: "false", kind: "bool", emptyOK: true,
			Help:  "true: no traces, whatever else is set",
			parse: boolean(func(c *Config) *bool { return &c.OTel.Disabled }),
			show:  func(c Config) string { return strconv.FormatBool(c.OTel.Disabled) },
		},
	}
}

// parseCollector takes an http or https URL, whose path may be empty.
func parseCollector(field func(*Config) *string) func(*Config, string, failFunc) {
	return func(c *Config, value string, fail failFunc) {
		const want = "give one such as http://127.0.0.1:4318"
		u, err := url.Parse(value)
		switch {
		case err != nil || u.Opaque != "" || u.Host == "":
			fail("is not a URL; %s", want)
			return
		case u.Scheme != "http" && u.Scheme != "https":
			fail("is not an http or https URL; %s", want)
		case u.User != nil:
			fail("holds a user name or password; put them into OTEL_EXPORTER_OTLP_HEADERS")
		case u.RawQuery != "" || u.ForceQuery || strings.Contains(value, "#"):
			fail("has a query or fragment; %s", want)
		case !validHost(u.Hostname()) || strings.HasSuffix(u.Host, ":") || u.Port() != "" && !validTarget(u.Port()):
			fail("has no valid host and port; %s", want)
		}
		*field(c) = u.String()
	}
}

var (
	headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
	// ownHeaders are the exporter's.
	ownHeaders = []string{"content-type", "content-encoding", "content-length", "transfer-encoding", "connection", "host"}
)

// parseHeaders takes name=value pairs. Only names are quoted in errors.
func parseHeaders(field func(*Config) *[]Header) func(*Config, string, failFunc) {
	return func(c *Config, value string, fail failFunc) {
		var list []Header
		for i, entry := range entries(value, fail) {
			name, text, ok := strings.Cut(entry, "=")
			name = strings.TrimSpace(name)
			text, err := url.PathUnescape(strings.TrimSpace(text))
			switch {
			case entry == "": // reported by entries
			case !ok || !headerName.MatchString(name):
				fail("has an entry (number %d) that is not name=value; write it so, values percent-encoded", i+1)
			case err != nil || text == "" || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }):
				fail("has a value (number %d) that no header can have; percent-encode what is no letter or digit", i+1)
			case slices.Contains(ownHeaders, strings.ToLower(name)):
				fail("sets a header (number %d) that the exporter sets itself; remove it", i+1)
			case slices.ContainsFunc(list, func(h Header) bool { return strings.EqualFold(h.Name, name) }):
				fail("sets the same header twice (number %d); remove one", i+1)
			}
			list = append(list, Header{Name: name, Value: NewSecret(text)})
		}
		*field(c) = list
	}
}

// attributeKey is what baggage, whose form this is, takes without quotes.
var attributeKey = regexp.MustCompile(`^[A-Za-z0-9!#$%&'*+.^_|~/-]+$`)

// parseAttributes takes key=value pairs.
func parseAttributes(c *Config, value string, fail failFunc) {
	for i, entry := range entries(value, fail) {
		key, text, ok := strings.Cut(entry, "=")
		key = strings.TrimSpace(key)
		text, err := url.PathUnescape(strings.TrimSpace(text))
		switch {
		case entry == "": // reported by entries
		case !ok || !attributeKey.MatchString(key) || err != nil:
			fail("has an entry (number %d) that is not key=value; write it so, values percent-encoded", i+1)
		case slices.ContainsFunc(c.OTel.Attributes, func(a Attribute) bool { return a.Key == key }):
			fail("sets the same attribute twice (number %d); remove one", i+1)
		}
		c.OTel.Attributes = append(c.OTel.Attributes, Attribute{Key: key, Value: text})
	}
}

// parseShare takes a number from 0 to 1.
func parseShare(c *Config, value string, fail failFunc) {
	share, err := strconv.ParseFloat(value, 64)
	if err != nil || !(share >= 0 && share <= 1) { // also refuses NaN
		fail("is %s; give a share from 0 to 1, such as 0.05", quote(value))
	}
	c.OTel.SamplerArg = share
}
