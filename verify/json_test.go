package verify

import (
	"encoding/json"
	"testing"
)

// member is the value of one key; empty where there is none.
func member(object, key string) string {
	for name, value := range members(object) {
		if name == key {
			return value
		}
	}
	return ""
}

func TestMembers(t *testing.T) {
	t.Parallel()
	const object = ` { "a" : 1, "b":"x\"}\\", "c":{"a":2,"d":[{"a":3},"]"]},"e":null , "f":-7,"g":true }`
	for key, want := range map[string]string{
		"a": "1", "b": `x\"}\\`, "c": `{"a":2,"d":[{"a":3},"]"]}`, "d": "", "e": "", "f": "-7", "g": "true", "": "",
	} {
		if got := member(object, key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	if got := member(member(object, "c"), "d"); got != `[{"a":3},"]"]` {
		t.Errorf("c.d is %q", got)
	}
	for _, text := range []string{"", "null", "[]", `"a"`, "{", `{"a`, `{"a"`, `{"a":`, `{"a":"`, `{"a":{`, `{"a":1;"b":2}`, `{a:1}`, `{"a":,}`} {
		if got := member(text, "b"); got != "" {
			t.Errorf("%s: b is %q", text, got)
		}
	}
}

// What members returns for a JSON object is what encoding/json finds in it.
func FuzzMembers(f *testing.F) {
	f.Add(`{"id":"cbtxn_1","amount":-5,"customer":null,"metadata":{"a":"}"}}`)
	f.Add(`{"a":[1,{"b":"\\"}],"c":1e2}`)
	f.Add(`{"a`)
	f.Fuzz(func(t *testing.T, text string) {
		var want map[string]json.RawMessage
		valid := json.Unmarshal([]byte(text), &want) == nil
		last := map[string]string{}
		for name, value := range members(text) {
			var key string
			if valid && json.Unmarshal([]byte(`"`+name+`"`), &key) == nil {
				last[key] = value
			}
		}
		if valid && len(last) != len(want) {
			t.Fatalf("%d members of %d", len(last), len(want))
		}
		for key, value := range last {
			raw := string(want[key])
			switch {
			case raw == "null":
				raw = ""
			case raw[0] == '"':
				raw = raw[1 : len(raw)-1]
			}
			if value != raw {
				t.Fatalf("%q is %q, want %q", key, value, raw)
			}
		}
	})
}
