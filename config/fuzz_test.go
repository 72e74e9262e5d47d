package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"pgregory.net/rapid"
)

// canary is put into every value that may be secret, and must come out nowhere.
const canary = "Zq7Canary"

// FuzzLoad feeds environments (one NAME=value per line), command lines (one
// argument per line) and roles. Whatever they are, no text that Load produces
// holds a secret, and what it accepts is within bounds.
func FuzzLoad(f *testing.F) {
	for i, row := range rows() {
		f.Add(strings.ReplaceAll(row.environ, " ; ", "\n"), "", "webhook,worker", i)
	}
	f.Add("STRIPE_API_KEY_FILE=sk_live_x\nCREDITMIRROR_REDIS_URL_FILE=!redis://u:p@h", "--workers=3\n--stripe-api-key-file\n!x", "api", 3)
	f.Add("CREDITMIRROR_REDIS_URL=redis+cluster://user:pw@a:1,b:2/0?x=y", "--database-url=postgres://u:p@h/d?password=x\n--api-keys=write:01234567890123456789", "reconcile", 14)
	f.Add("CREDITMIRROR_DATABASE_URL=postgres://u:p?w@h/d#x", "--redis-url\nredis://:a/b@h\n--repair=x\n--stripe-webhook-secret=whsec_", "webhook,,boss", 21)
	f.Fuzz(func(t *testing.T, environText, flagText, roleText string, at int) {
		secret := map[string]bool{}
		open := map[string]bool{} // known and not secret
		for _, s := range table() {
			secret[string(s.Var)] = s.Secret
			open[string(s.Var)] = !s.Secret
		}
		plant := func(value string) string {
			i := int(uint(at) % uint(len(value)+1))
			return value[:i] + canary + value[i:]
		}
		without := func(text string) string { return strings.ReplaceAll(text, "Zq7", "") }

		var environ []string
		for line := range strings.Lines(without(environText)) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			if value != "" && !open[name] {
				value = plant(value)
			}
			environ = append(environ, name+"="+value)
		}
		flags := pflag.NewFlagSet("fuzz", pflag.ContinueOnError)
		flags.SetOutput(&strings.Builder{})
		o := Bind(flags, AllVars()...)
		if err := flags.Parse(strings.Split(without(flagText), "\n")); err != nil {
			return // wrong usage, found before any value is looked at
		}
		for v, value := range o.values {
			if secret[string(v)] && !v.hidden() && value != "" {
				o.values[v] = plant(value)
			}
		}
		for v, value := range o.refused {
			o.refused[v] = plant(value)
		}
		for v, path := range o.files {
			o.files[v] = plant(path)
		}
		files := func(path string) ([]byte, error) {
			if strings.HasPrefix(path, "!") {
				return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
			}
			return []byte(path + "\n"), nil
		}
		roles, err := ParseRoles(without(roleText))
		if err != nil && roles != nil {
			t.Fatalf("roles %v beside %v", roles, err)
		}

		cfg, err := load(environ, roles, []*Overrides{o}, nil, files)
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok || len(e.Problems) == 0 || strings.Contains(err.Error(), canary) {
				t.Fatalf("%T: %v", err, err)
			}
			if strings.Count(err.Error(), "\n") != len(e.Problems) || cmp.Diff(Config{}, cfg) != "" {
				t.Fatalf("not one line each, or a configuration beside: %q", err)
			}
			return
		}
		shown := cfg
		shown.APIKeys = slices.Clone(cfg.APIKeys)
		for i := range shown.APIKeys { // what is no secret, and may have got the canary
			shown.APIKeys[i].Name, shown.APIKeys[i].Accounts = "", nil
		}
		text, err := json.Marshal(shown)
		printed := string(text)
		for _, format := range []string{"%v", "%+v", "%#v", "%q", "%x", "%p"} {
			printed += fmt.Sprintf(format, any(shown))
		}
		if err != nil || strings.Contains(printed, canary) {
			t.Fatalf("%v: %s", err, printed)
		}
		for _, s := range cfg.Effective() {
			switch v := s.Value; {
			case !secret[s.Name], strings.HasPrefix(v, sqliteScheme), v == "set", v == "unset", v == "embedded":
			case strings.Contains(strings.Replace(v, "://"+redacted+"@", "", 1), "@"), strings.Contains(strings.TrimSuffix(v, "?"+redacted), "?"), !strings.Contains(v, "://"):
				t.Fatalf("%+v", s)
			}
		}
		if again, err := load(environ, roles, []*Overrides{o}, nil, files); err != nil || cmp.Diff(cfg, again) != "" {
			t.Fatalf("twice the same gives something else: %v", err)
		}
		if cfg.Workers < 1 || cfg.MaxAttempts < 1 || !(cfg.StripeRPS > 0) || !(cfg.EndpointRPS() > 0) || cfg.EventsInterval < minEventsInterval ||
			cfg.BalancesInterval < minBalancesInterval || cfg.ScrubPeriod < minScrubPeriod || !cfg.DatabaseURL.IsSet() ||
			len(cfg.APIKeys) == 0 && !isLoopback(addrHost(cfg.APIAddr)) || cfg.EmbeddedRedis() && cfg.Inbox == InboxOff ||
			cfg.NotifyURL.IsSet() != (len(cfg.NotifySecrets) > 0) || cfg.OTel.TracesURL() != "" && cfg.OTel.Protocol+cfg.OTel.TracesProtocol == "grpc" ||
			strings.HasPrefix(cfg.NotifyURL.Reveal(), "http:") && len(cfg.NotifyAllow) == 0 || !(cfg.OTel.SamplerArg >= 0 && cfg.OTel.SamplerArg <= 1) ||
			cfg.StripeAPIKey.IsSet() && cfg.Mode() == ModeUnknown || cfg.Validate(roles) != nil {
			t.Fatalf("accepted %+v", cfg)
		}
	})
}

// Any URL that is accepted is shown with its hosts and without its password,
// however that is written.
func TestRedactURL(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		password := rapid.StringMatching(`[ -~]{0,8}`+canary+`[ -~]{0,8}`).Draw(t, "password")
		user := rapid.StringMatching(`[ -~]{0,5}`).Draw(t, "user")
		host := rapid.StringMatching(`[a-z]{1,8}(:[1-9][0-9]{0,3})?`).Draw(t, "host")
		value := rapid.SampledFrom([]string{"postgres", "redis", "redis+cluster"}).Draw(t, "scheme") + "://" +
			user + ":" + password + "@" + host + rapid.SampledFrom([]string{"", "/", "/0", "?password=" + canary}).Draw(t, "rest")
		environ := []string{string(VarDatabaseURL) + "=" + value}
		if strings.HasPrefix(value, "redis") {
			environ[0] = string(VarRedisURL) + "=" + value
		}
		cfg, err := Load(environ)
		if text := fmt.Sprint(cfg, err); strings.Contains(text, canary) {
			t.Fatal(text)
		}
		if err != nil {
			return
		}
		if text := fmt.Sprint(cfg.Effective()); strings.Contains(text, canary) || !strings.Contains(text, host) {
			t.Fatal(text)
		}
	})
}

func TestDistance(t *testing.T) {
	t.Parallel()
	for pair, want := range map[[2]string]int{
		{"", ""}: 0, {"", "abc"}: 3, {"abc", ""}: 3, {"abc", "abc"}: 0, {"abc", "abd"}: 1, {"abc", "ab"}: 1,
		{"abc", "acb"}: 1, {"kitten", "sitting"}: 3,
	} {
		if got := distance(pair[0], pair[1]); got != want {
			t.Errorf("%q: %d, want %d", pair, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[AB_]{0,7}`)
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		d := distance(a, b)
		if d != distance(b, a) || (d == 0) != (a == b) || d > max(len(a), len(b)) || d < max(len(a), len(b))-min(len(a), len(b)) {
			t.Fatal(d)
		}
	})
}
