package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/parquet-go/parquet-go"

	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/internal/sqlitetest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

type store interface {
	mirror.Store
	Mirror
}

// eachStore runs a test on both databases.
func eachStore(t *testing.T, test func(t *testing.T, s store)) {
	t.Run("sqlite", func(t *testing.T) {
		s, _ := sqlitetest.Open(t)
		test(t, s)
	})
	t.Run("postgres", func(t *testing.T) { test(t, anotherStore(t, nil)) })
}

// anotherStore is a mirror beside another one, of the same kind and on the same server.
func anotherStore(t *testing.T, beside store) store {
	t.Helper()
	if _, ok := beside.(*sqlite.Store); ok {
		s, _ := sqlitetest.Open(t)
		return s
	}
	s, err := postgres.Open(t.Context(), pgtest.NewDatabase(t), postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// history is the credit of some customers at Stripe, which a mirror follows.
type history struct {
	t       *testing.T
	s       store
	random  *rand.Rand
	now     time.Time
	ledgers []*ledger
}

type ledger struct {
	account, customer string
	rows              []mirror.BalanceTransaction // oldest first
	balances          map[string]int64
	deleted           bool
}

func newHistory(t *testing.T, s store, seed uint64) *history {
	return &history{t: t, s: s, random: rand.New(rand.NewPCG(seed, 1)), now: time.Date(2026, 1, 20, 12, 0, 0, 0, time.UTC)}
}

// step changes something at Stripe and syncs it.
func (h *history) step() {
	h.t.Helper()
	h.now = h.now.Add(time.Duration(h.random.IntN(72)) * time.Hour)
	if len(h.ledgers) == 0 || h.random.IntN(5) == 0 {
		n := len(h.ledgers)
		account := []string{"", "acct_1"}[n%2]
		h.ledgers = append(h.ledgers, &ledger{account: account, customer: fmt.Sprintf("cus_%03d", n), balances: map[string]int64{}})
	}
	l := h.ledgers[h.random.IntN(len(h.ledgers))]
	target := mirror.Target{Account: l.account, Scope: mirror.ScopeBalance, ID: l.customer}
	st, err := h.s.BeginSync(h.t.Context(), target)
	if err != nil {
		h.t.Fatal(err)
	}
	if !l.deleted && h.random.IntN(12) == 0 {
		l.deleted = true
	}
	if l.deleted {
		if _, err := h.s.ApplyTombstone(h.t.Context(), mirror.Tombstone{Target: target, Epoch: st.Epoch, ObservedAt: h.now, EventSeq: st.EventSeq}); err != nil {
			h.t.Fatal(err)
		}
		return
	}
	for range h.random.IntN(4) {
		l.add([]string{"eur", "usd", "jpy"}[h.random.IntN(3)], h.random.Int64N(2000)-1200, h.now)
	}
	if len(l.rows) > 0 && h.random.IntN(4) == 0 {
		i := h.random.IntN(len(l.rows))
		l.rows[i].Description = fmt.Sprintf("edited, \"at\" %d\n\\N", h.now.Unix())
		l.render(i)
	}
	rows := slices.Clone(l.rows)
	slices.Reverse(rows)
	_, err = h.s.ApplyBalance(h.t.Context(), mirror.BalanceSnapshot{
		Target: target, Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: h.now, Customer: l.object(h.now),
		Windows: []mirror.Window[mirror.BalanceTransaction]{{Rows: rows, FromHead: true, ToEnd: true}}, Joined: true, Full: true,
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (l *ledger) add(currency string, amount int64, at time.Time) {
	l.balances[currency] += amount
	l.rows = append(l.rows, mirror.BalanceTransaction{
		Account: l.account, ID: fmt.Sprintf("cbtxn_%s_%04d", l.customer, len(l.rows)), Customer: l.customer,
		Amount: amount, Currency: currency, EndingBalance: l.balances[currency], Type: "adjustment",
		Description: "é\U0001F600", Metadata: json.RawMessage(`{"k":"v,\"w\""}`), Created: at,
	})
	l.render(len(l.rows) - 1)
}

func (l *ledger) render(i int) {
	r := &l.rows[i]
	r.Raw, _ = json.Marshal(map[string]any{
		"id": r.ID, "object": "customer_balance_transaction", "amount": r.Amount, "created": r.Created.Unix(), "currency": r.Currency,
		"customer": r.Customer, "description": r.Description, "ending_balance": r.EndingBalance, "livemode": false,
		"metadata": r.Metadata, "type": r.Type, "invoice": nil, "credit_note": nil, "checkout_session": nil,
	})
}

func (l *ledger) object(at time.Time) mirror.Customer {
	credit := map[string]int64{}
	for currency, b := range l.balances {
		credit[currency] = -b
	}
	c := mirror.Customer{
		Account: l.account, ID: l.customer, Created: time.Date(2025, 12, 31, 23, 0, 0, 0, time.UTC),
		Balance: l.balances["eur"], Currency: "eur", InvoiceCreditBalance: credit,
	}
	c.Raw, _ = json.Marshal(map[string]any{
		"id": c.ID, "object": "customer", "balance": c.Balance, "currency": c.Currency, "created": c.Created.Unix(),
		"livemode": false, "invoice_credit_balance": credit, "test_clock": nil, "customer_account": nil,
	})
	return c
}

// faulty is a place at which a process dies: after so many writes nothing is done
// any more. The write at which it dies may have been done.
type faulty struct {
	place
	mu     sync.Mutex // files are written side by side
	left   int
	random *rand.Rand
}

// next counts a write down, and reports whether one at which the process dies is done.
func (f *faulty) next() (left int, done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left--
	return f.left, f.left == 0 && f.random.IntN(2) == 0
}

var errKilled = errors.New("killed")

func (f *faulty) create(ctx context.Context, key string, body io.Reader) error {
	switch left, done := f.next(); {
	case left > 0:
		return f.place.create(ctx, key, body)
	case done:
		if err := f.place.create(ctx, key, body); err != nil {
			return err
		}
	}
	return errKilled
}

func (f *faulty) replace(ctx context.Context, key string, body []byte) error {
	if left, _ := f.next(); left <= 0 {
		return errKilled
	}
	return f.place.replace(ctx, key, body)
}

// replay reads the chain of a place and returns each table's rows by key, as a
// reader has them who applied every generation in order.
func replay(t *testing.T, p place, c chain) map[string]map[string]string {
	t.Helper()
	held := map[string]map[string]string{}
	for _, g := range c.generations {
		m, err := c.manifest(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == KindFull {
			held = map[string]map[string]string{}
		}
		seen := map[string]bool{}
		for _, f := range m.Files {
			if held[f.Table] == nil {
				held[f.Table] = map[string]string{}
			}
			for _, row := range readRows(t, p, f) {
				tables, err := tablesNamed([]string{f.Table})
				if err != nil {
					t.Fatal(err)
				}
				key, op, text := splitRow(tables[0], row)
				if at := f.Table + key; seen[at] {
					t.Fatalf("generation %d has %s of %s twice", g, key, f.Table)
				} else {
					seen[at] = true
				}
				if op == opDelete {
					delete(held[f.Table], key)
				} else {
					held[f.Table][key] = text
				}
			}
		}
	}
	return held
}

func splitRow(t table, row map[string]string) (key, op, text string) {
	var parts, all []string
	for i, c := range t.Columns {
		if i < t.Key {
			parts = append(parts, row[c.Name])
		}
		all = append(all, c.Name+"="+row[c.Name])
	}
	return strings.Join(parts, "/"), row["_op"], strings.Join(all, " ")
}

func readRows(t *testing.T, p place, f File) (rows []map[string]string) {
	t.Helper()
	r, err := p.open(t.Context(), f.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	file, err := parquet.OpenFile(bytes.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	names := file.Schema().Columns()
	for _, group := range file.Metadata().RowGroups {
		for i, c := range group.Columns { // engines other than DuckDB look columns up by them
			if path := c.MetaData.PathInSchema; !slices.Equal(path, names[i]) {
				t.Fatalf("%s: column %v has the path %q", f.Path, names[i], path)
			}
		}
	}
	for _, group := range file.RowGroups() {
		reader := group.Rows()
		batch := make([]parquet.Row, 16)
		for {
			n, err := reader.ReadRows(batch)
			for _, row := range batch[:n] {
				text := map[string]string{}
				for _, v := range row {
					text[names[v.Column()][0]] = v.String()
				}
				rows = append(rows, text)
			}
			if err != nil {
				break
			}
		}
		if err := reader.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

// held reads the mirror's own rows in the form of replay.
func held(t *testing.T, s store) map[string]map[string]string {
	t.Helper()
	all := map[string]map[string]string{}
	tables, err := tablesNamed(nil)
	if err != nil {
		t.Fatal(err)
	}
	err = s.ReadFeed(t.Context(), func(r mirror.FeedReader) error {
		for _, table := range tables {
			rows := map[string]string{}
			err := r.Rows(t.Context(), table.Table, func(values []mirror.Value) error {
				row := map[string]string{}
				for i, c := range table.Columns {
					switch v := values[i]; {
					case v.Null:
						row[c.Name] = "<null>"
					case isText(c.Kind):
						row[c.Name] = string(v.Text)
					case c.Kind == mirror.KindBool:
						row[c.Name] = fmt.Sprint(v.Int != 0)
					default:
						row[c.Name] = fmt.Sprint(v.Int)
					}
				}
				key, _, text := splitRow(table, row)
				rows[key] = text
				return nil
			})
			if err != nil {
				return err
			}
			if len(rows) > 0 {
				all[table.Name] = rows
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sameRows(t *testing.T, got, want map[string]map[string]string) {
	t.Helper()
	for name, rows := range want {
		for key, text := range rows {
			if got[name][key] != text {
				t.Errorf("%s %s\nof the copy   %s\nof the mirror %s", name, key, got[name][key], text)
			}
		}
	}
	for name, rows := range got {
		for key := range rows {
			if _, ok := want[name][key]; !ok {
				t.Errorf("%s %s is in the copy and not in the mirror", name, key)
			}
		}
	}
}

func newExporter(t *testing.T, s store, url string, o Options) *Exporter {
	t.Helper()
	l, err := ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	o.Owner, o.ToolVersion, o.TempDir = "test", "test", t.TempDir()
	e, err := New(s, l, o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Whatever happens in between, and wherever exports are killed, a reader of the
// chain has what the mirror has.
func TestEveryGenerationEqualsTheMirror(t *testing.T) {
	for seed := range uint64(3) {
		eachStore(t, func(t *testing.T, s store) {
			dir := t.TempDir()
			e := newExporter(t, s, dir, Options{})
			h := newHistory(t, s, seed)
			p, err := openFolder(dir, true)
			if err != nil {
				t.Fatal(err)
			}
			for range 12 {
				for range h.random.IntN(4) {
					h.step()
				}
				f := &faulty{place: p, left: 1 + h.random.IntN(14), random: h.random}
				if _, err := e.runFiles(t.Context(), f); err != nil && !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				if h.random.IntN(2) == 0 {
					continue
				}
				if _, err := e.runFiles(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				c, err := readChain(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				sameRows(t, replay(t, p, c), held(t, s))
			}
			result, err := e.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if result, err = e.Run(t.Context()); err != nil || result.Manifest != nil {
				t.Fatalf("a run after nothing has changed made %+v, %v", result.Manifest, err)
			}
			v, err := Verify(t.Context(), e.location, s, nil)
			if err != nil || len(v.Differences) > 0 || v.Mirror != "compared" {
				t.Fatalf("verify: %+v, %v", v, err)
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}

func sumsText(sums map[string]int64) string {
	var parts []string
	for _, currency := range slices.Sorted(maps.Keys(sums)) {
		parts = append(parts, fmt.Sprintf("%s=%d", currency, sums[currency]))
	}
	return strings.Join(parts, " ")
}

// s3 is an S3 in this process that knows conditional writes.
func s3(t *testing.T) (url string, backend *s3mem.Backend) {
	t.Helper()
	backend = s3mem.New()
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	if err := backend.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"} {
		t.Setenv(name, value)
	}
	return "s3://bucket/some/prefix?use_path_style=true&endpoint=" + server.URL, backend
}

func TestABucketIsAPlaceLikeAFolder(t *testing.T) {
	s, _ := sqlitetest.Open(t)
	url, _ := s3(t)
	e := newExporter(t, s, url, Options{})
	h := newHistory(t, s, 3)
	for range 3 {
		for range 5 {
			h.step()
		}
		if _, err := e.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p, err := e.location.openPlace(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	c, err := readChain(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	sameRows(t, replay(t, p, c), held(t, s))
	v, err := Verify(t.Context(), e.location, s, nil)
	if err != nil || len(v.Differences) > 0 || v.Generations != 3 {
		t.Errorf("verify: %+v, %v", v, err)
	}
	// Of two that publish one generation, one wins.
	m, _, err := c.latest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.publish(t.Context(), m); err != nil {
		t.Errorf("the same manifest, published again as after a lost answer: %v", err)
	}
	m.DataLoadTime = m.DataLoadTime.Add(time.Second)
	if err := c.publish(t.Context(), m); !errors.Is(err, errExists) {
		t.Errorf("a generation was published twice: %v", err)
	}
	if _, err := Prune(t.Context(), e.location, false, time.Now()); err != nil {
		t.Error(err)
	}
}

func TestTablesOfAnotherPostgreSQL(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		url := pgtest.NewDatabase(t)
		e := newExporter(t, s, url, Options{})
		h := newHistory(t, s, 5)
		for range 4 {
			for range 6 {
				h.step()
			}
			result, err := e.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			v, err := Verify(t.Context(), e.location, s, nil)
			if err != nil || len(v.Differences) > 0 || v.Mirror != "compared" {
				t.Fatalf("after generation %d: %+v, %v", result.Manifest.Generation, v, err)
			}
		}
		if result, err := e.Run(t.Context()); err != nil || result.Manifest != nil {
			t.Errorf("nothing has changed, and the run made %+v, %v", result.Manifest, err)
		}
		// A mirror that is not the one whose copy it is begins anew.
		other, _ := sqlitetest.Open(t)
		result, err := newExporter(t, other, url, Options{}).Run(t.Context())
		if err != nil || result.Manifest.Kind != KindFull {
			t.Errorf("another mirror: %+v, %v", result, err)
		}
	})
}

func TestPlacesThatAreRefused(t *testing.T) {
	s, _ := sqlitetest.Open(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "photos.zip"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newExporter(t, s, dir, Options{}).Run(t.Context()); !errors.Is(err, ErrForeign) {
		t.Errorf("a folder of something else: %v", err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("it was written to: %v, %v", list, err)
	}
	if _, err := newExporter(t, s, filepath.Join(dir, "photos.zip"), Options{}).Run(t.Context()); !errors.Is(err, ErrWrongURL) {
		t.Errorf("a file: %v", err)
	}
	for _, url := range []string{"", "ftp://host/x", "s3://", "file://host/x", "s3://key:secret@bucket", "file:///x?a=b", "gs:///x"} {
		_, err := ParseURL(url)
		if !errors.Is(err, ErrWrongURL) {
			t.Errorf("%q: %v", url, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error quotes the URL: %v", err)
		}
	}
	if _, err := New(s, Location{}, Options{Tables: []string{"stripe_events"}}); err == nil {
		t.Error("a table that is not exported was taken")
	}
}

// What a full generation is made for although an incremental one was wanted.
func TestWhyAGenerationIsFull(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		dir := t.TempDir()
		h := newHistory(t, s, 9)
		run := func(s store, o Options) Result {
			t.Helper()
			for range 3 {
				h.step()
			}
			r, err := newExporter(t, s, dir, o).Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		some := Options{Tables: []string{"customers"}}
		for i, want := range []struct {
			options Options
			kind    string
			why     string
		}{
			{some, KindFull, "first"},
			{some, KindIncremental, ""},
			{Options{}, KindFull, "no table"},
			{Options{}, KindIncremental, ""},
			{Options{Full: true}, KindFull, "asked for"},
		} {
			r := run(s, want.options)
			if r.Manifest == nil || r.Manifest.Kind != want.kind || !strings.Contains(r.Why, want.why) || (want.why == "") != (r.Why == "") {
				t.Errorf("run %d: %+v, want %s because of %q", i, r, want.kind, want.why)
			}
		}
		// A cursor that says less than the copy has: the mirror was restored from a backup.
		l, err := ParseURL(dir)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.FeedCursor(t.Context(), l.Name(), allAccounts)
		if err != nil {
			t.Fatal(err)
		}
		c.Generation -= 2
		if err := s.SaveFeedCursor(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if r := run(s, Options{}); r.Manifest.Kind != KindFull || !strings.Contains(r.Why, "restored") {
			t.Errorf("after a restore: %+v", r)
		}
	})
}

// Two mirrors that export to one place never build on each other's rows: each begins
// anew after the other.
func TestTwoMirrorsOfOnePlaceBeginAnew(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		other := anotherStore(t, s)
		dir := t.TempDir()
		histories := []*history{newHistory(t, s, 31), newHistory(t, other, 32)}
		for i := range 4 {
			h := histories[i%2]
			for range 4 {
				h.step()
			}
			r, err := newExporter(t, h.s, dir, Options{}).Run(t.Context())
			if err != nil || r.Manifest == nil || r.Manifest.Kind != KindFull || r.Why == "" {
				t.Fatalf("run %d: %+v, %v", i, r, err)
			}
			p, err := openFolder(dir, false)
			if err != nil {
				t.Fatal(err)
			}
			c, err := readChain(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			sameRows(t, replay(t, p, c), held(t, h.s))
		}
	})
}

// Records go behind all readers, and never before the slowest.
func TestTheFeedIsPrunedBehindItsReaders(t *testing.T) {
	eachStore(t, func(t *testing.T, s store) {
		h := newHistory(t, s, 2)
		for range 10 {
			h.step()
		}
		dir := t.TempDir()
		if n, _, err := s.PruneFeed(t.Context(), 0, 1000); err != nil || n != 0 {
			t.Fatalf("without a reader %d records went: %v", n, err)
		}
		e := newExporter(t, s, dir, Options{})
		if _, err := e.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			h.step()
		}
		var first []mirror.Change
		for deadline := time.Now().Add(patience.Of(30 * time.Second)); len(first) == 0; time.Sleep(10 * time.Millisecond) {
			var err error
			if first, err = s.Changes(t.Context(), "", "", 1); err != nil || time.Now().After(deadline) {
				t.Fatalf("the feed shows nothing: %v", err) // an older transaction of the server holds it back
			}
		}
		if n, _, err := s.PruneFeed(t.Context(), time.Hour, 1000); err != nil || n != 0 {
			t.Fatalf("%d young records went: %v", n, err)
		}
		// Age 0 forgets every reader that was seen before now; keep this one alive.
		for range 3 {
			c, err := s.FeedCursor(t.Context(), e.location.Name(), allAccounts)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.SaveFeedCursor(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.PruneFeed(t.Context(), time.Millisecond*50, 1000); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Changes(t.Context(), "", first[0].Cursor, 10); !errors.Is(err, mirror.ErrNotFound) {
			t.Errorf("a reader whose records are gone is not told: %v", err)
		}
		r, err := e.Run(t.Context())
		if err != nil || r.Manifest == nil || r.Manifest.Kind != KindIncremental {
			t.Fatalf("after pruning: %+v, %v", r, err)
		}
		p, err := openFolder(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		c, err := readChain(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		sameRows(t, replay(t, p, c), held(t, s))
		if _, gone, err := s.PruneFeed(t.Context(), -time.Hour, 1000); err != nil || len(gone) != 1 || gone[0].Name != e.location.Name() {
			t.Fatalf("forgotten: %+v, %v", gone, err)
		}
		h.step()
		if r, err = e.Run(t.Context()); err != nil || r.Manifest.Kind != KindFull {
			t.Errorf("a reader that was forgotten: %+v, %v", r, err)
		}
	})
}

func TestVerifyNamesWhatWasDamaged(t *testing.T) {
	s, _ := sqlitetest.Open(t)
	h := newHistory(t, s, 11)
	dir := t.TempDir()
	e := newExporter(t, s, dir, Options{Format: CSV})
	for range 12 {
		h.step()
	}
	r, err := e.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	victim := r.Manifest.Files[0].Path
	if err := os.WriteFile(filepath.Join(dir, victim), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := r.Manifest.Files[1].Path
	if err := os.Remove(filepath.Join(dir, gone)); err != nil {
		t.Fatal(err)
	}
	v, err := Verify(t.Context(), e.location, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, d := range v.Differences {
		named[d.File] = true
	}
	if !named[victim] || !named[gone] {
		t.Errorf("not named: %v", v.Differences)
	}
}
