package config

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/access"
)

// Config is the whole configuration. [Load] fills every field; one that was not
// set has its default.
type Config struct {
	// StripeAPIKey is a secret (sk_) or restricted (rk_) key; see Mode.
	StripeAPIKey Secret
	// StripeWebhookSecrets are the whsec_ secrets of which any may have signed.
	StripeWebhookSecrets []Secret
	// StripeAPIBase is scheme://host[:port] without a trailing slash.
	StripeAPIBase string
	// StripeAPIVersion is what the Stripe-Version header says.
	StripeAPIVersion string
	// StripeAccounts are the connected accounts to mirror beside the platform.
	StripeAccounts Accounts

	// DatabaseURL is sqlite:PATH or a postgres:// URL, which may hold a password.
	DatabaseURL Secret
	// RedisURL is unset for the embedded Redis, and may hold a password.
	RedisURL Secret
	// Inbox says whether events go through the mirror database.
	Inbox Inbox

	// WebhookAddr is the host:port of the webhook listener.
	WebhookAddr string
	// APIAddr is the host:port of the API and console listener. It is a loopback
	// address if APIKeys is empty.
	APIAddr string
	// OpsAddr is the host:port of the metrics and health listener.
	OpsAddr string
	// APIKeys open the API and console. They hold digests of the keys alone.
	APIKeys []access.Key
	// TrustedProxies are networks of proxies whose X-Forwarded-For is believed.
	TrustedProxies Networks
	// WebhookTLS, APITLS and OpsTLS are for the listeners; without files they speak
	// plain HTTP.
	WebhookTLS, APITLS, OpsTLS TLS
	// AuditRetention is how long api_writes is kept.
	AuditRetention time.Duration

	// StripeRPS is in calls per second, all replicas together.
	StripeRPS float64
	// StripeEndpointRPS is in calls per second and endpoint, all replicas
	// together, as configured; EndpointRPS is what can be reached.
	StripeEndpointRPS float64
	// Workers is the number of targets in work at once in this process.
	Workers int

	// EventsInterval is the time between events sweeps.
	EventsInterval time.Duration
	// BalancesInterval is the time between balances sweeps.
	BalancesInterval time.Duration
	// ScrubPeriod is the time in which every customer is re-read once.
	ScrubPeriod time.Duration
	// Repair is false where drift is reported only.
	Repair bool

	// CustomerFields says how much of a customer object is kept.
	CustomerFields CustomerFields
	// LogLevel is the least severe level that is written.
	LogLevel LogLevel
	// MaxAttempts is the number of attempts before a dead letter.
	MaxAttempts int

	// Ledgers are those that are mirrored.
	Ledgers []access.Ledger
	// Incomplete says what the API makes of a history that is not wholly held.
	Incomplete Incomplete

	// NotifyURL is where drift is reported to, unset for nowhere. Its path and query may
	// hold a token.
	NotifyURL Secret
	// NotifySecrets sign notifications; each makes a signature of its own.
	NotifySecrets []Secret
	// NotifyAllow are networks that NotifyURL may lie in although they are not public.
	NotifyAllow Networks

	// ExportURL is where a copy for the warehouse is kept, unset for nowhere. That of a
	// PostgreSQL may hold a password.
	ExportURL Secret
	// ExportFormat is that of its files: parquet, csv or jsonl.
	ExportFormat string
	// ExportInterval is the time between two checks for changes.
	ExportInterval time.Duration
	// ExportTables are the tables of the copy; none means all.
	ExportTables []string

	// OTel is where traces go, if anywhere.
	OTel OTel
}

// Mode is one of Stripe's two worlds, which never mix.
type Mode string

// The modes of a Stripe key. The zero value means that there is no key.
const (
	ModeUnknown Mode = ""
	ModeTest    Mode = "test"
	ModeLive    Mode = "live"
)

// Inbox says whether an event is written to the mirror database before it is
// marked in Redis.
type Inbox string

// The values of CREDITMIRROR_INBOX.
const (
	InboxAuto Inbox = "auto" // off only where Redis itself is durable
	InboxOn   Inbox = "on"
	InboxOff  Inbox = "off"
)

// CustomerFields says how much of a customer object is kept.
type CustomerFields string

// The values of CREDITMIRROR_CUSTOMER_FIELDS.
const (
	CustomerFieldsCredit CustomerFields = "credit" // what credit needs, nothing personal
	CustomerFieldsFull   CustomerFields = "full"   // the whole object
)

// Incomplete says what the API answers where a history is not wholly held.
type Incomplete string

// The values of CREDITMIRROR_INCOMPLETE.
const (
	IncompleteServe  Incomplete = "serve"  // what is held, and a header that says so
	IncompleteRefuse Incomplete = "refuse" // 503
)

// LogLevel is a level of the log, in the words that zap takes.
type LogLevel string

// The values of CREDITMIRROR_LOG_LEVEL.
const (
	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"
)

// Accounts is a choice of connected accounts. The zero value is none.
type Accounts struct {
	// All means every account seen in events; IDs is empty then.
	All bool
	// IDs are the acct_ ids, in the order given.
	IDs []string
}

// String returns the choice as it is configured.
func (a Accounts) String() string {
	if a.All {
		return "*"
	}
	return strings.Join(a.IDs, ",")
}

// Networks are prefixes of addresses.
type Networks []netip.Prefix

// String returns the networks as they are configured.
func (n Networks) String() string {
	texts := make([]string, len(n))
	for i, p := range n {
		texts[i] = p.String()
	}
	return strings.Join(texts, ",")
}

// Equal reports whether both are the same networks in the same order.
func (n Networks) Equal(other Networks) bool { return slices.Equal(n, other) }

// TLS names the files of a listener's certificate and key; both are empty for none.
type TLS struct{ Cert, Key string }

// On reports whether there is TLS.
func (t TLS) On() bool { return t.Cert != "" }

// Mode returns the mode of the Stripe key, [ModeUnknown] if there is no key.
func (c Config) Mode() Mode { return KeyMode(c.StripeAPIKey) }

// KeyMode returns the mode of a Stripe key, [ModeUnknown] if it is not a secret
// or restricted key.
func KeyMode(key Secret) Mode {
	switch k := key.Reveal(); {
	case strings.HasPrefix(k, "sk_test_"), strings.HasPrefix(k, "rk_test_"):
		return ModeTest
	case strings.HasPrefix(k, "sk_live_"), strings.HasPrefix(k, "rk_live_"):
		return ModeLive
	default:
		return ModeUnknown
	}
}

// EndpointRPS returns the calls per second that one endpoint can reach: the
// endpoint's own limit, but never more than all endpoints have together.
func (c Config) EndpointRPS() float64 { return min(c.StripeEndpointRPS, c.StripeRPS) }

// EmbeddedRedis reports whether the queue lives inside this process.
func (c Config) EmbeddedRedis() bool { return !c.RedisURL.IsSet() }

// SQLitePath returns the path of the mirror database, and false if it is on
// PostgreSQL.
func (c Config) SQLitePath() (path string, ok bool) {
	return strings.CutPrefix(c.DatabaseURL.Reveal(), sqliteScheme)
}

// Setting is one effective setting, fit to be logged.
type Setting struct {
	// Name is the variable.
	Name string
	// Value is its text: "set" or "unset" for a secret, without credentials and
	// options for a URL.
	Value string
}

// Effective returns every setting in force, in the order of the table, without
// any secret.
func (c Config) Effective() []Setting {
	var settings []Setting
	for _, s := range table() {
		settings = append(settings, Setting{Name: string(s.Var), Value: s.show(c)})
	}
	return settings
}
