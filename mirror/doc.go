// Package mirror is the vocabulary of creditmirror: the objects of Stripe's two
// credit ledgers, the targets that are synced, the rules that a ledger obeys,
// and the contract of the Store that keeps the local copy.
//
// Everything in it is either a plain value or a pure function of values; the
// drivers that keep them are in mirror/sqlite and mirror/postgres, and both
// pass mirror/mirrortest. Amounts are integers in the currency's minor unit and
// always travel with a lower-case ISO 4217 code; they are never scaled and
// never added across currencies. A zero time.Time stands for Stripe's null.
//
// # Glossary
//
// docs/glossary.md has the same words.
//
//   - target: what one sync reads: an account, a customer and a scope (one of its ledgers).
//   - enqueue: to ask for a sync of a target. Requests for a target that already waits are one. The queue's method is Mark, and a request is called a mark.
//   - lease: ownership for a limited time, of a target by a worker or of the sweeps by a replica. It ends when it is not renewed.
//   - sync: one read of a target from Stripe and its commit to the mirror.
//   - epoch: a number of a target that every sync raises before its first read.
//   - fence: the check in the transaction of a write that the epoch is still the writer's own. A worker that lost its lease fails it and writes nothing.
//   - inbox: the events that were received and are kept in the mirror's database until a sync answers them.
//   - answered: said of an event when a commit holds what it announced.
//   - delivered: said of an event that a webhook brought, and of a notification that its receiver took with a 2xx.
//   - position: the number of a balance transaction in its chain, from 1 per customer and currency.
//   - placed row: a row that has its position. A row of a walk has none before the join.
//   - proof: that a ledger holds. Balances: each ending balance is the one before plus the amount, and the last is the customer's. Credits: the sums of the grants agree with Stripe's summary.
//   - walk: a read of a history that takes several commits. A piece is one of them.
//   - join: the commit that ends a walk, when its rows reach the complete part of the history or its end. Only then is freshness moved and are events answered.
//   - tombstone: the record that a customer was deleted at Stripe. Its rows are kept.
//   - dead letter: a target whose syncs failed too often, or an event that could not be read, kept with the reason.
//   - breaker: what stops the syncs of an account, or of a whole process, while Stripe refuses or does not answer, and lets single attempts through.
//   - limiter: what holds back calls to Stripe so that all replicas together stay within the configured rate.
//   - drain: to take no more work and finish what was accepted, when a process stops.
//   - sweep: a loop that compares Stripe with the mirror and enqueues what differs: events, balances or scrub.
//   - scrub: the sweep that reads every history whole, once per period.
//   - drift: a difference between Stripe and the mirror that pending work does not explain.
//   - finding: the record of one drift, with its cause, the time it was found and the time it was repaired.
//   - fingerprint: the short hashes of an object's fields, by which two copies are compared. The type is Print.
//   - incarnation: the identity of a Redis partition or of the database, by which a loss, a rewind or an exchange is noticed.
//   - feed: the list of changes to the mirror's rows, in an order that a reader can follow without missing one.
//   - generation: one published version of an exported copy or of the table of days; in the queue, the number that a mark raises.
//   - watermark: the time up to which the events sweep has listed Stripe's events.
package mirror
