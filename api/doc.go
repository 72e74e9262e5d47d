// Package api serves Stripe's own read paths for customer credit from the
// mirror: the same paths, parameters, JSON, paging, errors and headers, so that
// any Stripe SDK works on it unchanged. No request leads to a call of Stripe.
//
// What is not served is refused in Stripe's error envelope, never ignored: an
// unknown parameter, a property that the mirror cannot expand, a path of
// something else. That holds for GET /v1/customers too: Stripe lists customers
// newest first, the mirror by id, and a wrong order would break the paging of
// whoever relies on it.
//
// Replies are rendered in the API version that the mirror reads with, whatever
// Stripe-Version the caller sends.
package api
