// Package stripeapi is creditmirror's only way to Stripe: a typed client over
// stripe-go v79 for the reads, writes and webhook signatures that customer
// credit needs. No other package imports stripe-go.
//
// stripe-go v79 knows neither the billing-credit resources nor the API version
// that is read here, so every call goes through its Backend.CallRaw with the
// pinned Stripe-Version, and the reply is decoded by this package from the raw
// JSON: exact integers, keys in their exact case, Stripe's own bytes kept. A
// reply that does not make sense is ErrGarbled; no part of it is returned.
//
// This package adds what v79 lacks: limits on the time and the size of
// every reply, no redirects, and retries under the caller's context.
//
//	reply                                  retried  error after the last attempt
//	network error, timeout, truncated      yes      ErrUnavailable
//	500 and above                          yes      ErrUnavailable
//	408, 409, 424, 429 lock_timeout        yes      ErrUnavailable
//	429                                    yes      ErrRateLimited
//	2xx that is not JSON                   yes      ErrGarbled
//	2xx to a read that makes no sense      yes      ErrGarbled
//	2xx to a write that makes no sense     no       ErrGarbled
//	3xx                                    no       ErrGarbled
//	reply over Options.MaxReply            no       ErrGarbled
//	401                                    no       ErrUnauthorized
//	403 account_invalid                    no       ErrAccountRefused
//	400 without code and param to a read
//	with Stripe-Account                    no       ErrAccountRefused
//	403                                    no       ErrForbidden
//	404 resource_missing                   no       ErrNotFound
//	404 without Stripe's error envelope    yes      ErrGarbled
//	any other 4xx                          no       ErrRefused
//
// Stripe-Should-Retry, if Stripe sends it, overrides the second column for
// errors. The wait before retry n is random between 0 and 250 ms * 2^(n-1), at
// most 4 s, or Retry-After if that is longer. A Retry-After above 10 s ends
// the call; Error.RetryAfter then holds it, limited to a minute.
package stripeapi
