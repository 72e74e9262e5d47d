package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/postgres"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// deadBody is what no version can read; it holds a customer's data.
const deadBody = "{\"email\": \"jane@example.com\"\x1b[2J"

var deadAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// deadLetters are a customer's, one of a connected account's, and a body's.
func deadLetters() (customers, connected, body mirror.DeadLetter) {
	t := mirror.Target{Scope: mirror.ScopeBalance, ID: "cus_A"}
	customers = mirror.DeadLetter{
		ID: mirror.DeadLetterID(t), Target: t, Reason: "stripe: status 500\n\tgarbled", Attempts: 12, EventIDs: []string{"evt_1", "evt_2"},
		FirstFailedAt: deadAt, LastFailedAt: deadAt.Add(time.Hour), RetryAt: deadAt.Add(2 * time.Hour),
	}
	connected = customers
	connected.Target = mirror.Target{Account: "acct_1", Scope: mirror.ScopeCredits, ID: "cus_B"}
	connected.ID = mirror.DeadLetterID(connected.Target)
	body = mirror.DeadLetter{
		ID: mirror.UnreadableID([]byte(deadBody)), Reason: "the event is not valid JSON", Attempts: 1, Payload: []byte(deadBody),
		FirstFailedAt: deadAt, LastFailedAt: deadAt,
	}
	return customers, connected, body
}

// eachMirror runs a test on an empty mirror of each database.
func eachMirror(t *testing.T, test func(t *testing.T, url string, store mirror.Store)) {
	t.Helper()
	open := func(t *testing.T, store mirror.Store, err error) mirror.Store {
		t.Helper()
		if err == nil {
			err = store.Migrate(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		return store
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "m.db")
		store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
		test(t, "sqlite:"+path, open(t, store, err))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := pgtest.NewDatabase(t)
		store, err := postgres.Open(t.Context(), url, postgres.Options{})
		test(t, url, open(t, store, err))
	})
}

func TestDeadListShowDropI10(t *testing.T) {
	t.Parallel()
	eachMirror(t, func(t *testing.T, url string, store mirror.Store) {
		environ := []string{"CREDITMIRROR_DATABASE_URL=" + url, "CREDITMIRROR_OPS_ADDR=127.0.0.1:1"}
		const header = "id,account,customer,scope,reason,attempts,first_failed_at,last_failed_at\n"
		if code, out, errOut := cli(t, environ, "dead", "list"); code != exitDone || out != header {
			t.Fatalf("without letters: exit %d\n%s%s", code, out, errOut)
		}
		customers, connected, body := deadLetters()
		for _, d := range []mirror.DeadLetter{customers, connected, body} {
			if err := store.SaveDeadLetter(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
		const unknown = "dead_00000000000000000000000000000000"
		row := func(d mirror.DeadLetter, quoted string) string {
			return d.ID + "," + d.Target.Account + "," + d.Target.ID + "," + string(d.Target.Scope) + "," + quoted
		}
		steps := []struct {
			args  string
			code  int
			out   string // what standard output has
			says  string // what standard error has
			never string // what neither has
		}{
			{"list", 0, row(customers, "\"stripe: status 500\n\tgarbled\",12,2026-03-01T12:00:00Z,2026-03-01T13:00:00Z\n"), "", "jane"},
			{"list --format csv", 0, row(body, "the event is not valid JSON,1,2026-03-01T12:00:00Z,2026-03-01T12:00:00Z\n"), "", "jane"},
			{"list --format table", 0, "stripe: status 500  garbled", "", "jane"},
			{"list --customer cus_A", 0, customers.ID, "", connected.ID},
			{"list --account acct_1", 0, connected.ID, "", customers.ID},
			{"list --account acct_1 --customer cus_A", 0, header, "", customers.ID},
			{"list --format json --customer cus_B", 0, `"scope": "credits", "reason": "stripe: status 500\n\tgarbled", "attempts": 12, "first_failed_at": "2026-03-01T12:00:00Z"`, "", "jane"},
			{"show " + customers.ID, 0, "evt_2", "", "jane"},
			{"show " + customers.ID, 0, "last synced at   never", "", "jane"},
			{"show " + body.ID, 0, "32 bytes, shown by --payload", "", "jane"},
			{"show " + body.ID + " --payload", 0, deadBody, "", "bytes"},
			{"show " + body.ID + " --json", 0, `"payload_bytes": 32`, "", `"payload":`},
			{"show " + body.ID + " --json --payload", 0, base64.StdEncoding.EncodeToString([]byte(deadBody)), "", "jane"},
			{"show " + customers.ID + " --json", 0, `"retry_at": "2026-03-01T14:00:00Z"`, "", "payload\":"},
			{"show " + customers.ID + " --payload", 1, "", "no body", "jane"},
			{"show " + unknown, 1, "", unknown, ""},
			{"show", 2, "", "", ""},
			{"show a b", 2, "", "", ""},
			{"", 2, "", "list, reasons, show, retry or drop", ""},
			{"frobnicate", 2, "", "frobnicate", ""},
			{"list extra", 2, "", "", ""},
			{"list --format xml", 2, "", "xml", ""},
			{"list --account cus_1", 2, "", "cus_1", ""},
			{"list --customer=", 2, "", "--customer", ""},
			{"retry", 2, "", "--all", ""},
			{"retry --all " + customers.ID, 2, "", "--all", ""},
			{"retry --all --class x", 2, "", "--all", ""},
			{"retry --class=", 2, "", "--class", ""},
			{"drop --yes --all " + customers.ID, 2, "", "--all", ""},
			{"reasons --account cus_1", 2, "", "cus_1", ""},
			{"reasons --format csv", 0, "1,the event is not valid JSON,,", "", "jane"},
			{"list --scope credits", 0, connected.ID, "", customers.ID},
			{"list --account acct_1", 0, connected.ID, "", customers.ID},
			{"retry --all --format xml", 2, "", "xml", ""},
			{"drop", 2, "", "", ""},
			{"drop " + customers.ID, 2, "", "--yes", ""}, // no terminal to ask on
			{"drop --yes " + unknown + " " + customers.ID, 1, "", unknown, ""},
			{"list --customer cus_A", 0, customers.ID, "", ""}, // and nothing was dropped
			{"drop --yes " + body.ID + " " + customers.ID, 0, "", "a body of 32 bytes would be lost permanently", "jane"},
			{"drop --yes " + body.ID, 1, "", body.ID, ""},
			{"list --account=", 0, header, "", "dead_"},
		}
		for _, s := range steps {
			code, out, errOut := cli(t, environ, append([]string{"dead"}, strings.Fields(s.args)...)...)
			if code != s.code || !strings.Contains(out, s.out) || !strings.Contains(errOut, s.says) || s.never != "" && strings.Contains(out+errOut, s.never) {
				t.Errorf("dead %s: exit %d, want %d with %q, %q and no %q\n%s\n%s", s.args, code, s.code, s.out, s.says, s.never, out, errOut)
			}
		}
		var objects []map[string]any
		_, out, _ := cli(t, environ, "dead", "list", "--format", "json")
		if err := json.Unmarshal([]byte(out), &objects); err != nil || len(objects) != 1 || len(objects[0]) != 8 || objects[0]["attempts"] != 12.0 {
			t.Errorf("%v\n%s", err, out)
		}
		// The queue is embedded in a serve that does not run.
		code, _, errOut := cli(t, environ, "dead", "retry", connected.ID)
		if code != exitFailed || !strings.Contains(errOut, "no serve answers at 127.0.0.1:1") {
			t.Errorf("exit %d\n%s", code, errOut)
		}
	})
}

// Nothing is asked about a mirror that is not there, and none is made.
func TestDeadNeedsAMirror(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none.db")
	for _, args := range []string{"list", "show dead_1", "retry --all", "drop --yes dead_1"} {
		code, out, errOut := cli(t, []string{"CREDITMIRROR_DATABASE_URL=sqlite:" + path}, append([]string{"dead"}, strings.Fields(args)...)...)
		if code != exitFailed || out != "" || !strings.Contains(errOut, path) {
			t.Errorf("dead %s: exit %d\n%s%s", args, code, out, errOut)
		}
	}
}

// faster is a mirror where somebody else drops a letter between look and drop.
type faster struct {
	mirror.Store
	mirror.Operations
	err error
}

func (f faster) DropDeadLetter(ctx context.Context, id string) error {
	if err := f.Store.DropDeadLetter(ctx, id); err != nil {
		return err
	}
	return f.err
}

func TestDeadDropAsks(t *testing.T) {
	t.Parallel()
	eachMirror(t, func(t *testing.T, _ string, store mirror.Store) {
		customers, _, _ := deadLetters()
		ids := []string{customers.ID}
		held := func() bool {
			_, err := store.DeadLetter(t.Context(), customers.ID)
			return err == nil
		}
		for answer, drops := range map[string]bool{"": false, "\n": false, "n\n": false, "yesss\n": false, "y": true, " YES \n": true} {
			if err := store.SaveDeadLetter(t.Context(), customers); err != nil {
				t.Fatal(err)
			}
			var talk strings.Builder
			ask := func(q string) (bool, error) { return confirm(strings.NewReader(answer), &talk, q) }
			err := dropLetters(t.Context(), store, ids, "", &talk, ask)
			if held() == drops || (err == nil) != drops || !strings.Contains(talk.String(), "balance of cus_A has failed since 2026-03-01T12:00:00Z") {
				t.Errorf("answer %q: held %v, %v\n%s", answer, held(), err, talk.String())
			}
		}
		if err := store.SaveDeadLetter(t.Context(), customers); err != nil {
			t.Fatal(err)
		}
		var talk strings.Builder
		yes := func(string) (bool, error) { return true, nil }
		if err := dropLetters(t.Context(), faster{store, store.(mirror.Operations), mirror.ErrNotFound}, ids, "", &talk, yes); err != nil {
			t.Errorf("a letter that went by itself: %v", err)
		}
		if err := store.SaveDeadLetter(t.Context(), customers); err != nil {
			t.Fatal(err)
		}
		broken := errors.New("disk full")
		if err := dropLetters(t.Context(), faster{store, store.(mirror.Operations), broken}, ids, "", &talk, yes); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

// What the console does to letters commands do too: chosen by their reason, counted first,
// and kept with who did it and why.
func TestDeadByReasonOnRecord(t *testing.T) {
	t.Parallel()
	eachMirror(t, func(t *testing.T, url string, store mirror.Store) {
		environ := []string{"CREDITMIRROR_DATABASE_URL=" + url, "CREDITMIRROR_OPS_ADDR=127.0.0.1:1"}
		save := func(n int, reason string) string {
			target := mirror.Target{Scope: mirror.ScopeBalance, ID: fmt.Sprintf("cus_%04d", n)}
			d := mirror.DeadLetter{ID: mirror.DeadLetterID(target), Target: target, Reason: reason, Attempts: 12, FirstFailedAt: deadAt, LastFailedAt: deadAt}
			if err := store.SaveDeadLetter(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			return d.ID
		}
		const many, few = 450, 12 // more than two pages
		for n := range many {
			save(n, fmt.Sprintf("stripe: status 500 for cus_%04d", n))
		}
		for n := range few {
			save(1000+n, "the database refuses the values")
		}
		one := save(2000, "odd")
		do := func(want int, args ...string) (string, string) {
			t.Helper()
			code, out, errOut := cli(t, environ, append([]string{"dead"}, args...)...)
			if code != want {
				t.Fatalf("dead %q: exit %d, want %d\n%s%s", args, code, want, out, errOut)
			}
			return out, errOut
		}
		reasons, _ := do(0, "reasons", "--format", "csv")
		if !strings.Contains(reasons, "12,the database refuses the values,balance,") || !strings.Contains(reasons, "450,stripe: status 500 for cus_…,balance,") {
			t.Errorf("reasons:\n%s", reasons)
		}
		if list, _ := do(0, "list", "--class", "the database refuses the values", "--format", "csv"); strings.Count(list, "\n") != 1+few {
			t.Errorf("the rare ones:\n%s", list)
		}
		do(2, "drop", "--class", "the database refuses the values") // no terminal to ask on
		_, said := do(0, "drop", "--yes", "--class", "stripe: status 500 for cus_…", "--reason", "Stripe was away")
		if !strings.Contains(said, "and 445 more") || !strings.Contains(said, "450 dropped") {
			t.Errorf("drop says:\n%s", said)
		}
		do(0, "drop", "--yes", one, "--reason", "not one of ours")
		do(1, "retry", "--class", "the database refuses the values", "--reason", "mended") // no serve runs
		left, err := store.(mirror.Lookout).CountLetters(t.Context(), mirror.LetterFilter{})
		if err != nil || left != few {
			t.Errorf("%d letters are left, want %d; %v", left, few, err)
		}
		actions, err := store.(mirror.Operations).Actions(t.Context(), mirror.ActionFilter{}, 10)
		if err != nil || len(actions) != 3 {
			t.Fatal(actions, err)
		}
		retry, drop, all := actions[0], actions[1], actions[2]
		if retry.Action != mirror.ActionRetry || retry.Outcome != mirror.ActionFailed || retry.Reason != "mended" || !strings.Contains(retry.Detail, "no serve answers") {
			t.Errorf("retry: %+v", retry)
		}
		if drop.Action != mirror.ActionDrop || drop.Outcome != mirror.ActionDone || drop.Object != one || drop.Customer != "cus_2000" || drop.Count != 1 || drop.Reason != "not one of ours" {
			t.Errorf("drop of one: %+v", drop)
		}
		if all.Action != mirror.ActionDrop || all.Outcome != mirror.ActionDone || all.Count != many || all.Detail != "stripe: status 500 for cus_…" || all.Reason != "Stripe was away" || !strings.HasPrefix(all.Actor, "command") {
			t.Errorf("drop of all of a reason: %+v", all)
		}
	})
}

// Nothing is dropped that was not counted, nor without its record.
func TestDeadDropChosen(t *testing.T) {
	t.Parallel()
	eachMirror(t, func(t *testing.T, _ string, store mirror.Store) {
		save := func(n int) {
			target := mirror.Target{Scope: mirror.ScopeBalance, ID: fmt.Sprintf("cus_%04d", n)}
			if err := store.SaveDeadLetter(t.Context(), mirror.DeadLetter{ID: mirror.DeadLetterID(target), Target: target, Reason: "x", Attempts: 1, FirstFailedAt: deadAt, LastFailedAt: deadAt}); err != nil {
				t.Fatal(err)
			}
		}
		save(1)
		save(2)
		count := func() int64 {
			n, err := store.(mirror.Lookout).CountLetters(t.Context(), mirror.LetterFilter{})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		var talk strings.Builder
		no := func(string) (bool, error) { return false, nil }
		if err := dropChosen(t.Context(), store, mirror.LetterFilter{}, "", &talk, no); err == nil || count() != 2 {
			t.Errorf("no: %v, %d left", err, count())
		}
		more := func(string) (bool, error) { save(3); save(4); return true, nil }
		if err := dropChosen(t.Context(), store, mirror.LetterFilter{}, "", &talk, more); err != nil || count() != 2 {
			t.Errorf("two were counted of four: %v, %d left", err, count())
		}
		unrecorded := struct {
			mirror.Store
			mirror.Lookout
		}{store, store.(mirror.Lookout)}
		yes := func(string) (bool, error) { return true, nil }
		if err := dropChosen(t.Context(), unrecorded, mirror.LetterFilter{}, "", &talk, yes); err == nil || count() != 2 {
			t.Errorf("without a record: %v, %d left", err, count())
		}
	})
}
