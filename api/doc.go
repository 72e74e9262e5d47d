// Package api serves Stripe's own paths for customer credit: the same paths,
// parameters, JSON, paging, errors and headers, so that any Stripe SDK works on
// it unchanged.
//
// Reads come from the mirror, each from one state of it, and cause no call to
// Stripe unless the caller requests a fresher copy than the stored one. Writes are
// sent on to Stripe, and the mirror has their effect before the caller gets
// Stripe's reply; see Writes.
//
// What is not served is refused in Stripe's error envelope, never ignored: an
// unknown parameter, a property that the mirror cannot expand, any other path.
// docs/api.md has every difference from Stripe.
package api
