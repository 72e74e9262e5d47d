//go:build unix

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripesim"
)

// command runs the binary beside a serve, as an operator does.
func (n *node) command(args ...string) (code int, out, errOut string) {
	n.w.tb.Helper()
	cmd := exec.Command(build(n.w.tb), args...)
	cmd.Env = append(n.w.environ(map[string]string{"CREDITMIRROR_OPS_ADDR": n.ops}), "HOME="+os.Getenv("HOME"), "TMPDIR="+os.TempDir())
	cmd.SysProcAttr = childAttr()
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			n.w.tb.Fatal(err)
		}
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

// deadRow is a line of dead list --format json.
type deadRow struct {
	ID, Account, Customer, Scope, Reason string
	Attempts                             int
}

func (n *node) deadList() (rows []deadRow, err error) {
	code, out, errOut := n.command("dead", "list", "--format", "json")
	if code != 0 {
		return nil, fmt.Errorf("dead list: exit %d: %s", code, errOut)
	}
	return rows, json.Unmarshal([]byte(out), &rows)
}

func TestDeadLettersAsAnOperatorI10(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b backend) {
		w := newWorld(t, b, setup{env: map[string]string{"CREDITMIRROR_MAX_ATTEMPTS": "2"}})
		n := w.spawn(nil)
		poison, other := w.stripe.customer(), w.stripe.customer()
		w.stripe.credit(poison, 100, "usd")
		w.copied()
		w.equal()
		w.faults(stripesim.Fault{Kind: stripesim.Fault500, Probability: 1, Customer: poison})
		w.change(poison, -10)
		var letter deadRow
		dead := func() error {
			w.change(other, -1) // Stripe answers for others, so that it is no outage
			rows, err := n.deadList()
			if err == nil && (len(rows) != 1 || rows[0].Attempts < 2 || rows[0].Customer != poison || rows[0].Scope != "balance") {
				err = fmt.Errorf("dead list tells %+v", rows)
			}
			if err == nil {
				letter = rows[0]
			}
			return err
		}
		eventually(t, 30*time.Second, "the poison customer is listed", dead)
		// says runs a command and wants an exit code and words of its output.
		says := func(code int, words string, args ...string) {
			t.Helper()
			got, out, errOut := n.command(args...)
			if got != code || !strings.Contains(out+errOut, words) {
				t.Fatalf("%v: exit %d, want %d and %q\n%s%s", args, got, code, words, out, errOut)
			}
		}
		says(0, "status 500", "dead", "show", letter.ID)
		says(0, "1 under an hour old", "status")
		const unknown = "dead_00000000000000000000000000000000"
		says(1, unknown, "dead", "show", unknown)

		// Nothing is mended yet: it is tried, fails again, and the letter stays.
		says(0, letter.ID+",marked,balance of "+poison, "dead", "retry", letter.ID)
		eventually(t, 30*time.Second, "it was tried again", func() error {
			w.change(other, -1)
			d, err := w.reader().DeadLetter(t.Context(), letter.ID)
			if err == nil && !d.LastFailedAt.After(d.FirstFailedAt) {
				err = errors.New("not yet")
			}
			return err
		})
		says(1, "no dead letter "+unknown, "dead", "retry", unknown, letter.ID)

		w.faults()
		says(0, "id,outcome,detail\n", "dead", "retry", "--all") // unless the last retry has resolved it already
		eventually(t, 10*time.Second, "the letter goes", that(func() bool { return len(w.letters()) == 0 }))
		w.equal()
		says(0, letter.ID+",resolved,balance of "+poison+" was synced at", "dead", "retry", letter.ID)
		says(1, letter.ID, "dead", "drop", "--yes", letter.ID)

		// An event that no version can read.
		body := []byte(`{"id":"evt_unreadable","email":"jane@example.com`)
		if a := w.sendTo(n, body); a.code != 200 {
			t.Fatalf("an unreadable event: %+v", a)
		}
		id := mirror.UnreadableID(body)
		says(0, "not valid JSON", "dead", "list")
		says(1, id+",unreadable,", "dead", "retry", id)
		says(1, id+",unreadable,", "dead", "retry", "--all")
		says(0, string(body), "dead", "show", id, "--payload")
		if strings.Contains(w.log.String(), "jane") {
			t.Error("the body is in the log")
		}
		says(2, "--yes", "dead", "drop", id)
		says(0, "1 dropped", "dead", "drop", "--yes", id)

		// Without a serve.
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		target := mirror.Target{Scope: mirror.ScopeBalance, ID: poison}
		late := mirror.DeadLetter{
			ID: mirror.DeadLetterID(target), Target: target, Reason: "made by the test", Attempts: 2, FirstFailedAt: time.Now(), LastFailedAt: time.Now(),
		}
		if err := w.reader().SaveDeadLetter(t.Context(), late); err != nil {
			t.Fatal(err)
		}
		if b.external {
			says(0, late.ID+",marked", "dead", "retry", late.ID) // Redis keeps the mark
		} else {
			says(1, "no serve answers at "+n.ops, "dead", "retry", late.ID)
		}
		n = n.respawn(nil)
		if !b.external {
			says(0, late.ID+",marked", "dead", "retry", late.ID)
		}
		eventually(t, 10*time.Second, "the letter goes", that(func() bool { return len(w.letters()) == 0 }))
	})
}
