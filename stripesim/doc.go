// Package stripesim is a stateful simulator of the part of Stripe's API that
// carries customer credit: customers, customer balance transactions, credit
// grants, credit balance transactions and summaries, invoices and their items,
// prices, credit notes, events, webhook endpoints with signed and retried
// delivery, and test clocks. It keeps state in memory, speaks Stripe's own paths,
// parameters and errors under /v1/, and can be made to misbehave. A console for
// people is under /.
//
// # Control API
//
// Everything under /_sim/ steers the simulator itself. It takes and gives JSON,
// needs no key, and is never rate limited. Durations are Go duration strings
// ("250ms"); amounts are integers in the currency's smallest unit; the account
// "" is the platform's own.
//
//	GET, PUT /_sim/faults      the list of faults (see Faults)
//	GET, PUT /_sim/limits      rate limits (see Limits)
//	GET, DELETE /_sim/calls    calls by named endpoint; set to zero
//	GET /_sim/truth            every CustomerTruth as one array;
//	                           ?account= and ?customer= narrow it down
//	GET /_sim/settle?timeout=  waits until no delivery is outstanding (504 if
//	                           that takes longer; default 10s)
//	POST /_sim/traffic         starts traffic: {customers, rate, changes, seed,
//	                           accounts, silent_edits, other_currencies}
//	GET, DELETE /_sim/traffic  its status; stop it
//	GET, POST /_sim/keys       {key, state: active|revoked|restricted, deny: [..]}
//	POST /_sim/accounts        {id} adds a connected account
//	POST /_sim/invoices/apply_balance  an InvoiceUse: uses customer balance
//	POST /_sim/invoices/apply_credits  an InvoiceUse: uses billing credits
//	POST /_sim/invoices/unapply        {account, customer, invoice}: gives the balance back
//	POST /_sim/invoices/void           {account, invoice}: gives back balance and credits
//	POST /_sim/balance_transactions    a BalanceChange: a transaction of any type
//	GET /_sim/endpoints        delivery state of each webhook endpoint
//
//	POST /_sim/invoices/pay            {account, invoice, amount}: a payment of
//	                           any amount towards an open or paid invoice
//	GET, PUT /_sim/switches    the switches; PUT names those that change
//	GET, PUT /_sim/clock       {virtual, now}: a virtual clock stands still
//	POST /_sim/clock/advance   {by: "720h"} or {to: RFC 3339}: all that falls into
//	                           the interval happens, each at its time
//	GET, PUT /_sim/seed        {seed}: PUT empties the simulator and begins anew
//	GET, PUT /_sim/state       the whole state, as one JSON Lines file
//	GET /_sim/log?after=&limit=  what really happened, announced by events or not
//	GET /_sim/deliveries?event=  the webhook attempts, newest first
//	POST /_sim/endpoints/{id}/roll  {keep: "1h"}: a new signing secret
//
// The invoice operations other than pay stand for invoices: they do to the two
// ledgers what finalizing and voiding an invoice does, on an invoice that needs no
// lines and which no invoice.* event announces.
package stripesim
