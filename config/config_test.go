package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/creditmirror/creditmirror/access"
)

const (
	testKey  = "sk_test_4eC39HqLyjWDarjtT1zdp7dc"
	liveKey  = "rk_live_51AbCdEfGhIjKlMnOp"
	hookKey  = "whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH"
	otherKey = "whsec_9WbX5kEWLlfzsGNjH64I8lOOqUB6e8FZ"
	apiKey   = "0123456789abcdefghij"
)

// problemVars returns which variables err names, in its order.
func problemVars(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("error of type %T: %v", err, err)
	}
	var names []string
	for _, p := range e.Problems {
		names = append(names, p.Var)
	}
	return names
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	got, err := Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		StripeAPIBase: "https://api.stripe.com", StripeAPIVersion: "2026-11-18.endive",
		DatabaseURL: NewSecret("sqlite:creditmirror.db"), Inbox: InboxAuto,
		AuditRetention: 17520 * time.Hour,
		WebhookAddr:    ":8080", APIAddr: "127.0.0.1:8081", OpsAddr: "127.0.0.1:9090",
		StripeRPS: 20, StripeEndpointRPS: 20, Workers: 16,
		EventsInterval: time.Minute, BalancesInterval: time.Hour, ScrubPeriod: 720 * time.Hour,
		Repair: true, CustomerFields: CustomerFieldsCredit, LogLevel: LogInfo, MaxAttempts: 12,
		Ledgers: access.Ledgers(), Incomplete: IncompleteServe,
		ExportFormat: "parquet", ExportInterval: time.Minute,
		OTel: OTel{Exporter: "otlp", Protocol: "http/json", ServiceName: "creditmirror", Sampler: SamplerParentBasedOn, SamplerArg: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if got.OTel.TracesURL() != "" {
		t.Fatalf("traces go to %s", got.OTel.TracesURL())
	}
	if path, ok := got.SQLitePath(); !ok || path != "creditmirror.db" || !got.EmbeddedRedis() || got.Mode() != ModeUnknown {
		t.Fatalf("path %q %v, embedded %v, mode %q", path, ok, got.EmbeddedRedis(), got.Mode())
	}
}

func TestEverythingSet(t *testing.T) {
	t.Parallel()
	got, err := LoadFor([]string{
		"HOME=/root", "STRIPE_CLI_THING=not ours",
		"STRIPE_API_KEY=" + liveKey, "STRIPE_WEBHOOK_SECRET= " + hookKey + " , " + otherKey,
		"STRIPE_API_BASE=http://127.0.0.1:12111/", "STRIPE_API_VERSION=2025-02-24.acacia", "STRIPE_ACCOUNTS=acct_1, acct_2",
		"CREDITMIRROR_DATABASE_URL=postgres://me:p%40ss@db1:5432,db2/mirror?sslmode=verify-full",
		"CREDITMIRROR_REDIS_URL=rediss+cluster://:pw@r1:6379,r2:6379", "CREDITMIRROR_INBOX=off",
		"CREDITMIRROR_WEBHOOK_ADDR=[::]:80", "CREDITMIRROR_API_ADDR=0.0.0.0:81", "CREDITMIRROR_OPS_ADDR=localhost:0",
		"CREDITMIRROR_API_KEYS=" + apiKey + "1,read:" + apiKey + "2,write:" + apiKey + "3,read@50:" + apiKey + "4,write[billing-team]@0.5:" + apiKey + "5,read:" + apiKey + "@50",
		"CREDITMIRROR_STRIPE_ENDPOINT_RPS=150.5", "CREDITMIRROR_WORKERS=1024", "CREDITMIRROR_EVENTS_INTERVAL=1s",
		"CREDITMIRROR_BALANCES_INTERVAL=10s", "CREDITMIRROR_SCRUB_PERIOD=1m", "CREDITMIRROR_REPAIR=false",
		"CREDITMIRROR_CUSTOMER_FIELDS=full", "CREDITMIRROR_LOG_LEVEL=debug", "CREDITMIRROR_MAX_ATTEMPTS=100",
		"CREDITMIRROR_LEDGERS=credits", "CREDITMIRROR_INCOMPLETE=refuse",
		"CREDITMIRROR_TRUSTED_PROXIES=10.0.0.0/8, 192.0.2.1", "CREDITMIRROR_AUDIT_RETENTION=720h",
		"CREDITMIRROR_WEBHOOK_TLS_CERT=w.crt", "CREDITMIRROR_WEBHOOK_TLS_KEY=w.key", "CREDITMIRROR_API_TLS_CERT=a.crt", "CREDITMIRROR_API_TLS_KEY=a.key",
		"CREDITMIRROR_OPS_TLS_CERT=o.crt", "CREDITMIRROR_OPS_TLS_KEY=o.key",
		"CREDITMIRROR_NOTIFY_URL=https://[2001:db8::1]:8443/token?a=b", "CREDITMIRROR_NOTIFY_SECRET=" + apiKey + "0123, " + apiKey + "4567",
		"CREDITMIRROR_NOTIFY_ALLOW=10.0.0.0/8, 2001:db8::1",
		"CREDITMIRROR_EXPORT_URL=postgres://me:pw@db/warehouse", "CREDITMIRROR_EXPORT_FORMAT=jsonl", "CREDITMIRROR_EXPORT_INTERVAL=5s",
		"CREDITMIRROR_EXPORT_TABLES=customers, credit_grants",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318/base/", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://traces.example/v1/traces",
		"OTEL_EXPORTER_OTLP_HEADERS=a=b", "OTEL_EXPORTER_OTLP_TRACES_HEADERS= authorization = Basic%20abc%3D , x-team=y",
		"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json",
		"OTEL_RESOURCE_ATTRIBUTES=service.name=ours,deployment.environment.name=a%2Cb", "OTEL_TRACES_EXPORTER=otlp",
		"OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.25", "OTEL_SDK_DISABLED=false",
	}, AllRoles())
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		StripeAPIKey: NewSecret(liveKey), StripeWebhookSecrets: []Secret{NewSecret(hookKey), NewSecret(otherKey)},
		StripeAPIBase: "http://127.0.0.1:12111", StripeAPIVersion: "2025-02-24.acacia",
		StripeAccounts: Accounts{IDs: []string{"acct_1", "acct_2"}},
		DatabaseURL:    NewSecret("postgres://me:p%40ss@db1:5432,db2/mirror?sslmode=verify-full"),
		RedisURL:       NewSecret("rediss+cluster://:pw@r1:6379,r2:6379"), Inbox: InboxOff,
		WebhookAddr: "[::]:80", APIAddr: "0.0.0.0:81", OpsAddr: "localhost:0",
		APIKeys: []access.Key{
			{Name: "key-1", Digest: access.DigestOf(apiKey + "1")},
			{Name: "key-2", Digest: access.DigestOf(apiKey + "2")},
			{Name: "key-3", Digest: access.DigestOf(apiKey + "3"), Write: true},
			{Name: "key-4", Digest: access.DigestOf(apiKey + "4"), RPS: 50},
			{Name: "billing-team", Digest: access.DigestOf(apiKey + "5"), Write: true, RPS: 0.5},
			{Name: "key-6", Digest: access.DigestOf(apiKey + "@50")}, // of the key itself, which may hold any sign but a colon
		},
		TrustedProxies: Networks{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32")},
		WebhookTLS:     TLS{"w.crt", "w.key"}, APITLS: TLS{"a.crt", "a.key"}, OpsTLS: TLS{"o.crt", "o.key"},
		AuditRetention: 720 * time.Hour,
		StripeRPS:      80, StripeEndpointRPS: 150.5, Workers: 1024,
		EventsInterval: time.Second, BalancesInterval: 10 * time.Second, ScrubPeriod: time.Minute,
		CustomerFields: CustomerFieldsFull, LogLevel: LogDebug, MaxAttempts: 100,
		Ledgers: []access.Ledger{access.Credits}, Incomplete: IncompleteRefuse,
		NotifyURL: NewSecret("https://[2001:db8::1]:8443/token?a=b"), NotifySecrets: []Secret{NewSecret(apiKey + "0123"), NewSecret(apiKey + "4567")},
		NotifyAllow: Networks{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::1/128")},
		ExportURL:   NewSecret("postgres://me:pw@db/warehouse"), ExportFormat: "jsonl", ExportInterval: 5 * time.Second,
		ExportTables: []string{"customers", "credit_grants"},
		OTel: OTel{
			Exporter: "otlp", Endpoint: "http://collector:4318/base/", TracesEndpoint: "https://traces.example/v1/traces",
			Headers: []Header{{"a", NewSecret("b")}}, TracesHeaders: []Header{{"authorization", NewSecret("Basic abc=")}, {"x-team", NewSecret("y")}},
			Protocol: "grpc", TracesProtocol: "http/json", ServiceName: "ours",
			Attributes: []Attribute{{"deployment.environment.name", "a,b"}}, Sampler: SamplerRatio, SamplerArg: 0.25,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if _, ok := got.SQLitePath(); ok || got.EmbeddedRedis() || got.Mode() != ModeLive || got.EndpointRPS() != 80 {
		t.Fatalf("embedded %v, mode %q, endpoint %v", got.EmbeddedRedis(), got.Mode(), got.EndpointRPS())
	}

	effective := map[string]string{}
	for _, s := range got.Effective() {
		effective[s.Name] = s.Value
	}
	if url, headers := got.OTel.TracesURL(), got.OTel.ExportHeaders(); url != "https://traces.example/v1/traces" || headers[0].Name != "authorization" {
		t.Fatalf("traces go to %s with %+v", url, headers)
	}
	wantEffective := map[string]string{
		"CREDITMIRROR_TRUSTED_PROXIES": "10.0.0.0/8,192.0.2.1/32", "CREDITMIRROR_AUDIT_RETENTION": "720h0m0s",
		"CREDITMIRROR_WEBHOOK_TLS_CERT": "w.crt", "CREDITMIRROR_WEBHOOK_TLS_KEY": "w.key", "CREDITMIRROR_API_TLS_CERT": "a.crt",
		"CREDITMIRROR_API_TLS_KEY": "a.key", "CREDITMIRROR_OPS_TLS_CERT": "o.crt", "CREDITMIRROR_OPS_TLS_KEY": "o.key",
		"STRIPE_API_KEY": "set", "STRIPE_WEBHOOK_SECRET": "set", "STRIPE_API_BASE": "http://127.0.0.1:12111",
		"STRIPE_API_VERSION": "2025-02-24.acacia", "STRIPE_ACCOUNTS": "acct_1,acct_2",
		"CREDITMIRROR_DATABASE_URL": "postgres://[redacted]@db1:5432,db2/mirror?[redacted]",
		"CREDITMIRROR_REDIS_URL":    "rediss+cluster://[redacted]@r1:6379,r2:6379", "CREDITMIRROR_INBOX": "off",
		"CREDITMIRROR_WEBHOOK_ADDR": "[::]:80", "CREDITMIRROR_API_ADDR": "0.0.0.0:81", "CREDITMIRROR_OPS_ADDR": "localhost:0",
		"CREDITMIRROR_API_KEYS": "set", "CREDITMIRROR_STRIPE_RPS": "80", "CREDITMIRROR_STRIPE_ENDPOINT_RPS": "150.5",
		"CREDITMIRROR_WORKERS": "1024", "CREDITMIRROR_EVENTS_INTERVAL": "1s", "CREDITMIRROR_BALANCES_INTERVAL": "10s",
		"CREDITMIRROR_SCRUB_PERIOD": "1m0s", "CREDITMIRROR_REPAIR": "false", "CREDITMIRROR_CUSTOMER_FIELDS": "full",
		"CREDITMIRROR_LOG_LEVEL": "debug", "CREDITMIRROR_MAX_ATTEMPTS": "100",
		"CREDITMIRROR_LEDGERS": "credits", "CREDITMIRROR_INCOMPLETE": "refuse",
		"CREDITMIRROR_NOTIFY_URL": "https://[2001:db8::1]:8443/[redacted]", "CREDITMIRROR_NOTIFY_SECRET": "set",
		"CREDITMIRROR_NOTIFY_ALLOW": "10.0.0.0/8,2001:db8::1/128",
		"CREDITMIRROR_EXPORT_URL":   "set", "CREDITMIRROR_EXPORT_FORMAT": "jsonl", "CREDITMIRROR_EXPORT_INTERVAL": "5s",
		"CREDITMIRROR_EXPORT_TABLES":  "customers,credit_grants",
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/base/", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://traces.example/v1/traces",
		"OTEL_EXPORTER_OTLP_HEADERS": "set", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "set",
		"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json",
		"OTEL_SERVICE_NAME": "ours", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=a%2Cb", "OTEL_TRACES_EXPORTER": "otlp",
		"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25", "OTEL_SDK_DISABLED": "false",
	}
	if diff := cmp.Diff(wantEffective, effective); diff != "" {
		t.Fatal(diff)
	}
}

func TestEffectiveUnset(t *testing.T) {
	t.Parallel()
	cfg, err := Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range cfg.Effective() {
		switch Var(s.Name) {
		case VarStripeAPIKey, VarStripeWebhookSecret, VarAPIKeys, VarNotifyURL, VarNotifySecret, VarOTLPHeaders:
			if s.Value != "unset" {
				t.Errorf("%+v", s)
			}
		case VarRedisURL:
			if s.Value != "embedded" {
				t.Errorf("%+v", s)
			}
		}
	}
}

func TestEmbeddedRedisByName(t *testing.T) {
	t.Parallel()
	cfg, err := Load([]string{"CREDITMIRROR_REDIS_URL=embedded"})
	if err != nil || !cfg.EmbeddedRedis() {
		t.Fatalf("embedded %v, %v", cfg.EmbeddedRedis(), err)
	}
}

func TestLastOfARepeatedNameCounts(t *testing.T) {
	t.Parallel()
	cfg, err := Load([]string{"CREDITMIRROR_WORKERS=wrong", "CREDITMIRROR_WORKERS=3"})
	if err != nil || cfg.Workers != 3 {
		t.Fatalf("workers %d, %v", cfg.Workers, err)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := LoadFor([]string{
		"CREDITMIRROR_WORKER=3", "CREDITMIRROR_LOG_LEVEL=loud", "CREDITMIRROR_WORKERS=0", "CREDITMIRROR_INBOX=off",
		"STRIPE_API_KEY=pk_test_x", "STRIPE_WEBHOOK_SECRET=,x",
	}, []Role{RoleWebhook, "boss"})
	want := []string{
		"--roles", "STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_WEBHOOK_SECRET", "CREDITMIRROR_REDIS_URL",
		"CREDITMIRROR_INBOX", "CREDITMIRROR_WORKERS", "CREDITMIRROR_LOG_LEVEL", "CREDITMIRROR_WORKER",
	}
	if diff := cmp.Diff(want, problemVars(t, err)); diff != "" {
		t.Fatal(diff)
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 1+len(want) || lines[0] != "9 problems in the configuration:" {
		t.Fatalf("%q", lines)
	}
	if want := "  CREDITMIRROR_WORKERS (--workers): is \"0\"; give a whole number from 1 to 1024"; lines[7] != want {
		t.Fatalf("%q, want %q", lines[7], want)
	}
	cfg, err := Load([]string{"CREDITMIRROR_WORKERS=x"})
	if diff := cmp.Diff(Config{}, cfg); err == nil || diff != "" {
		t.Fatalf("half a configuration beside %v: %s", err, diff)
	}
}

func TestSecretFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, err := Load([]string{
		"STRIPE_API_KEY_FILE=" + write("key", testKey+"\n"),
		"STRIPE_WEBHOOK_SECRET_FILE=" + write("hook", hookKey+","+otherKey+"\r\n"),
		"CREDITMIRROR_API_KEYS_FILE=" + write("keys", apiKey),
		"CREDITMIRROR_DATABASE_URL=", "CREDITMIRROR_DATABASE_URL_FILE=" + write("db", "postgres://u:pw@db/x\n\n"),
		"CREDITMIRROR_REDIS_URL_FILE=" + write("redis", "redis://:pw@r:6379/1\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{good.StripeAPIKey.Reveal(), good.DatabaseURL.Reveal(), good.RedisURL.Reveal(), good.StripeWebhookSecrets[1].Reveal()}
	if diff := cmp.Diff([]string{testKey, "postgres://u:pw@db/x", "redis://:pw@r:6379/1", otherKey}, got); diff != "" {
		t.Fatal(diff)
	}

	for name, tc := range map[string]struct {
		environ []string
		want    string // part of the message
	}{
		"both":           {[]string{"STRIPE_API_KEY=" + testKey, "STRIPE_API_KEY_FILE=" + dir + "/key"}, "both STRIPE_API_KEY and STRIPE_API_KEY_FILE"},
		"missing":        {[]string{"STRIPE_API_KEY_FILE=" + dir + "/none"}, "no such file"},
		"folder":         {[]string{"STRIPE_API_KEY_FILE=" + dir}, "is a directory"},
		"no path":        {[]string{"STRIPE_API_KEY_FILE="}, "an empty STRIPE_API_KEY_FILE"},
		"empty":          {[]string{"STRIPE_API_KEY_FILE=" + write("empty", "")}, "empty file"},
		"only a newline": {[]string{"STRIPE_API_KEY_FILE=" + write("newline", "\n")}, "empty file"},
		"too large":      {[]string{"STRIPE_API_KEY_FILE=" + write("large", strings.Repeat("k", maxSecretFile+1))}, "more than 64 KiB"},
		"the key itself": {[]string{"STRIPE_API_KEY_FILE=" + testKey}, "no such file"},
		"not a key":      {[]string{"STRIPE_API_KEY_FILE=" + write("bad", "one\ntwo")}, "not a Stripe key"},
		"second line":    {[]string{"STRIPE_API_KEY_FILE=" + write("two", testKey+"\nmore")}, "character"},
	} {
		// A broken file is one problem: it must not also be called missing.
		_, err := LoadFor(tc.environ, []Role{RoleReconcile})
		if vars := problemVars(t, err); !slices.Equal(vars, []string{"STRIPE_API_KEY"}) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		} else if strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), testKey) {
			t.Errorf("%s: the path is shown: %v", name, err)
		}
	}
	whole := testKey + strings.Repeat("k", maxSecretFile-len(testKey))
	if cfg, err := Load([]string{"STRIPE_API_KEY_FILE=" + write("whole", whole)}); err != nil || cfg.StripeAPIKey.Reveal() != whole {
		t.Errorf("a file of just 64 KiB: %v", err)
	}
}
