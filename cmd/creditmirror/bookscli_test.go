package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
)

// TestBooksSayWhatIsWrong: bad input is refused with exit 2, what is not known with exit 1.
func TestBooksSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	database, exec := verifyMirror(t)
	environ := []string{"CREDITMIRROR_DATABASE_URL=" + database}
	for _, tt := range []struct {
		args string
		code int
		says string // on standard error
	}{
		{"balances --as-of yesterday", 2, "want a date"},
		{"balances --as-of 2025-02-29", 2, "want a date"},
		{"balances --currency zzz", 2, "no such currency"},
		{"balances --currency", 2, "currency"},
		{"balances --ledger both", 2, "--ledger"},
		{"balances --account cus_1", 2, "acct_"},
		{"balances --customer cus_nobody", 2, "no such customer"},
		{"balances --pending maybe", 2, "--pending"},
		{"balances --all --nonzero", 2, "contradict"},
		{"balances --timezone Moon", 2, "--timezone"},
		{"balances --format xml", 2, "--format"},
		{"balances --human --format csv", 2, "never scaled"},
		{"balances --metadata a=b", 2, "unknown flag"},
		{"balances extra", 2, "extra"},
		{"rollforward", 2, "rollforward needs --from"},
		{"rollforward --to 2026-03-01", 2, "rollforward needs --from"},
		{"rollforward --from 2026-03-01", 2, "rollforward needs --to"},
		{"rollforward --from 2026-03-01 --to=", 2, `--to ""`},
		{"rollforward --from 2026-03-02 --to 2026-03-01", 2, "not before"},
		{"rollforward --from 2026-03-01 --to 2026-03-02 --by week", 2, "--by"},
		{"rollforward --from 2026-03-01 --to 2026-03-02 --split metadata.", 2, "--split"},
		{"rollforward --from 2026-03-01 --to 2026-03-02 --chart --format csv", 2, "--chart"},
		{"rollforward --from 2026-03-01 --to 2026-03-02 --check some", 2, "--check"},
		{"rollforward --currency eur --allow-gaps --from 2026-03-01 --to 2026-03-02", 0, ""},
		{"rollforward --currency chf --allow-gaps --from 2026-03-01 --to 2026-03-02", 0, "the report is empty"},
		{"rollforward --currency chf --allow-gaps --from 2026-03-01 --to 2126-03-01 --chart", 0, "lies in the future"},
		{"rollforward --currency eur --allow-gaps --from 2026-03-01 --to 2126-03-01", 0, "lies in the future"},
		{"statement", 2, "--customer"},
		{"statement --customer cus_a --account acct_1 --format xml", 2, "want table, csv, json or html"},
		{"statement --customer cus_a", 2, "--account"},
		{"statement --customer cus_b --account acct_1 --from 2026-04-01 --to 2026-03-01", 2, "not before"},
		{"ageing --buckets 60,30", 2, "--buckets"},
		{"explain", 2, "--customer"},
		{"close --explain 2026-01", 2, "not sealed"},
		{"balances", 1, "4 customers have no figure"},
		{"balances --allow-gaps", 0, "4 customers have no figure"},
		{"balances --customer cus_pieces --account acct_1", 1, "1 customers have no figure"},
		{"balances --customer cus_zero --account acct_1", 0, ""},
		{"balances --currency chf --customer cus_b", 0, "the report is empty"},
		{"balances --currency chf --total --allow-gaps", 0, "the report is empty"},
		{"balances --allow-gaps --as-of 2126-03-01", 0, "lies in the future"},
		{"ageing --allow-gaps --as-of 2126-03-01", 0, "lies in the future"},
		{"ageing --allow-gaps --currency chf", 0, "the report is empty"},
		{"close --period 2026-03", 1, "not sealed"},
		{"explain --customer cus_a --account acct_1", 0, ""},
	} {
		code, out, errOut := cli(t, environ, strings.Fields(tt.args)...)
		if code != tt.code || !strings.Contains(errOut, tt.says) {
			t.Errorf("%s: exit %d, want %d: %s\n%s", tt.args, code, tt.code, errOut, out)
		}
	}
	const asOf = " --as-of 2026-03-01 --allow-gaps --format csv"
	for args, want := range map[string]string{
		"balances --customer cus_b --account acct_1" + asOf: "account,customer,ledger,currency,amount,as_of\n" +
			"acct_1,cus_b,balance,eur,-3800,2026-03-01T23:59:59Z\nacct_1,cus_b,credits,eur,700,2026-03-01T23:59:59Z\nacct_1,cus_b,credits,usd,699,2026-03-01T23:59:59Z\n",
		"balances --customer cus_gone --account acct_1" + asOf:       "account,customer,ledger,currency,amount,as_of\n",
		"balances --customer cus_gone --account acct_1 --all" + asOf: "account,customer,ledger,currency,amount,as_of\nacct_1,cus_gone,balance,eur,0,2026-03-01T23:59:59Z\n",
		// It was deleted in the second of its last row: one second before it held something.
		"balances --customer cus_gone --account acct_1 --as-of 2026-03-01T12:00:01Z --format csv": "account,customer,ledger,currency,amount,as_of\nacct_1,cus_gone,balance,eur,-70,2026-03-01T12:00:01Z\n",
		"rollforward --from 2026-03-01 --to 2026-03-02 --customer cus_gone --account acct_1 --format csv": "account,ledger,currency,period_start,period_end,line,amount\n" +
			"acct_1,balance,eur,2026-03-01T00:00:00Z,2026-03-02T00:00:00Z,opening,0\nacct_1,balance,eur,2026-03-01T00:00:00Z,2026-03-02T00:00:00Z,adjustment,-50\n" +
			"acct_1,balance,eur,2026-03-01T00:00:00Z,2026-03-02T00:00:00Z,customer_deleted,50\nacct_1,balance,eur,2026-03-01T00:00:00Z,2026-03-02T00:00:00Z,closing,0\n",
		"statement --customer cus_b --account acct_1 --ledger balance --from 2026-03-01T12:00:02Z --to 2026-03-02 --redact --format csv": "date,ledger,id,type,currency,amount,balance,invoice,credit_note,grant,description\n" +
			"2026-03-01T12:00:02Z,balance,,opening,eur,,-4200,,,,\n2026-03-01T12:00:02Z,balance,cbtxn_b00002,adjustment,eur,100,-4100,,,,\n" +
			"2026-03-01T12:00:03Z,balance,cbtxn_b00003,adjustment,eur,300,-3800,,,,\n2026-03-01T23:59:59Z,balance,,closing,eur,,-3800,,,,\n",
		"ageing --customer cus_b --account acct_1" + asOf:                                                       "account,currency,category,bucket,amount,grants\nacct_1,eur,promotional,0-30,700,1\nacct_1,usd,promotional,0-30,699,1\n",
		"ageing --customer cus_b --account acct_1 --format csv":                                                 "account,currency,category,bucket,amount,grants\nacct_1,eur,promotional,expired_unused,700,1\nacct_1,usd,promotional,expired_unused,699,1\n",
		"balances --customer cus_b --account acct_1 --ledger credits --human --currency usd --as-of 2026-03-01": "ACCOUNT  CUSTOMER  LEDGER   CURRENCY  AMOUNT           AS_OF\nacct_1   cus_b     credits  usd       6.99 USD credit  2026-03-01T23:59:59Z\n",
	} {
		if code, out, errOut := cli(t, environ, strings.Fields(args)...); code != 0 || out != want {
			t.Errorf("%s: exit %d: %s\n%swant\n%s", args, code, errOut, out, want)
		}
	}
	for args, parts := range map[string][]string{
		"statement --customer cus_b --account acct_1 --format html":                       {"<!DOCTYPE html>", "Customer balance, eur", "42.00 EUR credit", "row 1", "</html>"},
		"rollforward --from 2026-03-01 --to 2026-03-05 --by day --chart --allow-gaps":     {"<svg", "polyline", "</svg>"},
		"statement --customer cus_b --account acct_1 --format json --ledger balance":      {`"amount": null`, `"balance": -3800`},
		"explain --customer cus_b --account acct_1":                                       {"-4200 +100 = -4100, Stripe says -4100: ok", "Every link holds."},
		"balances --total --format json --allow-gaps --as-of 2026-03-01 --ledger balance": {`"customers": `, `"as_of": "2026-03-01T23:59:59Z"`},
	} {
		code, out, errOut := cli(t, environ, strings.Fields(args)...)
		for _, part := range parts {
			if code != 0 || !strings.Contains(out, part) {
				t.Errorf("%s: exit %d: %s: %q is missing in\n%s", args, code, errOut, part, out)
			}
		}
	}
	links := func(wantCode int) (rows []map[string]any) {
		t.Helper()
		code, out, errOut := cli(t, environ, "explain", "--customer", "cus_b", "--account", "acct_1", "--format", "json", "--redact")
		if err := json.Unmarshal([]byte(out), &rows); err != nil || code != wantCode {
			t.Fatalf("explain: exit %d, %v: %s\n%s", code, err, errOut, out)
		}
		return rows
	}
	kinds, wrong := map[string]int{}, 0
	for _, l := range links(0) {
		kinds[fmt.Sprint(l["ledger"], " ", l["link"])]++
		if l["id"] == "cbtxn_b00002" && (l["before"] != -4200.0 || l["amount"] != 100.0 || l["after"] != -4100.0 || l["told"] != -4100.0 || l["position"] != 2.0 || l["holds"] != true) {
			t.Errorf("the second link is %v", l)
		}
		if l["description"] != nil || l["holds"] != true || len(l) != 24 {
			t.Errorf("a link is %v", l)
		}
	}
	if want := map[string]int{
		"balance proof": 1, "balance row": 3, "balance end": 1, "credits proof": 1, "credits grant": 3, "credits row": 6, "credits end": 2,
	}; !maps.Equal(kinds, want) {
		t.Errorf("links are %v, want %v", kinds, want)
	}
	exec(`UPDATE customer_balance_transactions SET amount = amount + 1 WHERE account = 'acct_1' AND id = 'cbtxn_b00002'`)
	for _, l := range links(1) {
		if l["holds"] == false {
			wrong++
			if l["id"] != "cbtxn_b00002" || l["after"] != -4099.0 {
				t.Errorf("the wrong link is %v", l)
			}
		}
	}
	if wrong != 1 {
		t.Errorf("%d wrong links, want 1", wrong)
	}
	for _, args := range []string{"balances --customer cus_b --account acct_1", "balances --total --account acct_1", "explain --customer cus_b --account acct_1"} {
		if code, out, errOut := cli(t, environ, strings.Fields(args)...); code != 1 || !strings.Contains(errOut, "the rows add up to -3799, but the last ending balance is -3800") {
			t.Errorf("%s: exit %d: %s\n%s", args, code, errOut, out)
		}
	}
}
