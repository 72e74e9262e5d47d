package opstest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dashboard is what the tests look at of Grafana's JSON.
type dashboard struct {
	UID, Title string
	Panels     []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ H, W, X, Y int }
		Targets []struct {
			Expr         string
			RefID        string
			LegendFormat string
		}
	}
	Templating struct{ List []struct{ Name, Type string } }
}

func dashboards(t testing.TB) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "k8s/monitoring/dashboards/*.json"))
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	all := map[string]dashboard{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatal(f, err)
		}
		all[filepath.Base(f)] = d
	}
	return all
}

// expand puts values in the place of Grafana's variables.
func expand(expr, namespace, interval string) string {
	return strings.NewReplacer("$__rate_interval", interval, "$namespace", namespace).Replace(expr)
}

func TestDashboardsNameWhatExists(t *testing.T) {
	c := newChecker(t)
	shown := map[string]bool{}
	for file, d := range dashboards(t) {
		ids, spots := map[int]bool{}, map[[2]int]string{}
		queries := 0
		for _, p := range d.Panels {
			if ids[p.ID] {
				t.Errorf("%s: two panels have id %d", file, p.ID)
			}
			ids[p.ID] = true
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if over := spots[[2]int{x, y}]; over != "" || x > 23 {
						t.Errorf("%s: %q lies over %q or beyond the edge", file, p.Title, over)
					}
					spots[[2]int{x, y}] = p.Title
				}
			}
			if p.Type != "row" && len(p.Targets) == 0 {
				t.Errorf("%s: %q asks nothing", file, p.Title)
			}
			for _, target := range p.Targets {
				queries++
				c.query(t, file+" "+p.Title, expand(target.Expr, ".*", "1m"))
				for name := range c.metrics {
					if strings.Contains(target.Expr, name) {
						shown[name] = true
					}
				}
				if !strings.Contains(target.Expr, "$namespace") {
					t.Errorf("%s: %q does not keep to the namespace chosen", file, p.Title)
				}
			}
		}
		if queries < 15 {
			t.Errorf("%s: only %d queries", file, queries)
		}
	}
	for name := range c.metrics {
		if !shown[name] && strings.HasPrefix(name, "creditmirror_") {
			t.Errorf("no dashboard shows %s", name)
		}
	}
}
