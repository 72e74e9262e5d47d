package queuetest

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// node is one server.
type node = *redis.Client

// eachNode runs f on every server behind a client.
func eachNode(ctx context.Context, c redis.UniversalClient, f func(context.Context, node) error) error {
	switch c := c.(type) {
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, f)
	case *redis.Client:
		return f(ctx, c)
	default:
		panic("queuetest: unknown kind of client")
	}
}
