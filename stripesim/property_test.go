package stripesim

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// shownGrant is a grant as the API shows it, with what is left of it by its rows.
type shownGrant struct {
	ID       string `json:"id"`
	Category string `json:"category"`
	Created  int64  `json:"created"`
	From     int64  `json:"effective_at"`
	Until    *int64 `json:"expires_at"`
	Voided   *int64 `json:"voided_at"`
	Priority int64  `json:"priority"`
	Amount   struct {
		Monetary struct{ Value int64 } `json:"monetary"`
	} `json:"amount"`
	Config struct {
		Scope struct {
			PriceType string                `json:"price_type"`
			Prices    []struct{ ID string } `json:"prices"`
		} `json:"scope"`
	} `json:"applicability_config"`
	left    int64
	applied bool
	ended   bool // voided or expired, by its rows
}

// before reports whether g is used before h, written down from Stripe's guide and
// not from the simulator.
func (g *shownGrant) before(h *shownGrant) int {
	never := int64(1) << 60
	until := func(g *shownGrant) int64 {
		if g.Until == nil {
			return never
		}
		return *g.Until
	}
	category := map[string]int{"promotional": 0, "paid": 1}
	return cmp.Or(cmp.Compare(g.Priority, h.Priority), cmp.Compare(until(g), until(h)), cmp.Compare(category[g.Category], category[h.Category]),
		cmp.Compare(g.From, h.From), cmp.Compare(g.Created, h.Created))
}

func (g *shownGrant) covers(price string) bool {
	return g.Config.Scope.PriceType == "metered" || slices.ContainsFunc(g.Config.Scope.Prices, func(p struct{ ID string }) bool { return p.ID == price })
}

// inMemory calls a simulator without a network.
type inMemory struct {
	rt *rapid.T
	h  http.Handler
}

func (m inMemory) do(method, path string, pairs ...string) answer {
	q, _ := http.NewRequest(method, "http://x"+path, strings.NewReader(encodeForm(pairs...)))
	if method == http.MethodGet {
		q, _ = http.NewRequest(method, "http://x"+path+"?"+encodeForm(pairs...), nil)
	}
	q.Header.Set("Authorization", "Bearer "+testKey)
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r := &recorder{header: http.Header{}}
	m.h.ServeHTTP(r, q)
	a := answer{status: r.status, raw: r.body}
	if err := json.Unmarshal(r.body, &a.obj); err != nil || r.status >= 500 {
		m.rt.Fatalf("%s %s: %d %v", method, path, r.status, err)
	}
	if bad := loadSchemas().reply(a.obj); len(bad) > 0 {
		m.rt.Fatalf("%s %s: %v", method, path, bad)
	}
	return a
}

// ledger reads all grants of a customer, with what their rows say.
func (m inMemory) ledger(cus string) map[string]*shownGrant {
	grants := map[string]*shownGrant{}
	for _, raw := range m.all("/v1/billing/credit_grants", "customer="+cus) {
		g := decode[shownGrant](raw)
		grants[g.ID] = &g
	}
	for _, raw := range m.all("/v1/billing/credit_balance_transactions", "customer="+cus) {
		r := decode[struct {
			Grant  string `json:"credit_grant"`
			Credit *struct {
				Type string
				part
			}
			Debit *struct {
				Type string
				part
			}
		}](raw)
		g := grants[r.Grant]
		switch {
		case r.Credit != nil:
			g.left += r.Credit.Amount.Monetary.Value
		default:
			g.left -= r.Debit.Amount.Monetary.Value
			g.applied = g.applied || r.Debit.Type == "credits_applied"
			g.ended = g.ended || r.Debit.Type == "credits_expired" || r.Debit.Type == "credits_voided"
		}
	}
	return grants
}

func (m inMemory) all(path string, pairs ...string) []json.RawMessage {
	var out []json.RawMessage
	cursor := ""
	for {
		p := append([]string{"limit=100"}, pairs...)
		if cursor != "" {
			p = append(p, "starting_after="+cursor)
		}
		a := m.do("GET", path, p...)
		for _, row := range a.data() {
			cursor = row["id"].(string)
			out = append(out, mustMarshal(row))
		}
		if a.at("has_more") != true {
			return out
		}
	}
}

// TestInvoicesFollowTheRules drives grants and invoices in any order, and holds
// every finalization, void and expiry against the rules of Stripe's guide.
func TestInvoicesFollowTheRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		clock := newHand()
		s, err := New(Options{Now: clock.now, Seed: rapid.Int64().Draw(rt, "seed"), LogSize: -1})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		m := inMemory{rt, s.Handler()}
		cus := m.do("POST", "/v1/customers").str("id")
		var prices []string
		for range 2 {
			prices = append(prices, m.do("POST", "/v1/prices", "currency=usd", "unit_amount=1", "product=p", "recurring[interval]=month",
				"recurring[usage_type]=metered", "recurring[meter]=m").str("id"))
		}
		var open []string // invoices that can be voided
		num := func(lo, hi int64, label string) int64 { return rapid.Int64Range(lo, hi).Draw(rt, label) }
		pick := func(list []string, label string) string { return rapid.SampledFrom(list).Draw(rt, label) }
		balance := func() int64 { return m.do("GET", "/v1/customers/"+cus).num("balance") }
		grantIDs := func() []string {
			ids := []string{"credgr_none"}
			for _, raw := range m.all("/v1/billing/credit_grants", "customer="+cus) {
				ids = append(ids, decode[shownGrant](raw).ID)
			}
			return ids
		}

		finalize := func(*rapid.T) {
			inv := m.do("POST", "/v1/invoices", "customer="+cus, "currency=usd").str("id")
			type ln struct {
				price  string
				amount int64
			}
			var lines []ln
			for range num(1, 3, "lines") {
				l := ln{amount: num(0, 400, "quantity")}
				if rapid.Bool().Draw(rt, "metered") {
					l.price = pick(prices, "price")
					m.do("POST", "/v1/invoices/"+inv+"/add_lines", "lines[0][pricing][price]="+l.price, fmt.Sprintf("lines[0][quantity]=%d", l.amount))
				} else {
					m.do("POST", "/v1/invoices/"+inv+"/add_lines", fmt.Sprintf("lines[0][amount]=%d", l.amount))
				}
				lines = append(lines, l)
			}
			before, had := m.ledger(cus), balance()
			end := m.do("GET", "/v1/invoices/"+inv).num("period_end")
			r := m.do("POST", "/v1/invoices/"+inv+"/finalize")
			after := m.ledger(cus)

			// Replay: line by line, take from what is eligible in order.
			var subtotal, credits int64
			for i, l := range lines {
				subtotal += l.amount
				var eligible []*shownGrant
				for _, g := range before {
					if l.price != "" && g.left > 0 && g.Voided == nil && !g.ended && g.covers(l.price) && g.From <= end && (g.Until == nil || end < *g.Until) {
						eligible = append(eligible, g)
					}
				}
				slices.SortFunc(eligible, func(x, y *shownGrant) int { return x.before(y) })
				var sum int64
				for _, g := range eligible {
					sum += g.left
				}
				take := min(l.amount, sum)
				credits += take
				var shown int64
				for _, c := range r.at("lines.data").([]any)[i].(obj)["pretax_credit_amounts"].([]any) {
					shown += int64(c.(obj)["amount"].(float64))
				}
				if shown != take {
					rt.Fatalf("line %d of %d took %d of credits, want %d", i, l.amount, shown, take)
				}
				for len(eligible) > 0 && take > 0 { // whole groups of equal rank: among equals the order is not defined
					n := 1
					rank := eligible[0].left
					for n < len(eligible) && eligible[0].before(eligible[n]) == 0 {
						rank += eligible[n].left
						n++
					}
					switch {
					case take >= rank:
						take -= rank
						for _, g := range eligible[:n] {
							g.left = 0
						}
					case n == 1:
						eligible[0].left -= take
						take = 0
					default: // equals: the simulator may take from any of them; what remains is the sum
						for _, g := range eligible[:n] {
							if g.left < after[g.ID].left {
								rt.Fatalf("grant %s grew", g.ID)
							}
							take -= g.left - after[g.ID].left
							g.left = after[g.ID].left
						}
						if take < 0 { // a later line took from them as well
							take = 0
						}
					}
					eligible = eligible[n:]
				}
			}
			for id, g := range before {
				if g.left != after[id].left {
					rt.Fatalf("grant %s is left with %d, want %d", id, after[id].left, g.left)
				}
			}
			total := subtotal - credits
			applied := min(-had, total)
			due := total - applied
			carried := int64(0)
			if due > 0 && due < 50 {
				carried = due
			}
			if r.num("subtotal") != subtotal || r.num("total") != total || r.num("amount_due") != due-carried || r.num("ending_balance") != had+applied+carried ||
				r.num("starting_balance") != had || balance() != had+applied+carried {
				rt.Fatalf("had %d, subtotal %d, credits %d: %s", had, subtotal, credits, r.raw)
			}
			want := "open"
			if due-carried == 0 {
				want = "paid"
			}
			if r.str("status") != want {
				rt.Fatalf("status %s, want %s", r.str("status"), want)
			}
			if want == "open" {
				open = append(open, inv)
			}
		}
		void := func(*rapid.T) {
			if len(open) == 0 {
				return
			}
			i := int(num(0, int64(len(open)-1), "invoice"))
			inv := open[i]
			open = slices.Delete(open, i, i+1)
			shown := m.do("GET", "/v1/invoices/"+inv)
			before, had := m.ledger(cus), balance()
			back := map[string]int64{}
			for _, raw := range m.all("/v1/billing/credit_balance_transactions", "customer="+cus) {
				r := decode[struct {
					Grant string `json:"credit_grant"`
					Debit *struct {
						part
						Applied *struct{ Invoice string } `json:"credits_applied"`
					} `json:"debit"`
				}](raw)
				if r.Debit != nil && r.Debit.Applied != nil && r.Debit.Applied.Invoice == inv {
					back[r.Grant] += r.Debit.Amount.Monetary.Value
				}
			}
			if r := m.do("POST", "/v1/invoices/"+inv+"/void"); r.status != 200 {
				rt.Fatalf("void: %s", r.raw)
			}
			used := shown.num("ending_balance") - shown.num("starting_balance")
			if balance() != had-used {
				rt.Fatalf("balance %d after the void, had %d of which %d were used", balance(), had, used)
			}
			for id, g := range m.ledger(cus) {
				want := before[id].left + back[id]
				if b := before[id]; b.Voided == nil && (b.ended || b.Until != nil && *b.Until <= clock.seconds()) {
					want = 0 // its time has passed: back and gone at once
				}
				if g.left != want {
					rt.Fatalf("grant %s is left with %d, want %d", id, g.left, want)
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"finalize": finalize,
			"void":     void,
			"grant": func(*rapid.T) {
				p := []string{
					"customer=" + cus, "amount[type]=monetary", "amount[monetary][currency]=usd", fmt.Sprintf("amount[monetary][value]=%d", num(1, 300, "value")),
					fmt.Sprintf("priority=%d", num(0, 2, "priority")), "category=" + pick([]string{"paid", "promotional"}, "category"),
					fmt.Sprintf("effective_at=%d", clock.seconds()+num(-20, 20, "effective")),
				}
				if rapid.Bool().Draw(rt, "ends") {
					p = append(p, fmt.Sprintf("expires_at=%d", clock.seconds()+num(21, 80, "expires")))
				}
				if rapid.Bool().Draw(rt, "scoped") {
					p = append(p, "applicability_config[scope][prices][0][id]="+pick(prices, "price"))
				} else {
					p = append(p, "applicability_config[scope][price_type]=metered")
				}
				m.do("POST", "/v1/billing/credit_grants", p...)
			},
			"void grant": func(*rapid.T) {
				id := pick(grantIDs(), "grant")
				g := m.ledger(cus)[id]
				ended := g != nil && (g.Voided != nil || g.ended || g.Until != nil && *g.Until <= clock.seconds())
				r := m.do("POST", "/v1/billing/credit_grants/"+id+"/void")
				want := g != nil && !g.applied && !ended
				if (r.status == 200) != want {
					rt.Fatalf("void: %d for %+v", r.status, g)
				}
				if want {
					if now := m.ledger(cus)[id]; now.left != 0 || now.Voided == nil || fmt.Sprint(now.Until) == "" {
						rt.Fatalf("after a void: %+v", now)
					}
				}
			},
			"expire grant": func(*rapid.T) {
				id := pick(grantIDs(), "grant")
				g := m.ledger(cus)[id]
				ended := g != nil && (g.Voided != nil || g.ended || g.Until != nil && *g.Until <= clock.seconds())
				r := m.do("POST", "/v1/billing/credit_grants/"+id+"/expire")
				if (r.status == 200) != (g != nil && !ended) {
					rt.Fatalf("expire: %d for %+v", r.status, g)
				}
				if r.status == 200 {
					if now := m.ledger(cus)[id]; now.left != 0 || now.Voided != nil || *now.Until != clock.seconds() {
						rt.Fatalf("after expiring: %+v", now)
					}
				}
			},
			"adjust": func(*rapid.T) {
				m.do("POST", "/v1/customers/"+cus+"/balance_transactions", fmt.Sprintf("amount=%d", num(-300, 300, "amount")), "currency=usd")
			},
			"time": func(*rapid.T) {
				clock.forward(num(1, 30, "seconds"))
				now := clock.seconds()
				for id, g := range m.ledger(cus) {
					if g.Until != nil && *g.Until <= now && g.left != 0 {
						rt.Fatalf("grant %s still has %d after its expiry", id, g.left)
					}
				}
			},
			"": func(*rapid.T) {},
		})
		for _, tr := range s.Truth() {
			if bad := broken(tr); bad != "" {
				rt.Fatalf("%s: %s", tr.ID, bad)
			}
		}
	})
}
