package verify_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
	"github.com/creditmirror/creditmirror/verify"
)

// prove runs a proof and returns its findings in brief.
func prove(t *testing.T, d *database, o verify.Options) ([]string, verify.Result) {
	t.Helper()
	var found []string
	result, err := verify.Run(t.Context(), d.store, o, func(f mirror.Finding) error {
		if f.Cause == "" || f.FoundAt.IsZero() || f.Scope == "" {
			t.Errorf("%+v lacks its cause, time or scope", f)
		}
		found = append(found, brief(f))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if int(result.Findings) != len(found) {
		t.Errorf("%d findings are counted, %d told", result.Findings, len(found))
	}
	return found, result
}

// A mirror made by real syncs closes; what is then broken by SQL is named, and
// nothing else.
func TestNamesExactlyWhatIsBroken(t *testing.T) {
	t.Parallel()
	const (
		a, b    = ` WHERE account = '' AND customer = 'cus_a'`, ` WHERE account = 'acct_1' AND customer = 'cus_b'`
		rows    = `customer_balance_transactions`
		credits = `credit_balance_transactions`
	)
	tests := []struct {
		name string
		sql  []string
		want []string
	}{
		{"clean", nil, nil},
		{
			"amount",
			[]string{`UPDATE ` + rows + ` SET amount = amount - 1` + a + ` AND id = 'cbtxn_a00003'`},
			[]string{"chain_gap||cus_a|eur|cbtxn_a00003|-300|-299"},
		},
		{
			"amount of the first row",
			[]string{`UPDATE ` + rows + ` SET amount = 7` + a + ` AND id = 'cbtxn_a00001'`},
			[]string{"chain_gap||cus_a|eur|cbtxn_a00001|0|-507"},
		},
		{
			"amount of the last row",
			[]string{`UPDATE ` + rows + ` SET amount = 7` + a + ` AND id = 'cbtxn_a00012'`},
			[]string{"chain_gap||cus_a|eur|cbtxn_a00012|-429|-447"},
		},
		{
			"amount to the least number",
			[]string{`UPDATE ` + rows + ` SET amount = -9223372036854775807` + a + ` AND id = 'cbtxn_a00003'`},
			[]string{"chain_gap||cus_a|eur|cbtxn_a00003|-300|9223372036854775407"},
		},
		{
			"ending balance",
			[]string{`UPDATE ` + rows + ` SET ending_balance = 99` + a + ` AND id = 'cbtxn_a00010'`},
			[]string{"chain_gap||cus_a|usd|cbtxn_a00010|-900|-301"},
		},
		{
			"ending balance of the last row",
			[]string{`UPDATE ` + rows + ` SET ending_balance = 99` + a + ` AND id = 'cbtxn_a00011'`},
			[]string{"chain_gap||cus_a|usd|cbtxn_a00011|-500|89"},
		},
		{"amount and ending balances, so that the chain closes", []string{
			`UPDATE ` + rows + ` SET amount = amount - 1, ending_balance = ending_balance - 1` + a + ` AND id = 'cbtxn_a00010'`,
			`UPDATE ` + rows + ` SET amount = amount + 1` + a + ` AND id = 'cbtxn_a00011'`,
		}, []string{
			"field_mismatch||cus_a|usd|cbtxn_a00010|400|399", "field_mismatch||cus_a|usd|cbtxn_a00010|-500|-501",
			"field_mismatch||cus_a|usd|cbtxn_a00011|10|11",
		}},
		{
			"amounts of two rows, one after the other",
			[]string{`UPDATE ` + rows + ` SET amount = amount - 1` + a + ` AND id IN ('cbtxn_a00002', 'cbtxn_a00003')`},
			[]string{"chain_gap||cus_a|eur|cbtxn_a00002|-500|-499", "field_mismatch||cus_a|eur|cbtxn_a00003|-100|-101"},
		},
		{
			"a row deleted",
			[]string{`DELETE FROM ` + rows + a + ` AND id = 'cbtxn_a00002'`},
			[]string{"chain_gap||cus_a|eur|cbtxn_a00003|-500|-300"},
		},
		{
			"a row of zero deleted",
			[]string{`DELETE FROM ` + rows + a + ` AND id = 'cbtxn_a00004'`},
			[]string{"chain_gap||cus_a|eur|cbtxn_a00005|4|5"},
		},
		{
			"the first row deleted",
			[]string{`DELETE FROM ` + rows + a + ` AND id = 'cbtxn_a00009'`},
			[]string{"chain_gap||cus_a|usd|cbtxn_a00010|0|-900"},
		},
		{
			"the newest row deleted",
			[]string{`DELETE FROM ` + rows + a + ` AND id = 'cbtxn_a00012'`},
			[]string{"balance_mismatch||cus_a|eur||-440|-429"},
		},
		{
			"the whole history deleted",
			[]string{`DELETE FROM ` + rows + ` WHERE account = 'acct_1' AND customer = 'cus_b'`},
			[]string{"balance_mismatch|acct_1|cus_b|eur||-3800|0"},
		},
		{
			"balance of the customer",
			[]string{`UPDATE customers SET balance = -1 WHERE account = '' AND id = 'cus_a'`},
			[]string{"balance_mismatch||cus_a|eur||-440|-1"},
		},
		{
			"balance of the customer, another account",
			[]string{`UPDATE customers SET balance = -balance WHERE account = 'acct_1' AND id = 'cus_b'`},
			[]string{"balance_mismatch|acct_1|cus_b|eur||-3800|3800"},
		},
		{
			"currency of the customer",
			[]string{`UPDATE customers SET currency = 'usd' WHERE account = '' AND id = 'cus_b'`},
			[]string{"balance_mismatch||cus_b|usd||0|-3800"},
		},
		{
			"balance in another currency",
			[]string{`UPDATE customers SET invoice_credit_balance = '{"eur":440,"usd":491}' WHERE account = '' AND id = 'cus_a'`},
			[]string{"balance_mismatch||cus_a|usd||-490|-491"},
		},
		{
			"customer balance",
			[]string{`UPDATE customer_balances SET balance = 5` + a + ` AND currency = 'usd'`},
			[]string{"balance_mismatch||cus_a|usd||-490|5"},
		},
		{
			"customer balance deleted",
			[]string{`DELETE FROM customer_balances` + a + ` AND currency = 'usd'`},
			[]string{"balance_mismatch||cus_a|usd||-490|none"},
		},
		{
			"a balance of nothing",
			[]string{`UPDATE customers SET balance = 3 WHERE account = '' AND id = 'cus_zero'`},
			[]string{"balance_mismatch||cus_zero|eur||0|3"},
		},
		{
			"balance of a history to come",
			[]string{`UPDATE customers SET balance = -6 WHERE account = '' AND id = 'cus_new'`},
			[]string{"balance_mismatch||cus_new|eur||-6|-5"},
		},
		{"two places swapped", []string{
			`UPDATE ` + rows + ` SET chain_position = 99` + a + ` AND id = 'cbtxn_a00002'`,
			`UPDATE ` + rows + ` SET chain_position = 2` + a + ` AND id = 'cbtxn_a00003'`,
			`UPDATE ` + rows + ` SET chain_position = 3` + a + ` AND id = 'cbtxn_a00002'`,
		}, []string{"chain_gap||cus_a|eur|cbtxn_a00003|-500|-300"}},
		{
			"a place twice",
			[]string{
				`UPDATE ` + rows + ` SET chain_position = 11` + a + ` AND id = 'cbtxn_a00012'`,
				`INSERT INTO ` + rows + ` (account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode, chain_position, raw, digest, synced_at)
			SELECT account, customer, 'cbtxn_zz', currency, amount, ending_balance, type, metadata, created, livemode, chain_position, '{"object":"customer_balance_transaction",
			"id":"cbtxn_zz","customer":"cus_b","currency":"eur","amount":300,"ending_balance":-3800,"type":"adjustment","created":1772366403,"livemode":false}', digest, synced_at
			FROM ` + rows + ` WHERE account = '' AND customer = 'cus_b' AND id = 'cbtxn_b00003'`,
			},
			[]string{"chain_gap||cus_a|eur|cbtxn_a00012|9|11", "unexpected_transaction||cus_b|eur|cbtxn_zz|one row|another row"},
		},
		{
			"a row too many at the end",
			[]string{`INSERT INTO ` + rows + ` (account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode, chain_position, raw, digest, synced_at)
			SELECT account, customer, 'cbtxn_zz', currency, 1, ending_balance + 1, type, metadata, created, livemode, 4, '{}', digest, synced_at
			FROM ` + rows + ` WHERE account = '' AND customer = 'cus_b' AND id = 'cbtxn_b00003'`},
			[]string{
				"field_mismatch||cus_b|eur|cbtxn_zz|as in Stripe's JSON|no object, id, customer, currency, amount, ending_balance, type, created, livemode in the JSON",
				"balance_mismatch||cus_b|eur||-3800|-3799",
			},
		},
		{"a row without its place", []string{`UPDATE ` + rows + ` SET chain_position = NULL` + a + ` AND id = 'cbtxn_a00004'`}, []string{
			"chain_gap||cus_a|eur|cbtxn_a00005|4|5", "chain_gap||cus_a|eur|cbtxn_a00004|a place in the chain|none",
		}},
		{
			"a time",
			[]string{`UPDATE ` + rows + ` SET created = '2026-01-01T00:00:00.000000Z'` + a + ` AND id = 'cbtxn_a00003'`},
			[]string{"chain_gap||cus_a|eur|cbtxn_a00003|not before 2026-03-01T12:00:02Z|2026-01-01T00:00:00Z"},
		},
		{
			"a later time",
			[]string{`UPDATE ` + rows + ` SET created = '2027-01-01T00:00:00.000000Z'` + a + ` AND id = 'cbtxn_a00003'`},
			[]string{"field_mismatch||cus_a|eur|cbtxn_a00003|1772366403|1798761600"},
		},
		{
			"amount in a deleted customer's history",
			[]string{`UPDATE ` + rows + ` SET amount = 1 WHERE account = '' AND customer = 'cus_gone' AND id = 'cbtxn_gone00002'`},
			[]string{"chain_gap||cus_gone|eur|cbtxn_gone00002|-70|-51"},
		},
		{
			"amount in the placed part of a history in pieces",
			[]string{
				`UPDATE ` + rows + ` SET chain_position = CAST(substr(id, 13) AS bigint) WHERE account = '' AND customer = 'cus_pieces' AND id < 'cbtxn_pieces00009'`,
				`UPDATE ` + rows + ` SET amount = 1 WHERE account = '' AND customer = 'cus_pieces' AND id = 'cbtxn_pieces00003'`,
			},
			[]string{"chain_gap||cus_pieces|eur|cbtxn_pieces00003|-1|-4"},
		},
		{
			"an orphan row",
			[]string{`INSERT INTO ` + rows + ` (account, customer, id, currency, amount, ending_balance, type, metadata, created, livemode, chain_position, raw, digest, synced_at)
			SELECT account, 'cus_nobody', id, currency, amount, ending_balance, type, metadata, created, livemode, chain_position, raw, digest, synced_at
			FROM ` + rows + a + ` AND id = 'cbtxn_a00001'`},
			[]string{"orphan||cus_nobody|eur|cbtxn_a00001|a customer|none"},
		},
		{
			"a row moved to another customer",
			[]string{`UPDATE ` + rows + ` SET customer = 'cus_zero', chain_position = 1` + a + ` AND id = 'cbtxn_a00001'`},
			[]string{
				"chain_gap||cus_a|eur|cbtxn_a00002|0|-500",
				"field_mismatch||cus_zero|eur|cbtxn_a00001|cus_a|cus_zero", "balance_mismatch||cus_zero|eur||0|-500",
			},
		},
		{
			"a customer deleted",
			[]string{`DELETE FROM customers WHERE account = '' AND id = 'cus_b'`},
			[]string{"orphan||cus_b|eur|cbtxn_b00001|a customer|none"},
		},
		{"an orphan grant", []string{`UPDATE credit_grants SET customer = 'cus_nobody' WHERE account = 'acct_1' AND id = 'credgr_b001'`}, []string{
			"orphan|acct_1|cus_nobody|eur||a customer|none",
		}},
		{
			"an orphan credit row",
			[]string{`INSERT INTO ` + credits + ` (account, customer, id, "grant", type, currency, amount, effective_at, created, livemode, raw, digest, synced_at)
			SELECT account, customer, 'cbtxn_zz', 'credgr_none', type, currency, amount, effective_at, created, livemode, '{}', digest, synced_at
			FROM ` + credits + b + ` AND id = 'cbtxn_b002'`},
			[]string{
				"field_mismatch|acct_1|cus_b|eur|cbtxn_zz|as in Stripe's JSON|no object, id, grant, type, credit_type, type of amount, " +
					"amount, currency, effective_at, created, livemode in the JSON",
				"orphan|acct_1|cus_b|eur|credgr_none|a grant|1000",
			},
		},
		{
			"a grant deleted",
			[]string{`DELETE FROM credit_grants` + b + ` AND id = 'credgr_b001'`},
			[]string{"orphan|acct_1|cus_b|eur|credgr_b001|a grant|700"},
		},
		{
			"a grant's amount below its rows",
			[]string{`UPDATE credit_grants SET amount = 699` + b + ` AND id = 'credgr_b001'`},
			[]string{"grant_out_of_bounds|acct_1|cus_b|eur|credgr_b001|0..699|700"},
		},
		{
			"a grant's amount above its rows",
			[]string{`UPDATE credit_grants SET amount = 1001` + b + ` AND id = 'credgr_b001'`},
			[]string{"field_mismatch|acct_1|cus_b|eur|credgr_b001|1000|1001"},
		},
		{
			"a grant's currency",
			[]string{`UPDATE credit_grants SET currency = 'gbp'` + b + ` AND id = 'credgr_b001'`},
			[]string{"grant_out_of_bounds|acct_1|cus_b|gbp|credgr_b001|gbp|eur"},
		},
		{
			"a credit row's amount",
			[]string{`UPDATE ` + credits + ` SET amount = amount - 5` + b + ` AND id = 'cbtxn_b003'`},
			[]string{"summary_mismatch|acct_1|cus_b|eur||700|695"},
		},
		{
			"a credit row deleted",
			[]string{`DELETE FROM ` + credits + b + ` AND id = 'cbtxn_b003'`},
			[]string{"summary_mismatch|acct_1|cus_b|eur||700|1000"},
		},
		{
			"a summary",
			[]string{`UPDATE credit_balance_summaries SET ledger_balance = 1` + b + ` AND currency = 'usd'`},
			[]string{"summary_mismatch|acct_1|cus_b|usd||1|699"},
		},
		{
			"a summary deleted",
			[]string{`DELETE FROM credit_balance_summaries` + b + ` AND currency = 'usd'`},
			[]string{"summary_mismatch|acct_1|cus_b|usd||0|699"},
		},
		{
			"an epoch",
			[]string{`UPDATE sync_state SET epoch = 1, applied_epoch = 2 WHERE account = '' AND customer = 'cus_b' AND scope = 'credits'`},
			[]string{"field_mismatch||cus_b||sync_state|0..1|2"},
		},
		{
			"a disproof",
			[]string{`UPDATE sync_state SET disproved = history_complete WHERE account = '' AND customer = 'cus_a'`},
			[]string{"chain_gap||cus_a|||a proven ledger|disproved"},
		},
		{"one of each in one mirror", []string{
			`UPDATE ` + rows + ` SET amount = amount - 1` + a + ` AND id = 'cbtxn_a00003'`,
			`DELETE FROM ` + rows + ` WHERE account = 'acct_1' AND customer = 'cus_a' AND id = 'cbtxn_a00002'`,
			`UPDATE customers SET balance = 0 WHERE account = 'acct_1' AND id = 'cus_b'`,
		}, []string{
			"chain_gap||cus_a|eur|cbtxn_a00003|-300|-299", "chain_gap|acct_1|cus_a|eur|cbtxn_a00003|-500|-300",
			"balance_mismatch|acct_1|cus_b|eur||-3800|0",
		}},
	}
	for _, driver := range drivers {
		t.Run(driver.name, func(t *testing.T) {
			t.Parallel()
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					t.Parallel()
					d := driver.open(t)
					mirrortest.Populate(t, d.store)
					for _, statement := range tt.sql {
						d.mustExec(t, statement)
					}
					found, result := prove(t, d, verify.Options{Readers: 2})
					if !slices.Equal(found, tt.want) {
						t.Errorf("found\n%s\nwant\n%s", strings.Join(found, "\n"), strings.Join(tt.want, "\n"))
					}
					if tt.sql == nil && (result != verify.Result{Customers: 14, BalanceTransactions: 66, CreditTransactions: 22, Incomplete: 4}) {
						t.Errorf("counted %+v", result)
					}
				})
			}
		})
	}
}
