package stripesim

import (
	"context"
	"crypto/hmac"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestVirtualClockRunsRetriesAtTheirTime(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Delivery: Delivery{RetryFirst: time.Hour, RetryMax: 100 * time.Hour, Attempts: 20}})
	begin := time.Unix(1_700_000_000, 0)
	if err := s.FreezeClock(begin); err != nil {
		t.Fatal(err)
	}
	var ok atomic.Bool
	r := receive(t, func(int, *http.Request) int {
		if ok.Load() {
			return 200
		}
		return 500
	})
	s.hook(r.URL)
	s.customer()
	// 0 1 3 7 15 hours
	if err := s.AdvanceClock(t.Context(), 16*time.Hour); err != nil {
		t.Fatal(err)
	}
	at := []int64{}
	for _, a := range s.Attempts("") {
		at = append([]int64{(a.At - begin.Unix()) / 3600}, at...)
	}
	equalJSON(t, "attempts", at, `[0,1,3,7,15]`)
	equal(t, "pending", len(s.get("/v1/events", "delivery_success=false").data()), 1)
	ok.Store(true)
	if err := s.AdvanceClock(t.Context(), 16*time.Hour); err != nil {
		t.Fatal(err)
	}
	equal(t, "delivered", len(s.get("/v1/events", "delivery_success=true").data()), 1)
	equal(t, "sent", len(r.all()), 6)
	if s.FreezeClock(begin) == nil {
		t.Error("the clock went backwards")
	}
	if s.AdvanceClock(t.Context(), -1) == nil {
		t.Error("the clock went backwards")
	}
	s.ReleaseClock()
	equal(t, "virtual", s.Clock().Virtual, false)
	equal(t, "now", s.Clock().Now.Unix(), begin.Unix()+32*3600)
	s.hand.forward(5)
	equal(t, "time passes", s.Clock().Now.Unix(), begin.Unix()+32*3600+5)
}

func TestVirtualClockRipensInOrder(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	if err := s.FreezeClock(time.Unix(1_600_000_000, 0)); err != nil { // backwards, while it is empty
		t.Fatal(err)
	}
	cus := s.customer()
	for _, in := range []int64{300, 100, 200} {
		s.grant(cus, in, fmt.Sprintf("expires_at=%d", 1_600_000_000+in))
	}
	if err := s.AdvanceClock(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range s.get("/v1/billing/credit_balance_transactions", "customer="+cus, "limit=3").data() {
		a := answer{obj: row}
		got = append(got, fmt.Sprint(a.num("created")-1_600_000_000, a.num("effective_at")-1_600_000_000, a.num("debit.amount.monetary.value")))
	}
	equal(t, "rows", strings.Join(got, ", "), "300 300 300, 200 200 200, 100 100 100")
}

func TestRolledSecret(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	r := receive(t, nil)
	id, old := s.hook(r.URL)
	secret, err := s.RollSecret(id, time.Hour)
	if err != nil || secret == old {
		t.Fatal(secret, err)
	}
	v1s := func() (n int, byOld, byNew bool) {
		s.customer()
		s.settle()
		d := r.all()[len(r.all())-1]
		var at int64
		for part := range strings.SplitSeq(d.header, ",") {
			k, v, _ := strings.Cut(part, "=")
			switch k {
			case "t":
				_, _ = fmt.Sscan(v, &at)
			case "v1":
				n++
				byOld = byOld || hmac.Equal([]byte(v), []byte(mac(old, at, d.body)))
				byNew = byNew || hmac.Equal([]byte(v), []byte(mac(secret, at, d.body)))
			}
		}
		return n, byOld, byNew
	}
	if n, byOld, byNew := v1s(); n != 2 || !byOld || !byNew {
		t.Fatal(n, byOld, byNew)
	}
	s.hand.forward(3600)
	if n, byOld, byNew := v1s(); n != 1 || byOld || !byNew {
		t.Fatal(n, byOld, byNew)
	}
	if secret, err = s.RollSecret(id, 0); err != nil {
		t.Fatal(err)
	}
	if n, _, byNew := v1s(); n != 1 || !byNew {
		t.Fatal(n, byNew)
	}
	if _, err := s.RollSecret(id, 25*time.Hour); err == nil {
		t.Error("kept for more than a day")
	}
	if _, err := s.RollSecret("we_no", 0); err == nil {
		t.Error("rolled nothing")
	}
}

func TestEndpointIsDisabledAfterFailures(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Delivery: Delivery{RetryFirst: time.Hour, RetryMax: 12 * time.Hour, Attempts: 100, DisableAfter: 72 * time.Hour}})
	if err := s.FreezeClock(time.Time{}); err != nil {
		t.Fatal(err)
	}
	r := receive(t, func(int, *http.Request) int { return 503 })
	id, _ := s.hook(r.URL)
	s.customer()
	if err := s.AdvanceClock(t.Context(), 71*time.Hour); err != nil {
		t.Fatal(err)
	}
	equal(t, "status", s.get("/v1/webhook_endpoints/"+id).str("status"), "enabled")
	if err := s.AdvanceClock(t.Context(), 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	equal(t, "status", s.get("/v1/webhook_endpoints/"+id).str("status"), "disabled")
	n := len(r.all())
	s.customer()
	if err := s.AdvanceClock(t.Context(), 48*time.Hour); err != nil {
		t.Fatal(err)
	}
	equal(t, "no more", len(r.all()), n)
	s.post("/v1/webhook_endpoints/"+id, "disabled=false")
	equal(t, "status", s.get("/v1/webhook_endpoints/"+id).str("status"), "enabled")
	s.customer() // its failures count anew
	if err := s.AdvanceClock(t.Context(), 71*time.Hour); err != nil {
		t.Fatal(err)
	}
	equal(t, "tried again", len(r.all()) > n, true)
	equal(t, "status", s.get("/v1/webhook_endpoints/"+id).str("status"), "enabled")
}

func TestObjectLimits(t *testing.T) {
	t.Parallel()
	inside, release := make(chan struct{}), make(chan struct{})
	var hold atomic.Bool
	s := start(t, Options{
		Limits: Limits{ObjectLock: true},
		Faults: Faults{{Kind: FaultSlow, Count: 1, Delay: Duration(time.Hour), Endpoint: "POST /v1/customers/{id}/balance_transactions"}},
		OnRequest: func(endpoint string, r *http.Request) {
			if strings.HasSuffix(endpoint, "/balance_transactions") && r.Header.Get("X-First") != "" && hold.CompareAndSwap(true, false) {
				close(inside)
			}
		},
	})
	cus, other := s.customer(), s.customer()
	hold.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(release)
		for ctx.Err() == nil { // again, should the others hold the lock when it comes
			req, _ := http.NewRequestWithContext(ctx, "POST", s.url+"/v1/customers/"+cus+"/balance_transactions", strings.NewReader("amount=-1&currency=usd"))
			req.Header = http.Header{"Authorization": {"Bearer " + testKey}, "Content-Type": {"application/x-www-form-urlencoded"}, "X-First": {"1"}}
			if resp, err := s.http.Do(req); err == nil {
				resp.Body.Close()
			}
		}
	}()
	<-inside
	until(t, func() bool { return s.do("POST", "/v1/customers/"+cus, "name=x").str("error.code") == "lock_timeout" })
	s.get("/v1/customers/" + cus)
	s.post("/v1/customers/"+other, "name=x")
	cancel()
	<-release
	until(t, func() bool { return s.do("POST", "/v1/customers/"+cus, "name=x").status == 200 })

	if err := s.SetLimits(Limits{ObjectWriteRPS: 1}); err != nil {
		t.Fatal(err)
	}
	s.adjust(cus, -1, "usd")
	r := s.do("POST", "/v1/customers/"+cus+"/balance_transactions", "amount=-1", "currency=usd")
	wantError(t, r, 429, "rate_limit", "")
	equal(t, "reason", r.header.Get("Stripe-Rate-Limited-Reason"), "resource-specific")
	s.adjust(other, -1, "usd")
}

func TestLogTellsTheTruth(t *testing.T) {
	t.Parallel()
	s := start(t, Options{LogSize: 4})
	cus := s.customer()
	id := s.adjust(cus, -500, "usd").str("id")
	if err := s.SetFaults(Faults{{Kind: FaultEventLost, Probability: 1}}); err != nil {
		t.Fatal(err)
	}
	s.post("/v1/customers/"+cus+"/balance_transactions/"+id, "description=silent")
	s.adjust(cus, -5, "eur")
	s.adjust(cus, -7, "usd")
	var got []string
	for _, e := range s.Log(2, 100) {
		got = append(got, fmt.Sprint(e.Seq, " ", e.What, " ", e.Detail, " ", e.Amount))
	}
	equal(t, "log", strings.Join(got, "; "), "3 balance_transaction.created adjustment -500; 4 event.sent customer.updated 0; "+
		"5 balance_transaction.edited  0; 6 balance_transaction.created adjustment -5; 7 balance_transaction.created adjustment -7; 8 event.lost customer.updated 0")
	s.adjust(cus, -7, "usd")
	equal(t, "kept", s.Log(0, 100)[0].Seq, 5)
	equal(t, "limit", len(s.Log(0, 2)), 2)
}
