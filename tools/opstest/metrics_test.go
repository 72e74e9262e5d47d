package opstest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/creditmirror/creditmirror/app"
	"github.com/creditmirror/creditmirror/config"
)

// root is the folder of the repository.
const root = "../.."

func read(t testing.TB, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{root}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// targetLabels are put on by whoever scrapes.
var targetLabels = []string{"namespace", "job", "instance", "pod"}

// metrics are the labels of every metric that a process with all roles has.
func metrics(t testing.TB) map[string][]string {
	t.Helper()
	environ := []string{
		"STRIPE_API_KEY=sk_test_x", "STRIPE_WEBHOOK_SECRET=whsec_x", "STRIPE_API_BASE=http://127.0.0.1:1",
		"CREDITMIRROR_DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "mirror.db"),
		"CREDITMIRROR_EXPORT_URL=" + filepath.Join(t.TempDir(), "export"),
		"CREDITMIRROR_WEBHOOK_ADDR=127.0.0.1:0", "CREDITMIRROR_API_ADDR=127.0.0.1:0", "CREDITMIRROR_OPS_ADDR=127.0.0.1:0",
	}
	cfg, err := config.LoadFor(environ, config.AllRoles())
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	a, err := app.New(t.Context(), app.Options{Config: cfg, Roles: config.AllRoles(), Registry: registry, Build: app.ReadBuild()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, a) })
	descs := make(chan *prometheus.Desc, 1000)
	registry.Describe(descs)
	close(descs)
	all := map[string][]string{}
	for d := range descs {
		m := descText.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("a description of another form: %s", d)
		}
		list := []string{}
		for _, l := range strings.Split(m[2]+","+m[3], ",") {
			if name, _, _ := strings.Cut(l, "="); name != "" {
				list = append(list, name)
			}
		}
		all[m[1]] = list
	}
	if len(all) < 30 {
		t.Fatalf("only %d metrics: %v", len(all), all)
	}
	return all
}

// descText takes the printed form of a description apart: client_golang has no
// other way to ask for the names of labels of a metric without series.
var descText = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: ".*", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// goSource is the program's code without its tests.
var goSource = sync.OnceValue(func() string {
	var b strings.Builder
	_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b.Write(text)
		}
		return err
	})
	return b.String()
})

// checker holds queries against what the program exports and rules record.
type checker struct {
	metrics map[string][]string
	// records are the names of recording rules.
	records map[string]bool
}

func newChecker(t testing.TB) checker {
	t.Helper()
	c := checker{metrics: metrics(t), records: map[string]bool{}}
	for _, g := range rules(t).Groups {
		for _, r := range g.Rules {
			if r.Record != "" {
				c.records[r.Record] = true
			}
		}
	}
	return c
}

// labelsOf are the labels of a metric or record; false where there is none.
func (c checker) labelsOf(name string) ([]string, bool) {
	if c.records[name] {
		level, _, _ := strings.Cut(name, ":")
		return strings.Split(level, "_"), true
	}
	if own, ok := c.metrics[name]; ok {
		return append(slices.Clone(own), targetLabels...), true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		base, cut := strings.CutSuffix(name, suffix)
		own, ok := c.metrics[base]
		if cut && ok {
			own = append(slices.Clone(own), targetLabels...)
			if suffix == "_bucket" {
				own = append(own, "le")
			}
			return own, true
		}
	}
	return nil, false
}

// literal splits a matcher's value into the words that it stands for.
var wordy = regexp.MustCompile(`^[a-z0-9_]+(\|[a-z0-9_]+)*$`)

// query checks that a query parses, and that everything it names exists.
func (c checker) query(t testing.TB, where, query string) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %v\n%s", where, err, query)
		return
	}
	selectors := func(n parser.Node) (list []*parser.VectorSelector) {
		parser.Inspect(n, func(n parser.Node, _ []parser.Node) error {
			if s, ok := n.(*parser.VectorSelector); ok {
				list = append(list, s)
			}
			return nil
		})
		return list
	}
	for _, s := range selectors(expr) {
		known, ok := c.labelsOf(s.Name)
		if !ok && s.Name != "up" && !strings.HasPrefix(s.Name, "go_") && !strings.HasPrefix(s.Name, "process_") {
			t.Errorf("%s: there is no metric %q", where, s.Name)
			continue
		}
		for _, m := range s.LabelMatchers {
			switch {
			case m.Name == model.MetricNameLabel:
			case ok && !slices.Contains(known, m.Name):
				t.Errorf("%s: %s has no label %q, only %v", where, s.Name, m.Name, known)
			case m.Name != "code" && wordy.MatchString(m.Value):
				for word := range strings.SplitSeq(m.Value, "|") {
					if !strings.Contains(goSource(), `"`+word+`"`) {
						t.Errorf("%s: %s{%s} never has the value %q", where, s.Name, m.Name, word)
					}
				}
			}
		}
	}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		var grouping []string
		switch n := n.(type) {
		case *parser.AggregateExpr:
			grouping = n.Grouping
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				grouping = n.VectorMatching.MatchingLabels
			}
		}
		for _, label := range grouping {
			for _, s := range selectors(n) {
				if known, ok := c.labelsOf(s.Name); ok && !slices.Contains(known, label) {
					t.Errorf("%s: grouped by %q, which %s does not have", where, label, s.Name)
				}
			}
		}
		return nil
	})
}

// stop closes an App that has never run: a run that is stopped at once.
func stop(t testing.TB, a *app.App) {
	ctx, cancel := contextCanceled()
	defer cancel()
	if err := a.Run(ctx); err != nil {
		t.Error(err)
	}
}
