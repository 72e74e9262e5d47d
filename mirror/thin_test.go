package mirror

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// thin makes a thin event; more is put among its members.
func thin(kind, related, more string) []byte {
	return fmt.Appendf(nil, `{"id":"evt_test_65","object":"v2.core.event","type":%q,"livemode":false,
  "created":"2026-11-29T12:00:00.987Z","related_object":{"id":%q,"type":"x","url":"/v1/x"}%s}`, kind, related, more)
}

func TestThinEventsAreTheHintsOfTheirTwins(t *testing.T) {
	t.Parallel()
	ids := map[Scope]string{
		aboutCustomer: "cus_1", ScopeGrantOwner: "credgr_test_1", ScopeCreditOwner: "cbtxn_test_1", ScopeClockCustomers: "clock_1",
		ScopeNoteOwner: "cn_1", ScopeInvoiceOwner: "in_1",
	}
	if n := len(ThinTypes()); n != 12 {
		t.Fatalf("%d types, want those twelve that Stripe has twins of", n)
	}
	for _, kind := range ThinTypes() {
		v1 := strings.TrimPrefix(kind, "v1.")
		id := ids[thinAsks[v1]]
		e, err := DecodeEvent(thin(kind, id, `,"snapshot_event":"evt_2","context":"acct_1"`))
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if e.ID != "evt_2" || e.Type != v1 || e.Account != "acct_1" || e.Object != id || e.Livemode ||
			!e.Created.Equal(time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)) {
			t.Errorf("%s: %+v, want its twin", kind, e)
		}
		var got []string
		for _, target := range e.Targets() {
			if !target.Valid() {
				t.Errorf("%s: target %s is not valid", kind, target)
			}
			got = append(got, target.Key())
		}
		want := []string{string(thinAsks[v1]) + ":acct_1:" + id}
		if thinAsks[v1] == aboutCustomer {
			want = []string{"balance:acct_1:cus_1"}
			if v1 == "customer.deleted" {
				want = append(want, "credits:acct_1:cus_1")
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", kind, got, want)
		}
	}
}

func TestThinEventsOfNoInterest(t *testing.T) {
	t.Parallel()
	for _, raw := range [][]byte{
		[]byte(`{"id":"evt_1","object":"v2.core.event","type":"v2.core.x"}`),
		thin("v2.core.event_destination.ping", "ed_1", ""),
		thin("v1.invoice.paid", "in_1", ""),
		thin("customer.updated", "cus_1", ""), // a v1 type has no place in a thin event
		thin(TypeGenerationFailure, "", `,"data":{"impact":{"event_type":"charge.failed","related_object":{"id":"ch_1"}}}`),
		thin("v1.customer.updated", "cus_1", `,"context":"org_1/acct_1"`),
	} {
		if _, err := DecodeEvent(raw); !errors.Is(err, ErrThinEvent) {
			t.Errorf("%s: %v, want ErrThinEvent", raw, err)
		}
	}
	foreign, is := errors.AsType[*ContextError](func() error {
		_, err := DecodeEvent(thin("v1.customer.updated", "cus_1", `,"context":"org_1/acct_1"`))
		return err
	}())
	if !is || foreign.Context != "org_1/acct_1" {
		t.Errorf("%+v, want the context", foreign)
	}
}

func TestThinEventsThatCannotBeUnderstood(t *testing.T) {
	t.Parallel()
	good := string(thin("v1.customer.updated", "cus_1", `,"snapshot_event":"evt_2"`))
	if _, err := DecodeEvent([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"no id":               {`"id":"evt_test_65"`, `"x":1`},
		"id a path":           {"cus_1", "../charges"},
		"no time":             {"2026-11-29T12:00:00.987Z", "yesterday"},
		"seconds":             {`"2026-11-29T12:00:00.987Z"`, "1700000000"},
		"no mode":             {"livemode", "x"},
		"no object":           {"related_object", "x"},
		"null object":         {`"related_object":{"id":"cus_1","type":"x","url":"/v1/x"}`, `"related_object":null`},
		"twin no id":          {"evt_2", "evt/2"},
		"twin a number":       {`"evt_2"`, "2"},
		"context a number":    {`"snapshot_event"`, `"context":1,"snapshot_event"`},
		"invoice, a customer": {"v1.customer.updated", "v1.invoice.voided"},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Fatalf("%s changes nothing", name)
		}
		if e, err := DecodeEvent([]byte(bad)); err == nil || errors.Is(err, ErrThinEvent) {
			t.Errorf("%s: %+v, %v; want an error", name, e, err)
		}
	}
}

func TestFailureNamesWhatToRead(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]string{
		"customer.updated": "balance::cus_1", "v1.customer.deleted": "[balance::cus_1 credits::cus_1]",
	} {
		raw := thin(TypeGenerationFailure, "", fmt.Sprintf(`,"snapshot_event":"evt_9","data":{"severity":"critical","impact":{"event_type":%q,"related_object":{"id":"cus_1","type":"customer","url":"/v1/customers/cus_1"}}}`, kind))
		e, err := DecodeEvent(raw)
		if got := fmt.Sprint(e.Targets()); err != nil || strings.Trim(got, "[]") != strings.Trim(want, "[]") || e.ID != "evt_test_65" {
			t.Errorf("%s: %+v, targets %s, %v; want %s", kind, e, got, err, want)
		}
	}
}

func TestEnvelopes(t *testing.T) {
	t.Parallel()
	event := `{"id":"evt_1","object":"event"}`
	for body, want := range map[string]string{
		event: event,
		`{"version":"0","id":"x","detail-type":"customer.updated","source":"aws.partner/stripe.com/ed_1","detail":` + event + `}`: event,
		`{"specversion":"1.0","type":"x","data":` + event + `}`:                                                                   event,
		`{"object":"event","source":"x","detail":{"id":"evt_2"}}`:                                                                 `{"object":"event","source":"x","detail":{"id":"evt_2"}}`,
		`{"detail":` + event + `}`:       `{"detail":` + event + `}`,
		`{"source":"x","detail":"text"}`: `{"source":"x","detail":"text"}`,
		`no JSON`:                        `no JSON`,
		`[]`:                             `[]`,
	} {
		if got := delivered([]byte(body)); string(got) != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
}

func TestInvoiceMovesBalance(t *testing.T) {
	t.Parallel()
	for invoice, want := range map[string]bool{
		`{"starting_balance":0,"ending_balance":0,"amount_overpaid":0}`:                       false,
		`{"starting_balance":0,"ending_balance":null}`:                                        false,
		`{"starting_balance":0,"ending_balance":0,"customer_balance":null}`:                   false,
		`{"starting_balance":-500,"ending_balance":0}`:                                        true,
		`{"starting_balance":0,"ending_balance":30}`:                                          true,
		`{"starting_balance":0,"ending_balance":0,"amount_overpaid":1}`:                       true,
		`{"starting_balance":0,"ending_balance":0,"customer_balance":{"amount_applied":100}}`: true,
		`{}`:   true,
		`null`: true,
	} {
		if got := InvoiceMovesBalance([]byte(invoice)); got != want {
			t.Errorf("%s: %v, want %v", invoice, got, want)
		}
	}
}
