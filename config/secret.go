package config

import (
	"fmt"
	"io"
	"unique"
)

// redacted stands wherever a secret would have been printed.
const redacted = "[redacted]"

// Secret is a value that cannot be printed: every fmt verb, String, JSON and
// text encoding give "[redacted]", whether or not it is set. The zero value is
// the unset secret, and == compares values.
//
// It is a handle and not a plain string because fmt does not call the methods
// of values in unexported fields, nor any method under %p and %w: there a type
// of string kind prints its content, and this one prints an address. (What
// follows pointers by reflection, such as go-cmp and debuggers, still sees it.)
type Secret struct {
	h unique.Handle[string]
}

// NewSecret wraps value. The empty string gives the unset secret.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{h: unique.Make(value)}
}

// Reveal returns the value itself, empty if unset. Call it only where the value
// is used, and never keep the result.
func (s Secret) Reveal() string {
	if !s.IsSet() {
		return ""
	}
	return s.h.Value()
}

// IsSet reports whether there is a value.
func (s Secret) IsSet() bool { return s != Secret{} }

// Equal reports whether both hold the same value. It is what go-cmp looks for; it
// does not take constant time, so never use it to authenticate a caller.
func (s Secret) Equal(other Secret) bool { return s == other }

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// Format writes "[redacted]" for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText returns "[redacted]".
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns the JSON string "[redacted]".
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
