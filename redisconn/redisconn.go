// Package redisconn opens the Redis that the queue and the Stripe budget share:
// a server, a TLS server, a Redis Cluster, a master behind sentinels, or, with
// no URL at all, a Redis embedded in this process.
//
// It decides the timeouts (a webhook must be refused within two seconds when
// Redis hangs), keeps passwords out of errors, and reports whether what Redis
// acknowledges survives a crash of Redis.
package redisconn

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Timeouts and retries of every connection, unless the URL sets its own.
const (
	// DialTimeout bounds one attempt to connect.
	DialTimeout = 2 * time.Second
	// IOTimeout bounds one read or write. Callers may be stricter by a deadline
	// on their context, which the client obeys.
	IOTimeout = 2 * time.Second
	// maxRetries is how often a command is sent again after a broken
	// connection. Once is enough to step over a connection that died while it
	// was idle. Every script of this module tolerates being run twice.
	maxRetries = 1
	// poolSize is the number of connections per server. It exceeds what the
	// default number of workers and a burst of webhooks hold at once.
	poolSize = 64
)

// ClusterPartitions is the number of partitions that spread over a cluster.
// It is fixed: another number would leave marks behind in partitions that
// nobody looks at any more.
const ClusterPartitions = 32

// Conn is an open connection to Redis. It is safe for concurrent use.
type Conn struct {
	// Client sends commands. It is never nil.
	Client redis.UniversalClient
	// Embedded says that Redis runs inside this process and loses everything
	// when the process ends.
	Embedded bool
	// Cluster says that Redis is a Redis Cluster, so that the keys of one script
	// must share a hash tag.
	Cluster bool
	// Partitions is how many hash tags work should be spread over: 1, or
	// [ClusterPartitions] for a cluster.
	Partitions int

	server *miniredis.Miniredis // the embedded one, else nil
}

// Open prepares a connection to the Redis at rawURL; [ParseError] lists the
// forms. It contacts no server: one that is down now can be used once it is up,
// and [Conn.Ping] reports it. An empty rawURL starts the embedded Redis.
func Open(ctx context.Context, rawURL string) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if rawURL == "" {
		return openEmbedded()
	}
	t, err := parse(rawURL)
	if err != nil {
		return nil, err
	}
	c := &Conn{Partitions: 1}
	switch {
	case t.single != nil:
		c.Client = redis.NewClient(t.single)
	case t.cluster != nil:
		c.Client = redis.NewClusterClient(t.cluster)
		c.Cluster, c.Partitions = true, ClusterPartitions
	default:
		c.Client = redis.NewFailoverClient(t.failover)
	}
	return c, nil
}

// openEmbedded starts a Redis in this process, on a loopback port of its own.
func openEmbedded() (*Conn, error) {
	s := miniredis.NewMiniRedis()
	// Any local user can connect to a loopback port, so it takes a password
	// that only this process knows. Set before the start: no port is ever open.
	password := rand.Text()
	s.RequireAuth(password)
	if err := s.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("start embedded redis: %w", err)
	}
	opts := &redis.Options{Addr: s.Addr(), Password: password, DisableIdentity: true}
	tune(opts)
	return &Conn{Client: redis.NewClient(opts), Embedded: true, Partitions: 1, server: s}, nil
}

// Ping returns nil when Redis answers. For a cluster every master must.
func (c *Conn) Ping(ctx context.Context) error {
	ping := func(ctx context.Context, n *redis.Client) error { return n.Ping(ctx).Err() }
	if cluster, ok := c.Client.(*redis.ClusterClient); ok {
		if err := cluster.ForEachMaster(ctx, ping); err != nil {
			return fmt.Errorf("ping redis cluster: %w", err)
		}
		return nil
	}
	if err := c.Client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ping redis: %w", err)
	}
	return nil
}

// Close closes the connections and ends the embedded Redis, if there is one.
// Close what uses the connection (the queue, the budget) first.
func (c *Conn) Close() error {
	err := c.Client.Close()
	if c.server != nil {
		c.server.Close()
	}
	if err != nil {
		return fmt.Errorf("close redis: %w", err)
	}
	return nil
}
