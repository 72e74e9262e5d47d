//go:build unix

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creditmirror/creditmirror/mirror"
	"github.com/creditmirror/creditmirror/stripeapi"
	"github.com/creditmirror/creditmirror/stripesim"
	"github.com/creditmirror/creditmirror/webhook"
)

// user is the company's own program, which talks to Stripe as it always did.
type user struct {
	tb      testing.TB
	base    string
	account string // Stripe-Account
}

// object is what Stripe answers.
type object struct {
	ID      string            `json:"id"`
	Secret  string            `json:"secret"`
	Created int64             `json:"created"`
	Status  string            `json:"status"`
	Data    []json.RawMessage `json:"data"`
}

func (u user) do(method, path string, form url.Values) object {
	u.tb.Helper()
	target, body := u.base+path, ""
	if method == http.MethodGet {
		target += "?" + form.Encode()
	} else {
		body = form.Encode()
	}
	req, err := http.NewRequestWithContext(u.tb.Context(), method, target, strings.NewReader(body))
	if err != nil {
		u.tb.Fatal(err)
	}
	req.SetBasicAuth(apiKey, "")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if u.account != "" {
		req.Header.Set("Stripe-Account", u.account)
	}
	resp, err := client.Do(req)
	if err != nil {
		u.tb.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		u.tb.Fatalf("%s %s: %s: %s %v", method, path, resp.Status, text, err)
	}
	var o object
	if err := json.Unmarshal(text, &o); err != nil {
		u.tb.Fatalf("%s %s: %v", method, path, err)
	}
	return o
}

func (u user) post(path string, pairs ...string) object {
	u.tb.Helper()
	form := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		form.Add(pairs[i], pairs[i+1])
	}
	return u.do(http.MethodPost, path, form)
}

// endpoint registers a webhook endpoint and returns its secret.
func (u user) endpoint(target string, connect bool) string {
	u.tb.Helper()
	form := url.Values{"url": {target}, "api_version": {stripesim.Version}, "connect": {strconv.FormatBool(connect)}}
	for _, t := range mirror.EventTypes() {
		form.Add("enabled_events[]", t)
	}
	return u.do(http.MethodPost, "/v1/webhook_endpoints", form).Secret
}

// destination registers an event destination of thin events and returns its secret.
func (u user) destination(target string, connect bool) string {
	u.tb.Helper()
	stripe, err := stripeapi.New(stripeapi.Options{Key: apiKey, Base: u.base})
	if err != nil {
		u.tb.Fatal(err)
	}
	defer stripe.Close()
	_, secret, err := stripe.CreateEventDestination(u.tb.Context(), u.account, stripeapi.NewWebhookEndpoint{
		URL: target, EnabledEvents: mirror.ThinTypes(), Connect: connect,
	})
	if err != nil {
		u.tb.Fatal(err)
	}
	return secret
}

func (u user) customer(pairs ...string) string {
	u.tb.Helper()
	return u.post("/v1/customers", pairs...).ID
}

// credit gives a customer credit, in Stripe's sign negative.
func (u user) credit(customer string, amount int64, currency string) object {
	u.tb.Helper()
	return u.post("/v1/customers/"+customer+"/balance_transactions", "amount", strconv.FormatInt(-amount, 10), "currency", currency)
}

func (u user) rename(customer, name string) {
	u.tb.Helper()
	u.post("/v1/customers/"+customer, "name", name)
}

func (u user) delete(customer string) {
	u.tb.Helper()
	u.do(http.MethodDelete, "/v1/customers/"+customer, nil)
}

func (u user) grant(customer string, amount int64, pairs ...string) string {
	u.tb.Helper()
	return u.post("/v1/billing/credit_grants", append([]string{
		"customer", customer, "category", "paid", "name", "Prepaid", "amount[type]", "monetary",
		"amount[monetary][currency]", "usd", "amount[monetary][value]", strconv.FormatInt(amount, 10),
		"applicability_config[scope][price_type]", "metered",
	}, pairs...)...).ID
}

// billed invoices an amount, to the end: it is paid by card where balance does not cover it.
func (u user) billed(customer string, amount int64) {
	u.tb.Helper()
	inv := u.post("/v1/invoices", "customer", customer, "currency", "usd").ID
	u.post("/v1/invoiceitems", "customer", customer, "invoice", inv, "currency", "usd", "amount", strconv.FormatInt(amount, 10))
	if u.post("/v1/invoices/"+inv+"/finalize").Status == "open" {
		u.post("/v1/invoices/"+inv+"/pay", "payment_method", "pm_card_visa")
	}
}

// events lists the newest events as they stand.
func (u user) events(limit int) []json.RawMessage {
	u.tb.Helper()
	return u.do(http.MethodGet, "/v1/events", url.Values{"limit": {strconv.Itoa(limit)}}).Data
}

var eventNumber atomic.Int64

// event is the body of a webhook that names a customer.
func event(kind, customer string, created time.Time) []byte {
	return fmt.Appendf(nil, `{"id":"evt_e2e%d","object":"event","api_version":%q,"created":%d,"livemode":false,"type":%q,"data":{"object":{"id":%q,"object":"customer"}}}`,
		eventNumber.Add(1), stripesim.Version, created.Unix(), kind, customer)
}

// answer is what a webhook got.
type answer struct {
	code       int
	body       string
	retryAfter string
	took       time.Duration
}

// deliver signs a body and sends it as Stripe does.
func (w *world) deliver(body []byte) answer {
	w.tb.Helper()
	return w.send(bytes.NewReader(body), map[string]string{
		"Stripe-Signature": stripesim.SignatureHeader(w.secrets[0], time.Now(), body),
	})
}

// send sends any body with any headers; code 0: the connection was cut before an
// answer.
func (w *world) send(body io.Reader, headers map[string]string) answer {
	w.tb.Helper()
	a, err := w.trySend(body, headers)
	if err != nil {
		w.tb.Logf("webhook: %v", err)
	}
	return a
}

func (w *world) trySend(body io.Reader, headers map[string]string) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.webhook+webhook.Path, body)
	if err != nil {
		return answer{}, err
	}
	if s, ok := body.(*sized); ok {
		req.ContentLength = s.size
	}
	req.Header.Set("Content-Type", "application/json")
	for k, v := range headers {
		req.Header.Set(k, v)
	}
	began := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return answer{took: time.Since(began)}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(text), resp.Header.Get("Retry-After"), time.Since(began)}, err
}
