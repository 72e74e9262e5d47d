//go:build unix

package e2e

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx" for looking at tables
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/demo"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/internal/redistest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/stripesim"
	"github.com/creditmirror/creditmirror/webhook"
)

const apiKey = "sk_test_creditmirrorEndToEnd"

// client is everybody's but creditmirror's and the simulator's own.
var client = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}

// backend is a kind of database and Redis.
type backend struct {
	name     string
	external bool // PostgreSQL and redis-server, else SQLite and the embedded Redis
	// redis is how a redis-server is set up; by its settings the inbox is on or off.
	redis []string
}

var (
	embedded = backend{name: "sqlite, embedded redis"}
	// durable Redis needs no inbox: what it acknowledged it keeps.
	external = backend{name: "postgres, redis-server", external: true}
	// everysec is what most people's Redis is like, so the inbox is on.
	everysec = backend{name: "postgres, redis-server everysec", external: true, redis: []string{"--appendfsync", "everysec"}}
)

// each runs a test on both kinds of backend.
func each(t *testing.T, test func(t *testing.T, b backend)) {
	t.Helper()
	on(t, []backend{embedded, external}, test)
}

func on(t *testing.T, backends []backend, test func(t *testing.T, b backend)) {
	t.Helper()
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) { test(t, b) })
	}
}

// setup is what a test wants different from the usual.
type setup struct {
	sim stripesim.Options
	// env are settings of every process, over the usual ones.
	env map[string]string
	// ownPostgres gives the test a server that it may kill.
	ownPostgres bool
	// noEndpoint: no webhook endpoint is registered.
	noEndpoint bool
	// connect registers a second endpoint, for events of connected accounts.
	connect bool
	// thin registers event destinations of thin events in place of webhook endpoints.
	thin bool
}

// world is a company's account at Stripe, and what creditmirror runs on.
type world struct {
	tb      testing.TB
	backend backend
	binary  *built // what spawn runs
	sim     *stripesim.Server
	simURL  string
	stripe  user
	env     map[string]string
	redis   *redistest.Server // nil: embedded
	pg      *pgtest.Server    // nil unless the test has one of its own
	// webhook is where the endpoint's events go; secrets are the endpoints' in the
	// order of their making.
	webhook string
	secrets []string
	log     *logBuffer
	// ignored customers are left out of the comparison.
	ignored map[string]bool

	onRequest atomic.Pointer[func(endpoint string, r *http.Request)]
	onReply   atomic.Pointer[func(r *http.Request, body []byte) []byte]

	mu    sync.Mutex
	nodes []*node
	store mirror.Store
	db    *sql.DB
	watch *watch
}

func newWorld(tb testing.TB, b backend, s setup) *world {
	tb.Helper()
	w := &world{tb: tb, backend: b, binary: binary, log: &logBuffer{}, ignored: map[string]bool{}}
	if s.sim.Delivery == (stripesim.Delivery{}) {
		s.sim.Delivery = stripesim.Delivery{RetryFirst: 200 * time.Millisecond, RetryMax: 2 * time.Second, Attempts: 60}
	}
	s.sim.OnRequest = func(endpoint string, r *http.Request) {
		if hook := w.onRequest.Load(); hook != nil {
			(*hook)(endpoint, r)
		}
	}
	var err error
	if w.sim, err = stripesim.New(s.sim); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(w.sim.Close)
	server := httptest.NewServer(w.replies(w.sim.Handler()))
	tb.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	w.simURL = server.URL
	w.stripe = user{tb: tb, base: w.simURL}

	w.webhook = reserve(tb)
	w.env = map[string]string{
		"STRIPE_API_KEY": apiKey, "STRIPE_API_BASE": w.simURL,
		"CREDITMIRROR_STRIPE_RPS": "2000", "CREDITMIRROR_STRIPE_ENDPOINT_RPS": "1000",
		"CREDITMIRROR_EVENTS_INTERVAL": "1s", "CREDITMIRROR_API_ADDR": "127.0.0.1:0",
	}
	endpoint := w.stripe.endpoint
	if s.thin {
		endpoint = w.stripe.destination
	}
	if !s.noEndpoint {
		w.secrets = append(w.secrets, endpoint("http://"+w.webhook+webhook.Path, false))
	}
	if s.connect {
		w.secrets = append(w.secrets, endpoint("http://"+w.webhook+webhook.Path, true))
	}
	if len(w.secrets) == 0 {
		w.secrets = []string{"whsec_nobodyHasRegisteredThisOne0123"}
	}
	w.env["STRIPE_WEBHOOK_SECRET"] = strings.Join(w.secrets, ",")
	w.services(s)
	maps.Copy(w.env, s.env)
	tb.Cleanup(w.finish)
	return w
}

// services starts the database and Redis.
func (w *world) services(s setup) {
	w.tb.Helper()
	if !w.backend.external {
		w.env["CREDITMIRROR_DATABASE_URL"] = "sqlite:" + filepath.Join(w.tb.TempDir(), "mirror.db")
		return
	}
	if s.ownPostgres {
		w.pg = pgtest.Start(w.tb)
		w.env["CREDITMIRROR_DATABASE_URL"] = w.pg.NewDatabase(w.tb)
	} else {
		w.env["CREDITMIRROR_DATABASE_URL"] = pgtest.NewCopy(w.tb, migrate)
	}
	w.redis = redistest.Start(w.tb, w.backend.redis...)
	w.env["CREDITMIRROR_REDIS_URL"] = w.redis.URL
}

func migrate(url string) error {
	s, err := postgres.Open(context.Background(), url, postgres.Options{})
	if err != nil {
		return err
	}
	return errors.Join(s.Migrate(context.Background()), s.Close())
}

// environ is env for a process, with some settings of its own.
func (w *world) environ(own map[string]string) []string {
	all := maps.Clone(w.env)
	maps.Copy(all, own)
	var list []string
	for name, value := range all {
		list = append(list, name+"="+value)
	}
	return list
}

// reader opens the mirror beside the processes that work on it.
func (w *world) reader() mirror.Store {
	w.tb.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.store != nil {
		return w.store
	}
	cfg, err := config.Load(w.environ(nil))
	if err != nil {
		w.tb.Fatal(err)
	}
	if w.store, err = app.OpenStore(w.tb.Context(), cfg); err != nil {
		w.tb.Fatal(err)
	}
	return w.store
}

// tables opens the database to look at its tables as they are.
func (w *world) tables() *sql.DB {
	w.tb.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.db != nil {
		return w.db
	}
	var err error
	if w.db, err = openTables(w.env["CREDITMIRROR_DATABASE_URL"], "query_only(1)"); err != nil {
		w.tb.Fatal(err)
	}
	return w.db
}

// openTables opens a database beside the program; pragmas are for SQLite.
func openTables(url string, pragmas ...string) (*sql.DB, error) {
	path, ok := strings.CutPrefix(url, "sqlite:")
	if !ok {
		return sql.Open("pgx", url)
	}
	dsn := "file:" + path + "?_pragma=busy_timeout(5000)"
	for _, p := range pragmas {
		dsn += "&_pragma=" + p
	}
	return sql.Open("sqlite", dsn)
}

// count is the number that a query for one returns; schema stands in it for the
// schema that tables are in.
func (w *world) count(query string, args ...any) int {
	w.tb.Helper()
	var n int
	if err := w.tables().QueryRowContext(w.tb.Context(), w.sql(query), args...).Scan(&n); err != nil {
		w.tb.Fatalf("%s: %v", query, err)
	}
	return n
}

func (w *world) sql(query string) string {
	schema := ""
	if w.backend.external {
		schema = "creditmirror."
	}
	return strings.ReplaceAll(query, "schema.", schema)
}

// hook is called before the simulator handles a request; nil ends that.
func (w *world) hook(f func(endpoint string, r *http.Request)) {
	if f == nil {
		w.onRequest.Store(nil)
		return
	}
	w.onRequest.Store(&f)
}

// rewriteReplies has Stripe's replies changed on their way; nil ends that.
func (w *world) rewriteReplies(f func(r *http.Request, body []byte) []byte) {
	if f == nil {
		w.onReply.Store(nil)
		return
	}
	w.onReply.Store(&f)
}

func (w *world) replies(stripe http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rewrite := w.onReply.Load()
		if rewrite == nil {
			stripe.ServeHTTP(rw, r)
			return
		}
		reply := httptest.NewRecorder()
		stripe.ServeHTTP(reply, r)
		maps.Copy(rw.Header(), reply.Header())
		rw.Header().Del("Content-Length")
		rw.WriteHeader(reply.Code)
		_, _ = rw.Write((*rewrite)(r, reply.Body.Bytes())) // a caller that is gone asks again
	})
}

func (w *world) faults(f ...stripesim.Fault) {
	w.tb.Helper()
	if err := w.sim.SetFaults(f); err != nil {
		w.tb.Fatal(err)
	}
}

// withoutEventsSweep makes Stripe refuse to list events, so that what heals does
// so without them.
func withoutEventsSweep() stripesim.Fault {
	return stripesim.Fault{Kind: stripesim.Fault500, Probability: 1, Endpoint: "GET /v1/events"}
}

// credited makes customers who owe a little.
func (w *world) credited(n int) (customers []string) {
	w.tb.Helper()
	for range n {
		c := w.stripe.customer()
		w.stripe.credit(c, 100, "usd")
		customers = append(customers, c)
	}
	return customers
}

// change changes a customer's balance on the simulator's own engine, past its
// faults of replies.
func (w *world) change(customer string, amount int64) string {
	w.tb.Helper()
	return w.changeIn("", customer, amount)
}

func (w *world) changeIn(account, customer string, amount int64) string {
	w.tb.Helper()
	id, err := w.sim.AddBalanceTransaction(account, customer, stripesim.BalanceChange{Amount: amount, Currency: "usd"})
	if err != nil {
		w.tb.Error(err)
	}
	return id
}

// traffic runs changes at a rate for a time.
func (w *world) traffic(t *stripesim.Traffic, d time.Duration) {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(w.tb.Context(), d)
	defer cancel()
	if err := t.Run(ctx); err != nil {
		w.tb.Error(err)
	}
}

// seeded makes customers with a past, and the traffic to come for them.
func (w *world) seeded(o stripesim.TrafficOptions) *stripesim.Traffic {
	w.tb.Helper()
	t, err := stripesim.NewTraffic(w.sim, o)
	if err != nil {
		w.tb.Fatal(err)
	}
	if err := t.Seed(w.tb.Context()); err != nil {
		w.tb.Fatal(err)
	}
	return t
}

// compare holds the mirror against the simulator once.
func (w *world) compare() (demo.Compared, error) {
	truth := slices.DeleteFunc(w.sim.Truth(), func(c stripesim.CustomerTruth) bool { return w.ignored[c.ID] })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := demo.Compare(ctx, w.reader(), truth)
	if err == nil && len(c.Differences) > 0 {
		err = fmt.Errorf("%d differences, such as %v", len(c.Differences), c.Differences[:min(5, len(c.Differences))])
	}
	return c, err
}

// equal waits until the mirror equals the simulator and nothing is in work, and
// then looks once more: a stale write would come last. It returns what was compared.
func (w *world) equal() demo.Compared {
	w.tb.Helper()
	return w.equalWithin(60 * time.Second)
}

func (w *world) equalWithin(d time.Duration) (c demo.Compared) {
	w.tb.Helper()
	defer func() {
		if w.tb.Failed() {
			w.tb.Logf("status: %s", w.statusText())
		}
	}()
	eventually(w.tb, d, "the mirror equals the simulator", func() (err error) {
		s, err := w.status() // first, because comparing costs more
		if err == nil && s.Queue.Ready+s.Queue.Leased > 0 {
			err = fmt.Errorf("the queue holds %+v", s.Queue)
		}
		if err == nil {
			c, err = w.compare()
		}
		return err
	})
	again, err := w.compare()
	if err != nil {
		w.tb.Fatalf("the mirror was equal, and then was not: %v", err)
	}
	return again
}

// status asks the last process that was started and still runs.
func (w *world) status() (app.Status, error) {
	w.mu.Lock()
	nodes := slices.Clone(w.nodes)
	w.mu.Unlock()
	for _, n := range slices.Backward(nodes) {
		if n.alive() {
			return n.status()
		}
	}
	return app.Status{}, errors.New("nothing runs")
}

func (w *world) statusText() string {
	s, err := w.status()
	if err != nil {
		return err.Error()
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// receipts is how many rows the inbox holds.
func (w *world) receipts() int { return w.count("SELECT count(*) FROM schema.stripe_events") }

// letters reads all dead letters.
func (w *world) letters() []mirror.DeadLetter {
	w.tb.Helper()
	list, err := w.reader().DeadLetters(w.tb.Context(), "", 1000)
	if err != nil {
		w.tb.Fatal(err)
	}
	return list
}

// finish stops what runs and asserts what must hold after every test.
func (w *world) finish() {
	w.tb.Helper()
	if w.watch != nil && !w.tb.Failed() {
		w.keepsNoStrayKeys()
	}
	w.mu.Lock()
	nodes := slices.Clone(w.nodes)
	w.mu.Unlock()
	for _, n := range slices.Backward(nodes) {
		if err := n.stop(); err != nil && !n.mayFail.Load() {
			w.tb.Errorf("stop: %v", err)
		}
	}
	if w.watch != nil {
		w.watch.end()
	}
	if w.store != nil {
		if err := w.store.Close(); err != nil {
			w.tb.Errorf("close the mirror: %v", err)
		}
	}
	if w.db != nil {
		_ = w.db.Close()
	}
	text := w.log.String()
	for _, secret := range append([]string{apiKey}, w.secrets...) {
		if strings.Contains(text, secret) {
			w.tb.Errorf("G22: the log tells a secret")
		}
	}
	if strings.Contains(text, "WARNING: DATA RACE") {
		w.tb.Errorf("a data race in the binary:\n%s", text[strings.Index(text, "WARNING: DATA RACE"):])
	}
	if w.tb.Failed() {
		w.tb.Logf("the log ends with:\n%s", w.log.tail(60))
	}
}

// reserved are the ports given out.
var reserved sync.Map

// reserve finds an address for a server to listen on, below the ports that
// outgoing connections take, so that it stays free while the server is down.
func reserve(tb testing.TB) string {
	tb.Helper()
	for range 200 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		if _, taken := reserved.LoadOrStore(addr, true); taken {
			continue
		}
		var lc net.ListenConfig
		l, err := lc.Listen(tb.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		_ = l.Close()
		return addr
	}
	tb.Fatal("no free port found")
	return ""
}
