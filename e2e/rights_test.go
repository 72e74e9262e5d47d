//go:build unix

package e2e

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// TestLeastRights runs the program with the rights that docs/security.md has people
// copy, and with no others: all of it works, and what the rights leave out is refused.
func TestLeastRights(t *testing.T) {
	t.Parallel()
	const password, writeKey = "least-rights", "writewritewritewritewrite"
	w := newWorld(t, everysec, setup{ownPostgres: true, env: map[string]string{"CREDITMIRROR_API_KEYS": "write:" + writeKey}})
	owner := w.env["CREDITMIRROR_DATABASE_URL"]
	if err := migrate(owner); err != nil {
		t.Fatal(err)
	}
	database := strings.TrimPrefix(parsed(t, owner).Path, "/")
	w.pg.Exec(t, database, strings.ReplaceAll(manual(t, "CREATE ROLE creditmirror_serve"), "…", password))
	as := func(role string) string {
		u := parsed(t, owner)
		u.User = url.UserPassword(role, password)
		return u.String()
	}
	w.env["CREDITMIRROR_DATABASE_URL"] = as("creditmirror_serve")

	admin := redis.NewClient(&redis.Options{Addr: w.redis.Addr})
	defer admin.Close()
	var rule []any
	for _, word := range strings.Fields(strings.ReplaceAll(manual(t, "ACL SETUSER"), "PASSWORD", password)) {
		rule = append(rule, word)
	}
	if err := admin.Do(t.Context(), rule...).Err(); err != nil {
		t.Fatal(err)
	}
	w.env["CREDITMIRROR_REDIS_URL"] = "redis://creditmirror:" + password + "@" + w.redis.Addr

	n := w.start(nil)
	customer := w.stripe.customer()
	w.stripe.credit(customer, 500, "usd")
	w.stripe.grant(customer, 900)
	w.equal()
	for range 3 {
		w.change(customer, -7)
	}
	form := url.Values{"amount": {"-100"}, "currency": {"usd"}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+n.app.Addrs().API+"/v1/customers/"+customer+"/balance_transactions", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(writeKey, "")
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("a write through the API: %d", answer.StatusCode)
	}
	w.equal()
	for _, sweep := range []string{"events", "balances", "scrub"} {
		if code, out, errOut := n.command("reconcile", sweep); code != 0 {
			t.Errorf("reconcile %s: %d\n%s%s", sweep, code, out, errOut)
		}
	}
	if code, out, errOut := n.command("verify"); code != 0 {
		t.Errorf("verify: %d\n%s%s", code, out, errOut)
	}
	for _, line := range []string{"NOPERM", "permission denied"} {
		if strings.Contains(w.log.String(), line) {
			t.Errorf("the log says %q:\n%s", line, w.log.String())
		}
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct{ role, statement string }{
		{"creditmirror_serve", "CREATE TABLE creditmirror.mine (a int)"},
		{"creditmirror_serve", "ALTER TABLE creditmirror.customers ADD COLUMN mine int"},
		{"creditmirror_serve", "TRUNCATE creditmirror.api_writes"},
		{"creditmirror_serve", "UPDATE creditmirror.api_writes SET amount = 0"},
		{"creditmirror_read", "UPDATE creditmirror.customers SET balance = 0"},
		{"creditmirror_read", "DELETE FROM creditmirror.stripe_events"},
	} {
		db, err := openTables(as(c.role))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), c.statement); err == nil || !strings.Contains(err.Error(), "42501") && !strings.Contains(err.Error(), "append") {
			t.Errorf("%s, %s: %v", c.role, c.statement, err)
		}
		var count int
		if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM creditmirror.customers").Scan(&count); err != nil || count == 0 {
			t.Errorf("%s reads %d customers, %v", c.role, count, err)
		}
		db.Close()
	}
	own := redis.NewClient(&redis.Options{Addr: w.redis.Addr, Username: "creditmirror", Password: password})
	defer own.Close()
	for _, command := range [][]any{{"FLUSHALL"}, {"CONFIG", "SET", "maxmemory", "1"}, {"SHUTDOWN"}, {"KEYS", "*"}, {"SET", "other", "1"}, {"ACL", "LIST"}} {
		if err := own.Do(t.Context(), command...).Err(); err == nil || !strings.HasPrefix(err.Error(), "NOPERM") {
			t.Errorf("%v: %v", command, err)
		}
	}
}

func parsed(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// manual is the block of code of docs/security.md that begins with a text.
func manual(t *testing.T, begin string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(page), "\n"+begin)
	if at < 0 {
		t.Fatalf("docs/security.md has no block that begins with %q", begin)
	}
	block, _, _ := strings.Cut(string(page)[at+1:], "\n```")
	return block
}
