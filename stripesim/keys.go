package stripesim

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// KeyState says what an API key may do.
type KeyState string

// The states of a key.
const (
	KeyActive     KeyState = "active"
	KeyRevoked    KeyState = "revoked"    // 401 on everything
	KeyRestricted KeyState = "restricted" // 403 on what is denied
)

// keyring decides about API keys.
type keyring struct {
	mu    sync.RWMutex
	known []string // empty: any key of the right form
	live  bool
	both  bool
	state map[string]KeyState
	deny  map[string][]string
}

func newKeyring(known []string, live, both bool) *keyring {
	return &keyring{known: slices.Clone(known), live: live, both: both, state: map[string]KeyState{}, deny: map[string][]string{}}
}

// SetKey changes what a key may do. With KeyRestricted, deny lists the named
// endpoints that answer 403, each may be cut off after any prefix
// ("GET /v1/billing"); none means all.
func (s *Server) SetKey(key string, state KeyState, deny ...string) error {
	switch state {
	case KeyActive, KeyRevoked, KeyRestricted:
	default:
		return fmt.Errorf("unknown key state %q", state)
	}
	if key == "" {
		return errors.New("no key")
	}
	for _, d := range deny {
		if !slices.ContainsFunc(routes, func(r *route) bool { return strings.HasPrefix(r.name, d) }) {
			return fmt.Errorf("no named endpoint begins with %q", d)
		}
	}
	k := s.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state[key], k.deny[key] = state, slices.Clone(deny)
	return nil
}

// keyOf returns the API key of a request: Basic user or Bearer token.
func keyOf(r *http.Request) string {
	if user, _, ok := r.BasicAuth(); ok {
		return user
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return ""
}

func (k *keyring) check(key, endpoint, account string) *apiError {
	if key == "" {
		return errKey("", "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for details, or we can help at https://support.stripe.com/.")
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if !k.knows(key) {
		return errKey("", "Invalid API Key provided: %s", maskKey(key))
	}
	switch k.state[key] {
	case KeyRevoked:
		return errKey("api_key_expired", "Expired API Key provided: %s", maskKey(key))
	case KeyRestricted:
		deny := k.deny[key]
		if len(deny) == 0 || slices.ContainsFunc(deny, func(d string) bool { return strings.HasPrefix(endpoint, d) }) {
			return errForbidden("", "The provided key '%s' does not have the required permissions for this endpoint on account '%s'.", maskKey(key), account)
		}
	}
	return nil
}

func (k *keyring) knows(key string) bool {
	if len(k.known) > 0 {
		return slices.Contains(k.known, key)
	}
	live, ok := keyMode(key)
	return ok && (live == k.live || k.both)
}

// keyMode returns the mode that a secret or restricted key is for.
func keyMode(key string) (live, ok bool) {
	for _, kind := range []string{"sk_", "rk_"} {
		rest, is := strings.CutPrefix(key, kind)
		switch {
		case is && strings.HasPrefix(rest, "live_"):
			return true, true
		case is && strings.HasPrefix(rest, "test_"):
			return false, true
		}
	}
	return false, false
}

// mode is the mode that a known key works in.
func (k *keyring) mode(key string) bool {
	if live, ok := keyMode(key); ok && k.both {
		return live
	}
	return k.live
}
