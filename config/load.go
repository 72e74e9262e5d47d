package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// maxSecretFile is the most bytes read from a secret's file.
const maxSecretFile = 64 << 10

// Load reads the configuration from environ (in the form of [os.Environ]; of a
// repeated name the last counts, as for a child process) with flags laid over
// it. On any problem it returns the zero Config and an [*Error] that lists all.
// What a role requires is not checked; see [LoadFor].
func Load(environ []string, overrides ...*Overrides) (Config, error) {
	return LoadFor(environ, nil, overrides...)
}

// LoadFor is [Load] and [Config.Validate] in one, so that all problems of both
// are reported at once.
func LoadFor(environ []string, roles []Role, overrides ...*Overrides) (Config, error) {
	return load(environ, roles, overrides, nil, readSecretFile)
}

// LoadUsed is [LoadFor] for a command that uses the variables that overrides binds, and
// more, and no others: what is wrong with those is not its business. Names that are
// none are still reported.
func LoadUsed(environ []string, roles []Role, overrides *Overrides, more ...Var) (Config, error) {
	used := append(slices.Clone(overrides.bound), more...)
	return load(environ, roles, []*Overrides{overrides}, used, readSecretFile)
}

// loader collects a Config and what is wrong with it.
type loader struct {
	env      map[string]string
	flags    Overrides
	readFile func(path string) ([]byte, error)
	cfg      Config
	problems []Problem
}

func load(environ []string, roles []Role, overrides []*Overrides, used []Var, readFile func(string) ([]byte, error)) (Config, error) {
	l := &loader{env: make(map[string]string, len(environ)), flags: merge(overrides), readFile: readFile}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		l.env[name] = value
	}
	for _, s := range table() {
		l.one(s)
	}
	l.derive()
	l.contradictions()
	l.problems = append(l.problems, l.cfg.roleProblems(roles, l.broken)...)
	if used != nil {
		l.problems = slices.DeleteFunc(l.problems, func(p Problem) bool {
			return !slices.ContainsFunc(used, func(v Var) bool { return p.Var == string(v) || p.Var == string(v)+fileSuffix })
		})
	}
	l.sort()
	l.unknown()
	if err := asError(l.problems); err != nil {
		return Config{}, err
	}
	return l.cfg, nil
}

// one finds the value of one variable and parses it.
func (l *loader) one(s Spec) {
	fail := func(format string, args ...any) {
		l.problems = append(l.problems, s.Var.problem(fmt.Sprintf(format, args...)))
	}
	value, set, ok := l.value(s, fail)
	switch {
	case !ok: // value has said why
	case set && value == "" && !s.emptyOK:
		// An empty value is mostly a template that found nothing; falling back
		// to, say, a database in the working folder would hide that.
		fail("is set but empty; give a value, or remove it for the default %s", s.Default)
	case set && value != "":
		s.parse(&l.cfg, value, fail)
	case s.Default != "" && !s.computed:
		s.parse(&l.cfg, s.Default, fail)
	}
}

// value returns the text of one variable from its flags or else from the
// environment. ok is false if a problem has been noted.
func (l *loader) value(s Spec, fail failFunc) (value string, set, ok bool) {
	value, set = l.flags.values[s.Var]
	path, fromFile := l.flags.files[s.Var]
	flag := "--" + s.Var.flagName()
	if _, given := l.flags.refused[s.Var]; given {
		fail("was given by %s, where every process of this machine can see it; put it into a file and name that in %s%s, or set it in the environment, and make a new one", flag, flag, fileFlag)
		return "", false, false
	}
	if set && s.Secret && holdsPassword(value) {
		fail("has a password and was given by %s, where every process of this machine can see it; put it into a file and name that in %s%s, or set it in the environment", flag, flag, fileFlag)
		return "", false, false
	}
	name, fileName := flag, flag+fileFlag
	if !set && !fromFile {
		value, set = l.env[string(s.Var)]
		if s.Secret {
			path, fromFile = l.env[string(s.Var)+fileSuffix]
		}
		name, fileName = string(s.Var), string(s.Var)+fileSuffix
	}
	switch {
	case !fromFile:
		return value, set, true
	case value != "":
		fail("has both %s and %s set; remove one", name, fileName)
		return "", false, false
	case path == "":
		fail("has an empty %s; give the path of a file, or remove it", fileName)
		return "", false, false
	}
	data, err := l.readFile(path)
	text := strings.TrimRight(string(data), "\r\n")
	switch {
	case err != nil:
		// Without the path: it may be the secret itself, set under the wrong name.
		fail("cannot be read from the file in %s: %v", fileName, withoutPath(err))
	case len(data) > maxSecretFile:
		fail("is in a file of more than 64 KiB; check that %s names the right one", fileName)
	case text == "":
		fail("is in an empty file; write the value into the file in %s", fileName)
	default:
		return text, true, true
	}
	return "", false, false
}

// derive fills what depends on more than one variable.
func (l *loader) derive() {
	if l.cfg.StripeRPS == 0 {
		l.cfg.StripeRPS = defaultTestRPS // also without a key: the careful choice
		if l.cfg.Mode() == ModeLive {
			l.cfg.StripeRPS = defaultLiveRPS
		}
	}
	l.cfg.OTel.derive()
}

// Calls per second where CREDITMIRROR_STRIPE_RPS is not set: a part of Stripe's
// own limits, 100 in live mode and 25 in test mode.
const (
	defaultLiveRPS = 80
	defaultTestRPS = 20
)

// broken reports whether a problem of v has been noted.
func (l *loader) broken(v Var) bool {
	return slices.ContainsFunc(l.problems, func(p Problem) bool { return p.Var == string(v) })
}

// contradictions checks settings against each other. It does so whatever the
// roles: one environment, shared by several processes, is good or bad for all.
func (l *loader) contradictions() {
	c := l.cfg
	if strings.HasPrefix(c.StripeAPIBase, "http:") && c.Mode() == ModeLive && !isLoopback(baseHost(c.StripeAPIBase)) {
		l.refuse(VarStripeAPIBase, "would send a live key unencrypted over the network; use https, a loopback host, or a test key", VarStripeAPIKey)
	}
	if c.EmbeddedRedis() && c.Inbox == InboxOff {
		l.refuse(VarInbox, "cannot be off while Redis is embedded, because events would be lost with the process"+
			"; use auto or on, or set CREDITMIRROR_REDIS_URL", VarRedisURL)
	}
	l.listenersApart()
	l.notificationsWhole()
	if v, protocol := c.OTel.unspoken(); v != "" {
		l.refuse(v, "is "+protocol+", but traces are sent by http/json alone; set it to http/json"+
			", and the endpoint to where the collector takes OTLP over HTTP (port 4318 as a rule)")
	}
	l.certificatesWhole()
	if v, url := c.OTel.headersInTheOpen(); v != "" {
		l.refuse(v, "would be sent unencrypted over the network; use an https URL in "+string(url)+", or a loopback or private address", url)
	}
	if len(c.APIKeys) == 0 && !l.broken(VarAPIAddr) && !isLoopback(addrHost(c.APIAddr)) {
		l.refuse(VarAPIAddr, "would open the API to the network without a key; set CREDITMIRROR_API_KEYS, or listen on 127.0.0.1", VarAPIKeys)
	}
}

// refuse notes a contradiction, unless one of the variables has another fault.
func (l *loader) refuse(v Var, message string, others ...Var) {
	if !slices.ContainsFunc(append(others, v), l.broken) {
		l.problems = append(l.problems, v.problem(message))
	}
}

// listenersApart refuses two listeners on one port.
func (l *loader) listenersApart() {
	c := l.cfg
	listeners := []struct {
		v    Var
		addr string
	}{{VarWebhookAddr, c.WebhookAddr}, {VarAPIAddr, c.APIAddr}, {VarOpsAddr, c.OpsAddr}}
	for i, b := range listeners {
		for _, a := range listeners[:i] {
			if !l.broken(a.v) && collide(a.addr, b.addr) {
				l.refuse(b.v, "takes the same port as "+string(a.v)+"; give each listener its own")
			}
		}
	}
}

// notificationsWhole refuses a part of what notifications need.
func (l *loader) notificationsWhole() {
	c := l.cfg
	switch set := c.NotifyURL.IsSet(); {
	case set && len(c.NotifySecrets) == 0:
		l.refuse(VarNotifySecret, "is required by CREDITMIRROR_NOTIFY_URL; make one with: openssl rand -hex 32", VarNotifyURL)
	case set && strings.HasPrefix(c.NotifyURL.Reveal(), "http:") && !slices.ContainsFunc(c.NotifyAllow, func(p netip.Prefix) bool { return p.Addr().IsLoopback() }):
		l.refuse(VarNotifyAllow, "does not name this machine's own address, which the URL leads to; set it to 127.0.0.1, or use an https URL", VarNotifyURL)
	case !set && (len(c.NotifySecrets) > 0 || len(c.NotifyAllow) > 0):
		l.refuse(VarNotifyURL, "is not set, so no notification is sent; set it, or remove CREDITMIRROR_NOTIFY_SECRET and CREDITMIRROR_NOTIFY_ALLOW", VarNotifySecret, VarNotifyAllow)
	}
}

// certificatesWhole refuses a certificate without its key, and a key without one.
func (l *loader) certificatesWhole() {
	c := l.cfg
	for _, t := range []struct {
		cert, key Var
		files     TLS
	}{{VarWebhookTLSCert, VarWebhookTLSKey, c.WebhookTLS}, {VarAPITLSCert, VarAPITLSKey, c.APITLS}, {VarOpsTLSCert, VarOpsTLSKey, c.OpsTLS}} {
		switch {
		case t.files.Cert != "" && t.files.Key == "":
			l.refuse(t.key, "is required by "+string(t.cert)+"; name the file of the certificate's private key", t.cert)
		case t.files.Cert == "" && t.files.Key != "":
			l.refuse(t.cert, "is required by "+string(t.key)+"; name the file of the certificate", t.key)
		}
	}
}

// testVariable is for the project's own tests. It is often exported for a whole
// shell or CI job, in which the program must start all the same.
const testVariable = "CREDITMIRROR_REQUIRE_SERVICES"

// unknown notes every CREDITMIRROR_* name that is not in the table.
func (l *loader) unknown() {
	known := map[string]bool{}
	for _, s := range table() {
		known[string(s.Var)] = true
		if s.Secret {
			known[string(s.Var)+fileSuffix] = true
		}
	}
	_, inKubernetes := l.env["KUBERNETES_SERVICE_HOST"]
	var found []Problem
	for name := range l.env {
		if strings.HasPrefix(name, prefix) && !known[name] && name != testVariable {
			found = append(found, unknownProblem(name, inKubernetes))
		}
	}
	for _, v := range l.flags.unknown {
		found = append(found, unknownProblem(string(v), false))
	}
	slices.SortFunc(found, func(a, b Problem) int { return cmp.Compare(a.Var, b.Var) })
	l.problems = append(l.problems, found...)
}

// sort brings the problems into the order of the table. Problems of no variable
// come first.
func (l *loader) sort() {
	order := toStrings(AllVars())
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		return cmp.Compare(slices.Index(order, a.Var), slices.Index(order, b.Var))
	})
}

// readSecretFile reads at most one byte more than is allowed.
func readSecretFile(path string) ([]byte, error) {
	f, err := os.Open(path) // #nosec G304 -- the path is the operator's
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	return io.ReadAll(io.LimitReader(f, maxSecretFile+1))
}

// withoutPath returns the cause inside an error about a path.
func withoutPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
