package postgres

import (
	"encoding/json"
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/creditmirror/creditmirror/mirror"
)

func TestCleanJSON(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"a":"plain"}`:                    `{"a":"plain"}`,
		`{"a":"x\u0000y"}`:                 `{"a":"xy"}`,
		`{"a":"x\\u0000y"}`:                `{"a":"x\\u0000y"}`,
		`{"a":"\\\u0000"}`:                 `{"a":"\\"}`,
		`{"a":"\u00e9\n"}`:                 `{"a":"\u00e9\n"}`,
		`{"a":"\ud83d\ude00"}`:             `{"a":"\ud83d\ude00"}`,
		`{"a":"\ud83d"}`:                   `{"a":"` + "\uFFFD" + `"}`,
		`{"a":"\ude00\ud83d\u0000\ude00"}`: `{"a":"` + "\uFFFD\uFFFD\uFFFD" + `"}`,
		"{\"a\":\"x\xff\x00y\"}":           `{"a":"x` + "\uFFFD" + `y"}`,
	} {
		if got := string(cleanJSON(json.RawMessage(in))); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzCleanJSON: what was JSON stays JSON, is storable, and is clean for good.
func FuzzCleanJSON(f *testing.F) {
	for _, seed := range []string{`{"a":"\u0000\ud800\\u0000"}`, `"\ud83d\ude00\ud83d"`, `["\\",1e3,"\u12"]`, "\"\xff\"", `\u`, `"\`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out := cleanJSON(json.RawMessage(in))
		if json.Valid([]byte(in)) && !json.Valid(out) {
			t.Fatalf("%q became %q", in, out)
		}
		if !utf8.Valid(out) {
			t.Fatalf("%q became %q, which is not UTF-8", in, out)
		}
		if json.Valid(out) {
			if again := cleanJSON(out); string(again) != string(out) {
				t.Fatalf("%q is clean, and became %q", out, again)
			}
		}
	})
}

// TestUnstorableValues: what the database will never take is distinguished from an
// outage, so that its target becomes a dead letter instead of being read for ever.
func TestUnstorableValues(t *testing.T) {
	t.Parallel()
	s := openStore(t, newMirror(t))
	a := &account{customer: "cus_A"}
	a.add(-1)
	a.rows[0].Raw = json.RawMessage(`{"id":"cbtxn_cus_A_000001","n":1e1000000}`)
	if _, err := a.sync(t.Context(), s, 1); !errors.Is(err, mirror.ErrUnstorable) {
		t.Errorf("%v, want %v", err, mirror.ErrUnstorable)
	}
}

// TestUnstorableCharacters: rows with them are stored without them, and are not
// seen as changed at every sync that follows (I18).
func TestUnstorableCharacters(t *testing.T) {
	t.Parallel()
	s := openStore(t, newMirror(t))
	a := &account{customer: "cus_A"}
	a.add(-1)
	a.rows[0].Description = "nul \x00 here, broken \xff there"
	a.rows[0].Metadata = json.RawMessage(`{"k":"v\u0000\ud800"}`)
	a.rows[0].Raw = json.RawMessage(`{"id":"cbtxn_cus_A_000001","description":"nul \u0000 here","metadata":{"k":"v\u0000\ud800"}}`)
	if got := a.mustSync(t, s, 1); got.Inserted != 2 {
		t.Fatalf("%+v, want the customer and the row", got)
	}
	if got := a.mustSync(t, s, 1); got.Changed() {
		t.Fatalf("the second sync found %+v", got)
	}
	r, err := s.BalanceTransaction(t.Context(), "", "cus_A", a.rows[0].ID)
	if err != nil || r.Description != "nul  here, broken \uFFFD there" {
		t.Fatalf("%q, %v", r.Description, err)
	}
	page, err := s.BalanceTransactions(t.Context(), "", "cus_A", mirror.Page{Limit: 1})
	if err != nil || string(page.Rows[0].Metadata) != `{"k": "v`+"\uFFFD"+`"}` {
		t.Fatalf("%s, %v", page.Rows[0].Metadata, err)
	}
}
