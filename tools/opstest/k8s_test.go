package opstest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/creditmirror/creditmirror/config"
)

var overlays = []string{"k8s/overlays/embedded", "k8s/overlays/production", "k8s/overlays/autoscale", "k8s/monitoring"}

// object is one rendered manifest.
type object struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	text              []byte
	typed             any
}

func (o object) String() string { return o.Kind + "/" + o.Name }

// render is what kubectl apply -k would send.
func render(t testing.TB, folder string) []object {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(root, folder))
	if err != nil {
		t.Fatalf("%s: %v", folder, err)
	}
	var list []object
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		o := object{text: text}
		if err := yaml.Unmarshal(text, &o); err != nil {
			t.Fatal(err)
		}
		list = append(list, o)
	}
	if len(list) == 0 {
		t.Fatalf("%s renders nothing", folder)
	}
	return list
}

// scaledObject is what we use of KEDA's type; its definition is checked in full by
// the CRD's schema. KEDA's own Go package would bring in half a cluster.
type scaledObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ScaleTargetRef struct {
			Name string `json:"name"`
		} `json:"scaleTargetRef"`
		MinReplicaCount, MaxReplicaCount, PollingInterval, CooldownPeriod int
		Fallback                                                          struct{ FailureThreshold, Replicas int }
		Triggers                                                          []struct {
			Type       string            `json:"type"`
			MetricType string            `json:"metricType"`
			Metadata   map[string]string `json:"metadata"`
		} `json:"triggers"`
	} `json:"spec"`
}

func newTyped(t testing.TB, o object) any {
	t.Helper()
	switch o.APIVersion + " " + o.Kind {
	case "v1 Namespace":
		return &corev1.Namespace{}
	case "v1 ServiceAccount":
		return &corev1.ServiceAccount{}
	case "v1 Service":
		return &corev1.Service{}
	case "v1 PersistentVolumeClaim":
		return &corev1.PersistentVolumeClaim{}
	case "v1 ConfigMap":
		return &corev1.ConfigMap{}
	case "apps/v1 Deployment":
		return &appsv1.Deployment{}
	case "batch/v1 Job":
		return &batchv1.Job{}
	case "policy/v1 PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}
	case "autoscaling/v2 HorizontalPodAutoscaler":
		return &autoscalingv2.HorizontalPodAutoscaler{}
	case "networking.k8s.io/v1 NetworkPolicy":
		return &networkingv1.NetworkPolicy{}
	case "monitoring.coreos.com/v1 ServiceMonitor":
		return &monitoringv1.ServiceMonitor{}
	case "monitoring.coreos.com/v1 PrometheusRule":
		return &monitoringv1.PrometheusRule{}
	case "keda.sh/v1alpha1 ScaledObject":
		return &scaledObject{}
	}
	t.Fatalf("%s: a kind that this test does not know: add it", o)
	return nil
}

// load renders an overlay and decodes every object strictly.
func load(t testing.TB, folder string) []object {
	t.Helper()
	list := render(t, folder)
	for i, o := range list {
		list[i].typed = newTyped(t, o)
		if err := yaml.UnmarshalStrict(o.text, list[i].typed, yaml.DisallowUnknownFields); err != nil {
			t.Fatalf("%s %s: %v", folder, o, err)
		}
	}
	return list
}

func each[T any](list []object, do func(name string, o *T)) (n int) {
	for _, o := range list {
		if typed, ok := o.typed.(*T); ok {
			n++
			do(o.String(), typed)
		}
	}
	return n
}

// Every object fits Kubernetes' own schema (the one by which the API server merges,
// of the same version as the types), and custom resources that of their definition.
func TestManifestsFitTheSchema(t *testing.T) {
	t.Parallel()
	converter := applyconfigurations.NewTypeConverter(scheme.Scheme)
	for _, folder := range overlays {
		for _, o := range load(t, folder) {
			switch typed := o.typed.(type) {
			case *scaledObject:
				var crd, value map[string]any
				if err := yaml.Unmarshal([]byte(read(t, "tools/opstest/testdata/crd_scaledobjects_keda_v2.21.0.yaml")), &crd); err != nil {
					t.Fatal(err)
				}
				version := crd["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)
				if err := yaml.Unmarshal(o.text, &value); err != nil {
					t.Fatal(err)
				}
				fits(t, o.String(), version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any), value)
			case runtime.Object:
				if strings.Contains(o.APIVersion, "coreos.com") {
					continue // strictly decoded into its own types above
				}
				if _, err := converter.ObjectToTyped(typed); err != nil {
					t.Errorf("%s %s: %v", folder, o, err)
				}
			}
		}
	}
}

// fits checks a value against a definition's schema: no unknown field, no wrong type,
// nothing required missing, no value outside of its enumeration.
func fits(t *testing.T, where string, schema map[string]any, value any) {
	t.Helper()
	switch v := value.(type) {
	case map[string]any:
		properties, _ := schema["properties"].(map[string]any)
		extra, _ := schema["additionalProperties"].(map[string]any)
		for key, inner := range v {
			s, ok := properties[key].(map[string]any)
			switch {
			case ok:
				fits(t, where+"."+key, s, inner)
			case extra != nil:
				fits(t, where+"."+key, extra, inner)
			case properties != nil:
				t.Errorf("%s: no field %q", where, key)
			}
		}
		required, _ := schema["required"].([]any)
		for _, key := range required {
			if _, ok := v[key.(string)]; !ok {
				t.Errorf("%s: %q is required", where, key)
			}
		}
	case []any:
		items, _ := schema["items"].(map[string]any)
		for i, inner := range v {
			fits(t, fmt.Sprintf("%s[%d]", where, i), items, inner)
		}
	default:
		want := map[string]string{"string": "string", "integer": "float64", "number": "float64", "boolean": "bool"}[fmt.Sprint(schema["type"])]
		if got := reflect.TypeOf(value).String(); want != "" && got != want && got != "int64" {
			t.Errorf("%s: is %s, want %s", where, got, want)
		}
		if enum, ok := schema["enum"].([]any); ok && !slices.Contains(enum, value) {
			t.Errorf("%s: %v is none of %v", where, value, enum)
		}
	}
}

// podOf is the pod template of a workload.
func podsOf(list []object) map[string]corev1.PodTemplateSpec {
	pods := map[string]corev1.PodTemplateSpec{}
	each(list, func(name string, d *appsv1.Deployment) { pods[name] = d.Spec.Template })
	each(list, func(name string, j *batchv1.Job) { pods[name] = j.Spec.Template })
	return pods
}

// binary is the program, built once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "creditmirror-opstest-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "creditmirror")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/creditmirror")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func program(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// samples are contents of the keys of the secret.
var samples = map[string]string{
	"stripe-api-key": "rk_live_sample", "stripe-webhook-secret": "whsec_sample", "api-keys": "read:0123456789abcdef0123",
	"database-url": "postgres://creditmirror:x@postgres:5432/creditmirror", "redis-url": "rediss://redis:6379/0",
}

// foreign are variables of other parties that the program's libraries read.
var foreign = []string{"GOMEMLIMIT", "HTTPS_PROXY"}

// environOf is what a container's process would find, with its secret files in a
// folder of the test's own.
func environOf(t *testing.T, name string, pod corev1.PodSpec, c corev1.Container) []string {
	t.Helper()
	files := map[string]string{} // path in the container → content
	for _, m := range c.VolumeMounts {
		for _, v := range pod.Volumes {
			if v.Name != m.Name || v.Secret == nil {
				continue
			}
			if len(v.Secret.Items) == 0 {
				t.Errorf("%s mounts the whole secret; name the keys it needs", name)
			}
			for _, item := range v.Secret.Items {
				content, ok := samples[item.Key]
				if !ok {
					t.Errorf("%s: the secret has no key %q", name, item.Key)
				}
				files[filepath.Join(m.MountPath, item.Path)] = content
			}
		}
	}
	var environ []string
	used := map[string]bool{}
	for _, e := range c.Env {
		switch {
		case slices.Contains(foreign, e.Name):
			continue
		case strings.HasSuffix(e.Name, "_FILE"):
			content, ok := files[e.Value]
			if !ok {
				t.Errorf("%s: %s names %s, which is not mounted", name, e.Name, e.Value)
				continue
			}
			used[e.Value] = true
			path := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			e.Value = path
		case strings.Contains(strings.ToUpper(e.Name), "SECRET"), strings.HasSuffix(e.Name, "_KEY"), strings.HasSuffix(e.Name, "_KEYS"):
			t.Errorf("%s: %s is a secret; give it by file", name, e.Name)
		}
		environ = append(environ, e.Name+"="+e.Value)
	}
	for path := range files {
		if !used[path] {
			t.Errorf("%s: %s is mounted and no variable names it", name, path)
		}
	}
	return environ
}

// What manifests name exists in the program, what the program requires is there.
func TestManifestsFitTheProgram(t *testing.T) {
	bin := program(t)
	for _, folder := range overlays[:3] {
		pods := podsOf(load(t, folder))
		if len(pods) == 0 {
			t.Fatalf("%s has no pods", folder)
		}
		for name, pod := range pods {
			name = folder + " " + name
			c := pod.Spec.Containers[0]
			// The command line is one that the program understands.
			if out, err := exec.CommandContext(t.Context(), bin, append(slices.Clone(c.Args), "--help")...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %v\n%s", name, c.Args, err, out)
			}
			environ := environOf(t, name, pod.Spec, c)
			if c.Args[0] == "migrate" {
				if _, err := config.Load(environ); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			roles := defaultRoles(t, environ)
			for _, a := range c.Args[1:] {
				if list, ok := strings.CutPrefix(a, "--roles="); ok {
					var err error
					if roles, err = config.ParseRoles(list); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			cfg, err := config.LoadFor(environ, roles)
			if err != nil {
				t.Errorf("%s would not start: %v", name, err)
				continue
			}
			fitsListeners(t, name, c, cfg, roles)
			// Nothing is set that is not needed: without any one variable of a secret the
			// process must miss it, or it is one that has a default on purpose.
			for i, kv := range environ {
				v, _, _ := strings.Cut(kv, "=")
				if v == "STRIPE_WEBHOOK_SECRET_FILE" || v == "STRIPE_API_KEY_FILE" || v == "CREDITMIRROR_API_KEYS_FILE" {
					if _, err := config.LoadFor(slices.Delete(slices.Clone(environ), i, i+1), roles); err == nil {
						t.Errorf("%s: has %s and does not need it", name, v)
					}
				}
			}
		}
	}
}

// fitsListeners holds ports and probes against the addresses that the roles listen on.
func fitsListeners(t *testing.T, name string, c corev1.Container, cfg config.Config, roles []config.Role) {
	t.Helper()
	want := map[string]string{"ops": cfg.OpsAddr}
	if slices.Contains(roles, config.RoleWebhook) {
		want["webhook"] = cfg.WebhookAddr
	}
	if slices.Contains(roles, config.RoleAPI) && !strings.HasPrefix(cfg.APIAddr, "127.") {
		want["api"] = cfg.APIAddr
	}
	for _, p := range c.Ports {
		if want[p.Name] != ":"+strconv.Itoa(int(p.ContainerPort)) {
			t.Errorf("%s: port %s is %d, the program listens on %q", name, p.Name, p.ContainerPort, want[p.Name])
		}
		delete(want, p.Name)
	}
	if len(want) > 0 {
		t.Errorf("%s: no port for %v", name, want)
	}
	probes := map[string]*corev1.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe}
	for path, p := range probes {
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path || p.HTTPGet.Port.StrVal != "ops" {
			t.Errorf("%s: no probe of %s on the ops port: %v", name, path, p)
		}
	}
	if c.StartupProbe == nil || c.StartupProbe.PeriodSeconds*c.StartupProbe.FailureThreshold < 300 {
		t.Errorf("%s: a migration needs minutes at the start", name)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if !strings.Contains(goSource(), `"GET `+path+`"`) {
			t.Errorf("the program does not serve %s", path)
		}
	}
}

// Pods keep to the restricted standard, and stop without dropping anything.
func TestPodsAreRestrictedAndDrain(t *testing.T) {
	t.Parallel()
	for _, folder := range overlays[:3] {
		list := load(t, folder)
		enforced := 0
		each(list, func(_ string, n *corev1.Namespace) {
			if n.Labels["pod-security.kubernetes.io/enforce"] == "restricted" {
				enforced++
			}
		})
		if enforced != 1 {
			t.Errorf("%s: no namespace that enforces the restricted standard", folder)
		}
		for name, pod := range podsOf(list) {
			name = folder + " " + name
			s, c := pod.Spec, pod.Spec.Containers[0]
			sc, pc := c.SecurityContext, s.SecurityContext
			if pc == nil || !*pc.RunAsNonRoot || *pc.RunAsUser == 0 || pc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault ||
				sc == nil || *sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem || !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) ||
				s.HostNetwork || s.HostPID || *s.AutomountServiceAccountToken || *s.EnableServiceLinks {
				t.Errorf("%s is not restricted: %+v %+v", name, pc, sc)
			}
			if c.Resources.Requests.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s: requests and a memory limit are missing", name)
			}
			if !strings.HasPrefix(c.Image, "ghcr.io/creditmirror/creditmirror") {
				t.Errorf("%s: image %q is not set by the overlay", name, c.Image)
			}
			if c.Args[0] == "migrate" {
				continue
			}
			// app.stopTimeout
			if c.Lifecycle == nil || c.Lifecycle.PreStop.Sleep == nil || *s.TerminationGracePeriodSeconds < c.Lifecycle.PreStop.Sleep.Seconds+25+5 {
				t.Errorf("%s does not drain: preStop and 25 s of stopping must fit into the grace period", name)
			}
		}
		each(list, func(name string, d *appsv1.Deployment) {
			if d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType && d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 {
				t.Errorf("%s %s: a rollout takes a pod away before the next is ready", folder, name)
			}
		})
	}
}

// Whatever selects pods, selects some; and what should not be selected is not.
func TestSelectorsFindTheirPods(t *testing.T) {
	t.Parallel()
	for _, folder := range overlays[:3] {
		list := load(t, folder)
		pods := podsOf(list)
		matching := func(s labels.Selector) (names []string) {
			for name, p := range pods {
				if s.Matches(labels.Set(p.Labels)) {
					names = append(names, name)
				}
			}
			slices.Sort(names)
			return names
		}
		of := func(name string, s *metav1.LabelSelector) []string {
			selector, err := metav1.LabelSelectorAsSelector(s)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return matching(selector)
		}
		deployments := map[string]*appsv1.Deployment{}
		each(list, func(name string, d *appsv1.Deployment) {
			deployments[d.Name] = d
			if got := of(name, d.Spec.Selector); !slices.Equal(got, []string{name}) {
				t.Errorf("%s %s selects the pods of %v", folder, name, got)
			}
			for _, c := range d.Spec.Template.Spec.TopologySpreadConstraints {
				if got := of(name, c.LabelSelector); !slices.Equal(got, []string{name}) {
					t.Errorf("%s %s spreads over the pods of %v", folder, name, got)
				}
			}
		})
		scraped := false
		each(list, func(name string, s *corev1.Service) {
			got := matching(labels.SelectorFromSet(s.Spec.Selector))
			if len(got) == 0 || slices.Contains(got, "Job/creditmirror-migrate") {
				t.Errorf("%s %s selects the pods of %v", folder, name, got)
			}
			for _, workload := range got {
				for _, p := range s.Spec.Ports {
					if !slices.ContainsFunc(pods[workload].Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool { return c.Name == p.TargetPort.StrVal }) {
						t.Errorf("%s %s: %s has no port %q", folder, name, workload, p.TargetPort.StrVal)
					}
				}
			}
			if s.Labels["creditmirror.dev/scrape"] == "true" {
				scraped = len(got) == len(deployments)
			}
		})
		if !scraped {
			t.Errorf("%s: no service lets Prometheus find every pod", folder)
		}
		each(list, func(name string, p *policyv1.PodDisruptionBudget) {
			if got := of(name, p.Spec.Selector); len(got) != 1 {
				t.Errorf("%s %s covers the pods of %v", folder, name, got)
			}
		})
		each(list, func(name string, h *autoscalingv2.HorizontalPodAutoscaler) {
			d := deployments[h.Spec.ScaleTargetRef.Name]
			if d == nil || d.Spec.Replicas != nil {
				t.Errorf("%s %s: scales no Deployment, or one that says how many itself", folder, name)
			}
		})
		each(list, func(name string, s *scaledObject) {
			d := deployments[s.Spec.ScaleTargetRef.Name]
			if d == nil || d.Spec.Replicas != nil {
				t.Errorf("%s %s: scales no Deployment, or one that says how many itself", folder, name)
			}
		})
	}
}

func TestAutoscalerAsksForWhatExists(t *testing.T) {
	c := newChecker(t)
	if each(load(t, "k8s/overlays/autoscale"), func(name string, s *scaledObject) {
		for _, trigger := range s.Spec.Triggers {
			c.query(t, name, trigger.Metadata["query"])
		}
	}) != 1 {
		t.Error("want one ScaledObject")
	}
}

// The ops port, with its profiles, is open to Prometheus alone; only those who call
// Stripe reach the Internet; nothing is left without a policy.
func TestNetworkPolicies(t *testing.T) {
	t.Parallel()
	for _, folder := range overlays[:3] {
		list := load(t, folder)
		for name, pod := range podsOf(list) {
			name = folder + " " + name
			ingress, egress, stripe := false, false, false
			opens := map[string][]string{} // port → labels of who may come
			each(list, func(policy string, p *networkingv1.NetworkPolicy) {
				selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
				if err != nil {
					t.Fatalf("%s: %v", policy, err)
				}
				if !selector.Matches(labels.Set(pod.Labels)) {
					return
				}
				ingress = ingress || slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
				egress = egress || slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
				for _, r := range p.Spec.Ingress {
					if len(r.From) == 0 || len(r.Ports) == 0 {
						t.Errorf("%s: %s lets everybody in", name, policy)
					}
					for _, port := range r.Ports {
						for _, from := range r.From {
							if n := from.NamespaceSelector; n == nil || len(n.MatchLabels)+len(n.MatchExpressions) == 0 {
								t.Errorf("%s: %s lets pods of any namespace in", name, policy)
							}
							opens[port.Port.String()] = append(opens[port.Port.String()], from.NamespaceSelector.String()+from.PodSelector.String())
						}
					}
				}
				for _, r := range p.Spec.Egress {
					for _, to := range r.To {
						if to.IPBlock != nil && to.IPBlock.CIDR == "0.0.0.0/0" {
							stripe = true
							if len(r.Ports) != 1 || r.Ports[0].Port.IntValue() != 443 || len(to.IPBlock.Except) < 5 {
								t.Errorf("%s: %s lets more out than HTTPS to public addresses", name, policy)
							}
						}
					}
				}
			})
			if !ingress || !egress {
				t.Errorf("%s is not closed by a policy", name)
			}
			for _, from := range opens["ops"] {
				if !strings.Contains(from, "prometheus") {
					t.Errorf("%s: the ops port is open to %s", name, from)
				}
			}
			calls := slices.ContainsFunc(pod.Spec.Containers[0].Env, func(e corev1.EnvVar) bool { return e.Name == "STRIPE_API_KEY_FILE" })
			if calls != stripe {
				t.Errorf("%s: calls Stripe %v, may reach it %v", name, calls, stripe)
			}
			for _, p := range pod.Spec.Containers[0].Ports {
				if len(opens[p.Name]) == 0 {
					t.Errorf("%s: nobody may reach port %s", name, p.Name)
				}
			}
		}
	}
}

// What the README says to run names files and keys that exist.
func TestKubernetesReadme(t *testing.T) {
	t.Parallel()
	text := read(t, "k8s/README.md")
	for key := range samples {
		if !strings.Contains(text, key) {
			t.Errorf("k8s/README.md does not tell of the secret's key %s", key)
		}
	}
	for _, path := range regexp.MustCompile(`k8s/[a-z/]+`).FindAllString(text, -1) {
		if _, err := os.Stat(filepath.Join(root, path)); err != nil {
			t.Errorf("k8s/README.md: %v", err)
		}
	}
	for _, folder := range overlays {
		if !strings.Contains(text, folder) {
			t.Errorf("k8s/README.md does not name %s", folder)
		}
		if !bytes.Contains([]byte(read(t, folder, "kustomization.yaml")), []byte("kind: Kustomization")) {
			t.Errorf("%s is no kustomization", folder)
		}
	}
}

// What the README shows for TLS is an overlay that gives the API's pods the certificate, and
// no other pod.
func TestKubernetesTLSOfTheReadme(t *testing.T) {
	t.Parallel()
	_, after, found := strings.Cut(read(t, "k8s/README.md"), "### TLS")
	_, after, yes := strings.Cut(after, "```yaml\n")
	patches, _, end := strings.Cut(after, "```")
	if !found || !yes || !end {
		t.Fatal("k8s/README.md shows no patch under TLS")
	}
	dir := t.TempDir()
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	production, err := filepath.Rel(dir, filepath.Join(top, "k8s/overlays/production"))
	if err != nil {
		t.Fatal(err)
	}
	text := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [" + production + "]\n" + patches
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	mine, err := filepath.Rel(top, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range render(t, mine) {
		if o.Kind != "Deployment" {
			continue
		}
		for _, part := range []string{"CREDITMIRROR_API_TLS_CERT", "CREDITMIRROR_API_TLS_KEY", "/tls/tls.crt", "/tls/tls.key", "secretName: creditmirror-api-tls"} {
			if has := bytes.Contains(o.text, []byte(part)); has != (o.Name == "creditmirror-api") {
				t.Errorf("%s has %s: %v", o, part, has)
			}
		}
	}
}
