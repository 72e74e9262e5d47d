package stripesim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// noNetwork refuses every webhook: what is loaded or asked for names any host.
type noNetwork struct{}

func (noNetwork) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no network in a fuzz test")
}

var apart = Options{Delivery: Delivery{Attempts: 1, Transport: noNetwork{}}}

// fuzzed is a simulator over a clock of its own.
func fuzzed(t testing.TB) *Server {
	o := apart
	o.Now = newHand().now
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// FuzzState loads any file. One that is refused changes nothing. One that is taken is a
// state: saved and loaded again it is the same, byte for byte, and requests are answered.
func FuzzState(f *testing.F) {
	empty := start(f, apart)
	f.Add(empty.saved())
	// A small one is changed well; TestStateRefusesWhatIsNotWhole has the large one.
	small := start(f, apart)
	small.customer("balance=-900")
	small.settle()
	f.Add(small.saved())
	f.Add(bytes.Replace(small.saved(), []byte(`"balance":-900`), []byte(`"balance":9223372036854775807`), 1))
	f.Add([]byte(`{"state":"creditmirror sim","version":1,"accounts":0}` + "\n" + `{"end":0}`))
	f.Fuzz(func(t *testing.T, file []byte) {
		s := fuzzed(t)
		defer s.Close()
		before, err := s.stateBytes()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Load(bytes.NewReader(file)); err != nil {
			if !errors.Is(err, ErrState) {
				t.Fatalf("refused with %v", err)
			}
			if after, err := s.stateBytes(); err != nil || !bytes.Equal(before, after) {
				t.Fatalf("refused, and yet the state has changed (%v)", err)
			}
			return
		}
		settle := func(s *Server) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := s.Settle(ctx); err != nil {
				t.Skip("a delivery is due much later")
			}
		}
		settle(s)
		once, err := s.stateBytes()
		if err != nil {
			t.Fatal(err)
		}
		again := fuzzed(t)
		defer again.Close()
		if err := again.Load(bytes.NewReader(once)); err != nil {
			t.Fatalf("its own state is refused: %v", err)
		}
		settle(again)
		if twice, err := again.stateBytes(); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("loaded and saved again it differs (%v):\n%s\n%s", err, once, twice)
		}
		if r := ask(again, "GET", "/v1/customers", "limit=100", ""); r.status >= 500 || !json.Valid(r.body) {
			t.Fatalf("%d %s", r.status, r.body)
		}
	})
}

// ask sends one request without a network.
func ask(s *Server, method, path, query, body string) *recorder {
	q, err := http.NewRequest(method, "http://127.0.0.1"+path, strings.NewReader(body))
	if err != nil {
		return &recorder{status: 400, body: []byte("{}")}
	}
	q.URL.RawQuery = query
	q.Header.Set("Authorization", "Bearer "+testKey)
	if body != "" {
		q.Header.Set("Content-Type", "application/json")
	}
	r := &recorder{header: http.Header{}}
	s.Handler().ServeHTTP(r, q)
	return r
}

// idsMade is how far the ids of an account have gone; a refused request may have taken one.
var idsMade = regexp.MustCompile(`"made":\d+,"random":"[^"]*"|"requests":\d+|"calls":\{[^}]*\}`)

// FuzzControl sends any body to everything that steers the simulator. The answer is JSON and
// no failure; what is refused has changed nothing; and whatever is done leaves the ledgers of
// every customer closed.
func FuzzControl(f *testing.F) {
	targets := []string{
		"PUT /_sim/faults", "PUT /_sim/limits", "PUT /_sim/switches", "PUT /_sim/clock", "POST /_sim/clock/advance", "PUT /_sim/seed",
		"POST /_sim/invoices/pay", "POST /_sim/invoices/apply_balance", "POST /_sim/invoices/apply_credits", "POST /_sim/invoices/unapply",
		"POST /_sim/invoices/void", "POST /_sim/balance_transactions", "POST /_sim/accounts", "POST /_sim/keys", "POST /_sim/endpoints/we_1/roll",
	}
	for i, body := range []string{
		`[{"kind":"500","endpoint":"GET /v1/account","count":2,"skip":1,"probability":0.5}]`, `{"test":25,"live":100}`,
		`{"ExpiryDelay":1000000000,"NullMetadata":true}`, `{"virtual":true,"now":"2026-01-01T00:00:00Z"}`, `{"by":"1h"}`, `{"seed":-9223372036854775808}`,
		`{"customer":"CUS","invoice":"INV","amount":900}`, `{"customer":"CUS","invoice":"INV","amount":9223372036854775807,"currency":"usd"}`,
		`{"customer":"CUS","invoice":"INV","amount":-1,"currency":"usd"}`, `{"customer":"CUS","invoice":"INV"}`, `{"customer":"CUS","invoice":"INV"}`,
		`{"customer":"CUS","amount":-9223372036854775808,"currency":"usd","type":"adjustment"}`, `{"id":"acct_9"}`, `{"key":"rk_test_9","state":"restricted","deny":["GET /v1/billing"]}`, `{"expire_in":"24h"}`,
	} {
		f.Add(byte(i), body)
		f.Add(byte(i), "null")
		f.Add(byte(i), `{"customer":"CUS","x":1}`)
	}
	f.Fuzz(func(t *testing.T, n byte, body string) {
		s := fuzzed(t)
		defer s.Close()
		a := s.account("")
		a.mu.Lock()
		c := a.createCustomer(a.callerCause(), customerChange{}, nil)
		_, _ = a.createGrant(a.callerCause(), c, grantRequest{currency: "usd", amount: 500, priceType: "metered", category: "paid"})
		inv := a.createInvoice(a.callerCause(), c, invoiceRequest{currency: "usd", collection: "charge_automatically"})
		a.createItem(a.callerCause(), c, inv, itemRequest{amount: 900, unitAmount: 900, quantity: 1, currency: "usd"})
		a.mu.Unlock()
		state := func() string {
			b, err := s.stateBytes()
			if err != nil {
				t.Fatal(err)
			}
			return idsMade.ReplaceAllString(string(b), "")
		}
		before := state()
		method, path, _ := strings.Cut(targets[int(n)%len(targets)], " ")
		begun := time.Now()
		r := ask(s, method, path, "", strings.NewReplacer("CUS", c.id, "INV", inv.id).Replace(body))
		if r.status >= 500 || !json.Valid(r.body) {
			t.Fatalf("%s %s %q: %d %s", method, path, body, r.status, r.body)
		}
		if took := time.Since(begun); took > time.Minute {
			t.Fatalf("%s %s %q took %s", method, path, body, took)
		}
		if r.status >= 400 {
			if after := state(); after != before {
				was, is := strings.Split(before, "\n"), strings.Split(after, "\n")
				for i := range was {
					if i >= len(is) || was[i] != is[i] {
						t.Fatalf("%s %s %q is refused with %s, and yet changed\n%s\nto\n%s", method, path, body, r.body, was[i], is[min(i, len(is)-1)])
					}
				}
			}
		}
		for _, tr := range s.Truth() {
			if bad := broken(tr); bad != "" {
				t.Fatalf("%s %s %q: %s: %s", method, path, body, tr.ID, bad)
			}
		}
		// It still serves, faults and keys aside.
		if r := ask(s, "GET", "/_sim/clock", "", ""); r.status != 200 {
			t.Fatalf("afterwards: %d %s", r.status, fmt.Sprint(r.body))
		}
	})
}
