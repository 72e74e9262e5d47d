package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/creditmirror/creditmirror/mirror"
)

func bothLedgers(string) mirror.Ledgers { return mirror.Ledgers{} }

// tables are the ledgers of one range, in memory.
type tables struct {
	placed, unplaced []mirror.AuditTransaction
	customers        []mirror.AuditCustomer
	balances         []mirror.AuditBalance
	grants           []mirror.AuditGrant
	credits          []mirror.AuditCredit
	summaries        []mirror.AuditBalance
	states           []mirror.AuditState
}

func rowsOf[Row any](rows []Row) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for _, r := range rows {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// ledgers streams the tables. A row that has no JSON here is one that the database
// has compared.
func (t *tables) ledgers() mirror.AuditLedgers {
	for _, rows := range [][]mirror.AuditTransaction{t.placed, t.unplaced} {
		for i := range rows {
			rows[i].Same = rows[i].Raw == ""
		}
	}
	for i := range t.customers {
		t.customers[i].Same = t.customers[i].Raw == ""
	}
	for i := range t.grants {
		t.grants[i].Same = t.grants[i].Raw == ""
	}
	for i := range t.credits {
		t.credits[i].Same = t.credits[i].Raw == ""
	}
	return mirror.AuditLedgers{
		Placed: rowsOf(t.placed), Unplaced: rowsOf(t.unplaced), Customers: rowsOf(t.customers), Balances: rowsOf(t.balances),
		Grants: rowsOf(t.grants), Credits: rowsOf(t.credits), Summaries: rowsOf(t.summaries), States: rowsOf(t.states),
		Grant: func(account, id string) (mirror.AuditGrant, error) {
			for _, g := range t.grants {
				if g.Account == account && g.ID == id {
					return g, nil
				}
			}
			return mirror.AuditGrant{}, mirror.ErrNotFound
		},
	}
}

// found judges the tables.
func (t *tables) found(tb interface{ Fatal(...any) }) []string {
	var list []string
	_, err := judge(t.ledgers(), bothLedgers, func(f mirror.Finding) error {
		list = append(list, fmt.Sprintf("%s %s %s %s: %s, %s", f.Kind, f.Customer, f.Currency, f.Object, f.Expected, f.Actual))
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return list
}

var start = time.Unix(1_700_000_000, 0).UTC()

func key(customer string) mirror.AuditKey { return mirror.AuditKey{Customer: customer} }

// stripeJSON is an object as Stripe sends it, with other members over its own.
func stripeJSON(kind, id string, members ...map[string]any) string {
	object := map[string]any{"object": kind, "id": id, "created": start.Unix(), "livemode": false, "metadata": map[string]any{}}
	for _, m := range members {
		maps.Copy(object, m)
	}
	text, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func stripeMoney(value int64, currency string) map[string]any {
	return map[string]any{"type": "monetary", "monetary": map[string]any{"value": value, "currency": currency}}
}

var startText = start.Format(time.RFC3339)

// withTransaction gives a row the JSON that its columns come from, but for what
// other says.
func withTransaction(r mirror.AuditTransaction, other map[string]any) mirror.AuditTransaction {
	r.Type, r.Metadata, r.Livemode = "adjustment", "{}", "false"
	r.Raw = stripeJSON("customer_balance_transaction", r.ID, map[string]any{
		"customer": r.Customer, "currency": r.Currency, "amount": r.Amount, "ending_balance": r.EndingBalance, "type": r.Type,
		"created": r.Created.Unix(),
	}, other)
	return r
}

func withCredit(r mirror.AuditCredit, other map[string]any) mirror.AuditCredit {
	r.EffectiveAt, r.Created, r.Livemode = startText, startText, "false"
	r.Type, r.CreditType = "credit", "credits_granted"
	side := map[string]any{"type": r.CreditType, "amount": stripeMoney(r.Amount, r.Currency)}
	if r.Amount < 0 {
		r.Type, r.CreditType, r.DebitType = "debit", "", "credits_applied"
		side = map[string]any{"type": r.DebitType, "amount": stripeMoney(-r.Amount, r.Currency)}
	}
	r.Raw = stripeJSON("billing.credit_balance_transaction", r.ID, map[string]any{
		"credit_grant": r.Grant, "type": r.Type, "effective_at": start.Unix(), r.Type: side,
	}, other)
	return r
}

func withGrant(g mirror.AuditGrant, other map[string]any) mirror.AuditGrant {
	g.Category, g.AmountType, g.ApplicabilityConfig, g.Metadata = "paid", "monetary", "{}", "{}"
	g.Created, g.Updated, g.Livemode = startText, startText, "false"
	g.Raw = stripeJSON("billing.credit_grant", g.ID, map[string]any{
		"customer": g.Customer, "category": g.Category, "amount": stripeMoney(g.Amount, g.Currency), "applicability_config": map[string]any{},
		"updated": start.Unix(),
	}, other)
	return g
}

func withCustomer(c mirror.AuditCustomer, other map[string]any) mirror.AuditCustomer {
	c.Created, c.Livemode = startText, "false"
	if c.Deleted {
		c.DeletedAt = startText
	}
	c.Raw = stripeJSON("customer", c.Customer, map[string]any{"balance": c.Balance, "currency": c.Currency}, other)
	return c
}

// history appends a chain to the tables.
func (t *tables) history(customer, currency string, amounts ...int64) {
	var end int64
	for i, amount := range amounts {
		end += amount
		t.placed = append(t.placed, mirror.AuditTransaction{
			AuditKey: key(customer), ID: fmt.Sprintf("%s_%d", currency, i+1), Currency: currency, Amount: amount,
			EndingBalance: end, Created: start.Add(time.Duration(i) * time.Second), Position: int64(i) + 1,
		})
	}
	t.balances = append(t.balances, mirror.AuditBalance{AuditKey: key(customer), Currency: currency, Balance: end})
}

func TestJudge(t *testing.T) {
	t.Parallel()
	state := func(scope mirror.Scope, change func(*mirror.AuditState)) mirror.AuditState {
		s := mirror.AuditState{AuditKey: key("cus_1"), Scope: scope, Epoch: 3, AppliedEpoch: 3, HistoryComplete: true}
		change(&s)
		return s
	}
	credit := func(grant, id, currency string, amount int64) mirror.AuditCredit {
		return mirror.AuditCredit{AuditKey: key("cus_1"), ID: id, Grant: grant, Currency: currency, Amount: amount}
	}
	grant := func(id, currency string, amount int64) mirror.AuditGrant {
		return mirror.AuditGrant{AuditKey: key("cus_1"), ID: id, Currency: currency, Amount: amount}
	}
	eur := func(balance int64) []mirror.AuditCustomer {
		return []mirror.AuditCustomer{{AuditKey: key("cus_1"), Currency: "eur", Balance: balance}}
	}
	summary := func(currency string, ledger int64) []mirror.AuditBalance {
		return []mirror.AuditBalance{{AuditKey: key("cus_1"), Currency: currency, Balance: ledger}}
	}
	tests := []struct {
		name  string
		build func(t *tables)
		want  []string
	}{
		{"nothing", func(*tables) {}, nil},
		{"a customer without a currency", func(t *tables) { t.customers = []mirror.AuditCustomer{{AuditKey: key("cus_1")}} }, nil},
		{
			"a balance without a currency", func(t *tables) { t.customers = []mirror.AuditCustomer{{AuditKey: key("cus_1"), Balance: 1}} },
			[]string{"balance_mismatch cus_1  : 0, 1"},
		},
		{"two currencies", func(t *tables) {
			t.history("cus_1", "eur", -1, -2)
			t.history("cus_1", "usd", 5)
			t.customers = eur(-3)
			t.customers[0].InvoiceCreditBalance = `{"eur":3,"usd":-5}`
		}, nil},
		{"the extremes of 64 bits", func(t *tables) {
			t.history("cus_1", "eur", 1<<63-1, -(1<<63 - 1), -1<<63)
			t.customers = eur(-1 << 63)
		}, nil},
		{"a balance that no two numbers add up to", func(t *tables) {
			t.history("cus_1", "eur", 1<<63-1, 1)
			t.customers = eur(-1 << 63)
		}, []string{"chain_gap cus_1 eur eur_2: 9223372036854775807, -9223372036854775809"}},
		{"a credit whose opposite is beyond 64 bits", func(t *tables) {
			t.history("cus_1", "usd", -1<<63)
			t.customers = eur(0)
			t.customers[0].InvoiceCreditBalance = `{"usd":-9223372036854775808}`
		}, []string{`field_mismatch cus_1  : one integer per currency, {"usd":-9223372036854775808}`}},
		{"an unreadable invoice_credit_balance", func(t *tables) {
			t.customers = eur(0)
			t.customers[0].InvoiceCreditBalance = `[]`
		}, []string{"field_mismatch cus_1  : one integer per currency, []"}},
		{"all three disagree", func(t *tables) {
			t.history("cus_1", "eur", -1)
			t.balances[0].Balance = -2
			t.customers = eur(-3)
		}, []string{"balance_mismatch cus_1 eur : -3, -1", "balance_mismatch cus_1 eur : -3, -2"}},
		{"two breaks in one chain", func(t *tables) {
			t.history("cus_1", "eur", 1, 1, 1, 1, 1, 1)
			t.placed[1].Amount, t.placed[4].Amount = 9, 9
			t.customers = eur(6)
		}, []string{"chain_gap cus_1 eur eur_2: 1, -7", "chain_gap cus_1 eur eur_5: 4, -4"}},
		{"every place is 1", func(t *tables) {
			t.history("cus_1", "eur", 1, 1, 1)
			t.placed[1].Position, t.placed[2].Position = 1, 1
			t.customers = eur(3)
		}, []string{
			"unexpected_transaction cus_1 eur eur_2: one row, another row", "unexpected_transaction cus_1 eur eur_3: one row, another row",
		}},
		{"unplaced rows of a history that is not complete", func(t *tables) {
			t.history("cus_1", "eur", 1)
			t.customers = eur(1)
			t.unplaced = []mirror.AuditTransaction{{AuditKey: key("cus_1"), Currency: "eur", ID: "eur_9"}}
			t.states = []mirror.AuditState{state(mirror.ScopeBalance, func(s *mirror.AuditState) { s.HistoryComplete = false })}
		}, nil},
		{"a deleted customer holds nothing, and its history is not compared", func(t *tables) {
			t.history("cus_1", "eur", 1)
			t.customers = eur(99)
			t.customers[0].Deleted = true
			t.unplaced = []mirror.AuditTransaction{{AuditKey: key("cus_1"), Currency: "eur", ID: "eur_9"}}
			t.credits = []mirror.AuditCredit{credit("credgr_1", "c1", "eur", 5)}
		}, []string{"balance_mismatch cus_1 eur : 0, 1"}},
		{"a grant to its bounds", func(t *tables) {
			t.customers = eur(0)
			t.grants = []mirror.AuditGrant{grant("credgr_1", "eur", 10), grant("credgr_2", "eur", 10), grant("credgr_3", "eur", 0)}
			t.credits = []mirror.AuditCredit{
				credit("credgr_1", "c1", "eur", 10),
				credit("credgr_2", "c2", "eur", 10), credit("credgr_2", "c3", "eur", -10),
			}
			t.summaries = summary("eur", 10)
		}, nil},
		{"below and above", func(t *tables) {
			t.customers = eur(0)
			t.grants = []mirror.AuditGrant{grant("credgr_1", "eur", 10), grant("credgr_2", "eur", 10)}
			t.credits = []mirror.AuditCredit{credit("credgr_1", "c1", "eur", 11), credit("credgr_2", "c2", "eur", -1)}
			t.summaries = summary("eur", 10)
		}, []string{
			"grant_out_of_bounds cus_1 eur credgr_1: 0..10, 11", "grant_out_of_bounds cus_1 eur credgr_2: 0..10, -1",
		}},
		{"sums beyond 64 bits", func(t *tables) {
			t.customers = eur(0)
			t.grants = []mirror.AuditGrant{grant("credgr_1", "eur", 10)}
			t.credits = []mirror.AuditCredit{credit("credgr_1", "c1", "eur", 1<<63-1), credit("credgr_1", "c2", "eur", 1<<63-1)}
			t.summaries = summary("eur", -2)
		}, []string{
			"grant_out_of_bounds cus_1 eur credgr_1: 0..10, 18446744073709551614",
			"summary_mismatch cus_1 eur : -2, 18446744073709551614",
		}},
		{"a grant that is not monetary", func(t *tables) {
			t.customers = eur(0)
			t.grants = []mirror.AuditGrant{grant("credgr_1", "", 0)}
			t.credits = []mirror.AuditCredit{credit("credgr_1", "c1", "eur", 11)}
			t.summaries = summary("eur", 11)
		}, nil},
		{"rows in two currencies", func(t *tables) {
			t.customers = eur(0)
			t.grants = []mirror.AuditGrant{grant("credgr_1", "eur", 10)}
			t.credits = []mirror.AuditCredit{credit("credgr_1", "c1", "eur", 1), credit("credgr_1", "c2", "usd", 1)}
			t.summaries = append(summary("eur", 1), summary("usd", 1)...)
		}, []string{"grant_out_of_bounds cus_1 eur credgr_1: eur, usd"}},
		{"rows of another customer's grant", func(t *tables) {
			t.customers = append(eur(0), mirror.AuditCustomer{AuditKey: key("cus_2")})
			t.grants = []mirror.AuditGrant{{AuditKey: key("cus_2"), ID: "credgr_1", Currency: "eur", Amount: 10}}
			t.credits = []mirror.AuditCredit{credit("credgr_1", "c1", "eur", 1)}
			t.summaries = summary("eur", 1)
		}, []string{"field_mismatch cus_1 eur credgr_1: cus_2, cus_1"}},
		{"credits of a customer that is to come", func(t *tables) {
			t.grants = []mirror.AuditGrant{grant("credgr_1", "eur", 10)}
			t.credits = []mirror.AuditCredit{credit("credgr_1", "c1", "eur", 10)}
			t.summaries = summary("eur", 10)
			t.states = []mirror.AuditState{state(mirror.ScopeCredits, func(*mirror.AuditState) {})}
		}, nil},
		{"credits that no sync brought", func(t *tables) {
			t.grants = []mirror.AuditGrant{grant("credgr_1", "eur", 10)}
			t.credits = []mirror.AuditCredit{credit("credgr_9", "c1", "usd", 10)}
		}, []string{"orphan cus_1 eur : a customer, none", "orphan cus_1 usd : a customer, none"}},
		{"a credit row whose JSON explains the grant and the summary", func(t *tables) {
			t.customers = eur(0)
			t.grants = []mirror.AuditGrant{grant("credgr_1", "eur", 10)}
			t.credits = []mirror.AuditCredit{withCredit(credit("credgr_1", "c1", "eur", 100), map[string]any{
				"credit": map[string]any{"type": "credits_granted", "amount": stripeMoney(10, "eur")},
			})}
			t.summaries = summary("eur", 10)
		}, []string{"grant_out_of_bounds cus_1 eur credgr_1: 0..10, 100"}},
		{"a debit's JSON", func(t *tables) {
			t.customers = eur(0)
			t.grants = []mirror.AuditGrant{grant("credgr_1", "eur", 10)}
			t.credits = []mirror.AuditCredit{credit("credgr_1", "c1", "eur", 10), withCredit(credit("credgr_1", "c2", "eur", -3), nil)}
			t.summaries = summary("eur", 7)
		}, nil},
		{"a credit row's currency", func(t *tables) {
			t.customers = eur(0)
			t.grants = []mirror.AuditGrant{grant("credgr_1", "eur", 10)}
			t.credits = []mirror.AuditCredit{withCredit(credit("credgr_1", "c1", "usd", 10), map[string]any{
				"credit": map[string]any{"type": "credits_granted", "amount": stripeMoney(10, "eur")},
			})}
			t.summaries = summary("eur", 10)
		}, []string{"grant_out_of_bounds cus_1 eur credgr_1: eur, usd"}},
		{"a disproof that the rows explain is told once", func(t *tables) {
			t.history("cus_1", "eur", 1)
			t.customers = eur(2)
			t.states = []mirror.AuditState{state(mirror.ScopeBalance, func(s *mirror.AuditState) { s.Disproved = true })}
		}, []string{"balance_mismatch cus_1 eur : 1, 2"}},
		{"columns of the customer", func(t *tables) {
			t.customers = eur(5)
			t.customers[0].InvoiceCreditBalance = `{"usd":0}`
			t.customers[0].Deleted = true
			t.customers[0] = withCustomer(t.customers[0], map[string]any{
				"balance": 5, "currency": "usd", "invoice_credit_balance": map[string]any{"usd": 0},
			})
		}, []string{
			"field_mismatch cus_1 eur cus_1: 0, 5", "field_mismatch cus_1 eur cus_1: usd, eur",
			`field_mismatch cus_1  cus_1: none, {"usd":0}`,
		}},
		{"a customer's balance and its JSON are one finding", func(t *tables) {
			t.customers = eur(5)
			t.customers[0] = withCustomer(t.customers[0], map[string]any{"balance": 0, "invoice_credit_balance": map[string]any{}})
		}, []string{"balance_mismatch cus_1 eur : 0, 5"}},
		{"the JSON of an unplaced row", func(t *tables) {
			t.customers = eur(0)
			t.customers[0].Deleted = true
			row := mirror.AuditTransaction{AuditKey: key("cus_1"), Currency: "eur", ID: "eur_9", Amount: 1, Created: start}
			t.unplaced = []mirror.AuditTransaction{withTransaction(row, map[string]any{"amount": 2})}
		}, []string{"field_mismatch cus_1 eur eur_9: 2, 1"}},
		{"columns of a credit row that move no sum", func(t *tables) {
			t.customers = eur(0)
			t.grants = []mirror.AuditGrant{grant("credgr_1", "eur", 10)}
			t.credits = []mirror.AuditCredit{withCredit(credit("credgr_1", "c1", "eur", 10), map[string]any{"id": "c2", "credit_grant": "credgr_2"})}
			t.summaries = summary("eur", 10)
		}, []string{"field_mismatch cus_1 eur c1: credgr_2, credgr_1", "field_mismatch cus_1 eur c1: c2, c1"}},
		{"a grant that is another's by mistake", func(t *tables) {
			t.customers = append(eur(0), mirror.AuditCustomer{AuditKey: key("cus_2")})
			row := mirror.AuditGrant{AuditKey: key("cus_2"), ID: "credgr_1", Currency: "eur", Amount: 10}
			t.grants = []mirror.AuditGrant{withGrant(row, map[string]any{"customer": "cus_1"})}
			t.credits = []mirror.AuditCredit{credit("credgr_1", "c1", "eur", 1)}
			t.summaries = summary("eur", 1)
		}, []string{"field_mismatch cus_2 eur credgr_1: cus_1, cus_2"}},
		{"grants that are still to come", func(t *tables) {
			t.customers = eur(0)
			t.credits = []mirror.AuditCredit{credit("credgr_1", "c1", "eur", 1)}
			t.states = []mirror.AuditState{state(mirror.ScopeCredits, func(s *mirror.AuditState) { s.WalkCursor, s.HistoryComplete = "c1", false })}
		}, nil},
		{"I2_a walk that is open over a history that was complete", func(t *tables) {
			t.customers = eur(0)
			open := func(s *mirror.AuditState) { s.WalkCursor = "c1" }
			t.states = []mirror.AuditState{state(mirror.ScopeBalance, open), state(mirror.ScopeCredits, open)}
		}, []string{
			"missing_transaction cus_1  sync_state: a walk read to its end, an open walk",
			"missing_transaction cus_1  sync_state: a walk read to its end, an open walk",
		}},
		{"a walk that is open over a history that was never complete", func(t *tables) {
			t.customers = eur(0)
			t.states = []mirror.AuditState{state(mirror.ScopeBalance, func(s *mirror.AuditState) { s.WalkCursor, s.HistoryComplete = "c1", false })}
		}, nil},
		{"an epoch ahead", func(t *tables) {
			t.customers = eur(0)
			t.states = []mirror.AuditState{state(mirror.ScopeCredits, func(s *mirror.AuditState) { s.AppliedEpoch = 4 })}
		}, []string{"field_mismatch cus_1  sync_state: 0..3, 4"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var l tables
			tt.build(&l)
			if got := l.found(t); !slices.Equal(got, tt.want) {
				t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// What Stripe always sends is missed, each member by its name and nothing else; what
// it may leave out is not.
func TestI1_MissingMembers(t *testing.T) {
	t.Parallel()
	transaction := withTransaction(mirror.AuditTransaction{AuditKey: key("cus_1"), ID: "c1", Currency: "eur", Amount: -5, EndingBalance: -5, Created: start}, nil)
	credit := withCredit(mirror.AuditCredit{AuditKey: key("cus_1"), ID: "c1", Grant: "credgr_1", Currency: "eur", Amount: 5}, nil)
	debit := withCredit(mirror.AuditCredit{AuditKey: key("cus_1"), ID: "c2", Grant: "credgr_1", Currency: "eur", Amount: -5}, nil)
	grant := withGrant(mirror.AuditGrant{AuditKey: key("cus_1"), ID: "credgr_1", Currency: "eur", Amount: 5}, nil)
	customer := withCustomer(mirror.AuditCustomer{AuditKey: key("cus_1"), Currency: "eur", Balance: 5}, nil)
	for _, tt := range []struct {
		name    string
		raw     *string
		compare func() comparison
		missing map[string]string // path in the JSON → names
	}{
		{"transaction", &transaction.Raw, func() comparison { return transactionJSON(&transaction) }, map[string]string{
			"object": "object", "id": "id", "customer": "customer", "currency": "currency", "amount": "amount",
			"ending_balance": "ending_balance", "type": "type", "created": "created", "livemode": "livemode", "metadata": "",
		}},
		{"credit", &credit.Raw, func() comparison { return creditJSON(&credit) }, map[string]string{
			"object": "object", "id": "id", "credit_grant": "grant", "type": "type", "credit": "credit_type, type of amount, amount, currency",
			"credit.type": "credit_type", "credit.amount": "type of amount, amount, currency", "credit.amount.type": "type of amount",
			"credit.amount.monetary": "amount, currency", "credit.amount.monetary.value": "amount",
			"credit.amount.monetary.currency": "currency", "effective_at": "effective_at", "created": "created", "livemode": "livemode",
		}},
		{"debit", &debit.Raw, func() comparison { return creditJSON(&debit) }, map[string]string{
			"type": "type", "debit": "debit_type, type of amount, amount, currency", "debit.type": "debit_type",
			"debit.amount.monetary.value": "amount",
		}},
		{"grant", &grant.Raw, func() comparison { return grantJSON(&grant) }, map[string]string{
			"object": "object", "id": "id", "customer": "customer", "amount": "amount_type, amount, currency", "amount.type": "amount_type",
			"amount.monetary.value": "amount", "amount.monetary.currency": "currency", "category": "category",
			"applicability_config": "applicability_config", "created": "created", "updated": "updated", "livemode": "livemode", "metadata": "",
		}},
		{"customer", &customer.Raw, func() comparison { return customerJSON(&customer, nil) }, map[string]string{
			"object": "object", "id": "id", "balance": "balance", "created": "created", "livemode": "livemode", "metadata": "",
		}},
	} {
		whole := *tt.raw
		if c := tt.compare(); len(c.said)+len(c.other)+len(c.missing) > 0 {
			t.Errorf("%s: a true row: %+v", tt.name, c)
		}
		for path, want := range tt.missing {
			for _, empty := range []bool{false, true} {
				var object map[string]any
				if err := json.Unmarshal([]byte(whole), &object); err != nil {
					t.Fatal(err)
				}
				inner, keys := object, strings.Split(path, ".")
				for _, k := range keys[:len(keys)-1] {
					inner = inner[k].(map[string]any)
				}
				delete(inner, keys[len(keys)-1])
				if empty {
					inner[keys[len(keys)-1]] = nil
				}
				raw, err := json.Marshal(object)
				if err != nil {
					t.Fatal(err)
				}
				*tt.raw = string(raw)
				if c := tt.compare(); strings.Join(c.missing, ", ") != want || len(c.said)+len(c.other) > 0 {
					t.Errorf("%s without %s: %+v, want %s to be missing", tt.name, path, c, want)
				}
			}
		}
	}
}

// ledgers draws true ledgers of some customers.
func drawTables(rt *rapid.T) *tables {
	var t tables
	for c := range rapid.IntRange(1, 3).Draw(rt, "customers") {
		id := fmt.Sprintf("cus_%d", c)
		customer := mirror.AuditCustomer{AuditKey: key(id), Currency: "eur"}
		var credit []string
		for _, currency := range []string{"eur", "usd"} {
			n := rapid.IntRange(0, 6).Draw(rt, "rows")
			var amounts []int64
			var end int64
			for range n {
				amounts = append(amounts, rapid.Int64Range(-3, 3).Draw(rt, "amount"))
				end += amounts[len(amounts)-1]
			}
			t.history(id, currency, amounts...)
			if currency == "eur" {
				customer.Balance = end
			} else {
				credit = append(credit, fmt.Sprintf("%q:%d", currency, -end))
			}
		}
		customer.InvoiceCreditBalance = "{" + strings.Join(credit, ",") + "}"
		t.customers = append(t.customers, customer)
		var ledger int64
		for g := range rapid.IntRange(0, 3).Draw(rt, "grants") {
			grant := mirror.AuditGrant{AuditKey: key(id), ID: fmt.Sprintf("credgr_%d_%d", c, g), Currency: "eur", Amount: rapid.Int64Range(1, 9).Draw(rt, "granted")}
			grant = withGrant(grant, nil)
			left := grant.Amount
			t.grants = append(t.grants, grant)
			t.credits = append(t.credits, mirror.AuditCredit{AuditKey: key(id), ID: grant.ID + "_in", Grant: grant.ID, Currency: "eur", Amount: left})
			for i := range rapid.IntRange(0, 3).Draw(rt, "debits") {
				out := rapid.Int64Range(0, left).Draw(rt, "debit")
				left -= out
				t.credits = append(t.credits, mirror.AuditCredit{AuditKey: key(id), ID: fmt.Sprintf("%s_%d", grant.ID, i), Grant: grant.ID, Currency: "eur", Amount: -out})
			}
			ledger += left
		}
		t.summaries = append(t.summaries, mirror.AuditBalance{AuditKey: key(id), Currency: "eur", Balance: ledger})
		t.states = append(t.states, mirror.AuditState{AuditKey: key(id), Scope: mirror.ScopeBalance, Epoch: 2, AppliedEpoch: 2, HistoryComplete: true})
	}
	return &t
}

// True ledgers have no finding, and any single number that is changed has one,
// of its own customer.
func TestAnyChangedNumberIsFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		l := drawTables(rt)
		if found := l.found(rt); len(found) > 0 {
			rt.Fatalf("true ledgers:\n%s", strings.Join(found, "\n"))
		}
		type number struct {
			what, customer string
			value          *int64
		}
		var numbers []number
		add := func(what, customer string, values ...*int64) {
			for _, v := range values {
				numbers = append(numbers, number{what, customer, v})
			}
		}
		for i := range l.placed {
			add("transaction", l.placed[i].Customer, &l.placed[i].Amount, &l.placed[i].EndingBalance, &l.placed[i].Position)
		}
		for i := range l.customers {
			add("customer", l.customers[i].Customer, &l.customers[i].Balance)
		}
		for i := range l.balances {
			add("balance", l.balances[i].Customer, &l.balances[i].Balance)
		}
		for i := range l.grants {
			add("grant", l.grants[i].Customer, &l.grants[i].Amount)
		}
		for i := range l.credits {
			add("credit", l.credits[i].Customer, &l.credits[i].Amount)
		}
		for i := range l.summaries {
			add("summary", l.summaries[i].Customer, &l.summaries[i].Balance)
		}
		for i := range l.states {
			add("epoch", l.states[i].Customer, &l.states[i].Epoch)
		}
		n := rapid.SampledFrom(numbers).Draw(rt, "number")
		by := rapid.SampledFrom([]int64{-1, 1, -2, 2, 1000, -1 << 62}).Draw(rt, "by")
		if n.what == "epoch" {
			by = -1
		}
		*n.value += by
		slices.SortStableFunc(l.placed, func(a, b mirror.AuditTransaction) int {
			if c := strings.Compare(a.Customer+a.Currency, b.Customer+b.Currency); c != 0 {
				return c
			}
			return int(max(min(a.Position-b.Position, 1), -1))
		})
		found := l.found(rt)
		if len(found) == 0 {
			rt.Fatalf("a %s of %s that is %d off is not found", n.what, n.customer, by)
		}
		for _, f := range found {
			if !strings.Contains(f, " "+n.customer+" ") {
				rt.Fatalf("a %s of %s is off, found %s", n.what, n.customer, f)
			}
		}
	})
}

// However many rows of a customer are odd, each is reported and few are kept.
func TestManyOddRows(t *testing.T) {
	t.Parallel()
	l := tables{customers: []mirror.AuditCustomer{{AuditKey: key("cus_1")}}}
	l.grants = []mirror.AuditGrant{{AuditKey: key("cus_1"), ID: "credgr_1", Currency: "eur"}}
	for i := range maxOdd + 50 {
		row := mirror.AuditCredit{AuditKey: key("cus_1"), ID: fmt.Sprint(i), Grant: "credgr_1", Currency: "eur"}
		l.credits = append(l.credits, withCredit(row, map[string]any{"id": "x"}))
	}
	if found := l.found(t); len(found) != maxOdd+50 {
		t.Fatalf("%d findings", len(found))
	}
}

func TestStreamErrorsEndTheProof(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken off")
	for name, spoil := range map[string]func(*mirror.AuditLedgers){
		"placed":    func(l *mirror.AuditLedgers) { l.Placed = failing(l.Placed, broken) },
		"unplaced":  func(l *mirror.AuditLedgers) { l.Unplaced = failing(l.Unplaced, broken) },
		"customers": func(l *mirror.AuditLedgers) { l.Customers = failing(l.Customers, broken) },
		"balances":  func(l *mirror.AuditLedgers) { l.Balances = failing(l.Balances, broken) },
		"grants":    func(l *mirror.AuditLedgers) { l.Grants = failing(l.Grants, broken) },
		"credits":   func(l *mirror.AuditLedgers) { l.Credits = failing(l.Credits, broken) },
		"summaries": func(l *mirror.AuditLedgers) { l.Summaries = failing(l.Summaries, broken) },
		"states":    func(l *mirror.AuditLedgers) { l.States = failing(l.States, broken) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var l tables
			l.history("cus_1", "eur", 1, 2)
			l.customers = []mirror.AuditCustomer{{AuditKey: key("cus_1"), Currency: "eur", Balance: 3}}
			ledgers := l.ledgers()
			spoil(&ledgers)
			if _, err := judge(ledgers, bothLedgers, func(mirror.Finding) error { return nil }); !errors.Is(err, broken) {
				t.Fatalf("the proof ends with %v", err)
			}
		})
	}
	var l tables
	l.credits = []mirror.AuditCredit{{AuditKey: key("cus_1"), Grant: "credgr_1"}}
	l.customers = []mirror.AuditCustomer{{AuditKey: key("cus_1")}}
	ledgers := l.ledgers()
	ledgers.Grant = func(string, string) (mirror.AuditGrant, error) { return mirror.AuditGrant{}, broken }
	if _, err := judge(ledgers, bothLedgers, func(mirror.Finding) error { return nil }); !errors.Is(err, broken) {
		t.Fatalf("a lookup that fails: %v", err)
	}
	l.customers[0].Balance = 1
	if _, err := judge(l.ledgers(), bothLedgers, func(mirror.Finding) error { return broken }); !errors.Is(err, broken) {
		t.Fatalf("nobody takes the finding: %v", err)
	}
}

func failing[Row any](rows iter.Seq2[Row, error], err error) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for row := range rows {
			if !yield(row, nil) {
				return
			}
		}
		var none Row
		yield(none, err)
	}
}

// A ledger that is not mirrored is never incomplete: its first copy will not end.
func TestLedgersThatAreLeftOut(t *testing.T) {
	t.Parallel()
	l := &tables{
		customers: []mirror.AuditCustomer{{AuditKey: key("cus_1")}},
		states: []mirror.AuditState{
			{AuditKey: key("cus_1"), Scope: mirror.ScopeBalance},
			{AuditKey: key("cus_1"), Scope: mirror.ScopeCredits, HistoryComplete: true, WalkCursor: "cbtxn_1"},
		},
	}
	for name, c := range map[string]struct {
		ledgers    mirror.Ledgers
		incomplete int64
		walk       bool
	}{
		"both":            {mirror.Ledgers{}, 1, true},
		"without balance": {mirror.Ledgers{NoBalance: true}, 0, true},
		"without credits": {mirror.Ledgers{NoCredits: true}, 1, false},
	} {
		walk := false
		result, err := judge(l.ledgers(), func(string) mirror.Ledgers { return c.ledgers }, func(f mirror.Finding) error {
			walk = walk || f.Scope == mirror.ScopeCredits
			return nil
		})
		if err != nil || result.Incomplete != c.incomplete || walk != c.walk {
			t.Errorf("%s: %d incomplete, open walk %v, %v; want %d, %v", name, result.Incomplete, walk, err, c.incomplete, c.walk)
		}
	}
}
