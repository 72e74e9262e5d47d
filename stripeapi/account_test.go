package stripeapi

import (
	"errors"
	"testing"
)

// An account whose every read is answered with 400, as by a platform that may not work
// with it, is a refused account; a 400 for what was asked is not.
func TestAccountRefusedWith400(t *testing.T) {
	t.Parallel()
	const (
		whose = `{"error":{"type":"invalid_request_error","message":"Only Stripe Connect platforms can work with other accounts."}}`
		what  = `{"error":{"type":"invalid_request_error","code":"parameter_invalid_integer","param":"limit","message":"Invalid integer"}}`
	)
	for _, test := range []struct {
		account, body string
		refused       bool
	}{{"acct_1", whose, true}, {"", whose, false}, {"acct_1", what, false}} {
		client, _ := scripted(t, Options{}, step{status: 400, body: test.body})
		_, err := client.CustomersPage(t.Context(), test.account, CustomersQuery{})
		if errors.Is(err, ErrAccountRefused) != test.refused || err == nil {
			t.Errorf("%q, %s: %v", test.account, test.body, err)
		}
	}
}
