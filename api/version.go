package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"time"
)

// validVersion is a date, a name since 2024, and beta flags behind semicolons.
var validVersion = regexp.MustCompile(`^\d{4}-\d\d-\d\d(\.[a-z]{1,32})?(; ?[a-z0-9_]{1,64}=v\d{1,4}){0,8}$`)

// requestVersion echoes Stripe-Version, or the version of what is held, as Stripe
// echoes an account's own; it returns the date.
func (h *handler) requestVersion(r *http.Request, header http.Header) (string, error) {
	values := r.Header.Values("Stripe-Version")
	if len(values) == 0 {
		if h.version != "" {
			header.Set("Stripe-Version", h.version)
		}
		return "", nil
	}
	day, ok := versionDay(values)
	if !ok {
		return "", errInvalid("", "", "Invalid Stripe API version: %s", clip(values[0]))
	}
	header.Set("Stripe-Version", values[0])
	return day, nil
}

// versionDay is the date in one well-formed version.
func versionDay(values []string) (day string, ok bool) {
	if len(values) > 1 || !validVersion.MatchString(values[0]) {
		return "", false
	}
	day = values[0][:len(time.DateOnly)]
	_, err := time.Parse(time.DateOnly, day)
	return day, err == nil
}

// since is the version from which a field exists; it may lie deeper in the
// object.
type since struct {
	path    []string
	version string
}

// fieldsSince lists, by object, the fields that came after the oldest version
// that knew the object's other fields.
var fieldsSince = map[string][]since{
	"customer": {{[]string{"customer_account"}, "2025-12-15"}},
	"customer_balance_transaction": {
		{[]string{"checkout_session"}, "2025-03-31"},
		{[]string{"customer_account"}, "2025-12-15"},
	},
	"billing.credit_grant": {
		{[]string{"priority"}, "2025-02-24"},
		{[]string{"applicability_config", "scope", "prices"}, "2025-02-24"},
		{[]string{"customer_account"}, "2025-12-15"},
	},
	"billing.credit_balance_transaction": {
		{[]string{"credit", "credits_application_invoice_voided"}, "2024-12-18"},
	},
	"billing.credit_balance_summary": {{[]string{"customer_account"}, "2025-12-15"}},
}

// newestField is the version since which no field of ours was added.
const newestField = "2025-12-15"

// reshape leaves out what did not exist in the version that the caller asks for;
// empty asks for what is held.
func reshape(body []byte, version string) []byte {
	if version == "" || version >= newestField {
		return body
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return body // Stripe's own, and not JSON
	}
	if !cut(v, version) {
		return body
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil {
		return body
	}
	return out.Bytes()
}

// cut removes newer fields of a value and of what is in it, and reports whether
// there were any.
func cut(v any, version string) bool {
	changed := false
	switch v := v.(type) {
	case []any:
		for _, element := range v {
			changed = cut(element, version) || changed
		}
	case map[string]any:
		kind, _ := v["object"].(string)
		for _, f := range fieldsSince[kind] {
			if version < f.version {
				changed = remove(v, f.path) || changed
			}
		}
		for name, member := range v {
			if name != "metadata" { // its names are the user's
				changed = cut(member, version) || changed
			}
		}
	}
	return changed
}

func remove(object map[string]any, path []string) bool {
	for _, name := range path[:len(path)-1] {
		inner, ok := object[name].(map[string]any)
		if !ok {
			return false
		}
		object = inner
	}
	last := path[len(path)-1]
	_, had := object[last]
	delete(object, last)
	return had
}
