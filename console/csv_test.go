package console_test

import (
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

// A description that begins as a formula does is a text in a spreadsheet; an amount stays a
// number.
func TestFilesHoldNoFormulas(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	store := d.reads.fullStore.(mirror.Fence)
	target := mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_1"}
	state, err := store.BeginSync(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	created := d.clock.Now().Add(-time.Hour).Truncate(time.Second)
	_, err = store.ApplyBalance(t.Context(), mirror.BalanceSnapshot{
		Target: target, Epoch: state.Epoch, EventSeq: state.EventSeq, ObservedAt: d.clock.Now(), Joined: true, Full: true,
		Customer: mirror.Customer{
			ID: "cus_1", Created: created, Balance: -5, Currency: "usd", InvoiceCreditBalance: map[string]int64{"usd": 5}, Raw: []byte(`{"id":"cus_1","balance":-5}`),
		},
		Windows: []mirror.Window[mirror.BalanceTransaction]{{FromHead: true, ToEnd: true, Rows: []mirror.BalanceTransaction{{
			ID: "cbtxn_1", Customer: "cus_1", Amount: -5, Currency: "usd", EndingBalance: -5, Type: "adjustment", Metadata: json.RawMessage(`{}`),
			Description: "@SUM(A1)", Created: created, Raw: []byte(`{"id":"cbtxn_1"}`),
		}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	code, body := d.get("/customers/platform/cus_1/statement.csv", d.signIn(lookKey))
	rows, err := csv.NewReader(strings.NewReader(body)).ReadAll()
	if code != 200 || err != nil {
		t.Fatalf("%d, %v: %s", code, err, body)
	}
	for _, row := range rows {
		if row[2] == "cbtxn_1" {
			if row[5] != "-5" || row[10] != "'@SUM(A1)" {
				t.Errorf("%q", row)
			}
			return
		}
	}
	t.Errorf("no such row: %q", rows)
}
