package stripesim

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// story does a bit of everything and returns all that was answered.
func (s *sim) story() string {
	s.t.Helper()
	var all strings.Builder
	do := func(method, path string, pairs ...string) answer {
		r := s.do(method, path, pairs...)
		fmt.Fprintf(&all, "%s %s %d %s %s\n", method, path, r.status, r.header.Get("Request-Id"), r.raw)
		return r
	}
	s.hook("http://127.0.0.1:1/", "enabled_events[]=*", "metadata[a]=b")
	clock := do("POST", "/v1/test_helpers/test_clocks", "frozen_time=1000000", "name=n").str("id")
	onClock := do("POST", "/v1/customers", "test_clock="+clock, "balance=-5").str("id")
	g := []string{"amount[type]=monetary", "amount[monetary][currency]=usd", "amount[monetary][value]=500", "applicability_config[scope][price_type]=metered"}
	do("POST", "/v1/billing/credit_grants", append(g, "customer="+onClock, "expires_at=1000500", "effective_at=1000100")...)
	cus := do("POST", "/v1/customers", "balance=-900", "email=a@example.com", "address[city]=Paris", "metadata[k]=v").str("id")
	do("POST", "/v1/billing/credit_grants", append(g, "customer="+cus, fmt.Sprintf("expires_at=%d", s.hand.seconds()+500))...)
	do("POST", "/v1/billing/credit_grants", append(g, "customer="+cus, "priority=3", "category=promotional")...)
	for i := range 12 { // many of one second
		do("POST", "/v1/customers/"+cus+"/balance_transactions", fmt.Sprintf("amount=%d", i-20), "currency=usd")
	}
	do("POST", "/v1/customers/"+cus+"/balance_transactions", "amount=3", "currency=eur")
	price := s.metered()
	used := s.use(cus, price, 300)
	do("POST", "/v1/invoiceitems", "customer="+cus, "invoice="+used, "amount=4000")
	do("POST", "/v1/invoices/"+used+"/finalize")
	do("POST", "/v1/credit_notes", "invoice="+used, "amount=10")
	do("POST", "/v1/invoices/"+used+"/pay")
	do("POST", "/v1/credit_notes", "invoice="+used, "credit_amount=20", "amount=20")
	s.use(cus, price, 50) // stays a draft, with a claim on the credits
	do("POST", "/v1/invoices", "customer="+cus, "auto_advance=true", "default_payment_method=pm_card_visa")
	do("POST", "/v1/customers/"+cus, "invoice_settings[default_payment_method]=pm_card_chargeCustomerFail")
	do("POST", "/v1/invoices/create_preview", "customer="+cus, "invoice_items[0][amount]=5", "invoice_items[0][currency]=usd")
	do("POST", "/v1/invoiceitems", "customer="+cus, "amount=1", "currency=usd")
	do("DELETE", "/v1/customers/"+do("POST", "/v1/customers", "name=gone").str("id"))
	r, err := s.request("POST", "/v1/customers", http.Header{"Idempotency-Key": {"key-1"}}, "name=once")
	if err != nil {
		s.t.Fatal(err)
	}
	all.Write(r.raw)
	for _, path := range []string{"/v1/customers", "/v1/events", "/v1/billing/credit_grants", "/v1/invoices", "/v1/customers/" + cus + "/balance_transactions"} {
		do("GET", path, "limit=100")
	}
	return all.String()
}

func (s *sim) saved() []byte {
	s.t.Helper()
	b, err := s.stateBytes()
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// quietly has no retries, whose number depends on how long the test takes.
var quietly = Options{Delivery: Delivery{Attempts: 1}}

func TestSameSeedSameBytes(t *testing.T) {
	t.Parallel()
	a, b := start(t, quietly), start(t, quietly)
	if one, two := a.story(), b.story(); one != two {
		t.Fatal("the same requests were answered differently")
	}
	a.settle()
	b.settle()
	if !bytes.Equal(a.saved(), b.saved()) {
		t.Fatal("the states differ")
	}
	a.Reset(0)
	if a.story() != b.laterStory(t) {
		t.Fatal("a reset simulator is not as a new one")
	}
}

// laterStory is the story in a new simulator.
func (s *sim) laterStory(t *testing.T) string {
	t.Helper()
	return start(t, quietly).story()
}

func TestStateIsWhole(t *testing.T) {
	t.Parallel()
	a := start(t, quietly)
	a.story()
	a.settle()
	if err := a.SetKey("rk_test_1", KeyRestricted, "GET /v1/billing"); err != nil {
		t.Fatal(err)
	}
	if err := a.SetFaults(Faults{{Kind: Fault500, Count: 2, Skip: 1, Endpoint: "GET /v1/account"}}); err != nil {
		t.Fatal(err)
	}
	a.get("/v1/account")
	if err := a.SetSwitches(Switches{NullMetadata: true, ExpiryDelay: time.Second}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "state.jsonl")
	if err := a.SaveFile(file); err != nil {
		t.Fatal(err)
	}
	b := start(t, Options{Seed: 99, Delivery: Delivery{Attempts: 1}})
	b.customer("name=overwritten")
	if err := b.LoadFile(file); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.saved(), b.saved()) {
		t.Fatalf("not the same after loading:\n%s\n%s", a.saved(), b.saved())
	}
	equal(t, "fault goes on", b.do("GET", "/v1/account").status, 500)
	equal(t, "fault goes on", a.do("GET", "/v1/account").status, 500)
	r, err := b.request("POST", "/v1/customers", http.Header{"Idempotency-Key": {"key-1"}}, "name=once")
	if err != nil || r.header.Get("Idempotent-Replayed") != "true" {
		t.Fatalf("%v %s", err, r.raw)
	}
	if r, err = a.request("POST", "/v1/customers", http.Header{"Idempotency-Key": {"key-1"}}, "name=once"); err != nil {
		t.Fatal(err)
	}
	// What comes after is the same, too: ids, ties, what is due.
	a.hand.forward(4000)
	b.hand.forward(4000)
	one, two := a.story(), b.story()
	if one != two {
		t.Fatalf("they go different ways:\n%s\n%s", one, two)
	}
	a.settle()
	b.settle()
	equal(t, "states", string(b.saved()), string(a.saved()))
}

func TestStateRefusesWhatIsNotWhole(t *testing.T) {
	t.Parallel()
	a := start(t, quietly)
	a.story()
	a.settle()
	whole := a.saved()
	b := start(t, quietly)
	cus := b.customer()
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for name, state := range map[string][]byte{
		"empty":     nil,
		"odd":       []byte(`{"state":"else"}`),
		"version":   bytes.Replace(whole, []byte(`"version":1`), []byte(`"version":2`), 1),
		"cut off":   whole[:len(whole)-20],
		"no end":    bytes.Join(lines[:len(lines)-2], nil),
		"a hole":    append(bytes.Join(lines[:5], nil), bytes.Join(lines[6:], nil)...),
		"no header": bytes.Join(lines[1:], nil),
		"no secret": regexp.MustCompile(`"secrets":\[[^]]*\]`).ReplaceAll(whole, []byte(`"secrets":[]`)),
		"no item":   regexp.MustCompile(`(?m)^\{"invoice_item":.*"invoice":.*$`).ReplaceAll(whole, []byte(`{"log":{}}`)),
		"no id":     bytes.Replace(whole, []byte(`{"customer":{"id":"cus_`), []byte(`{"customer":{"id":"","x":"`), 1),
		"id twice":  regexp.MustCompile(`"price":\{"id":"[^"]*"`).ReplaceAll(append(bytes.Join(lines[:3], nil), bytes.Join(lines[2:], nil)...), []byte(`"price":{"id":"price_1"`)),
		"currency":  bytes.Replace(whole, []byte(`"currency":"usd"`), []byte(`"currency":"doubloon"`), 1),
		"no txn":    bytes.ReplaceAll(whole, []byte(`"transaction":"cbtxn_`), []byte(`"transaction":"xx`)),
	} {
		if err := b.Load(bytes.NewReader(state)); !errors.Is(err, ErrState) || bytes.Equal(state, whole) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.get("/v1/customers/" + cus) // nothing has changed
}

func TestStateKeepsOutstandingDeliveries(t *testing.T) {
	t.Parallel()
	a := start(t, Options{Delivery: Delivery{RetryFirst: time.Hour, RetryMax: time.Hour}})
	refuse := receive(t, func(int, *http.Request) int { return 500 })
	a.hook(refuse.URL)
	a.customer()
	until(t, func() bool { return a.Endpoints()[0].Failed == 1 })
	until(t, func() bool { return a.Clock().Timers == 1 })
	b := start(t, Options{})
	if err := b.Load(bytes.NewReader(a.saved())); err != nil {
		t.Fatal(err)
	}
	equal(t, "timers", b.Clock().Timers, 1)
	equal(t, "failed", b.Endpoints()[0].Failed, 1)
	if err := b.AdvanceClock(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return len(refuse.all()) == 2 })
	equal(t, "same event", refuse.ids()[0], refuse.ids()[1])
}

// What is due is due by the switches of the file, not by those of before.
func TestStateKeepsWhatIsDue(t *testing.T) {
	t.Parallel()
	a := start(t, Options{Switches: Switches{ExpiryDelay: 50 * time.Second}})
	cus := a.customer()
	a.grant(cus, 10, fmt.Sprintf("expires_at=%d", a.hand.seconds()+100))
	b := start(t, Options{})
	if err := b.Load(bytes.NewReader(a.saved())); err != nil {
		t.Fatal(err)
	}
	b.hand.forward(120)
	wantBalances(t, b, cus, 10, 0)
	b.hand.forward(30)
	wantBalances(t, b, cus, 0, 0)
}

// The faults of a seed are the same, too: which requests and webhooks they strike,
// and what comes of it.
func TestSameSeedSameFaults(t *testing.T) {
	t.Parallel()
	run := func(seed int64) (string, []byte) {
		var rules Faults
		for _, f := range Chaos() {
			f.Probability = 0.3
			if replyFaults[f.Kind] { // the story needs its other requests
				f.Endpoint = "POST /v1/customers/{id}/balance_transactions"
			}
			if f.Kind != FaultReset && f.Kind != FaultSlow { // after a reset, net/http may send a request twice
				rules = append(rules, f)
			}
		}
		s := start(t, Options{Seed: seed, Faults: rules, Delivery: Delivery{Attempts: 3}})
		if err := s.FreezeClock(time.Time{}); err != nil {
			t.Fatal(err)
		}
		told := s.story()
		if err := s.AdvanceClock(t.Context(), 2*time.Hour); err != nil { // a draft finalizes after one
			t.Fatal(err)
		}
		s.settle()
		return told, s.saved()
	}
	told, state := run(7)
	again, same := run(7)
	if told != again {
		t.Fatal("the same requests were answered differently")
	}
	if !bytes.Equal(state, same) {
		t.Fatal("the states differ")
	}
	if other, _ := run(8); other == told {
		t.Fatal("another seed makes no difference")
	}
	for _, kind := range []string{"fault.500", "event.lost", "event.twice"} {
		if !bytes.Contains(state, []byte(kind)) {
			t.Errorf("%s never struck", kind)
		}
	}
}
