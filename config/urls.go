package config

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// No error in this file quotes any part of a URL beyond its scheme: what people
// get wrong is mostly the password, and a misread URL has it in any part.

// parseAPIBase takes scheme://host[:port].
func parseAPIBase(c *Config, value string, fail failFunc) {
	const want = "give one such as https://api.stripe.com or http://127.0.0.1:12111"
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "":
		fail("is not a URL; %s", want)
		return
	case u.Scheme != "http" && u.Scheme != "https":
		fail("is not an http or https URL; %s", want)
	case u.User != nil:
		fail("holds a user name or password; remove it, the key is in STRIPE_API_KEY")
	case u.Path == "/v1" || u.Path == "/v1/":
		fail("ends in /v1, which is added to it; remove that")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || strings.Contains(value, "#"):
		fail("has a path, query or fragment; %s", want)
	case !validHost(u.Hostname()) || strings.HasSuffix(u.Host, ":") || u.Port() != "" && !validTarget(u.Port()):
		fail("has no valid host and port; %s", want)
	}
	c.StripeAPIBase = u.Scheme + "://" + u.Host
}

// baseHost returns the host of a checked base.
func baseHost(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// validTarget takes a port to connect to.
func validTarget(port string) bool { return validPort(port) && strings.Trim(port, "0") != "" }

// parseNotifyURL takes an https URL, or an http one of this machine.
func parseNotifyURL(c *Config, value string, fail failFunc) {
	c.NotifyURL = NewSecret(value)
	const want = "give one such as https://hooks.example.com/creditmirror"
	d, reason := splitURL(value)
	switch {
	case d.user != "" || strings.Contains(value, "@"):
		fail("holds a user name or password, or an @ that is not written %%40; put a token into the path, receivers check the signature")
	case strings.Contains(value, "#"):
		fail("has a fragment, which is never sent; remove it")
	case reason != "":
		fail("%s", reason)
	case d.scheme != "https" && d.scheme != "http":
		fail("is not an https URL; %s", want)
	case len(d.hosts) != 1 || !validServer(d.hosts[0]):
		fail("has no valid host and port; %s", want)
	case d.scheme == "http" && !isLoopback(baseHost(value)):
		fail("would send customers' ids unencrypted over the network; use https (http is taken for this machine alone)")
	}
}

// originOf shows of a checked URL, whose rest may be secret, only where it leads.
func originOf(value string) string {
	if value == "" {
		return setOrUnset(false)
	}
	d, reason := splitURL(value)
	if reason != "" {
		return redacted // never where Load made the Config
	}
	text := d.scheme + "://" + strings.Join(d.hosts, ",")
	if d.path != "" || d.query != "" {
		text += "/" + redacted
	}
	return text
}

// holdsPassword reports whether a database's or Redis' URL has one: before the host, or
// among the options. It is not strict: what may be one is one.
func holdsPassword(value string) bool {
	if strings.HasPrefix(value, sqliteScheme) {
		return false
	}
	at := strings.LastIndexByte(value, '@')
	_, userinfo, _ := strings.Cut(value[:max(at, 0)], "//")
	lower := strings.ToLower(value)
	return at >= 0 && strings.Contains(userinfo, ":") || strings.Contains(lower, "password") || strings.Contains(lower, "passfile")
}

const sqliteScheme = "sqlite:"

// parseDatabaseURL takes sqlite:PATH or a PostgreSQL URL.
func parseDatabaseURL(c *Config, value string, fail failFunc) {
	c.DatabaseURL = NewSecret(value)
	if path, ok := strings.CutPrefix(value, sqliteScheme); ok {
		switch {
		case strings.TrimSpace(path) == "":
			fail("names no file; give one, such as sqlite:creditmirror.db")
		case strings.Contains(path, ":memory:"):
			fail("is an SQLite database in memory, which keeps nothing; name a file, such as sqlite:creditmirror.db")
		case strings.HasPrefix(path, "file:"):
			fail("has file: before the path; write the path right after sqlite:")
		case strings.HasPrefix(path, "//") && !strings.HasPrefix(path, "///"):
			fail("has two slashes before the path; write sqlite:PATH, or sqlite:/PATH for an absolute one")
		case strings.ContainsAny(path, "?#\x00\r\n"):
			fail("has options or a control character in the path; write the path alone after sqlite:")
		case strings.HasSuffix(path, "/"):
			fail("names a folder; name a file in it")
		}
		return
	}
	d, reason := splitURL(value)
	switch {
	case reason != "":
		fail("%s", reason)
	case d.scheme != "postgres" && d.scheme != "postgresql":
		fail("is neither sqlite:PATH nor a postgres:// URL; give one of them")
	case slices.ContainsFunc(d.hosts, func(h string) bool { return h != "" && !validServer(h) }):
		// An empty host is fine: PostgreSQL's socket, or host=… in the query.
		fail("has no valid host and port; %s", urlHint)
	case !worksBehindPoolers(d.query):
		fail("sets default_query_exec_mode to a mode that does not work; leave it out, or set cache_describe (PgBouncer is noticed by itself)")
	}
}

// worksBehindPoolers reports whether the driver's mode that a query names stores what it is
// asked to: the other modes mistake types, or mix statements of several clients.
func worksBehindPoolers(query string) bool {
	values, _ := url.ParseQuery(query) //nolint:errcheck // splitURL has looked
	mode := values.Get("default_query_exec_mode")
	return mode == "" || mode == "cache_statement" || mode == "cache_describe"
}

// redisSchemes are the schemes with the kind of installation that each means;
// the double s is TLS.
var redisSchemes = map[string]string{
	"redis": "server", "rediss": "server",
	"redis+cluster": "cluster", "rediss+cluster": "cluster",
	"redis+sentinel": "sentinel", "rediss+sentinel": "sentinel",
}

// sentinelPath is the name of the master, with an optional database number.
var sentinelPath = regexp.MustCompile(`^/[^/]+(/[0-9]+)?$`)

// embeddedRedis stands for the Redis in the process itself.
const embeddedRedis = "embedded"

// parseRedisURL takes the URL of a server, a cluster or sentinels, or the name of
// the default. What stands behind the hosts is checked only where it cannot mean
// anything.
func parseRedisURL(c *Config, value string, fail failFunc) {
	if value == embeddedRedis {
		c.RedisURL = Secret{}
		return
	}
	c.RedisURL = NewSecret(value)
	d, reason := splitURL(value)
	database := strings.TrimPrefix(d.path, "/")
	kind, known := redisSchemes[d.scheme]
	switch {
	case reason != "":
		fail("%s", reason)
	case !known:
		fail("is not a Redis URL; give redis://, rediss://, redis+cluster:// or redis+sentinel://, or embedded for one in this process")
	case slices.ContainsFunc(d.hosts, func(h string) bool { return !validServer(h) }):
		fail("has no valid host and port; %s", urlHint)
	case kind == "server" && len(d.hosts) > 1:
		fail("names several hosts; use redis+cluster:// or redis+sentinel:// for them")
	case kind == "server" && strings.Trim(database, "0123456789") != "":
		fail("has a database that is not a number; give one such as redis://host:6379/0")
	case kind == "cluster" && strings.Trim(database, "0") != "":
		fail("names a database, but Redis Cluster has only number 0; remove it")
	case kind == "sentinel" && !sentinelPath.MatchString(d.path):
		fail("has no name of the master behind the hosts; give redis+sentinel://host,host/NAME or …/NAME/0")
	}
}

// urlHint explains the usual cause of a URL that falls apart in odd places.
const urlHint = "in the user name and password write / as %2F, @ as %40, : as %3A, # as %23, ? as %3F"

// dsn is a URL of one or more servers, in parts as written.
type dsn struct {
	scheme, user string
	hosts        []string
	path, query  string
}

// splitURL takes a URL apart, more strictly than net/url and with the several
// hosts that net/url refuses. reason, if not empty, is a problem's message.
func splitURL(value string) (d dsn, reason string) {
	scheme, rest, ok := strings.Cut(value, "://")
	if !ok {
		return dsn{}, "is not a URL; give scheme://host:port/…"
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return dsn{}, "holds white space, a control or a non-ASCII character; remove it, or percent-encode it"
	}
	d.scheme = scheme
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, rest = rest[:i], rest[i:]
	} else {
		rest = ""
	}
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		d.user, authority = authority[:i], authority[i+1:]
	}
	d.hosts = strings.Split(authority, ",")
	d.path, d.query, _ = strings.Cut(rest, "?")
	_, errUser := url.PathUnescape(d.user)
	_, errPath := url.PathUnescape(d.path)
	_, errQuery := url.ParseQuery(d.query)
	switch {
	// An @ or # this far right is the end of a password that held a / or ?.
	case strings.ContainsAny(rest, "@#"), strings.ContainsAny(d.user, "@[]<>\"\\^`{|}"), errUser != nil:
		return dsn{}, "has a user name or password that is not percent-encoded; " + urlHint
	case errPath != nil || errQuery != nil:
		return dsn{}, "is not a valid URL behind the host; percent-encode what is no letter or digit"
	}
	return d, ""
}

// validServer takes host, host:port, [ipv6] and [ipv6]:port.
func validServer(server string) bool {
	host, port, hasPort := strings.Cut(server, ":")
	if inner, ok := strings.CutPrefix(server, "["); ok {
		host, port, ok = strings.Cut(inner, "]")
		if !ok || !strings.Contains(host, ":") {
			return false
		}
		port, hasPort = strings.CutPrefix(port, ":")
		if port != "" && !hasPort {
			return false
		}
	}
	return validHost(host) && (!hasPort || validTarget(port))
}

// redactURL returns a checked URL without what may be secret: credentials, and
// the query, in which drivers take passwords too.
func redactURL(value string) string {
	if strings.HasPrefix(value, sqliteScheme) || value == "" {
		return value
	}
	d, reason := splitURL(value)
	if reason != "" {
		return redacted // never where Load made the Config
	}
	text := d.scheme + "://"
	if d.user != "" {
		text += redacted + "@"
	}
	text += strings.Join(d.hosts, ",") + d.path
	if d.query != "" {
		text += "?" + redacted
	}
	return text
}
