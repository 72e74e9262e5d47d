package opstest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// scrapeStep is the distance of the samples that promtool is given.
const scrapeStep = 5 * time.Second

// scrapedSeries is one series with a value for each step, empty where there was none.
type scrapedSeries struct {
	name   string
	values []string
}

// scraped reads what Prometheus scraped of a namespace since a time, without what rules
// made of it. Times are relative to the first step, since promtool's begin at 0.
func (p promServer) scraped(t testing.TB, namespace string, from, to time.Time) (list []scrapedSeries) {
	t.Helper()
	body, ok := get(fmt.Sprintf("%s/api/v1/query_range?query=%s&start=%d&end=%d&step=%d", p.base,
		url.QueryEscape(`{namespace="`+namespace+`"}`), from.Unix(), to.Unix(), int(scrapeStep.Seconds())))
	var reply struct {
		Data struct {
			Result []struct {
				Metric map[string]string `json:"metric"`
				Values [][2]any          `json:"values"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(body), &reply); err != nil || !ok {
		t.Fatalf("query_range: %v\n%s", err, body)
	}
	steps := int(to.Unix()-from.Unix())/int(scrapeStep.Seconds()) + 1
	for _, r := range reply.Data.Result {
		name := r.Metric["__name__"]
		if strings.Contains(name, ":") || strings.HasPrefix(name, "ALERTS") {
			continue
		}
		delete(r.Metric, "__name__")
		labels := make([]string, 0, len(r.Metric))
		for k, v := range r.Metric {
			labels = append(labels, fmt.Sprintf("%s=%q", k, v))
		}
		slices.Sort(labels)
		s := scrapedSeries{name: name + "{" + strings.Join(labels, ", ") + "}", values: make([]string, steps)}
		for _, v := range r.Values {
			at, isNumber := v[0].(float64)
			text, isText := v[1].(string)
			if !isNumber || !isText {
				t.Fatalf("%s: %v", name, v)
			}
			if strings.HasSuffix(name, "_timestamp_seconds") && text != "0" {
				value, err := strconv.ParseFloat(text, 64)
				if err != nil {
					t.Fatal(err)
				}
				text = strconv.FormatFloat(value-float64(from.Unix()), 'f', -1, 64)
			}
			s.values[(int(at)-int(from.Unix()))/int(scrapeStep.Seconds())] = text
		}
		list = append(list, s)
	}
	if len(list) < 100 {
		t.Fatalf("only %d series were scraped", len(list))
	}
	return list
}

// nothingFires has promtool judge the shipped rules over what was scraped and an hour
// after it in which figures stay as they are and sweeps go on. It returns what promtool
// printed where an alert fires.
func nothingFires(t testing.TB, list []scrapedSeries) (output string, silent bool) {
	t.Helper()
	const after = 720 // an hour
	rules, err := filepath.Abs(filepath.Join(root, "k8s/monitoring/rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "rule_files: [%q]\nevaluation_interval: %v\ntests:\n  - interval: %v\n    input_series:\n",
		rules, scrapeStep, scrapeStep)
	steps := 0
	for _, s := range list {
		var text []string
		for _, v := range s.values {
			if v == "" {
				v = "_"
			}
			text = append(text, v)
		}
		if last := s.values[len(s.values)-1]; last != "" {
			growth := 0
			if strings.Contains(s.name, "_timestamp_seconds{") && last != "0" {
				growth = int(scrapeStep.Seconds())
			}
			text = append(text, fmt.Sprintf("%s+%dx%d", last, growth, after))
		}
		fmt.Fprintf(&b, "      - {series: %s, values: %s}\n", strconv.Quote(s.name), strconv.Quote(strings.Join(text, " ")))
		steps = len(s.values) + after
	}
	fmt.Fprintf(&b, "    promql_expr_test:\n      - expr: 'count_over_time(ALERTS{alertstate=\"firing\"}[3h])'\n        eval_time: %v\n        exp_samples: []\n",
		time.Duration(steps)*scrapeStep)
	file := filepath.Join(t.TempDir(), "scraped.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), service(t, "promtool"), "test", "rules", file).CombinedOutput()
	return string(out), err == nil
}

// An account that is in use, with 300 customers and changes in the two hours before, is
// mirrored for the first time; then serve is stopped for 26 s, and killed for as long,
// while changes go on. None of it is drift, and no alert fires, then or within an hour.
func TestFirstStartAndRestartsAreSilent(t *testing.T) {
	// It measures how late events are: beside other tests on two cores some would be.
	if os.Getenv("CREDITMIRROR_START") == "" {
		t.Skip("make start-alerts")
	}
	service(t, "prometheus")
	service(t, "promtool")
	addr := freeAddr(t)
	start(t, nil, program(t), "sim", "--addr", addr, "--log-level", "error")
	s := sim{"http://" + addr}
	within(t, 30*time.Second, "the simulator serves", func() (string, bool) { return get(s.base + "/_sim/calls") })
	s.send(t, http.MethodPut, "/_sim/clock", fmt.Sprintf(`{"virtual":true,"now":%q}`, time.Now().Add(-2*time.Hour).UTC().Format(time.RFC3339)))
	for n := range 40 {
		s.post(t, "/_sim/traffic", fmt.Sprintf(`{"customers":300,"changes":%d,"seed":%d}`, 30, n+1))
		within(t, 30*time.Second, "the changes are made", func() (string, bool) {
			body, _ := get(s.base + "/_sim/traffic")
			return body, strings.Contains(body, `"running": false`) || strings.Contains(body, `"running":false`)
		})
		s.post(t, "/_sim/clock/advance", `{"by":"2m50s"}`)
	}
	s.post(t, "/_sim/clock/advance", fmt.Sprintf(`{"to":%q}`, time.Now().UTC().Format(time.RFC3339Nano)))
	s.send(t, http.MethodPut, "/_sim/clock", `{"virtual":false}`)

	hook, ops, secret, db := freeAddr(t), freeAddr(t), filepath.Join(t.TempDir(), "whsec"), filepath.Join(t.TempDir(), "mirror.db")
	environ := []string{
		"STRIPE_API_KEY=sk_test_start", "STRIPE_API_BASE=" + s.base, "STRIPE_WEBHOOK_SECRET_FILE=" + secret,
		"CREDITMIRROR_WEBHOOK_ADDR=" + hook, "CREDITMIRROR_OPS_ADDR=" + ops, "CREDITMIRROR_API_ADDR=" + freeAddr(t),
		"CREDITMIRROR_DATABASE_URL=sqlite:" + db, "CREDITMIRROR_EVENTS_INTERVAL=5s", "CREDITMIRROR_BALANCES_INTERVAL=30s",
		"CREDITMIRROR_STRIPE_RPS=80", "CREDITMIRROR_STRIPE_ENDPOINT_RPS=40",
	}
	create := exec.CommandContext(t.Context(), program(t), "endpoint", "create", "--url", "http://"+hook+"/webhooks/stripe", "--secret-file", secret)
	create.Env = environ[:2]
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("endpoint create: %v\n%s", err, out)
	}
	serve := func() *process {
		p := start(t, environ, program(t), "serve")
		within(t, 30*time.Second, "serve is ready", func() (string, bool) { return get("http://" + ops + "/readyz") })
		return p
	}
	prometheus := startPrometheus(t, map[string]string{"start": ops})
	began := time.Now()
	first := serve()
	s.post(t, "/_sim/traffic", `{"customers":300,"rate":4,"seed":99}`)
	time.Sleep(30 * time.Second)
	first.stop()
	time.Sleep(26 * time.Second)
	second := serve()
	time.Sleep(20 * time.Second)
	second.kill()
	time.Sleep(26 * time.Second)
	serve()
	time.Sleep(20 * time.Second)
	s.send(t, http.MethodDelete, "/_sim/traffic", "")
	// What waits now would wait for the hour that is added.
	within(t, 3*time.Minute, "everything is answered", func() (string, bool) {
		return "", len(prometheus.query(t, `creditmirror_inbox_pending_events == 0`)) == 1
	})
	time.Sleep(scrapeStep)

	list := prometheus.scraped(t, "start", began, time.Now())
	if out, silent := nothingFires(t, list); !silent {
		t.Errorf("an alert fires:\n%s", out)
	} else if strings.Contains(out, "WARNING") {
		t.Errorf("promtool judged no rules:\n%s", out)
	}
	if found := prometheus.query(t, `max_over_time({__name__=~"creditmirror_(drift_found_total|missed_events_total|drift_open)"}[5m]) > 0`); len(found) > 0 {
		t.Errorf("what is no drift is counted: %v", found)
	}
	if answered := prometheus.query(t, `max_over_time(creditmirror_freshness_seconds_count[5m]) > 30`); len(answered) == 0 {
		body, _ := get("http://" + ops + "/metrics")
		t.Errorf("hardly an event was answered, so that nothing is shown:\n%s", body)
	}
	// The check itself notices.
	gap := scrapedSeries{name: `creditmirror_drift_open{kind="chain_gap", namespace="start"}`, values: slices.Repeat([]string{"1"}, len(list[0].values))}
	list = append(list, gap)
	if out, silent := nothingFires(t, list); silent || !strings.Contains(out, "CreditmirrorLedgerDoesNotClose") {
		t.Errorf("an open gap is not noticed:\n%s", out)
	}
}
