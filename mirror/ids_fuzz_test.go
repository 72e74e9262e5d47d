package mirror

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// FuzzIDs: what passes for an id names one thing wherever it goes. In a path it is one
// segment, in a query one value, in a key of the queue one part, in a line of the log one
// word; and what the queue's key of a target reads back as is that target.
func FuzzIDs(f *testing.F) {
	for _, s := range []string{
		"cus_NcjdgdwZyI9Rj7", "cus_../../v1/charges", "cus_%2e", "a@example.com", "..", "acct_1", "credgr_1", "cus_ü", "balance::cus_1",
		"balance:acct_1:cus_1", "grant_owner:acct_1:credgr_1", "credits:acct_1:a:b", "clock_customers::clock_1", "evt_1", strings.Repeat("1", 256),
	} {
		f.Add(s)
	}
	strict := regexp.MustCompile(`^[a-z]+_[A-Za-z0-9_]+$`)
	f.Fuzz(func(t *testing.T, s string) {
		if ValidID(s) {
			if len(s) > 255 || strings.ContainsAny(s, "/\\?#%\"`<>{}[]^ ") || s == "." || s == ".." {
				t.Fatalf("%q is an id", s)
			}
			for _, c := range []byte(s) {
				if c <= ' ' || c >= 0x7f {
					t.Fatalf("%q is an id", s)
				}
			}
			u, err := url.Parse("https://x/v1/customers/" + url.PathEscape(s) + "/balance_transactions")
			if err != nil || u.Path != "/v1/customers/"+s+"/balance_transactions" || u.RawQuery != "" || u.JoinPath().Path != u.Path {
				t.Fatalf("%q leads to %v, %v", s, u, err)
			}
			if q, err := url.ParseQuery("customer=" + url.QueryEscape(s)); err != nil || len(q) != 1 || q.Get("customer") != s {
				t.Fatalf("%q becomes %v", s, q)
			}
		}
		if (ValidAccountID(s) || ValidGrantID(s) || validEvent.MatchString(s)) && (!strict.MatchString(s) || !ValidID(s)) {
			t.Fatalf("%q is an id of ours and no id", s)
		}
		if target, err := ParseTarget(s); err == nil && (target.Key() != s || !target.Valid()) {
			t.Fatalf("%q is %v", s, target)
		}
		for _, scope := range []Scope{ScopeBalance, ScopeCredits, ScopeGrantOwner, ScopeClockCustomers, ScopeCreditOwner, ScopeInvoiceOwner, ScopeNoteOwner, Scope(s)} {
			for _, target := range []Target{{Scope: scope, ID: s}, {Account: "acct_1", Scope: scope, ID: s}, {Account: s, Scope: scope, ID: "cus_1"}} {
				if !target.Valid() {
					continue
				}
				if back, err := ParseTarget(target.Key()); err != nil || back != target {
					t.Fatalf("%q reads back as %q, %v", target.Key(), back, err)
				}
			}
		}
	})
}

// FuzzEventRef: a reference that the queue carries is read as it was written.
func FuzzEventRef(f *testing.F) {
	for _, s := range []string{
		"evt_1 1700000000 customer.updated cus_1", "evt_1 1700000000 a b 1700000001 moved 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"evt_1 -5 a b still", "evt_1 1 a b c", "  1  ", "evt_1 9223372036854775807 a b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseEventRef(s)
		if err != nil {
			return
		}
		again, err := ParseEventRef(r.String())
		if err != nil || again != r {
			t.Fatalf("%q is %+v, and that is %+v, %v", s, r, again, err)
		}
		// Numbers may be written in two ways; nothing else may.
		number := regexp.MustCompile(`^[+-]?[0-9]+$`)
		words := func(s string) []string {
			return slices.DeleteFunc(strings.Split(s, " "), number.MatchString)
		}
		if !slices.Equal(words(s), words(r.String())) {
			t.Fatalf("%q is written as %q", s, r)
		}
	})
}
