// Package queue is a keyed, coalescing work queue with the promise of
// client-go's workqueue, kept in Redis for many processes.
//
// # Promise
//
//   - A key is marked, not pushed. While it waits, further marks coalesce with it: a
//     thousand marks cost one run.
//   - A key is leased to one worker at a time. A mark that comes while it is
//     leased makes it run once more after that, so every mark is followed by a
//     run that starts after the mark.
//   - Work that is not completed is run again: a lease lasts [Options.Lease], and
//     [Queue.Reap] takes back the keys of a dead worker.
//   - A worker that lost its lease cannot complete, fail or extend the work of
//     the one that has it now. That protects the queue, not what the worker
//     writes elsewhere: for that a fence in the database it writes to is needed.
//   - Live work has priority over sweep work, and sweep work always gets a share.
//
// # Life of a key
//
//	         mark                claim               done, no mark meanwhile
//	clean ─────────► waiting ─────────────► leased ─────────────────────────► clean
//	                    ▲                     │
//	                    │  done, marked meanwhile: at once, or after a pause ([Options.Gather])
//	                    │  fail, release: after the delay, whatever marks come
//	                    │  postpone: the same, or when the outage is over (resume)
//	                    │  revisit: after the delay, or at the next mark
//	                    └── reap: when the lease has expired
//
// A mark raises the generation number of its key by one. The generation is
// authoritative: a key is dirty if and only if it has one, and completing work
// clears only the generation that was claimed. The sets that hold the waiting and leased keys
// can be rebuilt from it ([Queue.Repair]).
//
// # In Redis
//
// All keys start with {<prefix>:<partition>}: and none has a time to live; the
// wake-up channel is <prefix>:wake. Redis must not evict keys: an evicted
// generation is a lost mark.
//
// # Limits
//
// Redis keeps what it acknowledged only as far as its persistence
// settings guarantee. A Redis that was flushed or rewound has lost marks; the
// incarnation of each partition ([Queue.Incarnations]) shows that.
//
// Keys are ordered by the time they became due, per partition and class; the order
// over all of them is not strict.
package queue
