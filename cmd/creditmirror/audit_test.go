package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/mirror/sqlite"
)

func TestAudit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "m.db")
	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 6, 30, 12, 0, 0, 0, time.UTC)
	for n, w := range []mirror.APIWrite{
		{ID: "req_1", Key: "billing", Operation: "adjust", Customer: "cus_1", Object: "cbtxn_1", Amount: -500, Currency: "usd", Status: 200, Outcome: mirror.APIDone},
		{ID: "req_2", Key: "reader", Operation: "void", Account: "acct_1", Status: 403, Outcome: mirror.APIRefused, Reason: "read_only", Repeated: 3},
	} {
		w.Created = at.Add(time.Duration(n) * 24 * time.Hour)
		if err := store.EndAPIWrite(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	environ := []string{"CREDITMIRROR_DATABASE_URL=sqlite:" + path}
	code, out, errOut := cli(t, environ, "audit", "--format", "csv")
	want := strings.Join(auditColumns, ",") + `
2026-06-30T12:00:00Z,,req_1,billing,adjust,cus_1,cbtxn_1,-500,usd,done,,200,,,,0
2026-07-01T12:00:00Z,acct_1,req_2,reader,void,,,,,refused,read_only,403,,,,3
`
	if code != 0 || out != want {
		t.Fatalf("exit %d\n%s%s\nwant\n%s", code, out, errOut, want)
	}
	for args, id := range map[string]string{
		"--key billing": "req_1", "--customer cus_1": "req_1", "--outcome refused": "req_2", "--from 2026-07-01": "req_2",
		"--to 2026-07-01": "req_1", "--account acct_1": "req_2", "--account=": "req_1", "--to 2026-06-30T12:00:01Z": "req_1",
	} {
		var rows []map[string]any
		code, out, errOut := cli(t, environ, append([]string{"audit", "--format", "json"}, strings.Fields(args)...)...)
		if err := json.Unmarshal([]byte(out), &rows); code != 0 || err != nil || len(rows) != 1 || rows[0]["id"] != id {
			t.Errorf("%s: exit %d %v\n%s%s", args, code, err, out, errOut)
		}
	}
	for _, args := range []string{"--outcome maybe", "--from yesterday", "--customer x/y", "--account x", "--format xml", "extra"} {
		if code, out, errOut := cli(t, environ, append([]string{"audit"}, strings.Fields(args)...)...); code != 2 || out != "" {
			t.Errorf("%s: exit %d\n%s%s", args, code, out, errOut)
		}
	}
}
