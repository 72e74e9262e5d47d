package stripeapi

import (
	"encoding/json"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// namesOf is a list with that many members that nobody knows.
func namesOf(n int) string {
	var b strings.Builder
	b.WriteString(`{"object":"list","has_more":false,"data":[]`)
	for i := range n {
		b.WriteString(`,"` + strconv.Itoa(i) + `":0`)
	}
	b.WriteString("}")
	return b.String()
}

// What a reply costs is bounded by its size, however many names,
// elements, blanks or levels its bytes are made into. Not parallel: it counts what all
// goroutines allocate.
func TestRepliesCostTheirBytes(t *testing.T) {
	const size = 2 << 20
	fill := func(prefix, unit, suffix string) []byte {
		return []byte(prefix + strings.Repeat(unit, (size-len(prefix)-len(suffix))/len(unit)) + suffix)
	}
	list := func(unit string) []byte {
		return fill(`{"object":"list","has_more":false,"data":[`, unit+",", unit+`]}`)
	}
	long := `{"id":"` + strings.Repeat("i", 255) + `"}`
	bodies := map[string][]byte{
		"names":          []byte(namesOf(150_000)),
		"names in a row": []byte(`{"object":"list","has_more":false,"data":[` + namesOf(150_000) + `]}`),
		"numbers":        list("0"),
		"objects":        list("{}"),
		"rows":           list(long),
		"metadata":       []byte(`{"object":"list","has_more":false,"data":[{"id":"a","metadata":` + namesOf(150_000) + `}]}`),
		"balances":       []byte(`{"object":"customer","id":"cus_1","balance":0,"invoice_credit_balance":` + namesOf(150_000) + `}`),
		"blanks":         fill("{", " ", "}"),
		"levels":         fill("", "[", ""),
		"escapes":        fill(`{"`, `\u0000`, `":0}`),
		"summary":        fill(`{"object":"billing.credit_balance_summary","customer":"`+cusCredits+`","balances":[`, "{},", "{}]}"),
	}
	for name, body := range bodies {
		for reader, read := range map[string]func() error{
			"balance page": func() error { _, err := decodeBalancePage(body, "", cusBalance, "", false); return err },
			"customer":     func() error { _, err := decodeCustomerReply(body, "", cusBalance, true); return err },
			"credits":      func() error { _, err := decodeCreditPage(body, "", cusCredits, ""); return err },
			"summary":      func() error { _, err := decodeSummary(body, cusCredits); return err },
			"events":       func() error { _, err := decodeEventsPage(body, "", EventsQuery{}); return err },
		} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := read()
			runtime.ReadMemStats(&after)
			// All that was allocated, also what was given back: no more was ever held.
			if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 12 {
				t.Errorf("%s as %s: %d MiB allocated for a body of %d (%v)", name, reader, mb, len(body)>>20, err)
			}
			if err == nil && name != "blanks" && !json.Valid(body) {
				t.Errorf("%s as %s is read", name, reader)
			}
		}
	}
}
