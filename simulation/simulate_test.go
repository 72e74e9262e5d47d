package simulation

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

var (
	flagSeed  = flag.Uint64("sim.seed", 0, "run this seed alone, with its trace")
	flagSeeds = flag.Uint64("sim.seeds", 0, "how many seeds to run")
	flagFirst = flag.Uint64("sim.first", 1, "the first of them")
	flagStep  = flag.Uint64("sim.step", 1, "the distance between them")
	flagKeep  = flag.String("sim.keep", "", "numbers of the actions to keep, such as 0,3,4; all by default")
	flagForce = flag.String("sim.with", "", "features that every seed has, comma separated")
	flagBan   = flag.String("sim.without", "", "features that no seed has, comma separated")
	flagTwice = flag.Bool("sim.twice", false, "run each seed twice and compare the traces")
	flagAll   = flag.Bool("sim.all", false, "go on after a broken invariant, and list all that break")
	flagStuck = flag.Duration("sim.stuck", 15*time.Minute, "how long a seed may take, of the real clock")
	flagLimit = flag.Duration("sim.for", 0, "end after this time, of the real clock; no limit by default")
)

func TestMain(m *testing.M) {
	// One goroutine runs at a time, and is not cut off in between: what happens
	// between two await points is then the same every time.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	runtime.MemProfileRate = 0
	flag.Parse()
	os.Exit(m.Run())
}

// outcome is what a seed came to.
type outcome struct {
	broken  *violation
	hash    uint64
	steps   int
	virtual time.Duration
	all     []*violation
}

// simulate lives one world through: trouble, then quiet, then equality.
func simulate(t *testing.T, seed uint64, p plan, actions []action, trace func(string)) (out outcome) {
	t.Helper()
	// Memory is collected between lives alone, so that the collector's goroutines take
	// part in none; twice, so that no sync.Pool has anything left of the life before: to
	// make it anew draws from the runtime's chance.
	runtime.GC()
	runtime.GC()
	cryptotest.SetGlobalRandom(t, seed)
	if _, err := template(); err != nil {
		t.Fatal(err)
	}
	// A mutex that is held at an await point would stand the clock still for ever.
	stuck := time.AfterFunc(*flagStuck, func() {
		buf := make([]byte, 1<<22)
		buf = buf[:runtime.Stack(buf, true)]
		fmt.Printf("seed %d does not get on: is a mutex held across a call?\n%s\n", seed, buf)
		os.Exit(3)
	})
	defer stuck.Stop()
	synctest.Test(t, func(t *testing.T) {
		seedRuntime(seed)
		time.Sleep(time.Until(time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)))
		w, err := newWorld(t, seed, p, trace)
		if err != nil {
			t.Fatal(err)
		}
		defer w.close()
		w.say("seed %d: %s", seed, p)
		w.script = script{begun: w.sched.begun, actions: actions}
		w.run(w.sched.begun.Add(p.busy), nil)
		w.quieten()
		rest := func() bool { return w.unequal() == "" }
		quiet := time.Now()
		w.run(quiet.Add(p.bound), rest)
		if w.broken == nil {
			if why := w.unequal(); why != "" {
				w.fail("I1", "%v after the last fault the mirror is not what Stripe is: %s", time.Since(quiet), why)
			}
		}
		if w.broken == nil {
			w.checkEnd()
		}
		out = outcome{w.broken, w.sched.hash, w.sched.steps, time.Since(w.sched.begun), w.all}
	})
	return out
}

// quieten ends all trouble.
func (w *world) quieten() {
	if w.broken != nil {
		return
	}
	w.say("quiet")
	w.over = true
	clear(w.windows)
	var rest []action
	for _, a := range w.script.actions {
		if a.op == opStart {
			rest = append(rest, a)
		}
	}
	w.script.actions = rest
	if err := w.stripe.SetFaults(nil); err != nil {
		w.fail("simulator", "%v", err)
	}
	if len(w.living()) == 0 && len(rest) == 0 {
		w.start(0)
	}
}

func parseFeatures(t testing.TB, list string) (out feature) {
	t.Helper()
	for name := range strings.SplitSeq(list, ",") {
		if name == "" {
			continue
		}
		found := false
		for i, n := range featureNames {
			if n == name {
				out |= 1 << i
				found = true
			}
		}
		if !found {
			t.Fatalf("%q is no feature; there are %s", name, strings.Join(featureNames, ", "))
		}
	}
	return out
}

// scriptOf is a seed's plan and actions, as the flags leave them.
func scriptOf(t testing.TB, seed uint64) (plan, []action) {
	t.Helper()
	p, all := writeScript(seed, parseFeatures(t, *flagForce), parseFeatures(t, *flagBan))
	if *flagKeep == "" {
		return p, all
	}
	var kept []action
	for text := range strings.SplitSeq(*flagKeep, ",") {
		i, err := strconv.Atoi(text)
		if err != nil || i < 0 || i >= len(all) {
			t.Fatalf("-sim.keep: %q is no number of an action; there are %d", text, len(all))
		}
		kept = append(kept, all[i])
	}
	return p, kept
}

// shrinkRuns bounds how many lives a failing seed is lived again to find which actions
// it takes.
const shrinkRuns = 80

// shrink finds few of a script's actions that break the same rule: first the shortest
// beginning, then without what is not needed.
func shrink(t *testing.T, seed uint64, p plan, actions []action, rule string) []int {
	t.Helper()
	runs := 0
	breaks := func(keep []int) bool {
		if runs++; runs > shrinkRuns {
			return false
		}
		some := make([]action, len(keep))
		for i, n := range keep {
			some[i] = actions[n]
		}
		out := simulate(t, seed, p, some, nil)
		return out.broken != nil && out.broken.rule == rule
	}
	kept := make([]int, len(actions))
	for i := range kept {
		kept[i] = i
	}
	return fewer(kept, breaks)
}

// fewer leaves out of a list what breaks does not need.
func fewer(kept []int, breaks func(keep []int) bool) []int {
	for low, high := 0, len(kept); low < high; {
		middle := (low + high) / 2
		if breaks(kept[:middle]) {
			kept, high = kept[:middle], middle
		} else {
			low = middle + 1
		}
	}
	for size := max(len(kept)/2, 1); ; size /= 2 {
		for i := 0; i < len(kept); {
			without := append(slices.Clone(kept[:i]), kept[min(i+size, len(kept)):]...)
			if breaks(without) {
				kept = without
			} else {
				i += size
			}
		}
		if size <= 1 {
			return kept
		}
	}
}

func numbers(kept []int) string {
	texts := make([]string, len(kept))
	for i, n := range kept {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ",")
}

func told(actions []action, kept []int) string {
	lines := make([]string, len(kept))
	for i, n := range kept {
		lines[i] = "  " + actions[n].String()
	}
	return strings.Join(lines, "\n")
}

func TestFewer(t *testing.T) {
	t.Parallel()
	all := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	for _, need := range [][]int{{}, {0}, {12}, {3}, {2, 9}, {0, 5, 6, 12}, all} {
		got := fewer(slices.Clone(all), func(keep []int) bool {
			return !slices.ContainsFunc(need, func(n int) bool { return !slices.Contains(keep, n) })
		})
		if !slices.Equal(got, need) {
			t.Errorf("%v are left where %v are needed", got, need)
		}
	}
}

func TestReplay(t *testing.T) {
	if *flagSeed == 0 {
		t.Skip("give -sim.seed to replay one")
	}
	p, actions := scriptOf(t, *flagSeed)
	out := simulate(t, *flagSeed, p, actions, func(line string) { fmt.Println(line) })
	t.Logf("%d steps, %v, trace %016x", out.steps, out.virtual, out.hash)
	if out.broken != nil {
		t.Error(out.broken)
	}
}

// kept returns the lines of a trace and what keeps them, where traces are compared.
func kept() (lines *[]string, keep func(string)) {
	lines = new([]string)
	if *flagTwice {
		keep = func(line string) { *lines = append(*lines, line) }
	}
	return lines, keep
}

// parting tells where two traces part.
func parting(first, second []string) string {
	n := 0
	for n < len(first) && n < len(second) && first[n] == second[n] {
		n++
	}
	tell := func(lines []string) string {
		return strings.Join(lines[min(n, len(lines)):min(n+3, len(lines))], "\n  ")
	}
	return fmt.Sprintf("; after %d lines alike, up to\n  %s\nthey go on with\n  %s\nand with\n  %s", n, strings.Join(first[max(n-5, 0):n], "\n  "), tell(first), tell(second))
}

func TestSeeds(t *testing.T) {
	if *flagSeeds == 0 {
		t.Skip("make simulate runs seeds")
	}
	began := time.Now()
	var virtual time.Duration
	if !seedRuntime(1) {
		t.Skip("the Go runtime's own chance is not seeded in this build; make simulate builds one where it is")
	}
	failed, ran := 0, 0
	for i := range *flagSeeds {
		if *flagLimit > 0 && time.Since(began) > *flagLimit {
			break
		}
		seed := *flagFirst + i**flagStep
		ran++
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			p, actions := scriptOf(t, seed)
			first, keep := kept()
			out := simulate(t, seed, p, slices.Clone(actions), keep)
			virtual += out.virtual
			if *flagTwice {
				second, keep := kept()
				if again := simulate(t, seed, p, slices.Clone(actions), keep); again.hash != out.hash {
					t.Errorf("I17: the trace of seed %d is %016x and then %016x%s", seed, out.hash, again.hash, parting(*first, *second))
				}
			}
			if *flagAll {
				for _, v := range out.all {
					fmt.Printf("BROKEN %d %s\n", seed, v)
				}
				return
			}
			if out.broken != nil {
				failed++
				kept := shrink(t, seed, p, actions, out.broken.rule)
				t.Errorf("%s\n%s\n%d of %d actions are enough:\n%s\nreplay: make simulate SEED=%d KEEP=%s", out.broken, p, len(kept), len(actions),
					told(actions, kept), seed, numbers(kept))
			}
		})
	}
	took := time.Since(began)
	fmt.Printf("%d seeds, %d failed, in %v: %.0f seeds and %.1f virtual hours an hour\n", ran, failed, took.Round(time.Millisecond),
		float64(ran)/took.Hours(), virtual.Hours()/took.Hours())
}
