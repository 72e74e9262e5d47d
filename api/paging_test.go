package api

import (
	"fmt"
	"slices"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
)

// many is a mirror with n rows in each list of one customer, among rows of others.
func many(t testing.TB, n int) *fake {
	f := &fake{customers: world(t).customers, syncedAt: synced}
	for i := n; i > 0; i-- {
		for _, customer := range []string{cusBalance, cusCredits} {
			id := fmt.Sprintf("%03d_%s", i, customer[4:])
			f.balances = append(f.balances, mirror.BalanceTransaction{
				ID: "cbtxn_" + id, Customer: customer, Raw: balanceJSON("cbtxn_"+id, customer, int64(i)),
			})
			f.grants = append(f.grants, mirror.CreditGrant{
				ID: "credgr_" + id, Customer: customer, Raw: fmt.Appendf(nil, `{"id":"credgr_%s"}`, id),
			})
			f.credits = append(f.credits, mirror.CreditTransaction{
				ID: "cbtxn_" + id, Grant: "credgr_001_" + customer[4:], Customer: customer, Raw: fmt.Appendf(nil, `{"id":"cbtxn_%s"}`, id),
			})
		}
	}
	return f
}

type pageJSON struct {
	Object  string
	HasMore bool `json:"has_more"`
	Data    []struct{ ID string }
}

func (p pageJSON) ids() []string {
	var ids []string
	for _, row := range p.Data {
		ids = append(ids, row.ID)
	}
	return ids
}

// A walk with any limit, in either direction and from any row, gives the whole
// list (or its part), each row once and in order.
func TestWalks(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 2, 10, 11, 23} {
		f := many(t, n)
		h := handlerOf(f)
		for _, base := range []string{
			pathTxns + "?", pathGrants + "?", pathGrants + "?customer=" + cusBalance + "&",
			pathCredits + "?customer=" + cusBalance + "&",
		} {
			get := func(query string) pageJSON {
				t.Helper()
				w := serve(h, local("GET", base+query))
				if w.Code != 200 {
					t.Fatalf("%s%s: %d %s", base, query, w.Code, w.Body)
				}
				return decode[pageJSON](t, w.Body.Bytes())
			}
			all := get("limit=100").ids()
			want := n
			if base == pathGrants+"?" { // of both customers
				want = 2 * n
			}
			if len(all) != want {
				t.Fatalf("%s: %d rows, want %d", base, len(all), want)
			}
			if got := get("").ids(); !slices.Equal(got, all[:min(10, len(all))]) {
				t.Errorf("%s: by default %v", base, got)
			}
			for _, limit := range []int{1, 2, 3, 7, 10, 22, 23, 24, 99, 100} {
				walk := func(cursor, from string) []string {
					var got []string
					for p := get(fmt.Sprintf("limit=%d%s", limit, from)); ; {
						ids := p.ids()
						if p.HasMore && len(ids) != limit || p.Object != "list" {
							t.Fatalf("%s limit %d: %d rows and has_more", base, limit, len(ids))
						}
						if cursor == paramBefore {
							got = append(ids, got...)
						} else {
							got = append(got, ids...)
						}
						if !p.HasMore {
							return got
						}
						next := ids[len(ids)-1]
						if cursor == paramBefore {
							next = ids[0]
						}
						p = get(fmt.Sprintf("limit=%d&%s=%s", limit, cursor, next))
					}
				}
				if got := walk(paramAfter, ""); !slices.Equal(got, all) {
					t.Fatalf("%s limit %d: %v, want %v", base, limit, got, all)
				}
				for i, id := range all {
					if got := walk(paramAfter, "&starting_after="+id); !slices.Equal(got, all[i+1:]) {
						t.Fatalf("%s limit %d after %s: %v", base, limit, id, got)
					}
					if got := walk(paramBefore, "&ending_before="+id); !slices.Equal(got, all[:i]) {
						t.Fatalf("%s limit %d before %s: %v", base, limit, id, got)
					}
				}
			}
		}
	}
}

// SDKs loop for ever, or worse, on an empty page that says there is more.
func TestEmptyPageIsLast(t *testing.T) {
	t.Parallel()
	c := &call{}
	v, err := renderList(t.Context(), c, "/", mirror.Slice[mirror.BalanceTransaction]{HasMore: true}, renderBalanceTransaction)
	if err != nil || v.(list).HasMore {
		t.Fatalf("%+v %v", v, err)
	}
}
