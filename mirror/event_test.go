package mirror

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDecodeEventOfEveryFixture(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"billing.credit_balance_transaction.created.credit.json": "grant_owner::credgr_test_61R9ZkIkIzLSp0xze41L6nFOS1ekDTPE",
		"billing.credit_balance_transaction.created.debit.json":  "grant_owner::credgr_test_61R9ZkIkIzLSp0xze41L6nFOS1ekDTPE",
		"test_helpers.test_clock.ready.json":                     "clock_customers::clock_1Q0BoJL6nFOS1ekDbyYYuseM",
		"customer_cash_balance_transaction.created.json":         "", // another ledger
		"thin.v2.core.event_destination.ping.json":               "thin",
	}
	files, err := filepath.Glob("testdata/events/*.json")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d fixtures, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			e, err := DecodeEvent(raw)
			expected, named := want[filepath.Base(file)]
			if expected == "thin" {
				if !errors.Is(err, ErrThinEvent) {
					t.Fatalf("got %v, want ErrThinEvent", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for _, target := range e.Targets() {
				keys = append(keys, target.Key())
				if back, err := ParseTarget(target.Key()); err != nil || back != target {
					t.Errorf("%q reads back as %v, %v", target.Key(), back, err)
				}
			}
			switch {
			case named && strings.Join(keys, " ") != expected:
				t.Fatalf("targets %v, want %s", keys, expected)
			case !named && len(keys) == 0:
				t.Fatalf("%s has no target", e.Type)
			}
			if e.Type == "customer.deleted" && len(keys) != 2 {
				t.Fatalf("a deletion concerns both ledgers, got %v", keys)
			}
			if strings.HasPrefix(filepath.Base(file), "connect_account") && e.Account == "" {
				t.Fatal("the account is lost")
			}
		})
	}
}

func TestDecodeEventRefuses(t *testing.T) {
	t.Parallel()
	const good = `{"id":"evt_1","object":"event","type":"customer.updated","livemode":false,"created":1700000000,"data":{"object":{"id":"cus_1"}}}`
	tests := []struct{ name, from, to, says string }{
		{"an event", "", "", ""},
		{"no id", `"id":"evt_1",`, ``, "id"},
		{"an id that is a path", `evt_1`, `evt_../x`, "id"},
		{"keys in another case", `"id":"evt_1"`, `"ID":"evt_1"`, "id"},
		{"another object", `"object":"event"`, `"object":"list"`, "object"},
		{"a time of zero", `1700000000`, `0`, "created"},
		{"a time beyond all databases", `1700000000`, `99999999999999`, "created"},
		{"a time as text", `1700000000`, `"1700000000"`, "created"},
		{"no mode", `"livemode":false,`, ``, "livemode"},
		{"no data", `{"object":{"id":"cus_1"}}`, `null`, "data"},
		{"a customer that is a path", `cus_1`, `cus_../../v1/charges`, "id"},
		{"a customer with an escape", `cus_1`, `cus_%2e`, "id"},
		{"a customer of 300 letters", `cus_1`, `cus_` + strings.Repeat("a", 300), "id"},
		{"not UTF-8", `evt_1`, "evt_\xff", "UTF-8"},
		{"cut off", `}}}`, ``, "JSON"},
		{"an account that is none", `"id":"evt_1"`, `"account":"x'--","id":"evt_1"`, "account"},
		{"deep nonsense", `{"id":"cus_1"}`, strings.Repeat("[", 100000), "JSON"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := DecodeEvent([]byte(strings.Replace(good, tt.from, tt.to, 1)))
			if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("got %v, want it to say %q", err, tt.says)
			}
		})
	}
}

// Of a doubled key the last one counts, everywhere.
func TestDecodeEventDoubledKey(t *testing.T) {
	t.Parallel()
	e, err := DecodeEvent([]byte(`{"id":"evt_1","id":"evt_2","object":"event","type":"customer.updated","livemode":false,"created":1700000000,
		"data":{"object":{"id":"cus_1","Id":"cus_9","id":"cus_2"}}}`))
	if err != nil || e.ID != "evt_2" || e.Customer != "cus_2" {
		t.Fatalf("got %+v, %v", e, err)
	}
}

func TestEventOfNobody(t *testing.T) {
	t.Parallel()
	e, err := DecodeEvent([]byte(`{"id":"evt_1","object":"event","type":"invoice.voided","livemode":false,"created":1700000000,"data":{"object":{"id":"in_1","customer":null}}}`))
	if err != nil || len(e.Targets()) != 0 {
		t.Fatalf("got %v, %v", e.Targets(), err)
	}
}

func TestEventTellsWhatAnAnswerMustShow(t *testing.T) {
	t.Parallel()
	const head = `{"id":"evt_1","object":"event","livemode":false,"created":1700000000,"type":`
	for body, want := range map[string]Event{
		`"customer.updated","data":{"object":{"id":"cus_1"},"previous_attributes":{"balance":0,"name":"a"}}}`:         {Moved: MovedYes},
		`"customer.updated","data":{"object":{"id":"cus_1"},"previous_attributes":{"balance":null}}}`:                 {Moved: MovedYes},
		`"customer.updated","data":{"object":{"id":"cus_1"},"previous_attributes":{"name":{"balance":1}}}}`:           {Moved: MovedNo},
		`"customer.updated","data":{"object":{"id":"cus_1"},"previous_attributes":7}}`:                                {},
		`"customer.updated","data":{"object":{"id":"cus_1"},"previous_attributes":null}}`:                             {},
		`"customer.updated","data":{"object":{"id":"cus_1"}}}`:                                                        {},
		`"customer.created","data":{"object":{"id":"cus_1"},"previous_attributes":{"balance":0}}}`:                    {},
		`"billing.credit_grant.updated","data":{"object":{"id":"credgr_1","customer":"cus_1","updated":1700000009}}}`: {Updated: at(9)},
		`"billing.credit_grant.updated","data":{"object":{"id":"credgr_1","customer":"cus_1","updated":"9"}}}`:        {},
		`"billing.credit_grant.created","data":{"object":{"id":"credgr_1","customer":"cus_1"}}}`:                      {},
	} {
		e, err := DecodeEvent([]byte(head + body))
		if err != nil || e.Moved != want.Moved || !e.Updated.Equal(want.Updated) || e.Customer != "cus_1" {
			t.Errorf("%s: %+v, %v; want %+v", body, e, err, want)
		}
	}
}

func TestEventRefReadsBack(t *testing.T) {
	t.Parallel()
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, r := range []EventRef{
		{ID: "evt_1", Created: at(5), Object: "cus_1", Type: "customer.updated"},
		{ID: "evt_2", Created: at(0), Type: "x"},
		{ID: "evt_1", Created: at(5), Object: "cus_1", Type: "customer.updated", Trace: trace},
		{ID: "evt_2", Created: at(0), Type: "x", Trace: trace},
		{ID: "evt_3", Created: at(5), Object: "credgr_1", Type: "billing.credit_grant.updated", Updated: at(4)},
		{ID: "evt_3", Created: at(5), Object: "credgr_1", Type: "billing.credit_grant.updated", Updated: at(4), Trace: trace},
		{ID: "evt_4", Created: at(5), Object: "cus_1", Type: "customer.updated", Moved: MovedYes},
		{ID: "evt_4", Created: at(5), Object: "cus_1", Type: "customer.updated", Moved: MovedNo, Trace: trace},
	} {
		if got, err := ParseEventRef(r.String()); err != nil || got != r {
			t.Fatalf("%v reads back as %v, %v", r, got, err)
		}
	}
	for _, s := range []string{"", "a b", "a b c d", "a 1 c d e", "a 1 c d " + trace + " f", "a 1 c d " + trace + "0", "a 1 c d moved 5", "a 1 c d moved moved"} {
		if _, err := ParseEventRef(s); err == nil {
			t.Fatalf("%q was read", s)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	files, err := filepath.Glob("testdata/events/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := DecodeEvent(raw)
		if err != nil {
			return
		}
		if !json.Valid(raw) {
			t.Fatal("decoded what is not JSON")
		}
		for _, target := range e.Targets() {
			if !target.Valid() {
				t.Fatalf("target %v is not valid", target)
			}
			if back, err := ParseTarget(target.Key()); err != nil || back != target {
				t.Fatalf("%v reads back as %v, %v", target, back, err)
			}
		}
	})
}

// The envelope reader and encoding/json must see the same members.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{`{}`, `{"id":1}`, `{ "a" : [1,{"id":"x"}] , "id" : "y\"}" }`, `{"\u0069d":"z","id":null}`, "{\"id\":\t-1e5\n}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var want map[string]json.RawMessage
		if !utf8.Valid(raw) || json.Unmarshal(raw, &want) != nil || want == nil {
			return
		}
		for key, value := range want {
			var got jsonText
			if err := members(raw, "object", map[string]*jsonText{key: &got}); err != nil || string(got) != string(value) {
				t.Fatalf("member %q is %q, %v; want %q", key, got, err, value)
			}
		}
	})
}

func BenchmarkDecodeEvent(b *testing.B) {
	raw, err := os.ReadFile("testdata/events/customer.updated.balance.json")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeEvent(raw); err != nil {
			b.Fatal(err)
		}
	}
}
