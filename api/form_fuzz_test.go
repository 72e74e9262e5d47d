package api

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/creditmirror/creditmirror/access"
	"github.com/creditmirror/creditmirror/stripeapi"
)

// FuzzWriteForm: whatever query and body a write has, what is sent on has each name once,
// and by a key with limits it is an amount within them, however it is read.
func FuzzWriteForm(f *testing.F) {
	for _, s := range [][2]string{
		{"", "amount=5&currency=usd"},
		{"amount=5", "amount=-7&currency=usd"},
		{"%61mount=9", "currency=usd"},
		{"", "amount[0]=1&amount=2&currency=usd"},
		{"amount+=9", "amount=1&currency=usd"},
		{"", "amount=1&currency=usd;amount=9"},
		{"", "amount=1&currency=eur&currency[x]=usd"},
		{"expand[]=a", "expand[]=b&amount=1&currency=usd"},
	} {
		f.Add(s[0], s[1])
	}
	keys := access.New([]access.Key{{
		Name: "small", Digest: access.DigestOf("small"), Write: true, MaxAmount: map[string]int64{"usd": 500},
	}}, nil)
	f.Fuzz(func(t *testing.T, query, body string) {
		if strings.ContainsAny(query, " #\r\n\x00") {
			t.Skip("no query of a request")
		}
		stripe := &stub{reply: stripeapi.Reply{Status: 200, Body: []byte(`{"id":"x","object":"customer_balance_transaction"}`)}}
		h := New(Options{Reader: world(t), Keys: keys, Writes: &Writes{Stripe: stripe, Store: &ledgerStub{}}})
		r := postForm(pathTxns, body)
		r.URL.RawQuery = query
		r.Header.Set("Authorization", "Bearer small")
		w := serve(h, r)
		if stripe.sent == nil {
			if w.Code == http.StatusOK || w.Header().Get(headerWrite) == "done" {
				t.Fatalf("done without being sent: %d %v", w.Code, w.Header())
			}
			return
		}
		// What arrives at Stripe is the encoding of what was judged.
		sent, err := url.ParseQuery(stripe.sent.Encode())
		if err != nil {
			t.Fatal(err)
		}
		for name, values := range sent {
			base, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(name)), "[")
			if len(values) > 1 && !strings.Contains(name, "[]") {
				t.Fatalf("%q is sent %d times", name, len(values))
			}
			if (base == "amount" || base == "currency") && name != base {
				t.Fatalf("%q is sent beside the one that was judged", name)
			}
		}
		n, err := strconv.ParseInt(sent.Get("amount"), 10, 64)
		if err != nil || n > 500 || n < -500 || !strings.EqualFold(sent.Get("currency"), "usd") {
			t.Fatalf("%v was sent with a limit of 500 usd", sent)
		}
	})
}

// FuzzAuthorization: only the very key opens, in either of its forms.
func FuzzAuthorization(f *testing.F) {
	for _, s := range []string{"Bearer right-key-of-the-test", "Basic cmlnaHQta2V5LW9mLXRoZS10ZXN0Og==", "bearer  right-key-of-the-test ", "Basic", "Bearer \x00"} {
		f.Add(s)
	}
	const key = "right-key-of-the-test"
	keys := access.New([]access.Key{{Name: "a", Digest: access.DigestOf(key)}}, nil)
	f.Fuzz(func(t *testing.T, header string) {
		presented, ok := presentedKey([]string{header})
		_, err := keys.Find(presented)
		if opened := ok && err == nil; opened != (ok && presented == key) {
			t.Fatalf("%q opens: %t", header, opened)
		}
		if ok && presented == "" {
			t.Fatalf("%q presents an empty key", header)
		}
	})
}
