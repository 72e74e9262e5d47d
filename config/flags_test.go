package config

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// bind parses args against the flags of vars.
func bind(t *testing.T, args []string, vars ...Var) (*Overrides, *pflag.FlagSet) {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	o := Bind(fs, vars...)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o, fs
}

// The table must cover the contract's in its order, then what came after it.
func TestTableIsTheContract(t *testing.T) {
	t.Parallel()
	want := []string{
		"STRIPE_API_KEY --stripe-api-key-file", "STRIPE_WEBHOOK_SECRET --stripe-webhook-secret-file",
		"STRIPE_API_BASE --stripe-api-base", "STRIPE_API_VERSION --stripe-api-version", "STRIPE_ACCOUNTS --stripe-accounts",
		"CREDITMIRROR_DATABASE_URL --database-url", "CREDITMIRROR_REDIS_URL --redis-url", "CREDITMIRROR_INBOX --inbox",
		"CREDITMIRROR_WEBHOOK_ADDR --webhook-addr", "CREDITMIRROR_API_ADDR --api-addr", "CREDITMIRROR_OPS_ADDR --ops-addr",
		"CREDITMIRROR_API_KEYS --api-keys-file", "CREDITMIRROR_STRIPE_RPS --stripe-rps",
		"CREDITMIRROR_STRIPE_ENDPOINT_RPS --stripe-endpoint-rps", "CREDITMIRROR_WORKERS --workers",
		"CREDITMIRROR_EVENTS_INTERVAL --events-interval", "CREDITMIRROR_BALANCES_INTERVAL --balances-interval",
		"CREDITMIRROR_SCRUB_PERIOD --scrub-period", "CREDITMIRROR_REPAIR --repair",
		"CREDITMIRROR_CUSTOMER_FIELDS --customer-fields", "CREDITMIRROR_LOG_LEVEL --log-level",
		"CREDITMIRROR_MAX_ATTEMPTS --max-attempts",
		"CREDITMIRROR_LEDGERS --ledgers",
		"CREDITMIRROR_INCOMPLETE --incomplete", "CREDITMIRROR_TRUSTED_PROXIES --trusted-proxies",
		"CREDITMIRROR_WEBHOOK_TLS_CERT --webhook-tls-cert", "CREDITMIRROR_WEBHOOK_TLS_KEY --webhook-tls-key",
		"CREDITMIRROR_API_TLS_CERT --api-tls-cert", "CREDITMIRROR_API_TLS_KEY --api-tls-key",
		"CREDITMIRROR_OPS_TLS_CERT --ops-tls-cert", "CREDITMIRROR_OPS_TLS_KEY --ops-tls-key", "CREDITMIRROR_AUDIT_RETENTION --audit-retention",
		"CREDITMIRROR_NOTIFY_URL --notify-url-file", "CREDITMIRROR_NOTIFY_SECRET --notify-secret-file", "CREDITMIRROR_NOTIFY_ALLOW --notify-allow",
		"CREDITMIRROR_EXPORT_URL --export-url", "CREDITMIRROR_EXPORT_FORMAT --export-format", "CREDITMIRROR_EXPORT_INTERVAL --export-interval",
		"CREDITMIRROR_EXPORT_TABLES --export-tables",
		"OTEL_EXPORTER_OTLP_ENDPOINT --otel-exporter-otlp-endpoint", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT --otel-exporter-otlp-traces-endpoint",
		"OTEL_EXPORTER_OTLP_HEADERS --otel-exporter-otlp-headers-file", "OTEL_EXPORTER_OTLP_TRACES_HEADERS --otel-exporter-otlp-traces-headers-file",
		"OTEL_EXPORTER_OTLP_PROTOCOL --otel-exporter-otlp-protocol", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL --otel-exporter-otlp-traces-protocol",
		"OTEL_SERVICE_NAME --otel-service-name", "OTEL_RESOURCE_ATTRIBUTES --otel-resource-attributes",
		"OTEL_TRACES_EXPORTER --otel-traces-exporter", "OTEL_TRACES_SAMPLER --otel-traces-sampler",
		"OTEL_TRACES_SAMPLER_ARG --otel-traces-sampler-arg", "OTEL_SDK_DISABLED --otel-sdk-disabled",
	}
	secret := map[Var]bool{
		VarStripeAPIKey: true, VarStripeWebhookSecret: true, VarAPIKeys: true, VarDatabaseURL: true, VarRedisURL: true,
		VarNotifyURL: true, VarNotifySecret: true, VarExportURL: true, VarOTLPHeaders: true, VarOTLPTracesHeaders: true,
	}
	var got []string
	for _, s := range Vars() {
		got = append(got, string(s.Var)+" "+s.Var.Flag())
		if s.Flag != strings.TrimPrefix(s.Var.Flag(), "--") || s.Help == "" || s.kind == "" || s.Secret != secret[s.Var] {
			t.Errorf("%+v", s)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestFlagsWinOverTheEnvironment(t *testing.T) {
	t.Parallel()
	environ := []string{
		"CREDITMIRROR_WORKERS=5", "CREDITMIRROR_LOG_LEVEL=nonsense", "CREDITMIRROR_MAX_ATTEMPTS=7",
		"CREDITMIRROR_REDIS_URL=redis://r", "STRIPE_API_KEY=" + liveKey,
	}
	o, _ := bind(t, []string{
		"--workers", "6", "--log-level=warn", "--redis-url=", "--repair=false",
	}, AllVars()...)
	cfg, err := Load(environ, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Workers != 6 || cfg.LogLevel != LogWarn || cfg.MaxAttempts != 7 || !cfg.EmbeddedRedis() || cfg.Repair || cfg.Mode() != ModeLive || cfg.StripeRPS != 80 {
		t.Fatalf("%+v", cfg)
	}
	later, _ := bind(t, []string{"--workers=9", "--repair"}, VarWorkers, VarRepair)
	if cfg, err = Load(environ, o, later); err != nil || cfg.Workers != 9 || !cfg.Repair {
		t.Fatalf("%+v, %v", cfg, err)
	}
}

func TestFileFlags(t *testing.T) {
	t.Parallel()
	files := func(path string) ([]byte, error) { return []byte(path + "\n"), nil } // a file holds its name
	o, _ := bind(t, []string{"--stripe-api-key-file", testKey}, VarStripeAPIKey)
	cfg, err := load([]string{"STRIPE_API_KEY=" + liveKey}, nil, []*Overrides{o}, nil, files)
	if err != nil || cfg.StripeAPIKey.Reveal() != testKey {
		t.Fatalf("the flag does not win: %v", err)
	}
	o, _ = bind(t, []string{"--database-url-file", "sqlite:a", "--database-url", "sqlite:b"}, VarDatabaseURL)
	_, err = load(nil, nil, []*Overrides{o}, nil, files)
	if err == nil || !strings.Contains(err.Error(), "both --database-url and --database-url-file") {
		t.Fatal(err)
	}
}

// What stands on a command line can be seen by every process, so no flag takes a secret.
func TestNoFlagTakesASecret(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--stripe-api-key", "sk_test_Canary"},
		{"--stripe-api-key="},
		{"--stripe-webhook-secret=whsec_Canary"},
		{"--api-keys=write:CanaryCanaryCanaryCanary"},
		{"--notify-url=https://hooks.example/Canary"},
		{"--notify-secret=CanaryCanaryCanaryCanaryCanary"},
		{"--otel-exporter-otlp-headers=authorization=Canary"},
		{"--otel-exporter-otlp-traces-headers=authorization=Canary"},
		{"--database-url=postgres://me:Canary@db/x"},
		{"--database-url=postgres://db/x?user=me&password=Canary"},
		{"--database-url=postgres://db/x?sslpassword=Canary"},
		{"--redis-url=redis://:Canary@r:6379"},
		{"--redis-url=redis+sentinel://s/0/m?sentinel_password=Canary"},
	} {
		o, fs := bind(t, args, AllVars()...)
		_, err := Load([]string{"CREDITMIRROR_NOTIFY_SECRET=012345678901234567890123"}, o)
		if err == nil || !strings.Contains(err.Error(), "every process of this machine") || strings.Contains(err.Error(), "Canary") {
			t.Errorf("%v: %v", args, err)
		}
		text := fs.FlagUsages()
		fs.VisitAll(func(f *pflag.Flag) { text += f.Value.String() })
		if strings.Contains(text, "Canary") {
			t.Errorf("%v: %s", args, text)
		}
	}
	o, _ := bind(t, []string{"--database-url=postgres://me@db/x?sslmode=verify-full", "--redis-url=rediss://r:6379/1"}, AllVars()...)
	if _, err := Load(nil, o); err != nil {
		t.Errorf("without a password: %v", err)
	}
}

func TestBadFlagsAreReportedTogetherAndNotQuoted(t *testing.T) {
	t.Parallel()
	o, fs := bind(t, []string{"--redis-url=ftp://Canary", "--workers=many", "--database-url=", "--repair=maybe"}, AllVars()...)
	_, err := Load(nil, o)
	want := []string{"CREDITMIRROR_DATABASE_URL", "CREDITMIRROR_REDIS_URL", "CREDITMIRROR_WORKERS", "CREDITMIRROR_REPAIR"}
	if diff := cmp.Diff(want, problemVars(t, err)); diff != "" {
		t.Fatal(diff)
	}
	text := err.Error() + fs.FlagUsages()
	fs.VisitAll(func(f *pflag.Flag) { text += f.Value.String() })
	if strings.Contains(text, "Canary") {
		t.Fatal(text)
	}
	if !strings.Contains(err.Error(), "CREDITMIRROR_WORKERS (--workers): ") {
		t.Fatal(err)
	}
}

func TestBindUnknown(t *testing.T) {
	t.Parallel()
	o, fs := bind(t, nil, "CREDITMIRROR_WORKER")
	if fs.HasFlags() {
		t.Error("registered")
	}
	if _, err := Load(nil, o); err == nil || !strings.Contains(err.Error(), "did you mean CREDITMIRROR_WORKERS?") {
		t.Fatal(err)
	}
}

func TestHelpShowsDefaults(t *testing.T) {
	t.Parallel()
	_, fs := bind(t, nil, AllVars()...)
	help := fs.FlagUsages()
	for _, want := range []string{
		`--stripe-rps rate .*\[\$CREDITMIRROR_STRIPE_RPS\] \(default 80 live, 20 test\)`,
		`--redis-url url .*\(default embedded\)`, `--database-url url .*\(default sqlite:creditmirror.db\)`,
		`--stripe-api-version version .*\(default 2026-11-18.endive\)`, `--repair  .*\(default true\)`,
		`--workers int .*\(default 16\)`, `--events-interval duration .*\(default 1m\)`,
		`--stripe-api-key-file path .*\[\$STRIPE_API_KEY_FILE\]\n`,
	} {
		if !regexp.MustCompile(want).MatchString(help) {
			t.Errorf("no %s in\n%s", want, help)
		}
	}
	for _, s := range Vars() {
		if f := fs.Lookup(s.Flag); f == nil || !s.Var.hidden() && f.DefValue != s.Default {
			t.Errorf("%s: %+v", s.Var, f)
		}
		if f := fs.Lookup(s.Var.flagName()); f == nil || f.Hidden != s.Var.hidden() {
			t.Errorf("%s: %+v", s.Var, f)
		}
		if f := fs.Lookup(s.Var.flagName() + "-file"); (f != nil) != s.Secret {
			t.Errorf("%s: file flag %+v", s.Var, f)
		}
	}
}
