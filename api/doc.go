// Package api serves Stripe's own paths for customer credit: the same paths,
// parameters, JSON, paging, errors and headers, so that any Stripe SDK works on
// it unchanged.
//
// Reads come from the mirror, each from one state of it, and lead to no call of
// Stripe unless the caller asks for a younger copy than the one held. Writes are
// sent on to Stripe, and the mirror holds what they did before the caller gets
// Stripe's reply; Writes tells how.
//
// What is not served is refused in Stripe's error envelope, never ignored: an
// unknown parameter, a property that the mirror cannot expand, a path of
// something else. docs/api.md has every difference from Stripe.
package api
