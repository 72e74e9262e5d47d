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
	EndpointCreditSummary             = "credit_balance_summary.retrieve"
	EndpointEventsList                = "events.list"
	EndpointTestClocksList            = "test_clocks.list"
	EndpointTestClocksRetrieve        = "test_clocks.retrieve"
	EndpointWebhookEndpointsList      = "webhook_endpoints.list"
	EndpointWebhookEndpointsCreate    = "webhook_endpoints.create"
	EndpointWebhookEndpointsUpdate    = "webhook_endpoints.update"
	EndpointWebhookEndpointsDelete    = "webhook_endpoints.delete"
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
	EndpointCreditSummary,
	EndpointEventsList,
	EndpointTestClocksList,
	EndpointTestClocksRetrieve,
	EndpointWebhookEndpointsList,
	EndpointWebhookEndpointsCreate,
	EndpointWebhookEndpointsUpdate,
	EndpointWebhookEndpointsDelete,
}

// Endpoints lists every name that a Limiter or a metric can see.
func Endpoints() []string { return slices.Clone(endpoints) }
