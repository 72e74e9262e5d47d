package sqlite_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

// childFile names the file to which a child process of these tests writes.
const childFile = "CREDITMIRROR_SQLITE_TEST_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(childFile); path != "" {
		if owner := os.Getenv(childFile + "_OWNER"); owner != "" {
			claimer(path, owner)
		}
		if err := child(path, os.Getenv(childFile+"_CUSTOMER")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// claimer claims a file, says so, and waits for its end.
func claimer(path, owner string) {
	s, err := sqlite.Open(context.Background(), path, sqlite.Options{})
	if err == nil {
		_, err = s.Claim(context.Background(), owner)
	}
	fmt.Println("claimed", err)
	select {}
}

// child syncs one growing ledger until it is killed and prints what is
// committed: the number of rows, or an event's id.
func child(path, customer string) error {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		return err
	}
	if err := s.Migrate(ctx); err != nil {
		return err
	}
	target := mirror.Target{Scope: mirror.ScopeBalance, ID: customer}
	var rows []mirror.BalanceTransaction // newest first
	page, err := s.BalanceTransactions(ctx, "", customer, mirror.Page{Limit: 1_000_000})
	if err == nil {
		rows = page.Rows
	} else if !errors.Is(err, mirror.ErrNotFound) {
		return err
	}
	for {
		n := len(rows) + 1
		event := fmt.Sprintf("evt_%s_%d", customer, n)
		_, err := s.RecordEvents(ctx, []mirror.Event{{
			ID: event, Type: "customer.updated", Customer: customer, Object: customer, Created: time.Unix(1_790_000_000, 0),
		}})
		if err != nil {
			return err
		}
		fmt.Println("event", event)
		row := mirror.BalanceTransaction{
			ID: fmt.Sprintf("cbtxn_%s_%d", customer, n), Customer: customer, Amount: -1, Currency: "eur", EndingBalance: int64(-n),
			Type: "adjustment", Created: time.Unix(1_790_000_000+int64(n), 0).UTC(),
		}
		row.Raw = json.RawMessage(fmt.Sprintf(`{"id":%q,"padding":%q}`, row.ID, strings.Repeat("x", 3000)))
		rows = append([]mirror.BalanceTransaction{row}, rows...)
		st, err := s.BeginSync(ctx, target)
		if err != nil {
			return err
		}
		_, err = s.ApplyBalance(ctx, mirror.BalanceSnapshot{
			Target: target, Epoch: st.Epoch, EventSeq: st.EventSeq, ObservedAt: row.Created,
			Customer: mirror.Customer{
				ID: customer, Balance: int64(-n), Currency: "eur", Raw: json.RawMessage(fmt.Sprintf(`{"balance":%d}`, -n)),
			},
			Windows: []mirror.Window[mirror.BalanceTransaction]{{Rows: rows[:min(2, n)], FromHead: true, ToEnd: n <= 2}},
			Joined:  true, Full: n <= 2,
		})
		if err != nil {
			return err
		}
		fmt.Println("rows", n)
	}
}

// spawn starts a child and follows what it prints.
func spawn(t *testing.T, path, customer string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childFile+"="+path, childFile+"_CUSTOMER="+customer)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// TestF21KillNine kills a writing process again and again. Whatever it reported
// as committed is there, and the file is sound.
func TestF21KillNine(t *testing.T) {
	path := filepath.Join(memoryDir(t), "mirror.db")
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		cmd, lines := spawn(t, path, "cus_A")
		rows, event := 0, ""
		for n := 0; n < 6+7*round && lines.Scan(); n++ {
			rows, event = follow(t, lines.Text(), rows, event)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it still said before it died
			rows, event = follow(t, lines.Text(), rows, event)
		}
		cmd.Wait() // killed: no error to learn
		requireSound(t, path)
		s := open(t, path)
		page, err := s.BalanceTransactions(t.Context(), "", "cus_A", mirror.Page{Limit: 1_000_000})
		if err != nil || len(page.Rows) < rows {
			t.Fatalf("round %d: %d rows, %v, want at least %d", round, len(page.Rows), err, rows)
		}
		n := int64(len(page.Rows))
		if page.Rows[0].EndingBalance != -n || page.Rows[0].Position != n {
			t.Fatalf("round %d: the chain ends at %d in place %d, want %d", round, page.Rows[0].EndingBalance, page.Rows[0].Position, n)
		}
		receipts, err := s.EventReceipts(t.Context(), "", []string{event})
		if err != nil || receipts[0] == mirror.ReceiptNew {
			t.Fatalf("round %d: the acknowledged event %s is lost: %v, %v", round, event, receipts, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func follow(t *testing.T, line string, rows int, event string) (int, string) {
	t.Helper()
	kind, value, _ := strings.Cut(line, " ")
	if kind == "event" {
		return rows, value
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		return rows, event // cut off by the kill
	}
	return n, event
}

// requireSound runs SQLite's own check over the file.
func requireSound(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRowContext(t.Context(), `PRAGMA integrity_check`).Scan(&verdict); err != nil || verdict != "ok" {
		t.Fatalf("integrity_check: %q, %v", verdict, err)
	}
}

// TestF21TwoProcesses: two processes and this one begin on a new file at once,
// migrate it, and write to it without an error.
func TestF21TwoProcesses(t *testing.T) {
	path := filepath.Join(memoryDir(t), "mirror.db")
	var wg sync.WaitGroup
	for _, customer := range []string{"cus_A", "cus_B"} {
		cmd, lines := spawn(t, path, customer)
		wg.Go(func() {
			rows := 0
			for rows < 40 && lines.Scan() {
				rows, _ = follow(t, lines.Text(), rows, "")
			}
			if rows < 40 {
				t.Errorf("%s: the process ended after %d rows", customer, rows)
			}
			cmd.Process.Kill()
			for lines.Scan() { // until its end of the pipe is closed
			}
			cmd.Wait()
		})
	}
	s := open(t, path)
	for i := range 40 {
		_, err := s.RecordEvents(t.Context(), []mirror.Event{{ID: fmt.Sprintf("evt_own%d", i), Type: "customer.updated", Customer: "cus_C"}})
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	requireSound(t, path)
}
