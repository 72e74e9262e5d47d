package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRoles(t *testing.T) {
	t.Parallel()
	for list, want := range map[string][]Role{
		"webhook":                              {RoleWebhook},
		"worker,api":                           {RoleWorker, RoleAPI},
		" console , reconcile":                 {RoleConsole, RoleReconcile},
		"webhook,worker,reconcile,api,console": Config{}.DefaultRoles(),
		"webhook,worker,reconcile,api,console,export": AllRoles(),
	} {
		got, err := ParseRoles(list)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v %s", list, err, diff)
		}
	}
	for list, want := range map[string][]string{ // parts of the messages
		"":                    {"names no role"},
		" ":                   {"names no role"},
		",":                   {"empty entry", "empty entry"},
		"webhook,":            {"empty entry"},
		"worker,worker":       {"names worker twice"},
		"Worker":              {`no role "Worker"`},
		"wroker,api,boss,api": {"did you mean worker?", `no role "boss"`, "names api twice"},
		"sk_live_Canary":      {"a value not shown"},
	} {
		roles, err := ParseRoles(list)
		e, ok := errors.AsType[*Error](err)
		if !ok || roles != nil || len(e.Problems) != len(want) {
			t.Errorf("%q: %v, %v", list, roles, err)
			continue
		}
		for i, p := range e.Problems {
			if p.Var != "--roles" || p.Flag != "" || !strings.Contains(p.Message, want[i]) || strings.Contains(p.Message, "Canary") {
				t.Errorf("%q: %v, want %q", list, p, want[i])
			}
		}
	}
}

func TestWhatRolesNeed(t *testing.T) {
	t.Parallel()
	key, hook, redis := "STRIPE_API_KEY="+testKey, "STRIPE_WEBHOOK_SECRET="+hookKey, "CREDITMIRROR_REDIS_URL=redis://r"
	for name, tc := range map[string]struct {
		roles   string
		environ []string
		want    []string
	}{
		"all":                             {"webhook,worker,reconcile,api,console", []string{key, hook}, nil},
		"all without anything":            {"webhook,worker,reconcile,api,console", nil, []string{"STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET"}},
		"empty is unset":                  {"webhook,worker", []string{"STRIPE_API_KEY=", "STRIPE_WEBHOOK_SECRET="}, []string{"STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET"}},
		"api and console need nothing":    {"api,console", nil, nil},
		"reconcile":                       {"reconcile", nil, []string{"STRIPE_API_KEY"}},
		"worker":                          {"worker", []string{redis}, []string{"STRIPE_API_KEY"}},
		"webhook needs no key":            {"webhook", []string{redis, hook}, nil},
		"webhook":                         {"webhook", []string{redis, key}, []string{"STRIPE_WEBHOOK_SECRET"}},
		"webhook alone, embedded":         {"webhook", []string{hook}, []string{"CREDITMIRROR_REDIS_URL"}},
		"webhook and reconcile, embedded": {"webhook,reconcile", []string{hook, key}, []string{"CREDITMIRROR_REDIS_URL"}},
		"worker alone, embedded":          {"worker", []string{key}, []string{"CREDITMIRROR_REDIS_URL"}},
		"worker and api, embedded":        {"worker,api", []string{key}, []string{"CREDITMIRROR_REDIS_URL"}},
		"no webhooks, only sweeps":        {"worker,reconcile", []string{key}, nil},
		"broken is not also missing": {
			"webhook,worker",
			[]string{"STRIPE_API_KEY=x", "STRIPE_WEBHOOK_SECRET= ", redis},
			[]string{"STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET"},
		},
	} {
		roles, err := ParseRoles(tc.roles)
		if err != nil {
			t.Fatal(err)
		}
		_, err = LoadFor(tc.environ, roles)
		if diff := cmp.Diff(tc.want, problemVars(t, err)); diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
		cfg, err := Load(tc.environ)
		if err != nil {
			continue
		}
		if diff := cmp.Diff(tc.want, problemVars(t, cfg.Validate(roles))); diff != "" {
			t.Errorf("%s: Validate: %s", name, diff)
		}
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	if err := Join(nil, nil); err != nil {
		t.Fatal(err)
	}
	_, rolesErr := ParseRoles("boss")
	_, loadErr := Load([]string{"CREDITMIRROR_WORKERS=0"})
	other := errors.New("something else")
	if diff := cmp.Diff([]string{"--roles", "CREDITMIRROR_WORKERS"}, problemVars(t, Join(rolesErr, nil, loadErr))); diff != "" {
		t.Error(diff)
	}
	if err := Join(nil, other); !errors.Is(err, other) {
		t.Error(err)
	}
	err := Join(other, loadErr)
	if _, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, other) {
		t.Error(err)
	}
}
