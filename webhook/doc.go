// Package webhook receives Stripe's webhooks: it limits and verifies requests,
// makes events durable, and answers. An event is a hint that something must be
// read again; only the ids of its payload are used.
//
// Every request ends in one answer, and every answer has one word, which is the
// label of the metric and the outcome in the log:
//
//	code  word                  body of the request
//	404   not_found             not read
//	405   method                not read
//	503   stopping              not read, or read while the process began to stop
//	400   content_encoding      not read
//	400   signature_missing     not read
//	400   signature_doubled     not read
//	400   signature_malformed   not read
//	413   too_large             at most 1 MiB and one byte read
//	408   body_timeout          read in part
//	400   body_broken           read in part
//	503   overload              read in part, or read with no room to wait
//	400   (Verify's own word)   read
//	200   ignored               type or account not mirrored, no customer's credit, another thin event
//	200   other_mode            live event with a test key, or the reverse
//	200   unreadable            verified; the raw body is a dead letter now
//	503   dead_letter_error     verified, unreadable, and could not be stored
//	200   queued, coalesced     in the inbox (if it is on) and enqueued
//	200   duplicate             answered by a sync before, or twice in one batch
//	503   inbox_error           the inbox refused
//	503   queue_error           the queue refused
//	503   timeout               inbox and queue did not answer in time
//	503   panic                 a bug here or in a dependency; other requests continue
//
// The order guarantees what a 200 promises: inbox, then queue, then answer. An event
// that is in the inbox but that no sync has answered is enqueued again when it is
// delivered again, since the first request may never have reached the queue. So no
// failure between two steps makes Stripe's next delivery look like a duplicate of an
// event that was never enqueued.
package webhook
