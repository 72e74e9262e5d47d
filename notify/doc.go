// Package notify notifies one HTTPS endpoint, by signed webhooks, of drift that was
// opened and closed.
//
// Notifications are derived from the rows of drift_findings, which also record what
// was delivered. The code that opens or closes a finding is not involved, and
// nothing is lost if a process dies.
//
// Notifications are signed by Stripe's own webhook scheme, in the header
// Creditmirror-Signature, so that any Stripe SDK verifies them.
//
//	step            after it                                 killed before the next
//	list            the oldest undelivered notifications     listed again
//	send            the receiver answered 2xx                sent again, with the same id
//	record          the notification is delivered            –
//
// So everything is sent at least once, by the replica that holds the lease, in
// the order of time; a receiver that stores the ids it has seen gets it exactly
// once. A notification that is not answered with 2xx delays everything behind
// it: it is retried, with pauses that double up to an hour, until it is.
// Nothing is dropped meanwhile, since the findings are the queue.
//
// The endpoint's address is checked when the connection is made, after name
// resolution, so that no name can lead into the network of this process. See
// guard.
package notify
