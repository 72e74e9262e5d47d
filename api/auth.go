package api

import (
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/doors"
)

// Wrong keys beyond these are answered with 429, so that guessing shows. A right
// key is always let in: a flood of wrong ones must not lock everybody out.
const (
	failuresPerSecond = 100
	failuresAtOnce    = 200
)

// authenticate returns the holder of the presented key, or why the request may do
// nothing. It is nil where no keys are configured.
func (h *handler) authenticate(r *http.Request, caller string, log *zap.Logger) (*access.Holder, error) {
	if h.keys.None() {
		if !doors.Local(r) {
			return nil, errNotLocal()
		}
		return nil, nil // writes need a key that allows them
	}
	key, ok := presentedKey(r.Header.Values("Authorization"))
	if !ok {
		return nil, errNoKey()
	}
	holder, err := h.keys.Find(key)
	switch {
	case errors.Is(err, access.ErrExpired):
		h.refused.Do(func() {
			log.Warn("expired api key refused", zap.String("key_name", holder.Name), zap.String("remote_addr", caller))
		})
		return holder, errExpired()
	case err != nil:
		if !h.failures.Allow() {
			return nil, errThrottled()
		}
		h.refused.Do(func() { log.Warn("api key refused", zap.String("remote_addr", caller)) })
		return nil, errWrongKey()
	case !holder.Allow():
		h.limited.Do(func() { log.Warn("api key is over its limit", zap.String("key_name", holder.Name)) })
		return holder, errLimited(holder)
	}
	return holder, nil
}

// authorize judges whether a key may do what it asks for.
func (h *handler) authorize(rt *route, holder *access.Holder) error {
	if rt.write != nil {
		switch {
		case holder == nil || !holder.Write:
			return errReadOnlyKey()
		case !holder.MayDo(rt.operation):
			return errNotAllowed("operation", "it may not "+string(rt.operation))
		}
	}
	if holder == nil {
		return nil
	}
	for _, l := range rt.ledgers {
		if !holder.MayRead(l) {
			return errNotAllowed("ledger", "it may not see the ledger "+string(l))
		}
	}
	return nil
}

// readOnly is the error for a write that is not served, by a caller that may not write.
func (h *handler) readOnly(r *http.Request, rt *route, holder *access.Holder) error {
	if rt != nil && changes(r) && (holder == nil || !holder.Write) {
		return errReadOnlyKey()
	}
	return nil
}

// authorizeExpand keeps the balance of a customer, which comes with it, from a key that
// may not see balances.
func authorizeExpand(rt *route, x expansion, holder *access.Holder) error {
	if holder == nil || holder.MayRead(access.Balance) || slices.Contains(rt.ledgers, access.Balance) || !x.deep("customer") {
		return nil
	}
	return errNotAllowed("ledger", "it may not see the ledger balance, which a customer comes with")
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
