package api

import (
	"path/filepath"
	"testing"

	"github.com/creditmirror/creditmirror/mirror/mirrortest"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// TestBooksOverTheAPI: what the commands print is served, and wrong questions are refused.
func TestBooksOverTheAPI(t *testing.T) {
	t.Parallel()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "mirror.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	mirrortest.Populate(t, s)
	h := New(Options{Reader: s, Books: s})

	w := serve(h, local("GET", "/v1/credits/balances?as_of=2026-03-01&limit=1000"))
	var p balancesPage
	if p = decode[balancesPage](t, w.Body.Bytes()); w.Code != 200 || p.AsOf != "2026-03-01T23:59:59Z" {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for _, b := range p.Data {
		switch b.ID {
		case "cus_b": // made on that day, of which the end counts
			if b.Balance["eur"] != -3800 || b.Credits["eur"] != 700 || b.Credits["usd"] != 699 {
				t.Errorf("%+v", b)
			}
		case "cus_gone":
			if !b.Deleted || len(b.Balance) > 0 {
				t.Errorf("a deleted customer holds %+v", b)
			}
		case "cus_pieces":
			if b.BalanceComplete || b.Balance != nil {
				t.Errorf("a balance that is not known: %+v", b)
			}
		}
	}
	if b := decode[balancesPage](t, serve(h, local("GET", "/v1/credits/balances?as_of=2026-02-28")).Body.Bytes()); len(b.Data) > 0 && len(b.Data[0].Balance) > 0 {
		t.Errorf("before the first day: %+v", b.Data[0])
	}

	type line struct {
		Line, Type, Currency, Bucket string
		Amount                       *int64
		Balance                      int64
	}
	roll := decode[booksPage[line]](t, serve(h, local("GET", "/v1/credits/rollforward?from=2026-03-01&to=2026-04-01&ledger=balance&currency=usd")).Body.Bytes())
	if n := len(roll.Data); n != 3 || roll.Data[0].Line != "opening" || *roll.Data[2].Amount != *roll.Data[1].Amount || roll.Unproven == 0 {
		t.Errorf("%+v", roll)
	}
	statement := decode[booksPage[line]](t, serve(h, local("GET", "/v1/credits/statement?customer=cus_b&ledger=balance")).Body.Bytes())
	if n := len(statement.Data); n != 5 || statement.Data[0].Amount != nil || statement.Data[4].Balance != -3800 {
		t.Errorf("%+v", statement)
	}
	ageing := decode[booksPage[line]](t, serve(h, local("GET", "/v1/credits/ageing?as_of=2026-03-01&currency=usd")).Body.Bytes())
	if len(ageing.Data) != 1 || ageing.Data[0].Bucket != "0-30" || *ageing.Data[0].Amount != 699 {
		t.Errorf("%+v", ageing)
	}
	for query, param := range map[string]string{
		"rollforward?from=2026-03-01": "to", "rollforward?from=2026-03-02&to=2026-03-01": "from", "rollforward?from=x&to=2026-03-01": "from",
		"rollforward?from=2026-03-01&to=2026-03-02&by=week": "by", "statement": "customer", "statement?customer=cus_nobody": "customer",
		"ageing?buckets=9,3": "buckets", "ageing?currency=zzz": "currency", "ageing?as_of=soon": "as_of", "statement?customer=cus_b&ledger=x": "ledger",
		"statement?customer=cus_b&timezone=Moon": "timezone",
	} {
		if w := serve(h, local("GET", "/v1/credits/"+query)); w.Code != 400 || errorOf(t, w).Param != param {
			t.Errorf("%s: %d %s, want 400 and param %s", query, w.Code, w.Body, param)
		}
	}
}
