// Package stripesim is a stateful simulator of the part of Stripe's API that
// carries customer credit: customers, customer balance transactions, credit
// grants, credit balance transactions and summaries, events, webhook endpoints
// with signed and retried delivery, and test clocks. It keeps state in memory,
// speaks Stripe's own paths, parameters and errors under /v1/, and can be told
// to misbehave.
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
// The invoice operations stand for invoices: they do to the two ledgers what
// finalizing and voiding an invoice does, without an invoice resource.
package stripesim
