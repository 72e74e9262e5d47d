package config

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/creditmirror/creditmirror/access"
)

var keyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

const wantName = "names are letters, digits, dots, dashes and underscores, at most 64"

// parseAPIKeys takes the keys of our own API: a list with commas, or one in JSON. Only
// their digests are kept.
func parseAPIKeys(c *Config, value string, fail failFunc) {
	if strings.HasPrefix(strings.TrimSpace(value), "[") {
		parseKeysJSON(c, value, fail)
	} else {
		parseKeyList(c, value, fail)
	}
	names := map[string]bool{}
	for i, k := range c.APIKeys {
		if names[k.Name] {
			fail("has the name of key number %d twice; give each a name of its own", i+1)
		}
		names[k.Name] = true
	}
}

// keyPrefix is kind, name and limit of an entry: read, write@5, write[billing-team]@5.
var keyPrefix = regexp.MustCompile(`^([a-z]*)(?:\[([^\]]*)\])?(?:@(.*))?$`)

// parseKeyList takes entries such as read:KEY. A colon separates the prefix and ends the
// user name of Basic authentication, so that no key can hold one.
func parseKeyList(c *Config, value string, fail failFunc) {
	seen := map[string]string{} // key → entry
	for i, entry := range entries(value, fail) {
		prefix, key, found := strings.Cut(entry, ":")
		if !found {
			prefix, key = "read", entry
		}
		m := keyPrefix.FindStringSubmatch(prefix)
		if m == nil {
			m = make([]string, 4) // an unknown kind
		}
		kind, name, limit := m[1], m[2], m[3]
		named, limited := strings.Contains(prefix, "["), strings.Contains(prefix, "@")
		parsed := access.Key{Name: name, Digest: access.DigestOf(key), Write: kind == "write"}
		if limited {
			parsed.RPS, _ = strconv.ParseFloat(limit, 64) // what is no number is 0 or infinite, and refused below
		}
		switch {
		case entry == "": // reported by entries
		case kind != "read" && kind != "write", strings.Contains(key, ":"):
			fail("has an entry (number %d) with an unknown prefix or a colon in the key; the prefixes are read: and write:, with a name read[team]: and with a limit write[team]@5:", i+1)
		case named && !keyName.MatchString(name):
			fail("has a name (entry number %d) that is none; %s", i+1, wantName)
		case limited && !validKeyRPS(parsed.RPS):
			fail("has a limit (entry number %d) that is no number of requests per second from %v to %v; leave out the @ for no limit", i+1, minKeyRPS, maxKeyRPS)
		case !isToken(key) && key != "":
			fail("has an entry (number %d) with white space, quotes or other than visible ASCII characters; use letters and digits", i+1)
		case len(key) < minAPIKeyLength:
			fail("has a key (number %d) of fewer than %d characters; make one with: openssl rand -hex 24", i+1, minAPIKeyLength)
		case seen[key] != "" && seen[key] != entry: // the very same entry is reported by entries
			fail("has the same key twice (number %d), under different prefixes; remove one", i+1)
		}
		if seen[key] = entry; !named {
			parsed.Name = "key-" + strconv.Itoa(i+1)
		}
		c.APIKeys = append(c.APIKeys, parsed)
	}
}

func validKeyRPS(rps float64) bool { return rps >= minKeyRPS && rps <= maxKeyRPS } // also refuses NaN

// keyJSON is one key of a list in JSON.
type keyJSON struct {
	Name       string            `json:"name"`
	Key        string            `json:"key"`
	KeySHA256  string            `json:"key_sha256"`
	Rights     rightsJSON        `json:"rights"`
	Accounts   *[]string         `json:"accounts"`
	Ledgers    *[]string         `json:"ledgers"`
	Operations *[]string         `json:"operations"`
	RPS        *float64          `json:"rps"`
	MaxAmount  *map[string]int64 `json:"max_amount"`
	MaxPerDay  *map[string]int64 `json:"max_per_day"`
	MaxAge     *string           `json:"max_age"`
	Expires    *string           `json:"expires"`
}

// rightsJSON is a right, or a list of them.
type rightsJSON []string

func (r *rightsJSON) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*r = rightsJSON{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(r))
}

// parseKeysJSON takes a list in JSON. Problems name a key by its place, and quote nothing:
// a key may stand anywhere by mistake.
func parseKeysJSON(c *Config, value string, fail failFunc) {
	var list []json.RawMessage
	dec := json.NewDecoder(strings.NewReader(value))
	if err := dec.Decode(&list); err != nil || !atEnd(dec) {
		fail("begins like a list in JSON and is none; give [{\"name\": …, \"key\": …, \"rights\": …}, …]")
		return
	}
	if len(list) == 0 {
		fail("is an empty list; add a key, or remove it")
	}
	digests := map[[32]byte]bool{}
	for i, text := range list {
		say := func(format string, args ...any) {
			fail("has a key (number %d) "+format, append([]any{i + 1}, args...)...)
		}
		var k keyJSON
		one := json.NewDecoder(bytes.NewReader(text))
		one.DisallowUnknownFields()
		if err := one.Decode(&k); err != nil {
			if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && e.Field != "" {
				say("whose %s has another type than it must have", e.Field)
			} else {
				say("with a field that there is not, or no object; the fields are name, key or key_sha256, rights, accounts, ledgers, operations, rps, max_amount, max_per_day, max_age and expires")
			}
			continue
		}
		parsed := k.parse(say)
		if digests[parsed.Digest] && parsed.Digest != [32]byte{} {
			say("that is in the list twice; remove one")
		}
		digests[parsed.Digest] = true
		c.APIKeys = append(c.APIKeys, parsed)
	}
}

func atEnd(dec *json.Decoder) bool {
	_, err := dec.Token()
	return errors.Is(err, io.EOF)
}

func (k keyJSON) parse(say failFunc) access.Key {
	out := access.Key{Name: k.Name}
	if !keyName.MatchString(k.Name) {
		say("without a proper name; %s", wantName)
	}
	switch {
	case (k.Key == "") == (k.KeySHA256 == ""):
		say("that needs either key or key_sha256")
	case k.Key != "":
		if !isToken(k.Key) || strings.ContainsAny(k.Key, ":,") || len(k.Key) < minAPIKeyLength {
			say("of fewer than %d characters, or with a colon, comma, white space or quotes; make one with: openssl rand -hex 24", minAPIKeyLength)
		}
		out.Digest = access.DigestOf(k.Key)
	default:
		digest, err := hex.DecodeString(k.KeySHA256)
		if err != nil || copy(out.Digest[:], digest) != len(out.Digest) || len(digest) != len(out.Digest) || out.Digest == [32]byte{} {
			say("whose key_sha256 is not a SHA-256 in hex; make it with: printf %%s KEY | sha256sum")
		}
	}
	for _, right := range k.Rights {
		switch right {
		case "write":
			out.Write = true
		case "read":
		default:
			say("with a right that there is not; the rights are read and write")
		}
	}
	k.bind(&out, say)
	k.limit(&out, say)
	return out
}

// bind reads what the key is bound to.
func (k keyJSON) bind(out *access.Key, say failFunc) {
	if k.Accounts != nil {
		out.Accounts = *k.Accounts
		if len(out.Accounts) == 0 || slices.ContainsFunc(out.Accounts, func(a string) bool { return a != "" && !accountID.MatchString(a) }) {
			say("whose accounts are not a list of acct_… ids (\"\" is the platform's own); leave it out for all")
		}
	}
	if k.Ledgers != nil {
		for _, l := range *k.Ledgers {
			if !slices.Contains(access.Ledgers(), access.Ledger(l)) {
				say("with a ledger that there is not; the ledgers are %s", joinStrings(access.Ledgers()))
			}
			out.Ledgers = append(out.Ledgers, access.Ledger(l))
		}
		if len(*k.Ledgers) == 0 {
			say("bound to no ledger; leave ledgers out for all")
		}
	}
	if k.Operations != nil {
		for _, o := range *k.Operations {
			if !slices.Contains(access.Operations(), access.Operation(o)) {
				say("with an operation that there is not; the operations are %s", joinStrings(access.Operations()))
			}
			out.Operations = append(out.Operations, access.Operation(o))
		}
		if len(*k.Operations) == 0 || !out.Write {
			say("with operations, which want a list of some and the right write")
		}
	}
}

// limit reads how much the key may do, and until when.
func (k keyJSON) limit(out *access.Key, say failFunc) {
	if k.RPS != nil {
		if out.RPS = *k.RPS; !validKeyRPS(out.RPS) {
			say("whose rps is no number of requests per second from %v to %v; leave it out for no limit", minKeyRPS, maxKeyRPS)
		}
	}
	amounts := func(name string, given *map[string]int64) map[string]int64 {
		if given == nil {
			return nil
		}
		limits := map[string]int64{}
		for currency, most := range *given {
			limits[strings.ToLower(currency)] = most
			if len(currency) != 3 || !isCurrency(strings.ToLower(currency)) || most < 0 || most > maxKeyAmount {
				say("whose %s is not currencies with amounts in minor units from 0 to %d", name, int64(maxKeyAmount))
			}
		}
		if len(limits) == 0 || !out.Write {
			say("with %s, which wants currencies such as {\"usd\": 50000} and the right write", name)
		}
		return limits
	}
	out.MaxAmount, out.MaxPerDay = amounts("max_amount", k.MaxAmount), amounts("max_per_day", k.MaxPerDay)
	if k.MaxAge != nil {
		age, err := time.ParseDuration(*k.MaxAge)
		if err != nil || age < 0 {
			say("whose max_age is no duration such as 5s")
		}
		out.MaxAge = &age
	}
	if k.Expires != nil {
		at, err := time.Parse(time.RFC3339, *k.Expires)
		if err != nil {
			at, err = time.Parse(time.DateOnly, *k.Expires)
		}
		if err != nil || at.IsZero() {
			say("whose expires is neither a date nor a time such as 2027-01-31T12:00:00Z")
		}
		out.Expires = at
	}
}

// maxKeyAmount is more than Stripe takes, and leaves room to add up a day of them.
const maxKeyAmount = 1_000_000_000_000

func isCurrency(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 'a' || r > 'z' })
}
