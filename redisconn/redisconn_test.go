package redisconn

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, url string) *Conn {
	t.Helper()
	c, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func roundTrip(t *testing.T, c *Conn) {
	t.Helper()
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Client.Get(t.Context(), "k").Result(); got != "v" || err != nil {
		t.Fatalf("get = %q, %v", got, err)
	}
}

func TestEmbedded(t *testing.T) {
	t.Parallel()
	c := open(t, "")
	if !c.Embedded || c.Cluster || c.Partitions != 1 {
		t.Fatalf("embedded conn: %+v", c)
	}
	roundTrip(t, c)
	d, err := c.Durability(t.Context())
	if err != nil || d.Durable || d.Evicts || len(d.Reasons) != 1 {
		t.Fatalf("durability %+v, %v", d, err)
	}
	// Another local process does not get in.
	stranger := open(t, "redis://"+c.server.Addr())
	if err := stranger.Ping(t.Context()); err == nil {
		t.Fatal("the embedded redis let a stranger in")
	}
}

func TestSingleServer(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--requirepass", "s3cret pass/word")
	c := open(t, s.URLWithPassword())
	if c.Embedded || c.Cluster || c.Partitions != 1 {
		t.Fatalf("conn: %+v", c)
	}
	roundTrip(t, c)
}

func TestCluster(t *testing.T) {
	t.Parallel()
	s := redistest.StartCluster(t, 3)
	c := open(t, s.URL)
	if !c.Cluster || c.Partitions != ClusterPartitions {
		t.Fatalf("conn: %+v", c)
	}
	roundTrip(t, c)
	d, err := c.Durability(t.Context())
	if err != nil || !d.Durable {
		t.Fatalf("durability %+v, %v", d, err)
	}
	// One node that disagrees makes the whole cluster not durable.
	one := open(t, s.Nodes[1].URL)
	if err := one.Client.ConfigSet(t.Context(), "appendfsync", "everysec").Err(); err != nil {
		t.Fatal(err)
	}
	d, err = c.Durability(t.Context())
	if err != nil || d.Durable || len(d.Reasons) != 1 {
		t.Fatalf("durability with one lazy node %+v, %v", d, err)
	}
}

func TestSentinelFollowsTheMaster(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	c := open(t, s.URL)
	roundTrip(t, c)
	s.Master.Kill()
	// The sentinel promotes the replica; the same connection must find it.
	for ctx, tries := t.Context(), 0; ; tries++ {
		err := c.Client.Set(ctx, "after", "failover", 0).Err()
		if err == nil {
			break
		}
		if tries > 400 {
			t.Fatalf("no master after failover: %v", err)
		}
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(50 * time.Millisecond): // a retry interval, not a wait for a known moment
		}
	}
}

func TestDurabilityOfSettings(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	c := open(t, s.URL)
	for _, tc := range []struct {
		name            string
		set             [][2]string
		durable, evicts bool
		reasons         int
	}{
		{"as the tests start it", nil, true, false, 0},
		{"fsync once a second", [][2]string{{"appendfsync", "everysec"}}, false, false, 1},
		{"no append-only file", [][2]string{{"appendonly", "no"}}, false, false, 1},
		{"evicting policy without a limit", [][2]string{{"maxmemory-policy", "allkeys-lru"}}, false, false, 1},
		{"evicting policy with a limit", [][2]string{{"maxmemory-policy", "volatile-lru"}, {"maxmemory", "100mb"}}, false, true, 1},
		{"limit without eviction", [][2]string{{"maxmemory", "100mb"}}, true, false, 0},
	} {
		for _, kv := range append([][2]string{
			{"appendonly", "yes"}, {"appendfsync", "always"}, {"maxmemory", "0"}, {"maxmemory-policy", "noeviction"},
		}, tc.set...) {
			if err := c.Client.ConfigSet(t.Context(), kv[0], kv[1]).Err(); err != nil {
				t.Fatal(err)
			}
		}
		d, err := c.Durability(t.Context())
		if err != nil || d.Durable != tc.durable || d.Evicts != tc.evicts || len(d.Reasons) != tc.reasons {
			t.Errorf("%s: %+v, %v", tc.name, d, err)
		}
	}
}

func TestDurabilityWhereConfigIsRefused(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	admin := open(t, s.URL)
	acl := []any{"ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-config"}
	if err := admin.Client.Do(t.Context(), acl...).Err(); err != nil {
		t.Fatal(err)
	}
	c := open(t, strings.Replace(s.URL, "redis://", "redis://app:pw@", 1))
	d, err := c.Durability(t.Context())
	if err != nil || d.Durable || d.Evicts || len(d.Reasons) != 1 {
		t.Fatalf("%+v, %v", d, err)
	}
	// Eviction is seen all the same.
	for _, kv := range [][2]string{{"maxmemory", "100mb"}, {"maxmemory-policy", "allkeys-lfu"}} {
		if err := admin.Client.ConfigSet(t.Context(), kv[0], kv[1]).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if d, err = c.Durability(t.Context()); err != nil || !d.Evicts {
		t.Fatalf("%+v, %v", d, err)
	}
}

func TestDurabilityFailsWhenRedisIsGone(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	c := open(t, s.URL)
	s.Kill()
	if d, err := c.Durability(t.Context()); err == nil {
		t.Fatalf("a dead redis said %+v", d)
	}
}

// F14: a hanging Redis must not hold a webhook for longer than its deadline.
func TestHangingServerObeysDeadline(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	c := open(t, s.URL)
	roundTrip(t, c)
	s.Pause()
	defer s.Continue()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := c.Client.Set(ctx, "k", "v", 0).Err()
	if took := time.Since(start); err == nil || took > patience.Of(2*time.Second) {
		t.Fatalf("err %v after %s", err, took)
	}
	if ne, ok := errors.AsType[net.Error](err); !errors.Is(err, context.DeadlineExceeded) && (!ok || !ne.Timeout()) {
		t.Fatalf("not a timeout: %v", err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	c, err := parse("rediss+cluster://me:p%40ss@a:1,b,[::1]:3?pool_size=7&route_randomly=true")
	if err != nil {
		t.Fatal(err)
	}
	o := c.cluster
	if diff := cmp.Diff([]string{"a:1", "b:6379", "[::1]:3"}, o.Addrs); diff != "" {
		t.Error(diff)
	}
	if o.Username != "me" || o.Password != "p@ss" || o.PoolSize != 7 || o.RouteRandomly || o.TLSConfig == nil || o.TLSConfig.ServerName != "" {
		t.Errorf("cluster options %q %q %d", o.Username, o.Password, o.PoolSize)
	}
	if !o.ContextTimeoutEnabled || o.ReadTimeout != IOTimeout || o.DialTimeout != DialTimeout {
		t.Error("cluster timeouts not set")
	}
	f, err := parse("redis+sentinel://:pw@s1:26379,s2:26379/main/2?sentinel_password=spw&read_timeout=1s")
	if err != nil {
		t.Fatal(err)
	}
	s := f.failover
	if diff := cmp.Diff([]string{"s1:26379", "s2:26379"}, s.SentinelAddrs); diff != "" {
		t.Error(diff)
	}
	if s.MasterName != "main" || s.DB != 2 || s.Password != "pw" || s.SentinelPassword != "spw" || s.ReadTimeout != time.Second || s.TLSConfig != nil {
		t.Errorf("sentinel options %+v", s)
	}
	one, err := parse("rediss://u:p@host/3")
	if err != nil {
		t.Fatal(err)
	}
	if o := one.single; o.DB != 3 || o.TLSConfig.ServerName != "host" || o.MaxRetries != maxRetries || !o.ContextTimeoutEnabled {
		t.Errorf("single options %+v", o)
	}
}

func TestBadURLsNameNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for _, raw := range []string{
		secret, "http://u:" + secret + "@h", "redis://u:" + secret + "/x@h:1", "redis://u:" + secret + "@h:port",
		"redis://u:" + secret + "@h/notanumber", "redis://u:" + secret + "?x@h", "redis://u:%zz" + secret + "@h",
		"redis+cluster://u:" + secret + "@", "redis+cluster://u:" + secret + "@a:1,,b:2", "redis+cluster://u:" + secret + "@a:1/4",
		"redis+cluster://u:" + secret + "@a:99999", "redis+cluster://u:%zz" + secret + "@a:1", "redis+cluster://u:" + secret + "@a:1?nope=" + secret,
		"redis+sentinel://u:" + secret + "@a:1", "redis+sentinel://u:" + secret + "@a:1/m/x", "redis+sentinel://u:" + secret + "@a:1/m/0/9",
		"redis+sentinel://a:1/m?sentinel_password=" + secret + "&bogus=1", "redis+sentinel://a:1/m?pool_size=" + secret,
		"redis+cluster://u:" + secret, "redis+sentinel://u:" + secret + "/m", "redis://u:" + secret,
		"redis://u:p@h?pool_size=" + secret, "redis+cluster://a:1?x=%zz" + secret,
	} {
		c, err := Open(t.Context(), raw)
		if err == nil {
			_ = c.Close()
			t.Errorf("%q was taken", raw)
			continue
		}
		if _, ok := errors.AsType[*ParseError](err); !ok || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}
