package app

import (
	"context"
	"net/http"
	"time"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/redisconn"
)

// Outside is what a process meets outside of itself: its database, Redis, Stripe and
// the clock of its host. What is not set is the real one. The simulation of the whole
// program sets them all, so that it decides what happens when.
type Outside struct {
	// Store opens the mirror's database. The process closes it.
	Store func(ctx context.Context, cfg config.Config) (mirror.Store, error)
	// Redis connects to the Redis at a URL. The process closes the connection.
	Redis func(ctx context.Context, url string) (*redisconn.Conn, error)
	// Transport makes the calls to Stripe.
	Transport http.RoundTripper
	// Now is the host's clock.
	Now func() time.Time
	// PagesPerPiece is how many pages of a long history are committed at once.
	PagesPerPiece int
}

func (o Outside) openStore(ctx context.Context, cfg config.Config) (mirror.Store, error) {
	if o.Store != nil {
		return o.Store(ctx, cfg)
	}
	return OpenStore(ctx, cfg)
}

func (o Outside) openRedis(ctx context.Context, url string) (*redisconn.Conn, error) {
	if o.Redis != nil {
		return o.Redis(ctx, url)
	}
	return redisconn.Open(ctx, url)
}
