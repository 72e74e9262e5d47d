package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func row(id string, amount, ending, second int64) BalanceTransaction {
	return BalanceTransaction{
		ID: id, Customer: "cus_1", Amount: amount, Currency: "usd", EndingBalance: ending, Type: "adjustment", Created: at(second),
		Raw: json.RawMessage(fmt.Sprintf(`{"id":%q,"amount":%d}`, id, amount)),
	}
}

func heldRow(r BalanceTransaction, position int64) HeldRow {
	return HeldRow{
		ID: r.ID, Currency: r.Currency, Amount: r.Amount, EndingBalance: r.EndingBalance, Type: r.Type,
		Created: r.Created, Position: position, Digest: Digest(r.Raw),
	}
}

// snapshot lists rows (oldest first) as one window that reaches from the head to
// the end, of a customer with that balance.
func snapshot(balance int64, rows ...BalanceTransaction) BalanceSnapshot {
	rows = slices.Clone(rows)
	slices.Reverse(rows)
	return BalanceSnapshot{
		Target:   Target{Scope: ScopeBalance, ID: "cus_1"},
		Customer: Customer{ID: "cus_1", Balance: balance, Currency: "usd", InvoiceCreditBalance: map[string]int64{"usd": -balance}, Raw: json.RawMessage(`{}`)},
		Windows:  []Window[BalanceTransaction]{{Rows: rows, FromHead: true, ToEnd: true}},
		Joined:   true, Full: true,
	}
}

func TestPlanBalanceFirstRead(t *testing.T) {
	t.Parallel()
	plan, err := PlanBalance(snapshot(-3, row("a", -1, -1, 1), row("b", -2, -3, 2)), BalanceHeld{})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Insert) != 2 || plan.Insert[0].ID != "a" || plan.Insert[0].Position != 1 || plan.Insert[1].Position != 2 {
		t.Fatalf("inserts %+v", plan.Insert)
	}
	if plan.Balances["usd"] != -3 || plan.Customer == nil || !plan.State.HistoryComplete || !plan.State.CompleteTo.Equal(at(2)) {
		t.Fatalf("plan %+v", plan)
	}
}

// I18: a sync of what is held already plans no write at all.
func TestPlanBalanceI18NothingToWrite(t *testing.T) {
	t.Parallel()
	a, b := row("a", -1, -1, 1), row("b", -2, -3, 1)
	s := snapshot(-3, a, b)
	view := CustomerView{Customer: s.Customer}
	plan, err := PlanBalance(s, BalanceHeld{
		State: SyncState{HistoryComplete: true, CompleteTo: at(1)}, Customer: &view, CustomerDigest: Digest(s.Customer.Raw),
		Balances: map[string]int64{"usd": -3}, Rows: []HeldRow{heldRow(b, 2), heldRow(a, 1)},
	})
	if err != nil || len(plan.Insert)+len(plan.Update)+len(plan.Place)+len(plan.Balances)+len(plan.Open) != 0 || plan.Customer != nil {
		t.Fatalf("plan %+v, %v", plan, err)
	}
}

func TestPlanBalanceExtendsTheChain(t *testing.T) {
	t.Parallel()
	a, b, c := row("a", -1, -1, 1), row("b", -2, -3, 2), row("c", 3, 0, 3)
	s := snapshot(0, b, c)
	s.Full, s.Windows[0].ToEnd = false, false
	plan, err := PlanBalance(s, BalanceHeld{
		State: SyncState{HistoryComplete: true, CompleteTo: at(2)},
		Rows:  []HeldRow{heldRow(b, 2)}, Tops: map[string]HeldRow{"usd": heldRow(b, 2)},
	})
	if err != nil || len(plan.Insert) != 1 || plan.Insert[0].Position != 3 || len(plan.Place) != 0 {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	_ = a
}

func TestPlanBalanceRefusesRewrittenHistory(t *testing.T) {
	t.Parallel()
	a, b := row("a", -1, -1, 1), row("b", -2, -3, 3)
	changed := map[string]func(*BalanceTransaction){
		"amount":         func(r *BalanceTransaction) { r.Amount = 7 },
		"ending_balance": func(r *BalanceTransaction) { r.EndingBalance = 7 },
		"currency":       func(r *BalanceTransaction) { r.Currency = "eur" },
		"type":           func(r *BalanceTransaction) { r.Type = "initial" },
		"created":        func(r *BalanceTransaction) { r.Created = at(2) },
	}
	for name, change := range changed {
		other := a
		change(&other)
		_, err := PlanBalance(snapshot(-3, other, b), BalanceHeld{Rows: []HeldRow{heldRow(a, 1), heldRow(b, 2)}})
		if !errors.Is(err, ErrLedgerRewritten) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for name, s := range map[string]BalanceSnapshot{
		"the newest row is missing": snapshot(-1, a),
		"all rows are missing":      snapshot(0),
		"a row between is missing":  snapshot(-3, a, row("c", -2, -3, 4)),
	} {
		if _, err := PlanBalance(s, BalanceHeld{Rows: []HeldRow{heldRow(a, 1), heldRow(b, 2)}}); !errors.Is(err, ErrLedgerRewritten) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// A row beyond the window is none of its business.
	s := snapshot(-3, b)
	s.Full, s.Windows[0].ToEnd = false, false
	if _, err := PlanBalance(s, BalanceHeld{Rows: []HeldRow{heldRow(a, 1)}, Tops: map[string]HeldRow{"usd": heldRow(a, 1)}}); err != nil {
		t.Errorf("an older row outside the window: %v", err)
	}
}

func TestPlanBalanceUpdatesWhatMayChange(t *testing.T) {
	t.Parallel()
	a := row("a", -1, -1, 1)
	edited := a
	edited.Description, edited.Raw = "new", json.RawMessage(`{"id":"a","amount":-1,"description":"new"}`)
	plan, err := PlanBalance(snapshot(-1, edited), BalanceHeld{Rows: []HeldRow{heldRow(a, 1)}})
	if err != nil || len(plan.Update) != 1 || len(plan.Insert) != 0 || len(plan.Place) != 0 {
		t.Fatalf("plan %+v, %v", plan, err)
	}
}

func TestPlanBalanceDisproof(t *testing.T) {
	t.Parallel()
	held := BalanceHeld{Rows: []HeldRow{}}
	tests := []struct {
		name string
		s    BalanceSnapshot
	}{
		{"the customer's balance is another", snapshot(-9, row("a", -1, -1, 1))},
		{"a row is missing", snapshot(-3, row("b", -2, -3, 2))},
		{"a balance without rows", snapshot(-3)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := PlanBalance(tt.s, held); !errors.Is(err, ErrDisproved) {
				t.Fatalf("got %v", err)
			}
			tt.s.AcceptDisproof = true
			plan, err := PlanBalance(tt.s, held)
			if err != nil || !plan.State.Disproved || len(plan.Open) != 1 || plan.Open[0].Kind != DriftChainGap {
				t.Fatalf("plan %+v, %v", plan, err)
			}
			if len(plan.Insert) != len(tt.s.Windows[0].Rows) {
				t.Fatal("a row that was seen is not kept")
			}
		})
	}
}

// A balance in a second currency is proven like the first.
func TestPlanBalanceSecondCurrency(t *testing.T) {
	t.Parallel()
	eur := row("e", -7, -7, 1)
	eur.Currency = "eur"
	s := snapshot(-1, row("a", -1, -1, 1), eur)
	s.Customer.InvoiceCreditBalance["eur"] = 7
	plan, err := PlanBalance(s, BalanceHeld{})
	if err != nil || plan.Balances["eur"] != -7 || plan.Balances["usd"] != -1 {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	s.Customer.InvoiceCreditBalance["eur"] = 8
	if _, err := PlanBalance(s, BalanceHeld{}); !errors.Is(err, ErrDisproved) {
		t.Fatalf("got %v", err)
	}
}

// A chain that was broken once counts as proven again only when it was read whole.
func TestPlanBalanceStaysDisprovedUntilReadWhole(t *testing.T) {
	t.Parallel()
	a, b := row("a", -1, -5, 1), row("b", -2, -7, 2)
	s := snapshot(-7, b)
	s.Full, s.Windows[0].ToEnd = false, false
	held := BalanceHeld{
		State: SyncState{HistoryComplete: true, CompleteTo: at(1), Disproved: true},
		Tops:  map[string]HeldRow{"usd": heldRow(a, 1)},
	}
	plan, err := PlanBalance(s, held)
	if err != nil || !plan.State.Disproved || len(plan.Close.Kinds) != 0 {
		t.Fatalf("plan %+v, %v", plan, err)
	}
}

func TestPlanBalanceInPieces(t *testing.T) {
	t.Parallel()
	a, b, c := row("a", -1, -1, 1), row("b", -2, -3, 2), row("c", -3, -6, 3)
	piece := snapshot(-6, b, c)
	piece.Joined, piece.Full, piece.Windows[0].ToEnd = false, false, false
	piece.Walk = Walk{Cursor: "b", Top: at(3)}
	plan, err := PlanBalance(piece, BalanceHeld{})
	if err != nil || plan.State.HistoryComplete || plan.State.Walk != piece.Walk {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	for _, r := range plan.Insert {
		if r.Position != 0 {
			t.Fatal("a row got a place before the chain is joined")
		}
	}
	rest := snapshot(-6, c)
	rest.Windows[0].ToEnd = false
	rest.Windows = append(rest.Windows, Window[BalanceTransaction]{Rows: []BalanceTransaction{a}, ToEnd: true})
	unplaced := []HeldRow{heldRow(b, 0), heldRow(c, 0)}
	plan, err = PlanBalance(rest, BalanceHeld{State: plan.State, Rows: unplaced, Unplaced: unplaced})
	if err != nil || !plan.State.HistoryComplete || plan.State.Walk.InProgress() || plan.Insert[0].Position != 1 {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	if want := []Placement{{"b", 2, false}, {"c", 3, false}}; !slices.Equal(plan.Place, want) {
		t.Fatalf("placements %v, want %v", plan.Place, want)
	}
}

func credit(id, grant string, amount, second int64) CreditTransaction {
	return CreditTransaction{
		ID: id, Grant: grant, Customer: "cus_1", Amount: amount, Currency: "usd", Created: at(second), EffectiveAt: at(second),
		Raw: json.RawMessage(fmt.Sprintf(`{"id":%q}`, id)),
	}
}

func creditSnapshot(rows ...CreditTransaction) CreditsSnapshot {
	return CreditsSnapshot{
		Target:  Target{Scope: ScopeCredits, ID: "cus_1"},
		Windows: []Window[CreditTransaction]{{Rows: rows, FromHead: true, ToEnd: true}},
		Grants:  []CreditGrant{{ID: "g", Customer: "cus_1", Amount: 100, Currency: "usd", Raw: json.RawMessage(`{"id":"g"}`)}},
		Joined:  true, Full: true,
	}
}

func TestPlanCredits(t *testing.T) {
	t.Parallel()
	s := creditSnapshot(credit("b", "g", -40, 2), credit("a", "g", 100, 1))
	s.Summary = map[string]CreditBalance{"usd": {Ledger: 60, Available: 50}}
	plan, err := PlanCredits(s, CreditsHeld{})
	if err != nil || len(plan.Insert) != 2 || plan.Insert[0].ID != "a" || len(plan.Grants) != 1 || plan.Summary["usd"] != (CreditBalance{60, 50}) {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	tests := []struct {
		name   string
		change func(*CreditsSnapshot)
		kind   DriftKind
	}{
		{"the summary is another", func(s *CreditsSnapshot) { s.Summary = map[string]CreditBalance{"usd": {Ledger: 61}} }, DriftSummaryMismatch},
		{"a currency that only the summary knows", func(s *CreditsSnapshot) {
			s.Summary = map[string]CreditBalance{"usd": {Ledger: 60}, "eur": {Ledger: 1}}
		}, DriftSummaryMismatch},
		{"more than was granted", func(s *CreditsSnapshot) { s.Windows[0].Rows[0].Amount = 1 }, DriftGrantOutOfBounds},
		{"less than nothing", func(s *CreditsSnapshot) { s.Windows[0].Rows[0].Amount = -101 }, DriftGrantOutOfBounds},
		{"another currency than the grant's", func(s *CreditsSnapshot) {
			s.Windows[0].Rows[0].Currency, s.Windows[0].Rows[1].Currency = "eur", "eur"
		}, DriftGrantOutOfBounds},
		{"a row without its grant", func(s *CreditsSnapshot) { s.Grants = nil }, DriftOrphan},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := creditSnapshot(credit("b", "g", -40, 2), credit("a", "g", 100, 1))
			tt.change(&s)
			if _, err := PlanCredits(s, CreditsHeld{}); !errors.Is(err, ErrDisproved) {
				t.Fatalf("got %v", err)
			}
			s.AcceptDisproof = true
			plan, err := PlanCredits(s, CreditsHeld{})
			if err != nil || !plan.State.Disproved || len(plan.Open) == 0 || plan.Open[0].Kind != tt.kind {
				t.Fatalf("plan %+v, %v", plan, err)
			}
		})
	}
}

func TestPlanCreditsRefusesRewrittenHistory(t *testing.T) {
	t.Parallel()
	held := CreditsHeld{Rows: []HeldCredit{{ID: "a", Grant: "g", Currency: "usd", Amount: 100, Created: at(1)}}}
	for name, s := range map[string]CreditsSnapshot{
		"missing": creditSnapshot(credit("b", "g", 50, 2)),
		"amount":  creditSnapshot(credit("a", "g", 99, 1)),
		"grant":   creditSnapshot(credit("a", "h", 100, 1)),
	} {
		if _, err := PlanCredits(s, held); !errors.Is(err, ErrLedgerRewritten) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	foreign := creditSnapshot()
	foreign.Grants[0].Customer = "cus_2"
	if _, err := PlanCredits(foreign, CreditsHeld{}); !errors.Is(err, ErrLedgerRewritten) {
		t.Errorf("a grant of somebody else: got %v", err)
	}
}

// I2 and I5: however a true ledger is cut into syncs, the plans lay the same
// closed chain, never lose a row and end at the customer's balance.
func TestPlanBalanceI2I5AnyCutOfALedger(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		held := BalanceHeld{Tops: map[string]HeldRow{}, Balances: map[string]int64{}}
		stored := map[string]HeldRow{}
		var ledger []BalanceTransaction
		balance, second := int64(0), int64(0)
		for n := range rapid.IntRange(1, 8).Draw(rt, "syncs") {
			for i := range rapid.IntRange(0, 6).Draw(rt, "new rows") {
				second += rapid.Int64Range(0, 1).Draw(rt, "gap")
				amount := rapid.Int64Range(-4, 4).Draw(rt, "amount")
				balance += amount
				ledger = append(ledger, row(fmt.Sprintf("r%d_%d", n, i), amount, balance, second))
			}
			// Stripe lists newest first and says nothing about the order within a second.
			listed := slices.Clone(ledger)
			slices.SortStableFunc(listed, func(a, b BalanceTransaction) int {
				if c := b.Created.Compare(a.Created); c != 0 {
					return c
				}
				return slices.Compare([]byte(Digest(a.Raw)), []byte(Digest(b.Raw)))
			})
			cut := len(listed)
			if held.State.HistoryComplete {
				for cut = 0; cut < len(listed) && !listed[cut].Created.Before(held.State.CompleteTo); {
					cut++
				}
				cut = min(cut+1, len(listed))
			}
			s := snapshot(balance)
			s.Windows[0] = Window[BalanceTransaction]{Rows: listed[:cut], FromHead: true, ToEnd: cut == len(listed)}
			s.Full = cut == len(listed)
			held.Rows = nil
			for _, h := range stored {
				for _, span := range s.Spans() {
					if !h.Created.Before(span.From) && (span.To.IsZero() || !h.Created.After(span.To)) {
						held.Rows = append(held.Rows, h)
					}
				}
			}
			plan, err := PlanBalance(s, held)
			if err != nil {
				rt.Fatalf("sync %d: %v", n, err)
			}
			for _, r := range plan.Insert {
				stored[r.ID] = heldRow(r, r.Position)
			}
			for _, p := range plan.Place {
				h := stored[p.ID]
				h.Position = p.Position
				stored[p.ID] = h
			}
			held.State = plan.State
			chain := make([]HeldRow, len(stored)+1)
			for _, h := range stored {
				if h.Position < 1 || int(h.Position) > len(stored) || chain[h.Position].ID != "" {
					rt.Fatalf("sync %d: position %d of %s is taken or out of range", n, h.Position, h.ID)
				}
				chain[h.Position] = h
			}
			end := int64(0)
			for _, h := range chain[1:] {
				if end += h.Amount; end != h.EndingBalance {
					rt.Fatalf("sync %d: chain does not close at %s", n, h.ID)
				}
				held.Tops["usd"] = h
			}
			if end != balance || len(stored) != len(ledger) {
				rt.Fatalf("sync %d: %d rows end at %d, want %d at %d", n, len(stored), end, len(ledger), balance)
			}
		}
	})
}

// A sync that compares some rows alone closes the findings of these: another one may be
// opened between its reads and its commit.
func TestPlanBalanceClosesWhatItCompared(t *testing.T) {
	t.Parallel()
	a, b, c := row("a", -1, -1, 1), row("b", -2, -3, 2), row("c", 3, 0, 3)
	s := snapshot(0, a, b, c)
	held := BalanceHeld{
		State: SyncState{HistoryComplete: true, CompleteTo: at(2)}, Customer: &CustomerView{Customer: s.Customer}, CustomerDigest: Digest(s.Customer.Raw),
		Balances: map[string]int64{"usd": -3}, Rows: []HeldRow{heldRow(a, 1), heldRow(b, 2)}, Tops: map[string]HeldRow{"usd": heldRow(b, 2)},
		Stored: map[string]Stored[BalanceTransaction]{"b": {b, Digest(b.Raw)}},
	}
	for _, full := range []bool{false, true} {
		s.Full, s.Windows[0].ToEnd = full, full
		plan, err := PlanBalance(s, held)
		want := map[bool][]string{false: {"b", "c"}, true: {"c", "b", "a"}}[full]
		if err != nil || !slices.Equal(plan.Close.Compared, want) || len(plan.Close.Objects) != 3 {
			t.Errorf("full %v: %+v, %v", full, plan.Close, err)
		}
	}
}

// What is held of a customer and cannot be read is not written back as none.
func TestPlanWriteOfUnreadableCustomer(t *testing.T) {
	t.Parallel()
	r := row("a", -1, -1, 1)
	held := WriteHeld{State: SyncState{HistoryComplete: true}, Customer: &CustomerView{Customer: Customer{ID: "cus_1", Currency: "usd"}}}
	if _, err := PlanWrite(Write{Row: &r}, held); err != nil {
		t.Fatal(err)
	}
	held.Customer.CreditUnreadable = true
	if _, err := PlanWrite(Write{Row: &r}, held); !errors.Is(err, ErrDisproved) {
		t.Errorf("got %v", err)
	}
}
