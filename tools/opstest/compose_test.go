package opstest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"sigs.k8s.io/yaml"

	"github.com/creditmirror/creditmirror/config"
)

// project loads compose.yaml as docker compose does: strictly, by its schema, with
// what depends on what resolved.
func project(t *testing.T) *types.Project {
	t.Helper()
	dir, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: "compose.yaml", Content: []byte(read(t, "compose.yaml"))}},
		Environment: types.Mapping{},
	}, func(o *loader.Options) { o.Profiles = []string{"*"} })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCompose(t *testing.T) {
	t.Parallel()
	p := project(t)
	for _, want := range []string{"creditmirror", "demo", "sim", "demo-endpoint", "postgres", "redis", "prometheus", "grafana"} {
		if _, ok := p.Services[want]; !ok {
			t.Errorf("there is no service %s", want)
		}
	}
	for name, s := range p.Services {
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("%s mounts what is not there: %v", name, err)
				}
			}
		}
		if s.Build != nil && (!s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"})) {
			t.Errorf("%s may do more than it needs", name)
		}
	}
	redis := strings.Join(p.Services["redis"].Command, " ")
	for _, want := range []string{"--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"} {
		if !strings.Contains(redis, want) {
			t.Errorf("redis runs without %s: %s", want, redis)
		}
	}
}

// defaultRoles are those that serve runs in this environment where it is given none.
func defaultRoles(t *testing.T, environ []string) []config.Role {
	t.Helper()
	c, err := config.Load(environ)
	if err != nil {
		t.Errorf("%v", err)
	}
	return c.DefaultRoles()
}

// The services would start: every variable exists, what is required is set.
func TestComposeFitsTheProgram(t *testing.T) {
	t.Parallel()
	p := project(t)
	secrets := t.TempDir()
	for name, content := range samples {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(secrets, "webhook-secret"), []byte("whsec_x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"creditmirror", "demo"} {
		environ := []string{"CREDITMIRROR_OPS_ADDR=:9090"} // the image's
		for key, value := range p.Services[name].Environment {
			v := strings.NewReplacer("/run/secrets", secrets, "/data", secrets).Replace(*value)
			environ = append(environ, key+"="+v)
		}
		if _, err := config.LoadFor(environ, defaultRoles(t, environ)); err != nil {
			t.Errorf("%s would not start: %v", name, err)
		}
		for _, s := range p.Services[name].Secrets {
			if _, ok := p.Secrets[s.Source]; !ok {
				t.Errorf("%s: no secret %s", name, s.Source)
			}
		}
	}
}

// Grafana finds its dashboards and Prometheus where the compose file puts them, and
// Prometheus scrapes services that exist.
func TestComposeProvisioning(t *testing.T) {
	t.Parallel()
	p := project(t)
	var sources struct {
		Datasources []struct{ Name, UID, Type, URL string }
	}
	if err := yaml.Unmarshal([]byte(read(t, "deploy/compose/grafana/datasources/prometheus.yaml")), &sources); err != nil {
		t.Fatal(err)
	}
	if len(sources.Datasources) != 1 || sources.Datasources[0].URL != "http://prometheus:9090" {
		t.Errorf("%+v", sources)
	}
	var providers struct {
		Providers []struct{ Options struct{ Path string } }
	}
	if err := yaml.Unmarshal([]byte(read(t, "deploy/compose/grafana/dashboards/creditmirror.yaml")), &providers); err != nil {
		t.Fatal(err)
	}
	mounted := false
	for _, v := range p.Services["grafana"].Volumes {
		mounted = mounted || v.Target == providers.Providers[0].Options.Path && strings.HasSuffix(v.Source, "k8s/monitoring/dashboards")
	}
	if !mounted {
		t.Error("the dashboards are not where Grafana looks for them")
	}
	scraped := read(t, "deploy/compose/prometheus.yml")
	for _, name := range []string{"creditmirror", "demo"} {
		if !strings.Contains(scraped, "names: ["+name+"]") {
			t.Errorf("%s is not scraped", name)
		}
	}
}

// Prometheus itself takes its configuration.
func TestComposePrometheus(t *testing.T) {
	t.Parallel()
	promtool := service(t, "promtool")
	dir := t.TempDir()
	text := strings.ReplaceAll(read(t, "deploy/compose/prometheus.yml"), "/etc/prometheus/", dir+"/")
	for name, content := range map[string]string{"prometheus.yml": text, "rules.yaml": read(t, "k8s/monitoring/rules.yaml")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := command(t, promtool, "check", "config", filepath.Join(dir, "prometheus.yml")); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
