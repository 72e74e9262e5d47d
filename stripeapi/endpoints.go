package stripeapi

import "slices"

// The names under which calls are limited and counted: one for each operation
// that Stripe limits by itself.
const (
	EndpointCustomersRetrieve         = "customers.retrieve"
	EndpointCustomersList             = "customers.list"
	EndpointBalanceTransactionsList   = "customer_balance_transactions.list"
	EndpointBalanceTransactionsGet    = "customer_balance_transactions.retrieve"
	EndpointBalanceTransactionsCreate = "customer_balance_transactions.create"
	EndpointBalanceTransactionsUpdate = "customer_balance_transactions.update"
	EndpointGrantsList                = "credit_grants.list"
	EndpointGrantsRetrieve            = "credit_grants.retrieve"
	EndpointGrantsCreate              = "credit_grants.create"
	EndpointGrantsUpdate              = "credit_grants.update"
	EndpointGrantsExpire              = "credit_grants.expire"
	EndpointGrantsVoid                = "credit_grants.void"
	EndpointCreditTransactionsList    = "credit_balance_transactions.list"
	EndpointCreditTransactionsGet     = "credit_balance_transactions.retrieve"
	EndpointCreditSummary             = "credit_balance_summary.retrieve"
	EndpointInvoicesRetrieve          = "invoices.retrieve"
	EndpointCreditNotesRetrieve       = "credit_notes.retrieve"
	EndpointEventsList                = "events.list"
	EndpointTestClocksList            = "test_clocks.list"
	EndpointTestClocksRetrieve        = "test_clocks.retrieve"
	EndpointWebhookEndpointsList      = "webhook_endpoints.list"
	EndpointWebhookEndpointsCreate    = "webhook_endpoints.create"
	EndpointWebhookEndpointsUpdate    = "webhook_endpoints.update"
	EndpointWebhookEndpointsDelete    = "webhook_endpoints.delete"
	EndpointEventDestinationsList     = "event_destinations.list"
	EndpointEventDestinationsCreate   = "event_destinations.create"
	EndpointEventDestinationsUpdate   = "event_destinations.update"
	EndpointEventDestinationsEnable   = "event_destinations.enable"
	EndpointEventDestinationsDelete   = "event_destinations.delete"
)

var endpoints = []string{
	EndpointCustomersRetrieve,
	EndpointCustomersList,
	EndpointBalanceTransactionsList,
	EndpointBalanceTransactionsGet,
	EndpointBalanceTransactionsCreate,
	EndpointBalanceTransactionsUpdate,
	EndpointGrantsList,
	EndpointGrantsRetrieve,
	EndpointGrantsCreate,
	EndpointGrantsUpdate,
	EndpointGrantsExpire,
	EndpointGrantsVoid,
	EndpointCreditTransactionsList,
	EndpointCreditTransactionsGet,
	EndpointCreditSummary,
	EndpointInvoicesRetrieve,
	EndpointCreditNotesRetrieve,
	EndpointEventsList,
	EndpointTestClocksList,
	EndpointTestClocksRetrieve,
	EndpointWebhookEndpointsList,
	EndpointWebhookEndpointsCreate,
	EndpointWebhookEndpointsUpdate,
	EndpointWebhookEndpointsDelete,
	EndpointEventDestinationsList,
	EndpointEventDestinationsCreate,
	EndpointEventDestinationsUpdate,
	EndpointEventDestinationsEnable,
	EndpointEventDestinationsDelete,
}

// Endpoints lists every name that a Limiter or a metric can see.
func Endpoints() []string { return slices.Clone(endpoints) }
