package stripesim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// walk pages through a list in one direction and returns all ids, newest first.
func walk(s *sim, path, cursor string, limit int, pairs ...string) []string {
	s.t.Helper()
	var out []string
	from := ""
	for {
		args := append([]string{fmt.Sprintf("limit=%d", limit)}, pairs...)
		if from != "" {
			args = append(args, cursor+"="+from)
		}
		r := s.get(path, args...)
		ids := r.ids()
		if cursor == "ending_before" {
			out = append(ids, out...)
		} else {
			out = append(out, ids...)
		}
		if r.at("has_more") != true {
			return out
		}
		if cursor == "ending_before" {
			from = ids[0]
		} else {
			from = ids[len(ids)-1]
		}
	}
}

func TestPagingBothWays(t *testing.T) {
	t.Parallel()
	for _, order := range []Order{OrderRandom, OrderAscending, OrderDescending} {
		s := start(t, Options{Switches: Switches{SameSecondOrder: order}, Seed: 3})
		cus := s.customer()
		var made []string
		for i := range 23 {
			made = append(made, s.adjust(cus, -1, "usd").str("id"))
			if i%6 == 5 {
				s.hand.forward(1)
			}
		}
		path := "/v1/customers/" + cus + "/balance_transactions"
		all := s.get(path, "limit=100").ids()
		equal(t, "rows", len(all), 23)
		for _, limit := range []int{1, 4, 10, 22, 23, 24} {
			if got := walk(s, path, "starting_after", limit); !slices.Equal(got, all) {
				t.Fatalf("forward by %d: %v", limit, got)
			}
			oldest := all[len(all)-1]
			got := append([]string{}, oldest)
			for cur := oldest; ; {
				r := s.get(path, "ending_before="+cur, fmt.Sprintf("limit=%d", limit))
				ids := r.ids()
				got = append(ids, got...)
				if r.at("has_more") != true {
					break
				}
				cur = ids[0]
			}
			if !slices.Equal(got, all) {
				t.Fatalf("backward by %d: %v", limit, got)
			}
		}
		slices.Reverse(made)
		switch order {
		case OrderDescending:
			if !slices.Equal(all, made) {
				t.Fatalf("descending: %v", all)
			}
		case OrderAscending: // within each second the first made comes first
			want := []string{}
			for _, second := range [][]string{made[0:5], made[5:11], made[11:17], made[17:23]} {
				second = slices.Clone(second)
				slices.Reverse(second)
				want = append(want, second...)
			}
			if !slices.Equal(all, want) {
				t.Fatalf("ascending: %v", all)
			}
		case OrderRandom:
			if slices.Equal(all, made) {
				t.Fatal("random order is descending")
			}
		}
		fresh := s.adjust(cus, -1, "usd").str("id") // the others keep their order around it
		got := slices.DeleteFunc(s.get(path, "limit=100").ids(), func(id string) bool { return id == fresh })
		if !slices.Equal(got, all) {
			t.Fatal("order changed")
		}
	}
}

func TestCreatedFilter(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	base := s.hand.seconds()
	for range 5 {
		s.hand.forward(10)
		s.adjust(cus, -1, "usd")
	}
	path := "/v1/customers/" + cus + "/balance_transactions"
	at := func(n int64) string { return fmt.Sprint(base + n) }
	for filter, want := range map[string]int{
		"created=" + at(30): 1, "created[gt]=" + at(30): 2, "created[gte]=" + at(30): 3, "created[lt]=" + at(30): 2,
		"created[lte]=" + at(30): 3, "created[gt]=" + at(50): 0, "created=" + at(31): 0,
	} {
		equal(t, filter, len(s.get(path, filter).data()), want)
	}
	equal(t, "both ends", len(s.get(path, "created[gte]="+at(20), "created[lt]="+at(40)).data()), 2)
	newest := s.get(path, "limit=1").ids()[0]
	equal(t, "cursor outside", len(s.get(path, "created[lt]="+at(30), "starting_after="+newest).data()), 2)
	got := walk(s, path, "starting_after", 1, "created[lte]="+at(30))
	equal(t, "walk", len(got), 3)
}

func TestCustomerListFilters(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	a := s.customer("email=a@x.example")
	s.hand.forward(1)
	b := s.customer("email=a@x.example")
	s.hand.forward(1)
	c := s.customer("email=A@x.example")
	if got := s.get("/v1/customers", "email=a@x.example").ids(); !slices.Equal(got, []string{b, a}) {
		t.Fatal(got)
	}
	if got := walk(s, "/v1/customers", "starting_after", 1, "email=a@x.example"); !slices.Equal(got, []string{b, a}) {
		t.Fatal(got)
	}
	wantError(t, s.do("GET", "/v1/customers", "email=a@x.example", "starting_after="+c), 400, "resource_missing", "starting_after")
	s.post("/v1/customers/"+a, "email=new@x.example")
	s.must("DELETE", "/v1/customers/"+b)
	equal(t, "old address", len(s.get("/v1/customers", "email=a@x.example").data()), 0)
	equal(t, "new address", len(s.get("/v1/customers", "email=new@x.example").data()), 1)
}

func TestGoneCursor(t *testing.T) {
	t.Parallel()
	for _, empty := range []bool{false, true} {
		s := start(t, Options{Switches: Switches{GoneCursorEmptyPage: empty}})
		s.customer()
		s.hand.forward(1)
		b := s.customer()
		s.must("DELETE", "/v1/customers/"+b)
		r := s.do("GET", "/v1/customers", "starting_after="+b)
		if empty {
			equal(t, "rows", len(r.data()), 0)
			equal(t, "status", r.status, 200)
		} else {
			wantError(t, r, 400, "resource_missing", "starting_after")
		}
	}
}

// A fault makes a cursor gone whose object is still there: of rows that cannot be
// deleted, too.
func TestCursorGoneFault(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus, other := s.customer(), s.customer()
	path := "/v1/customers/" + cus + "/balance_transactions"
	first := s.adjust(cus, -1, "usd").str("id")
	s.hand.forward(1)
	second := s.adjust(cus, -2, "usd").str("id")
	rule := Fault{Kind: FaultCursorGone, Count: 2, Skip: 1, Endpoint: "GET /v1/customers/{id}/balance_transactions", Customer: cus}
	if err := s.SetFaults(Faults{rule}); err != nil {
		t.Fatal(err)
	}
	s.get(path) // no cursor, nothing to strike
	s.get("/v1/customers", "starting_after="+other)
	equal(t, "skipped", s.get(path, "starting_after="+second).ids()[0], first)
	wantError(t, s.do("GET", path, "starting_after="+second), 400, "resource_missing", "starting_after")
	wantError(t, s.do("GET", path, "ending_before="+first), 400, "resource_missing", "ending_before")
	equal(t, "over", s.get(path, "starting_after="+second).ids()[0], first)
	equal(t, "logged", strings.Count(string(s.control("GET", "/_sim/log", "").raw), `"what":"fault.cursor_gone"`), 2)
}

func TestCreditListSwitch(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Switches: Switches{CreditListWithoutCustomer: true, MeteredCountsPriceScoped: true, NullMetadata: true}})
	a, b := s.customer(), s.customer()
	s.grant(a, 5)
	s.post("/v1/billing/credit_grants", "customer="+b, "amount[type]=monetary", "amount[monetary][currency]=usd", "amount[monetary][value]=7",
		"applicability_config[scope][prices][0][id]="+s.metered())
	equal(t, "all customers", len(s.get("/v1/billing/credit_balance_transactions").data()), 2)
	equal(t, "of one", len(s.get("/v1/billing/credit_balance_transactions", "customer="+a).data()), 1)
	wantBalances(t, s, b, 7, 7)
	equal(t, "null", s.adjust(a, 1, "usd").at("metadata"), nil)
	equal(t, "grants of one", len(s.get("/v1/billing/credit_grants", "customer="+b).data()), 1)
	equal(t, "grants of all", len(s.get("/v1/billing/credit_grants").data()), 2)
}

func TestEventsAreKeptThirtyDays(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	s.customer()
	old := s.get("/v1/events").ids()[0]
	s.hand.forward(29 * daySeconds)
	cus := s.customer()
	s.get("/v1/events/" + old)
	s.hand.forward(1*daySeconds + 1)
	equal(t, "gone", s.do("GET", "/v1/events/"+old).status, 404)
	equal(t, "left", len(s.get("/v1/events").data()), 1)
	wantError(t, s.do("GET", "/v1/events", "starting_after="+old), 400, "resource_missing", "starting_after")
	s.hand.forward(2 * daySeconds)
	s.post("/v1/customers/"+cus, "name=x") // prunes
	a := s.account("")
	a.mu.RLock()
	n := len(a.events)
	a.mu.RUnlock()
	equal(t, "held", n, 2)
	ids := s.get("/v1/events").ids()
	equal(t, "before", s.get("/v1/events", "ending_before="+ids[1]).ids()[0], ids[0])
}

func TestEventFilters(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	cus := s.customer()
	s.adjust(cus, 5, "usd")
	s.grant(cus, 5)
	equal(t, "wild", len(s.eventTypes("type=billing.*")), 2)
	equal(t, "exact", len(s.eventTypes("type=customer.updated")), 1)
	equal(t, "types", len(s.eventTypes("types[]=customer.created", "types[]=billing.credit_grant.created")), 2)
	equal(t, "delivered", len(s.eventTypes("delivery_success=true")), 4)
	equal(t, "undelivered", len(s.eventTypes("delivery_success=false")), 0)
	many := []string{}
	for range 21 {
		many = append(many, "types[]=customer.created")
	}
	wantError(t, s.do("GET", "/v1/events", many...), 400, "", "types")
	if got := walk(s, "/v1/events", "starting_after", 1, "type=billing.*"); len(got) != 2 {
		t.Fatal(got)
	}
}

func TestSameSeedSameIDs(t *testing.T) {
	t.Parallel()
	run := func(seed int64) []string {
		s := start(t, Options{Seed: seed})
		cus := s.customer("balance=-5")
		s.adjust(cus, -5, "usd")
		s.grant(cus, 5)
		out := []string{cus, s.PlatformAccount()}
		out = append(out, s.get("/v1/events").ids()...)
		out = append(out, s.get("/v1/customers/"+cus+"/balance_transactions").ids()...)
		return append(out, s.get("/v1/billing/credit_grants").ids()...)
	}
	a, b, c := run(1), run(1), run(2)
	if !slices.Equal(a, b) {
		t.Fatalf("differ: %v %v", a, b)
	}
	if slices.Equal(a, c) {
		t.Fatal("seeds make no difference")
	}
}

func TestDeepPagesCostNoMore(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("times pages of a long list")
	}
	s, err := New(Options{Now: newHand().now})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a := s.account("")
	a.mu.Lock()
	c := a.createCustomer(cause{now: 1, silent: true}, customerChange{}, nil)
	var ids []string
	for i := range 20_000 {
		ids = append(ids, a.addBalance(cause{now: int64(i)}, c, BalanceChange{Amount: -1, Currency: "usd"}).id)
	}
	page := func(id string) time.Duration {
		best := time.Hour
		for range 20 {
			begin := time.Now()
			c.txns.page(query[*balanceTxn]{limit: 10, startingAfter: id, created: always, now: begin}, a.txns[id])
			best = min(best, time.Since(begin))
		}
		return best
	}
	head, deep := page(ids[len(ids)-1]), page(ids[100])
	a.mu.Unlock()
	if deep > 50*head+time.Millisecond {
		t.Fatalf("a deep page takes %v, the first %v", deep, head)
	}
}
