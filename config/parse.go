package config

import (
	"math"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/access"
)

// quote returns a value for an error text. One that looks like a secret, set
// under the wrong name, is left out.
func quote(value string) string {
	const most = 40 // characters; longer is not a slip but something else
	for _, sign := range []string{"sk_", "rk_", "pk_", "whsec_", "://", "@"} {
		if strings.Contains(value, sign) {
			return "a value not shown here"
		}
	}
	if len(value) > most {
		return "a value of " + strconv.Itoa(len(value)) + " characters"
	}
	return strconv.QuoteToASCII(value)
}

// isToken reports whether s is visible ASCII without quotes, as keys are. It is no
// stricter, because Stripe does not promise more about its keys.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\"'`\\", r)
	})
}

// parseStripeKey takes a secret or restricted key.
func parseStripeKey(c *Config, value string, fail failFunc) {
	c.StripeAPIKey = NewSecret(value)
	const want = "use a secret (sk_test_…, sk_live_…) or restricted (rk_test_…, rk_live_…) key"
	_, mode, _ := strings.Cut(value, "_")
	_, rest, _ := strings.Cut(mode, "_")
	switch {
	case strings.HasPrefix(value, "pk_"):
		fail("is a publishable key (pk_…), which cannot read credits; %s", want)
	case strings.HasPrefix(value, "sk_org_"), strings.HasPrefix(value, "rk_org_"):
		fail("is a key of an organisation (sk_org_…), which needs the account named with every call; use a key of the account itself, %s", want)
	case strings.HasPrefix(value, "whsec_"):
		fail("is a webhook secret (whsec_…), which belongs into STRIPE_WEBHOOK_SECRET; %s", want)
	case strings.TrimSpace(value) != value:
		fail("begins or ends with white space; remove it")
	case KeyMode(c.StripeAPIKey) == ModeUnknown || rest == "":
		fail("is not a Stripe key; %s", want)
	case !isToken(value):
		fail("holds a character that no Stripe key has; copy it again")
	}
}

// entries splits a comma separated list, trims spaces, and reports empty and
// doubled entries by their number, since their text may be secret.
func entries(value string, fail failFunc) []string {
	var list []string
	for i, entry := range strings.Split(value, ",") {
		entry = strings.TrimSpace(entry)
		switch {
		case entry == "":
			fail("has an empty entry (number %d); remove the extra comma, or fill it in", i+1)
		case slices.Contains(list, entry):
			fail("has the same entry twice (number %d); remove one", i+1)
		}
		list = append(list, entry)
	}
	return list
}

// parseWebhookSecrets takes one or more signing secrets.
func parseWebhookSecrets(c *Config, value string, fail failFunc) {
	for i, entry := range entries(value, fail) {
		switch rest, ok := strings.CutPrefix(entry, "whsec_"); {
		case entry == "": // reported by entries
		case strings.HasPrefix(entry, "sk_"), strings.HasPrefix(entry, "rk_"), strings.HasPrefix(entry, "pk_"):
			fail("has an API key as entry number %d; use the endpoint's signing secret (whsec_…)", i+1)
		case !ok:
			fail("has an entry (number %d) that does not begin with whsec_; use the endpoint's signing secret", i+1)
		case !isToken(rest):
			fail("has an entry (number %d) that is not a whole signing secret; copy it again", i+1)
		}
		c.StripeWebhookSecrets = append(c.StripeWebhookSecrets, NewSecret(entry))
	}
}

var apiVersion = regexp.MustCompile(`^([0-9]{4}-[0-9]{2}-[0-9]{2})(\.[a-z0-9_]+)?(; ?[a-z0-9_]{1,64}=v[0-9]{1,4}){0,8}$`)

// parseAPIVersion takes a date with an optional release name, and flags behind
// semicolons.
func parseAPIVersion(c *Config, value string, fail failFunc) {
	m := apiVersion.FindStringSubmatch(value)
	if m != nil {
		if _, err := time.Parse(time.DateOnly, m[1]); err != nil {
			m = nil
		}
	}
	if m == nil {
		fail("is %s, not a Stripe API version; give one such as 2026-11-18.endive", quote(value))
	}
	c.StripeAPIVersion = value
}

var accountID = regexp.MustCompile(`^acct_[A-Za-z0-9_]+$`)

// parseAccounts takes account ids or a star.
func parseAccounts(c *Config, value string, fail failFunc) {
	if strings.TrimSpace(value) == "*" {
		c.StripeAccounts = Accounts{All: true}
		return
	}
	for _, entry := range entries(value, fail) {
		switch {
		case entry == "": // reported by entries
		case entry == "*":
			fail("names * beside other entries; give * alone, or the accounts one by one")
		case !accountID.MatchString(entry):
			fail("names %s, not an account; give acct_… ids, or * alone", quote(entry))
		}
		c.StripeAccounts.IDs = append(c.StripeAccounts.IDs, entry)
	}
}

// parseNotifySecrets takes the secrets that notifications are signed with.
func parseNotifySecrets(c *Config, value string, fail failFunc) {
	list := entries(value, fail)
	for i, entry := range list {
		switch {
		case entry == "": // reported by entries
		case strings.HasPrefix(entry, "sk_"), strings.HasPrefix(entry, "rk_"):
			fail("has a Stripe key as entry number %d; make a secret with: openssl rand -hex 32", i+1)
		case !isToken(entry):
			fail("has an entry (number %d) with white space, quotes or other than visible ASCII characters; use letters and digits", i+1)
		case len(entry) < minNotifySecret:
			fail("has an entry (number %d) of fewer than %d characters; make one with: openssl rand -hex 32", i+1, minNotifySecret)
		}
		c.NotifySecrets = append(c.NotifySecrets, NewSecret(entry))
	}
	if len(list) > maxNotifySecrets {
		fail("has more than %d entries; take the old ones out", maxNotifySecrets)
	}
}

// networks takes networks and single addresses, none larger than the given bits of IPv4
// and IPv6.
func networks(field func(*Config) *Networks, min4, min6 int) func(*Config, string, failFunc) {
	return func(c *Config, value string, fail failFunc) {
		for _, entry := range entries(value, fail) {
			if entry == "" {
				continue // reported by entries
			}
			p, err := netip.ParsePrefix(entry)
			if addr, addrErr := netip.ParseAddr(entry); addrErr == nil && addr.Zone() == "" {
				p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
			}
			switch {
			case err != nil || p.Addr().Is4In6():
				fail("names %s, not a network; give some such as 10.0.0.0/8, 127.0.0.1 or fd00::/8", quote(entry))
			case p.Masked() != p:
				fail("names %s, an address inside of a network; give %s, or the address alone", quote(entry), p.Masked())
			case p.Addr().Is4() && p.Bits() < min4, p.Addr().Is6() && p.Bits() < min6:
				fail("names %s, which is most of all addresses; give the networks that are meant", quote(entry))
			}
			*field(c) = append(*field(c), p)
		}
	}
}

// file takes the path of a file, which is read when it is used.
func file(field func(*Config) *string) func(*Config, string, failFunc) {
	return func(c *Config, value string, fail failFunc) {
		if strings.ContainsAny(value, "\x00\r\n") || strings.Contains(value, "-----BEGIN") {
			fail("is not the path of a file; write what it holds into a file, and give its path")
		}
		*field(c) = value
	}
}

// integer parses a whole number within bounds.
func integer(field func(*Config) *int, least, most int) func(*Config, string, failFunc) {
	return func(c *Config, value string, fail failFunc) {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > most {
			fail("is %s; give a whole number from %d to %d", quote(value), least, most)
		}
		*field(c) = n
	}
}

// rate parses a number of calls per second.
func rate(field func(*Config) *float64) func(*Config, string, failFunc) {
	return func(c *Config, value string, fail failFunc) {
		r, err := strconv.ParseFloat(value, 64)
		if err != nil || !(r > 0) || math.IsInf(r, 0) { // also refuses NaN
			fail("is %s; give a number of calls per second above 0, such as 20 or 0.5", quote(value))
		}
		*field(c) = r
	}
}

// duration parses a duration in Go's form.
func duration(field func(*Config) *time.Duration, least time.Duration, example string) func(*Config, string, failFunc) {
	return func(c *Config, value string, fail failFunc) {
		d, err := time.ParseDuration(value)
		switch {
		case err != nil:
			fail("is %s, not a duration; give hours, minutes and seconds, such as %s", quote(value), example)
		case d < least:
			fail("is %s; give at least %s, such as %s", quote(value), least, example)
		}
		*field(c) = d
	}
}

// boolean parses true and false.
func boolean(field func(*Config) *bool) func(*Config, string, failFunc) {
	return func(c *Config, value string, fail failFunc) {
		b, err := strconv.ParseBool(value)
		if err != nil {
			fail("is %s; give true or false", quote(value))
		}
		*field(c) = b
	}
}

// enum parses one of a few words.
func enum[T ~string](field func(*Config) *T, words ...T) func(*Config, string, failFunc) {
	return func(c *Config, value string, fail failFunc) {
		if !slices.Contains(words, T(value)) {
			fail("is %s; give one of %s", quote(value), joinStrings(words))
		}
		*field(c) = T(value)
	}
}

// parseLedgers takes the ledgers to mirror.
func parseLedgers(c *Config, value string, fail failFunc) {
	c.Ledgers = nil
	for _, entry := range entries(value, fail) {
		ledger := access.Ledger(entry)
		if entry != "" && !slices.Contains(access.Ledgers(), ledger) {
			fail("has %s; give balance, credits, or both", quote(entry))
		}
		c.Ledgers = append(c.Ledgers, ledger)
	}
}

// address parses host:port to listen on.
func address(field func(*Config) *string) func(*Config, string, failFunc) {
	return func(c *Config, value string, fail failFunc) {
		host, port, err := net.SplitHostPort(value)
		switch {
		case err != nil:
			fail("is %s, not host:port; give an address such as 127.0.0.1:8081 or :8080", quote(value))
		case host != "" && !validHost(host):
			fail("has %s as host; give an IP address or a host name", quote(host))
		case !validPort(port):
			fail("has %s as port; give a number from 0 (any free one) to 65535", quote(port))
		}
		*field(c) = value
	}
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

// validHost takes an IP address, without brackets, or a host name.
func validHost(host string) bool {
	if strings.Contains(host, ":") {
		_, err := netip.ParseAddr(host)
		return err == nil
	}
	return len(host) <= 253 && hostName.MatchString(host)
}

func validPort(port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

// isLoopback reports whether only this machine can reach host.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// addrHost returns the host of a checked host:port.
func addrHost(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	return host
}

// collide reports whether two listeners could not be open at once: same port, and
// the same host or one that stands for all hosts. Port 0 is a free one each time.
func collide(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil {
		return false // malformed, and reported as such
	}
	numberA, _ := strconv.Atoi(portA)
	numberB, _ := strconv.Atoi(portB)
	if numberA != numberB || numberA == 0 {
		return false
	}
	// localhost may stand for either loopback address.
	named := func(h string) bool { return strings.EqualFold(h, "localhost") }
	return isWildcard(hostA) || isWildcard(hostB) || strings.EqualFold(hostA, hostB) ||
		named(hostA) && isLoopback(hostB) || named(hostB) && isLoopback(hostA)
}

func isWildcard(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.Unmap().IsUnspecified()
}
