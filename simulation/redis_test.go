package simulation

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/creditmirror/creditmirror/redisconn"
)

// openRedis connects a process to the world's Redis: no socket, and an await point
// before each command.
func (p *process) openRedis(context.Context, string) (*redisconn.Conn, error) {
	client := redis.NewClient(&redis.Options{
		Addr: "redis.test:6379", DisableIdentity: true, Protocol: 2, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		DialTimeout:              redisconn.DialTimeout, ReadTimeout: redisconn.IOTimeout, WriteTimeout: redisconn.IOTimeout,
		PoolTimeout: redisconn.IOTimeout, MaxRetries: 1, DialerRetries: 1, PoolSize: 64,
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			if p.dead || p.w.window(faultRedisAway) {
				return nil, errAway
			}
			return p.w.redis.Dial()
		},
	})
	client.AddHook(redisHook{p})
	return &redisconn.Conn{Client: client, Embedded: p.w.embedded, Partitions: 1}, nil
}

type redisHook struct{ p *process }

func (h redisHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h redisHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c, err := h.p.w.park(ctx, h.p, seamRedis, commandName(cmd))
		if err == nil {
			if err = next(ctx, cmd); err == nil {
				err = h.p.answer(c)
			}
		}
		if err != nil {
			cmd.SetErr(err)
		}
		return err
	}
}

func (h redisHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c, err := h.p.w.park(ctx, h.p, seamRedis, "pipeline "+commandName(cmds[0]))
		if err == nil {
			if err = next(ctx, cmds); err == nil {
				err = h.p.answer(c)
			}
		}
		if err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
		}
		return err
	}
}

// answer is what a caller learns of a call that took effect.
func (p *process) answer(c *call) error {
	switch {
	case p.dead:
		return errDead
	case c.lost:
		return errLost
	}
	return nil
}

// commandName names a command by all its words that are the same in every run.
func commandName(cmd redis.Cmder) string {
	name, args := cmd.Name(), cmd.Args()
	first := 1
	if name == "eval" {
		first = 2 // the script's text
	}
	h := uint64(len(args))
	for i := first; i < len(args); i++ {
		if text, ok := args[i].(string); ok && !random.MatchString(text) {
			h = hashText(h, text)
		}
	}
	return fmt.Sprintf("%s %06x", name, h&0xffffff)
}

// random is what crypto/rand.Text makes.
var random = regexp.MustCompile(`[A-Z2-7]{26}`)

// redisCopy is what a Redis holds, to be rewound to.
type redisCopy struct {
	hashes  map[string]map[string]string
	sets    map[string]map[string]float64
	strings map[string]string
	ttl     map[string]time.Duration
}

func copyRedis(m *miniredis.Miniredis) (redisCopy, error) {
	r := redisCopy{map[string]map[string]string{}, map[string]map[string]float64{}, map[string]string{}, map[string]time.Duration{}}
	for _, k := range m.Keys() {
		r.ttl[k] = m.TTL(k)
		switch kind := m.Type(k); kind {
		case "hash":
			fields, err := m.HKeys(k)
			if err != nil {
				return r, err
			}
			r.hashes[k] = map[string]string{}
			for _, f := range fields {
				r.hashes[k][f] = m.HGet(k, f)
			}
		case "zset":
			set, err := m.SortedSet(k)
			if err != nil {
				return r, err
			}
			r.sets[k] = set
		case "string":
			text, err := m.Get(k)
			if err != nil {
				return r, err
			}
			r.strings[k] = text
		default:
			return r, fmt.Errorf("redis holds a %s at %s, which the simulation cannot copy", kind, k)
		}
	}
	return r, nil
}

func (r redisCopy) restore(m *miniredis.Miniredis) error {
	m.FlushAll()
	for k, fields := range r.hashes {
		for f, v := range fields {
			m.HSet(k, f, v)
		}
	}
	for k, set := range r.sets {
		for member, score := range set {
			if _, err := m.ZAdd(k, score, member); err != nil {
				return err
			}
		}
	}
	for k, text := range r.strings {
		if err := m.Set(k, text); err != nil {
			return err
		}
	}
	for k, ttl := range r.ttl {
		if ttl > 0 {
			m.SetTTL(k, ttl)
		}
	}
	return nil
}
