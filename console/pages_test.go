package console_test

import (
	"context"
	"database/sql"
	"encoding/csv"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/console"
	"github.com/creditmirror/creditmirror/internal/patience"
	"github.com/creditmirror/creditmirror/internal/sqlitetest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/mirrortest"
)

// whole is a page once none of its figures is missing and it holds want.
func (d *desk) whole(path, cookie, want string) string {
	d.t.Helper()
	for deadline := time.Now().Add(patience.Of(20 * time.Second)); ; time.Sleep(5 * time.Millisecond) {
		code, body := d.get(path, cookie)
		if code == http.StatusOK && !strings.Contains(body, `http-equiv="refresh"`) && strings.Contains(body, want) {
			return body
		}
		if code != http.StatusOK || time.Now().After(deadline) {
			d.t.Fatalf("%s: %d, without %q:\n%s", path, code, want, body)
		}
	}
}

var tags = regexp.MustCompile(`<[^>]*>`)

// words is a page as it is read, without its tags.
func words(page string) string {
	return strings.Join(strings.Fields(html.UnescapeString(tags.ReplaceAllString(page, " "))), " ")
}

// filledDesk is a console over a mirror of as many customers with both ledgers.
func filledDesk(t *testing.T, customers int, change func(*console.Options)) *desk {
	t.Helper()
	s, path := sqlitetest.Open(t)
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range filled.customers {
		if _, err := db.ExecContext(t.Context(), dialect(statement, false), 1, customers); err != nil {
			t.Fatalf("%.200s: %v", statement, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	d := openDesk(t, func(o *console.Options) {
		o.Store, o.Ledgers, o.Operations, o.Books = s, s, s, s
		if change != nil {
			change(o)
		}
	})
	d.store = s
	return d
}

// Whoever has a network of IPv6 has no more tries than who has one address.
func TestGuessersOfOneNetwork(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	codes := map[int]int{}
	for n := range 30 {
		d.remote = fmt.Sprintf("[2001:db8:0:7::%x]:1000", n+1)
		codes[d.post("/sign-in", "", "key", fmt.Sprint("guess", n)).StatusCode]++
	}
	if codes[http.StatusUnauthorized] != 10 || codes[http.StatusTooManyRequests] != 20 {
		t.Errorf("%v", codes)
	}
	d.remote = "[2001:db8:0:8::1]:1000"
	d.signIn(actKey) // the network beside it is somebody else's
}

// Guesses from everywhere are bounded together, and never lock out who has a key.
func TestGuessersEverywhere(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	codes := map[int]int{}
	for n := range 80 {
		d.remote = fmt.Sprintf("198.51.100.%d:1000", n+1)
		codes[d.post("/sign-in", "", "key", fmt.Sprint("guess", n)).StatusCode]++
	}
	if codes[http.StatusUnauthorized] != 50 || codes[http.StatusTooManyRequests] != 30 {
		t.Errorf("%v", codes)
	}
	d.remote = "203.0.113.1:1000"
	d.signIn(actKey)
}

// The page of sweeps says how fast a first copy is and how long it takes yet, once it was
// seen twice.
func TestTimeLeftOfAFirstCopy(t *testing.T) {
	t.Parallel()
	began := time.Now().UTC().Truncate(time.Second)
	clock := &clock{now: began}
	d := openDesk(t, func(o *console.Options) {
		o.Now = clock.Now
		o.Status = func(context.Context) (console.Status, error) {
			gone := int64(clock.Now().Sub(began).Seconds())
			return console.Status{At: clock.Now(), Sweeps: []console.SweepStatus{
				{Name: "backfill", Phase: "histories", Customers: 9000, Left: 9000 - 5*gone, Progress: fmt.Sprintf("%d histories left", 9000-5*gone)},
				{Name: "backfill", Account: "acct_1", Phase: "customers", Customers: 40 * gone, Progress: fmt.Sprintf("%d customers", 40*gone)},
			}}, nil
		}
	})
	d.clock = clock
	cookie := d.signIn(lookKey)
	if body := words(d.whole("/sweeps", cookie, "9000 histories left")); strings.Contains(body, "a second") {
		t.Errorf("a rate after one look:\n%s", body)
	}
	clock.advance(time.Minute)
	body := words(d.whole("/sweeps", cookie, "8700 histories left"))
	for _, want := range []string{"5.0 a second, about 29 minutes left", "40.0 a second"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q:\n%s", want, body)
		}
	}
}

// Calls to Stripe are shown by purpose, the most first, and held against what Stripe allows.
func TestCallsAgainstTheAllocation(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sync int64
		want string
	}{{4000, "That is 45.00 % of the least allocation."}, {12000, "That is more than the least allocation."}} {
		d := openDesk(t, func(o *console.Options) {
			o.Calls30d = func(context.Context) ([]console.DayCalls, error) {
				day := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
				return []console.DayCalls{
					{Day: day, Calls: []console.Calls{{Purpose: "sweep", Count: 200}, {Purpose: "sync", Count: c.sync - 100}}},
					{Day: day.AddDate(0, 0, 1), Calls: []console.Calls{{Purpose: "sweep", Count: 300}, {Purpose: "sync", Count: 100}}},
				}, nil
			}
		})
		body := words(d.whole("/sweeps", d.signIn(lookKey), "Calls by purpose"))
		sync := fmt.Sprintf("sync %d,%03d sweep 500", c.sync/1000, c.sync%1000)
		for _, want := range []string{c.want, "never fewer than 10,000", "in 2 days", sync} {
			if !strings.Contains(body, want) {
				t.Errorf("the page lacks %q:\n%s", want, body)
			}
		}
		// The calls are of all accounts.
		if _, body := d.get("/sweeps", d.signIn(boundKey)); strings.Contains(body, "Calls by purpose") {
			t.Error("a bound key sees the calls of all accounts")
		}
	}
}

// One event's way is shown step by step, while it waits and after it was answered.
func TestAnEventsWay(t *testing.T) {
	t.Parallel()
	waiting := true
	d := filledDesk(t, 9, func(o *console.Options) {
		o.Queued = func(_ context.Context, list []mirror.Target) ([]bool, error) {
			return slices.Repeat([]bool{waiting}, len(list)), nil
		}
	})
	s := d.store.(mirror.Store)
	if _, err := s.RecordEvents(t.Context(), []mirror.Event{{ID: "evt_new", Type: "customer.updated", Created: d.clock.Now(), Object: "cus_10000001", Customer: "cus_10000001"}}); err != nil {
		t.Fatal(err)
	}
	cookie := d.signIn(lookKey)
	in := func(path string, steps ...string) {
		t.Helper()
		_, body := d.get(path, cookie)
		body = words(body)
		for _, step := range steps {
			_, rest, ok := strings.Cut(body, step)
			if !ok {
				t.Fatalf("%s lacks %q, or has it too early:\n%s", path, step, body)
			}
			body = rest
		}
	}
	in("/webhooks/evt_10000005", "The mirror showed it 2 seconds after it happened", "It happened at Stripe", "It was received and recorded", "A sync read the customer from Stripe and committed it")
	in("/webhooks/evt_new", "It happened at Stripe", "It was received and recorded", "A sync of its customer waits or is running", "No sync has answered it yet")
	waiting = false
	in("/webhooks/evt_new", "It is missing from the queue", "No sync has answered it yet")
}

// The page of exports shows what is copied, how far behind it is, and whether it was read
// again.
func TestExports(t *testing.T) {
	t.Parallel()
	off := openDesk(t, nil)
	if body := words(off.whole("/exports", off.signIn(lookKey), "")); !strings.Contains(body, "No copy is kept for a warehouse. Set CREDITMIRROR_EXPORT_URL") {
		t.Errorf("without a copy:\n%s", body)
	}
	var differences []string
	d := openDesk(t, func(o *console.Options) {
		o.Exports = func(context.Context) (console.Copy, error) {
			return console.Copy{Location: "s3://bucket/credit", Generations: []console.Generation{
				{Number: 2, Kind: "changes", Rows: 7, Files: 1, Bytes: 2048, Unproven: 3, Loaded: o.Now().Add(-90 * time.Second), TableRows: []console.TableRows{{Table: "customers", Rows: 7}}},
				{Number: 1, Kind: "full", Rows: 1000, Files: 6, Bytes: 4096, Loaded: o.Now().Add(-time.Hour)},
			}}, nil
		}
		o.Do.VerifyCopy = func(context.Context) (console.CopyVerdict, error) {
			return console.CopyVerdict{Generations: 2, Files: 7, Rows: 1007, Mirror: "the same rows", Differences: differences}, nil
		}
	})
	cookie := d.signIn(actKey)
	body := words(d.whole("/exports", cookie, "s3://bucket/credit"))
	for _, want := range []string{"nobody has verified it here", "1 minute ago", "customers 7", "1,000"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q:\n%s", want, body)
		}
	}
	d.post("/exports/verify", cookie)
	d.whole("/exports", cookie, "no difference")
	differences = []string{"generation 2: a row more"}
	d.clock.advance(time.Second)
	d.post("/exports/verify", cookie)
	d.whole("/exports", cookie, "1 difference")
}

// Every report can be downloaded, and leads to the customers whose rows make it.
func TestBooksLeadToTheirRows(t *testing.T) {
	t.Parallel()
	d := filledDesk(t, 40, nil)
	cookie := d.signIn(lookKey)
	for path, ledgers := range map[string][]string{"/books": {"balance", "credits"}, "/books?tab=rollforward&from=2025-01-01&to=2026-01-01": {"balance", "credits"}, "/books?tab=ageing": {"credits"}} {
		body := d.whole(path, cookie, "Download CSV")
		for _, ledger := range ledgers {
			to := "/customers?account=platform&sort=most&ledger=" + ledger + "&currency=usd"
			if !strings.Contains(html.UnescapeString(body), `href="`+to+`"`) {
				t.Errorf("%s does not lead to %s:\n%s", path, to, words(body))
			}
			if page := d.whole(to, cookie, "/customers/platform/cus_"); !strings.Contains(page, `id="customers"`) {
				t.Errorf("%s is no list of customers", to)
			}
		}
		// The download is where the page says, of what the page was asked for.
		href := regexp.MustCompile(`href="(/books/[^"]*\.csv[^"]*)">Download CSV`).FindStringSubmatch(body)
		if href == nil {
			t.Fatalf("%s has no download", path)
		}
		resp := d.ask("GET", html.UnescapeString(href[1]), cookie, nil)
		rows, err := csv.NewReader(resp.Body).ReadAll()
		if err != nil || resp.StatusCode != http.StatusOK || len(rows) < 2 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/csv") || !strings.HasPrefix(resp.Header.Get("Content-Disposition"), "attachment") {
			t.Errorf("%s: %d %v, %d rows, %v", href[1], resp.StatusCode, err, len(rows), resp.Header)
		}
		if strings.Contains(path, "from=") && slices.ContainsFunc(rows[1:], func(r []string) bool { return r[3] < "2025" || r[3] > "2026" }) {
			t.Errorf("%s is of another time: %q", href[1], rows)
		}
	}
}

// Letters are grouped by reason; before many are done their number is asked for, and no more
// are done than that.
func TestLettersAreCountedFirst(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	s := d.store.(seeding)
	save := func(n int, reason string) {
		t.Helper()
		target := mirror.Target{Scope: mirror.ScopeBalance, ID: fmt.Sprintf("cus_l%04d", n)}
		if err := s.SaveDeadLetter(t.Context(), mirror.DeadLetter{ID: mirror.DeadLetterID(target), Target: target, Reason: reason, Attempts: 12, FirstFailedAt: d.clock.Now(), LastFailedAt: d.clock.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 40 {
		save(n, fmt.Sprintf("stripe: status 500 for cus_l%04d", n))
	}
	for n := range 3 {
		save(100+n, "the database refuses the values")
	}
	cookie := d.signIn(actKey)
	body := d.whole("/dead", cookie, "the database refuses the values")
	if text := words(body); !strings.Contains(text, "43 letters by reason") || !regexp.MustCompile(`\b40 stripe: status 500 for cus_l…`).MatchString(text) || !regexp.MustCompile(`\b3 the database refuses`).MatchString(text) {
		t.Errorf("%s", text)
	}
	// As a person goes: the reason, the button, the count, the note.
	href := func(body, pattern string) string {
		t.Helper()
		m := regexp.MustCompile(pattern).FindStringSubmatch(body)
		if m == nil {
			t.Fatalf("no %s in:\n%s", pattern, body)
		}
		return html.UnescapeString(m[1])
	}
	_, body = d.get(href(body, `href="([^"]*)">the database refuses`), cookie)
	if text := words(body); !strings.Contains(text, "3 letters") || strings.Contains(text, "status 500") {
		t.Errorf("the reason's letters:\n%s", text)
	}
	_, body = d.get(href(body, `id="drop" href="([^"]*)"`), cookie)
	if text := words(body); !strings.Contains(text, "3 dead letters with the reason the database refuses the values") || !strings.Contains(text, "Drop 3 for good") {
		t.Errorf("the question:\n%s", text)
	}
	form := url.Values{}
	for _, m := range regexp.MustCompile(`<input type="hidden" name="([a-z]+)" value="([^"]*)"`).FindAllStringSubmatch(body, -1) {
		form.Set(m[1], html.UnescapeString(m[2]))
	}
	form.Set("reason", "looked at")
	save(103, "the database refuses the values") // comes between the question and the answer
	resp := d.ask("POST", "/dead/drop", cookie, form, "Sec-Fetch-Site", "same-origin")
	if text, _ := io.ReadAll(resp.Body); !strings.Contains(resp.Header.Get("Location"), "3+dead+letters+dropped") {
		t.Errorf("%d to %q: %s", resp.StatusCode, resp.Header.Get("Location"), text)
	}
	if n, err := d.store.CountLetters(t.Context(), mirror.LetterFilter{}); err != nil || n != 41 {
		t.Errorf("%d are left, %v; want 41", n, err)
	}
	list, err := d.store.Actions(t.Context(), mirror.ActionFilter{Action: mirror.ActionDrop}, 5)
	if err != nil || len(list) != 1 || list[0].Count != 3 || list[0].Reason != "looked at" || list[0].Detail != "the database refuses the values" {
		t.Errorf("%+v, %v", list, err)
	}
}

// The link to Stripe's dashboard is that of the account and the mode.
func TestDashboard(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	s := d.store.(seeding)
	at := d.clock.Now()
	for account, live := range map[string]bool{"": true, "acct_1": false} {
		if _, err := s.InsertCustomers(t.Context(), account, []mirror.Customer{{ID: "cus_d", Currency: "usd", Created: at, Livemode: live, Raw: []byte(`{"id":"cus_d"}`)}}); err != nil {
			t.Fatal(err)
		}
	}
	cookie := d.signIn(lookKey)
	for path, want := range map[string]string{
		"/customers/platform/cus_d": "https://dashboard.stripe.com/customers/cus_d", "/customers/acct_1/cus_d": "https://dashboard.stripe.com/acct_1/test/customers/cus_d",
	} {
		if _, body := d.get(path, cookie); !strings.Contains(body, `href="`+want+`"`) {
			t.Errorf("%s does not lead to %s", path, want)
		}
	}
}

// Everything that happened to a customer is in one order, and its pages together leave
// nothing out, also of what happened within one second.
func TestTimelineInOneOrder(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	finding, letter := seed(t, d.store)
	s := d.store.(mirror.Store)
	old := d.clock.Now().Add(-2 * time.Hour).Truncate(time.Second)
	var events []mirror.Event
	var want []string
	for n := range 75 { // seven to a second
		id := fmt.Sprintf("evt_t%03d", n)
		want = append(want, id)
		events = append(events, mirror.Event{ID: id, Type: "customer.updated", Created: old.Add(time.Duration(n/7) * time.Second), Object: "cus_1", Customer: "cus_1"})
	}
	if _, err := s.RecordEvents(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	if err := s.(mirror.APIJournal).EndAPIWrite(t.Context(), mirror.APIWrite{ID: "req_t", Created: old.Add(3 * time.Second), Key: "crm", Operation: "adjust", Customer: "cus_1", Object: "cbtxn_t", Amount: -1, Currency: "usd", Outcome: mirror.APIDone}); err != nil {
		t.Fatal(err)
	}
	act := d.signIn(actKey)
	if code := d.post("/customers/platform/cus_1/sync", act, "reason", "asked by support").StatusCode; code != http.StatusSeeOther {
		t.Fatal(code)
	}
	var got, times []string
	path := "/customers/platform/cus_1"
	for pages := 0; path != "" && pages < 10; pages++ {
		_, body := d.get(path, act)
		_, list, _ := strings.Cut(body, `id="happenings"`)
		for _, row := range strings.Split(list, "<tr>")[1:] {
			if at := regexp.MustCompile(`datetime="([^"]*)"`).FindStringSubmatch(row); at != nil {
				times = append(times, at[1])
			}
			if id := regexp.MustCompile(`data-copy="([^"]*)"`).FindStringSubmatch(row); id != nil {
				got = append(got, id[1])
			}
		}
		path = ""
		if next := regexp.MustCompile(`href="([^"#]*)#timeline">Earlier`).FindStringSubmatch(list); next != nil {
			path = "/customers/platform/cus_1" + next[1]
		}
	}
	if !slices.IsSortedFunc(times, func(a, b string) int { return strings.Compare(b, a) }) {
		t.Errorf("not in one order: %q", times)
	}
	slices.Sort(got)
	for _, id := range append(want, finding, letter, "cbtxn_t") {
		if n := len(slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s != id })); n != 1 {
			t.Errorf("%s is there %d times", id, n)
		}
	}
	if _, body := d.get("/customers/platform/cus_1", act); !strings.Contains(words(body), "sync by on-call asked by support") {
		t.Errorf("the action is missing:\n%s", words(body))
	}
}

// What was read for one page is shown again for the same customer and the same ledgers
// alone, even at the same moment.
func TestPagesOfOneMomentAreNotMixed(t *testing.T) {
	t.Parallel()
	d := openDesk(t, nil)
	mirrortest.Populate(t, d.store.(mirror.Store))
	seed(t, d.store)
	act, bound := d.signIn(actKey), d.signIn(boundKey)
	const statement = "/customers/acct_1/cus_a/statement?from=2020-01-01"
	d.whole(statement, act, "cbtxn_")
	if body := d.whole(statement, bound, "Statement of cus_a"); strings.Contains(body, "cbtxn_") {
		t.Errorf("a key of credits sees balance:\n%s", words(body))
	}
	d.whole("/customers/platform/cus_1/why", act, "cus_1")
	for deadline := time.Now().Add(patience.Of(20 * time.Second)); ; time.Sleep(5 * time.Millisecond) {
		code, body := d.get("/customers/acct_1/cus_1/why", act)
		if code == http.StatusNotFound {
			break
		}
		if !strings.Contains(body, `http-equiv="refresh"`) || time.Now().After(deadline) {
			t.Fatalf("a customer that this account has not: %d\n%s", code, words(body))
		}
	}
}
