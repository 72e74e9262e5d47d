package config

import (
	"slices"
	"strings"
)

// Var is the name of an environment variable of the table.
type Var string

// The variables. Their meaning is in [Vars].
const (
	VarStripeAPIKey        Var = "STRIPE_API_KEY"        // #nosec G101 -- the name of a variable
	VarStripeWebhookSecret Var = "STRIPE_WEBHOOK_SECRET" // #nosec G101 -- the name of a variable
	VarStripeAPIBase       Var = "STRIPE_API_BASE"
	VarStripeAPIVersion    Var = "STRIPE_API_VERSION"
	VarStripeAccounts      Var = "STRIPE_ACCOUNTS"
	VarDatabaseURL         Var = "CREDITMIRROR_DATABASE_URL"
	VarRedisURL            Var = "CREDITMIRROR_REDIS_URL"
	VarInbox               Var = "CREDITMIRROR_INBOX"
	VarWebhookAddr         Var = "CREDITMIRROR_WEBHOOK_ADDR"
	VarAPIAddr             Var = "CREDITMIRROR_API_ADDR"
	VarOpsAddr             Var = "CREDITMIRROR_OPS_ADDR"
	VarAPIKeys             Var = "CREDITMIRROR_API_KEYS"
	VarStripeRPS           Var = "CREDITMIRROR_STRIPE_RPS"
	VarStripeEndpointRPS   Var = "CREDITMIRROR_STRIPE_ENDPOINT_RPS"
	VarWorkers             Var = "CREDITMIRROR_WORKERS"
	VarEventsInterval      Var = "CREDITMIRROR_EVENTS_INTERVAL"
	VarBalancesInterval    Var = "CREDITMIRROR_BALANCES_INTERVAL"
	VarScrubPeriod         Var = "CREDITMIRROR_SCRUB_PERIOD"
	VarRepair              Var = "CREDITMIRROR_REPAIR"
	VarCustomerFields      Var = "CREDITMIRROR_CUSTOMER_FIELDS"
	VarLogLevel            Var = "CREDITMIRROR_LOG_LEVEL"
	VarMaxAttempts         Var = "CREDITMIRROR_MAX_ATTEMPTS"
	VarLedgers             Var = "CREDITMIRROR_LEDGERS"
	VarIncomplete          Var = "CREDITMIRROR_INCOMPLETE"
	VarTrustedProxies      Var = "CREDITMIRROR_TRUSTED_PROXIES"
	VarWebhookTLSCert      Var = "CREDITMIRROR_WEBHOOK_TLS_CERT"
	VarWebhookTLSKey       Var = "CREDITMIRROR_WEBHOOK_TLS_KEY"
	VarAPITLSCert          Var = "CREDITMIRROR_API_TLS_CERT"
	VarAPITLSKey           Var = "CREDITMIRROR_API_TLS_KEY"
	VarOpsTLSCert          Var = "CREDITMIRROR_OPS_TLS_CERT"
	VarOpsTLSKey           Var = "CREDITMIRROR_OPS_TLS_KEY"
	VarAuditRetention      Var = "CREDITMIRROR_AUDIT_RETENTION"
	VarNotifyURL           Var = "CREDITMIRROR_NOTIFY_URL"
	VarNotifySecret        Var = "CREDITMIRROR_NOTIFY_SECRET"
	VarNotifyAllow         Var = "CREDITMIRROR_NOTIFY_ALLOW"

	VarExportURL      Var = "CREDITMIRROR_EXPORT_URL"
	VarExportFormat   Var = "CREDITMIRROR_EXPORT_FORMAT"
	VarExportInterval Var = "CREDITMIRROR_EXPORT_INTERVAL"
	VarExportTables   Var = "CREDITMIRROR_EXPORT_TABLES"

	VarOTLPEndpoint           Var = "OTEL_EXPORTER_OTLP_ENDPOINT"
	VarOTLPTracesEndpoint     Var = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	VarOTLPHeaders            Var = "OTEL_EXPORTER_OTLP_HEADERS"
	VarOTLPTracesHeaders      Var = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
	VarOTLPProtocol           Var = "OTEL_EXPORTER_OTLP_PROTOCOL"
	VarOTLPTracesProtocol     Var = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	VarOTelServiceName        Var = "OTEL_SERVICE_NAME"
	VarOTelResourceAttributes Var = "OTEL_RESOURCE_ATTRIBUTES"
	VarOTelTracesExporter     Var = "OTEL_TRACES_EXPORTER"
	VarOTelTracesSampler      Var = "OTEL_TRACES_SAMPLER"
	VarOTelTracesSamplerArg   Var = "OTEL_TRACES_SAMPLER_ARG"
	VarOTelDisabled           Var = "OTEL_SDK_DISABLED"
)

// fileSuffix behind a secret's name reads it from a file.
const fileSuffix = "_FILE"

// fileFlag behind a secret's flag does.
const fileFlag = "-file"

// Flag returns the flag of v with its dashes, such as "--database-url". Of a secret it is
// the one that names its file: no flag takes a secret, since every process of the machine
// can see it.
func (v Var) Flag() string {
	if v.hidden() {
		return "--" + v.flagName() + fileFlag
	}
	return "--" + v.flagName()
}

// hidden reports whether all of the value is secret. The URLs of the database and of
// Redis are not: without a password in them they may stand on a command line.
func (v Var) hidden() bool {
	switch v {
	case VarStripeAPIKey, VarStripeWebhookSecret, VarAPIKeys, VarNotifyURL, VarNotifySecret, VarOTLPHeaders, VarOTLPTracesHeaders:
		return true
	}
	return false
}

// flagName drops the prefix of our own variables; the STRIPE_ of Stripe's stays,
// so that --stripe-api-key and --api-keys are distinct, and so does the OTEL_ of
// OpenTelemetry's.
func (v Var) flagName() string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(string(v), prefix), "_", "-"))
}

// problem returns a problem of this variable.
func (v Var) problem(message string) Problem {
	return Problem{Var: string(v), Flag: v.Flag(), Message: message}
}

// Spec describes one variable: a row of the table that everything else reads.
type Spec struct {
	// Var is the name in the environment.
	Var Var
	// Flag is the name of its flag, without dashes; of a secret, that of its file's.
	Flag string
	// Default is what holds where the variable is not set, as shown to people;
	// empty where there is none.
	Default string
	// Help says in one line what it is for.
	Help string
	// Secret says that it may also be read from a file (_FILE behind the name,
	// -file behind the flag), that its value is never shown, and that no flag takes it.
	Secret bool

	kind     string // of value, as --help shows it
	computed bool   // Default is a description, not a value
	emptyOK  bool   // set to the empty string is the same as not set
	parse    func(c *Config, value string, fail failFunc)
	show     func(c Config) string
}

// failFunc takes note of one problem with the value being parsed.
type failFunc func(format string, args ...any)

// Vars returns the table of all variables, in the order of the documentation.
func Vars() []Spec { return table() }

// AllVars returns the names of all variables, for [Bind].
func AllVars() []Var {
	var all []Var
	for _, s := range table() {
		all = append(all, s.Var)
	}
	return all
}

// lookup returns the row of v.
func lookup(v Var) (Spec, bool) {
	rows := table()
	i := slices.IndexFunc(rows, func(s Spec) bool { return s.Var == v })
	if i < 0 {
		return Spec{}, false
	}
	return rows[i], true
}
