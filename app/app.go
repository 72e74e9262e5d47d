// Package app wires one process of creditmirror: it opens the parts that the
// configuration names, starts the roles that are asked for, and stops them in
// an order that loses nothing.
package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/api"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/console"
	"github.com/creditmirror/creditmirror/doors"
	"github.com/creditmirror/creditmirror/export"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/notify"
	"github.com/creditmirror/creditmirror/reconcile"
	"github.com/creditmirror/creditmirror/stripeapi"
	"github.com/creditmirror/creditmirror/tracing"
	"github.com/creditmirror/creditmirror/webhook"
	"github.com/creditmirror/creditmirror/worker"
)

const (
	// stopTimeout bounds a stop: Kubernetes allows 30 s by default.
	stopTimeout = 25 * time.Second
	// requestTimeout bounds how long a stop waits for requests: those of Stripe take
	// 12 s at most.
	requestTimeout = 13 * time.Second
	// flushTimeout bounds the sending of the last spans.
	flushTimeout = 3 * time.Second
)

// Options configure an App.
type Options struct {
	Config config.Config
	Roles  []config.Role
	// Registry gets all metrics. Defaults to a new one with the Go and process
	// collectors.
	Registry *prometheus.Registry
	Log      *zap.Logger
	Build    Build
	// Listen opens a TCP listener on host:port. Defaults to net's.
	Listen func(ctx context.Context, addr string) (net.Listener, error)
	// Outside is what the process meets outside of itself. Defaults to the real world.
	Outside Outside
}

// App is one process: parts, roles and listeners.
type App struct {
	o      Options
	traces *tracing.Provider
	parts  *Parts
	gate   *worker.Gate
	log    *zap.Logger

	pool     *worker.Pool
	runner   *reconcile.Runner
	exports  *export.Loop
	receiver *webhook.Receiver
	// receiverID names the receiver of this process to others; another one at each start.
	receiverID string
	inbox      *switchedInbox
	arrivals   *arrivals
	keys       *access.Keys // of API and console
	api        http.Handler
	stopAPI    func()
	console    *console.Console
	doors      *doors.Metrics
	journal    *api.Journal

	webhookServer, apiServer, opsServer *http.Server
	webhookListener                     net.Listener
	apiListener, opsListener            net.Listener

	release  func() error // of the claim on the mirror's file
	ready    *readiness
	limits   recentLimits
	later    *postponed // marks of the receiver
	gauges   *gauges
	stopping atomic.Bool
	seen     accountFilter
}

// New opens everything and binds the addresses, so that a fault in the
// configuration or a port in use shows before anything runs.
func New(ctx context.Context, o Options) (*App, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
		o.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	o.Registry.MustRegister(o.Build.collector())
	a := &App{o: o, log: o.Log, gate: worker.NewGate(o.Outside.Now), seen: accountFilter(o.Config.StripeAccounts)}
	if err := a.open(ctx); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

func (a *App) open(ctx context.Context) error {
	var err error
	if a.traces, err = a.newTraces(); err != nil {
		return err
	}
	if a.doors, err = doors.NewMetrics(a.o.Registry, webhookDoor, apiDoor, opsDoor); err != nil {
		return err
	}
	if a.parts, err = openParts(ctx, a.o.Config, a.prepare, a.o.Registry, a.traces, a.o.Outside, a.log); err != nil {
		return err
	}
	if a.inbox, err = newSwitchedInbox(ctx, a.parts, a.o.Config.Inbox, a.o.Registry, a.log); err != nil {
		return err
	}
	if a.has(config.RoleWorker) {
		a.pool = a.parts.pool(a.gate, a.o.Registry, a.log)
	}
	if a.has(config.RoleReconcile) {
		if a.runner, err = a.newRunner(); err != nil {
			return err
		}
	}
	if a.has(config.RoleExport) {
		if a.exports, err = a.newExports(); err != nil {
			return err
		}
	}
	if a.has(config.RoleWebhook) {
		a.later = newPostponed(a.parts.marks, a.inbox, a.o.Registry, a.log)
		a.arrivals = newArrivals(a.parts.Store, a.parts.now(), a.log)
		a.receiverID = randomID()
		if a.receiver, err = a.newReceiver(); err != nil {
			return err
		}
		a.webhookServer = webhook.NewServer(a.o.Config.WebhookAddr, a.receiver.Handler(), a.bounds(webhookDoor, 0))
		if a.webhookListener, err = a.listen(ctx, a.o.Config.WebhookAddr, config.VarWebhookAddr, a.o.Config.WebhookTLS, config.VarWebhookTLSCert); err != nil {
			return err
		}
	}
	if a.has(config.RoleAPI) || a.has(config.RoleConsole) {
		if err = a.newFront(); err != nil {
			return err
		}
		if a.apiListener, err = a.listen(ctx, a.o.Config.APIAddr, config.VarAPIAddr, a.o.Config.APITLS, config.VarAPITLSCert); err != nil {
			return err
		}
	}
	a.ready = newReadiness(a.looks, a.log)
	a.gauges = newGauges(a.o.Registry, a.parts, a.gate, a.log)
	a.opsServer = internalServer(a.opsHandler(), a.bounds(opsDoor, opsConns))
	a.opsListener, err = a.listen(ctx, a.o.Config.OpsAddr, config.VarOpsAddr, a.o.Config.OpsTLS, config.VarOpsTLSCert)
	return err
}

// newTraces makes where spans go, which is nowhere unless the configuration names a
// collector.
func (a *App) newTraces() (*tracing.Provider, error) {
	cfg := a.o.Config.OTel
	o := tracing.Options{
		URL: cfg.TracesURL(), Headers: map[string]string{}, Service: cfg.ServiceName, Version: a.o.Build.Version, Attributes: map[string]string{},
		Sampler: string(cfg.Sampler), Share: cfg.SamplerArg, Registerer: a.o.Registry, Log: a.log,
	}
	for _, h := range cfg.ExportHeaders() {
		o.Headers[h.Name] = h.Value.Reveal()
	}
	for _, attribute := range cfg.Attributes {
		o.Attributes[attribute.Key] = attribute.Value
	}
	return tracing.New(o)
}

func (a *App) has(r config.Role) bool {
	for _, role := range a.o.Roles {
		if role == r {
			return true
		}
	}
	return false
}

func (a *App) newRunner() (*reconcile.Runner, error) {
	notifier, err := a.newNotifier()
	if err != nil {
		return nil, err
	}
	log := a.log.With(zap.String("component", "reconcile"))
	events := reconcile.NewEventsSweep(a.parts.Stripe.For(stripeapi.PurposeEvents), a.parts.Store, a.parts.marks, reconcile.EventsOptions{
		Inbox: a.inbox.on, Ledgers: a.parts.ledgers(), Livemode: a.o.Config.Mode() == config.ModeLive, Repair: &a.o.Config.Repair, Log: log, Now: a.parts.now(),
	})
	host, _ := os.Hostname() //nolint:errcheck // the name only makes the lease easier to read
	return reconcile.NewRunner(a.parts.Store, a.parts.marks, events, a.parts.FirstCopy(0, log), reconcile.RunnerOptions{
		Owner: fmt.Sprintf("%s/%d/%s", host, os.Getpid(), randomID()), Accounts: a.o.Config.StripeAccounts.IDs, AllAccounts: a.o.Config.StripeAccounts.All,
		Gate: a.gate, EmbeddedRedis: a.o.Config.EmbeddedRedis(), EventsInterval: a.o.Config.EventsInterval,
		Webhooks: len(a.o.Config.StripeWebhookSecrets) > 0, Ledgers: a.parts.ledgers(),
		Balances: a.parts.Balances(false, log), BalancesInterval: a.o.Config.BalancesInterval, Scrub: a.parts.Scrub(log), Registerer: a.o.Registry, Log: log,
		Days: a.newDays(log), Beside: notifier.Run, Tracer: a.traces.Tracer("reconcile"), Now: a.parts.now(),
	}), nil
}

// newNotifier returns a notifier of drift where one is configured.
func (a *App) newNotifier() (*notify.Notifier, error) {
	cfg := a.o.Config
	n, err := notify.New(a.parts.Store, notify.Options{
		URL: cfg.NotifyURL.Reveal(), Secrets: reveal(cfg.NotifySecrets), Allow: cfg.NotifyAllow,
		Agent: "creditmirror/" + a.o.Build.Version, Registerer: a.o.Registry, Log: a.log,
	})
	if blocked, ok := errors.AsType[*notify.BlockedError](err); ok { // reported as what it is: a wrong configuration
		return nil, &config.Error{Problems: []config.Problem{{
			Var: string(config.VarNotifyURL), Flag: config.VarNotifyURL.Flag(),
			Message: fmt.Sprintf("%v; name its network in %s if it is meant", blocked, config.VarNotifyAllow),
		}}}
	}
	if err != nil {
		return nil, fmt.Errorf("%s (%s): %w", config.VarNotifyURL, config.VarNotifyURL.Flag(), err)
	}
	return n, nil
}

// reveal returns the values of secrets, for who uses them.
func reveal(secrets []config.Secret) []string {
	values := make([]string, len(secrets))
	for i, s := range secrets {
		values[i] = s.Reveal()
	}
	return values
}

func (a *App) newReceiver() (*webhook.Receiver, error) {
	secrets := reveal(a.o.Config.StripeWebhookSecrets)
	return webhook.New(webhook.Options{
		Verify: func(payload []byte, header http.Header, now time.Time) (time.Duration, string, error) {
			_, skew, err := stripeapi.VerifySignature(payload, header, secrets, now)
			return skew, stripeapi.Reason(err), err
		},
		TooOld: func(header http.Header, now time.Time) (string, bool) {
			err := stripeapi.SignatureTime(header, now)
			return stripeapi.Reason(err), err != nil
		},
		Queue: a.later, Inbox: a.inbox, DeadLetters: a.parts.Store,
		Ledgers: a.parts.ledgers(), Livemode: takesMode(a.o.Config.Mode()), Accounts: a.seen.takes, Arrived: a.arrivals.arrived, Refused: a.arrivals.refused,
		APIVersion: a.o.Config.StripeAPIVersion, Registerer: a.o.Registry, Log: a.log, Tracer: a.traces.Tracer("webhook"), Now: a.o.Outside.Now,
	})
}

// takesMode reports which events are taken: those of the key's mode, and of both
// where this process has no key, since the workers' key is not known here.
func takesMode(m config.Mode) func(livemode bool) bool {
	if m == config.ModeUnknown {
		return nil
	}
	return func(livemode bool) bool { return livemode == (m == config.ModeLive) }
}

// accountFilter reports which connected accounts' events are taken.
type accountFilter config.Accounts

func (f accountFilter) takes(account string) bool {
	if f.All {
		return true
	}
	for _, id := range f.IDs {
		if id == account {
			return true
		}
	}
	return false
}

// The names of the listeners, in metrics and lines, and how many connections each has at
// once: a request under way takes some 50 KiB, its header at its largest.
const (
	webhookDoor, apiDoor, opsDoor = "webhook", "api", "ops"
	apiConns, opsConns            = 1024, 256
	// pace is the rest of API and ops after each connection that they close for another.
	// The webhook listener has none: a newcomer there may be Stripe.
	pace = time.Millisecond
)

// bounds are those of a listener's connections; with 0 its own default.
func (a *App) bounds(name string, conns int) doors.Bounds {
	rest := pace
	if name == webhookDoor {
		rest = 0
	}
	return doors.Bounds{
		Name: name, Conns: conns, Share: conns / 2, Pace: rest, Proxies: doors.Proxies(a.o.Config.TrustedProxies), Metrics: a.doors, Log: a.log,
	}
}

func (a *App) listen(ctx context.Context, addr string, name config.Var, files config.TLS, certificate config.Var) (net.Listener, error) {
	open := a.o.Listen
	if open == nil {
		open = func(ctx context.Context, addr string) (net.Listener, error) {
			var c net.ListenConfig
			return c.Listen(ctx, "tcp", addr)
		}
	}
	var held *doors.Certificate
	if files.On() {
		var err error
		if held, err = doors.LoadCertificate(files.Cert, files.Key, a.log); err != nil {
			return nil, &config.Error{Problems: []config.Problem{{
				Var: string(certificate), Flag: certificate.Flag(), Message: "cannot be used: " + err.Error(),
			}}}
		}
	}
	l, err := open(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("%s (%s): %w; set another address or stop what listens there", name, name.Flag(), err)
	}
	if held != nil {
		l = tls.NewListener(l, held.Config())
	}
	return l, nil
}

// internalServer has limits for listeners that are not open to everybody.
func internalServer(h http.Handler, b doors.Bounds) *http.Server {
	s := doors.NewServer(h, b)
	s.ReadTimeout = 15 * time.Second
	s.WriteTimeout = 90 * time.Second // a CPU profile takes its time
	return s
}

// Addrs are the addresses that are listened on; empty for a role that does not run. API
// is that of the console too.
type Addrs struct{ Webhook, API, Ops string }

// Addrs returns them, with the real ports.
func (a *App) Addrs() Addrs {
	text := func(l net.Listener) string {
		if l == nil {
			return ""
		}
		return l.Addr().String()
	}
	return Addrs{Webhook: text(a.webhookListener), API: text(a.apiListener), Ops: text(a.opsListener)}
}

// Store is the mirror of this process.
func (a *App) Store() mirror.Store { return a.parts.Store }

// Run serves until ctx ends, then stops: not ready any more, no new webhooks,
// those accepted answered, targets in work finished, everything closed. It
// returns an error when something failed or was cut off.
func (a *App) Run(ctx context.Context) error {
	var group errgroup.Group
	failed := make(chan struct{})
	var once sync.Once
	run := func(name string, fn func() error) {
		group.Go(func() error {
			if err := fn(); err != nil {
				once.Do(func() { close(failed) })
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	serve := func(name string, s *http.Server, l net.Listener) {
		if s == nil {
			return
		}
		run(name, func() error {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()

	run("gauges", func() error { a.gauges.loop(background); return nil })
	run("trouble", func() error { a.troubleLoop(background); return nil })
	run("readiness", func() error { a.ready.loop(background); return nil })
	if a.later != nil {
		run("postponed marks", func() error { a.later.loop(background); return nil })
	}
	run("mirror", func() error { return a.watchFile(background) })
	run("inbox", func() error { a.inbox.loop(background); return nil })
	if a.arrivals != nil {
		a.arrivals.begin(ctx)
		run("arrivals", func() error { a.arrivals.loop(background); return nil })
	}
	if a.console != nil {
		run("console", func() error { a.console.Run(background); return nil })
	}
	if a.journal != nil {
		run("journal", func() error { a.journal.Run(background); return nil })
	}
	var workers sync.WaitGroup
	if a.pool != nil {
		workers.Add(1)
		run("worker", func() error { defer workers.Done(); return a.pool.Run(work) })
	}
	if a.exports != nil {
		workers.Add(1)
		run("export", func() error { defer workers.Done(); return a.exports.Run(work) })
	}
	if a.runner != nil {
		workers.Add(1)
		run("reconcile", func() error { defer workers.Done(); return a.runner.Run(work) })
	}
	serve("ops listener", a.opsServer, a.opsListener)
	serve("api listener", a.apiServer, a.apiListener)
	serve("webhook listener", a.webhookServer, a.webhookListener)
	addrs := a.Addrs()
	a.log.Info("serving", zap.String("version", a.o.Build.Version), zap.Any("roles", a.o.Roles),
		zap.String("webhook_addr", addrs.Webhook), zap.String("api_addr", addrs.API), zap.String("ops_addr", addrs.Ops))

	select {
	case <-ctx.Done():
	case <-failed:
		a.log.Error("component failed; stopping")
	}
	a.log.Info("stopping")
	a.stopping.Store(true)
	if a.arrivals != nil {
		a.arrivals.stops()
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	// No new work is taken from now on; what is under way is finished side by side.
	stopWork()
	var drains sync.WaitGroup
	drains.Go(workers.Wait)
	for _, s := range []*http.Server{a.webhookServer, a.apiServer} {
		if s != nil {
			drains.Go(func() { a.shut(deadline, s, requestTimeout) })
		}
	}
	if a.receiver != nil {
		drains.Go(func() {
			requests, cancel := context.WithTimeout(deadline, requestTimeout)
			defer cancel()
			if err := a.receiver.Stop(requests); err != nil {
				a.log.Warn("webhook requests were cut off at shutdown; stripe will resend them", zap.Error(err))
			}
		})
	}
	a.await(deadline, "work", drains.Wait)
	stopBackground()
	// The ops listener goes last: it shows that the process is stopping.
	a.shut(deadline, a.opsServer, time.Second)
	var err error
	if !a.await(deadline, "parts", func() { err = errors.Join(group.Wait(), a.close()) }) {
		return nil
	}
	a.log.Info("stopped")
	return err
}

// await waits for fn, at most until ctx ends. What hangs then (a database that
// does not answer, say) is left to the end of the process, which loses nothing:
// leases run out, and transactions that are not committed never happened.
func (a *App) await(ctx context.Context, what string, fn func()) bool {
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		a.log.Warn("component did not stop in time", zap.String("what", what))
		return false
	}
}

// shut lets a server finish its requests for a while and then cuts them off.
func (a *App) shut(ctx context.Context, s *http.Server, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		a.log.Info("slow requests were cut off", zap.Error(s.Close()))
	}
}

// close releases what New opened.
func (a *App) close() error {
	var errs []error
	for _, l := range []net.Listener{a.webhookListener, a.apiListener, a.opsListener} {
		if l != nil {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if a.parts != nil {
		errs = append(errs, a.parts.Close())
	}
	if a.release != nil {
		errs = append(errs, a.release())
		a.release = nil
	}
	flush, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	errs = append(errs, a.traces.Shutdown(flush))
	return errors.Join(errs...)
}
