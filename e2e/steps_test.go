//go:build unix

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/internal/failpoint"
	"github.com/creditmirror/creditmirror/internal/pgtest"
	"github.com/creditmirror/creditmirror/stripesim"
)

// step is a named step of the program (internal/failpoint) and what leads to it.
type step struct {
	name string
	// reach makes the program come to the step; it does not wait for it.
	reach func(f *faultRun)
	// only is the backend that has the step; empty: both.
	only string
	// quick: part of the selection for each commit.
	quick bool
	// killOnly: what leads to it kills a process, which leaves none to take over.
	killOnly bool
}

const (
	onSQLite   = "sqlite"
	onPostgres = "postgres"
)

// steps are all steps but those of a migration, which has a test of its own.
var steps = []step{
	{name: "receiver.verified", reach: (*faultRun).change},
	{name: "receiver.collected", reach: (*faultRun).change},
	{name: "receiver.recorded", reach: (*faultRun).change, quick: true},
	{name: "receiver.marked", reach: (*faultRun).change, quick: true},
	{name: "receiver.answering", reach: (*faultRun).change},
	{name: "receiver.answered", reach: (*faultRun).change},
	{name: "receiver.letter", reach: (*faultRun).unreadable},

	{name: "worker.claimed", reach: (*faultRun).change},
	{name: "worker.epoch", reach: (*faultRun).change},
	{name: "worker.page", reach: (*faultRun).change},
	{name: "worker.read", reach: (*faultRun).change, quick: true},
	{name: "worker.credits.epoch", reach: (*faultRun).grant},
	{name: "worker.credits.rows", reach: (*faultRun).grant},
	{name: "worker.credits.read", reach: (*faultRun).grant},
	{name: "store.fence", reach: (*faultRun).change},
	{name: "store.written", reach: (*faultRun).change, quick: true},
	{name: "store.committed", reach: (*faultRun).change, quick: true},
	{name: "worker.settling", reach: (*faultRun).change},
	{name: "worker.more", reach: (*faultRun).longHistory},
	{name: "worker.completing", reach: (*faultRun).change},
	{name: "worker.completed", reach: (*faultRun).change},
	{name: "worker.failing", reach: (*faultRun).failing},
	{name: "worker.refusing", reach: (*faultRun).refused},
	{name: "worker.buried", reach: (*faultRun).buried},
	{name: "worker.gone", reach: (*faultRun).deleted},
	{name: "worker.passed", reach: (*faultRun).clock},
	{name: "worker.renewing", reach: (*faultRun).slow},
	{name: "worker.reaped", reach: (*faultRun).orphaned, only: onPostgres, killOnly: true},

	{name: "events.listed", reach: (*faultRun).nothing},
	{name: "events.recorded", reach: (*faultRun).missed},
	{name: "events.marked", reach: (*faultRun).nothing},
	{name: "balances.listed", reach: (*faultRun).nothing},
	{name: "balances.settled", reach: (*faultRun).nothing},
	{name: "balances.found", reach: (*faultRun).unannounced},
	{name: "balances.marked", reach: (*faultRun).unannounced},
	{name: "scrub.requested", reach: (*faultRun).nothing},
	{name: "scrub.asked", reach: (*faultRun).nothing},
	{name: "redis.stamped", reach: (*faultRun).nothing},
	{name: "redis.remarked", reach: (*faultRun).redisLost, quick: true},
	{name: "redis.healing", reach: (*faultRun).redisLost},

	{name: "copy.begun", reach: (*faultRun).copyAgain},
	{name: "copy.customers", reach: (*faultRun).copyAgain},
	{name: "copy.saving", reach: (*faultRun).copyAgain},
	{name: "copy.grants", reach: (*faultRun).copyAgain},
	{name: "copy.feeding", reach: (*faultRun).copyAgain},
	{name: "copy.done", reach: (*faultRun).copyAgain},

	{name: "api.sending", reach: (*faultRun).apiWrite},
	{name: "api.replied", reach: (*faultRun).apiWrite, quick: true},
	{name: "api.mirrored", reach: (*faultRun).apiWrite},
	{name: "api.behind", reach: (*faultRun).apiGrant},
	{name: "api.edit.begun", reach: (*faultRun).apiEdit},
	{name: "api.edit.replied", reach: (*faultRun).apiEdit},
}

// migrationSteps are tried by TestFaultMigration.
var migrationSteps = []string{"migrate.locked", "migrate.done"}

// TestEveryStepHasAFault holds the table above against the source: a step that
// nothing reaches, and one that is reached and not there, are failures.
func TestEveryStepHasAFault(t *testing.T) {
	t.Parallel()
	call := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`)
	inSource := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range call.FindAllSubmatch(text, -1) {
			inSource[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	listed := slices.Clone(migrationSteps)
	for _, s := range steps {
		listed = append(listed, s.name)
	}
	for _, name := range listed {
		if !inSource[name] {
			t.Errorf("step %s is in the table and not in the source", name)
		}
		delete(inSource, name)
	}
	for name := range inSource {
		t.Errorf("step %s is in the source and not in the table", name)
	}
	if len(listed) < 36 {
		t.Errorf("only %d steps", len(listed))
	}
}

// faultRun is one world in which one process after the other is killed or stopped.
type faultRun struct {
	*world
	node  *node
	other *node // on PostgreSQL: the one that takes over
	order string
	api   string
	// writes are writes through the API that are repeated until they are answered.
	writes []*apiCall
	// customer is the one that the step is about.
	customer string
	base     []string // customers with a past
	used     int
}

type apiCall struct {
	path, key string
	form      url.Values
}

const faultKey = "faultfaultfaultfaultfault"

func newFaultRun(t *testing.T, b backend) *faultRun {
	order := filepath.Join(t.TempDir(), "order")
	f := &faultRun{order: order, api: reserve(t)}
	f.world = newWorld(t, b, setup{
		env: map[string]string{
			failpoint.FileEnv: order, "CREDITMIRROR_BALANCES_INTERVAL": "10s", "CREDITMIRROR_SCRUB_PERIOD": "1m",
			"CREDITMIRROR_API_KEYS": "write:" + faultKey,
		},
		sim: stripesim.Options{Delivery: stripesim.Delivery{Timeout: 2 * time.Second, RetryFirst: 200 * time.Millisecond, RetryMax: time.Second, Attempts: 1000}},
	})
	f.binary = binaryWithSteps
	for range 6 {
		c := f.stripe.customer()
		f.stripe.credit(c, 1000, "usd")
		f.base = append(f.base, c)
	}
	f.stripe.grant(f.base[0], 500)
	f.node = f.spawn(map[string]string{"CREDITMIRROR_API_ADDR": f.api})
	f.copied()
	f.equal()
	return f
}

func (f *faultRun) next() string {
	f.used++
	f.customer = f.base[f.used%len(f.base)]
	return f.customer
}

func (f *faultRun) nothing()    { f.next() }
func (f *faultRun) change()     { f.world.change(f.next(), -1) }
func (f *faultRun) grant()      { f.stripe.grant(f.next(), 100) }
func (f *faultRun) unreadable() { f.next(); go f.tryDeliver([]byte(`{"id":"evt_x","object":"event"}`)) }

func (f *faultRun) tryDeliver(body []byte) {
	_, _ = f.trySend(bytes.NewReader(body), map[string]string{"Stripe-Signature": stripesim.SignatureHeader(f.secrets[0], time.Now(), body)})
}

func (f *faultRun) longHistory() {
	f.next()
	f.customer = f.stripe.customer()
	f.faults(stripesim.Fault{Kind: stripesim.FaultWebhookLost, Probability: 1})
	for range 2300 {
		f.world.change(f.customer, -1)
	}
	f.faults()
	f.world.change(f.customer, -1)
}

func (f *faultRun) failing() {
	f.faults(stripesim.Fault{Kind: stripesim.Fault500, Count: 8, Customer: f.next()})
	f.world.change(f.customer, -1)
}

// refused makes Stripe's lists forget a row that is held.
func (f *faultRun) refused() {
	f.customer = f.stripe.customer()
	first := f.stripe.credit(f.customer, 100, "usd").ID
	f.equal()
	forgotten, list := f.customer, "/v1/customers/"+f.customer+"/balance_transactions"
	f.rewriteReplies(func(r *http.Request, body []byte) []byte {
		if r.URL.Path != list {
			return body
		}
		var page struct {
			Data []json.RawMessage `json:"data"`
		}
		var all map[string]any
		if json.Unmarshal(body, &page) != nil || json.Unmarshal(body, &all) != nil || len(page.Data) == 0 {
			return body
		}
		all["data"] = slices.DeleteFunc(page.Data, func(row json.RawMessage) bool { return bytes.Contains(row, []byte(first)) })
		out, err := json.Marshal(all)
		if err != nil {
			f.tb.Errorf("rewrite the list of %s: %v", forgotten, err)
		}
		return out
	})
	f.world.change(f.customer, -1)
}

func (f *faultRun) buried() {
	if err := f.node.stop(); err != nil {
		f.tb.Fatal(err)
	}
	f.customer = f.stripe.customer()
	f.faults(stripesim.Fault{Kind: stripesim.FaultNonsense, Probability: 1, Customer: f.customer})
	f.world.change(f.customer, -1)
	f.launch(map[string]string{"CREDITMIRROR_MAX_ATTEMPTS": "2"})
}

func (f *faultRun) deleted() {
	f.next()
	f.customer = f.stripe.customer()
	f.stripe.credit(f.customer, 100, "usd")
	f.stripe.delete(f.customer)
}

func (f *faultRun) clock() {
	f.next()
	now := time.Now().Unix()
	clock := f.stripe.post("/v1/test_helpers/test_clocks", "frozen_time", fmt.Sprint(now)).ID
	f.stripe.credit(f.stripe.customer("test_clock", clock), 100, "usd")
	f.stripe.post("/v1/test_helpers/test_clocks/"+clock+"/advance", "frozen_time", fmt.Sprint(now+100))
}

func (f *faultRun) slow() {
	f.faults(stripesim.Fault{Kind: stripesim.FaultSlow, Count: 1, Delay: stripesim.Duration(6 * time.Second), Customer: f.next()})
	f.world.change(f.customer, -1)
}

// orphaned has a worker killed, and the step is that of the one that finds its lease.
func (f *faultRun) orphaned() {
	then, err := os.ReadFile(f.order)
	if err != nil {
		f.tb.Fatal(err)
	}
	f.arm("worker.read kill")
	f.change()
	f.await("worker.read", 30*time.Second)
	_ = os.Remove(f.order + ".hit")
	<-f.node.done
	f.arm(string(then))
	f.launch(nil)
}

func (f *faultRun) missed() {
	f.faults(stripesim.Fault{Kind: stripesim.FaultWebhookLost, Probability: 1}) // until it is healed
	f.change()
}

// unannounced changes all: the scrub, which is quick here, may be first with some.
func (f *faultRun) unannounced() {
	f.faults(stripesim.Fault{Kind: stripesim.FaultEventLost, Probability: 1})
	for range f.base {
		f.change()
	}
	f.faults()
}

func (f *faultRun) redisLost() {
	f.next()
	if f.redis == nil { // it ends with the process
		f.node.signal(syscall.SIGKILL)
		f.launch(nil)
		return
	}
	rdb := f.rdb()
	defer func() { _ = rdb.Close() }()
	if err := rdb.FlushAll(f.tb.Context()).Err(); err != nil {
		f.tb.Fatal(err)
	}
}

// copyAgain has the first copy made again, with new customers to find.
func (f *faultRun) copyAgain() {
	f.node.signal(syscall.SIGKILL)
	f.faults(stripesim.Fault{Kind: stripesim.FaultEventLost, Probability: 1})
	f.next()
	for range 3 {
		c := f.stripe.customer()
		f.stripe.credit(c, 77, "usd")
		f.stripe.grant(c, 88)
	}
	f.faults()
	f.exec("DELETE FROM schema.sweeps WHERE name = 'backfill'")
	f.launch(nil)
}

// exec changes the database beside the program, which does not run.
func (f *faultRun) exec(query string) {
	db, err := openTables(f.env["CREDITMIRROR_DATABASE_URL"])
	if err != nil {
		f.tb.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(f.tb.Context(), f.sql(query)); err != nil {
		f.tb.Fatal(err)
	}
}

func (f *faultRun) apiWrite() {
	f.write("/v1/customers/"+f.next()+"/balance_transactions", url.Values{"amount": {"-3"}, "currency": {"usd"}})
}

func (f *faultRun) apiGrant() {
	f.write("/v1/billing/credit_grants", url.Values{
		"customer": {f.next()}, "category": {"paid"}, "name": {"Prepaid"}, "amount[type]": {"monetary"},
		"amount[monetary][currency]": {"usd"}, "amount[monetary][value]": {"50"}, "applicability_config[scope][price_type]": {"metered"},
	})
}

func (f *faultRun) apiEdit() {
	row := f.stripe.credit(f.next(), 5, "usd").ID
	f.equal()
	f.write("/v1/customers/"+f.customer+"/balance_transactions/"+row, url.Values{"description": {fmt.Sprintf("edit %d", f.used)}})
}

func (f *faultRun) write(path string, form url.Values) {
	c := &apiCall{path: path, key: fmt.Sprintf("fault-%d-%d", os.Getpid(), time.Now().UnixNano()), form: form}
	f.writes = append(f.writes, c)
	go func() { _ = f.tryWrite(c) }()
}

func (f *faultRun) tryWrite(c *apiCall) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+f.api+c.path, strings.NewReader(c.form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Idempotency-Key", c.key)
	req.SetBasicAuth(faultKey, "")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body) //nolint:errcheck // only for the message
		return fmt.Errorf("%s: %s: %s", c.path, resp.Status, text)
	}
	return nil
}

// launch starts the binary in place of the one that ran, and does not wait until it
// is ready: it may not live so long.
func (f *faultRun) launch(own map[string]string) {
	f.tb.Helper()
	settings := map[string]string{"CREDITMIRROR_API_ADDR": f.api}
	for k, v := range own {
		settings[k] = v
	}
	n := &node{w: f.world, webhook: f.node.webhook, ops: f.node.ops, done: make(chan struct{})}
	n.mayFail.Store(true)
	n.exec(f.binary.build(f.tb), settings)
	f.mu.Lock()
	f.nodes = append(f.nodes, n)
	f.mu.Unlock()
	f.node = n
}

func (f *faultRun) arm(order string) {
	f.tb.Helper()
	// In one go, or a process could read half of it.
	if err := errors.Join(os.WriteFile(f.order+".new", []byte(order), 0o600), os.Rename(f.order+".new", f.order)); err != nil {
		f.tb.Fatal(err)
	}
}

// await waits until a process has come to the step.
func (f *faultRun) await(name string, within time.Duration) {
	f.tb.Helper()
	eventually(f.tb, within, name+" is reached", func() error {
		_, err := os.Stat(f.order + ".hit")
		return err
	})
}

func (f *faultRun) running() (list []*node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		if n.alive() {
			list = append(list, n)
		}
	}
	return list
}

// kill has the process killed at the step, starts it again, and wants all that was
// acknowledged to be there. It returns how long that took.
func (f *faultRun) kill(s step) time.Duration {
	f.tb.Helper()
	f.arm(s.name + " kill")
	s.reach(f)
	f.await(s.name, 90*time.Second)
	select {
	case <-f.node.done:
	case <-time.After(10 * time.Second):
		f.tb.Fatalf("%s: the process lives", s.name)
	}
	f.node.mayFail.Store(true)
	return f.healed(func() {
		f.launch(nil)
		f.node.awaitReady()
		if s.name == "worker.buried" { // the letter is kept, and tried again in an hour or at the next event
			f.world.change(f.customer, -1)
		}
	})
}

// healed ends the faults, and waits until what was interrupted is whole.
func (f *faultRun) healed(resume func()) time.Duration {
	f.tb.Helper()
	_ = os.Remove(f.order + ".hit")
	f.faults()
	f.rewriteReplies(nil)
	began := time.Now()
	resume()
	for _, c := range f.writes {
		eventually(f.tb, 60*time.Second, "a write is answered", func() error { return f.tryWrite(c) })
	}
	f.writes = nil
	f.equalWithin(90 * time.Second)
	return time.Since(began)
}

// stop has a process stopped at the step for longer than a lease lasts. Where there
// is another one it must take over, and the one that wakes up must not undo that.
func (f *faultRun) stop(s step) time.Duration {
	f.tb.Helper()
	if f.backend.external {
		f.other = f.spawn(nil)
	}
	f.arm(s.name + " stop")
	s.reach(f)
	f.await(s.name, 90*time.Second)
	stopped := time.Now()
	sleeper, took := f.sleeper(), time.Duration(0)
	past := func() { <-time.After(time.Until(stopped.Add(12 * time.Second))) }
	if f.backend.external {
		awake := f.other
		if sleeper == f.other {
			awake = f.node
		}
		f.world.change(f.customer, -1)
		f.sendTo(awake, event("customer.updated", f.customer, time.Now()))
		if strings.HasPrefix(s.name, "worker.") || strings.HasPrefix(s.name, "store.") {
			took = f.takenOver(s, stopped)
		}
	}
	past()
	f.healed(func() {
		sleeper.signal(syscall.SIGCONT)
		f.world.change(f.customer, -1)
	})
	if f.backend.external {
		if err := f.other.stop(); err != nil {
			f.tb.Fatal(err)
		}
	}
	return took
}

// takenOver waits until the customer of a stopped worker is as it is at Stripe.
func (f *faultRun) takenOver(s step, stopped time.Time) time.Duration {
	f.tb.Helper()
	f.faults()
	f.rewriteReplies(nil)
	eventually(f.tb, 30*time.Second, s.name+": another process takes over", func() error {
		_, err := f.compare()
		return err
	})
	return time.Since(stopped)
}

// sleeper is the process that SIGSTOP has stopped.
func (f *faultRun) sleeper() (found *node) {
	f.tb.Helper()
	eventually(f.tb, 5*time.Second, "a process is stopped", func() error {
		for _, n := range f.running() {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
			if err == nil && bytes.Contains(stat, []byte(") T ")) {
				found = n
				return nil
			}
		}
		return errors.New("none is")
	})
	return found
}

// selection is what `make fault` was asked for.
type selection struct {
	kills, stops int
	steps        *regexp.Regexp
	quick        bool
	worlds       int
	record       string
	done         map[string]bool
}

func selected(t *testing.T) selection {
	t.Helper()
	if os.Getenv("CREDITMIRROR_FAULT") == "" {
		t.Skip("takes minutes; set CREDITMIRROR_FAULT=1 (make fault), or quick (make fault-quick)")
	}
	sel := selection{quick: os.Getenv("CREDITMIRROR_FAULT") == "quick", worlds: number(t, "CREDITMIRROR_FAULT_WORLDS", 2)}
	sel.kills, sel.stops = number(t, "CREDITMIRROR_FAULT_KILLS", 1), number(t, "CREDITMIRROR_FAULT_STOPS", 1)
	if sel.quick {
		sel.stops = 0
	}
	var err error
	if sel.steps, err = regexp.Compile(os.Getenv("CREDITMIRROR_FAULT_STEPS")); err != nil {
		t.Fatalf("CREDITMIRROR_FAULT_STEPS: %v", err)
	}
	if sel.record = os.Getenv("CREDITMIRROR_FAULT_RECORD"); sel.record != "" {
		text, err := os.ReadFile(sel.record)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		sel.done = map[string]bool{}
		for line := range strings.Lines(string(text)) {
			sel.done[strings.TrimSpace(line)] = true
		}
	}
	return sel
}

// faultTable collects what was done.
type faultTable struct {
	mu    sync.Mutex
	cells map[string]*faultCell
}

type faultCell struct {
	n       int
	slowest time.Duration
}

func (tb *faultTable) add(key string, took time.Duration) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	c := tb.cells[key]
	if c == nil {
		c = &faultCell{}
		tb.cells[key] = c
	}
	c.n++
	c.slowest = max(c.slowest, took)
}

func (tb *faultTable) String() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%-22s", "step")
	columns := []string{onSQLite + " kill", onSQLite + " stop", onPostgres + " kill", onPostgres + " stop"}
	for _, c := range columns {
		fmt.Fprintf(&b, " %17s", c)
	}
	b.WriteByte('\n')
	for _, s := range steps {
		line, any := fmt.Sprintf("%-22s", s.name), false
		for _, column := range columns {
			cell := "-"
			if c := tb.cells[column+" "+s.name]; c != nil {
				cell, any = fmt.Sprintf("%d (%.1fs)", c.n, c.slowest.Seconds()), true
			}
			line += fmt.Sprintf(" %17s", cell)
		}
		if any {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// TestFaultSteps kills and stops the binary at each step. The table says how often
// without a violation and the longest time: after a kill until all is equal again,
// after a stop until another process had done the work.
func TestFaultSteps(t *testing.T) {
	sel := selected(t)
	table := &faultTable{cells: map[string]*faultCell{}}
	t.Cleanup(func() { t.Logf("done without a violation, and the slowest:\n%s", table) })
	for name, b := range map[string]backend{onSQLite: embedded, onPostgres: everysec} {
		var mine []step
		for _, s := range steps {
			if sel.steps.MatchString(s.name) && (s.quick || !sel.quick) && (s.only == "" || s.only == name) {
				mine = append(mine, s)
			}
		}
		for world := range sel.worlds {
			t.Run(fmt.Sprintf("%s/%d", name, world), func(t *testing.T) {
				t.Parallel()
				var f *faultRun
				for at, s := range mine {
					if at%sel.worlds != world {
						continue
					}
					for _, a := range []struct {
						name string
						n    int
						do   func(*faultRun, step) time.Duration
					}{{"kill", sel.kills, (*faultRun).kill}, {"stop", sel.stops, (*faultRun).stop}} {
						for i := range a.n {
							line := fmt.Sprintf("%s %s %s %d", name, a.name, s.name, i)
							if sel.done[line] || s.killOnly && a.name == "stop" {
								continue
							}
							if f == nil {
								f = newFaultRun(t, b)
							}
							t.Log(line)
							table.add(name+" "+a.name+" "+s.name, a.do(f, s))
							sel.note(t, line)
						}
					}
				}
			})
		}
	}
}

// note records a run that is done, so that the next `make fault` goes on behind it.
func (sel selection) note(t *testing.T, line string) {
	t.Helper()
	if sel.record == "" {
		return
	}
	out, err := os.OpenFile(sel.record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(out, line)
		err = errors.Join(err, out.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestFaultMigration kills `creditmirror migrate` at its steps: the next one ends
// what it began.
func TestFaultMigration(t *testing.T) {
	sel := selected(t)
	for name, b := range map[string]backend{onSQLite: embedded, onPostgres: everysec} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, s := range migrationSteps {
				for range sel.kills {
					w := &world{tb: t, backend: b, log: &logBuffer{}, env: map[string]string{}}
					url := "sqlite:" + filepath.Join(t.TempDir(), "mirror.db")
					if b.external {
						url = pgtest.NewDatabase(t)
					}
					order := filepath.Join(t.TempDir(), "order")
					if err := os.WriteFile(order, []byte(s+" kill"), 0o600); err != nil {
						t.Fatal(err)
					}
					run := func() error {
						cmd := exec.CommandContext(t.Context(), binaryWithSteps.build(t), "migrate")
						cmd.Env = []string{"CREDITMIRROR_DATABASE_URL=" + url, failpoint.FileEnv + "=" + order, "HOME=" + os.Getenv("HOME")}
						cmd.Stdout, cmd.Stderr = w.log, w.log
						return cmd.Run()
					}
					if err := run(); err == nil || !strings.Contains(err.Error(), "killed") {
						t.Fatalf("%s: %v, want it to be killed", s, err)
					}
					if err := run(); err != nil {
						t.Fatalf("after a kill at %s: %v\n%s", s, err, w.log.tail(20))
					}
				}
			}
		})
	}
}
