package api

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/mirror"
)

type openAPI struct {
	Paths map[string]map[string]struct {
		Parameters []struct {
			Name, In string
			Ref      string `json:"$ref"`
		}
		Responses map[string]struct {
			Ref string `json:"$ref"`
		}
	}
	Components struct {
		Schemas map[string]struct {
			Required   []string
			Properties map[string]json.RawMessage
		}
	}
}

func readOpenAPI(t *testing.T) openAPI {
	t.Helper()
	raw, err := os.ReadFile("../docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	return decode[openAPI](t, raw)
}

// The document has exactly the operations and parameters of the code.
func TestOpenAPIIsTheCode(t *testing.T) {
	t.Parallel()
	doc := readOpenAPI(t)
	documented := map[string][]string{}
	id := regexp.MustCompile(`\{[a-z_]+\}`)
	for path, operations := range doc.Paths {
		for method, op := range operations {
			var names []string
			header := map[string]bool{}
			for _, p := range op.Parameters {
				if p.In == "query" {
					names = append(names, p.Name)
				}
				header[strings.TrimPrefix(p.Ref, "#/components/parameters/")] = true
			}
			slices.Sort(names)
			key := strings.ToUpper(method) + " " + id.ReplaceAllString(path, "{id}")
			documented[key] = names
			if header["Creditmirror-Max-Age"] {
				documented[key] = append(documented[key], "+max-age")
			}
			if header["Idempotency-Key"] {
				documented[key] = append(documented[key], "+write")
			}
			refusal := map[bool]string{true: "WriteError", false: "Error"}[method == "post"]
			if op.Responses["default"].Ref != "#/components/responses/"+refusal || op.Responses["429"].Ref != "#/components/responses/RateLimited" {
				t.Errorf("%s: %v", key, op.Responses)
			}
		}
	}
	served := map[string][]string{}
	for _, rt := range routes {
		names := slices.Sorted(slices.Values(append(slices.Clone(rt.params), rt.arrays...)))
		if rt.targets != nil {
			names = append(names, "+max-age")
		}
		if rt.write != nil {
			names = append(names, "+write")
		}
		served[rt.method+" /v1/"+strings.Join(rt.path, "/")] = names
	}
	for _, key := range slices.Sorted(maps.Keys(served)) {
		if !slices.Equal(served[key], documented[key]) {
			t.Errorf("%s takes %q, documented are %q", key, served[key], documented[key])
		}
	}
	for key := range documented {
		if _, ok := served[key]; !ok {
			t.Errorf("%s is documented and not served", key)
		}
	}
}

// The replies of our own have the documented fields and no others.
func TestOpenAPIOfBulkReplies(t *testing.T) {
	t.Parallel()
	doc, f := readOpenAPI(t), world(t)
	f.changes = []mirror.Change{{Cursor: "1", Table: "customers", Customer: cusBalance, ID: cusBalance, Op: "insert", ChangedAt: now}}
	h := handlerOf(f)
	check := func(raw json.RawMessage, name string) map[string]json.RawMessage {
		t.Helper()
		object := decode[map[string]json.RawMessage](t, raw)
		want := doc.Components.Schemas[name]
		got, fields := slices.Sorted(maps.Keys(object)), slices.Sorted(maps.Keys(want.Properties))
		if !slices.Equal(got, fields) || !slices.Equal(slices.Sorted(slices.Values(want.Required)), fields) {
			t.Errorf("%s has %q, documented are %q", name, got, fields)
		}
		return object
	}
	for target, names := range map[string][2]string{
		"/v1/credits/balances": {"balances_page", "customer_balances"}, "/v1/credits/changes": {"changes_page", "change"},
	} {
		rows := decode[[]json.RawMessage](t, check(serve(h, local("GET", target)).Body.Bytes(), names[0])["data"])
		if len(rows) == 0 {
			t.Errorf("%s: no rows", target)
		}
		for _, row := range rows {
			check(row, names[1])
		}
	}
}
