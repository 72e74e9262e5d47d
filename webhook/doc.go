// Package webhook receives Stripe's webhooks: it bounds, verifies, makes durable
// and answers. An event is a hint that something must be read again; nothing of
// its payload but ids is used.
//
// Every request ends in one answer, and every answer has one word, which is the
// label of the metric and the outcome in the log:
//
//	code  word                  body of the request
//	404   not_found             not read
//	405   method                not read
//	503   stopping              not read, or read when the stop came meanwhile
//	400   content_encoding      not read
//	400   signature_missing     not read
//	400   signature_doubled     not read
//	400   signature_malformed   not read
//	413   too_large             at most 1 MiB and one byte read
//	408   body_timeout          read in part
//	400   body_broken           read in part
//	503   overload              read in part, or read with no room to wait
//	400   (Verify's own word)   read
//	200   ignored               type or account not ours, thin event, nobody's credit
//	200   other_mode            live event with a test key, or the reverse
//	200   unreadable            verified; the raw body is a dead letter now
//	503   dead_letter_error     verified, unreadable, and could not be kept
//	200   queued, coalesced     in the inbox (where it is on) and marked in the queue
//	200   duplicate             answered by a sync before, or twice in one batch
//	503   inbox_error           the inbox refused
//	503   queue_error           the queue refused
//	503   timeout               neither answered in time
//	503   panic                 a bug here or in a part; other requests go on
//
// What makes a 200 true is the order: inbox, then mark, then answer. An event
// that the inbox knows but no sync has answered is marked again, since the first
// mark may never have arrived; so no failure between two steps can turn Stripe's
// next delivery into a duplicate of nothing.
package webhook
