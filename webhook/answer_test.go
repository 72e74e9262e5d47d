package webhook

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// The answer table of the contract, with what each row may write.
func TestAnswers(t *testing.T) {
	t.Parallel()
	body := event("evt_1", customer)
	good := sign(body, testClock, secret)
	request := func(method, target string, payload []byte, header ...string) *http.Request {
		r := httptest.NewRequest(method, target, bytes.NewReader(payload))
		for i := 0; i < len(header); i += 2 {
			r.Header.Add(header[i], header[i+1])
		}
		return r
	}
	post := func(payload []byte, header ...string) *http.Request {
		return request(http.MethodPost, Path, payload, header...)
	}
	const sig = "Stripe-Signature"
	v1 := strings.TrimPrefix(good, "t=1680216100,")
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	zw.Write(body)
	zw.Close()
	long := event("evt_1", customer)
	long = append(long, bytes.Repeat([]byte(" "), maxBody-len(long))...)

	for _, c := range []struct {
		name   string
		r      *http.Request
		code   int
		word   string
		writes int
	}{
		{"good", post(body, sig, good), 200, "queued", 2},
		{"good with a query", request("POST", Path+"?a=b", body, sig, good), 200, "queued", 2},
		{"good, 300 s old", post(body, sig, sign(body, testClock.Add(-300*time.Second), secret)), 200, "queued", 2},
		{"good, v0 beside", post(body, sig, good+",v0="+strings.Repeat("0", 64)), 200, "queued", 2},
		{"other path", request("POST", "/", body, sig, good), 404, "not_found", 0},
		{"slash at the end", request("POST", Path+"/", body, sig, good), 404, "not_found", 0},
		{"two slashes", request("POST", "/"+Path, body, sig, good), 404, "not_found", 0},
		{"dots", request("POST", "/a/.."+Path, body, sig, good), 404, "not_found", 0},
		{"escaped slash", request("POST", "/webhooks%2Fstripe", body, sig, good), 404, "not_found", 0},
		{"escaped letter", request("POST", "/webhooks/%73tripe", body, sig, good), 404, "not_found", 0},
		{"other case", request("POST", "/Webhooks/stripe", body, sig, good), 404, "not_found", 0},
		{"metrics are elsewhere", request("GET", "/metrics", nil), 404, "not_found", 0},
		{"pprof is elsewhere", request("GET", "/debug/pprof/", nil), 404, "not_found", 0},
		{"git", request("GET", "/.git/config", nil), 404, "not_found", 0},
		{"GET", request("GET", Path, nil, sig, good), 405, "method", 0},
		{"HEAD", request("HEAD", Path, nil, sig, good), 405, "method", 0},
		{"PUT", request("PUT", Path, body, sig, good), 405, "method", 0},
		{"TRACE", request("TRACE", Path, nil, sig, good), 405, "method", 0},
		{"OPTIONS", request("OPTIONS", Path, nil, sig, good), 405, "method", 0},
		{"post in lower case", request("post", Path, body, sig, good), 405, "method", 0},
		{"gzip", post(zipped.Bytes(), sig, sign(zipped.Bytes(), testClock, secret), "Content-Encoding", "gzip"), 400, "content_encoding", 0},
		{"identity", post(body, sig, good, "Content-Encoding", "identity"), 400, "content_encoding", 0},
		{"empty encoding", post(body, sig, good, "Content-Encoding", ""), 400, "content_encoding", 0},
		{"no signature", post(body), 400, "signature_missing", 0},
		{"empty signature", post(body, sig, " "), 400, "signature_missing", 0},
		{"two signatures", post(body, sig, good, sig, good), 400, "signature_doubled", 0},
		{"two in one header", post(body, sig, good+","+good), 200, "queued", 2},
		{"nonsense", post(body, sig, "nonsense"), 400, "signature_malformed", 0},
		{"v0 only", post(body, sig, "t=1680216100,v0="+strings.Repeat("0", 64)), 400, "signature_malformed", 0},
		{"no time", post(body, sig, v1), 400, "signature_malformed", 0},
		{"empty time", post(body, sig, "t=,"+v1), 400, "signature_malformed", 0},
		{"time 1e30", post(body, sig, "t=1e30,"+v1), 400, "signature_malformed", 0},
		{"empty v1", post(body, sig, "t=1680216100,v1="), 400, "signature_wrong", 0},
		{"other secret", post(body, sig, sign(body, testClock, "whsec_other")), 400, "signature_wrong", 0},
		{"empty secret", post(body, sig, sign(body, testClock, "")), 400, "signature_wrong", 0},
		{"100,000 v1", post(body, sig, "t=1680216100"+strings.Repeat(",v1=ff", 1e5)), 400, "signature_wrong", 0},
		{"301 s old", post(body, sig, sign(body, testClock.Add(-301*time.Second), secret)), 400, "signature_expired", 0},
		{"301 s ahead", post(body, sig, sign(body, testClock.Add(301*time.Second), secret)), 400, "signature_future", 0},
		{"10 years ahead", post(body, sig, sign(body, testClock.AddDate(10, 0, 0), secret)), 400, "signature_future", 0},
		{"one byte more", post(append(bytes.Clone(body), ' '), sig, good), 400, "signature_wrong", 0},
		{"spaced anew", post(bytes.ReplaceAll(body, []byte(`":`), []byte(`": `)), sig, good), 400, "signature_wrong", 0},
		{"BOM", post(append([]byte("\xef\xbb\xbf"), body...), sig, good), 400, "signature_wrong", 0},
		{"CRLF", post(append(bytes.Clone(body), "\r\n"...), sig, good), 400, "signature_wrong", 0},
		{"gzip without saying so", post(zipped.Bytes(), sig, good), 400, "signature_wrong", 0},
		{"1 MiB", post(long, sig, sign(long, testClock, secret)), 200, "queued", 2},
		{"1 MiB and one", post(append(long, ' '), sig, sign(append(long, ' '), testClock, secret)), 413, "too_large", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			w := b.do(c.r)
			checkAnswer(t, w.Result())
			if w.Code != c.code || b.count(c.code, c.word) != 1 || b.writes() != c.writes {
				t.Errorf("code %d, counted %d as %s, %d writes; want %d, 1, %d",
					w.Code, b.count(c.code, c.word), c.word, b.writes(), c.code, c.writes)
			}
		})
	}
}

// checkAnswer checks what is true of every answer with the code.
func checkAnswer(t *testing.T, resp *http.Response) {
	t.Helper()
	body := make([]byte, 100)
	n, _ := resp.Body.Read(body)
	want := map[int]string{
		200: "", 400: "Bad Request\n", 404: "Not Found\n", 405: "Method Not Allowed\n", 408: "Request Timeout\n",
		413: "Request Entity Too Large\n", 503: "Service Unavailable\n",
	}
	text, known := want[resp.StatusCode]
	if !known || string(body[:n]) != text && (n != 0 || resp.Request == nil || resp.Request.Method != "HEAD") {
		t.Errorf("code %d with body %q, want %q", resp.StatusCode, body[:n], text)
	}
	if got := resp.Header.Get("Allow"); (got == "POST") != (resp.StatusCode == 405) {
		t.Errorf("code %d with Allow %q", resp.StatusCode, got)
	}
	if got := resp.Header.Get("Retry-After"); (got != "") != (resp.StatusCode == 503) {
		t.Errorf("code %d with Retry-After %q", resp.StatusCode, got)
	}
	if got := resp.Header.Get("Location"); got != "" {
		t.Errorf("redirects to %q", got)
	}
}

// Stripe's header as its library makes it, and the mutations the vectors name.
func TestSignatureVectors(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/signatures.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Payload string
		Headers map[string]string
		CheckAt map[string]int64 `json:"check_at"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	for name, header := range v.Headers {
		for when, at := range v.CheckAt {
			b := newBench(t, func(_ *bench, o *Options) { o.Now = func() time.Time { return time.Unix(at, 0) } })
			r := httptest.NewRequest("POST", Path, strings.NewReader(v.Payload))
			r.Header.Set("Stripe-Signature", header)
			want := 400
			if strings.HasPrefix(name, "valid") && when == "inside_tolerance" {
				want = 200
			}
			if w := b.do(r); w.Code != want || (b.writes() > 0) != (want == 200) {
				t.Errorf("%s %s: %d with %d writes, want %d", name, when, w.Code, b.writes(), want)
			}
		}
	}
}

// A verifier's reason becomes a label only when it is a word.
func TestReasonIsAWord(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]string{
		"signature_wrong":       "signature_wrong",
		"":                      "signature_refused",
		"got 3f8de26c":          "signature_refused",
		"3f8de26c27244fc35fb2a": "signature_refused",
		strings.Repeat("a", 41): "signature_refused",
		"wrong\nv1":             "signature_refused",
	} {
		if got := signatureAnswer(reason); got.word != want || got.code != 400 {
			t.Errorf("%q became %+v", reason, got)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	_, err := New(Options{MaxBatch: -1})
	for _, want := range []string{"Verify", "Queue", "DeadLetters", "Registerer", "Log", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}
