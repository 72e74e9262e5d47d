// Package architecture holds the tests that keep the packages apart.
package architecture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/creditmirror/creditmirror/"

// allowed lists for each package what of this module its code (without tests)
// may import. A package that is not listed is a failure: say here where it stands.
var allowed = map[string][]string{
	"config":    {"access"}, // the keys that it reads are the ones that are asked
	"access":    {},         // one judgement of who may do what, for API and console
	"docs":      {},         // what the program shows of its documentation
	"doors":     {},         // what every listener needs; standard library and metrics
	"mirror":    {},
	"queue":     {},
	"redisconn": {},
	"budget":    {"backoff"},
	"money":     {},                 // what amounts of a currency are counted in; standard library alone
	"stripesim": {"doors", "money"}, // what keeps web pages out, and how amounts are written; nothing of the mirror
	"tracing":   {"backoff"},
	"report":    {"money"}, // the books: rules, and a contract of its own that the drivers implement
	"backoff":   {},        // waiting, its random part, which a simulation seeds, and Retry-After

	"mirror/sqlite":     {"internal/failpoint", "mirror", "report"},
	"mirror/postgres":   {"internal/failpoint", "mirror", "report"},
	"mirror/mirrortest": {"internal/patience", "mirror", "report"},
	"queue/queuetest":   {"internal/patience", "internal/redistest", "queue"},
	"stripeapi":         {"backoff", "mirror", "tracing"},
	"webhook":           {"doors", "internal/failpoint", "mirror", "tracing"},
	"api":               {"access", "backoff", "doors", "internal/failpoint", "mirror", "report", "stripeapi", "tracing"}, // stripeapi: writes are sent on, and its errors say what became of them
	"console":           {"access", "docs", "doors", "mirror", "report"},                                                  // reads through contracts alone; what it can do comes from app
	"worker":            {"backoff", "internal/failpoint", "mirror", "queue", "stripeapi", "tracing"},
	"reconcile":         {"backoff", "internal/failpoint", "mirror", "stripeapi", "tracing"},
	"verify":            {"mirror", "report"}, // report: sealed periods
	"notify":            {"backoff", "mirror"},
	"export":            {"mirror"},              // a copy for the warehouse, and the libraries that it takes
	"endpoint":          {"mirror", "stripeapi"}, // the webhook endpoint at Stripe: only a command needs it
	"app": {
		"access", "api", "budget", "config", "console", "doors", "endpoint", "export", "mirror", "mirror/postgres", "mirror/sqlite", "notify", "queue",
		"reconcile", "redisconn", "report", "stripeapi", "tracing", "webhook", "worker",
	},
	"e2e":              {}, // tests only: the binary from outside
	"simulation":       {}, // tests only: whole processes in virtual time
	"demo":             {"app", "config", "doors", "mirror", "stripesim", "webhook"},
	"cmd/creditmirror": {"api", "app", "config", "demo", "doors", "endpoint", "export", "mirror", "reconcile", "report", "stripesim", "verify"},

	"internal/architecture": {},
	"internal/failpoint":    {}, // empty but in a build for fault tests: whoever has a step to be killed at
	"internal/patience":     {},
	"internal/pgtest":       {"internal/patience"},
	"internal/redistest":    {"internal/patience"},
	"internal/sqlitetest":   {"mirror/sqlite"},
}

// onlyIn lists modules that few packages may import, mostly one.
var onlyIn = map[string]string{
	"github.com/stripe/stripe-go/":  "stripeapi",
	"modernc.org/sqlite":            "mirror/sqlite",
	"github.com/jackc/pgx/":         "mirror/postgres, export", // export: a copy in another PostgreSQL
	"gocloud.dev/":                  "export",
	"github.com/parquet-go/":        "export",
	"github.com/alicebob/miniredis": "redisconn",
	// The others take a tracer, which is none when traces are off.
	"go.opentelemetry.io/otel/sdk": "tracing",
}

// testOnly lists packages that no other package's code may import.
var testOnly = []string{"testing", "net/http/httptest", "pgregory.net/rapid", "go.uber.org/goleak", "github.com/google/go-cmp/cmp"}

type pkg struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "go", "list", "-json=ImportPath,Imports", module+"...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func TestImportDirections(t *testing.T) {
	t.Parallel()
	list := packages(t)
	if len(list) < 10 {
		t.Fatalf("go list found only %d packages", len(list))
	}
	for _, p := range list {
		name := strings.TrimPrefix(p.ImportPath, module)
		may, listed := allowed[name]
		if !listed {
			t.Errorf("package %s is not in the table of import directions", name)
			continue
		}
		forTests := strings.HasPrefix(name, "internal/") || strings.HasSuffix(name, "test")
		for _, i := range p.Imports {
			if own, ok := strings.CutPrefix(i, module); ok {
				if !slices.Contains(may, own) {
					t.Errorf("%s must not import %s", name, own)
				}
				continue
			}
			for prefix, owner := range onlyIn {
				if strings.HasPrefix(i, prefix) && !slices.Contains(strings.Split(owner, ", "), name) && !forTests {
					t.Errorf("%s must not import %s: only %s does", name, i, owner)
				}
			}
			if slices.Contains(testOnly, i) && !forTests {
				t.Errorf("%s imports %s outside its tests", name, i)
			}
		}
	}
	for name := range allowed {
		if !slices.ContainsFunc(list, func(p pkg) bool { return p.ImportPath == module+name }) {
			t.Errorf("package %s is in the table but not in the tree", name)
		}
	}
}

// The vocabulary that everybody shares must not pull anything in.
func TestMirrorIsStandardLibraryOnly(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if p.ImportPath != module+"mirror" {
			continue
		}
		for _, i := range p.Imports {
			if strings.Contains(strings.SplitN(i, "/", 2)[0], ".") {
				t.Errorf("mirror imports %s", i)
			}
		}
	}
}
