package config

import (
	"strconv"
	"strings"
	"time"
)

// Bounds beyond which a setting only does harm.
const (
	minEventsInterval   = time.Second
	minBalancesInterval = 10 * time.Second
	minScrubPeriod      = time.Minute
	minExportInterval   = time.Second
	minAPIKeyLength     = 20 // characters of CREDITMIRROR_API_KEYS, without the prefix
	minKeyRPS           = 0.01
	minAuditRetention   = 30 * 24 * time.Hour // the database itself keeps rows for so long
	minNotifySecret     = 24                  // characters of each of CREDITMIRROR_NOTIFY_SECRET
	maxNotifySecrets    = 4                   // each makes a signature: receivers read a short header
)

// maxKeyRPS is more than a process can answer.
const maxKeyRPS = 1_000_000

// table is the single description of every variable.
func table() []Spec {
	rows := []Spec{
		{
			Var: VarStripeAPIKey, Secret: true, kind: "key", emptyOK: true,
			Help:  "Stripe key, sk_… or rk_…; its mode (test or live) decides which events are taken",
			parse: parseStripeKey,
			show:  func(c Config) string { return setOrUnset(c.StripeAPIKey.IsSet()) },
		},
		{
			Var: VarStripeWebhookSecret, Secret: true, kind: "secrets", emptyOK: true,
			Help:  "signing secrets of the webhook endpoint, one or more whsec_…, comma separated",
			parse: parseWebhookSecrets,
			show:  func(c Config) string { return setOrUnset(len(c.StripeWebhookSecrets) > 0) },
		},
		{
			Var: VarStripeAPIBase, Default: "https://api.stripe.com", kind: "url",
			Help:  "where Stripe's API is: a simulator, a proxy or a mock",
			parse: parseAPIBase,
			show:  func(c Config) string { return c.StripeAPIBase },
		},
		{
			Var: VarStripeAPIVersion, Default: "2026-11-18.endive", kind: "version",
			Help:  "Stripe API version that reads are pinned to",
			parse: parseAPIVersion,
			show:  func(c Config) string { return c.StripeAPIVersion },
		},
		{
			Var: VarStripeAccounts, kind: "accounts", emptyOK: true,
			Help:  "connected accounts to mirror, acct_… comma separated, or * for every account seen in events",
			parse: parseAccounts,
			show:  func(c Config) string { return c.StripeAccounts.String() },
		},
		{
			Var: VarDatabaseURL, Default: "sqlite:creditmirror.db", Secret: true, kind: "url",
			Help:  "mirror database, sqlite:PATH or postgres://…",
			parse: parseDatabaseURL,
			show:  func(c Config) string { return redactURL(c.DatabaseURL.Reveal()) },
		},
		{
			Var: VarRedisURL, Default: embeddedRedis, Secret: true, kind: "url", computed: true, emptyOK: true,
			Help:  "queue, embedded in the process, or redis://, rediss://, redis+cluster://host,host… or redis+sentinel://…",
			parse: parseRedisURL,
			show: func(c Config) string {
				if c.EmbeddedRedis() {
					return embeddedRedis
				}
				return redactURL(c.RedisURL.Reveal())
			},
		},
		{
			Var: VarInbox, Default: "auto", kind: "auto|on|off",
			Help:  "write each event to the mirror database before its targets are enqueued in Redis; auto: off only where Redis itself is durable",
			parse: enum(func(c *Config) *Inbox { return &c.Inbox }, InboxAuto, InboxOn, InboxOff),
			show:  func(c Config) string { return string(c.Inbox) },
		},
		{
			Var: VarWebhookAddr, Default: ":8080", kind: "host:port",
			Help:  "listens for POST /webhooks/stripe",
			parse: address(func(c *Config) *string { return &c.WebhookAddr }),
			show:  func(c Config) string { return c.WebhookAddr },
		},
		{
			Var: VarAPIAddr, Default: "127.0.0.1:8081", kind: "host:port",
			Help:  "listens for the Stripe-compatible API and the console",
			parse: address(func(c *Config) *string { return &c.APIAddr }),
			show:  func(c Config) string { return c.APIAddr },
		},
		{
			Var: VarOpsAddr, Default: "127.0.0.1:9090", kind: "host:port",
			Help:  "listens for /metrics, /healthz, /readyz and /debug/pprof/",
			parse: address(func(c *Config) *string { return &c.OpsAddr }),
			show:  func(c Config) string { return c.OpsAddr },
		},
		{
			Var: VarAPIKeys, Secret: true, kind: "keys", emptyOK: true,
			Help:  "keys for the API and console, comma separated, read: or write: before each (read if none), with a name and a limit of requests per second write[team]@5:, or a list in JSON (docs/security.md); without any they answer on loopback only",
			parse: parseAPIKeys,
			show:  func(c Config) string { return setOrUnset(len(c.APIKeys) > 0) },
		},
		{
			Var: VarStripeRPS, Default: "80 live, 20 test", kind: "rate", computed: true,
			Help:  "Stripe calls per second, all replicas together; in any one second half a second's worth more at most",
			parse: rate(func(c *Config) *float64 { return &c.StripeRPS }),
			show:  func(c Config) string { return formatRate(c.StripeRPS) },
		},
		{
			Var: VarStripeEndpointRPS, Default: "20", kind: "rate",
			Help:  "Stripe calls per second and endpoint, all replicas together; in any one second half a second's worth more at most",
			parse: rate(func(c *Config) *float64 { return &c.StripeEndpointRPS }),
			show:  func(c Config) string { return formatRate(c.StripeEndpointRPS) },
		},
		{
			Var: VarWorkers, Default: "16", kind: "int",
			Help:  "syncs at once, per process",
			parse: integer(func(c *Config) *int { return &c.Workers }, 1, 1024),
			show:  func(c Config) string { return strconv.Itoa(c.Workers) },
		},
		{
			Var: VarEventsInterval, Default: "1m", kind: "duration",
			Help:  "time between events sweeps",
			parse: duration(func(c *Config) *time.Duration { return &c.EventsInterval }, minEventsInterval, "1m"),
			show:  func(c Config) string { return c.EventsInterval.String() },
		},
		{
			Var: VarBalancesInterval, Default: "1h", kind: "duration",
			Help:  "time between balances sweeps",
			parse: duration(func(c *Config) *time.Duration { return &c.BalancesInterval }, minBalancesInterval, "1h"),
			show:  func(c Config) string { return c.BalancesInterval.String() },
		},
		{
			Var: VarScrubPeriod, Default: "720h", kind: "duration",
			Help:  "time in which every customer is re-read in full once",
			parse: duration(func(c *Config) *time.Duration { return &c.ScrubPeriod }, minScrubPeriod, "720h for 30 days"),
			show:  func(c Config) string { return c.ScrubPeriod.String() },
		},
		{
			Var: VarRepair, Default: "true", kind: "bool",
			Help:  "repair the drift that sweeps find; false: report it only",
			parse: boolean(func(c *Config) *bool { return &c.Repair }),
			show:  func(c Config) string { return strconv.FormatBool(c.Repair) },
		},
		{
			Var: VarCustomerFields, Default: "credit", kind: "credit|full",
			Help:  "full: keep whole customer objects, with names, e-mail and addresses",
			parse: enum(func(c *Config) *CustomerFields { return &c.CustomerFields }, CustomerFieldsCredit, CustomerFieldsFull),
			show:  func(c Config) string { return string(c.CustomerFields) },
		},
		{
			Var: VarLogLevel, Default: "info", kind: "level",
			Help:  "least severe log entries to write: debug, info, warn or error",
			parse: enum(func(c *Config) *LogLevel { return &c.LogLevel }, LogDebug, LogInfo, LogWarn, LogError),
			show:  func(c Config) string { return string(c.LogLevel) },
		},
		{
			Var: VarMaxAttempts, Default: "12", kind: "int",
			Help:  "attempts at a sync before it becomes a dead letter",
			parse: integer(func(c *Config) *int { return &c.MaxAttempts }, 1, 100),
			show:  func(c Config) string { return strconv.Itoa(c.MaxAttempts) },
		},
		{
			Var: VarLedgers, Default: "balance,credits", kind: "ledgers",
			Help:  "ledgers to mirror: balance (customer balances), credits (billing credits), or both, comma separated; work for another ledger is set aside",
			parse: parseLedgers,
			show:  func(c Config) string { return strings.Join(toStrings(c.Ledgers), ",") },
		},
		{
			Var: VarIncomplete, Default: "serve", kind: "serve|refuse",
			Help:  "what the API does with an incomplete history: serve what is stored, with Creditmirror-Complete: false, or refuse with 503",
			parse: enum(func(c *Config) *Incomplete { return &c.Incomplete }, IncompleteServe, IncompleteRefuse),
			show:  func(c Config) string { return string(c.Incomplete) },
		},
		{
			Var: VarTrustedProxies, kind: "networks", emptyOK: true,
			Help:  "networks of proxies whose X-Forwarded-For is trusted in logs and records, such as 10.0.0.0/8, comma separated; connections from them have no share of their own",
			parse: networks(func(c *Config) *Networks { return &c.TrustedProxies }, 8, 7),
			show:  func(c Config) string { return c.TrustedProxies.String() },
		},
		tlsFile(VarWebhookTLSCert, "certificate of the webhook listener, a PEM file; read again when it changes", func(c *Config) *string { return &c.WebhookTLS.Cert }),
		tlsFile(VarWebhookTLSKey, "private key of the webhook listener, a PEM file", func(c *Config) *string { return &c.WebhookTLS.Key }),
		tlsFile(VarAPITLSCert, "certificate of the API's listener", func(c *Config) *string { return &c.APITLS.Cert }),
		tlsFile(VarAPITLSKey, "private key of the API's listener", func(c *Config) *string { return &c.APITLS.Key }),
		tlsFile(VarOpsTLSCert, "certificate of the ops listener", func(c *Config) *string { return &c.OpsTLS.Cert }),
		tlsFile(VarOpsTLSKey, "private key of the ops listener", func(c *Config) *string { return &c.OpsTLS.Key }),
		{
			Var: VarAuditRetention, Default: "17520h", kind: "duration",
			Help:  "how long api_writes, the record of who wrote what through the API, is kept",
			parse: duration(func(c *Config) *time.Duration { return &c.AuditRetention }, minAuditRetention, "17520h for two years"),
			show:  func(c Config) string { return c.AuditRetention.String() },
		},
		{
			Var: VarNotifyURL, Secret: true, kind: "url", emptyOK: true,
			Help:  "URL that receives a webhook when drift is opened or closed, https://…",
			parse: parseNotifyURL,
			show:  func(c Config) string { return originOf(c.NotifyURL.Reveal()) },
		},
		{
			Var: VarNotifySecret, Secret: true, kind: "secrets", emptyOK: true,
			Help:  "secret that signs those webhooks; two, comma separated, while one replaces the other",
			parse: parseNotifySecrets,
			show:  func(c Config) string { return setOrUnset(len(c.NotifySecrets) > 0) },
		},
		{
			Var: VarNotifyAllow, kind: "networks", emptyOK: true,
			Help:  "private networks that those webhooks may reach, such as 10.0.0.0/8, comma separated",
			parse: networks(func(c *Config) *Networks { return &c.NotifyAllow }, 8, 7),
			show:  func(c Config) string { return c.NotifyAllow.String() },
		},
		{
			Var: VarExportURL, Secret: true, kind: "url", emptyOK: true,
			Help:  "where the role export keeps a copy for the warehouse: a folder, file://, s3://, gs://, azblob:// or postgres://",
			parse: func(c *Config, value string, _ failFunc) { c.ExportURL = NewSecret(value) },
			show:  func(c Config) string { return setOrUnset(c.ExportURL.IsSet()) },
		},
		{
			Var: VarExportFormat, Default: "parquet", kind: "format",
			Help:  "format of its files: parquet, csv or jsonl",
			parse: enum(func(c *Config) *string { return &c.ExportFormat }, "parquet", "csv", "jsonl"),
			show:  func(c Config) string { return c.ExportFormat },
		},
		{
			Var: VarExportInterval, Default: "1m", kind: "duration",
			Help:  "time between two checks for changes",
			parse: duration(func(c *Config) *time.Duration { return &c.ExportInterval }, minExportInterval, "1m"),
			show:  func(c Config) string { return c.ExportInterval.String() },
		},
		{
			Var: VarExportTables, kind: "tables", emptyOK: true,
			Help: "tables of the copy, comma separated; all where it is not set",
			parse: func(c *Config, value string, _ failFunc) {
				c.ExportTables = strings.Split(strings.ReplaceAll(value, " ", ""), ",")
			},
			show: func(c Config) string { return strings.Join(c.ExportTables, ",") },
		},
	}
	rows = append(rows, otelTable()...)
	for i := range rows {
		rows[i].Flag = strings.TrimPrefix(rows[i].Var.Flag(), "--")
	}
	return rows
}

// tlsFile is a row of one of the files of a listener's TLS.
func tlsFile(v Var, help string, field func(*Config) *string) Spec {
	return Spec{Var: v, kind: "path", emptyOK: true, Help: help, parse: file(field), show: func(c Config) string { return *field(&c) }}
}

func setOrUnset(set bool) string {
	if set {
		return "set"
	}
	return "unset"
}

func formatRate(perSecond float64) string { return strconv.FormatFloat(perSecond, 'g', -1, 64) }

// toStrings returns the text of every element.
func toStrings[T ~string](list []T) []string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = string(v)
	}
	return texts
}

// joinStrings writes a list for people.
func joinStrings[T ~string](list []T) string { return strings.Join(toStrings(list), ", ") }
