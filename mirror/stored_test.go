package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// fullTransaction, fullCredit and fullGrant have a value in every field.
func fullTransaction() BalanceTransaction {
	return BalanceTransaction{
		ID: "cbtxn_1", Customer: "cus_1", Amount: -100, Currency: "eur", EndingBalance: -250, Type: "adjustment", Invoice: "in_1",
		CreditNote: "cn_1", CheckoutSession: "cs_1", Description: "goodwill", Metadata: json.RawMessage(`{"a":"b"}`), Created: at(5),
		Raw: json.RawMessage(fmt.Sprintf(`{"id":"cbtxn_1","customer":"cus_1","amount":-100,"currency":"eur","ending_balance":-250,"type":"adjustment","created":%d}`, at(5).Unix())),
	}
}

func fullCredit() CreditTransaction {
	return CreditTransaction{
		ID: "cbt_1", Grant: "credgr_1", Customer: "cus_1", Type: "debit", CreditType: "x", DebitType: "credits_applied", Amount: -30,
		Currency: "eur", Invoice: "in_1", InvoiceLineItem: "il_1", EffectiveAt: at(4), Created: at(5), TestClock: "clock_1",
		Raw: json.RawMessage(fmt.Sprintf(`{"id":"cbt_1","credit_grant":"credgr_1","type":"debit","credit":null,"debit":{"amount":{"type":"monetary","monetary":{"value":30,"currency":"eur"}}},"created":%d}`, at(5).Unix())),
	}
}

func fullGrant() CreditGrant {
	return CreditGrant{
		ID: "credgr_1", Customer: "cus_1", Name: "n", Category: "paid", AmountType: "monetary", Amount: 1000, Currency: "eur",
		ApplicabilityConfig: json.RawMessage(`{"scope":{"price_type":"metered"}}`), Priority: 50, EffectiveAt: at(1), ExpiresAt: at(9),
		VoidedAt: at(8), Created: at(5), Updated: at(6), TestClock: "clock_1", Metadata: json.RawMessage(`{"a":"b"}`),
		Raw: json.RawMessage(fmt.Sprintf(`{"id":"credgr_1","customer":"cus_1","amount":{"type":"monetary","monetary":{"value":1000,"currency":"eur"}},"created":%d}`, at(5).Unix())),
	}
}

// eachField calls try with the row once for each of its fields, with that field changed.
func eachField[Row any](row Row, try func(field string, changed Row)) {
	for i := range reflect.TypeFor[Row]().NumField() {
		changed := row
		v := reflect.ValueOf(&changed).Elem().Field(i)
		switch x := v.Interface().(type) {
		case string:
			v.SetString(x + "x")
		case int64:
			v.SetInt(x + 1)
		case bool:
			v.SetBool(!x)
		case time.Time:
			v.Set(reflect.ValueOf(x.Add(time.Microsecond)))
		case json.RawMessage:
			v.Set(reflect.ValueOf(json.RawMessage(`{"x":1}`)))
		case map[string]int64:
			v.Set(reflect.ValueOf(map[string]int64{"xts": 1}))
		}
		try(reflect.TypeFor[Row]().Field(i).Name, changed)
	}
}

// Every field that Stripe sends is compared, each under the name of its column; the
// others are not. Both ways of comparing agree.
func TestEveryFieldIsCompared(t *testing.T) {
	t.Parallel()
	check := func(kind, field string, names []string, equal bool) {
		want := []string{column(field)}
		switch field {
		case "Account", "ID", "Position": // the key, and what Stripe does not send
			want = nil
		case "Customer":
			if kind != "grant" {
				want = nil
			}
		}
		if !slices.Equal(names, want) || equal != (want == nil || field == "Raw") {
			t.Errorf("%s with another %s: differs in %q, want %q; equal %v", kind, field, names, want, equal)
		}
	}
	b, c, g := fullTransaction(), fullCredit(), fullGrant()
	eachField(b, func(field string, o BalanceTransaction) {
		check("transaction", field, o.Print().Differing(b.Print()), o.equals(b))
	})
	eachField(c, func(field string, o CreditTransaction) {
		check("credit", field, o.Print().Differing(c.Print()), o.equals(c))
	})
	eachField(g, func(field string, o CreditGrant) {
		check("grant", field, o.Print().Differing(g.Print()), o.equals(g))
	})
	cus := Customer{ID: "cus_1", Balance: -5, Currency: "eur", InvoiceCreditBalance: map[string]int64{"eur": 5}, Created: at(1), TestClock: "clock_1", CustomerAccount: "acct_1", Raw: json.RawMessage(`{}`)}
	eachField(cus, func(field string, o Customer) {
		names := o.Print(o.Raw).Differing(cus.Print(cus.Raw))
		check("customer", field, names, len(names) == 0 || field == "Raw")
	})
}

// column is the name of a field's column.
func column(field string) string {
	var name strings.Builder
	for i, r := range field {
		if i > 0 && r >= 'A' && r <= 'Z' {
			name.WriteByte('_')
		}
		name.WriteRune(r)
	}
	return strings.ToLower(name.String())
}

// What the databases write otherwise is the same: NUL characters are left out, no
// metadata is the empty object, numbers of JSON are kept by value, times to the
// microsecond.
func TestPrintOfWhatDatabasesKeep(t *testing.T) {
	t.Parallel()
	sent, kept := fullTransaction(), fullTransaction()
	sent.Description, kept.Description = "a\x00b\xff", "ab\uFFFD"
	sent.Metadata, kept.Metadata = nil, json.RawMessage(` {} `)
	sent.Raw, kept.Raw = json.RawMessage(`{"n":1e2,"m":1.50,"t":"a\u0000b"}`), json.RawMessage(`{"t": "ab", "m": 1.5, "n": 100}`)
	sent.Created = sent.Created.Add(300 * time.Nanosecond)
	if names := kept.Print().Differing(sent.Print()); len(names) > 0 {
		t.Errorf("differs in %q", names)
	}
	if (Stored[BalanceTransaction]{Row: kept, Digest: Digest(sent.Raw)}).damaged(sent, Digest(sent.Raw)) {
		t.Error("a row is damaged by being stored")
	}
	if want, have := Describe(sent.Print(), kept.Print()); want != strings.TrimSuffix(have, ": digest") {
		t.Errorf("described as %s and %s, want the digest alone to differ", want, have)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	a, b := fullTransaction(), fullTransaction()
	b.Description, b.Metadata = "else", nil
	if want, have := Describe(a.Print(), b.Print()); !strings.HasPrefix(want, "digest ") || !strings.HasSuffix(have, ": description, metadata") || strings.Contains(have, "else") {
		t.Errorf("%s and %s", want, have)
	}
	b.Amount = 7
	if want, have := Describe(a.Print(), b.Print()); want != "-100" || have != "7" {
		t.Errorf("%s and %s, want the amounts", want, have)
	}
}

// A row that lies there as it was written is intact; one of whose columns, JSON or
// digest something else wrote is not. Descriptive columns prove nothing.
func TestStoredIntact(t *testing.T) {
	t.Parallel()
	b, c, g := fullTransaction(), fullCredit(), fullGrant()
	intact := map[string][]string{
		"transaction": {"Account", "Invoice", "CreditNote", "CheckoutSession", "Description", "Metadata", "Livemode", "Position"},
		"credit":      {"Account", "Customer", "CreditType", "DebitType", "Invoice", "InvoiceLineItem", "EffectiveAt", "Livemode", "TestClock"},
		"grant": {
			"Account", "Name", "Category", "AmountType", "ApplicabilityConfig", "Priority", "EffectiveAt", "ExpiresAt", "VoidedAt", "Updated",
			"Livemode", "TestClock", "Metadata",
		},
	}
	check := func(kind, field string, got bool) {
		if got != slices.Contains(intact[kind], field) {
			t.Errorf("%s with another %s: intact %v", kind, field, got)
		}
	}
	eachField(b, func(field string, o BalanceTransaction) {
		check("transaction", field, Stored[BalanceTransaction]{o, Digest(b.Raw)}.Intact())
	})
	eachField(c, func(field string, o CreditTransaction) {
		check("credit", field, Stored[CreditTransaction]{o, Digest(c.Raw)}.Intact())
	})
	eachField(g, func(field string, o CreditGrant) {
		check("grant", field, Stored[CreditGrant]{o, Digest(g.Raw)}.Intact())
	})
	if !(Stored[BalanceTransaction]{b, Digest(b.Raw)}).Intact() || (Stored[BalanceTransaction]{b, "x"}).Intact() {
		t.Error("the digest does not count")
	}
	// JSON that says nothing of a column does not contradict it; one of another type does.
	b.Raw = json.RawMessage(`{"amount":null}`)
	if !(Stored[BalanceTransaction]{b, Digest(b.Raw)}).Intact() {
		t.Error("what is not said counts as a contradiction")
	}
	for _, raw := range []string{`{"amount":"-100"}`, `{"currency":5}`, `{"created":"yesterday"}`, `{"created":0}`} {
		b.Raw = json.RawMessage(raw)
		if (Stored[BalanceTransaction]{b, Digest(b.Raw)}).Intact() {
			t.Errorf("%s counts as saying what the columns do", raw)
		}
	}
}

// wholeSnapshot is a full read of a customer whose history is held.
func wholeSnapshot(rows ...BalanceTransaction) (BalanceSnapshot, BalanceHeld) {
	var balance int64
	for _, r := range rows {
		balance += r.Amount
	}
	s := snapshot(balance, rows...)
	s.ObservedAt = at(10_000)
	h := BalanceHeld{
		State:    SyncState{HistoryComplete: true, CompleteTo: at(100)},
		Customer: &CustomerView{Customer: s.Customer}, CustomerDigest: Digest(s.Customer.Raw),
		Balances: map[string]int64{"usd": balance}, Stored: map[string]Stored[BalanceTransaction]{},
	}
	for i, r := range rows {
		h.Rows = append(h.Rows, heldRow(r, int64(i+1)))
		h.Stored[r.ID] = Stored[BalanceTransaction]{r, Digest(r.Raw)}
	}
	return s, h
}

func told(list []Finding) (out []string) {
	for _, f := range list {
		out = append(out, strings.Join([]string{string(f.Kind), f.Currency, f.Object, f.Expected, f.Actual, f.Cause}, "|"))
	}
	return out
}

func TestPlanBalanceOfDamagedBalances(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		damage func(*BalanceSnapshot, *BalanceHeld)
		want   []string
		write  map[string]int64
	}{
		"none": {func(*BalanceSnapshot, *BalanceHeld) {}, nil, map[string]int64{}},
		"a currency that nobody knows": {
			func(_ *BalanceSnapshot, h *BalanceHeld) { h.Balances["xts"] = 7 },
			[]string{"balance_mismatch|xts||0|7|unknown"},
			map[string]int64{"xts": 0},
		},
		"that is none": {func(_ *BalanceSnapshot, h *BalanceHeld) { h.Balances["xts"] = 0 }, nil, map[string]int64{}},
		"that Stripe was not asked for": {
			func(s *BalanceSnapshot, h *BalanceHeld) {
				s.Customer.InvoiceCreditBalance, h.Customer.InvoiceCreditBalance, h.Balances["xts"] = nil, nil, 7
			},
			nil,
			map[string]int64{},
		},
		"a balance without a currency": {
			func(s *BalanceSnapshot, h *BalanceHeld) {
				*s, *h = wholeSnapshot()
				s.Customer.Currency, h.Customer.Currency, h.Customer.Balance = "", "", 4
				h.Balances = map[string]int64{}
				s.Customer.InvoiceCreditBalance = nil
			},
			[]string{"balance_mismatch|||0|4|unknown"},
			map[string]int64{},
		},
		"a balance that an earlier piece moved": {
			func(_ *BalanceSnapshot, h *BalanceHeld) {
				h.Balances["usd"], h.Unplaced = -1, []HeldRow{h.Rows[1]}
			}, nil, map[string]int64{"usd": -3},
		},
		"a balance of a ledger that was not proven": {
			func(_ *BalanceSnapshot, h *BalanceHeld) { h.Balances["usd"], h.State.Disproved = -1, true }, nil, map[string]int64{"usd": -3},
		},
		"a customer that came back": {
			func(_ *BalanceSnapshot, h *BalanceHeld) { h.Customer.Deleted, h.Customer.Created = true, at(5) }, nil, map[string]int64{},
		},
		"news of the customer": {
			func(_ *BalanceSnapshot, h *BalanceHeld) {
				h.Customer.Raw, h.Customer.Created = json.RawMessage(`{"a":1}`), at(5)
				h.CustomerDigest = Digest(h.Customer.Raw)
			}, nil, map[string]int64{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, h := wholeSnapshot(row("a", -1, -1, 1), row("b", -2, -3, 2))
			tt.damage(&s, &h)
			plan, err := PlanBalance(s, h)
			if err != nil || !slices.Equal(told(plan.Repaired), tt.want) || !reflect.DeepEqual(plan.Balances, tt.write) {
				t.Errorf("found %q, writes %v, %v; want %q, %v", told(plan.Repaired), plan.Balances, err, tt.want, tt.write)
			}
		})
	}
}

// Edits at Stripe and damage here are distinguished by the row itself.
func TestPlanBalanceTellsEditsFromDamage(t *testing.T) {
	t.Parallel()
	a, b := row("a", -1, -1, 1), row("b", -2, -3, 2)
	for name, tt := range map[string]struct {
		damage func(*BalanceTransaction)
		digest func(string) string
		edit   bool
		update bool // or else restore
		cause  string
	}{
		"an edit":                                {edit: true, update: true, cause: CauseSilentEdit},
		"damage":                                 {damage: func(r *BalanceTransaction) { r.Description = "x" }, cause: CauseUnknown},
		"an edit of a row without JSON":          {damage: func(r *BalanceTransaction) { r.Raw = json.RawMessage(`{}`) }, edit: true, cause: CauseUnknown},
		"a digest":                               {digest: func(string) string { return "x" }, cause: CauseUnknown},
		"an edit of a row whose digest was lost": {digest: func(string) string { return "" }, edit: true, cause: CauseUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, h := wholeSnapshot(a, b)
			stored := h.Stored["a"]
			if tt.damage != nil {
				tt.damage(&stored.Row)
			}
			if tt.digest != nil {
				stored.Digest = tt.digest(stored.Digest)
				h.Rows[0].Digest = stored.Digest
			}
			h.Stored["a"] = stored
			if tt.edit {
				edited := &s.Windows[0].Rows[1]
				edited.Description, edited.Raw = "new", json.RawMessage(`{"id":"a","amount":-1,"description":"new"}`)
			}
			plan, err := PlanBalance(s, h)
			if err != nil || len(plan.Update) == 1 != tt.update || len(plan.Restore) == 1 == tt.update || len(plan.Insert) != 0 {
				t.Fatalf("plan %+v, %v", plan, err)
			}
			if len(plan.Repaired) != 1 || plan.Repaired[0].Cause != tt.cause || plan.Repaired[0].Object != "a" {
				t.Errorf("found %q", told(plan.Repaired))
			}
		})
	}
}

func TestPlanCreditsOfGrantsAndSummaries(t *testing.T) {
	t.Parallel()
	base := func() (CreditsSnapshot, CreditsHeld) {
		g := fullGrant()
		r := fullCredit()
		s := CreditsSnapshot{
			Target:  Target{Scope: ScopeCredits, ID: "cus_1"},
			Windows: []Window[CreditTransaction]{{Rows: []CreditTransaction{r}, FromHead: true, ToEnd: true}},
			Grants:  []CreditGrant{g}, AllGrants: true, Joined: true, Full: true, ObservedAt: at(10_000), AcceptDisproof: true,
		}
		h := CreditsHeld{
			State:        SyncState{HistoryComplete: true, CompleteTo: at(100)},
			Rows:         []HeldCredit{holdCredit(Stored[CreditTransaction]{r, Digest(r.Raw)})},
			Stored:       map[string]Stored[CreditTransaction]{r.ID: {r, Digest(r.Raw)}},
			Sums:         map[string]GrantSum{g.ID: {Currency: "eur", Sum: 500, Rows: 3}},
			Grants:       map[string]HeldGrantRow{g.ID: {Customer: "cus_1", Amount: 1000, Currency: "eur", Digest: Digest(g.Raw)}},
			StoredGrants: map[string]Stored[CreditGrant]{g.ID: {g, Digest(g.Raw)}},
			Summary:      map[string]CreditBalance{"eur": {500, 500}},
		}
		return s, h
	}
	for name, tt := range map[string]struct {
		change  func(*CreditsSnapshot, *CreditsHeld)
		want    []string
		summary map[string]CreditBalance
	}{
		"nothing": {func(*CreditsSnapshot, *CreditsHeld) {}, nil, map[string]CreditBalance{}},
		"an edit of a grant that no event told of": {func(s *CreditsSnapshot, _ *CreditsHeld) {
			s.Grants[0].Name, s.Grants[0].Raw = "new", json.RawMessage(`{"id":"credgr_1","name":"new"}`)
		}, []string{"field_mismatch|eur|credgr_1|digest|name, raw|missed event"}, map[string]CreditBalance{}},
		"an edit that an event told of": {func(s *CreditsSnapshot, _ *CreditsHeld) {
			s.Grants[0].Name, s.Grants[0].Raw = "new", json.RawMessage(`{"id":"credgr_1","name":"new"}`)
			s.Events = []EventRef{{ID: "evt_1"}}
		}, nil, map[string]CreditBalance{}},
		"a new grant": {func(s *CreditsSnapshot, _ *CreditsHeld) {
			g := fullGrant()
			g.ID, g.Raw = "credgr_2", json.RawMessage(`{"id":"credgr_2"}`)
			s.Grants = append(s.Grants, g)
		}, []string{"missing_transaction|eur|credgr_2|1000||missed event"}, map[string]CreditBalance{}},
		"a grant damaged before the history was ever whole": {func(_ *CreditsSnapshot, h *CreditsHeld) {
			g := h.StoredGrants["credgr_1"]
			g.Row.Name = "x"
			h.StoredGrants["credgr_1"], h.State = g, SyncState{}
		}, nil, map[string]CreditBalance{}},
		"a summary": {
			func(_ *CreditsSnapshot, h *CreditsHeld) { h.Summary["eur"] = CreditBalance{400, 400} },
			[]string{"summary_mismatch|eur||500|400|unknown"},
			map[string]CreditBalance{"eur": {500, 500}},
		},
		"a summary of a currency that nobody knows": {
			func(_ *CreditsSnapshot, h *CreditsHeld) { h.Summary["xts"] = CreditBalance{7, 7} },
			[]string{"summary_mismatch|xts||0|7|unknown"},
			map[string]CreditBalance{"xts": {}},
		},
		"one that Stripe tells of": {func(s *CreditsSnapshot, h *CreditsHeld) {
			s.Summary = map[string]CreditBalance{"eur": {500, 100}, "xts": {}}
			h.Summary["xts"] = CreditBalance{}
		}, nil, map[string]CreditBalance{"eur": {500, 100}}},
		"a summary that a new row moved": {func(s *CreditsSnapshot, h *CreditsHeld) {
			r := fullCredit()
			r.ID, r.Raw, r.Created = "cbt_2", json.RawMessage(`{"id":"cbt_2"}`), at(9_990)
			s.Windows[0].Rows = append([]CreditTransaction{r}, s.Windows[0].Rows...)
			h.Summary["eur"] = CreditBalance{400, 400}
		}, nil, map[string]CreditBalance{"eur": {470, 470}}},
		"a summary in the middle of a walk": {func(_ *CreditsSnapshot, h *CreditsHeld) {
			h.State.Walk = Walk{Cursor: "x", Full: true}
			h.Summary["eur"] = CreditBalance{400, 400}
		}, nil, map[string]CreditBalance{"eur": {500, 500}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, h := base()
			tt.change(&s, &h)
			plan, err := PlanCredits(s, h)
			var got []string
			for _, f := range plan.Repaired {
				if strings.HasPrefix(f.Expected, "digest ") {
					f.Expected = "digest"
					_, f.Actual, _ = strings.Cut(f.Actual, ": ")
				}
				got = append(got, told([]Finding{f})...)
			}
			if err != nil || !slices.Equal(got, tt.want) || !reflect.DeepEqual(plan.Summary, tt.summary) {
				t.Errorf("found %q, writes %v, %v; want %q, %v", got, plan.Summary, err, tt.want, tt.summary)
			}
		})
	}
}

// A new version of Stripe's API, or somebody's UPDATE without a WHERE, may differ in
// every row: a sync records a few of the differences, and repairs all.
func TestFindingsOfOneSyncAreBounded(t *testing.T) {
	t.Parallel()
	var rows []BalanceTransaction
	for i := range int64(50) {
		rows = append(rows, row(fmt.Sprintf("r%02d", i), -1, -1-i, i))
	}
	s, h := wholeSnapshot(rows...)
	for id, stored := range h.Stored {
		stored.Row.Description = "x"
		h.Stored[id] = stored
	}
	plan, err := PlanBalance(s, h)
	if err != nil || len(plan.Restore) != 50 || len(plan.Repaired) != findingsPerCommit {
		t.Errorf("%d rows restored, %d findings, %v", len(plan.Restore), len(plan.Repaired), err)
	}
	s.Windows[0].Rows = nil
	_, err = PlanBalance(s, h)
	var refused *RewrittenError
	if !errors.As(err, &refused) || len(refused.Findings) != findingsPerCommit {
		t.Errorf("refused with %v", err)
	}
}
