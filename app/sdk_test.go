package app

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stripe/stripe-go/v79"
	"github.com/stripe/stripe-go/v79/client"
	"github.com/stripe/stripe-go/v79/form"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripesim"
)

var (
	sdkSeed  = flag.Uint64("sdk.seed", 20261, "seed of the requests that SDKs make")
	sdkCount = flag.Int("sdk.requests", 1000, "how many requests each SDK makes")
)

// sdkRequest is one request, whatever the SDK; the drivers in api/sdktest read it.
type sdkRequest struct {
	Op           string            `json:"op"`
	ID           string            `json:"id,omitempty"`
	Customer     string            `json:"customer,omitempty"`
	Grant        string            `json:"grant,omitempty"`
	Invoice      string            `json:"invoice,omitempty"`
	Expand       []string          `json:"expand,omitempty"`
	Limit        int64             `json:"limit,omitempty"`
	After        string            `json:"after,omitempty"`
	Before       string            `json:"before,omitempty"`
	CreatedFrom  int64             `json:"created_from,omitempty"`
	CreatedUntil int64             `json:"created_until,omitempty"`
	Amount       int64             `json:"amount,omitempty"`
	Currency     string            `json:"currency,omitempty"`
	Description  string            `json:"description,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	Key          string            `json:"key,omitempty"`
}

// check is what to ask the simulator for after the mirror has answered.
func (r sdkRequest) check(answer json.RawMessage) sdkRequest {
	kind, action, _ := strings.Cut(r.Op, ".")
	if action == "" {
		return r
	}
	var v struct{ OK struct{ ID string } }
	if json.Unmarshal(answer, &v) != nil || v.OK.ID == "" {
		r.Key += " again"
		return r
	}
	return sdkRequest{Op: kind, ID: v.OK.ID, Customer: r.Customer, Expand: r.Expand}
}

// sdkDriver makes a request with an SDK and returns what the SDK made of the
// answer: {"ok": …} or {"error": …}.
type sdkDriver func(r sdkRequest) json.RawMessage

// TestSDKsSeeNoDifference runs thousands of requests with stripe-go v79, the
// newest stripe-go and stripe-node against the mirror and the simulator: lists
// in both directions with auto-paging, retrieves, creates, updates, expansions
// and errors. A write that the mirror took is compared with what the simulator
// then has; one that it refused is refused by the simulator alike.
func TestSDKsSeeNoDifference(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newest := sync.OnceValues(func() (string, error) { return buildStripeGo(dir) })
	for name, open := range map[string]func(t *testing.T, base, key string) sdkDriver{
		"stripe-go v79": stripeGo79, "stripe-node": stripeNode,
		"stripe-go newest": func(t *testing.T, base, key string) sdkDriver {
			binary, err := newest()
			if err != nil {
				missing(t, "the newest stripe-go does not build: %v", err)
			}
			return process(t, binary, base, key)
		},
	} {
		for _, database := range []string{"sqlite", "postgres"} {
			t.Run(name+" on "+database, func(t *testing.T) {
				t.Parallel()
				sim := ordered
				sim.Seed, sim.Now = int64(*sdkSeed), fastClock()
				sim.Switches.DeletedCustomerLists = true // the mirror keeps the history
				s := serveAPI(t, servedOptions{
					sim: sim, postgres: database == "postgres",
					roles: []config.Role{config.RoleWorker, config.RoleWebhook},
					env:   []string{"CREDITMIRROR_CUSTOMER_FIELDS=full"},
				})
				g := newSDKRequests(t, s)
				mirrored, stripe := open(t, s.api, writeKey), open(t, s.base, "sk_test_user")
				counts := map[string]int{}
				for n := range *sdkCount {
					r := g.next()
					got := mirrored(r)
					want := stripe(r.check(got))
					if g, w := mirror.Canonical(got), mirror.Canonical(want); !bytes.Equal(g, w) {
						line, _ := json.Marshal(r)
						at := 0
						for at < min(len(g), len(w)) && g[at] == w[at] {
							at++
						}
						from := max(0, at-600)
						t.Fatalf("seed %d, request %d %s: they differ at %d\ngot  %.1500s\nwant %.1500s", *sdkSeed, n, line, at, g[min(from, len(g)):], w[min(from, len(w)):])
					}
					if bytes.Contains(want, []byte(`"status":0`)) && bytes.HasPrefix(want, []byte(`{"error"`)) {
						t.Fatalf("seed %d, request %d %+v: the SDK did not send it: %s", *sdkSeed, n, r, want)
					}
					outcome := "ok"
					if bytes.HasPrefix(want, []byte(`{"error"`)) {
						outcome = "error"
					}
					counts[r.Op+" "+outcome]++
					g.learn(r, want)
				}
				if len(counts) < 20 {
					t.Errorf("only %d kinds of outcomes: %v", len(counts), counts)
				}
				t.Logf("seed %d: %v", *sdkSeed, counts)
			})
		}
	}
}

// sdkRequests generates requests and keeps in mind what exists.
type sdkRequests struct {
	t         *testing.T
	rand      *rand.Rand
	customers []string
	rows      map[string][]string // by customer
	grants    []string
	owner     map[string]string // of grants
	credits   []string
	from, to  int64
	n         int
}

func newSDKRequests(t *testing.T, s *served) *sdkRequests {
	t.Helper()
	g := &sdkRequests{t: t, rand: rand.New(rand.NewPCG(*sdkSeed, 1)), rows: map[string][]string{}, owner: map[string]string{}}
	traffic, err := stripesim.NewTraffic(s.sim, stripesim.TrafficOptions{Seed: int64(*sdkSeed), Customers: 25})
	if err != nil {
		t.Fatal(err)
	}
	if err := traffic.Seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	list := func(path string) (ids []string) {
		t.Helper()
		var v struct {
			Data []struct {
				ID       string
				Customer string
				Created  int64
			}
		}
		if err := json.Unmarshal(s.stripe("GET", path, nil).body, &v); err != nil {
			t.Fatal(err)
		}
		for _, row := range v.Data {
			ids = append(ids, row.ID)
			if g.from == 0 || row.Created < g.from {
				g.from = row.Created
			}
			g.to = max(g.to, row.Created)
			if strings.HasPrefix(row.ID, "credgr_") {
				g.owner[row.ID] = row.Customer
			}
		}
		return ids
	}
	g.customers = list("/v1/customers?limit=100")
	s.stripe("DELETE", "/v1/customers/"+g.customers[0], nil)
	for _, id := range g.customers {
		for _, path := range []string{"/v1/customers/" + id, "/v1/billing/credit_grants?customer=" + id} {
			if a := s.get(path, "Creditmirror-Max-Age", "0s"); a.status != 200 && (a.status != 404 || id != g.customers[0]) && a.status != 400 {
				t.Fatalf("%s: %d %s", path, a.status, a.body)
			}
		}
	}
	g.customers = g.customers[1:] // the mirror never held the deleted one
	gone := g.customers[0]
	s.stripe("DELETE", "/v1/customers/"+gone, nil)
	if a := s.get("/v1/customers/"+gone, "Creditmirror-Max-Age", "0s"); !strings.Contains(string(a.body), `"deleted":true`) {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for _, id := range g.customers {
		g.rows[id] = list("/v1/customers/" + id + "/balance_transactions?limit=100")
		g.grants = append(g.grants, list("/v1/billing/credit_grants?limit=100&customer="+id)...)
		g.credits = append(g.credits, list("/v1/billing/credit_balance_transactions?limit=100&customer="+id)...)
	}
	return g
}

// pick takes one of a list, now and then one that does not exist.
func (g *sdkRequests) pick(list []string, unknown string) string {
	if len(list) == 0 || g.rand.IntN(15) == 0 {
		return unknown
	}
	return list[g.rand.IntN(len(list))]
}

func (g *sdkRequests) some(list ...string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(string) bool { return g.rand.IntN(3) > 0 })
}

func (g *sdkRequests) page(r *sdkRequest, ids []string, unknown string) {
	if g.rand.IntN(2) == 0 {
		r.Limit = int64(g.rand.IntN(104) - 1) // -1 … 102; SDKs leave a 0 out
	}
	switch g.rand.IntN(5) {
	case 0:
		r.After = g.pick(ids, unknown)
	case 1:
		r.Before = g.pick(ids, unknown)
	}
}

func (g *sdkRequests) times(r *sdkRequest) {
	span := max(g.to-g.from, 1)
	if g.rand.IntN(3) == 0 {
		r.CreatedFrom = g.from + g.rand.Int64N(span)
	}
	if g.rand.IntN(3) == 0 {
		r.CreatedUntil = g.from + g.rand.Int64N(span)
	}
}

func (g *sdkRequests) next() sdkRequest {
	g.n++
	cus := g.pick(g.customers, "cus_unknown")
	r := sdkRequest{}
	write := func() {
		r.Key = fmt.Sprintf("%d-%d", *sdkSeed, g.n)
		r.Metadata = map[string]string{"n": fmt.Sprint(g.n)}
	}
	switch k := g.rand.IntN(100); {
	case k < 10:
		r.Op, r.ID, r.Expand = "customer", cus, g.some("invoice_credit_balance", "nonsense")
	case k < 18:
		r.Op, r.Expand = "customers", g.some("data.invoice_credit_balance")
		g.page(&r, g.customers[1:], "cus_unknown")
		g.times(&r)
	case k < 26:
		r.Op, r.Customer, r.ID = "transaction", cus, g.pick(g.rows[cus], "cbtxn_unknown")
		r.Expand = g.some("customer", "customer.invoice_credit_balance")
	case k < 42:
		r.Op, r.Customer, r.Expand = "transactions", cus, g.some("data.customer", "data.nonsense")
		g.page(&r, g.rows[cus], "cbtxn_unknown")
		g.times(&r)
	case k < 52:
		r.Op, r.Customer, r.Currency = "transaction.create", cus, g.pick([]string{"usd", "usd", "eur"}, "dollars")
		r.Amount, r.Description, r.Expand = int64(g.rand.IntN(4000)-2000), g.pick([]string{"", "goodwill", "<b>ü</b>"}, strings.Repeat("x", 351)), g.some("customer")
		write()
	case k < 58:
		r.Op, r.Customer, r.ID, r.Description = "transaction.update", cus, g.pick(g.rows[cus], "cbtxn_unknown"), fmt.Sprint("edit ", g.n)
		write()
	case k < 64:
		r.Op, r.ID, r.Expand = "grant", g.pick(g.grants, "credgr_unknown"), g.some("customer", "nonsense")
	case k < 70:
		r.Op, r.Expand = "grants", g.some("data.customer")
		if g.rand.IntN(2) == 0 {
			r.Customer = cus
		}
		g.page(&r, g.grants, "credgr_unknown")
	case k < 74:
		r.Op, r.Customer, r.Currency, r.Amount, r.Description = "grant.create", cus, "usd", int64(g.rand.IntN(5000)-50), "grant"
		write()
	case k < 77:
		r.Op, r.ID = "grant.update", g.pick(g.grants, "credgr_unknown")
		write()
	case k < 80:
		r.Op, r.ID = []string{"grant.expire", "grant.void"}[g.rand.IntN(2)], g.pick(g.grants, "credgr_unknown")
		r.Key = fmt.Sprintf("%d-%d", *sdkSeed, g.n)
	case k < 84:
		r.Op, r.ID, r.Expand = "credit", g.pick(g.credits, "cbtxn_unknown"), g.some("credit_grant", "credit_grant.customer")
	case k < 92:
		r.Op, r.Expand = "credits", g.some("data.credit_grant", "data.credit_grant.customer")
		if g.rand.IntN(5) > 0 {
			r.Customer = cus
		}
		if g.rand.IntN(4) == 0 {
			r.Grant = g.pick(g.grants, "credgr_unknown")
			if g.rand.IntN(4) > 0 {
				r.Customer = g.owner[r.Grant]
			}
		}
		g.page(&r, g.credits, "cbtxn_unknown")
	default:
		r.Op, r.Customer, r.Expand = "summary", cus, g.some("customer")
		if g.rand.IntN(2) == 0 {
			r.Grant = g.pick(g.grants, "credgr_unknown")
			if g.rand.IntN(4) > 0 && g.owner[r.Grant] != "" {
				r.Customer = g.owner[r.Grant]
			}
		}
	}
	return r
}

// learn remembers what a write made.
func (g *sdkRequests) learn(r sdkRequest, result json.RawMessage) {
	var v struct {
		OK struct{ ID string }
	}
	if strings.HasSuffix(r.Op, ".create") && json.Unmarshal(result, &v) == nil && v.OK.ID != "" {
		if r.Op == "grant.create" {
			g.grants = append(g.grants, v.OK.ID)
			g.owner[v.OK.ID] = r.Customer
		} else {
			g.rows[r.Customer] = append(g.rows[r.Customer], v.OK.ID)
		}
	}
}

// missing skips a test whose tools are not there, or fails it where they must be.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CREDITMIRROR_REQUIRE_SERVICES") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// process starts a driver that reads requests and writes results, line by line.
func process(t *testing.T, name string, args ...string) sdkDriver {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v %s", name, err, &stderr)
		}
		cancel()
	})
	lines := bufio.NewReader(out)
	return func(r sdkRequest) json.RawMessage {
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(append(line, '\n')); err != nil {
			t.Fatalf("%v %s", err, &stderr)
		}
		answer, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatalf("%v %s", err, &stderr)
		}
		return answer
	}
}

// buildStripeGo builds the driver of the newest stripe-go, in the module of its own.
func buildStripeGo(dir string) (string, error) {
	binary := filepath.Join(dir, "stripego")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir = filepath.Join("..", "api", "sdktest", "stripego")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, nil
}

// stripeNode installs the SDK once per version into the user's cache.
func stripeNode(t *testing.T, base, key string) sdkDriver {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, "%s is not installed", tool)
		}
	}
	source := filepath.Join("..", "api", "sdktest", "stripenode")
	lock, err := os.ReadFile(filepath.Join(source, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(lock)
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	folder := filepath.Join(cache, "creditmirror-stripenode-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(filepath.Join(folder, "node_modules", "stripe", "package.json")); err != nil {
		fresh := t.TempDir()
		for _, name := range []string{"package.json", "package-lock.json"} {
			copyFile(t, filepath.Join(source, name), filepath.Join(fresh, name))
		}
		npm := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		npm.Dir = fresh
		if out, err := npm.CombinedOutput(); err != nil {
			missing(t, "npm cannot install stripe: %v %s", err, out)
		}
		folder = fresh
		// Another run may have been faster; this one works all the same.
		if os.Rename(fresh, filepath.Join(cache, "creditmirror-stripenode-"+hex.EncodeToString(sum[:8]))) == nil {
			folder = filepath.Join(cache, "creditmirror-stripenode-"+hex.EncodeToString(sum[:8]))
		}
	}
	// Node looks for packages beside the script.
	script := filepath.Join(folder, "driver-"+hex.EncodeToString([]byte(t.Name()))[:16]+".mjs")
	copyFile(t, filepath.Join(source, "driver.mjs"), script)
	return process(t, "node", script, base, key)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rawObject is an object that v79 has no type for.
type rawObject struct {
	stripe.APIResource
	ID  string
	raw json.RawMessage
}

func (o *rawObject) UnmarshalJSON(b []byte) error {
	var v struct{ ID string }
	err := json.Unmarshal(b, &v)
	o.ID, o.raw = v.ID, bytes.Clone(b)
	return err
}

func (o *rawObject) MarshalJSON() ([]byte, error) { return o.raw, nil }

type rawList struct {
	stripe.APIResource
	stripe.ListMeta
	Data []*rawObject `json:"data"`
}

type rawListParams struct {
	stripe.ListParams `form:"*"`
	Customer          *string   `form:"customer"`
	CreditGrant       *string   `form:"credit_grant"`
	Expand            []*string `form:"expand"`
}

func stripeGo79(_ *testing.T, base, key string) sdkDriver {
	backend := stripe.GetBackendWithConfig(stripe.APIBackend, &stripe.BackendConfig{
		URL: stripe.String(base), EnableTelemetry: stripe.Bool(false), MaxNetworkRetries: stripe.Int64(0), LeveledLogger: &stripe.LeveledLogger{},
	})
	var api client.API
	api.Init(key, &stripe.Backends{API: backend, Connect: backend, Uploads: backend})
	return func(r sdkRequest) json.RawMessage {
		v, err := runGo79(&api, backend, key, r)
		out := map[string]any{"ok": v}
		if err != nil {
			se, ok := errors.AsType[*stripe.Error](err)
			if !ok {
				se = &stripe.Error{Type: stripe.ErrorType(err.Error())}
			}
			out = map[string]any{"error": map[string]any{"status": se.HTTPStatusCode, "type": se.Type, "code": se.Code, "param": se.Param}}
		}
		line, err := json.Marshal(out)
		if err != nil {
			line = []byte(err.Error())
		}
		return line
	}
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func runGo79(api *client.API, backend stripe.Backend, key string, r sdkRequest) (any, error) {
	params := stripe.Params{IdempotencyKey: orNil(r.Key)}
	for k, v := range r.Metadata {
		params.AddMetadata(k, v)
	}
	paging := stripe.ListParams{StartingAfter: orNil(r.After), EndingBefore: orNil(r.Before)}
	if r.Limit != 0 {
		paging.Limit = &r.Limit
	}
	if r.CreatedFrom != 0 {
		paging.Filters.AddFilter("created", "gte", fmt.Sprint(r.CreatedFrom))
	}
	if r.CreatedUntil != 0 {
		paging.Filters.AddFilter("created", "lte", fmt.Sprint(r.CreatedUntil))
	}
	follow := func(it *stripe.Iter) (any, error) {
		out := []any{}
		for len(out) < 200 && it.Next() {
			out = append(out, it.Current())
		}
		return out, it.Err()
	}
	expand := stripe.StringSlice(r.Expand)
	raw := func(method, path string, extra ...string) (any, error) {
		p := stripe.Params{IdempotencyKey: params.IdempotencyKey}
		for k, v := range r.Metadata { // of params without a type, v79 takes neither Metadata nor Expand
			p.AddExtra("metadata["+k+"]", v)
		}
		p.Headers = http.Header{"Stripe-Version": {stripesim.Version}}
		for i, e := range r.Expand {
			p.AddExtra(fmt.Sprintf("expand[%d]", i), e)
		}
		for i := 0; i < len(extra); i += 2 {
			p.AddExtra(extra[i], extra[i+1])
		}
		var o rawObject
		err := backend.Call(method, path, key, &p, &o)
		if err != nil {
			return nil, err
		}
		return &o, nil
	}
	rawPages := func(path string) (any, error) {
		p := &rawListParams{ListParams: paging, Customer: orNil(r.Customer), CreditGrant: orNil(r.Grant), Expand: expand}
		return follow(stripe.GetIter(p, func(rp *stripe.Params, v *form.Values) ([]any, stripe.ListContainer, error) {
			rp.Headers = http.Header{"Stripe-Version": {stripesim.Version}}
			l := &rawList{}
			err := backend.CallRaw(http.MethodGet, path, key, v, rp, l)
			out := make([]any, len(l.Data))
			for i, row := range l.Data {
				out[i] = row
			}
			return out, l, err
		}))
	}
	const grants, credits = "/v1/billing/credit_grants", "/v1/billing/credit_balance_transactions"
	id := url.PathEscape(r.ID)
	switch r.Op {
	case "customer":
		return api.Customers.Get(r.ID, &stripe.CustomerParams{Expand: expand})
	case "customers":
		return follow(api.Customers.List(&stripe.CustomerListParams{ListParams: paging, Expand: expand}).Iter)
	case "transaction":
		return api.CustomerBalanceTransactions.Get(r.ID, &stripe.CustomerBalanceTransactionParams{Customer: &r.Customer, Expand: expand})
	case "transactions":
		return follow(api.CustomerBalanceTransactions.List(&stripe.CustomerBalanceTransactionListParams{
			ListParams: paging, Customer: &r.Customer, Expand: expand,
		}).Iter)
	case "transaction.create":
		return api.CustomerBalanceTransactions.New(&stripe.CustomerBalanceTransactionParams{
			Params: params, Customer: &r.Customer, Amount: &r.Amount, Currency: &r.Currency, Description: orNil(r.Description), Expand: expand,
		})
	case "transaction.update":
		return api.CustomerBalanceTransactions.Update(r.ID, &stripe.CustomerBalanceTransactionParams{
			Params: params, Customer: &r.Customer, Description: orNil(r.Description),
		})
	case "grant":
		return raw(http.MethodGet, grants+"/"+id)
	case "grants":
		return rawPages(grants)
	case "grant.create":
		return raw(http.MethodPost, grants, "customer", r.Customer, "category", "paid", "name", r.Description, "amount[type]", "monetary",
			"amount[monetary][currency]", r.Currency, "amount[monetary][value]", fmt.Sprint(r.Amount), "applicability_config[scope][price_type]", "metered")
	case "grant.update":
		return raw(http.MethodPost, grants+"/"+id)
	case "grant.expire":
		return raw(http.MethodPost, grants+"/"+id+"/expire")
	case "grant.void":
		return raw(http.MethodPost, grants+"/"+id+"/void")
	case "credit":
		return raw(http.MethodGet, credits+"/"+id)
	case "credits":
		return rawPages(credits)
	case "summary":
		if r.Grant != "" {
			return raw(http.MethodGet, "/v1/billing/credit_balance_summary", "customer", r.Customer, "filter[type]", "credit_grant", "filter[credit_grant]", r.Grant)
		}
		return raw(http.MethodGet, "/v1/billing/credit_balance_summary", "customer", r.Customer,
			"filter[type]", "applicability_scope", "filter[applicability_scope][price_type]", "metered")
	}
	return nil, fmt.Errorf("unknown operation %q", r.Op)
}
