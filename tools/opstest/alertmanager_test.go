package opstest

import (
	"slices"
	"testing"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/common/model"
)

// Alertmanager takes the example, every alert goes where its severity says, and what
// it inhibits exists and is never critical news of its own kind.
func TestAlertmanagerExample(t *testing.T) {
	t.Parallel()
	c, err := config.Load(read(t, "k8s/monitoring/alertmanager.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	route := dispatch.NewRoute(c.Route, nil)
	known := map[string]bool{}
	for _, a := range alerts(t) {
		known[a.Alert] = true
		set := model.LabelSet{"alertname": model.LabelValue(a.Alert), "severity": model.LabelValue(a.Labels["severity"]), "namespace": "m"}
		want := map[string]string{"critical": "oncall", "warning": "chat"}[a.Labels["severity"]]
		for _, r := range route.Match(set) {
			if r.RouteOpts.Receiver != want {
				t.Errorf("%s (%s) goes to %s, want %s", a.Alert, a.Labels["severity"], r.RouteOpts.Receiver, want)
			}
		}
	}
	if len(c.InhibitRules) < 5 {
		t.Fatalf("only %d inhibitions", len(c.InhibitRules))
	}
	matching := func(m []*labels.Matcher) (names []string) {
		for _, matcher := range m {
			for name := range known {
				if matcher.Name == "alertname" && matcher.Matches(name) {
					names = append(names, name)
				}
			}
		}
		slices.Sort(names)
		return names
	}
	for i, r := range c.InhibitRules {
		source, target := matching(r.SourceMatchers), matching(r.TargetMatchers)
		if len(source) == 0 || len(target) == 0 {
			t.Errorf("inhibition %d: from %v to %v: no such alerts", i, source, target)
		}
		for _, name := range target {
			if slices.Contains(source, name) {
				t.Errorf("inhibition %d: %s silences itself", i, name)
			}
		}
	}
}
