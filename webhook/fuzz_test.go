package webhook

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzReceiver (I16, F32): whatever the header and body, without a MAC of ours
// nothing is accepted and nothing is written; with one, the answer is 200 and an
// event is marked, kept or counted as not ours.
func FuzzReceiver(f *testing.F) {
	files, err := filepath.Glob("testdata/events/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sign(raw, testClock, "whsec_other"), raw)
		f.Add("t=1680216100,v1=", raw)
	}
	for _, header := range []string{"", "nonsense", "t=,v1=", "t=1e30,v1=00", "t=1680216100,v0=00", "t=1,t=2,v1=00,v1=00", "v1=t=1680216100"} {
		f.Add(header, []byte("{}"))
	}
	f.Add("t=1680216100,v1=00", []byte(`{"object":"event","id":"evt_1","ID":"evt_2","id":"evt_3"}`))
	f.Add("t=1680216100,v1=00", []byte("\xef\xbb\xbf{}\r\n"))
	b := newBench(f, nil)
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		if strings.Contains(header, strings.Split(sign(body, testClock, secret), "v1=")[1]) {
			t.Skip("a good MAC")
		}
		before := b.writes()
		r := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(body))
		r.Header["Stripe-Signature"] = []string{header}
		if w := b.do(r); w.Code < 400 || w.Code >= 500 || b.writes() != before {
			t.Fatalf("unsigned: code %d, %d writes", w.Code, b.writes()-before)
		}
		if len(body) > maxBody {
			return
		}
		ignored := b.count(200, "ignored") + b.count(200, "other_mode")
		w := b.post(body)
		ignored = b.count(200, "ignored") + b.count(200, "other_mode") - ignored
		if wrote := b.writes() > before; w.Code != 200 || wrote == (ignored == 1) {
			t.Fatalf("signed: code %d, wrote %v, ignored %d", w.Code, wrote, ignored)
		}
	})
}
