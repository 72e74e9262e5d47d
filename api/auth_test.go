package api

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
)

func basic(user string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user))
}

// testKey is a key as the tests write it.
type testKey struct {
	Secret string
	Write  bool
	RPS    float64
}

func keysOf(list ...testKey) *access.Keys {
	keys := make([]access.Key, len(list))
	for i, k := range list {
		keys[i] = access.Key{Name: "key-" + strconv.Itoa(i+1), Write: k.Write, RPS: k.RPS}
		if k.Secret != "" {
			keys[i].Digest = access.DigestOf(k.Secret)
		}
	}
	return access.New(keys, nil)
}

func TestKeys(t *testing.T) {
	t.Parallel()
	const key = "rk_live_Aa0123456789"
	core, logs := observer.New(zap.DebugLevel)
	h := New(Options{Reader: world(t), Log: zap.New(core), Keys: keysOf([]testKey{{Secret: "other", Write: true}, {Secret: key}, {Secret: ""}}...)})
	const missing, wrong = "You did not provide an API key.", "Invalid API Key provided."
	for _, c := range []struct {
		name          string
		authorization []string
		status        int
		message       string
	}{
		{"bearer", []string{"Bearer " + key}, 200, ""},
		{"bearer in small letters", []string{"bearer " + key}, 200, ""},
		{"basic user", []string{basic(key + ":")}, 200, ""},
		{"basic user with password", []string{basic(key + ":x")}, 200, ""},
		{"basic without colon", []string{basic(key)}, 200, ""},
		{"the other key", []string{"Bearer other"}, 200, ""},
		{"none", nil, 401, missing},
		{"empty", []string{""}, 401, missing},
		{"bearer alone", []string{"Bearer"}, 401, missing},
		{"empty bearer", []string{"Bearer  "}, 401, missing},
		{"empty basic", []string{basic(":")}, 401, missing},
		{"key as password", []string{basic(":" + key)}, 401, missing},
		{"not base64", []string{"Basic %%%"}, 401, missing},
		{"other scheme", []string{"Digest " + key}, 401, missing},
		{"bare key", []string{key}, 401, missing},
		{"other case", []string{"Bearer " + strings.ToUpper(key)}, 401, wrong},
		{"wrong tail", []string{"Bearer " + key[:len(key)-1] + "x"}, 401, wrong},
		{"prefix", []string{"Bearer " + key[:len(key)-1]}, 401, wrong},
		{"longer", []string{"Bearer " + key + "0"}, 401, wrong},
		{"NUL", []string{basic(key + "\x00:")}, 401, wrong},
		{"1 MB", []string{"Bearer " + strings.Repeat("a", 1<<20)}, 401, wrong},
		{"two headers", []string{"Bearer " + key, "Bearer " + key}, 401, wrong},
		{"two keys", []string{"Bearer " + key + ",other"}, 401, wrong},
	} {
		r := local("GET", pathTxns)
		r.RemoteAddr = "203.0.113.9:1"
		for _, a := range c.authorization {
			r.Header.Add("Authorization", a)
		}
		w := serve(h, r)
		if w.Code != c.status {
			t.Errorf("%s: %d %s, want %d", c.name, w.Code, w.Body, c.status)
		}
		if c.status != 401 {
			continue
		}
		e := errorOf(t, w)
		if e.Type != "invalid_request_error" || !strings.HasPrefix(e.Message, c.message) || !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer ") {
			t.Errorf("%s: %v %s", c.name, w.Header(), w.Body)
		}
	}
	w := serve(h, local("GET", pathTxns+"?api_key="+key))
	if w.Code != http.StatusUnauthorized {
		t.Errorf("key in the query: %d", w.Code)
	}
	for _, entry := range logs.All() {
		for _, v := range entry.ContextMap() {
			if s, ok := v.(string); ok && strings.Contains(s, "0123456789") {
				t.Errorf("a key is in the log: %v", entry)
			}
		}
	}
	if n := logs.FilterMessage("api key refused").Len(); n != 1 {
		t.Errorf("a burst of wrong keys made %d log lines", n)
	}
}

// A wrong key learns the same of every path, so that it reveals nothing of what is held.
func TestNoOracle(t *testing.T) {
	t.Parallel()
	h := New(Options{Reader: world(t), Keys: keysOf([]testKey{{Secret: "right"}}...)})
	var first string
	for _, target := range []string{pathBalance, "/v1/customers/cus_missing", "/v1/nothing", pathTxns + "?limit=x", "/"} {
		r := local("GET", target, "Authorization", "Bearer wrong", "Stripe-Account", "x")
		w := serve(h, r)
		if first == "" {
			first = w.Body.String()
		}
		if w.Code != 401 || w.Body.String() != first {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
}

func TestWithoutKeysOnlyLoopback(t *testing.T) {
	t.Parallel()
	h := handlerOf(world(t))
	for addr, status := range map[string]int{
		"127.0.0.1:1": 200, "127.8.8.8:1": 200, "[::1]:1": 200, "[::ffff:127.0.0.1]:1": 200,
		"203.0.113.9:1": 403, "10.0.0.1:1": 403, "[2001:db8::1]:1": 403, "0.0.0.0:1": 403, "[::]:1": 403,
		"localhost:1": 403, "127.0.0.1": 403, "@": 403, "": 403,
	} {
		r := local("GET", pathTxns)
		r.RemoteAddr, r.Host = addr, "localhost"
		w := serve(h, r)
		if w.Code != status {
			t.Errorf("from %q: %d, want %d", addr, w.Code, status)
		}
		if status == 403 {
			errorOf(t, w)
		}
	}
	// A page in a browser on this machine can have its own name resolve to it.
	for host, status := range map[string]int{
		"localhost": 200, "LOCALHOST:8081": 200, "127.0.0.1:8081": 200, "127.8.8.8": 200, "[::1]:8081": 200, "[::1]": 200,
		"evil.example": 403, "evil.example:8081": 403, "127.0.0.1.evil.example": 403, "localhost.evil.example": 403, "": 403, "10.0.0.1": 403,
	} {
		r := local("GET", pathTxns)
		r.Host = host
		if w := serve(h, r); w.Code != status {
			t.Errorf("as %q: %d, want %d", host, w.Code, status)
		}
	}
	// A proxy on this machine hands on what comes from elsewhere.
	for _, name := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"} {
		if w := serve(h, local("GET", pathTxns, name, "127.0.0.1")); w.Code != 403 {
			t.Errorf("through a proxy that sets %s: %d", name, w.Code)
		}
	}
	// SDKs cannot do without a key.
	if w := serve(h, local("GET", pathTxns, "Authorization", "Bearer sk_test_any")); w.Code != 200 {
		t.Errorf("a key where none is configured: %d", w.Code)
	}
	// Keys that are all empty are a fault, not an open door.
	h = New(Options{Reader: world(t), Keys: keysOf([]testKey{{}}...)})
	for _, a := range []string{"", "Bearer ", "Basic Og==", "Bearer x"} {
		if w := serve(h, local("GET", pathTxns, "Authorization", a)); w.Code != 401 {
			t.Errorf("%q against an empty key: %d", a, w.Code)
		}
	}
}

// The place where a wrong key differs must not show in the time to refuse it.
// The fastest of many short runs, taken in turns, is what is left when a busy
// machine is taken out.
func TestFlatTiming(t *testing.T) {
	t.Parallel()
	key := strings.Repeat("k", 64)
	ring := keysOf([]testKey{{Secret: key}}...)
	guesses := [2]string{"x" + key[1:], key[:63] + "x"}
	best := [2]time.Duration{time.Hour, time.Hour}
	const runs, guessesPerRun = 1000, 100
	for range runs {
		for i, guess := range guesses {
			began := time.Now()
			for range guessesPerRun {
				if _, err := ring.Find(guess); err == nil {
					t.Fatal("let in")
				}
			}
			best[i] = min(best[i], time.Since(began)/guessesPerRun)
		}
	}
	if d := (best[0] - best[1]).Abs(); d > time.Microsecond {
		t.Errorf("%v against %v", best[0], best[1])
	}
}

// A key with a limit gets so many requests a second, and as many at once; the
// others and the wrong ones are not concerned.
func TestKeyLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		var marked []mirror.Target
		stripe := &stub{reply: stripeapi.Reply{Status: 200, Body: []byte(`{"id":"x","object":"customer_balance_transaction"}`)}}
		h := writing(t, stripe, &ledgerStub{}, &marked, func(o *Options) {
			o.Log = zap.New(core)
			o.Keys = keysOf([]testKey{{Secret: "free"}, {Secret: "ten", RPS: 10}, {Secret: "slow", Write: true, RPS: 0.25}}...)
		})
		ask := func(key string) *httptest.ResponseRecorder {
			return serve(h, local("GET", pathTxns, "Authorization", "Bearer "+key))
		}
		count := func(key string, n int) (ok int) {
			for range n {
				if ask(key).Code == 200 {
					ok++
				}
			}
			return ok
		}
		if n := count("ten", 30); n != 10 {
			t.Errorf("%d of 30 at once", n)
		}
		time.Sleep(500 * time.Millisecond)
		if n := count("ten", 30); n != 5 {
			t.Errorf("%d half a second later", n)
		}
		if n := count("free", 300); n != 300 {
			t.Errorf("%d of 300 without a limit", n)
		}
		time.Sleep(time.Hour)
		if n := count("ten", 30); n != 10 {
			t.Errorf("%d after an hour", n)
		}

		w := ask("ten")
		e := errorOf(t, w)
		if w.Code != 429 || e.Type != "invalid_request_error" || e.Code != "rate_limit" ||
			w.Header().Get("Retry-After") != "1" || w.Header().Get("Stripe-Rate-Limited-Reason") != "global-rate" {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
		write := func() *httptest.ResponseRecorder {
			r := postForm(pathTxns, "amount=1")
			r.Header.Set("Authorization", "Bearer slow")
			return serve(h, r)
		}
		if w := write(); w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		stripe.sent = nil
		w = write()
		if w.Code != 429 || w.Header().Get("Retry-After") != "4" || w.Header().Get(headerWrite) != "not-done" || stripe.sent != nil {
			t.Errorf("%d %v, sent %v", w.Code, w.Header(), stripe.sent)
		}
		time.Sleep(4 * time.Second) // as the reply says
		if w := write(); w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		told := logs.FilterMessage("api key is over its limit").All()
		if len(told) == 0 || len(told) > 3 || told[0].ContextMap()["key_name"] != "key-2" {
			t.Errorf("%v", told)
		}
	})
}
