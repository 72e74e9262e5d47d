package config

import (
	"net"
	"net/url"
	"slices"
	"strings"
)

// PlainLinks names the links to other hosts that have no TLS: "postgresql" and "redis".
// This machine and a PostgreSQL socket are no other host.
func (c Config) PlainLinks() []string {
	var links []string
	if value := c.DatabaseURL.Reveal(); !strings.HasPrefix(value, sqliteScheme) {
		d, _ := splitURL(value)
		query, _ := url.ParseQuery(d.query)
		hosts := slices.Concat(d.hosts, query["host"])
		// prefer, the default, falls back to plain text when the server, or somebody on the
		// way, says so.
		mode := query.Get("sslmode")
		if !slices.Contains([]string{"require", "verify-ca", "verify-full"}, mode) && slices.ContainsFunc(hosts, elsewhere) {
			links = append(links, "postgresql")
		}
	}
	if !c.EmbeddedRedis() {
		d, _ := splitURL(c.RedisURL.Reveal())
		if !strings.HasPrefix(d.scheme, "rediss") && slices.ContainsFunc(d.hosts, elsewhere) {
			links = append(links, "redis")
		}
	}
	return links
}

// elsewhere reports whether host[:port] is not this machine.
func elsewhere(server string) bool {
	for _, one := range strings.Split(server, ",") {
		host := one
		if h, _, err := net.SplitHostPort(one); err == nil {
			host = h
		}
		if host = strings.Trim(host, "[]"); host != "" && !strings.HasPrefix(host, "/") && !strings.HasPrefix(host, "%2F") && !isLoopback(host) {
			return true
		}
	}
	return false
}
