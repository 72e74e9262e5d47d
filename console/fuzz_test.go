package console_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creditmirror/creditmirror/mirror"
)

// fuzzMark is an element that no page has: where it comes back as one, a value was taken
// for markup.
const fuzzMark = "<fuzz-mark a=\"'>"

// FuzzForms sends any values to every page and form, by a key that acts, one that looks and
// one that is bound to another account. Whatever they are: the answer is a page or a
// redirect within this host and never a failure; no value becomes markup; what is of another
// account is not shown; a GET does nothing; and what is done, is done once, by whom it may
// be, with the row that says who and why.
func FuzzForms(f *testing.F) {
	d := openDesk(f, nil)
	finding, letter := seed(f, d.store)
	pages := []string{
		"/", "/customers", "/customers/platform/cus_1", "/customers/platform/cus_1/why", "/customers/platform/cus_1/statement", "/customers/platform/cus_1/statement.csv", "/drift", "/drift/" + finding,
		"/dead", "/dead/" + letter, "/dead/confirm", "/sweeps", "/books", "/books/balances.csv", "/books/rollforward.csv", "/books/ageing.csv", "/books/periods.csv", "/exports", "/writes", "/webhooks", "/sign-in",
	}
	forms := []string{
		"/customers/platform/cus_1/sync", "/drift/" + finding + "/accept", "/drift/" + finding + "/withdraw", "/dead/retry", "/dead/drop",
		"/sweeps/events/start", "/sweeps/balances/pause", "/sweeps/balances/resume", "/webhooks/check", "/sign-in",
	}
	keys := []string{actKey, lookKey, boundKey}
	var cookies []string
	for _, key := range keys {
		cookies = append(cookies, d.signIn(key))
	}
	f.Add(byte(1), byte(0), "find=cus_1&sort=most&currency=usd&after=0.0.cus_1")
	f.Add(byte(1), byte(2), "account=platform&set=unproven")
	f.Add(byte(12), byte(0), "as_of=2026-02-30&tab=rollforward&by=day&from=2020-01-01&to=2019-01-01")
	f.Add(byte(0x80|3), byte(0), "class=stripe+said+no&count=1&reason=known")
	f.Add(byte(0x80|4), byte(1), "class=&count=1&reason=x")
	f.Add(byte(0x80|1), byte(0), "reason=%3Cscript%3E&back=//evil.example")
	f.Add(byte(0x80|9), byte(0), "key=x&next=https://evil.example/")
	f.Fuzz(func(t *testing.T, where, who byte, query string) {
		d.t = t
		d.clock.advance(time.Millisecond) // rows differ by their time
		if len(query) > 4000 {
			return
		}
		values, err := url.ParseQuery(query)
		if err != nil {
			return // no browser sends it, and net/http refuses it
		}
		// What distinguishes one row from another is sent as it is, everything else with the mark.
		for name, list := range values {
			for i := range list {
				switch name {
				case "count", "tab", "do", "set", "sort", "ledger", "by", "show", "list":
				default:
					if len(list[i])%2 == 1 {
						list[i] += fuzzMark
					}
				}
			}
		}
		key, cookie := int(who)%len(keys), cookies[int(who)%len(keys)]
		ops := d.store.(mirror.Operations)
		newest := func() []mirror.OperatorAction {
			list, err := ops.Actions(t.Context(), mirror.ActionFilter{}, 2)
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		before, did := newest(), len(d.done)
		post := where&0x80 != 0
		var resp *http.Response
		var path string
		if post {
			path = forms[int(where&0x7f)%len(forms)]
			resp = d.ask("POST", path, cookie, values, "Sec-Fetch-Site", "same-origin")
		} else {
			path = pages[int(where)%len(pages)]
			resp = d.ask("GET", path+"?"+values.Encode(), cookie, nil)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		text := string(body)
		if resp.StatusCode >= 500 {
			t.Fatalf("%s %v: %d\n%s", path, values, resp.StatusCode, text)
		}
		if to := resp.Header.Get("Location"); to != "" {
			if u, err := url.Parse(to); err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") {
				t.Fatalf("%s %v leads to %q", path, values, to)
			}
		}
		if html := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html"); html && strings.Contains(text, "<fuzz-mark") {
			t.Fatalf("%s %v: a value is markup\n%s", path, values, text)
		}
		if keys[key] == boundKey && strings.Contains(text, "stripe said no") && !strings.Contains(query, "stripe") {
			t.Fatalf("%s %v: a key of acct_1 sees a letter of the platform", path, values)
		}
		after, done := newest(), d.done[did:]
		d.done = nil
		rows := after
		if len(before) > 0 && len(after) > 0 {
			switch before[0].ID {
			case after[0].ID:
				rows = nil
			case after[min(1, len(after)-1)].ID:
				rows = after[:1]
			}
		}
		switch {
		case !post && (len(done) > 0 || len(rows) > 0):
			t.Fatalf("GET %s %v did %q, rows %+v", path, values, done, rows)
		case len(rows) > 1, len(done) > 1:
			t.Fatalf("%s %v did %q, rows %+v", path, values, done, rows)
		case path == "/sign-in":
			if len(rows) > 0 {
				t.Fatalf("%v signs in: %+v", values, rows)
			}
		case len(done) > len(rows):
			t.Fatalf("%s %v did %q without a row", path, values, done)
		case len(rows) == 1:
			// A database keeps no NUL.
			a, reason := rows[0], strings.ReplaceAll(strings.TrimSpace(values.Get("reason")), "\x00", "")
			if path == "/webhooks/check" {
				reason = "" // it changes nothing, and asks for none
			}
			if keys[key] == lookKey || a.Actor != []string{"on-call", "support", "bound"}[key] || a.Reason != reason || !utf8.ValidString(a.Reason) || a.Outcome == "" || a.RemoteAddr != "192.0.2.7" {
				t.Fatalf("%s %v as %s: %+v, want the reason %q", path, values, keys[key], a, reason)
			}
			if keys[key] == boundKey && a.Account != "acct_1" && a.Count > 0 {
				t.Fatalf("%s %v: a key of acct_1 did something elsewhere: %+v", path, values, a)
			}
		}
	})
}
