package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/access"
)

func TestSecretCannotBePrinted(t *testing.T) {
	t.Parallel()
	const value = "sk_live_Canary"
	s := NewSecret(value)
	cfg := Config{
		StripeAPIKey: s, StripeWebhookSecrets: []Secret{s}, DatabaseURL: s, RedisURL: s, APIKeys: []access.Key{{Digest: access.DigestOf(value), Write: true}},
		NotifyURL: s, NotifySecrets: []Secret{s},
	}
	// What a careless struct of another package looks like: fmt does not call
	// the methods of unexported fields.
	hidden := struct {
		s  Secret
		ps *Secret
		c  Config
		m  map[Secret]Secret
	}{s, &s, cfg, map[Secret]Secret{s: s}}

	leaks := func(text string) bool {
		return strings.Contains(text, value) || strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", value))
	}
	for _, flags := range []string{"", "+", "#", "-", " ", "0", "+#", "20", ".3", "20.3", "# "} {
		for verb := rune('A'); verb <= 'z'; verb++ {
			format := "%" + flags + string(verb)
			for _, v := range []any{s, &s, []Secret{s}, cfg, &cfg, cfg.APIKeys, hidden, &hidden, error(&wrapped{s})} {
				if got := fmt.Sprintf(format, v); leaks(got) {
					t.Errorf("%s of %T: %s", format, v, got)
				}
			}
			// fmt itself handles T, p and w before any method.
			if got := fmt.Sprintf(format, s); got != redacted && isVerb(verb) && !strings.ContainsRune("Tpw", verb) {
				t.Errorf("%s: %s", format, got)
			}
		}
	}
	for _, got := range []string{s.String(), s.GoString(), fmt.Sprint(s), fmt.Sprintln(s)} {
		if strings.TrimSpace(got) != redacted {
			t.Error(got)
		}
	}
	text, err := json.Marshal(map[string]any{"a": s, "b": cfg, "c": map[Secret]int{s: 1}})
	if err != nil || leaks(string(text)) || !strings.Contains(string(text), `"a":"[redacted]"`) || !strings.Contains(string(text), `{"[redacted]":1}`) {
		t.Errorf("%s, %v", text, err)
	}
	if text, err := s.MarshalText(); err != nil || string(text) != redacted {
		t.Errorf("%s, %v", text, err)
	}
	var log strings.Builder
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("start", "key", s, "config", cfg, "pointer", &cfg)
	}
	if leaks(log.String()) {
		t.Error(log.String())
	}
}

// isVerb distinguishes letters from the signs between Z and a.
func isVerb(r rune) bool { return r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' }

type wrapped struct{ s Secret }

func (w *wrapped) Error() string { return fmt.Sprint("cannot use ", w.s) }

func TestSecretValue(t *testing.T) {
	t.Parallel()
	var unset Secret
	if unset.IsSet() || unset.Reveal() != "" || unset != NewSecret("") {
		t.Error("the zero value is set")
	}
	// Built at run time, so that the two strings do not share their memory.
	a, b := NewSecret(strings.Repeat("a", 3)), NewSecret("aa"+strings.ToLower("A"))
	if a != b || !a.Equal(b) || !a.IsSet() || a.Reveal() != "aaa" || a == NewSecret("aab") || a.Equal(unset) {
		t.Error("equality is not that of the values")
	}
}
