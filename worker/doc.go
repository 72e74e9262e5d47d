// Package worker takes targets from the queue, reads them from Stripe and
// commits them to the mirror.
//
// One sync of a target is: raise the fence (mirror.Store.BeginSync), read
// Stripe until the rows join what is held, commit everything in one
// transaction (Apply…), and only then complete the work. What each failure
// means for the work:
//
//	fence lost                 run again; a newer sync may or may not commit
//	database away              run again soon, no attempt counted
//	longer than SyncTimeout    back off, an attempt counted; what was stored in pieces
//	                           stays, and the next one goes on from there
//	429                        run again after the wait, no attempt counted
//	5xx, network, nonsense     where Stripe answers others meanwhile, an attempt, as
//	                           below; else an outage: one target asks every 5 s at
//	                           most, the others wait until it is over, no attempt
//	                           is counted
//	401, 403                   nothing of that account is called but a probe, the
//	                           work waits
//	404, deleted               tombstone, once the customer itself says so
//	anything else              back off; after the last attempt a dead letter
package worker
