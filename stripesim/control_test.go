package stripesim

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// control sends one request to the control API.
func (s *sim) control(method, path, body string) answer {
	s.t.Helper()
	q, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	resp, err := s.http.Do(q)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if a.raw, err = io.ReadAll(resp.Body); err != nil {
		s.t.Fatal(err)
	}
	_ = json.Unmarshal(a.raw, &a.obj)
	return a
}

func TestControlClockSeedStateAndLog(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Seed: 4})
	equal(t, "freeze", s.control("PUT", "/_sim/clock", `{"virtual":true,"now":"2023-01-01T00:00:00Z"}`).str("now"), "2023-01-01T00:00:00Z")
	first := s.customer()
	s.grant(first, 5, "expires_at=1672617600") // the day after
	equal(t, "advance", s.control("POST", "/_sim/clock/advance", `{"by":"23h"}`).str("now"), "2023-01-01T23:00:00Z")
	wantBalances(t, s, first, 5, 5)
	equal(t, "advance", s.control("POST", "/_sim/clock/advance", `{"to":"2023-02-01T00:00:00Z"}`).status, 200)
	wantBalances(t, s, first, 0, 0)
	for _, body := range []string{`{"by":"-1h"}`, `{"by":"x"}`, `{"by":"1h","to":"2024-01-01T00:00:00Z"}`, `{"odd":1}`} {
		equal(t, body, s.control("POST", "/_sim/clock/advance", body).status, 400)
	}
	equal(t, "backwards", s.control("PUT", "/_sim/clock", `{"virtual":true,"now":"2022-01-01T00:00:00Z"}`).status, 400)
	equal(t, "set a real clock", s.control("PUT", "/_sim/clock", `{"now":"2025-01-01T00:00:00Z"}`).status, 400)

	equal(t, "log", strings.Contains(string(s.control("GET", "/_sim/log", "").raw), `"what":"customer.created"`), true)
	equal(t, "log", string(s.control("GET", "/_sim/log?after=1000000", "").raw), "[]\n")
	equal(t, "log", s.control("GET", "/_sim/log?after=x", "").status, 400)

	state := s.control("GET", "/_sim/state", "")
	equal(t, "lines", strings.Count(string(state.raw), `{"customer":{`), 1)
	equal(t, "seed", s.control("PUT", "/_sim/seed", `{"seed":4}`).status, 200)
	equal(t, "empty", len(s.get("/v1/customers").data()), 0)
	equal(t, "same id again", s.customer(), first)
	equal(t, "seed", s.control("GET", "/_sim/seed", "").num("seed"), 4)
	equal(t, "load", s.control("PUT", "/_sim/state", string(state.raw)).status, 200)
	equal(t, "loaded", len(s.get("/v1/billing/credit_grants").data()), 1)
	equal(t, "not a state", s.control("PUT", "/_sim/state", "{}").status, 400)
	equal(t, "released", s.control("PUT", "/_sim/clock", `{"virtual":false}`).at("virtual"), any(false))

	equal(t, "switch", s.control("PUT", "/_sim/switches", `{"null_metadata":true,"expiry_delay":"2s"}`).str("expiry_delay"), "2s")
	equal(t, "switch", s.control("GET", "/_sim/switches", "").at("null_metadata"), any(true))
	equal(t, "unknown switch", s.control("PUT", "/_sim/switches", `{"odd":true}`).status, 400)
	equal(t, "wrong value", s.control("PUT", "/_sim/switches", `{"default_currency":"xxx"}`).status, 400)
}

// What is not a whole request changes nothing: above all, a forgotten body does not
// empty the simulator.
func TestControlRefuses(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Seed: 4, Faults: Faults{{Kind: Fault500, Count: 1, Endpoint: "GET /v1/account"}}, Limits: Limits{AccountRPS: 1000}})
	cus := s.customer()
	for _, path := range []string{"/_sim/seed", "/_sim/faults", "/_sim/limits", "/_sim/clock", "/_sim/switches", "/_sim/state"} {
		equal(t, path, s.control("PUT", path, "").status, 400)
	}
	equal(t, "two values", s.control("PUT", "/_sim/faults", `[] []`).status, 400)
	equal(t, "null", s.control("PUT", "/_sim/faults", `null`).status, 400)
	equal(t, "both wrong", s.control("GET", "/_sim/log?limit=x&after=y", "").str("error.param"), "after")
	for _, body := range []string{``, `{"key":"","state":"active"}`, `{"key":"sk_test_1","state":"odd"}`, `{"key":"sk_test_1","state":"restricted","deny":["GET /v1/nothing"]}`} {
		equal(t, body, s.control("POST", "/_sim/keys", body).status, 400)
	}
	for _, body := range []string{`[{"kind":"oversize","count":1,"bytes":9999999999}]`, `[{"kind":"list_lag","count":1,"requests":9999999999}]`} {
		equal(t, body, s.control("PUT", "/_sim/faults", body).status, 400)
	}
	s.get("/v1/customers/" + cus)
	equal(t, "faults", len(s.faults.get()), 1)
	equal(t, "limits", s.Limits().AccountRPS, 1000)
}

func TestControlEndpointsAndPayments(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	r := receive(t, nil)
	id, old := s.hook(r.URL)
	rolled := s.control("POST", "/_sim/endpoints/"+id+"/roll", `{"keep":"1h"}`)
	equal(t, "rolled", strings.HasPrefix(rolled.str("secret"), "whsec_") && rolled.str("secret") != old, true)
	equal(t, "none", s.control("POST", "/_sim/endpoints/we_no/roll", `{}`).status, 400)
	cus := s.customer()
	inv := s.draft(cus, 1000)
	equal(t, "a draft", s.control("POST", "/_sim/invoices/pay", `{"invoice":"`+inv+`","amount":1}`).status, 400)
	s.post("/v1/invoices/" + inv + "/finalize")
	equal(t, "overpaid", s.control("POST", "/_sim/invoices/pay", `{"invoice":"`+inv+`","amount":1500}`).num("balance"), -500)
	equal(t, "no amount", s.control("POST", "/_sim/invoices/pay", `{"invoice":"`+inv+`"}`).status, 400)
	s.settle()
	ev := s.get("/v1/events", "type=invoice.overpaid").ids()[0]
	var got []Attempt
	if err := json.Unmarshal(s.control("GET", "/_sim/deliveries?event="+ev, "").raw, &got); err != nil || len(got) != 1 {
		t.Fatalf("%v %+v", err, got)
	}
	equal(t, "status", got[0].Status, 200)
	equal(t, "number", got[0].Number, 1)
	equal(t, "endpoint", got[0].Endpoint, id)
	if time.Unix(got[0].At, 0).Unix() != s.hand.seconds() {
		t.Error("not at the simulated time")
	}
}
