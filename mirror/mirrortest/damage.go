package mirrortest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func damageCases() []testCase {
	cases := []testCase{
		{"FullReadFindsARowMovedToAnotherCustomer", movedRow},
		{"FullReadInPiecesRepairsEachPiece", damageInPieces},
		{"GrantThatStripeDoesNotList", unlistedGrant},
		{"GrantsAreComparedWheneverAllAreListed", thoroughGrants},
		{"IncrementalReadLeavesColumnsAlone", incrementalDamage},
		{"IncrementalReadClosesWhatItProves", incrementalProof},
		{"IncrementalReadClosesNoBalanceThatNobodyKnows", unknownBalance},
		{"IncrementalReadOfACustomerClosesItsFinding", customerProof},
		{"IncrementalReadOfAnEditLeavesNoColumn", editedDamage},
		{"UnreadableValuesAreRead", unreadableValues},
		{"UnreadableCreditIsNotNone", unreadableCredit},
		{"RepairClosesWhatWasFoundBefore", repairCloses},
		{"RefusedIsRecordedOnce", refusedOnce},
		{"UnexpectedEndsWhenItIsListedOrGone", unexpectedEnds},
		{"DamageIsTold", damageTold},
		{"I3_RefusalIsFenced", refusalFenced},
		{"RefusedTellsTheDifference", refusedDifferences},
	}
	for _, d := range damages() {
		cases = append(cases, testCase{"FullReadRepairs/" + d.name, func(t *testing.T, h *Harness) { repairDamage(t, h, d) }})
	}
	return cases
}

// damage is a change by SQL to the mirror of damaged ledgers, and the findings that
// report it as kind, currency, object, expected, actual and cause; of a digest
// only the names of the fields.
type damage struct {
	name string
	sql  []string
	want []string
}

const (
	rowsTable     = `customer_balance_transactions`
	creditsTable  = `credit_balance_transactions`
	damagedRow    = ` WHERE customer = 'cus_A' AND id = 'cbtxn_A00003'` // eur, -100, the third
	damagedCredit = ` WHERE customer = 'cus_A' AND id = 'cbtxn_A003'`   // a debit of 300 eur
	damagedGrant  = ` WHERE id = 'credgr_A001'`                         // 1000 eur
	damagedOwner  = ` WHERE id = 'cus_A'`
)

func damages() []damage {
	var list []damage
	one := func(table, where, column, value string, want ...string) {
		name := strings.TrimPrefix(table, "customer_") + "." + strings.Trim(column, `"`)
		list = append(list, damage{name, []string{"UPDATE " + table + " SET " + column + " = " + value + where}, want})
	}
	field := func(object, currency, names string) string {
		return fmt.Sprintf("field_mismatch|%s|%s|digest|%s|unknown", currency, object, names)
	}
	const old = `'2001-01-01T00:00:00.000000Z'`

	one(rowsTable, damagedRow, "amount", "amount - 7", "field_mismatch|eur|cbtxn_A00003|-100|-107|unknown")
	one(rowsTable, damagedRow, "raw", `'{}'`, field("cbtxn_A00003", "eur", "raw"))
	one(rowsTable, damagedRow, "digest", `'x'`, field("cbtxn_A00003", "eur", "digest"))
	for column, value := range map[string]string{
		"currency": `'usd'`, "ending_balance": "ending_balance + 1", "type": `'initial'`, "invoice": `'in_x'`, "credit_note": `NULL`,
		"checkout_session": `'cs_x'`, "description": `'not what Stripe says'`, "metadata": `'{"a":"b"}'`, "created": old, "livemode": "NOT livemode",
	} {
		one(rowsTable, damagedRow, column, value, field("cbtxn_A00003", "eur", column))
	}
	list = append(list,
		damage{"balance_transactions.created into eternity", []string{
			`UPDATE ` + rowsTable + ` SET created = 'infinity'` + damagedRow,
		}, []string{field("cbtxn_A00003", "eur", "created")}},
		damage{"balance_transactions.created into the future", []string{
			`UPDATE ` + rowsTable + ` SET created = '2031-01-01T00:00:00.000000Z'` + damagedRow,
		}, []string{field("cbtxn_A00003", "eur", "created")}},
		damage{"an amount and its JSON", []string{
			`UPDATE ` + rowsTable + ` SET amount = -50, raw = '{"id":"cbtxn_A00003","amount":-50}'` + damagedRow,
		}, []string{"field_mismatch|eur|cbtxn_A00003|-100|-50|unknown"}},
		damage{"an amount and its digest", []string{
			`UPDATE ` + rowsTable + ` SET amount = -50, digest = 'x'` + damagedRow,
		}, []string{"field_mismatch|eur|cbtxn_A00003|-100|-50|unknown"}},
		damage{"a row overwritten", []string{
			`UPDATE ` + rowsTable + ` SET description = 'x', raw = '{}', digest = 'x'` + damagedRow,
		}, []string{field("cbtxn_A00003", "eur", "description, raw")}},
		damage{"amounts that cancel out", []string{
			`UPDATE ` + rowsTable + ` SET amount = amount - 5, ending_balance = ending_balance - 5` + damagedRow,
			`UPDATE ` + rowsTable + ` SET amount = amount + 5 WHERE customer = 'cus_A' AND id = 'cbtxn_A00004'`,
		}, []string{"field_mismatch|eur|cbtxn_A00003|-100|-105|unknown", "field_mismatch|eur|cbtxn_A00004|-60|-55|unknown"}},
		damage{"a row lost", []string{`DELETE FROM ` + rowsTable + damagedRow}, []string{"missing_transaction|eur|cbtxn_A00003|-100||unknown"}},
	)

	one(creditsTable, damagedCredit, "amount", "-301", "field_mismatch|eur|cbtxn_A003|-300|-301|unknown")
	one(creditsTable, damagedCredit, "raw", `'{}'`, field("cbtxn_A003", "eur", "raw"))
	one(creditsTable, damagedCredit, "digest", `'x'`, field("cbtxn_A003", "eur", "digest"))
	for column, value := range map[string]string{
		`"grant"`: `'credgr_A004'`, "type": `'credit'`, "credit_type": `'x'`, "debit_type": `NULL`, "currency": `'gbp'`, "invoice": `'in_x'`,
		"invoice_line_item": `NULL`, "effective_at": old, "created": old, "livemode": "NOT livemode", "test_clock": `'clock_x'`,
	} {
		one(creditsTable, damagedCredit, column, value, field("cbtxn_A003", "eur", strings.Trim(column, `"`)))
	}
	list = append(list,
		damage{"credit times without an end", []string{
			`UPDATE ` + creditsTable + ` SET created = 'infinity', effective_at = 'infinity'` + damagedCredit,
		}, []string{field("cbtxn_A003", "eur", "effective_at, created")}},
		damage{"a credit row of a grant that nobody knows", []string{
			`UPDATE ` + creditsTable + ` SET "grant" = 'credgr_none'` + damagedCredit,
		}, []string{field("cbtxn_A003", "eur", "grant")}},
		damage{"a credit row lost", []string{`DELETE FROM ` + creditsTable + damagedCredit}, []string{"missing_transaction|eur|cbtxn_A003|-300||unknown"}},
	)

	one("credit_grants", damagedGrant, "amount", "1", "field_mismatch|eur|credgr_A001|1000|1|unknown")
	one("credit_grants", damagedGrant, "raw", `'{}'`, field("credgr_A001", "eur", "raw"))
	one("credit_grants", damagedGrant, "digest", `'x'`, field("credgr_A001", "eur", "digest"))
	for column, value := range map[string]string{
		"customer": `'cus_B'`, "name": `'x'`, "category": `'x'`, "amount_type": `'x'`, "currency": `'gbp'`, "priority": "NULL",
		"applicability_config": `'{}'`, "effective_at": old, "expires_at": "NULL", "voided_at": old, "created": old, "updated": old,
		"livemode": "NOT livemode", "test_clock": `'clock_x'`, "metadata": `'{"a":"b"}'`,
	} {
		one("credit_grants", damagedGrant, column, value, field("credgr_A001", "eur", column))
	}

	list = append(list, damage{"grant times without an end", []string{
		`UPDATE credit_grants SET created = 'infinity', updated = 'infinity', expires_at = 'infinity'` + damagedGrant,
	}, []string{field("credgr_A001", "eur", "expires_at, created, updated")}}, damage{"a grant voided for ever", []string{
		`UPDATE credit_grants SET voided_at = 'infinity'` + damagedGrant,
	}, []string{field("credgr_A001", "eur", "voided_at")}})

	one("customers", damagedOwner, "balance", "balance + 7", "balance_mismatch|eur||-260|-253|unknown")
	one("customers", damagedOwner, "invoice_credit_balance", `'{"eur":260}'`, "balance_mismatch|usd||-900|0|unknown")
	one("customers", damagedOwner, "currency", `'usd'`, "balance_mismatch|usd||-900|-260|unknown")
	one("customers", damagedOwner, "raw", `'{}'`, field("cus_A", "", "raw"))
	one("customers", damagedOwner, "digest", `'x'`, field("cus_A", "", "digest"))
	for column, value := range map[string]string{
		"created": old, "livemode": "NOT livemode", "test_clock": `'clock_x'`, "customer_account": `'acct_x'`,
	} {
		one("customers", damagedOwner, column, value, field("cus_A", "", column))
	}
	for name, value := range map[string]string{
		"a list of credits": `'[]'`, "a fraction of credit": `'{"usd":1.5}'`, "credit in words": `'"much"'`,
	} {
		list = append(list, damage{name, []string{`UPDATE customers SET invoice_credit_balance = ` + value + damagedOwner}, []string{"balance_mismatch|usd||-900|0|unknown"}})
	}
	list = append(list,
		damage{"a customer without an end", []string{`UPDATE customers SET created = 'infinity'` + damagedOwner}, []string{field("cus_A", "", "created")}},
		damage{"a customer lost", []string{`DELETE FROM customers` + damagedOwner}, []string{"missing_customer|||customer||unknown"}},
		damage{"a balance changed", []string{
			`UPDATE customer_balances SET balance = 5 WHERE customer = 'cus_A' AND currency = 'usd'`,
		}, []string{"balance_mismatch|usd||-900|5|unknown"}},
		damage{"a balance lost", []string{
			`DELETE FROM customer_balances WHERE customer = 'cus_A' AND currency = 'usd'`,
		}, []string{"balance_mismatch|usd||-900|0|unknown"}},
		damage{"a balance and its customer's", []string{
			`UPDATE customer_balances SET balance = 5 WHERE customer = 'cus_A' AND currency = 'eur'`, `UPDATE customers SET balance = 5` + damagedOwner,
		}, []string{"balance_mismatch|eur||-260|5|unknown"}},
		damage{"a summary changed", []string{
			`UPDATE credit_balance_summaries SET ledger_balance = 1 WHERE customer = 'cus_A' AND currency = 'eur'`,
		}, []string{"summary_mismatch|eur||700|1|unknown"}},
		damage{"a summary lost", []string{
			`DELETE FROM credit_balance_summaries WHERE customer = 'cus_A' AND currency = 'eur'`,
		}, []string{"summary_mismatch|eur||700|0|unknown"}},
		// Nobody can distinguish this one from a claim of a draft invoice; it is repaired all the same.
		damage{"what is available", []string{
			`UPDATE credit_balance_summaries SET available_balance = 1 WHERE customer = 'cus_A' AND currency = 'eur'`,
		}, nil},
	)
	return list
}

// damagedLedgers are two customers with both ledgers, synced an hour ago.
func damagedLedgers(t *testing.T, h *Harness) (*ledger, *credits) {
	t.Helper()
	for _, id := range []string{"cus_B", "cus_A"} {
		l, c := newLedger("", id), newCredits("", id)
		for i, amount := range []int64{-200, 100, -100, -60} {
			r := l.add("eur", amount)
			r.Invoice, r.CreditNote = "in_1", "cn_1"
			l.render(i)
		}
		l.add("usd", -900)
		c.move(c.grant("eur", 1000).ID, "eur", -300)
		c.move(c.grant("usd", 50).ID, "usd", -50)
		l.sync(t, h)
		c.sync(t, h)
		if id == "cus_A" {
			l.now, c.now = l.now.Add(time.Hour), c.now.Add(time.Hour)
			return l, c
		}
	}
	return nil, nil
}

// contents are all rows of the mirror's tables, but when they were written.
func (h *Harness) contents(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, table := range mirror.Tables() {
		if !slices.Contains([]string{
			"customers", "customer_balances", rowsTable, "credit_grants", creditsTable, "credit_balance_summaries",
		}, table.Name) {
			continue
		}
		var columns []string
		for _, c := range table.Columns {
			if c.Name != "synced_at" {
				columns = append(columns, `"`+c.Name+`"`)
			}
		}
		for _, row := range h.rows(t, "SELECT "+strings.Join(columns, ", ")+" FROM "+table.Name+" ORDER BY 1, 2, 3") {
			fmt.Fprintln(&all, table.Name, row)
		}
	}
	return all.String()
}

// toldFindings are findings as a damage wants them.
func toldFindings(list []mirror.Finding) []string {
	var out []string
	for _, f := range list {
		if strings.HasPrefix(f.Expected, "digest ") {
			f.Expected = "digest"
			_, f.Actual, _ = strings.Cut(f.Actual, ": ")
		}
		out = append(out, strings.Join([]string{string(f.Kind), f.Currency, f.Object, f.Expected, f.Actual, f.Cause}, "|"))
	}
	slices.Sort(out)
	return out
}

func (h *Harness) exec(t *testing.T, statements ...string) {
	t.Helper()
	if h.Exec == nil {
		t.Skip("this driver's test offers no SQL")
	}
	for _, s := range statements {
		if err := h.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// repairDamage: a full read finds what was changed in any column, records it once
// as repaired, and leaves the tables as they were before; the next one writes nothing.
// A rehearsal before it finds the same, and writes nothing.
func repairDamage(t *testing.T, h *Harness, d damage) {
	l, c := damagedLedgers(t, h)
	before := h.contents(t)
	h.exec(t, d.sql...)
	if h.contents(t) == before {
		t.Fatal("nothing was damaged")
	}
	want := slices.Sorted(slices.Values(d.want))
	damaged := h.tables(t)
	if got := toldFindings(rehearse(t, h, l, c)); !slices.Equal(got, want) {
		t.Errorf("rehearsed\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if h.tables(t) != damaged {
		t.Error("the rehearsal wrote")
	}
	found := append(l.sync(t, h).Repaired, c.sync(t, h).Repaired...)
	if got := toldFindings(found); !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var recorded []mirror.Finding
	list, err := h.Findings(t.Context(), mirror.FindingsQuery{RepairedSince: epoch0, Limit: 100})
	noErr(t, err)
	for _, f := range list {
		if f.RepairedAt.IsZero() || f.Scope == "" || f.FoundAt.IsZero() {
			t.Errorf("recorded %+v", f)
		}
		recorded = append(recorded, f)
	}
	if got := toldFindings(recorded); !slices.Equal(got, want) {
		t.Errorf("recorded\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if after := h.contents(t); after != before {
		t.Errorf("the tables have\n%s\nwant\n%s", after, before)
	}
	changes, stamps := h.changes(t), h.stamps(t)
	if a := l.sync(t, h); a.Changed() || len(a.Repaired) != 0 {
		t.Errorf("the next full read: %+v", a)
	}
	if a := c.sync(t, h); a.Changed() || len(a.Repaired) != 0 {
		t.Errorf("the next full read of credits: %+v", a)
	}
	if h.changes(t) != changes || h.stamps(t) != stamps {
		t.Error("a full read without news wrote rows")
	}
}

// movedRow: who lost the row gets it back; who has it must not, and is refused.
func movedRow(t *testing.T, h *Harness) {
	l, _ := damagedLedgers(t, h)
	h.exec(t, `UPDATE `+rowsTable+` SET customer = 'cus_B'`+damagedRow)
	want := []string{"missing_transaction|eur|cbtxn_A00003|-100||unknown"}
	if got := toldFindings(l.sync(t, h).Repaired); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	requireChain(t, h, l)
	other := newLedger("", "cus_B")
	for i, amount := range []int64{-200, 100, -100, -60} {
		other.add("eur", amount).Invoice = "in_1"
		other.rows[i].CreditNote = "cn_1"
		other.render(i)
	}
	other.add("usd", -900)
	_, err := h.ApplyBalance(t.Context(), other.whole(begin(t, h, other.target())))
	var rewritten *mirror.RewrittenError
	if !errors.As(err, &rewritten) || !errors.Is(err, mirror.ErrLedgerRewritten) {
		t.Fatalf("got %v", err)
	}
	want = []string{"unexpected_transaction|eur|cbtxn_A00003||-100|rewritten history"}
	if got := toldFindings(rewritten.Findings); !slices.Equal(got, want) || rewritten.Lasting() {
		t.Errorf("told %q, want %q", got, want)
	}
}

// damageInPieces: each piece of a long history is compared when it is read, rows
// whose time was changed with the piece that Stripe lists them in.
func damageInPieces(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for i := range 12 {
		l.add([]string{"eur", "usd"}[i%2], int64(-i-1))
	}
	l.sync(t, h)
	before := h.contents(t)
	h.exec(t,
		`UPDATE `+rowsTable+` SET amount = 5 WHERE id = 'cbtxn_A00012'`,
		`UPDATE `+rowsTable+` SET created = '2026-03-01T12:00:11.000000Z', description = 'x' WHERE id = 'cbtxn_A00002'`, // among the newest
		`UPDATE `+rowsTable+` SET created = '2026-03-01T12:00:01.000000Z' WHERE id = 'cbtxn_A00011'`,                    // among the oldest
		`UPDATE `+rowsTable+` SET currency = 'usd' WHERE id = 'cbtxn_A00005'`,
	)
	noErr(t, h.RequestFullRead(t.Context(), []mirror.Target{l.target()}))
	l.now = l.now.Add(time.Hour)
	all := l.newest(12)
	var found []mirror.Finding
	for from := 0; from < 12; from += 4 {
		snap := l.whole(begin(t, h, l.target()))
		snap.Windows = []mirror.Window[mirror.BalanceTransaction]{{Rows: all[from : from+4], FromHead: from == 0, ToEnd: from == 8}}
		snap.Joined, snap.Full = from == 8, from == 8
		if !snap.Joined {
			snap.Walk = mirror.Walk{Cursor: all[from+3].ID, Top: all[0].Created, Full: true}
		}
		found = append(found, applyBalance(t, h, snap).Repaired...)
	}
	want := []string{
		"field_mismatch|eur|cbtxn_A00005|digest|currency|unknown", "field_mismatch|eur|cbtxn_A00011|digest|created|unknown",
		"field_mismatch|usd|cbtxn_A00002|digest|description, created|unknown", "field_mismatch|usd|cbtxn_A00012|-12|5|unknown",
	}
	if got := toldFindings(found); !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if after := h.contents(t); after != before {
		t.Errorf("the tables have\n%s\nwant\n%s", after, before)
	}
	requireChain(t, h, l)
}

// unlistedGrant: Stripe deletes no grant, so one that it does not list disproves
// the ledger until it is gone; the rest is kept in step.
func unlistedGrant(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	c.grant("eur", 1000)
	c.sync(t, h)
	h.exec(t, `INSERT INTO credit_grants (account, id, customer, category, amount_type, amount, currency, applicability_config, created, updated, livemode, metadata, raw, digest, synced_at)
SELECT account, 'credgr_forged', customer, category, amount_type, 77, currency, applicability_config, created, updated, livemode, metadata, raw, digest, synced_at FROM credit_grants`)
	c.move(c.grants[0].ID, "eur", -1)
	snap := c.snapshot(begin(t, h, c.target()), 10)
	snap.AllGrants = true
	refuseCredits(t, h, snap, mirror.ErrDisproved)
	snap.AcceptDisproof = true
	a := applyCredits(t, h, snap)
	if a.Inserted != 1 || len(a.Findings) != 1 || a.Findings[0].Kind != mirror.DriftUnexpectedTransaction || a.Findings[0].Object != "credgr_forged" {
		t.Fatalf("%+v", a)
	}
	snap.Epoch = begin(t, h, c.target()).Epoch
	if a := applyCredits(t, h, snap); len(a.Findings)+len(a.Closed) != 0 {
		t.Fatalf("once more: %+v", a)
	}
	h.exec(t, `DELETE FROM credit_grants WHERE id = 'credgr_forged'`)
	snap.Epoch = begin(t, h, c.target()).Epoch
	applyCredits(t, h, snap)
	requireOpen(t, h)
}

// thoroughGrants: a sync that lists every grant compares them, whatever it reads of
// the rows.
func thoroughGrants(t *testing.T, h *Harness) {
	_, c := damagedLedgers(t, h)
	before := h.contents(t)
	h.exec(t, `UPDATE credit_grants SET name = 'x'`+damagedGrant)
	snap := c.snapshot(begin(t, h, c.target()), 1)
	snap.AllGrants = true
	want := []string{"field_mismatch|eur|credgr_A001|digest|name|unknown"}
	if got := toldFindings(applyCredits(t, h, snap).Repaired); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if h.contents(t) != before {
		t.Error("the grant is not what it was")
	}
}

// incrementalDamage: a read of the newest rows looks at no more than it did, and
// refuses what contradicts it; the full read then shows who is right.
func incrementalDamage(t *testing.T, h *Harness) {
	l, _ := damagedLedgers(t, h)
	h.exec(t, `UPDATE `+rowsTable+` SET description = 'x' WHERE id = 'cbtxn_A00005'`)
	if a := applyBalance(t, h, l.snapshot(begin(t, h, l.target()), 2)); a.Changed() || len(a.Repaired) != 0 {
		t.Errorf("a sync of the newest rows: %+v", a)
	}
	h.exec(t, `UPDATE `+rowsTable+` SET amount = 1 WHERE id = 'cbtxn_A00005'`)
	requireRefused(t, h, l.snapshot(begin(t, h, l.target()), 2), mirror.ErrLedgerRewritten)
	h.exec(t, `UPDATE `+rowsTable+` SET created = '2001-01-01T00:00:00.000000Z' WHERE id = 'cbtxn_A00005'`)
	requireRefused(t, h, l.snapshot(begin(t, h, l.target()), 2), mirror.ErrDisproved) // it looks like a new row
	if a := l.sync(t, h); a.Updated != 1 || len(a.Repaired) != 1 {
		t.Errorf("a full read: %+v", a)
	}
	requireChain(t, h, l)
}

// incrementalProof: a finding is closed by the rows that a sync has compared in every
// column, and by no others; what it compares it repairs.
func incrementalProof(t *testing.T, h *Harness) {
	l, c := damagedLedgers(t, h)
	before := h.contents(t)
	h.exec(t, `UPDATE `+rowsTable+` SET description = 'x' WHERE customer = 'cus_A' AND id IN ('cbtxn_A00003', 'cbtxn_A00005')`,
		`UPDATE `+creditsTable+` SET invoice = 'in_x' WHERE customer = 'cus_A'`,
		`UPDATE credit_grants SET name = 'x' WHERE customer = 'cus_A'`,
		`DELETE FROM `+rowsTable+` WHERE customer = 'cus_A' AND id = 'cbtxn_A00001'`,
		`DELETE FROM `+creditsTable+` WHERE customer = 'cus_A' AND id = 'cbtxn_A002'`)
	rows := func(kind mirror.DriftKind, scope mirror.Scope, ids ...string) (list []mirror.Finding) {
		for _, id := range ids {
			list = append(list, mirror.Finding{Kind: kind, Customer: "cus_A", Scope: scope, Object: id})
		}
		return list
	}
	_, err := h.OpenFindings(t.Context(), slices.Concat(
		rows(mirror.DriftFieldMismatch, mirror.ScopeBalance, "cbtxn_A00003", "cbtxn_A00004", "cbtxn_A00005"),
		rows(mirror.DriftFieldMismatch, mirror.ScopeCredits, c.rows[1].ID, c.rows[3].ID, c.grants[0].ID, c.grants[1].ID),
		rows(mirror.DriftMissingTransaction, mirror.ScopeBalance, "cbtxn_A00001", "cbtxn_A00002"),
		rows(mirror.DriftMissingTransaction, mirror.ScopeCredits, "cbtxn_A002", c.rows[2].ID),
	))
	noErr(t, err)
	if a := applyBalance(t, h, l.snapshot(begin(t, h, l.target()), 2)); a.Updated != 1 {
		t.Errorf("a sync of the newest rows: %+v", a)
	}
	snap := c.snapshot(begin(t, h, c.target()), 1)
	snap.Grants = c.grants[1:2]
	snap.Summary, snap.AcceptDisproof = nil, true
	applyCredits(t, h, snap)
	requireOpen(t, h,
		"field_mismatch/cus_A/cbtxn_A00003/false", "field_mismatch/cus_A/"+c.rows[1].ID+"/false", "field_mismatch/cus_A/"+c.grants[0].ID+"/false",
		"grant_out_of_bounds/cus_A/"+c.grants[0].ID+"/false",
		"missing_transaction/cus_A/cbtxn_A00001/false", "missing_transaction/cus_A/cbtxn_A002/false")
	l.sync(t, h)
	c.sync(t, h)
	requireOpen(t, h)
	if after := h.contents(t); after != before {
		t.Errorf("the tables have\n%s\nwant\n%s", after, before)
	}
}

// unknownBalance: that there is no balance in a currency is proven by the whole
// history alone.
func unknownBalance(t *testing.T, h *Harness) {
	l, _ := damagedLedgers(t, h)
	h.exec(t, `INSERT INTO customer_balances (account, customer, currency, balance, synced_at)
SELECT account, customer, 'xxx', 5, synced_at FROM customer_balances WHERE customer = 'cus_A' AND currency = 'usd'`)
	_, err := h.OpenFindings(t.Context(), []mirror.Finding{{Kind: mirror.DriftBalanceMismatch, Customer: "cus_A", Scope: mirror.ScopeBalance, Currency: "xxx"}})
	noErr(t, err)
	applyBalance(t, h, l.snapshot(begin(t, h, l.target()), 2))
	requireOpen(t, h, "balance_mismatch/cus_A//false")
	l.sync(t, h)
	requireOpen(t, h)
	_, err = h.OpenFindings(t.Context(), []mirror.Finding{{Kind: mirror.DriftBalanceMismatch, Customer: "cus_A", Scope: mirror.ScopeBalance, Currency: "xxx"}})
	noErr(t, err)
	applyBalance(t, h, l.snapshot(begin(t, h, l.target()), 2))
	requireOpen(t, h) // the balance is zero now, as it has to be
}

// customerProof: news of a customer are written whole, which proves that it differs
// no more; a sync without any proves nothing.
func customerProof(t *testing.T, h *Harness) {
	l, _ := damagedLedgers(t, h)
	h.exec(t, `UPDATE customers SET livemode = NOT livemode`+damagedOwner)
	_, err := h.OpenFindings(t.Context(), []mirror.Finding{{Kind: mirror.DriftFieldMismatch, Customer: "cus_A", Scope: mirror.ScopeBalance, Object: "cus_A"}})
	noErr(t, err)
	applyBalance(t, h, l.snapshot(begin(t, h, l.target()), 2))
	requireOpen(t, h, "field_mismatch/cus_A/cus_A/false")
	l.extra = map[string]any{"preferred_locales": []string{"de"}}
	if a := applyBalance(t, h, l.snapshot(begin(t, h, l.target()), 2)); a.Updated != 1 {
		t.Errorf("news: %+v", a)
	}
	requireOpen(t, h)
	if a := l.sync(t, h); a.Changed() {
		t.Errorf("the next full read: %+v", a)
	}
}

// editedDamage: where a row was edited at Stripe and changed here, both are gone when
// its finding is closed.
func editedDamage(t *testing.T, h *Harness) {
	l, c := damagedLedgers(t, h)
	last := len(c.rows) - 1
	h.exec(t, `UPDATE `+rowsTable+` SET livemode = NOT livemode WHERE customer = 'cus_A' AND id = 'cbtxn_A00005'`,
		`UPDATE `+creditsTable+` SET livemode = NOT livemode WHERE customer = 'cus_A' AND id = '`+c.rows[last].ID+`'`)
	_, err := h.OpenFindings(t.Context(), []mirror.Finding{
		{Kind: mirror.DriftFieldMismatch, Customer: "cus_A", Scope: mirror.ScopeBalance, Object: "cbtxn_A00005"},
		{Kind: mirror.DriftFieldMismatch, Customer: "cus_A", Scope: mirror.ScopeCredits, Object: c.rows[last].ID},
	})
	noErr(t, err)
	l.rows[4].Description = "edited"
	l.render(4)
	c.rows[last].Raw = edited(c.rows[last].Raw, func(o map[string]any) { o["new"] = 1 })
	applyBalance(t, h, l.snapshot(begin(t, h, l.target()), 2))
	applyCredits(t, h, c.snapshot(begin(t, h, c.target()), 1))
	requireOpen(t, h)
	if a := l.sync(t, h); a.Changed() || len(a.Repaired) != 0 {
		t.Errorf("the next full read: %+v", a)
	}
	if a := c.sync(t, h); a.Changed() || len(a.Repaired) != 0 {
		t.Errorf("the next full read of credits: %+v", a)
	}
}

// unreadableCredit: what cannot be read is written anew also where Stripe has none,
// by a read of the newest rows too.
func unreadableCredit(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.sync(t, h)
	before := h.contents(t)
	h.exec(t, `UPDATE customers SET invoice_credit_balance = '[]'`)
	want := []string{"field_mismatch||cus_A|digest|invoice_credit_balance|unknown"}
	if a := l.sync(t, h); !slices.Equal(toldFindings(a.Repaired), want) || h.contents(t) != before {
		t.Errorf("%+v, want %q\n%s\nwas\n%s", a, want, h.contents(t), before)
	}
	l.add("eur", -1)
	l.add("eur", 1)
	l.sync(t, h)
	before = h.contents(t)
	h.exec(t, `UPDATE customers SET invoice_credit_balance = '[]'`)
	if a := applyBalance(t, h, l.snapshot(begin(t, h, l.target()), 1)); a.Updated != 1 || h.contents(t) != before {
		t.Errorf("the newest row: %+v", a)
	}
}

// unreadableValues: what SQL has put where no value of Stripe's can be hinders
// neither the sweeps nor the readers.
func unreadableValues(t *testing.T, h *Harness) {
	l, c := damagedLedgers(t, h)
	h.exec(t,
		`UPDATE customers SET invoice_credit_balance = '[]', created = 'infinity'`+damagedOwner,
		`UPDATE `+rowsTable+` SET created = 'infinity'`+damagedRow, `UPDATE `+creditsTable+` SET created = 'infinity'`+damagedCredit,
		`UPDATE credit_grants SET created = 'infinity', updated = 'infinity'`+damagedGrant)
	for _, target := range []mirror.Target{l.target(), c.target()} {
		if damaged, err := h.Damaged(t.Context(), target, []string{"cbtxn_A00003", "cbtxn_A003", "credgr_A001"}); err != nil || !damaged {
			t.Errorf("%s: damaged %v, %v", target, damaged, err)
		}
	}
	held, err := h.HeldCustomers(t.Context(), "", []string{"cus_A", "cus_B"})
	if err != nil || len(held) != 2 || held["cus_A"].InvoiceCreditBalance != nil {
		t.Errorf("held: %+v, %v", held, err)
	}
	customers, err := h.Customers(t.Context(), "", "", 10)
	if err != nil || len(customers) != 2 {
		t.Errorf("customers: %+v, %v", customers, err)
	}
	page := mirror.Page{Limit: 10}
	if s, err := h.BalanceTransactions(t.Context(), "", "cus_A", page); err != nil || len(s.Rows) != 5 {
		t.Errorf("transactions: %+v, %v", s, err)
	}
	if s, err := h.CreditTransactions(t.Context(), "", "cus_A", "", page); err != nil || len(s.Rows) != len(c.rows) {
		t.Errorf("credit transactions: %+v, %v", s, err)
	}
	if s, err := h.Grants(t.Context(), "", "cus_A", page); err != nil || len(s.Rows) != 2 {
		t.Errorf("grants: %+v, %v", s, err)
	}
	if list, err := h.LivingCustomers(t.Context(), "", mirror.Place{Created: time.Now()}, time.Time{}, 10); err != nil {
		t.Errorf("living customers: %+v, %v", list, err)
	}
	l.sync(t, h)
	c.sync(t, h)
	if a := l.sync(t, h); a.Changed() || len(a.Repaired) != 0 {
		t.Errorf("the next full read: %+v", a)
	}
}

// repairCloses: a difference that was recorded while nothing was repaired is closed
// by the commit that repairs it, and not recorded once more.
func repairCloses(t *testing.T, h *Harness) {
	l, c := damagedLedgers(t, h)
	h.exec(t, `UPDATE `+rowsTable+` SET description = 'x'`+damagedRow, `DELETE FROM `+creditsTable+damagedCredit)
	_, err := h.OpenFindings(t.Context(), []mirror.Finding{
		{Kind: mirror.DriftFieldMismatch, Customer: "cus_A", Scope: mirror.ScopeBalance, Currency: "eur", Object: "cbtxn_A00003"},
		{Kind: mirror.DriftMissingTransaction, Customer: "cus_A", Scope: mirror.ScopeCredits, Currency: "eur", Object: "cbtxn_A003"},
	})
	noErr(t, err)
	if a := l.sync(t, h); len(a.Repaired) != 0 || !slices.Equal(a.Closed, []mirror.DriftKind{mirror.DriftFieldMismatch}) {
		t.Errorf("balance: %+v", a)
	}
	if a := c.sync(t, h); len(a.Repaired) != 0 || !slices.Equal(a.Closed, []mirror.DriftKind{mirror.DriftMissingTransaction}) {
		t.Errorf("credits: %+v", a)
	}
	all, err := h.Findings(t.Context(), mirror.FindingsQuery{RepairedSince: epoch0, Limit: 10})
	if err != nil || len(all) != 2 || all[0].RepairedAt.IsZero() || all[1].RepairedAt.IsZero() {
		t.Errorf("recorded %+v, %v", all, err)
	}
}

func refusal(st mirror.SyncState, target mirror.Target, list ...mirror.Finding) mirror.Refusal {
	for i := range list {
		list[i].Customer, list[i].Account, list[i].Scope, list[i].Cause = target.ID, target.Account, target.Scope, mirror.CauseRewritten
	}
	return mirror.Refusal{Target: target, Epoch: st.Epoch, ObservedAt: refusedAt(st), Findings: list}
}

// testsBegan is before every epoch of these tests, in microseconds.
var testsBegan = time.Now().UnixMicro()

// refusedAt is when the reads of a refused sync began.
func refusedAt(st mirror.SyncState) time.Time {
	return epoch0.Add(time.Duration(st.Epoch-testsBegan) * time.Microsecond)
}

// refusedOnce: a refused sync leaves its findings open, each once, and a commit that
// shows them gone closes them.
func refusedOnce(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -1)
	l.sync(t, h)
	before := h.contents(t)
	wrong := mirror.Finding{Kind: mirror.DriftFieldMismatch, Currency: "eur", Object: l.rows[0].ID, Expected: "-1", Actual: "-2"}
	gone := mirror.Finding{Kind: mirror.DriftUnexpectedTransaction, Currency: "eur", Object: "cbtxn_x", Actual: "-5"}
	for n := range 3 {
		st := begin(t, h, l.target())
		if st.Walk.Full || st.RefusedAt.IsZero() != (n == 0) {
			t.Fatalf("state before refusal %d: %+v", n, st)
		}
		opened, err := h.Refuse(t.Context(), refusal(st, l.target(), wrong, gone))
		if err != nil || len(opened) != map[bool]int{true: 2, false: 0}[n == 0] {
			t.Fatalf("refusal %d opened %+v, %v", n, opened, err)
		}
		requireOpen(t, h, "field_mismatch/cus_A/"+l.rows[0].ID+"/false", "unexpected_transaction/cus_A/cbtxn_x/false")
		at := refusedAt(st)
		for since, want := range map[time.Time]int{at: 1, at.Add(time.Microsecond): 0} {
			if list, err := h.Refused(t.Context(), "", since); err != nil || len(list) != want || want > 0 && list[0] != l.target() {
				t.Fatalf("refused since %v: %v, %v, want %d", since, list, err, want)
			}
		}
	}
	if list, err := h.Refused(t.Context(), "acct_1", time.Time{}); err != nil || len(list) != 0 {
		t.Fatalf("refused of another account: %v, %v", list, err)
	}
	if h.contents(t) != before {
		t.Fatal("a refusal changed what is held")
	}
	totals, err := h.Totals(t.Context())
	if err != nil || totals.DriftOpen[mirror.DriftFieldMismatch] != 1 || totals.DriftAmount["eur"] != 1 {
		t.Fatalf("drift %v, %v, %v", totals.DriftOpen, totals.DriftAmount, err)
	}
	if a := l.sync(t, h); a.Changed() || len(a.Closed) != 2 {
		t.Fatalf("a full read: %+v", a)
	}
	requireOpen(t, h)
	if st := begin(t, h, l.target()); !st.RefusedAt.IsZero() || st.Walk.Full {
		t.Fatalf("state after a commit: %+v", st)
	}
	if list, err := h.Refused(t.Context(), "", time.Time{}); err != nil || len(list) != 0 {
		t.Fatalf("refused after a commit: %v, %v", list, err)
	}
	st := begin(t, h, l.target())
	if opened, err := h.Refuse(t.Context(), refusal(st, l.target())); err != nil || len(opened) != 0 {
		t.Fatalf("without findings: %v, %v", opened, err)
	}
	bury(t, h, l.target())
	if list, err := h.Refused(t.Context(), "", time.Time{}); err != nil || len(list) != 0 {
		t.Fatalf("refused after a tombstone: %v, %v", list, err)
	}
}

// unexpectedEnds: what Stripe lists is not unexpected, nor is what is not held any
// more; a sync that shows neither leaves the finding open.
func unexpectedEnds(t *testing.T, h *Harness) {
	l, c := damagedLedgers(t, h)
	h.exec(t, `INSERT INTO `+rowsTable+` (account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode, raw, digest, synced_at)
SELECT account, customer, 'cbtxn_forged', currency, amount, ending_balance, type, metadata, '2001-01-01T00:00:00.000000Z', livemode, raw, digest, synced_at
FROM `+rowsTable+damagedRow)
	var list []mirror.Finding
	for _, object := range []string{l.rows[4].ID, l.rows[0].ID, "cbtxn_forged", "cbtxn_gone"} {
		list = append(list, mirror.Finding{Kind: mirror.DriftUnexpectedTransaction, Customer: "cus_A", Scope: mirror.ScopeBalance, Object: object})
	}
	for _, object := range []string{c.rows[0].ID, c.grants[0].ID, "credgr_gone"} {
		list = append(list, mirror.Finding{Kind: mirror.DriftUnexpectedTransaction, Customer: "cus_A", Scope: mirror.ScopeCredits, Object: object})
	}
	_, err := h.OpenFindings(t.Context(), list)
	noErr(t, err)
	snap := l.snapshot(begin(t, h, l.target()), 2)
	snap.Joined, snap.Walk = false, mirror.Walk{Cursor: l.rows[3].ID, Top: l.rows[4].Created} // a row without a place breaks the chain
	applyBalance(t, h, snap)
	credits := c.snapshot(begin(t, h, c.target()), 1)
	credits.Grants = nil
	applyCredits(t, h, credits)
	requireOpen(t, h, "unexpected_transaction/cus_A/"+l.rows[0].ID+"/false", "unexpected_transaction/cus_A/"+c.rows[0].ID+"/false",
		"unexpected_transaction/cus_A/cbtxn_forged/false", "unexpected_transaction/cus_A/"+c.grants[0].ID+"/false")
	h.exec(t, `DELETE FROM `+rowsTable+` WHERE id = 'cbtxn_forged'`)
	l.sync(t, h)
	c.sync(t, h)
	requireOpen(t, h)
}

// damageTold: a row that does not lie as it was written is distinguished from one that does,
// by the target's own rows and any grants.
func damageTold(t *testing.T, h *Harness) {
	l, c := damagedLedgers(t, h)
	balance, credits := []string{"cbtxn_A00003", "cbtxn_A00004", "cbtxn_none"}, []string{"cbtxn_A003", "credgr_A001", "credgr_none"}
	check := func(what string, target mirror.Target, ids []string, want bool) {
		t.Helper()
		if got, err := h.Damaged(t.Context(), target, ids); err != nil || got != want {
			t.Errorf("%s: damaged %v, %v, want %v", what, got, err, want)
		}
	}
	check("nothing", l.target(), nil, false)
	check("as written", l.target(), balance, false)
	check("as written", c.target(), credits, false)
	h.exec(t, `UPDATE `+rowsTable+` SET description = 'x'`+damagedRow)
	check("a description proves nothing", l.target(), balance, false)
	h.exec(t, `UPDATE `+rowsTable+` SET amount = 1`+damagedRow)
	check("an amount", l.target(), balance, true)
	check("another row", l.target(), balance[1:], false)
	check("the other ledger", c.target(), balance, false)
	check("another customer", mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_B"}, balance, false)
	h.exec(t, `UPDATE `+creditsTable+` SET amount = 1`+damagedCredit)
	check("a credit row", c.target(), credits, true)
	check("its grant", c.target(), credits[1:], false)
	h.exec(t, `UPDATE credit_grants SET customer = 'cus_B'`+damagedGrant)
	check("a grant's owner", c.target(), credits[1:], true)
}

// refusalFenced: a sync that was overtaken has nothing to say.
func refusalFenced(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.sync(t, h)
	old := begin(t, h, l.target())
	begin(t, h, l.target())
	state := h.syncState(t)
	_, err := h.Refuse(t.Context(), refusal(old, l.target(), mirror.Finding{Kind: mirror.DriftFieldMismatch, Object: "cbtxn_x"}))
	if !errors.Is(err, mirror.ErrFenced) {
		t.Fatalf("got %v, want ErrFenced", err)
	}
	requireOpen(t, h)
	if h.syncState(t) != state {
		t.Fatal("a fenced refusal wrote something")
	}
}

// refusedDifferences: what a reply contradicts is reported by ids and amounts, for rows
// and grants that lie as they were written.
func refusedDifferences(t *testing.T, h *Harness) {
	l, c := damagedLedgers(t, h)
	for _, tt := range []struct {
		edit func(*mirror.BalanceSnapshot)
		want string
	}{
		{func(s *mirror.BalanceSnapshot) { s.Windows[0].Rows[1].Amount = -61 }, "field_mismatch|eur|cbtxn_A00004|-61|-60|rewritten history"},
		{func(s *mirror.BalanceSnapshot) { s.Windows[0].Rows[1].Currency = "gbp" }, "field_mismatch|gbp|cbtxn_A00004|currency gbp|currency eur|rewritten history"},
		{func(s *mirror.BalanceSnapshot) { s.Windows[0].Rows[1].EndingBalance = 0 }, "field_mismatch|eur|cbtxn_A00004|ending_balance 0|ending_balance -260|rewritten history"},
		{func(s *mirror.BalanceSnapshot) { s.Windows[0].Rows = slices.Delete(s.Windows[0].Rows, 1, 2) }, "unexpected_transaction|eur|cbtxn_A00004||-60|rewritten history"},
	} {
		snap := l.whole(begin(t, h, l.target()))
		snap.AcceptDisproof = true
		tt.edit(&snap)
		_, err := h.ApplyBalance(t.Context(), snap)
		var rewritten *mirror.RewrittenError
		if !errors.As(err, &rewritten) || !slices.Equal(toldFindings(rewritten.Findings), []string{tt.want}) {
			t.Errorf("got %v, %+v, want %s", err, rewritten, tt.want)
		}
	}
	snap := c.snapshot(begin(t, h, c.target()), 10)
	snap.Grants[0].Customer, snap.Target.ID = "cus_A", "cus_A"
	snap.Grants[0].Amount, snap.AllGrants = 2000, true
	_, err := h.ApplyCredits(t.Context(), snap)
	var rewritten *mirror.RewrittenError
	want := []string{"field_mismatch|eur|credgr_A001|2000|1000|rewritten history"}
	if !errors.As(err, &rewritten) || !slices.Equal(toldFindings(rewritten.Findings), want) || !rewritten.Lasting() {
		t.Errorf("grant: got %v, %+v, want %q", err, rewritten, want)
	}
}
