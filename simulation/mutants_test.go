package simulation

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// mutant is a planted bug: a text that a file holds exactly once, and what is put in
// its place. It is built by an overlay, so that no file of the tree changes.
type mutant struct {
	name, file, old, new string
	// by are the packages whose tests must notice it; "simulate:FEATURES" is the
	// simulation with these features.
	by string
}

// ownership is how a script asks whether a claim is still its own.
const ownership = "if not owned(id, ARGV[3]) then return -1 end"

// mutants are the rejected designs of the queue, the fence and the receiver, and the
// kinds of faults that were found. docs/reliability.md lists what caught each.
var mutants = []mutant{
	// The queue.
	{"done clears a generation it did not claim", "queue/lua/done.lua", "if g and g ~= ARGV[4] then", "if false then", "queue"},
	{"done of a claim that is lost", "queue/lua/done.lua", ownership, "", "queue"},
	{"fail of a claim that is lost", "queue/lua/fail.lua", ownership, "", "queue"},
	{"renew of a claim that is lost", "queue/lua/renew.lua", "if owned(id, ARGV[i + 1]) and redis", "if redis", "queue"},
	{
		"a mark during the run is lost: a unique job", "queue/lua/mark.lua", "local g = redis.call('HINCRBY', GEN, id, 1)",
		"local g = tonumber(redis.call('HGET', GEN, id) or 0)\n  if not redis.call('ZSCORE', LEASE, id) then g = redis.call('HINCRBY', GEN, id, 1) end", "queue",
	},
	{"a mark cancels a back-off", "queue/lua/mark.lua", "(inlive <= due or held(inlive))", "(inlive <= due)", "queue"},
	{"a live mark leaves sweep work where it is", "queue/lua/mark.lua", "redis.call('HDEL', CLASS, id)\n      ready = true", "ready = true", "queue"},
	{"a key is leased twice", "queue/lua/claim.lua", "elseif lease and tonumber(lease) > t then", "elseif false then", "queue"},
	{"sweeps have no share", "queue/lua/claim.lua", "take(SWEEP, '1', share)\n", "", "queue"},
	{"the claim's id repeats", "queue/claim.go", "token, before := rand.Text(), time.Now()", "token, before := rand.Text()[:0]+\"claim\", time.Now()", "queue"},
	{"reap forgets the key", "queue/lua/reap.lua", "requeue(id, t, redis.call('HGET', CLAIM, id))", "", "queue"},
	{"a lease that ran out is no attempt", "queue/lua/reap.lua", "redis.call('HINCRBY', ATT, id, 1)", "", "queue"},
	{"a server clock that was set back is not noticed", "queue/lua/reap.lua", "if t < last - 1000 then", "if false then", "queue"},
	{"repair leaves a dirty key without a place", "queue/lua/repair.lua", "elseif dirty and not leased", "elseif false and not leased", "queue"},
	{"attempts are not counted", "queue/lua/fail.lua", "n = redis.call('HINCRBY', ATT, id, 1)", "n = 1", "queue"},
	// The receiver.
	{
		"200 without the inbox", "webhook/intake.go", "return nil, verdict{answerInboxError, fmt.Errorf(\"record events: %w\", err)}",
		"receipts = make([]mirror.Receipt, len(events))", "webhook",
	},
	{
		"200 without a mark", "webhook/intake.go", "return nil, verdict{answerQueueError, fmt.Errorf(\"mark targets: %w\", err)}",
		"coalesced = make([]bool, len(markings))", "webhook",
	},
	{
		"what was seen is not marked again", "webhook/intake.go", "if receipts[place[i]] == mirror.ReceiptApplied {\n\t\t\tcontinue\n\t\t}\n\t\tfor _, t := range p.targets {\n\t\t\tkey",
		"if receipts[place[i]] != mirror.ReceiptNew {\n\t\t\tcontinue\n\t\t}\n\t\tfor _, t := range p.targets {\n\t\t\tkey", "webhook",
	},
	{"an empty secret is one", "stripeapi/signature.go", "if strings.TrimSpace(secret) == \"\" {", "if strings.TrimSpace(secret) == \"never\" {", "stripeapi"},
	{"a signature from the future", "stripeapi/signature.go", "case skew < -SignatureTolerance:", "case skew < -100*SignatureTolerance:", "stripeapi"},
	{"a signature from long ago", "stripeapi/signature.go", "case skew > SignatureTolerance:", "case skew > 100*SignatureTolerance:", "stripeapi"},
	{"two signature headers", "stripeapi/signature.go", "case 1:\n\tdefault:\n\t\treturn -1, 0, ErrManySignatures", "case 1, 2:\n\tdefault:\n\t\treturn -1, 0, ErrManySignatures", "stripeapi"},
	{"Retry-After is not waited for", "stripeapi/retry.go", "return max(backoff.N(ceiling(n)+1), retryAfter), true", "return backoff.N(ceiling(n) + 1), true", "stripeapi"},
	// The budget.
	{"a bucket holds two seconds", "budget/acquire.lua", "local cap = math.max(1, rate * burst)", "local cap = math.max(1, rate * burst * 8)", "budget"},
	{"sweeps starve at Stripe", "budget/acquire.lua", "if owed and lvl >= 1 then", "if false then", "budget"},
	{"a 429 does not slow down", "budget/throttle.lua", "math.max(tonumber(ARGV[3]), f / 2)", "f", "budget"},
	// The chain and the plans.
	{"rows of one second are taken as they come", "mirror/chain.go", "if !closes(second, balance) {", "if false && !closes(second, balance) {", "mirror"},
	{"a chain closes whatever it starts from", "mirror/chain.go", "if !l.follows(balance) {\n\t\t\treturn false", "if !l.follows(balance) && false {\n\t\t\treturn false", "mirror"},
	{"a history is complete before it is joined", "mirror/plan_balance.go", "\tplan.State.Walk = s.walkLeft(h)\n", "\tplan.State.Walk = s.walkLeft(h)\n\t\tplan.State.HistoryComplete = true\n", "mirror/sqlite"},
	{"a chain that does not close is taken", "mirror/plan_balance.go", "if broken != nil && !s.AcceptDisproof {", "if broken != nil && false {", "mirror mirror/sqlite"},
	{"a chain once broken is proven by its end", "mirror/plan_balance.go", "case s.Full || !h.State.Disproved:", "default:", "mirror/sqlite"},
	{"an amount changes unnoticed", "mirror/plan_balance.go", "case row.Amount != old.Amount:", "case false:", "mirror mirror/sqlite"},
	{"a proof of the end proves every row", "mirror/plan_balance.go", "closeKinds(s.Full, DriftChainGap)", "closeKinds(true, DriftChainGap)", "mirror/sqlite"},
	{"an older state of a grant is written", "mirror/plan_credits.go", "if credible && old.NewerThan(g) {", "if false && old.NewerThan(g) {", "mirror/sqlite"},
	{"credits answer before they join", "mirror/plan_credits.go", "if !s.Joined {\n\t\tplan.Unanswered = slices.Concat(h.Waiting, s.Events)\n\t\treturn nil\n\t}", "", "mirror/sqlite simulate:credits"},
	{"a write lands on any balance", "mirror/write.go", "return Link{Amount: row.Amount, EndingBalance: row.EndingBalance}.follows(top.EndingBalance)", "return true", "mirror/sqlite"},
	// The fence.
	{"no fence", "mirror/sqlite/fence.go", "AND scope = ?3 AND epoch = ?4`\n\n// enter", "AND scope = ?3 AND ?4 > 0`\n\n// enter", "mirror/sqlite"},
	{"the epoch is not raised", "mirror/sqlite/fence.go", "DO UPDATE SET epoch = max(epoch + 1, excluded.epoch),", "DO UPDATE SET epoch = epoch,", "mirror/sqlite"},
	{"an event is answered by a piece", "mirror/sqlite/fence.go", "if st.Joins() {\n\t\tif err := c.answerEvents()", "if true {\n\t\tif err := c.answerEvents()", "mirror/sqlite simulate:crash"},
	{"freshness moves with a piece", "mirror/sqlite/fence.go", "if st.Joins() {\n\t\tif c.observed > c.at", "if true {\n\t\tif c.observed > c.at", "mirror/sqlite"},
	{"freshness goes back", "mirror/sqlite/fence.go", "observed = max(c.observed, observed)", "observed = c.observed", "mirror/sqlite"},
	{
		"the epoch is raised after the read", "worker/balance.go", "applied, err := s.store.ApplyBalance(ctx, snapshot)",
		"if again, err := s.store.BeginSync(ctx, t); err == nil {\n\t\t\tsnapshot.Epoch = again.Epoch\n\t\t}\n\t\tapplied, err := s.store.ApplyBalance(ctx, snapshot)", "simulate:stall,two,crash worker",
	},
	{"a row of the newest second joins", "worker/balance.go", "if !until.IsZero() && created.Before(until) {", "if !until.IsZero() && !created.After(until) {", "worker"},
	{"a rejected writer completes the work", "worker/judge.go", "case errors.Is(err, mirror.ErrFenced):\n", "case errors.Is(err, mirror.ErrFenced):\n\t\treturn verdict{then: complete, outcome: \"ok\"}\n", "worker"},
	// What heals.
	{"a rewound Redis is not noticed", "reconcile/rewind.go", "r.ID != k.ID || r.HighWater < k.HighWater {", "r.ID != k.ID {", "reconcile"},
	{"nothing is read again behind the watermark", "reconcile/events.go", "eventOverlap = time.Minute", "eventOverlap = 0", "reconcile"},
	{"an accepted event without a mark was missed", "reconcile/events.go", "case before[e.ID] == mirror.ReceiptPending:", "case false:", "reconcile"},
	{"a second look at events does not ask for their cause", "reconcile/events.go", "result.blame = blameOf(sweep)", "_ = sweep", "reconcile"},
	{"first copies are marked whether they wait or not", "reconcile/histories.go", "\t\tif !queued[i] {\n\t\t\tfresh", "\t\tif queued[i] || !queued[i] {\n\t\t\tfresh", "reconcile"},
	{"the healing does not mark unfinished histories again", "reconcile/runner.go", "_, err = r.remarkUnfinished(ctx)", "_ = r.remarkUnfinished", "reconcile"},
	// The API.
	{"Max-Age is answered from any copy", "api/fresh.go", "!at[0].IsZero() && !at[0].Before(since) && !ahead", "!at[0].IsZero() && !ahead", "api"},
}

var (
	flagMutant  = flag.String("sim.mutant", "", "run only mutants whose name or file holds this text")
	flagOverlay = flag.String("sim.overlay", "", "the overlay that the simulation is built with, for mutants that it has to notice")
)

// planted returns the file of a mutant with its bug in it.
func (m mutant) planted() ([]byte, error) {
	text, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(m.file)))
	if err != nil {
		return nil, err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return nil, fmt.Errorf("%s holds %q %d times, want once: the mutant has to follow the code", m.file, m.old, n)
	}
	return []byte(strings.Replace(string(text), m.old, m.new, 1)), nil
}

// A mutant that no longer applies would be caught by nothing and missed by nobody.
func TestMutantsApply(t *testing.T) {
	t.Parallel()
	if len(mutants) < 40 {
		t.Errorf("there are %d mutants, want 40", len(mutants))
	}
	names := map[string]bool{}
	for _, m := range mutants {
		if _, err := m.planted(); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if names[m.name] || m.by == "" {
			t.Errorf("%s: the name comes twice, or nothing is said to catch it", m.name)
		}
		names[m.name] = true
	}
}

func TestMutants(t *testing.T) {
	if os.Getenv("CREDITMIRROR_MUTANTS") == "" {
		t.Skip("make mutants runs them")
	}
	sound := map[string]bool{}
	for _, m := range mutants {
		if !strings.Contains(m.name, *flagMutant) && !strings.Contains(m.file, *flagMutant) {
			continue
		}
		for catcher := range strings.FieldsSeq(m.by) {
			if !sound[catcher] && !strings.HasPrefix(catcher, "simulate:") {
				// A test that fails without the bug says nothing about it.
				cmd := exec.Command("go", "test", "-timeout=10m", "./"+catcher)
				cmd.Dir = ".."
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s fails without any mutant: %v\n%s", catcher, err, out)
				}
				sound[catcher] = true
			}
		}
		t.Run(m.name, func(t *testing.T) {
			began := time.Now()
			by, err := m.hunt(t.TempDir())
			switch {
			case err != nil:
				t.Error(err)
			case by == "":
				t.Errorf("survives %s", m.by)
			}
			fmt.Printf("| %s | %s | %s | %v |\n", m.name, m.file, by, time.Since(began).Round(time.Second))
		})
	}
}

var failure = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// hunt runs what has to catch a mutant, and returns the name of the test that did.
func (m mutant) hunt(folder string) (by string, err error) {
	text, err := m.planted()
	if err != nil {
		return "", err
	}
	file, err := filepath.Abs(filepath.Join("..", filepath.FromSlash(m.file)))
	if err != nil {
		return "", err
	}
	planted := filepath.Join(folder, filepath.Base(m.file))
	if err := os.WriteFile(planted, text, 0o600); err != nil {
		return "", err
	}
	replace := map[string]string{file: planted}
	for catcher := range strings.FieldsSeq(m.by) {
		features, simulated := strings.CutPrefix(catcher, "simulate:")
		args := []string{"test", "-count=1", "-failfast", "-timeout=10m"}
		if simulated {
			if *flagOverlay == "" {
				continue
			}
			if err := addOverlay(replace, *flagOverlay); err != nil {
				return "", err
			}
			args = append(args, "-tags=simruntime")
		}
		overlay, err := json.Marshal(map[string]any{"Replace": replace})
		if err != nil {
			return "", err
		}
		path := filepath.Join(folder, "overlay.json")
		if err := os.WriteFile(path, overlay, 0o600); err != nil {
			return "", err
		}
		args = append(args, "-overlay="+path)
		if simulated {
			args = append(args, "./simulation", "-run=^TestSeeds$", "-sim.seeds=300", "-sim.with="+features)
		} else {
			args = append(args, "./"+catcher)
			if catcher == "queue" { // it would leave its counterexample in the tree
				args = append(args, "-rapid.nofailfile")
			}
		}
		cmd := exec.Command("go", args...)
		cmd.Dir = ".."
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "[build failed]") || strings.Contains(string(out), "[setup failed]") {
			return "", fmt.Errorf("the mutant does not build, which catches nothing:\n%s", out)
		}
		if err != nil {
			if _, ok := errors.AsType[*exec.ExitError](err); !ok {
				return "", err
			}
			name := "fails as a whole"
			if found := failure.FindAllSubmatch(out, -1); found != nil {
				name = string(found[len(found)-1][1])
			}
			return catcher + " " + name, nil
		}
	}
	return "", nil
}

func addOverlay(replace map[string]string, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var o struct{ Replace map[string]string }
	if err := json.Unmarshal(text, &o); err != nil {
		return err
	}
	for k, v := range o.Replace {
		replace[k] = v
	}
	return nil
}
