package mirrortest

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
)

func fidelityCases() []testCase {
	return []testCase{
		{"I1_UnknownFieldsAndTypesSurvive", unknownFields},
		{"I1_ExtremeAmounts", extremes},
		{"I1_TextOfEveryKind", texts},
		{"NULInTexts", nulls},
		{"NULInCreditsAndLetters", nullsElsewhere},
		{"TimesToTheMicrosecond", times},
	}
}

func unknownFields(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	r := l.add("eur", -100)
	r.Type = "type_of_the_future"
	r.Raw = json.RawMessage(`{"id":"` + r.ID + `","z":{"b":[1,2.50,-7,null,true],"a":"ü"},"a":12345678901234567890,"type":"type_of_the_future"}`)
	l.extra = map[string]any{"new_field": map[string]any{"deep": []int{1, 2}}}
	l.sync(t, h)
	got := list(t, h, "", "cus_A").Rows[0]
	if string(mirror.Canonical(got.Raw)) != string(mirror.Canonical(r.Raw)) {
		t.Fatalf("raw %s\nwant %s", mirror.Canonical(got.Raw), mirror.Canonical(r.Raw))
	}
	c, err := h.Customer(t.Context(), "", "cus_A")
	noErr(t, err)
	if want := l.object().Raw; string(mirror.Canonical(c.Raw)) != string(mirror.Canonical(want)) {
		t.Fatalf("customer %s\nwant %s", c.Raw, want)
	}
	if a := l.sync(t, h); a.Changed() {
		t.Fatalf("the same once more: %+v", a)
	}
}

func extremes(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", 0)
	l.add("eur", math.MaxInt64)
	l.add("eur", -math.MaxInt64)
	l.addNow("eur", math.MinInt64+1)
	l.addNow("eur", 0)
	l.sync(t, h)
	requireChain(t, h, l)
	// Sums over customers leave the range: they must not break the figures of all
	// other currencies.
	for _, id := range []string{"cus_B", "cus_C"} {
		m := newLedger("", id)
		m.add("eur", math.MinInt64+1)
		m.add("usd", 5)
		m.sync(t, h)
	}
	totals, err := h.Totals(t.Context())
	noErr(t, err)
	if totals.Balances["usd"] != 10 || totals.Balances["eur"] != math.MinInt64 {
		t.Fatalf("balances %v, want usd 10 and eur at the limit", totals.Balances)
	}
	c := newCredits("", "cus_A")
	id := c.grant("eur", math.MaxInt64).ID
	c.move(id, "eur", -math.MaxInt64)
	c.sync(t, h)
	requireCredits(t, h, c)
}

func texts(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	for i, s := range []string{
		"", "plain", "ünïcödé 漢字 🙂", `quotes "double" 'single' \ back`, "line\nbreak\ttab\r", "<script>&amp;</script>",
		"\u2028\u202e rtl", strings.Repeat("long ", 2000), "'; DROP TABLE customers; --", "%s %d {{.}}",
	} {
		l.add("eur", -1)
		l.rows[i].Description = s
		l.rows[i].Metadata = mustJSON(map[string]string{"key " + s[:min(len(s), 5)]: s, "": ""})
		l.render(i)
	}
	l.sync(t, h)
	requireChain(t, h, l)
	c := newCredits("", "cus_A")
	g := c.grant("eur", 10)
	g.Name, g.Category = `it's "ü" 🙂`, "category_of_the_future"
	c.render(0)
	c.sync(t, h)
	requireCredits(t, h, c)
}

// nulls: JSON may hold \u0000 and Go's decoder makes it a NUL character. Columns
// lose it; the sync must not fail, and must not see a change every time.
func nulls(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -100)
	r := &l.rows[0]
	r.Description = "a\x00b"
	r.Metadata = json.RawMessage(`{"k":"a\u0000b","n\u0000":"1"}`)
	r.Raw = json.RawMessage(fmt.Sprintf(`{"id":%q,"description":"a\u0000b","metadata":{"k":"a\u0000b"}}`, r.ID))
	l.extra = map[string]any{"name": "a\x00b"}
	l.sync(t, h)
	got := list(t, h, "", "cus_A").Rows[0]
	if got.Description != "ab" {
		t.Fatalf("description %q, want %q", got.Description, "ab")
	}
	for name, raw := range map[string]json.RawMessage{"raw": got.Raw, "metadata": got.Metadata} {
		if !json.Valid(raw) || strings.ContainsRune(string(raw), 0) {
			t.Fatalf("%s: %q", name, raw)
		}
	}
	if a := l.sync(t, h); a.Changed() {
		t.Fatalf("the same once more: %+v, want no change", a)
	}
	if _, err := h.Customer(t.Context(), "", "cus_A"); err != nil {
		t.Fatal(err)
	}
}

func nullsElsewhere(t *testing.T, h *Harness) {
	c := newCredits("", "cus_A")
	g := c.grant("eur", 10)
	g.Name, g.Metadata = "a\x00b", json.RawMessage(`{"k":"\u0000"}`)
	c.render(0)
	c.sync(t, h)
	got, err := h.Grant(t.Context(), "", c.grants[0].ID)
	if err != nil || got.Name != "ab" {
		t.Fatalf("name %q, %v", got.Name, err)
	}
	if a := c.sync(t, h); a.Changed() {
		t.Fatalf("the same once more: %+v", a)
	}
	d := letter(c.target())
	d.Reason = "bad \x00 byte"
	noErr(t, h.SaveDeadLetter(t.Context(), d))
	if got := letters(t, h)[0].Reason; got != "bad  byte" {
		t.Fatalf("reason %q", got)
	}
	f := mirror.Finding{Kind: mirror.DriftFieldMismatch, Customer: "cus_A", Scope: mirror.ScopeBalance, Expected: "a\x00b", Cause: "\x00"}
	h.open(t, f)
}

func times(t *testing.T, h *Harness) {
	l := newLedger("", "cus_A")
	l.add("eur", -1)
	snap := l.whole(begin(t, h, l.target()))
	snap.ObservedAt = time.Date(2026, 10, 25, 2, 30, 0, 123456000, time.FixedZone("summer", 7200))
	applyBalance(t, h, snap)
	at := list(t, h, "", "cus_A").SyncedAt
	if !at.Equal(snap.ObservedAt) || at.Location() != time.UTC {
		t.Fatalf("%v, want %v in UTC", at, snap.ObservedAt)
	}
	far := newLedger("", "cus_B")
	far.now = time.Date(9999, 12, 31, 23, 59, 58, 0, time.UTC)
	far.add("eur", -1)
	far.sync(t, h)
	requireChain(t, h, far)
}
