package api

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// feedPage is a reply of the change feed as its readers see it.
type feedPage struct {
	Next    string       `json:"next"`
	HasMore bool         `json:"has_more"`
	Data    []feedRecord `json:"data"`
}

type feedRecord struct{ Cursor, Table, Customer, ID, Op string }

// feedStore is a mirror with some changes in its feed.
func feedStore(tb testing.TB) *sqlite.Store {
	tb.Helper()
	ctx := tb.Context()
	store, err := sqlite.Open(ctx, filepath.Join(tb.TempDir(), "mirror.db"), sqlite.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { store.Close() })
	if err := store.Migrate(ctx); err != nil {
		tb.Fatal(err)
	}
	for i := range 7 {
		id := fmt.Sprintf("cus_%d", i)
		target := mirror.Target{Scope: mirror.ScopeBalance, ID: id}
		state, err := store.BeginSync(ctx, target)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := store.ApplyBalance(ctx, mirror.BalanceSnapshot{
			Target: target, Epoch: state.Epoch, EventSeq: state.EventSeq, ObservedAt: synced, Joined: true, Full: true,
			Customer: mirror.Customer{
				ID: id, Created: at(1680216000), Balance: -1, Currency: "usd", InvoiceCreditBalance: map[string]int64{"usd": 1},
				Raw: fmt.Appendf(nil, `{"id":%q,"object":"customer","balance":-1}`, id),
			},
			Windows: []mirror.Window[mirror.BalanceTransaction]{{FromHead: true, ToEnd: true, Rows: []mirror.BalanceTransaction{{
				ID: "cbtxn_" + id, Customer: id, Amount: -1, Currency: "usd", EndingBalance: -1, Type: "adjustment", Metadata: json.RawMessage(`{}`),
				Created: at(1680216000), Raw: fmt.Appendf(nil, `{"id":"cbtxn_%s"}`, id),
			}}}},
		}); err != nil {
			tb.Fatal(err)
		}
	}
	return store
}

// FuzzFeedCursor continues the change feed after any text. Either it is refused in Stripe's
// envelope, by the parameter's name and without the database's words, or it is a position:
// then what follows, read on to its end by the cursors of the replies, is the end of the
// whole feed, with nothing left out and nothing twice.
func FuzzFeedCursor(f *testing.F) {
	h := New(Options{Reader: feedStore(f)})
	read := func(t testing.TB, after, limit string) (page feedPage, ok bool) {
		w := serve(h, local("GET", "/v1/credits/changes?"+url.Values{"after": {after}, "limit": {limit}}.Encode()))
		if w.Code == 200 {
			return decode[feedPage](t, w.Body.Bytes()), true
		}
		if e := errorOf(t, w); w.Code != 400 || e.Param != "after" || strings.Contains(strings.ToLower(w.Body.String()), "sql") {
			t.Fatalf("after %q: %d %s", after, w.Code, w.Body)
		}
		return page, false
	}
	all, ok := read(f, "0", "1000")
	if !ok || len(all.Data) < 7 || all.HasMore {
		f.Fatalf("the feed is %+v", all)
	}
	cursors := []string{"", "0", "1", "-1", "+1", "01", "1.2", "1@x", " 1", "1 ", "1e1", "9223372036854775807", "9223372036854775808", "99999999999999999999", "1;DROP TABLE changes", "' OR 1=1--", "\x00", "１"}
	for _, c := range all.Data {
		cursors = append(cursors, c.Cursor)
	}
	for _, c := range cursors {
		f.Add(c, byte(2))
	}
	f.Fuzz(func(t *testing.T, after string, limit byte) {
		n := fmt.Sprint(max(1, int(limit)%9))
		var got []feedRecord
		for at := after; ; {
			page, ok := read(t, at, n)
			if !ok {
				if at != after {
					t.Fatalf("after %q the cursor %q of a reply is refused", after, at)
				}
				if slices.ContainsFunc(all.Data, func(c feedRecord) bool { return c.Cursor == after }) {
					t.Fatalf("the feed's own cursor %q is refused", after)
				}
				return
			}
			got = append(got, page.Data...)
			if len(got) > len(all.Data) {
				t.Fatalf("after %q: more than the feed has", after)
			}
			if at = page.Next; !page.HasMore {
				break
			}
		}
		if !slices.Equal(got, all.Data[len(all.Data)-len(got):]) {
			t.Fatalf("after %q: %+v is not the end of the feed", after, got)
		}
		if i := slices.IndexFunc(all.Data, func(c feedRecord) bool { return c.Cursor == after }); i >= 0 && len(got) != len(all.Data)-i-1 {
			t.Fatalf("after %q, which is record %d: %d records follow", after, i, len(got))
		}
	})
}

// F10: a database that was put back has a name for its history, and its cursors end in it.
// They are taken again, and those from before are refused.
func TestFeedCursorsOfADatabasePutBack(t *testing.T) {
	store := feedStore(t)
	h := New(Options{Reader: store})
	read := func(after string) (code int, page feedPage) {
		w := serve(h, local("GET", "/v1/credits/changes?limit=3&after="+url.QueryEscape(after)))
		if w.Code == http.StatusOK {
			page = decode[feedPage](t, w.Body.Bytes())
		}
		return w.Code, page
	}
	_, before := read("0")
	if err := store.SaveIncarnation(t.Context(), mirror.Incarnation{Partition: mirror.DatabasePartition, ID: rand.Text()}); err != nil {
		t.Fatal(err)
	}
	if code, _ := read(before.Next); code != 400 {
		t.Errorf("a cursor from before: %d", code)
	}
	_, first := read("0")
	if !strings.Contains(first.Next, "@") || !first.HasMore {
		t.Fatalf("the first page is %+v", first)
	}
	code, second := read(first.Next)
	if code != 200 || len(second.Data) != 3 || second.Data[0].Cursor == first.Data[2].Cursor {
		t.Fatalf("after %q: %d %+v", first.Next, code, second)
	}
}
