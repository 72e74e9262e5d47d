package redisconn

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// ParseError says why a Redis URL cannot be used. Its text never holds any part
// of the URL's user info or query, and so no password. The forms are
//
//	redis://[[user]:password@]host[:port][/db][?option=value...]
//	redis+cluster://[[user]:password@]host[:port],host[:port]...[?option=value...]
//	redis+sentinel://[[user]:password@]host[:port],host[:port].../master-name[/db][?option=value...]
//
// with rediss in place of redis for TLS. Options are go-redis's own
// (dial_timeout, pool_size, ...); for sentinels that want a password there are
// sentinel_username and sentinel_password.
type ParseError struct {
	// Reason is what is wrong, free of secrets.
	Reason string
}

// Error implements error.
func (e *ParseError) Error() string { return "redis url: " + e.Reason }

// target holds exactly one non-nil set of options.
type target struct {
	single   *redis.Options
	cluster  *redis.ClusterOptions
	failover *redis.FailoverOptions
}

// parse turns a URL into client options.
func parse(raw string) (target, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		// Not quoted: without a scheme the text may well be a password.
		return target{}, &ParseError{Reason: "no scheme; want redis://, rediss://, redis+cluster:// or redis+sentinel://"}
	}
	switch scheme {
	case "redis", "rediss":
		o, err := redis.ParseURL(raw)
		if err != nil {
			return target{}, safeError(err)
		}
		tune(o)
		return target{single: o}, nil
	case "redis+cluster", "rediss+cluster":
		o, err := parseCluster(strings.TrimSuffix(scheme, "+cluster"), rest)
		return target{cluster: o}, err
	case "redis+sentinel", "rediss+sentinel":
		o, err := parseSentinel(strings.TrimSuffix(scheme, "+sentinel"), rest)
		return target{failover: o}, err
	default:
		return target{}, &ParseError{Reason: "unknown scheme; want redis, rediss, redis+cluster, rediss+cluster, redis+sentinel or rediss+sentinel"}
	}
}

// parts are the pieces of a URL with several hosts, which net/url cannot parse.
type parts struct {
	user  *url.Userinfo
	hosts []string // host:port, at least one
	path  []string // path elements
	query url.Values
}

func split(rest string) (parts, error) {
	rest, rawQuery, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	var p parts
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		// Only the user info goes through net/url here, with a host of no
		// interest, so that percent-encoding means what it means elsewhere.
		u, err := url.Parse("redis://" + authority[:i] + "@h")
		if err != nil {
			return p, &ParseError{Reason: "user or password is malformed; percent-encode special characters"}
		}
		p.user, authority = u.User, authority[i+1:]
	}
	for host := range strings.SplitSeq(authority, ",") {
		hp, ok := hostPort(strings.TrimSpace(host))
		if !ok {
			// Not quoted: where the "@" was forgotten, it is the password.
			return p, &ParseError{Reason: fmt.Sprintf("host %d of the list is malformed; want host:port", len(p.hosts)+1)}
		}
		p.hosts = append(p.hosts, hp)
	}
	for e := range strings.SplitSeq(path, "/") {
		if e == "" {
			continue
		}
		e, err := url.PathUnescape(e)
		if err != nil {
			return p, &ParseError{Reason: "path is malformed"}
		}
		p.path = append(p.path, e)
	}
	q, err := url.ParseQuery(rawQuery)
	if err != nil {
		return p, &ParseError{Reason: "query is malformed"}
	}
	p.query = q
	return p, nil
}

// hostPort checks one host of a list and adds Redis's port where none is given.
func hostPort(s string) (string, bool) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), "6379"
		if strings.Contains(host, ":") && !strings.HasPrefix(s, "[") {
			return "", false
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return "", false
	}
	return net.JoinHostPort(host, port), true
}

// single rebuilds a URL in the form that go-redis parses itself: first host in
// place, the others as addr options.
func (p parts) single(scheme string) string {
	q := p.query
	for _, h := range p.hosts[1:] {
		q.Add("addr", h)
	}
	u := url.URL{Scheme: scheme, User: p.user, Host: p.hosts[0], RawQuery: q.Encode()}
	return u.String()
}

func parseCluster(scheme, rest string) (*redis.ClusterOptions, error) {
	p, err := split(rest)
	if err != nil {
		return nil, err
	}
	if len(p.path) > 1 || len(p.path) == 1 && p.path[0] != "0" {
		return nil, &ParseError{Reason: "a redis cluster has no database number but 0"}
	}
	o, err := redis.ParseClusterURL(p.single(scheme))
	if err != nil {
		return nil, safeError(err)
	}
	o.TLSConfig = perHostTLS(o.TLSConfig)
	// A replica may be behind: every read must see what was just written.
	o.ReadOnly, o.RouteByLatency, o.RouteRandomly = false, false, false
	o.ContextTimeoutEnabled = true
	o.MaintNotificationsConfig = noMaintNotifications()
	defaults(&o.DialTimeout, DialTimeout)
	defaults(&o.ReadTimeout, IOTimeout)
	defaults(&o.WriteTimeout, IOTimeout)
	defaults(&o.PoolTimeout, IOTimeout)
	defaults(&o.MaxRetries, maxRetries)
	defaults(&o.DialerRetries, 1)
	defaults(&o.PoolSize, poolSize)
	defaults(&o.Protocol, 2)
	return o, nil
}

func parseSentinel(scheme, rest string) (*redis.FailoverOptions, error) {
	p, err := split(rest)
	if err != nil {
		return nil, err
	}
	if len(p.path) == 0 || len(p.path) > 2 {
		return nil, &ParseError{Reason: "want redis+sentinel://host,host/master-name or .../master-name/db"}
	}
	db := 0
	if len(p.path) == 2 {
		if db, err = strconv.Atoi(p.path[1]); err != nil || db < 0 {
			return nil, &ParseError{Reason: "database number after the master name is malformed"}
		}
	}
	// go-redis takes the URL's user info for the sentinels; here it is, as in
	// the other forms, that of the server with the data.
	user := p.user
	p.user = nil
	sentinelUser, sentinelPassword := p.query.Get("sentinel_username"), p.query.Get("sentinel_password")
	p.query.Del("sentinel_username")
	p.query.Del("sentinel_password")
	o, err := redis.ParseFailoverURL(p.single(scheme))
	if err != nil {
		return nil, safeError(err)
	}
	o.MasterName, o.DB = p.path[0], db
	o.Username, o.Password = "", ""
	if user != nil {
		o.Username = user.Username()
		o.Password, _ = user.Password()
	}
	o.SentinelUsername, o.SentinelPassword = sentinelUser, sentinelPassword
	o.TLSConfig = perHostTLS(o.TLSConfig)
	o.ReplicaOnly, o.UseDisconnectedReplicas, o.RouteByLatency, o.RouteRandomly = false, false, false, false
	o.ContextTimeoutEnabled = true
	defaults(&o.DialTimeout, DialTimeout)
	defaults(&o.ReadTimeout, IOTimeout)
	defaults(&o.WriteTimeout, IOTimeout)
	defaults(&o.PoolTimeout, IOTimeout)
	defaults(&o.MaxRetries, maxRetries)
	defaults(&o.DialerRetries, 1)
	defaults(&o.PoolSize, poolSize)
	defaults(&o.Protocol, 2)
	return o, nil
}

// tune fills in the settings of a single server.
func tune(o *redis.Options) {
	o.ContextTimeoutEnabled = true
	o.MaintNotificationsConfig = noMaintNotifications()
	defaults(&o.DialTimeout, DialTimeout)
	defaults(&o.ReadTimeout, IOTimeout)
	defaults(&o.WriteTimeout, IOTimeout)
	defaults(&o.PoolTimeout, IOTimeout)
	defaults(&o.MaxRetries, maxRetries)
	defaults(&o.DialerRetries, 1)
	defaults(&o.PoolSize, poolSize)
	// Nothing here needs RESP3, and proxies in front of Redis often lack it.
	defaults(&o.Protocol, 2)
}

// noMaintNotifications switches off a feature of one vendor's servers that
// costs every other server a refused command per connection.
func noMaintNotifications() *maintnotifications.Config {
	return &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// perHostTLS makes each connection verify the name of the host it goes to,
// where go-redis would use the first host's name for all.
func perHostTLS(c *tls.Config) *tls.Config {
	if c == nil {
		return nil
	}
	c = c.Clone()
	c.ServerName, c.MinVersion = "", tls.VersionTLS12
	return c
}

func defaults[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// safeError strips what may quote the URL, and with it the password. Errors of
// net/url quote whatever did not parse, which is the password as soon as that
// holds an unencoded slash.
func safeError(err error) error {
	if _, ok := errors.AsType[*url.Error](err); ok {
		return &ParseError{Reason: "malformed; percent-encode special characters in user and password"}
	}
	msg := err.Error()
	for _, known := range []string{"redis: unexpected option", "redis: invalid database number", "redis: invalid URL path"} {
		if strings.HasPrefix(msg, known) {
			// The names of options and paths are cut off too: after a password
			// with an unencoded "?" or "/" they would be part of it.
			return &ParseError{Reason: strings.TrimPrefix(known, "redis: ")}
		}
	}
	return &ParseError{Reason: "an option is malformed"}
}
