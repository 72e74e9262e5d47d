package mirror

import (
	"fmt"
	"testing"
)

// invoice.paid and invoice.updated come for much; they name a customer only where a
// balance may have to do with them.
func TestInvoiceHintsAreCheap(t *testing.T) {
	t.Parallel()
	const idle = `"starting_balance":0,"ending_balance":0,"amount_overpaid":0`
	for _, c := range []struct {
		kind, figures, previous string
		want                    bool
	}{
		{"invoice.paid", idle, "", false},
		{"invoice.paid", `"starting_balance":-500,"ending_balance":0`, "", true},
		{"invoice.paid", idle + `,"customer_balance":{"amount":300}`, "", true},
		{"invoice.updated", idle, `{"status":"draft"}`, false},
		{"invoice.updated", `"starting_balance":-500,"ending_balance":0`, `{"status":"draft"}`, true},
		{"invoice.updated", `"starting_balance":-500,"ending_balance":0`, `{"hosted_invoice_url":null,"invoice_pdf":null}`, false},
		{"invoice.updated", `"starting_balance":-500,"ending_balance":0`, `{"metadata":{"a":null}}`, false},
		{"invoice.updated", idle + `,"customer_balance":{"amount":300}`, `{"customer_balance":null,"amount_remaining":300}`, true},
		{"invoice.updated", `"starting_balance":-500,"ending_balance":0`, "", true},
		{"invoice.finalized", idle, "", true},
	} {
		previous := ""
		if c.previous != "" {
			previous = `,"previous_attributes":` + c.previous
		}
		raw := fmt.Sprintf(`{"id":"evt_1","object":"event","type":%q,"livemode":false,"created":1700000000,"data":{"object":{"id":"in_1","customer":"cus_1",%s}%s}}`,
			c.kind, c.figures, previous)
		e, err := DecodeEvent([]byte(raw))
		if got := len(e.Targets()) == 1; err != nil || got != c.want {
			t.Errorf("%s: targets %v, %v; want one: %v", raw, e.Targets(), err, c.want)
		}
	}
}

func TestCauseOfBalanceAppliedByHand(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]string{
		"adjustment": CauseMissedEvent, "applied_to_invoice": CauseApplied, "unapplied_from_invoice": CauseApplied,
	} {
		if got := (BalanceTransaction{Type: kind}).missedCause(SyncState{}); got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
}
