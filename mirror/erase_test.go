package mirror

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestErase(t *testing.T) {
	t.Parallel()
	customer := `{"id":"cus_1","object":"customer","balance":-12345678901234567,"currency":"usd","name":"Secret","email":"secret@x","address":{"city":"Secret"},"metadata":{"a":"Secret"},"created":1,"livemode":false}`
	got, err := EraseOfCustomer(json.RawMessage(customer))
	if err != nil || string(got) != `{"balance":-12345678901234567,"created":1,"currency":"usd","id":"cus_1","livemode":false,"object":"customer"}` {
		t.Errorf("%s, %v", got, err)
	}
	row := `{"id":"cbtxn_1","amount":1.0e2,"description":"Secret","metadata":{"k":"Secret"},"customer":{"id":"cus_1","email":"Secret"},"credit_grant":{"id":"credgr_1","name":"Secret","metadata":{"x":"Secret"}},"list":[{"description":"Secret","n":1}],"nothing":null}`
	got, err = EraseOfRow(json.RawMessage(row))
	if err != nil || strings.Contains(string(got), "Secret") || !strings.Contains(string(got), `"amount":1.0e2`) || !strings.Contains(string(got), `"customer":"cus_1"`) {
		t.Errorf("%s, %v", got, err)
	}
	again, err := EraseOfRow(got)
	if err != nil || Digest(again) != Digest(got) {
		t.Errorf("twice is not once: %s, %v", again, err)
	}
}

// FuzzErase: nothing that was written into a row is left, and numbers stay as they are.
func FuzzErase(f *testing.F) {
	f.Add(`{"id":"x","amount":5,"metadata":{"a":{"description":"y"}}}`)
	f.Add(`{"description":{"description":1},"a":[[{"name":"n"}]]}`)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := EraseOfRow(json.RawMessage(text))
		if err != nil {
			return
		}
		var before, after map[string]any
		if json.Unmarshal([]byte(text), &before) != nil || json.Unmarshal(got, &after) != nil {
			return
		}
		for name, v := range after {
			switch name {
			case "description", "name":
				if v != nil {
					t.Fatalf("%s is left: %s", name, got)
				}
			case "metadata":
				if m, ok := v.(map[string]any); !ok || len(m) != 0 {
					t.Fatalf("metadata is left: %s", got)
				}
			}
			if n, ok := before[name].(float64); ok && name != "description" && name != "name" && name != "metadata" && v != n {
				t.Fatalf("%s was %v and is %v", name, n, v)
			}
		}
		if again, err := EraseOfRow(got); err != nil || Digest(again) != Digest(got) {
			t.Fatalf("twice is not once: %s then %s", got, again)
		}
	})
}
