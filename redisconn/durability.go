package redisconn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Durability is what Redis says about keeping what it acknowledged.
type Durability struct {
	// Durable is true only when every master says appendonly yes, appendfsync
	// always and maxmemory-policy noeviction: then an acknowledged mark survives
	// kill -9 and a power cut of that server.
	Durable bool
	// Evicts is true when a master may delete keys to make room: its policy is
	// not noeviction and it has a memory limit. Such a Redis must not be used.
	Evicts bool
	// Reasons say, one per setting and server, why Durable is false or Evicts
	// true. Empty when Durable.
	Reasons []string
}

// Durability asks Redis for its persistence and eviction settings. An error
// means that Redis could not be asked; a Redis that refuses to answer (managed
// services do) is reported as not durable, with that reason.
func (c *Conn) Durability(ctx context.Context) (Durability, error) {
	if c.Embedded {
		return Durability{Reasons: []string{"the embedded redis keeps nothing when the process ends"}}, nil
	}
	var (
		mu  sync.Mutex
		all []Durability
	)
	ask := func(ctx context.Context, n *redis.Client) error {
		d, err := durabilityOf(ctx, n)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, d)
		return nil
	}
	var err error
	switch n := c.Client.(type) {
	case *redis.ClusterClient:
		err = n.ForEachMaster(ctx, ask)
	case *redis.Client:
		err = ask(ctx, n)
	default:
		err = fmt.Errorf("unknown kind of client %T", n)
	}
	if err != nil {
		return Durability{}, fmt.Errorf("read redis settings: %w", err)
	}
	if len(all) == 0 {
		return Durability{Reasons: []string{"no master known"}}, nil
	}
	sum := Durability{Durable: true}
	for _, d := range all {
		sum.Durable = sum.Durable && d.Durable
		sum.Evicts = sum.Evicts || d.Evicts
		sum.Reasons = append(sum.Reasons, d.Reasons...)
	}
	slices.Sort(sum.Reasons)
	sum.Reasons = slices.Compact(sum.Reasons)
	return sum, nil
}

// durabilityOf asks one server.
func durabilityOf(ctx context.Context, n *redis.Client) (Durability, error) {
	s := settings{config: map[string]string{}}
	for _, name := range []string{"appendonly", "appendfsync", "maxmemory", "maxmemory-policy"} {
		values, err := n.ConfigGet(ctx, name).Result()
		if err != nil {
			if !refused(err) {
				return Durability{}, err
			}
			s.refused = true
			break
		}
		s.config[name] = values[name]
	}
	if s.refused {
		// INFO is allowed where CONFIG is not. It knows of eviction, and of the
		// append-only file but not how often that is synced.
		info, err := n.Info(ctx, "memory").Result()
		if err != nil && !refused(err) {
			return Durability{}, err
		}
		s.config["maxmemory"] = infoField(info, "maxmemory")
		s.config["maxmemory-policy"] = infoField(info, "maxmemory_policy")
	}
	return s.judge(), nil
}

// settings is what one server said of itself.
type settings struct {
	config  map[string]string
	refused bool // CONFIG GET is not allowed
}

func (s settings) judge() Durability {
	var d Durability
	if s.refused {
		d.Reasons = append(d.Reasons, "CONFIG GET is refused, so appendfsync is unknown")
	} else {
		for _, want := range []struct{ name, value string }{{"appendonly", "yes"}, {"appendfsync", "always"}} {
			if got := s.config[want.name]; got != want.value {
				d.Reasons = append(d.Reasons, fmt.Sprintf("%s is %q, want %q", want.name, got, want.value))
			}
		}
	}
	if policy := s.config["maxmemory-policy"]; policy != "noeviction" {
		d.Reasons = append(d.Reasons, fmt.Sprintf("maxmemory-policy is %q, want \"noeviction\"", policy))
		limit, err := strconv.ParseInt(s.config["maxmemory"], 10, 64)
		// An unknown policy or limit is not called eviction: that word stops
		// the process.
		d.Evicts = policy != "" && err == nil && limit > 0
	}
	d.Durable = len(d.Reasons) == 0
	return d
}

// refused distinguishes a server that answers "not for you" or "no such command" from
// one that is loading, busy or gone.
func refused(err error) bool {
	if _, ok := errors.AsType[redis.Error](err); !ok {
		return false
	}
	msg := strings.ToLower(err.Error())
	return strings.HasPrefix(msg, "noperm") || strings.Contains(msg, "unknown command") ||
		strings.Contains(msg, "unknown subcommand") || strings.Contains(msg, "not allowed") ||
		strings.Contains(msg, "disabled") || strings.Contains(msg, "not supported")
}

// infoField picks one field out of an INFO reply.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
