// Package queue is a keyed, coalescing work queue with the promise of
// client-go's workqueue, kept in Redis for many processes.
//
// # Promise
//
//   - A key is marked, not pushed. While it waits, further marks fold into it: a
//     thousand marks cost one run.
//   - A key is leased to one worker at a time. A mark that comes while it is
//     leased makes it run once more after that, so every mark is followed by a
//     run that starts after the mark.
//   - Work that is not completed comes back: a lease lasts [Options.Lease], and
//     [Queue.Reap] takes back what a dead worker held.
//   - A worker that lost its lease cannot complete, fail or extend the work of
//     the one that has it now. That protects the queue, not what the worker
//     writes elsewhere: for that a fence in the database it writes to is needed.
//   - Live work goes before sweep work, and sweep work always gets a share.
//
// # Life of a key
//
//	         mark                claim               done, no mark meanwhile
//	clean ─────────► waiting ─────────────► leased ─────────────────────────► clean
//	                    ▲                     │
//	                    │  done, marked meanwhile: at once, or after a pause ([Options.Gather])
//	                    │  fail, release: after the delay, whatever marks come
//	                    │  put off: the same, or when the outage is over (resume)
//	                    │  revisit: after the delay, or at the next mark
//	                    └── reap: when the lease has run out
//
// A mark is a generation number per key, raised by one. It is the truth: a key
// is dirty if and only if it has one, and completing work clears only the
// generation that was claimed. The sets that hold the waiting and leased keys
// can be rebuilt from it ([Queue.Repair]).
//
// # In Redis
//
// All keys start with {<prefix>:<partition>}: and none has a time to live; the
// wake-up channel is <prefix>:wake. A Redis that evicts keys must not be used:
// an evicted generation is a lost mark.
//
// # Limits
//
// Redis is trusted for what it acknowledged only as far as its persistence
// settings go. A Redis that was flushed or rewound has lost marks; the
// incarnation of each partition ([Queue.Incarnations]) makes that noticeable.
//
// The order between keys is by the time they became due, not strict: it is kept
// per partition and class.
package queue
