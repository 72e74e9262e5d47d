package config

import (
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/creditmirror/creditmirror/access"
)

func TestKeysInJSON(t *testing.T) {
	t.Parallel()
	digest := access.DigestOf("another key of our own")
	const age = 5 * time.Second
	cfg, err := Load([]string{string(VarAPIKeys) + `= [
		{"name": "billing", "key": "0123456789abcdefghij", "rights": ["read", "write"], "accounts": ["", "acct_1"], "ledgers": ["balance"],
		 "operations": ["adjust", "edit"], "rps": 5, "max_amount": {"USD": 50000}, "max_per_day": {"usd": 1000000, "jpy": 0}, "max_age": "5s", "expires": "2027-01-31"},
		{"name": "finance", "key_sha256": "` + hex.EncodeToString(digest[:]) + `", "rights": "read"}]` + "\n"})
	if err != nil {
		t.Fatal(err)
	}
	want := []access.Key{
		{
			Name: "billing", Digest: access.DigestOf("0123456789abcdefghij"), Write: true, Accounts: []string{"", "acct_1"}, Ledgers: []access.Ledger{access.Balance},
			Operations: []access.Operation{access.Adjust, access.Edit}, RPS: 5, MaxAmount: map[string]int64{"usd": 50000},
			MaxPerDay: map[string]int64{"usd": 1000000, "jpy": 0}, MaxAge: new(age), Expires: time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC),
		},
		{Name: "finance", Digest: digest},
	}
	if diff := cmp.Diff(want, cfg.APIKeys); diff != "" {
		t.Fatal(diff)
	}
}

func TestWrongKeysInJSON(t *testing.T) {
	t.Parallel()
	const good = `"name": "a", "key": "CanaryCanaryCanaryCanary"`
	for text, want := range map[string]string{
		`[`:                                "is none",
		`[] x`:                             "is none",
		`[]`:                               "empty list",
		`["Canary"]`:                       "no object",
		`[{}]`:                             "name",
		`[{` + good + `}, {` + good + `}]`: "twice",
		`[{` + good + `}, {"name": "a", "key": "CanaryCanaryCanaryOther"}]`: "name of key number 2",
		`[{` + good + `, "right": "write"}]`:                                "a field that there is not",
		`[{` + good + `, "rights": "admin"}]`:                               "the rights are",
		`[{` + good + `, "rights": 7}]`:                                     "another type",
		`[{"name": "a", "key": "Canary"}]`:                                  "20 characters",
		`[{"name": "a", "key": "CanaryCanaryCanary:Canary"}]`:               "colon",
		`[{"name": "a b", "key": "CanaryCanaryCanaryCanary"}]`:              "names are letters",
		`[{"name": "a"}]`:                                                            "either key or key_sha256",
		`[{` + good + `, "key_sha256": "00"}]`:                                       "either key or key_sha256",
		`[{"name": "a", "key_sha256": "Canary"}]`:                                    "not a SHA-256",
		`[{"name": "a", "key_sha256": "` + strings.Repeat("0", 64) + `"}]`:           "not a SHA-256",
		`[{"name": "a", "key_sha256": "` + strings.Repeat("a", 66) + `"}]`:           "not a SHA-256",
		`[{` + good + `, "accounts": ["cus_1"]}]`:                                    "acct_",
		`[{` + good + `, "accounts": []}]`:                                           "acct_",
		`[{` + good + `, "ledgers": ["cash"]}]`:                                      "the ledgers are balance, credits",
		`[{` + good + `, "ledgers": []}]`:                                            "no ledger",
		`[{` + good + `, "rights": "write", "operations": ["refund"]}]`:              "the operations are",
		`[{` + good + `, "operations": ["void"]}]`:                                   "right write",
		`[{` + good + `, "rps": 0}]`:                                                 "rps",
		`[{` + good + `, "rights": "write", "max_amount": {"dollar": 1}}]`:           "max_amount",
		`[{` + good + `, "rights": "write", "max_amount": {"usd": -1}}]`:             "max_amount",
		`[{` + good + `, "rights": "write", "max_per_day": {"usd": 1000000000001}}]`: "max_per_day",
		`[{` + good + `, "rights": "write", "max_per_day": {}}]`:                     "max_per_day",
		`[{` + good + `, "rights": "write", "max_amount": {"usd": 1.5}}]`:            "another type",
		`[{` + good + `, "max_amount": {"usd": 1}}]`:                                 "right write",
		`[{` + good + `, "max_age": "soon"}]`:                                        "max_age",
		`[{` + good + `, "expires": "tomorrow"}]`:                                    "expires",
	} {
		_, err := Load([]string{string(VarAPIKeys) + "=" + text})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "Canary") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// FuzzAPIKeys: whatever the variable holds, the keys that come out match what was
// written alone, and no limit is lost by the way in which it is written.
func FuzzAPIKeys(f *testing.F) {
	f.Add("read[a]@5:0123456789abcdefghij,write:0123456789abcdefghiX")
	f.Add(`[{"name":"a","key":"0123456789abcdefghij","rights":"write","max_amount":{"usd":5}}]`)
	f.Add(`[{"name":"a","key":"0123456789abcdefghij","max_amount":null,"operations":null}]`)
	f.Add("write[a]@:x")
	f.Fuzz(func(t *testing.T, value string) {
		cfg, err := Load([]string{string(VarAPIKeys) + "=" + value})
		if err != nil {
			return
		}
		names := map[string]bool{}
		for _, k := range cfg.APIKeys {
			if names[k.Name] || k.Name == "" || k.Digest == [32]byte{} || k.RPS < 0 {
				t.Fatalf("accepted %+v", k)
			}
			names[k.Name] = true
			if (k.Operations != nil || k.Bounded()) && !k.Write || k.Accounts != nil && len(k.Accounts) == 0 || k.Ledgers != nil && len(k.Ledgers) == 0 {
				t.Fatalf("bound to nothing: %+v", k)
			}
		}
		var raw []map[string]any
		if json.Unmarshal([]byte(value), &raw) != nil || len(raw) != len(cfg.APIKeys) {
			return
		}
		for i, k := range raw {
			if k["max_amount"] != nil && cfg.APIKeys[i].MaxAmount == nil || k["accounts"] != nil && cfg.APIKeys[i].Accounts == nil ||
				k["ledgers"] != nil && cfg.APIKeys[i].Ledgers == nil || k["expires"] != nil && cfg.APIKeys[i].Expires.IsZero() {
				t.Fatalf("a limit of %v was lost: %+v", k, cfg.APIKeys[i])
			}
		}
	})
}
