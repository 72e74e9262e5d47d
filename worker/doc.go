// Package worker takes targets from the queue, reads them from Stripe and
// commits them to the mirror.
//
// One sync of a target raises the epoch (mirror.Store.BeginSync), reads
// Stripe until the rows join the stored ones, commits everything in one
// transaction (Apply…), and only then completes the work. What each failure
// means for the work:
//
//	fence lost                 run again; a newer sync may or may not commit
//	database unavailable       run again soon, no attempt counted
//	longer than SyncTimeout    back off, an attempt counted; stored pieces
//	                           stay, and the next sync continues from there
//	429                        run again after the wait, no attempt counted
//	5xx, network, nonsense     if Stripe answers others meanwhile, an attempt, as
//	                           below; otherwise an outage: one target calls Stripe,
//	                           every 5 s at most, the others wait until it is over,
//	                           no attempt is counted
//	401, 403                   only a probe is sent for that account, the work waits
//	404, deleted               tombstone, once the customer itself confirms it
//	anything else              back off; after the last attempt a dead letter
package worker
