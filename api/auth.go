package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// Key is one that callers may present.
type Key struct {
	// Secret is compared as a whole; an empty one matches nothing.
	Secret string
	// Write allows what changes something in Stripe.
	Write bool
	// RPS bounds the key's requests per second, in this process; up to a second's
	// worth may come at once. Defaults to no limit.
	RPS float64
}

// access is what a request may do.
type access int

const (
	accessNone  access = 0
	accessRead  access = 1
	accessWrite access = 3 // reading too
)

// keyring holds digests instead of keys: they are all of one length, so that
// comparing takes the same time for every key presented.
type keyring []hashedKey

type hashedKey struct {
	digest [sha256.Size]byte
	access access
	// number is the key's place in the list, from 1: how it is named in the log.
	number int
	// limiter is nil for a key without a limit.
	limiter *rate.Limiter
}

func newKeyring(keys []Key) keyring {
	ring := make(keyring, 0, len(keys))
	for i, k := range keys {
		h := hashedKey{digest: sha256.Sum256([]byte(k.Secret)), number: i + 1}
		switch {
		case k.Secret == "": // stays in the ring, so that a ring of empty keys is not an open door
		case k.Write:
			h.access = accessWrite
		default:
			h.access = accessRead
		}
		if k.RPS > 0 {
			h.limiter = rate.NewLimiter(rate.Limit(k.RPS), int(math.Ceil(k.RPS)))
		}
		ring = append(ring, h)
	}
	return ring
}

// find compares with every key, whether one has matched or not. What is in the
// ring twice opens what its last place does. The zero value is for a key that is
// not in it.
func (ring keyring) find(presented string) hashedKey {
	digest := sha256.Sum256([]byte(presented))
	found := -1
	for i := range ring {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], ring[i].digest[:]), i, found)
	}
	if found < 0 {
		return hashedKey{}
	}
	return ring[found]
}

// Wrong keys beyond these are answered with 429, so that guessing shows. A right
// key is always let in: a flood of wrong ones must not lock everybody out.
const (
	failuresPerSecond = 100
	failuresAtOnce    = 200
)

// authenticate tells what the request may do, or why it may do nothing.
func (h *handler) authenticate(r *http.Request, log *zap.Logger) (access, error) {
	if len(h.keys) == 0 {
		if !fromLoopback(r.RemoteAddr) || !namesLoopback(r.Host) {
			return accessNone, errNotLocal()
		}
		return accessRead, nil // writes need a key that allows them
	}
	key, ok := presentedKey(r.Header.Values("Authorization"))
	if !ok {
		return accessNone, errNoKey()
	}
	held := h.keys.find(key)
	if held.access == accessNone {
		if !h.failures.Allow() {
			return accessNone, errThrottled()
		}
		h.refused.Do(func() { log.Warn("api key refused", zap.String("remote_addr", r.RemoteAddr)) })
		return accessNone, errWrongKey()
	}
	if held.limiter != nil && !held.limiter.Allow() {
		h.limited.Do(func() { log.Warn("api key is over its limit", zap.Int("key_number", held.number)) })
		return accessNone, errLimited(held.limiter)
	}
	return held.access, nil
}

// presentedKey reads the key as Stripe takes it: Bearer, or the user of Basic.
// Of two headers it is not defined which one counts, so together they are one
// wrong key.
func presentedKey(headers []string) (string, bool) {
	switch len(headers) {
	case 0:
		return "", false
	case 1:
	default:
		return strings.Join(headers, ", "), true
	}
	scheme, credentials, _ := strings.Cut(headers[0], " ")
	key := strings.TrimSpace(credentials)
	switch {
	case strings.EqualFold(scheme, "Bearer"):
	case strings.EqualFold(scheme, "Basic"):
		pair, err := base64.StdEncoding.DecodeString(key)
		if err != nil {
			return "", false
		}
		key, _, _ = strings.Cut(string(pair), ":")
	default:
		return "", false
	}
	return key, key != ""
}

// namesLoopback tells whether a request is for this machine by a name that is only
// its own. A page in a browser here could otherwise read everything, by having its
// own name resolve to this machine.
func namesLoopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	addr, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return strings.EqualFold(name, "localhost") || err == nil && addr.Unmap().IsLoopback()
}

// fromLoopback looks at the connection alone: what a header says about where a
// request comes from is the caller's own word.
func fromLoopback(remoteAddr string) bool {
	addr, err := netip.ParseAddrPort(remoteAddr)
	return err == nil && addr.Addr().Unmap().IsLoopback()
}
