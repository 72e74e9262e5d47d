//go:build unix

package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/creditmirror/creditmirror/config"
	"github.com/creditmirror/creditmirror/stripesim"
)

// TestNoOutputHasASecret runs the binary with a known secret in every variable that takes
// one, through what works and what fails, and looks for each of them in all that comes out:
// the log at its most talkative, the commands' output, answers, metrics, profiles, traces,
// notifications, and the process's arguments.
func TestNoOutputHasASecret(t *testing.T) {
	t.Parallel()
	const (
		postgresPassword = "postgres-password-to-look-for"
		redisPassword    = "redis-password-to-look-for"
		exportPassword   = "export-password-to-look-for"
		readKey          = "read-key-to-look-for-0123"
		writeKey         = "write-key-to-look-for-0123"
		otelToken        = "otel-token-to-look-for-0123"
		tracesToken      = "traces-token-to-look-for-0123"
		oldSecret        = "whsec_oldSecretToLookFor0123456789ab"
		wrongKey         = "wrong-key-to-look-for-0123"
		idempotency      = "idempotency-key-to-look-for"
	)
	out := &logBuffer{}
	record := func(name string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body := io.Reader(r.Body)
			if r.Header.Get("Content-Encoding") == "gzip" {
				z, err := gzip.NewReader(r.Body)
				if err != nil {
					t.Error(err)
					return
				}
				body = z
			}
			fmt.Fprintf(out, "\n%s: ", name)
			_, _ = io.Copy(out, body) // what was sent of it is looked at
		}))
		t.Cleanup(s.Close)
		return s
	}
	traces, notified := record("traces"), record("notified")

	api := reserve(t)
	w := newWorld(t, everysec, setup{ownPostgres: true})
	owner := w.env["CREDITMIRROR_DATABASE_URL"]
	if err := migrate(owner); err != nil {
		t.Fatal(err)
	}
	u := parsed(t, owner)
	w.pg.Exec(t, strings.TrimPrefix(u.Path, "/"), "CREATE ROLE watched LOGIN SUPERUSER PASSWORD '"+postgresPassword+"'")
	u.User = url.UserPassword("watched", postgresPassword)
	w.env["CREDITMIRROR_DATABASE_URL"] = u.String()
	admin := redis.NewClient(&redis.Options{Addr: w.redis.Addr})
	defer admin.Close()
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "watched", "on", ">"+redisPassword, "~*", "&*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	w.env["CREDITMIRROR_REDIS_URL"] = "redis://watched:" + redisPassword + "@" + w.redis.Addr
	w.env["STRIPE_WEBHOOK_SECRET"] += "," + oldSecret
	w.env["CREDITMIRROR_API_ADDR"] = api
	w.env["CREDITMIRROR_API_KEYS"] = "read:" + readKey + ",write:" + writeKey
	w.env["CREDITMIRROR_NOTIFY_URL"] = notified.URL + "/hooks/" + notifyToken
	w.env["CREDITMIRROR_NOTIFY_SECRET"] = notifySecret
	w.env["CREDITMIRROR_NOTIFY_ALLOW"] = "127.0.0.1"
	w.env["CREDITMIRROR_EXPORT_URL"] = "postgres://exporter:" + exportPassword + "@127.0.0.1:1/warehouse?sslmode=disable"
	w.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = traces.URL
	w.env["OTEL_EXPORTER_OTLP_HEADERS"] = "x-token=" + otelToken
	w.env["OTEL_EXPORTER_OTLP_TRACES_HEADERS"] = "x-token=" + tracesToken
	w.env["CREDITMIRROR_LOG_LEVEL"] = "debug"
	for _, s := range config.Vars() {
		if s.Secret && w.env[string(s.Var)] == "" {
			t.Errorf("%s is a secret that this test does not set", s.Var)
		}
	}
	secrets := []string{
		apiKey, oldSecret, postgresPassword, redisPassword, exportPassword, readKey, writeKey, otelToken, tracesToken, notifyToken, notifySecret, wrongKey,
	}
	secrets = append(secrets, w.secrets...)

	n := w.spawn(nil)
	customer := w.stripe.customer("name", "Ada")
	w.stripe.credit(customer, 500, "usd")
	w.stripe.grant(customer, 900)
	w.equal()
	answer := func(method, target, body string, header ...string) {
		r, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Errorf("%s %s: %v", method, target, err)
			return
		}
		defer resp.Body.Close()
		fmt.Fprintf(out, "\n%s %s: %s %v ", method, target, resp.Status, resp.Header)
		_, _ = io.Copy(out, resp.Body)
	}

	// Good and bad requests of every listener.
	now := time.Now()
	body := event("customer.updated", customer, now)
	for _, secret := range []string{w.secrets[0], oldSecret, "whsec_unknown0123456789unknown0123"} {
		header := stripesim.SignatureHeader(secret, now, body)
		_, signature, _ := strings.Cut(header, "v1=")
		secrets = append(secrets, signature)
		answer("POST", "http://"+n.webhook+"/webhooks/stripe", string(body), "Stripe-Signature", header)
	}
	ledger := "http://" + api + "/v1/customers/" + customer + "/balance_transactions"
	form := []string{"Content-Type", "application/x-www-form-urlencoded", "Idempotency-Key", idempotency, "Authorization"}
	for _, key := range []string{writeKey, readKey, wrongKey} {
		answer("GET", ledger, "", "Authorization", "Bearer "+key, "Creditmirror-Max-Age", "0s")
		answer("GET", ledger+"?limit=x&starting_after=y", "", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(key+":")))
		answer("POST", ledger, "amount=-1&currency=usd", append(form, "Bearer "+key)...)
		answer("POST", ledger, "amount=x", append(form, "Bearer "+key)...)
		answer("POST", "http://"+api+"/sign-in", "key="+key, "Content-Type", form[1], "Sec-Fetch-Site", "same-origin")
	}
	for _, path := range []string{
		"/metrics", "/status", "/readyz", "/healthz", "/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/cmdline",
	} {
		answer("GET", "http://"+n.ops+path, "")
	}

	// Commands that work, and that fail for each of the secrets' sake.
	run := func(args ...string) {
		code, stdout, stderr := n.command(args...)
		fmt.Fprintf(out, "\n%s: %d\n%s\n%s", args[0], code, stdout, stderr)
	}
	for _, args := range [][]string{
		{"status"},
		{"status", "--format", "json"},
		{"verify"},
		{"reconcile", "events"},
		{"reconcile", "balances", "--dry-run"},
		{"audit"},
		{"dead", "list"},
		{"sweeps"},
		{"drift"},
		{"sync", customer},
		{"erase", customer},
		{"endpoint", "list"},
		{"export"},
		{"migrate"},
		{"healthcheck"},
		{"serve", "--help"},
		{"status", wrongKey},
	} {
		run(args...)
	}
	usual := w.env
	for _, wrong := range []struct{ name, value string }{
		{"CREDITMIRROR_DATABASE_URL", "postgres://watched:" + postgresPassword + "@127.0.0.1:1/mirror?sslmode=disable"},
		{"CREDITMIRROR_DATABASE_URL", "postgres://watched:" + postgresPassword + "@127.0.0.1:none/mirror"},
		{"CREDITMIRROR_DATABASE_URL", "postgres://nobody:" + postgresPassword + "@" + u.Host + u.Path + "?sslmode=disable"},
		{"CREDITMIRROR_REDIS_URL", "redis://watched:" + redisPassword + "@127.0.0.1:1"},
		{"CREDITMIRROR_REDIS_URL", "redis://nobody:" + redisPassword + "@" + w.redis.Addr},
		{"CREDITMIRROR_REDIS_URL", "redis://watched:" + redisPassword + "@127.0.0.1:none"},
		{"STRIPE_API_KEY", "pk_test_" + wrongKey},
		{"STRIPE_API_KEY_FILE", apiKey},
		{"STRIPE_API_BASE", "http://user:" + wrongKey + "@127.0.0.1:1"},
		{"STRIPE_WEBHOOK_SECRET", strings.TrimPrefix(oldSecret, "whsec_")},
		{"CREDITMIRROR_API_KEYS", "write=" + writeKey},
		{"CREDITMIRROR_API_KEYS", `[{"name":"x","key":"` + writeKey + `","rights":"all"}]`},
		{"CREDITMIRROR_NOTIFY_URL", "http://user:" + notifySecret + "@169.254.169.254/" + notifyToken},
		{"CREDITMIRROR_NOTIFY_SECRET", notifySecret[:20]},
		{"CREDITMIRROR_EXPORT_URL", "ftp://exporter:" + exportPassword + "@127.0.0.1/warehouse"},
		{"OTEL_EXPORTER_OTLP_HEADERS", otelToken},
	} {
		w.env = map[string]string{}
		for name, value := range usual {
			w.env[name] = value
		}
		w.env[wrong.name] = wrong.value
		// None of them starts: the other one has the addresses, or the setting is wrong.
		for _, args := range [][]string{{"serve"}, {"status"}} {
			run(args...)
		}
	}
	w.env = usual
	run("serve", "--stripe-api-key", apiKey)
	run("serve", "--api-keys="+writeKey)
	run("serve", "--database-url", "postgres://watched:"+postgresPassword+"@127.0.0.1:1/mirror")

	if err := n.stop(); err != nil { // the last spans are sent
		t.Error(err)
	}
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.cmd.Process.Pid))
	if err == nil {
		_, _ = out.Write(arguments)
	}
	if strings.Contains(w.log.String(), idempotency) { // answers repeat it to its caller, as Stripe's do
		t.Error("the log has an Idempotency-Key")
	}
	all := []byte(out.String() + w.log.String())
	for _, needle := range []string{"stripe call", "\ntraces: {", "creditmirror_connections_total", "goroutine ", customer} {
		if !bytes.Contains(all, []byte(needle)) {
			t.Errorf("nothing was looked at that has %q", needle)
		}
	}
	for _, secret := range secrets {
		for form, text := range map[string]string{
			"as it is": secret, "escaped": url.QueryEscape(secret), "as Basic": base64.StdEncoding.EncodeToString([]byte(secret + ":")),
		} {
			if at := bytes.Index(all, []byte(text)); at >= 0 {
				t.Errorf("%q came out %s: …%s…", secret, form, all[max(0, at-300):min(len(all), at+len(text)+40)])
			}
		}
	}
}
