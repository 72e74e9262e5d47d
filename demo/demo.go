// Package demo runs the whole system in one process: the simulator in place of
// Stripe, live traffic on it, and a mirror that follows through webhooks. At the
// end every customer of the mirror is held against the simulator.
package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/doors"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripesim"
	"github.com/creditmirror/creditmirror/webhook"
)

// settleTimeout bounds how long after the last change webhooks may be on their way, and
// then how long the mirror may take to come one difference closer to the simulator.
const settleTimeout = 90 * time.Second

// apiKey is accepted by the simulator, as every key of its form is.
const apiKey = "sk_test_creditmirrordemo"

// Options configure a demo.
type Options struct {
	// For is how long traffic runs before everything is compared; zero runs until
	// ctx ends.
	For time.Duration
	// Customers at the start. Defaults to 200.
	Customers int
	// Rate is changes per second. Defaults to 20.
	Rate float64
	// Chaos turns the simulator's faults on: lost, doubled and swapped webhooks,
	// 429s, 5xx, broken replies.
	Chaos bool
	Seed  int64
	// Scenario is a scenario of the simulator, by name or file, that is played
	// before the mirror starts. Connected accounts that it makes are mirrored, too.
	Scenario string
	// Data is the folder of the mirror; empty is a temporary one, removed at the end.
	Data string
	// Environ may hold CREDITMIRROR_DATABASE_URL, CREDITMIRROR_REDIS_URL and other
	// settings, to run the demo on them.
	Environ []string
	// Out gets the summary, Progress a line every other second.
	Out, Progress io.Writer
	Log           *zap.Logger
	Build         app.Build
}

// Summary is the outcome.
type Summary struct {
	Compared
	Changes int64
	// Calls to Stripe's API per named endpoint, and their sum.
	Calls      map[string]int
	TotalCalls int
	// Struck counts the faults that struck, by kind.
	Struck map[stripesim.FaultKind]int
	// CaughtUp is how long the mirror took to equal the simulator after the last change.
	CaughtUp time.Duration
}

// Run runs a demo. A mirror that differs from the simulator at the end is no
// error: Summary says so.
func Run(ctx context.Context, o Options) (Summary, error) {
	if o.Customers == 0 {
		o.Customers = 200
	}
	if o.Rate == 0 {
		o.Rate = 20
	}
	if o.Data == "" {
		dir, err := os.MkdirTemp("", "creditmirror-demo-")
		if err != nil {
			return Summary{}, err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		o.Data = dir
	} else if err := os.MkdirAll(o.Data, 0o750); err != nil {
		return Summary{}, fmt.Errorf("--data: %w", err)
	}

	sim, simURL, stopSim, err := startSim(ctx, o)
	if err != nil {
		return Summary{}, err
	}
	defer stopSim()
	if o.Scenario != "" { // history that the mirror finds when it starts
		script, err := stripesim.OpenScenario(o.Scenario)
		if err != nil {
			return Summary{}, err
		}
		if err := stripesim.NewPlay(sim, script, o.Seed).Run(ctx); err != nil {
			return Summary{}, err
		}
	}
	traffic, err := stripesim.NewTraffic(sim, stripesim.TrafficOptions{Seed: o.Seed, Customers: o.Customers, Rate: o.Rate})
	if err != nil {
		return Summary{}, err
	}
	if err := traffic.Seed(ctx); err != nil {
		return Summary{}, err
	}
	a, err := startMirror(ctx, o, simURL, sim.Accounts())
	if err != nil {
		return Summary{}, err
	}
	if o.Chaos {
		if err := sim.SetFaults(stripesim.Chaos()); err != nil {
			return Summary{}, err
		}
	}

	appCtx, stopApp := context.WithCancel(context.WithoutCancel(ctx))
	defer stopApp()
	appDone := make(chan error, 1)
	go func() { appDone <- a.Run(appCtx) }()
	announce(o, a, simURL)

	trafficCtx, stopTraffic := context.WithCancel(ctx)
	defer stopTraffic()
	if o.For > 0 {
		trafficCtx, stopTraffic = context.WithTimeout(ctx, o.For)
		defer stopTraffic()
	}
	progressDone := make(chan struct{})
	go func() {
		defer close(progressDone)
		watch(trafficCtx, o.Progress, a, sim, traffic)
	}()
	err = traffic.Run(trafficCtx)
	stopTraffic()
	<-progressDone
	if err != nil {
		return Summary{}, err
	}

	// The first signal ends the traffic; the comparison still runs, bounded.
	summary, err := catchUp(context.WithoutCancel(ctx), a, sim)
	summary.Changes = traffic.Done()
	summary.Calls, summary.Struck = sim.Calls(), sim.Struck()
	for endpoint, n := range summary.Calls {
		if strings.HasPrefix(endpoint, "GET ") {
			summary.TotalCalls += n
		}
	}
	stopApp()
	if stopErr := <-appDone; err == nil {
		err = stopErr
	}
	if err != nil {
		return summary, err
	}
	summary.print(o.Out)
	return summary, nil
}

func startSim(ctx context.Context, o Options) (sim *stripesim.Server, base string, stop func(), err error) {
	sim, err = stripesim.New(stripesim.Options{Seed: o.Seed, Log: o.Log.With(zap.String("component", "sim"))})
	if err != nil {
		return nil, "", nil, err
	}
	l, err := listen(ctx, "127.0.0.1:0")
	if err != nil {
		sim.Close()
		return nil, "", nil, err
	}
	server := doors.NewServer(sim.Handler(), doors.Bounds{Name: "sim", Conns: 2048, Log: o.Log})
	server.ReadTimeout, server.WriteTimeout = 15*time.Second, 5*time.Minute // a fault may answer late
	go func() { _ = server.Serve(l) }()
	return sim, "http://" + l.Addr().String(), func() {
		_ = server.Close()
		sim.Close()
	}, nil
}

// startMirror registers a webhook endpoint with the simulator, as a user would
// at Stripe, and opens a mirror with its secret. Connected accounts need a second
// endpoint.
func startMirror(ctx context.Context, o Options, simURL string, accounts []string) (*app.App, error) {
	ports := reserved{}
	defer ports.release()
	webhookAddr, err := ports.reserve(ctx, "127.0.0.1:8080")
	if err != nil {
		return nil, err
	}
	apiAddr, err := ports.reserve(ctx, "127.0.0.1:8081")
	if err != nil {
		return nil, err
	}
	opsAddr, err := ports.reserve(ctx, "127.0.0.1:9090")
	if err != nil {
		return nil, err
	}
	secret, err := register(ctx, simURL, "http://"+webhookAddr+webhook.Path, false)
	if err != nil {
		return nil, err
	}
	if len(accounts) > 0 {
		connect, err := register(ctx, simURL, "http://"+webhookAddr+webhook.Path, true)
		if err != nil {
			return nil, err
		}
		secret += "," + connect
	}
	environ := []string{
		"STRIPE_API_KEY=" + apiKey, "STRIPE_WEBHOOK_SECRET=" + secret, "STRIPE_API_BASE=" + simURL,
		"CREDITMIRROR_DATABASE_URL=sqlite:" + filepath.Join(o.Data, "mirror.db"),
		"CREDITMIRROR_WEBHOOK_ADDR=" + webhookAddr, "CREDITMIRROR_API_ADDR=" + apiAddr, "CREDITMIRROR_OPS_ADDR=" + opsAddr,
		// The simulator has no limits, and nobody wants to wait a minute for a lost
		// webhook in a demo.
		"CREDITMIRROR_STRIPE_RPS=4000", "CREDITMIRROR_STRIPE_ENDPOINT_RPS=2000", "CREDITMIRROR_EVENTS_INTERVAL=2s",
		"CREDITMIRROR_BALANCES_INTERVAL=10s", "CREDITMIRROR_SCRUB_PERIOD=1m",
	}
	if len(accounts) > 0 {
		environ = append(environ, "STRIPE_ACCOUNTS="+strings.Join(accounts, ","))
	}
	environ = append(environ, o.Environ...)
	roles := config.Config{}.DefaultRoles()
	cfg, err := config.LoadFor(environ, roles)
	if err != nil {
		return nil, err
	}
	return app.New(ctx, app.Options{Config: cfg, Roles: roles, Log: o.Log, Build: o.Build, Listen: ports.take})
}

// reserved are listeners by their address, open from when the address is chosen:
// nobody else can have it in between.
type reserved map[string]net.Listener

func listen(ctx context.Context, addr string) (net.Listener, error) {
	var c net.ListenConfig
	return c.Listen(ctx, "tcp", addr)
}

// reserve listens on addr, or on another port of its host when that one is taken.
func (r reserved) reserve(ctx context.Context, addr string) (string, error) {
	l, err := listen(ctx, addr)
	if err != nil {
		host, _, splitErr := net.SplitHostPort(addr)
		if splitErr != nil {
			return "", splitErr
		}
		if l, err = listen(ctx, net.JoinHostPort(host, "0")); err != nil {
			return "", err
		}
	}
	addr = l.Addr().String()
	r[addr] = l
	return addr, nil
}

// take hands out what was reserved, and listens on every other address.
func (r reserved) take(ctx context.Context, addr string) (net.Listener, error) {
	if l, ok := r[addr]; ok {
		delete(r, addr)
		return l, nil
	}
	return listen(ctx, addr)
}

// release closes what nobody took.
func (r reserved) release() {
	for _, l := range r {
		_ = l.Close()
	}
}

func register(ctx context.Context, simURL, target string, connect bool) (secret string, err error) {
	form := url.Values{"url": {target}, "api_version": {stripesim.Version}, "connect": {strconv.FormatBool(connect)}}
	for _, t := range mirror.EventTypes() {
		form.Add("enabled_events[]", t)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, simURL+"/v1/webhook_endpoints", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.SetBasicAuth(apiKey, "")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	var endpoint struct {
		Secret string `json:"secret"`
	}
	if resp.StatusCode != http.StatusOK || json.Unmarshal(body, &endpoint) != nil || endpoint.Secret == "" {
		return "", fmt.Errorf("the simulator does not register a webhook endpoint: %s", resp.Status)
	}
	return endpoint.Secret, nil
}

// catchUp waits until the mirror equals the simulator, or comes no closer any more,
// and returns the last comparison.
func catchUp(ctx context.Context, a *app.App, sim *stripesim.Server) (Summary, error) {
	began := time.Now()
	settle, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if err := sim.Settle(settle); err != nil {
		return Summary{}, fmt.Errorf("webhooks were still on their way %v after the last change: %w", settleTimeout, err)
	}
	fewest, closer := math.MaxInt, time.Now()
	for {
		asked := time.Now()
		c, err := Compare(ctx, a.Store(), sim.Truth())
		if err != nil {
			return Summary{Compared: c}, err
		}
		if c.Found < fewest {
			fewest, closer = c.Found, time.Now()
		}
		if c.Found == 0 || time.Since(closer) > settleTimeout {
			return Summary{Compared: c, CaughtUp: time.Since(began)}, nil
		}
		// A comparison reads everything: at most half of the time goes into it.
		time.Sleep(max(500*time.Millisecond, time.Since(asked)))
	}
}

// chaos names what struck, for people; empty where nothing did.
func (s Summary) chaos() string {
	group := func(what string, kinds ...stripesim.FaultKind) string {
		n := 0
		for _, k := range kinds {
			n += s.Struck[k]
		}
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n) + " " + what
	}
	list := func(what string, parts ...string) string {
		parts = slices.DeleteFunc(parts, func(p string) bool { return p == "" })
		if len(parts) == 0 {
			return ""
		}
		return "  " + what + ": " + strings.Join(parts, ", ") + "\n"
	}
	return list("events", group("never made", stripesim.FaultEventLost), group("made twice", stripesim.FaultEventTwice)) +
		list("webhooks", group("lost", stripesim.FaultWebhookDrop, stripesim.FaultWebhookLost), group("doubled", stripesim.FaultWebhookDuplicate),
			group("late", stripesim.FaultWebhookDelay), group("out of order", stripesim.FaultWebhookReorder)) +
		list("calls", group("answered 429", stripesim.FaultRateLimit, stripesim.FaultLock), group("answered 5xx", stripesim.Fault500, stripesim.Fault502),
			group("answered with a broken body", stripesim.FaultTruncated, stripesim.FaultNonsense, stripesim.FaultEmptyPage),
			group("reset", stripesim.FaultReset), group("slow", stripesim.FaultSlow),
			group("answered from a lagging or moved list", stripesim.FaultListLag, stripesim.FaultCursorGone))
}

func announce(o Options, a *app.App, simURL string) {
	addrs := a.Addrs()
	fmt.Fprintf(o.Progress, `creditmirror demo: %d customers, %g changes a second, seed %d%s
  the console                   http://%s/
  the simulator's page          %s/
  simulator in Stripe's place   %s/v1/
  webhooks arrive at            http://%s%s
  the mirror, as Stripe's API   http://%s/v1/customers/…
  metrics, status               http://%s/metrics  http://%s/status
  database                      %s
`, o.Customers, o.Rate, o.Seed, map[bool]string{true: ", chaos on"}[o.Chaos], addrs.API, simURL, simURL, addrs.Webhook, webhook.Path, addrs.API, addrs.Ops, addrs.Ops, o.Data)
	if o.For == 0 {
		fmt.Fprintln(o.Progress, "Ctrl-C stops the traffic, compares every customer and ends.")
	}
}

// watch prints a line every other second.
func watch(ctx context.Context, w io.Writer, a *app.App, sim *stripesim.Server, traffic *stripesim.Traffic) {
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s, err := a.Status(ctx)
		if ctx.Err() != nil {
			return // it knows what could be read before the end: nothing, maybe
		}
		if err != nil {
			continue
		}
		calls := 0
		for endpoint, n := range sim.Calls() {
			if strings.HasPrefix(endpoint, "GET ") {
				calls += n
			}
		}
		fresh := "-"
		if s.Freshness.P99 != nil {
			fresh = fmt.Sprintf("p50 %.2fs p99 %.2fs", *s.Freshness.P50, *s.Freshness.P99)
		}
		fmt.Fprintf(w, "%6d changes  %5d customers  %6d transactions  %4d waiting  %6d calls  freshness %s\n",
			traffic.Done(), s.Customers, s.Transactions, s.Queue.Ready+s.Queue.Delayed+s.Queue.Leased, calls, fresh)
	}
}

func (s Summary) print(w io.Writer) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d changes, %d read calls to Stripe's API\n", s.Changes, s.TotalCalls)
	fmt.Fprintf(&b, "compared %d customers (%d deleted), %d balance transactions, %d credit transactions, %d grants; equal %.1fs after the last webhook\n",
		s.Customers, s.Deleted, s.BalanceTransactions, s.CreditTransactions, s.Grants, s.CaughtUp.Seconds())
	if chaos := s.chaos(); chaos != "" {
		fmt.Fprintf(&b, "what chaos did on the way:\n%s", chaos)
	}
	for _, d := range s.Differences {
		fmt.Fprintf(&b, "DIFFERENT %s\n", d)
	}
	if len(s.Differences) == 0 {
		fmt.Fprintln(&b, "the mirror equals the simulator: 0 differences")
	} else {
		fmt.Fprintf(&b, "the mirror does not equal the simulator: %d differences\n", s.Found)
	}
	_, _ = w.Write(b.Bytes())
}
