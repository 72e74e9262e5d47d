package simulation

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
	"github.com/creditmirror/creditmirror/stripesim"
)

const (
	stripeKey = "sk_test_simulation"
	apiKey    = "simulation-write-key-0123456789"
	stripeRPS = 20
)

// violation is a broken invariant.
type violation struct {
	rule string // I1 to I20
	text string
}

func (v *violation) Error() string { return v.rule + ": " + v.text }

// world is one simulated life of a mirror.
type world struct {
	t       testing.TB
	seed    uint64
	plan    plan
	sched   *sched
	script  script
	folder  string
	stripe  *stripesim.Server
	replica *stripesim.Server
	answers http.Handler // the simulator's
	stale   http.Handler // its replica's
	redis   *miniredis.Miniredis
	copied  *redisCopy
	db      mirror.Store
	look    *sql.DB // the same file, for the checks
	looks   map[string]*sql.Stmt
	dbFile  string
	dbCount int
	// oldDB is a copy of the database that it can be rewound to.
	oldDB string

	embedded     bool
	page         int     // rows that a page of Stripe's holds at most
	slow         float64 // share of calls to and from Stripe that take seconds
	strictBudget bool
	processes    []*process
	started      int
	secret       string
	windows      map[fault]window

	model   *model
	touched map[string]bool // customers about whom something was committed since the invariants were checked; "" is any
	broken  *violation
	over    bool         // no more changes
	all     []*violation // with -sim.all
	calls   []time.Time
	offered map[string]bool // events that were brought to a process
	// simFeatures are those whose faults the simulator has been given.
	simFeatures feature
	clients     sync.WaitGroup
}

// process is one process of creditmirror.
type process struct {
	w       *world
	name    string
	dead    bool
	stalled time.Time     // its calls stand still until then
	skew    time.Duration // its clock is ahead of the world's
	cancel  context.CancelFunc
	done    chan struct{}
	err     error
	// exitSeen: it ended without being killed, and the world knows.
	exitSeen bool
	webhook  *listener
	api      *listener
	conns    []net.Conn
}

// window is how long a fault is in force, and how often it strikes.
type window struct {
	until time.Time
	odds  float64
}

func (w *world) window(f fault) bool { return time.Now().Before(w.windows[f].until) }

func (w *world) odds(f fault) float64 {
	if !w.window(f) {
		return 0
	}
	return w.windows[f].odds
}

func (w *world) fail(rule, format string, args ...any) {
	v := &violation{rule, fmt.Sprintf(format, args...)}
	if *flagAll {
		w.all = append(w.all, v)
		return
	}
	if w.broken == nil {
		w.broken = v
		w.say("BROKEN %s", w.broken)
	}
}

// template is a migrated database, made once.
var template = sync.OnceValues(func() ([]byte, error) {
	folder, err := os.MkdirTemp(shm(), "creditmirror-sim")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "template.db")
	ctx := context.Background()
	s, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		return nil, err
	}
	if err := s.Migrate(ctx); err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// shm is a folder in memory where there is one: no simulated disk ever loses power.
func shm() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// newWorld makes a world with nobody in it yet. It must be called within a bubble.
func newWorld(t testing.TB, seed uint64, p plan, trace func(string)) (*world, error) {
	empty, err := template()
	if err != nil {
		return nil, err
	}
	w := &world{
		t: t, seed: seed, plan: p, sched: newSched(seed), redis: miniredis.NewMiniRedis(), windows: map[fault]window{},
		embedded: p.embedded, page: p.page, slow: p.slow, strictBudget: true, offered: map[string]bool{}, touched: map[string]bool{}, looks: map[string]*sql.Stmt{},
	}
	w.sched.trace = trace
	w.model = newModel()
	if w.folder, err = os.MkdirTemp(shm(), "creditmirror-sim"); err != nil {
		return nil, err
	}
	if err := w.openDB(empty); err != nil {
		return nil, err
	}
	w.stripe, err = stripesim.New(stripesim.Options{
		Seed: int64(seed), LogSize: 100_000, // any number will do
		Delivery: stripesim.Delivery{Transport: fromStripe{w}, RetryFirst: 2 * time.Second, RetryMax: 20 * time.Second, Attempts: p.deliveries},
	})
	if err != nil {
		return nil, err
	}
	w.answers = w.stripe.Handler()
	hook, err := w.post(http.MethodPost, "/v1/webhook_endpoints", url.Values{
		"url": {"http://mirror.test/webhooks/stripe"}, "enabled_events[]": mirror.EventTypes(),
	})
	if err != nil {
		return nil, err
	}
	w.secret, _ = hook["secret"].(string)
	return w, nil
}

// openDB opens the database anew, with the content of a file.
func (w *world) openDB(content []byte) error {
	w.dbCount++
	w.dbFile = filepath.Join(w.folder, fmt.Sprintf("mirror%d.db", w.dbCount))
	if err := os.WriteFile(w.dbFile, content, 0o600); err != nil {
		return err
	}
	db, err := sqlite.Open(context.Background(), w.dbFile, sqlite.Options{Readers: 4})
	if err != nil {
		return err
	}
	w.db = db
	if w.look, err = sql.Open("sqlite", (&url.URL{Scheme: "file", Path: w.dbFile, RawQuery: "_pragma=query_only(1)"}).String()); err != nil {
		return err
	}
	w.look.SetMaxOpenConns(1)
	clear(w.looks)
	return nil
}

// closeDB closes the database.
func (w *world) closeDB() error {
	for _, s := range w.looks {
		_ = s.Close()
	}
	return errors.Join(w.look.Close(), w.db.Close())
}

// close ends the world and everything that runs in it.
func (w *world) close() {
	for _, p := range w.processes {
		w.kill(p)
	}
	for _, p := range w.processes {
		<-p.done
	}
	w.clients.Wait()
	// A read that was asked for freshly goes on when its request is gone, for as long as
	// a sync may take, and no longer.
	time.Sleep(time.Minute)
	w.stripe.Close()
	if w.replica != nil {
		w.replica.Close()
	}
	w.redis.Close()
	if err := w.closeDB(); err != nil {
		w.t.Errorf("close the database: %v", err)
	}
	if err := os.RemoveAll(w.folder); err != nil {
		w.t.Error(err)
	}
}

// start starts a process.
func (w *world) start(skew time.Duration) *process {
	w.started++
	p := &process{w: w, name: fmt.Sprintf("p%d", w.started), skew: skew, done: make(chan struct{})}
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	w.processes = append(w.processes, p)
	w.say("%s starts", p.name)
	go func() {
		defer close(p.done)
		p.err = p.serve(ctx)
	}()
	return p
}

func (p *process) serve(ctx context.Context) error {
	w := p.w
	environ := []string{
		"STRIPE_API_KEY=" + stripeKey, "STRIPE_WEBHOOK_SECRET=" + w.secret, "STRIPE_API_BASE=http://stripe.test",
		"CREDITMIRROR_DATABASE_URL=sqlite:simulated.db", "CREDITMIRROR_API_KEYS=write:" + apiKey,
		fmt.Sprintf("CREDITMIRROR_STRIPE_RPS=%d", stripeRPS), fmt.Sprintf("CREDITMIRROR_STRIPE_ENDPOINT_RPS=%d", stripeRPS),
		"CREDITMIRROR_WORKERS=4", "CREDITMIRROR_MAX_ATTEMPTS=12", "CREDITMIRROR_EVENTS_INTERVAL=" + w.plan.events.String(),
		"CREDITMIRROR_BALANCES_INTERVAL=" + w.plan.balances.String(), "CREDITMIRROR_SCRUB_PERIOD=" + w.plan.scrub.String(),
		"CREDITMIRROR_INBOX=on",
	}
	if !w.embedded {
		environ = append(environ, "CREDITMIRROR_REDIS_URL=redis://redis.test:6379")
	}
	roles := []config.Role{config.RoleWebhook, config.RoleWorker, config.RoleReconcile, config.RoleAPI}
	cfg, err := config.LoadFor(environ, roles)
	if err != nil {
		return err
	}
	log := zap.NewNop()
	if w.sched.trace != nil {
		log = traceLog(w, p)
	}
	a, err := app.New(ctx, app.Options{
		Config: cfg, Roles: roles, Registry: prometheus.NewRegistry(), Log: log,
		Listen: func(_ context.Context, addr string) (net.Listener, error) {
			l := newListener(addr)
			switch addr {
			case cfg.WebhookAddr:
				p.webhook = l
			case cfg.APIAddr:
				p.api = l
			}
			return l, nil
		},
		Outside: app.Outside{
			Store:     func(context.Context, config.Config) (mirror.Store, error) { return &store{w.db, p}, nil },
			Redis:     p.openRedis,
			Transport: toStripe{p}, Now: func() time.Time { return time.Now().Add(p.skew) }, PagesPerPiece: w.plan.pages,
		},
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// kill ends a process as SIGKILL does: nothing that it does from now on has an effect.
func (w *world) kill(p *process) {
	if p.dead {
		return
	}
	s := w.sched
	s.mu.Lock()
	p.dead = true
	var calls []*call
	for _, c := range s.parked {
		if c.proc == p {
			calls = append(calls, c)
		}
	}
	for _, c := range calls {
		s.remove(c)
		c.err = errDead
	}
	s.mu.Unlock()
	for _, c := range calls {
		close(c.went)
	}
	p.cancel()
	for _, c := range p.conns {
		_ = c.Close()
	}
	w.say("%s is killed", p.name)
}

// living are the processes that run.
func (w *world) living() []*process {
	return slices.DeleteFunc(slices.Clone(w.processes), func(p *process) bool { return p.dead })
}

// receiver is the process that a webhook goes to.
func (w *world) receiver(draw uint64) *process {
	var list []*process
	for _, p := range w.living() {
		if p.webhook != nil {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[int(fraction(draw, 11)*float64(len(list)))]
}

// nickname is a short name that does not change with the ids before it.
func (w *world) nickname(id string) string {
	if name := w.model.names[id]; name != "" {
		return name
	}
	if kind, _, ok := strings.Cut(id, "_"); ok && len(id) > 20 {
		return kind
	}
	return id
}
