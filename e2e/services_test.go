//go:build unix

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/redistest"
	"github.com/creditmirror/creditmirror/stripesim"
)

// outage is a fault of a service: begin breaks it under traffic, end mends it.
type outage struct {
	name       string
	begin, end func(s *serviceRun)
	// within is how soon after the end the first sync has to be done; 0: any time.
	within time.Duration
}

// serviceRun is a world whose Redis and PostgreSQL are reached through proxies.
type serviceRun struct {
	*world
	node         *node
	redisLine    *proxy
	postgresLine *proxy
	traffic      *stripesim.Traffic
	saved        string // an older copy of Redis's folder
	replica      *redistest.Server
}

func newServiceRun(t *testing.T) *serviceRun {
	// These outlive the world, which looks at its database once more in the end.
	s := &serviceRun{replica: redistest.Start(t, everysec.redis...), redisLine: newProxy(t), postgresLine: newProxy(t)}
	s.world = newWorld(t, everysec, setup{ownPostgres: true})
	s.redisLine.target(s.redis.Addr)
	s.env["CREDITMIRROR_REDIS_URL"] = "redis://" + s.redisLine.addr
	u, err := url.Parse(s.env["CREDITMIRROR_DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	s.postgresLine.target(u.Host)
	if err := migrate(u.String()); err != nil {
		t.Fatal(err)
	}
	s.tables() // looks at the server itself, past the proxy
	s.reader()
	u.Host = s.postgresLine.addr
	s.env["CREDITMIRROR_DATABASE_URL"] = u.String()
	s.traffic = s.seeded(stripesim.TrafficOptions{Seed: 21, Customers: 30, Rate: 30})
	s.node = s.spawn(nil)
	s.copied()
	s.equal()
	return s
}

func (s *serviceRun) redisDo(args ...any) {
	s.tb.Helper()
	rdb := s.rdb()
	defer func() { _ = rdb.Close() }()
	if err := rdb.Do(s.tb.Context(), args...).Err(); err != nil {
		s.tb.Fatalf("%v: %v", args, err)
	}
}

func (s *serviceRun) postgresDo(sql ...string) {
	s.tb.Helper()
	for _, statement := range sql {
		s.pg.Exec(s.tb, "postgres", statement)
	}
}

const dropConnections = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"

// cutAOF takes bytes from the end of the append-only file, as a power cut does.
func (s *serviceRun) cutAOF() {
	s.tb.Helper()
	files, err := filepath.Glob(filepath.Join(s.redis.Dir(), "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) == 0 {
		s.tb.Fatalf("no append-only file: %v", err)
	}
	file := files[len(files)-1]
	info, err := os.Stat(file)
	if err != nil {
		s.tb.Fatal(err)
	}
	if err := os.Truncate(file, max(0, info.Size()-rand.Int64N(min(info.Size(), 20_000)+1))); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *serviceRun) saveAOF() {
	s.tb.Helper()
	s.saved = s.tb.TempDir()
	if err := os.CopyFS(filepath.Join(s.saved, "appendonlydir"), os.DirFS(filepath.Join(s.redis.Dir(), "appendonlydir"))); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *serviceRun) restoreAOF() {
	s.tb.Helper()
	dir := filepath.Join(s.redis.Dir(), "appendonlydir")
	if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(filepath.Join(s.saved, "appendonlydir")))); err != nil {
		s.tb.Fatal(err)
	}
}

// redisOutages and postgresOutages are tried one after the other in one world.
var redisOutages = []outage{
	{name: "killed", begin: func(s *serviceRun) { s.redis.Kill() }, end: func(s *serviceRun) { s.redis.Restart() }, within: 3 * time.Second},
	{name: "hangs", begin: func(s *serviceRun) { s.redis.Pause() }, end: func(s *serviceRun) { s.redis.Continue() }, within: 3 * time.Second},
	{name: "SCRIPT FLUSH", begin: func(s *serviceRun) { s.redisDo("SCRIPT", "FLUSH") }, end: func(*serviceRun) {}},
	{name: "FLUSHALL", begin: func(s *serviceRun) { s.redisDo("FLUSHALL") }, end: func(*serviceRun) {}},
	{
		name: "out of memory", begin: func(s *serviceRun) { s.redisDo("CONFIG", "SET", "maxmemory", "1") },
		end: func(s *serviceRun) { s.redisDo("CONFIG", "SET", "maxmemory", "0") },
	},
	{
		name: "READONLY", begin: func(s *serviceRun) { s.redisDo("REPLICAOF", "127.0.0.1", "1") },
		end: func(s *serviceRun) { s.redisDo("REPLICAOF", "NO", "ONE") },
	},
	{
		name: "policy changed", begin: func(s *serviceRun) { s.redisDo("CONFIG", "SET", "maxmemory-policy", "allkeys-lru") },
		end: func(s *serviceRun) { s.redisDo("CONFIG", "SET", "maxmemory-policy", "noeviction") },
	},
	{name: "AOF cut at a random byte", begin: func(s *serviceRun) { s.redis.Kill(); s.cutAOF() }, end: func(s *serviceRun) { s.redis.Restart() }},
	{name: "older AOF", begin: func(s *serviceRun) { s.saveAOF() }, end: func(s *serviceRun) {
		s.redis.Kill()
		s.restoreAOF()
		s.redis.Restart()
	}},
	{name: "failover to a replica that lags", begin: func(s *serviceRun) {
		host, port, _ := strings.Cut(s.redis.Addr, ":")
		own := *s
		own.world = &world{tb: s.tb, redis: s.replica, env: s.env}
		own.redisDo("REPLICAOF", host, port)
		eventually(s.tb, 20*time.Second, "the replica is in step", func() error {
			rdb := own.rdb()
			defer func() { _ = rdb.Close() }()
			text, err := rdb.Info(s.tb.Context(), "replication").Result()
			if err == nil && !strings.Contains(text, "master_link_status:up") {
				err = errors.New("it is not")
			}
			return err
		})
		own.redisDo("REPLICAOF", "NO", "ONE") // it hears nothing more
	}, end: func(s *serviceRun) { s.redisLine.target(s.replica.Addr); s.redis = s.replica }},
	{name: "connections cut", begin: func(s *serviceRun) { s.redisLine.cut() }, end: func(s *serviceRun) { s.redisLine.cut() }, within: 3 * time.Second},
	{name: "half-open", begin: func(s *serviceRun) { s.redisLine.silent.Store(true) }, end: func(s *serviceRun) { s.redisLine.silent.Store(false) }},
	{
		name: "latency 50ms", begin: func(s *serviceRun) { s.redisLine.latency.Store(int64(50 * time.Millisecond)) },
		end: func(s *serviceRun) { s.redisLine.latency.Store(0) },
	},
}

var postgresOutages = []outage{
	{name: "killed", begin: func(s *serviceRun) { s.pg.Kill() }, end: func(s *serviceRun) { s.pg.Restart(s.tb) }, within: 5 * time.Second},
	{name: "backends terminated", begin: func(s *serviceRun) { s.postgresDo(dropConnections) }, end: func(s *serviceRun) { s.postgresDo(dropConnections) }, within: 5 * time.Second},
	{
		name: "read-only", begin: func(s *serviceRun) {
			s.postgresDo("ALTER DATABASE "+s.database()+" SET default_transaction_read_only = on", dropConnections)
		},
		end: func(s *serviceRun) {
			s.postgresDo("ALTER DATABASE "+s.database()+" RESET default_transaction_read_only", dropConnections)
		},
	},
	{
		name: "out of connections", begin: func(s *serviceRun) {
			// It binds all but superusers, so the limit is the server's own.
			s.postgresDo("ALTER DATABASE "+s.database()+" CONNECTION LIMIT 0", dropConnections)
		},
		end: func(s *serviceRun) { s.postgresDo("ALTER DATABASE " + s.database() + " CONNECTION LIMIT -1") },
	},
	{name: "cut between COMMIT and its answer", begin: func(s *serviceRun) {
		text := "COMMIT\x00" // how the server says that it is done
		s.postgresLine.cutAnswer.Store(&text)
	}, end: func(s *serviceRun) {
		s.postgresLine.cutAnswer.Store(nil)
		if s.postgresLine.cuts.Load() == 0 {
			s.tb.Error("no COMMIT was cut")
		}
	}},
	{
		name: "serializable as default", begin: func(s *serviceRun) {
			s.postgresDo("ALTER SYSTEM SET default_transaction_isolation = 'serializable'", "SELECT pg_reload_conf()", dropConnections)
		},
		end: func(s *serviceRun) {
			s.postgresDo("ALTER SYSTEM RESET default_transaction_isolation", "SELECT pg_reload_conf()", dropConnections)
		},
	},
	{name: "connections cut", begin: func(s *serviceRun) { s.postgresLine.cut() }, end: func(s *serviceRun) { s.postgresLine.cut() }, within: 5 * time.Second},
	{name: "half-open", begin: func(s *serviceRun) { s.postgresLine.silent.Store(true) }, end: func(s *serviceRun) { s.postgresLine.silent.Store(false) }},
	{
		name: "latency 50ms", begin: func(s *serviceRun) { s.postgresLine.latency.Store(int64(50 * time.Millisecond)) },
		end: func(s *serviceRun) { s.postgresLine.latency.Store(0) },
	},
}

func (s *serviceRun) database() string {
	u, err := url.Parse(s.env["CREDITMIRROR_DATABASE_URL"])
	if err != nil {
		s.tb.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

// TestFaultServices breaks Redis and PostgreSQL, and the lines to them, under
// traffic, each for some seconds, and wants an equal mirror after each. The times are
// those from the end of the fault to the first sync and to equality.
func TestFaultServices(t *testing.T) {
	sel := selected(t)
	for name, outages := range map[string][]outage{"redis": redisOutages, "postgres": postgresOutages} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s *serviceRun
			for _, o := range outages {
				if !sel.steps.MatchString(name + " " + o.name) {
					continue
				}
				if s == nil {
					s = newServiceRun(t)
				}
				first, all := s.breaks(o)
				t.Logf("%s %s: first sync %.1f s after its end, equal after %.1f s", name, o.name, first.Seconds(), all.Seconds())
			}
		})
	}
}

func (s *serviceRun) breaks(o outage) (first, all time.Duration) {
	s.tb.Helper()
	ctx, cancel := context.WithCancel(s.tb.Context())
	done := make(chan error, 1)
	go func() { done <- s.traffic.Run(ctx) }()
	o.begin(s)
	until := time.Now().Add(3 * time.Second)
	eventually(s.tb, 10*time.Second, "the fault lasts", that(func() bool { return time.Now().After(until) }))
	before := s.node.metric("creditmirror_sync_total", `outcome="ok"`)
	o.end(s)
	ended := time.Now()
	eventually(s.tb, 30*time.Second, o.name+": a sync succeeds again", func() error {
		if now := s.node.metric("creditmirror_sync_total", `outcome="ok"`); now <= before {
			return fmt.Errorf("%v before, %v now", before, now)
		}
		return nil
	})
	first = time.Since(ended)
	cancel()
	if err := <-done; err != nil && ctx.Err() == nil {
		s.tb.Error(err)
	}
	if o.within > 0 && first > o.within {
		s.tb.Errorf("%s: the first sync was %.1f s after the end, want %v", o.name, first.Seconds(), o.within)
	}
	s.equalWithin(90 * time.Second)
	return first, time.Since(ended)
}
