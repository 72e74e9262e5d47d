package opstest

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write generated files anew")

func contextCanceled() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx, cancel
}

// ruleFile is Prometheus' form of rules.
type ruleFile struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	} `json:"groups"`
}

type rule struct {
	Record      string            `json:"record,omitempty"`
	Alert       string            `json:"alert,omitempty"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func rules(t testing.TB) ruleFile {
	t.Helper()
	var f ruleFile
	if err := yaml.UnmarshalStrict([]byte(read(t, "k8s/monitoring/rules.yaml")), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func alerts(t testing.TB) (list []rule) {
	t.Helper()
	for _, g := range rules(t).Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				list = append(list, r)
			}
		}
	}
	if len(list) < 20 {
		t.Fatalf("only %d alerts", len(list))
	}
	return list
}

func TestRulesNameWhatExists(t *testing.T) {
	c := newChecker(t)
	for _, g := range rules(t).Groups {
		for _, r := range g.Rules {
			c.query(t, "rule "+r.Alert+r.Record, r.Expr)
		}
	}
}

// An alert without a page is a riddle at night; a page without an alert is dust.
func TestEveryAlertHasARunbook(t *testing.T) {
	t.Parallel()
	pages := map[string]bool{}
	for _, a := range alerts(t) {
		page := "docs/runbooks/" + a.Alert + ".md"
		pages[a.Alert+".md"] = true
		if want := "https://github.com/creditmirror/creditmirror/blob/main/" + page; a.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url is %q, want %q", a.Alert, a.Annotations["runbook_url"], want)
		}
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" || !slices.Contains([]string{"critical", "warning"}, a.Labels["severity"]) {
			t.Errorf("%s: wants summary, description and severity critical or warning: %v", a.Alert, a)
		}
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, part := range []string{"# " + a.Alert + "\n", "Severity: " + a.Labels["severity"] + ".\n", "\n## What it means\n", "\n## How to see it\n", "\n## What to do\n"} {
			if !strings.Contains(string(text), part) {
				t.Errorf("%s: has no %q", page, strings.TrimSpace(part))
			}
		}
	}
	entries, err := os.ReadDir(filepath.Join(root, "docs/runbooks"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !pages[e.Name()] && e.Name() != "README.md" {
			t.Errorf("docs/runbooks/%s belongs to no alert", e.Name())
		}
	}
}

var (
	metricName = regexp.MustCompile(`(?:^|[^:a-z_])(creditmirror_[a-z0-9_]+)\b`)
	pageLink   = regexp.MustCompile(`\]\(([^):#]+\.md)(#[^)]*)?\)`)
)

// notMetrics are the names of a metric's form that stand for something else, by the
// one page that may use them so; text is where that page says what the name is.
var notMetrics = map[string]struct{ page, text string }{
	"creditmirror_reader": {"sql.md", "CREATE ROLE creditmirror_reader "},
	"creditmirror_serve":  {"security.md", "CREATE ROLE creditmirror_serve "},
	"creditmirror_read":   {"security.md", "CREATE ROLE creditmirror_read "},
	"creditmirror_export": {"warehouse.md", "tables in schema `creditmirror_export`"},
}

// What a page says to type must exist, and its links must lead somewhere.
func TestRunbooksNameWhatExists(t *testing.T) {
	c := newChecker(t)
	for name, other := range notMetrics {
		if _, metric := c.labelsOf(name); metric || !strings.Contains(read(t, "docs", other.page), other.text) {
			t.Errorf("%s is a metric now, or docs/%s no longer has %q: mend notMetrics", name, other.page, other.text)
		}
	}
	files, err := filepath.Glob(filepath.Join(root, "docs/runbooks/*.md"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	more, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, more...) {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range metricName.FindAllStringSubmatch(string(text), -1) {
			if _, ok := c.labelsOf(m[1]); !ok && notMetrics[m[1]].page != filepath.Base(f) {
				t.Errorf("%s names the metric %s, which there is not", filepath.Base(f), m[1])
			}
		}
		for _, record := range regexp.MustCompile(`\bnamespace[a-z_]*:creditmirror_[a-z_]+:[a-z0-9_]+`).FindAllString(string(text), -1) {
			if !c.records[record] {
				t.Errorf("%s names the record %s, which there is not", filepath.Base(f), record)
			}
		}
		for _, m := range pageLink.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(f), m[1])); err != nil {
				t.Errorf("%s: a link leads nowhere: %v", filepath.Base(f), err)
			}
		}
	}
}

// The table of metrics in docs/operations.md is the whole list, no more and no less.
func TestEveryMetricIsDocumented(t *testing.T) {
	all := metrics(t)
	text := read(t, "docs/operations.md")
	_, table, _ := strings.Cut(text, "\n## Metrics\n")
	table, _, _ = strings.Cut(table, "\n## ")
	told := map[string]bool{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for _, m := range regexp.MustCompile("`([a-z0-9_]+)`").FindAllStringSubmatch(cells[1], -1) {
			told["creditmirror_"+m[1]] = true
		}
	}
	for name := range all {
		if !told[name] {
			t.Errorf("docs/operations.md does not name %s", name)
		}
	}
	for name := range told {
		if _, ok := all[name]; !ok {
			t.Errorf("docs/operations.md tells of %s, which there is not", name)
		}
	}
}

func TestEveryAlertIsTestedBothWays(t *testing.T) {
	t.Parallel()
	text := read(t, "k8s/monitoring/rules_test.yaml")
	for _, a := range alerts(t) {
		for _, way := range []string{" fires", " stays silent"} {
			if !strings.Contains(text, "name: '"+a.Alert+way) {
				t.Errorf("rules_test.yaml has no test that %s%s", a.Alert, way)
			}
		}
	}
}

// service finds a program that tests start; without it they are skipped, or fail
// where the services are required.
func service(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CREDITMIRROR_REQUIRE_SERVICES") != "" {
			t.Fatalf("CREDITMIRROR_REQUIRE_SERVICES is set and %v", err)
		}
		t.Skipf("%v (Debian's package prometheus has prometheus and promtool)", err)
	}
	return path
}

func TestPromtool(t *testing.T) {
	t.Parallel()
	promtool := service(t, "promtool")
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "rules.yaml"},
		{"test", "rules", "rules_test.yaml"},
	} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = filepath.Join(root, "k8s/monitoring")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// The operator's object holds exactly the rules of the file.
func TestPrometheusRuleIsTheRules(t *testing.T) {
	t.Parallel()
	path := filepath.Join(root, "k8s/monitoring/prometheusrule.yaml")
	if *update {
		if err := os.WriteFile(path, prometheusRule(t), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var held struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   map[string]any `json:"metadata"`
		Spec       ruleFile       `json:"spec"`
	}
	if err := yaml.UnmarshalStrict([]byte(read(t, "k8s/monitoring/prometheusrule.yaml")), &held); err != nil {
		t.Fatal(err)
	}
	if held.Kind != "PrometheusRule" || !reflect.DeepEqual(held.Spec, rules(t)) {
		t.Error("k8s/monitoring/prometheusrule.yaml is not what rules.yaml says: run make rules")
	}
}

func prometheusRule(t testing.TB) []byte {
	var b bytes.Buffer
	b.WriteString("# Made from rules.yaml by `make rules`; change that.\n" +
		"apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: creditmirror\nspec:\n")
	text, err := yaml.Marshal(rules(t))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		b.WriteString("  " + line)
	}
	return b.Bytes()
}

func command(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	return string(out), err
}
