// Package notify tells one HTTPS endpoint, by signed webhooks, of drift that was
// opened and closed.
//
// What is told is derived from the rows of drift_findings, and what was told is
// marked in them: whoever opens or closes a finding has nothing to do with it,
// and nothing is lost with a process.
//
//	step            after it                                 killed before the next
//	list            the oldest steps not marked as told      listed again
//	send            the receiver answered 2xx                sent again, with the same id
//	mark            the step is told                         –
//
// So everything is told at least once, by the replica that holds the lease, in
// the order of time; a receiver that keeps the ids it has seen has it exactly
// once. The first endpoint that does not answer 2xx holds up everything behind
// it: it is tried again, with pauses that double up to an hour, until it does.
// Nothing is dropped meanwhile, since the findings are the queue.
//
// The endpoint's address is checked where the connection is made, after names
// were resolved, so that no name can lead into the network of this process. See
// guard.
package notify
